//! Packets on their whole way: all tables at all hooks, tracking, translation, routing.

mod translation;

use tidegate_ir::{Field, Hook, NatSource, RuleId, Ruleset, TableKind, ctstate, ctstatus};

use crate::bdd::{Set, TooBig};
use crate::lens::{Bound, Lens, LensId};
use crate::space::Space;
use crate::surroundings::{Area, Goes, Surroundings};
use crate::tracked::{CONNECTION, opened, swapped, unanswered, untracked};
use crate::walk::{Ending, Flow, Walk, join};
use crate::window::{TableAsks, Window};

/// Which packets of connections go their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The first of a connection.
    Opens,
    /// An answer to a first packet that is seen like this at the end of its way.
    Answers(LensId),
    /// A further packet of the opener, which is seen like this; as untracked, if its
    /// connection is tracked but its answers are not.
    GoesOn(LensId),
    /// Any packet of any connection or none. What tracking says of it is what the packet
    /// at the start says.
    Any,
}

/// Where packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// They are received.
    Received,
    /// This host sends them.
    Sent,
}

/// How packets end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// At a socket of this host.
    Here,
    /// They leave.
    Leaves,
    /// A rule or policy stops them.
    Stopped(RuleId, Ending),
    /// Routing does not know where to.
    Nowhere,
}

/// Packets that came to an end.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// How.
    pub fate: Fate,
    /// The last hook they were at.
    pub hook: Hook,
    /// How they are seen then.
    pub seen: LensId,
    /// Which.
    pub set: Set,
}

/// A table that packets went through.
#[derive(Debug)]
pub struct Visit {
    /// Table.
    pub table: TableKind,
    /// Hook.
    pub hook: Hook,
    /// What happened.
    pub walk: Walk,
}

/// The whole way of packets.
#[derive(Debug, Default)]
pub struct Journey {
    /// All ends.
    pub ends: Vec<End>,
    /// Tables in order.
    pub visits: Vec<Visit>,
}

impl Journey {
    /// Packets that arrive, by how they are seen then.
    pub fn arrived(&self) -> impl Iterator<Item = &End> {
        let arrived = |e: &&End| matches!(e.fate, Fate::Here | Fate::Leaves);
        self.ends.iter().filter(arrived)
    }

    /// Rules that may come out either way for packets in `set`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn doubts(&self, space: &mut Space, set: Set) -> Result<Vec<RuleId>, TooBig> {
        let mut rules = Vec::new();
        for (rule, of) in self.visits.iter().flat_map(|v| &v.walk.doubts) {
            if !rules.contains(rule) && !space.bdd.and(*of, set)?.is_empty() {
                rules.push(*rule);
            }
        }
        Ok(rules)
    }
}

/// What is known about all rules of a ruleset before anything is asked.
#[derive(Debug)]
pub struct Prepared([TableAsks; 5]);

impl Prepared {
    /// For these rules.
    #[must_use]
    pub fn new(rules: &Ruleset) -> Self {
        Prepared(TableKind::ALL.map(|kind| {
            rules
                .table(kind)
                .map_or_else(TableAsks::default, TableAsks::of)
        }))
    }
}

/// The rules and the host that packets meet.
#[derive(Clone, Copy, Debug)]
pub struct Way<'r> {
    /// Rules.
    pub rules: &'r Ruleset,
    /// What is known about them.
    pub prepared: &'r Prepared,
    /// The host; without it packets may be for it or not, and leave by any interface.
    pub host: Option<&'r Surroundings>,
    /// Where all packets are.
    pub window: Window,
}

/// Hooks before and after routing, and what comes last.
const IN: [TableKind; 3] = [TableKind::Mangle, TableKind::Filter, TableKind::Security];

/// The type of this host's addresses (`RTN_LOCAL`).
const LOCAL: u128 = 2;

/// Most targets of one translation that are followed each.
const TARGETS: u128 = 16;

struct Trip<'r, 's> {
    space: &'s mut Space,
    way: Way<'r>,
    course: Course,
    journey: Journey,
}

impl<'r> Way<'r> {
    /// Sends packets on their way. All packets in `set` have the `fixed` values; that only
    /// makes it quicker.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn send(
        self,
        space: &mut Space,
        course: Course,
        origin: Origin,
        set: Set,
        fixed: &[(Field, u128)],
    ) -> Result<Journey, TooBig> {
        let mut trip = Trip {
            space,
            way: self,
            course,
            journey: Journey::default(),
        };
        let mut start = trip.start(origin);
        if !matches!(course, Course::Answers(_)) {
            for &(field, value) in fixed {
                start.set(field, Bound::Const(value));
            }
        }
        let flow = vec![(trip.space.name(start)?, set)];
        match origin {
            Origin::Received => trip.received(flow)?,
            Origin::Sent => trip.sent(flow)?,
        }
        Ok(trip.journey)
    }
}

impl Trip<'_, '_> {
    /// What packets are before anything has happened to them.
    fn start(&self, origin: Origin) -> Lens {
        let mut lens = Lens::default();
        let is_answer = matches!(self.course, Course::Answers(_));
        if let Course::Answers(opener) = self.course {
            let opener = self.space.lens(opener);
            lens = swapped(&opener);
        }
        if self.course != Course::Any {
            lens.set(Field::FragOff, Bound::Const(0));
            lens.set(
                Field::TcpFlags,
                Bound::Const(match self.course {
                    Course::Opens | Course::Any => 0x02,
                    Course::Answers(_) => 0x12,
                    Course::GoesOn(_) => 0x10,
                }),
            );
        }
        match origin {
            Origin::Received => {
                lens.set(Field::Mark, Bound::Const(0));
                lens.set(Field::OutName, Bound::Const(0));
                if !is_answer {
                    lens.set(Field::InName, Bound::same(Field::InName));
                }
            }
            Origin::Sent => {
                if self.course != Course::Any {
                    lens.set(Field::Mark, Bound::Const(0));
                }
                lens.set(Field::InName, Bound::Const(0));
                if !is_answer {
                    lens.set(Field::OutName, Bound::same(Field::OutName));
                }
            }
        }
        lens.set(Field::CtState, Bound::Const(ctstate::INVALID));
        untracked(&mut lens);
        lens
    }

    fn received(&mut self, flow: Flow) -> Result<(), TooBig> {
        let flow = self.tracked(Hook::Prerouting, flow)?;
        let flow = self.table(TableKind::Mangle, Hook::Prerouting, flow)?;
        let flow = self.translated(Hook::Prerouting, flow)?;
        let (here, on) = self.route(flow)?;
        let here = self.tables(&IN, Hook::Input, here)?;
        let here = self.translated(Hook::Input, here)?;
        self.end(Fate::Here, here);
        let on = self.tables(&IN, Hook::Forward, on)?;
        self.leave(on)
    }

    fn sent(&mut self, flow: Flow) -> Result<(), TooBig> {
        let flow = match self.course {
            Course::Answers(_) => self.way_back(flow)?,
            Course::Opens | Course::GoesOn(_) | Course::Any => flow,
        };
        let flow = self.tracked(Hook::Output, flow)?;
        let flow = self.table(TableKind::Mangle, Hook::Output, flow)?;
        let flow = self.translated(Hook::Output, flow)?;
        let flow = self.tables(&IN[1..], Hook::Output, flow)?;
        self.leave(flow)
    }

    fn leave(&mut self, flow: Flow) -> Result<(), TooBig> {
        let flow = self.table(TableKind::Mangle, Hook::Postrouting, flow)?;
        let flow = self.translated(Hook::Postrouting, flow)?;
        self.end(Fate::Leaves, flow);
        Ok(())
    }

    fn end(&mut self, fate: Fate, flow: Flow) {
        let hook = match fate {
            Fate::Here => Hook::Input,
            Fate::Leaves => Hook::Postrouting,
            Fate::Nowhere | Fate::Stopped(..) => Hook::Prerouting,
        };
        let end = |(seen, set)| End {
            fate,
            hook,
            seen,
            set,
        };
        let ends = flow.into_iter().map(end);
        self.journey.ends.extend(ends);
    }

    fn tables(&mut self, tables: &[TableKind], hook: Hook, mut flow: Flow) -> Result<Flow, TooBig> {
        for table in tables {
            flow = self.table(*table, hook, flow)?;
        }
        Ok(flow)
    }

    /// Sends packets through a table, if it is there; those that pass.
    fn table(&mut self, kind: TableKind, hook: Hook, flow: Flow) -> Result<Flow, TooBig> {
        match self.walk(kind, hook, flow)? {
            Ok(walk) => {
                let passed = walk.passed(self.space)?;
                self.visited(kind, hook, walk);
                Ok(passed)
            }
            Err(flow) => Ok(flow),
        }
    }

    fn walk(
        &mut self,
        kind: TableKind,
        hook: Hook,
        flow: Flow,
    ) -> Result<Result<Walk, Flow>, TooBig> {
        let table = self.way.rules.table(kind);
        let Some((table, entry)) = table.and_then(|t| Some((t, t.base_chain(hook)?))) else {
            return Ok(Err(flow));
        };
        if flow.is_empty() {
            return Ok(Err(flow));
        }
        let asks = &self.way.prepared.0[kind as usize];
        let of = (&self.way.window, asks);
        Walk::in_window(self.space, table, entry, flow, of).map(Ok)
    }

    fn visited(&mut self, table: TableKind, hook: Hook, walk: Walk) {
        for exit in walk.endings.iter().filter(|e| !e.ending.passes()) {
            self.journey.ends.push(End {
                fate: Fate::Stopped(exit.by, exit.ending),
                hook,
                seen: exit.seen,
                set: exit.set,
            });
        }
        self.journey.visits.push(Visit { table, hook, walk });
    }

    /// Raw table and connection tracking.
    fn tracked(&mut self, hook: Hook, flow: Flow) -> Result<Flow, TooBig> {
        let mut out = Flow::new();
        for (seen, set) in self.table(TableKind::Raw, hook, flow)? {
            let mut lens = (*self.space.lens(seen)).clone();
            if lens.value(Field::CtState) != Some(ctstate::UNTRACKED) {
                self.look_up(&mut lens);
            }
            let seen = self.space.name(lens)?;
            join(self.space, &mut out, (seen, set))?;
        }
        Ok(out)
    }

    /// What tracking finds.
    fn look_up(&mut self, lens: &mut Lens) {
        let (opener, reply) = match self.course {
            Course::Any => {
                for field in CONNECTION.into_iter().chain([
                    Field::HasCt,
                    Field::CtState,
                    Field::CtMasterSrc,
                    Field::CtMasterHelper,
                ]) {
                    lens.set(field, Bound::same(field));
                }
                return;
            }
            Course::Opens => {
                opened(lens);
                return;
            }
            Course::Answers(opener) => (opener, true),
            Course::GoesOn(opener) => (opener, false),
        };
        let opener = self.space.lens(opener);
        if opener.value(Field::HasCt) != Some(1) {
            // What nobody tracked when it opened opens now.
            opened(lens);
            return;
        }
        if !reply && opener.value(Field::CtState) == Some(ctstate::UNTRACKED) {
            unanswered(lens, &opener);
            return;
        }
        for field in CONNECTION {
            lens.set(field, opener.get(field));
        }
        lens.set(Field::CtExpire, Bound::Unknown);
        for field in [
            Field::CtOrigPackets,
            Field::CtOrigBytes,
            Field::CtReplPackets,
            Field::CtReplBytes,
            Field::CtLabels,
        ] {
            lens.set(field, Bound::Unknown);
        }
        lens.set(Field::CtMasterSrc, opener.get(Field::CtMasterSrc));
        lens.set(Field::CtMasterHelper, Bound::Absent);
        lens.set(Field::HasCt, Bound::Const(1));
        lens.set(Field::CtDir, Bound::Const(u128::from(reply)));
        lens.set(Field::CtState, Bound::Const(ctstate::ESTABLISHED));
        let status = opener.value(Field::CtStatus).map_or(Bound::Unknown, |s| {
            let seen = ctstatus::SEEN_REPLY | ctstatus::CONFIRMED;
            Bound::Const(s | u128::from(seen))
        });
        lens.set(Field::CtStatus, status);
    }

    /// Packets for this host, and those that go on.
    fn route(&mut self, flow: Flow) -> Result<(Flow, Flow), TooBig> {
        let (mut here, mut on) = (Flow::new(), Flow::new());
        for (seen, set) in flow {
            let lens = self.space.lens(seen);
            let to = lens.get(Field::Dst);
            match (self.way.host, to) {
                (Some(host), Bound::Const(address)) => {
                    let goes = host.area(address).map_or(Goes::Nowhere, |a| a.goes);
                    self.go(host, goes, (seen, set), &mut here, &mut on)?;
                }
                (Some(host), Bound::Of { from, keep, xor: 0 })
                    if keep == crate::space::full(from) =>
                {
                    for Area {
                        first, last, goes, ..
                    } in &host.areas
                    {
                        let part = self.space.within(from, *first, *last)?;
                        let part = self.space.bdd.and(part, set)?;
                        self.go(host, *goes, (seen, part), &mut here, &mut on)?;
                    }
                }
                (Some(host), to) if host.around(to).is_some() => {
                    let goes = host.around(to).map_or(Goes::Nowhere, |a| a.goes);
                    self.go(host, goes, (seen, set), &mut here, &mut on)?;
                }
                _ => self.guess(seen, set, &lens, &mut here, &mut on)?,
            }
        }
        Ok((here, on))
    }

    /// Where answers of this host leave.
    fn way_back(&mut self, flow: Flow) -> Result<Flow, TooBig> {
        let Some(host) = self.way.host else {
            return Ok(flow);
        };
        let mut out = Flow::new();
        for (seen, set) in flow {
            for area in &host.areas {
                let part = self.space.within(Field::Src, area.first, area.last)?;
                let part = self.space.bdd.and(part, set)?;
                match area.goes {
                    _ if part.is_empty() => {}
                    Goes::Out(name) => {
                        let next = self.out_of(seen, Bound::Const(name))?;
                        join(self.space, &mut out, (next, part))?;
                    }
                    Goes::Here | Goes::Nowhere => self.end(Fate::Nowhere, vec![(seen, part)]),
                }
            }
        }
        Ok(out)
    }

    fn go(
        &mut self,
        host: &Surroundings,
        goes: Goes,
        (seen, set): (LensId, Set),
        here: &mut Flow,
        on: &mut Flow,
    ) -> Result<(), TooBig> {
        if set.is_empty() {
            return Ok(());
        }
        match goes {
            Goes::Here => join(self.space, here, (seen, set)),
            Goes::Out(name) if host.forwards => {
                let next = self.out_of(seen, Bound::Const(name))?;
                join(self.space, on, (next, set))
            }
            Goes::Out(_) | Goes::Nowhere => {
                self.end(Fate::Nowhere, vec![(seen, set)]);
                Ok(())
            }
        }
    }

    fn out_of(&mut self, seen: LensId, name: Bound) -> Result<LensId, TooBig> {
        let mut next = (*self.space.lens(seen)).clone();
        next.set(Field::OutName, name);
        self.space.name(next)
    }

    /// Where packets go when nobody knows the host, or an address is not known.
    fn guess(
        &mut self,
        seen: LensId,
        set: Set,
        lens: &Lens,
        here: &mut Flow,
        on: &mut Flow,
    ) -> Result<(), TooBig> {
        let redirected = lens
            .dnat
            .is_some_and(|(_, spec)| spec.addr == NatSource::InInterface);
        // A fixed target is another host.
        let elsewhere = lens.dnat.is_some() && !redirected && self.way.host.is_none();
        let known =
            self.way.host.is_none() && lens.get(Field::DstType) == Bound::same(Field::DstType);
        let own = match known && self.space.has(Field::DstType) {
            true => self.space.within(Field::DstType, LOCAL, LOCAL)?,
            false => Set::ALL,
        };
        if !elsewhere {
            let set = self.space.bdd.and(set, own)?;
            join(self.space, here, (seen, set))?;
        }
        if redirected {
            return Ok(());
        }
        let set = match own == Set::ALL {
            true => set,
            false => self.space.bdd.minus(set, own)?,
        };
        let answer = matches!(self.course, Course::Answers(_));
        let name = match (answer, self.way.host.is_some()) {
            // To where the opener came from.
            (true, _) => Bound::same(Field::InName),
            (false, true) => Bound::Unknown,
            (false, false) => Bound::same(Field::OutName),
        };
        let next = self.out_of(seen, name)?;
        join(self.space, on, (next, set))
    }
}
