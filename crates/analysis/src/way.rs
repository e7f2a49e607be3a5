//! Packets on their whole way: all tables at all hooks, tracking, translation, routing.

use tidegate_ir::{
    Field, Hook, Manip, NatSource, NatSpec, RuleId, Ruleset, TableKind, ctstate, ctstatus,
};

use crate::bdd::{Set, TooBig};
use crate::lens::{Bound, Lens, LensId};
use crate::space::Space;
use crate::surroundings::{Area, Goes, Surroundings};
use crate::walk::{Ending, Flow, Walk, join};
use crate::window::{TableAsks, Window};

/// Which packets of connections go their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The first of a connection.
    Opens,
    /// An answer to a first packet that is seen like this at the end of its way.
    Answers(LensId),
    /// A further packet of the opener.
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

/// All connection fields that a tracked packet's lens binds.
const CONNECTION: [Field; 17] = [
    Field::CtStatus,
    Field::CtDir,
    Field::CtMark,
    Field::CtProto,
    Field::CtOrigSrc,
    Field::CtOrigDst,
    Field::CtReplSrc,
    Field::CtReplDst,
    Field::CtOrigSport,
    Field::CtOrigDport,
    Field::CtReplSport,
    Field::CtReplDport,
    Field::CtExpire,
    Field::CtOrigPackets,
    Field::CtOrigBytes,
    Field::CtReplPackets,
    Field::CtReplBytes,
];

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
        let flow = vec![(trip.space.name(start), set)];
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
            let seen = self.space.name(lens);
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
        for field in CONNECTION {
            lens.set(field, opener.get(field));
        }
        lens.set(Field::CtExpire, Bound::Unknown);
        for field in [
            Field::CtOrigPackets,
            Field::CtOrigBytes,
            Field::CtReplPackets,
            Field::CtReplBytes,
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

    /// The nat table for first packets, and translation for others.
    fn translated(&mut self, hook: Hook, flow: Flow) -> Result<Flow, TooBig> {
        let (mut first, mut out) = (Flow::new(), Flow::new());
        for (seen, set) in flow {
            let lens = self.space.lens(seen);
            match (self.course, lens.get(Field::CtState)) {
                (_, Bound::Const(ctstate::NEW)) => first.push((seen, set)),
                (_, Bound::Const(ctstate::ESTABLISHED)) => {
                    let next = self.as_before(hook, &lens);
                    let next = self.space.name(next);
                    join(self.space, &mut out, (next, set))?;
                }
                (Course::Any, Bound::Of { .. }) => {
                    self.any(hook, seen, set, &mut first, &mut out)?;
                }
                _ => join(self.space, &mut out, (seen, set))?,
            }
        }
        match self.walk(TableKind::Nat, hook, first)? {
            Ok(walk) => {
                for exit in walk.endings.iter().filter(|e| e.ending.passes()) {
                    let part = (exit.seen, exit.set);
                    match exit.ending {
                        Ending::Nat(spec) => {
                            self.translate(hook, (exit.by, spec), part, &mut out)?;
                        }
                        _ => join(self.space, &mut out, part)?,
                    }
                }
                self.visited(TableKind::Nat, hook, walk);
            }
            Err(first) => {
                for part in first {
                    join(self.space, &mut out, part)?;
                }
            }
        }
        Ok(out)
    }

    /// Translation of a packet whose connection has been translated.
    fn as_before(&self, hook: Hook, lens: &Lens) -> Lens {
        let mut next = lens.clone();
        let (opener, reply) = match self.course {
            Course::Answers(opener) => (self.space.lens(opener), true),
            Course::GoesOn(opener) => (self.space.lens(opener), false),
            Course::Opens | Course::Any => return next,
        };
        let incoming = matches!(hook, Hook::Prerouting | Hook::Output);
        match (incoming, reply) {
            // The answer goes to who asked.
            (true, true) => {
                next.set(Field::Dst, Bound::same(Field::Src));
                next.set(Field::Dport, Bound::same(Field::Sport));
                self.retype(&mut next);
            }
            (true, false) => {
                next.set(Field::Dst, opener.get(Field::Dst));
                next.set(Field::Dport, opener.get(Field::Dport));
                next.dnat = opener.dnat;
                self.retype(&mut next);
            }
            (false, _) => {}
        }
        next
    }

    /// Packets of any state: first ones go through the table, those of translated
    /// connections have the addresses that their connection says.
    fn any(
        &mut self,
        hook: Hook,
        seen: LensId,
        set: Set,
        first: &mut Flow,
        out: &mut Flow,
    ) -> Result<(), TooBig> {
        if self.way.rules.table(TableKind::Nat).is_none() {
            return join(self.space, out, (seen, set));
        }
        let new = self
            .space
            .within(Field::CtState, ctstate::NEW, ctstate::NEW)?;
        let opens = self.space.bdd.and(set, new)?;
        if !opens.is_empty() {
            first.push((seen, opens));
        }
        let rest = self.space.bdd.minus(set, new)?;
        let incoming = matches!(hook, Hook::Prerouting | Hook::Output);
        let tracked = self.space.within(Field::HasCt, 1, 1)?;
        let of = self.space.bdd.and(rest, tracked)?;
        if !incoming || of.is_empty() {
            return join(self.space, out, (seen, rest));
        }
        let others = self.space.bdd.minus(rest, tracked)?;
        join(self.space, out, (seen, others))?;
        let mut left = of;
        for (dir, bit, address, port) in [
            (0, ctstatus::DST_NAT, Field::CtReplSrc, Field::CtReplSport),
            (1, ctstatus::SRC_NAT, Field::CtOrigSrc, Field::CtOrigSport),
        ] {
            let way = self.space.within(Field::CtDir, dir, dir)?;
            let status = self.space.bits(Field::CtStatus, bit.into())?;
            let translated = self.space.bdd.and(way, status)?;
            let part = self.space.bdd.and(left, translated)?;
            left = self.space.bdd.minus(left, translated)?;
            let mut lens = (*self.space.lens(seen)).clone();
            lens.set(Field::Dst, Bound::same(address));
            lens.set(Field::Dport, Bound::same(port));
            self.retype(&mut lens);
            let next = self.space.name(lens);
            join(self.space, out, (next, part))?;
        }
        join(self.space, out, (seen, left))
    }

    /// What a translation makes of first packets.
    fn translate(
        &mut self,
        hook: Hook,
        (by, spec): (RuleId, NatSpec),
        (seen, set): (LensId, Set),
        out: &mut Flow,
    ) -> Result<(), TooBig> {
        let lens = self.space.lens(seen);
        let (address, port) = match spec.manip {
            Manip::Src => (Field::Src, Field::Sport),
            Manip::Dst => (Field::Dst, Field::Dport),
        };
        let mut targets: Vec<(Bound, Set)> = Vec::new();
        match spec.addr {
            NatSource::Keep => targets.push((lens.get(address), set)),
            NatSource::Range(lo, hi) if hi.saturating_sub(lo) < TARGETS => {
                targets.extend((lo..=hi).map(|a| (Bound::Const(a), set)));
            }
            NatSource::Range(..) => targets.push((Bound::Unknown, set)),
            NatSource::Network { addr, mask } => targets.push((
                match lens.get(address) {
                    Bound::Const(old) => Bound::Const(old & !mask | addr),
                    Bound::Of { from, keep, xor } => Bound::Of {
                        from,
                        keep: keep & !mask,
                        xor: xor & !mask ^ addr,
                    },
                    other @ (Bound::Absent | Bound::Unknown) => other,
                },
                set,
            )),
            NatSource::OutInterface => targets.push((Bound::Unknown, set)),
            NatSource::InInterface => self.redirected(hook, &lens, set, &mut targets)?,
        }
        for (target, set) in targets {
            let mut next = (*lens).clone();
            next.set(address, target);
            if let Some((lo, hi)) = spec.ports {
                let one = lo == hi && spec.base_port.is_none();
                let to = match one {
                    true => Bound::Const(lo.into()),
                    false => Bound::Unknown,
                };
                next.set(port, to);
            } else if spec.manip == Manip::Src {
                // Kept if nobody else has it.
                next.set(port, Bound::Unknown);
            }
            let bit = match spec.manip {
                Manip::Src => {
                    next.snat = Some((by, spec));
                    next.set(Field::CtReplDst, target);
                    next.set(Field::CtReplDport, next.get(Field::Sport));
                    ctstatus::SRC_NAT
                }
                Manip::Dst => {
                    next.dnat = Some((by, spec));
                    next.set(Field::CtReplSrc, target);
                    next.set(Field::CtReplSport, next.get(Field::Dport));
                    ctstatus::DST_NAT
                }
            };
            if let Some(status) = next.value(Field::CtStatus) {
                next.set(Field::CtStatus, Bound::Const(status | u128::from(bit)));
            }
            self.retype(&mut next);
            let next = self.space.name(next);
            join(self.space, out, (next, set))?;
        }
        Ok(())
    }

    /// This host's own address, where a packet came in.
    fn redirected(
        &mut self,
        hook: Hook,
        lens: &Lens,
        set: Set,
        targets: &mut Vec<(Bound, Set)>,
    ) -> Result<(), TooBig> {
        let v4 = self.way.rules.family == tidegate_wire::Family::V4;
        if hook == Hook::Output {
            let own = if v4 { 0x7f00_0001 } else { 1 };
            targets.push((Bound::Const(own), set));
            return Ok(());
        }
        let known = self
            .way
            .host
            .filter(|_| lens.get(Field::InName) == Bound::same(Field::InName));
        let Some(host) = known else {
            targets.push((Bound::Unknown, set));
            return Ok(());
        };
        let mut rest = set;
        for &(name, address) in &host.own {
            let by = self.space.within(Field::InName, name, name)?;
            let here = self.space.bdd.and(rest, by)?;
            rest = self.space.bdd.minus(rest, by)?;
            if !here.is_empty() {
                targets.push((Bound::Const(address), here));
            }
        }
        if !rest.is_empty() {
            targets.push((Bound::Unknown, rest));
        }
        Ok(())
    }

    /// What rules see of addresses that have changed.
    fn retype(&self, lens: &mut Lens) {
        let types = [
            (
                Field::Src,
                Field::SrcType,
                [Field::SrcTypeIn, Field::SrcTypeOut],
            ),
            (
                Field::Dst,
                Field::DstType,
                [Field::DstTypeIn, Field::DstTypeOut],
            ),
        ];
        for (address, plain, others) in types {
            let kind = match lens.get(address) {
                Bound::Const(a) => self
                    .way
                    .host
                    .and_then(|h| h.area(a))
                    .map_or(Bound::Unknown, |area| Bound::Const(area.kind)),
                bound if bound == Bound::same(Field::Src) => Bound::same(Field::SrcType),
                bound if bound == Bound::same(Field::Dst) => Bound::same(Field::DstType),
                _ => Bound::Unknown,
            };
            lens.set(plain, kind);
            for field in others {
                if lens.get(address) != Bound::same(address) {
                    lens.set(field, Bound::Unknown);
                }
            }
        }
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
                        let next = self.out_of(seen, Bound::Const(name));
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
                let next = self.out_of(seen, Bound::Const(name));
                join(self.space, on, (next, set))
            }
            Goes::Out(_) | Goes::Nowhere => {
                self.end(Fate::Nowhere, vec![(seen, set)]);
                Ok(())
            }
        }
    }

    fn out_of(&mut self, seen: LensId, name: Bound) -> LensId {
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
        let next = self.out_of(seen, name);
        join(self.space, on, (next, set))
    }
}

/// An answer to a packet that was seen so in the end.
fn swapped(opener: &Lens) -> Lens {
    let mut lens = Lens::default();
    let early = |translated: bool, own: Field| match translated {
        true => Bound::Unknown,
        false => Bound::same(own),
    };
    let snat = opener.snat.is_some();
    lens.set(Field::Proto, opener.get(Field::Proto));
    lens.set(Field::Src, opener.get(Field::Dst));
    lens.set(Field::Sport, opener.get(Field::Dport));
    lens.set(
        Field::Dst,
        match snat {
            true => opener.get(Field::Src),
            false => Bound::same(Field::Src),
        },
    );
    lens.set(Field::Dport, early(snat, Field::Sport));
    lens.set(Field::SrcType, opener.get(Field::DstType));
    lens.set(Field::DstType, early(snat, Field::SrcType));
    // Nobody knows the link it comes from.
    for field in [
        Field::Tos,
        Field::Ttl,
        Field::Length,
        Field::IcmpTypeCode,
        Field::SrcMac,
        Field::PktType,
        Field::TcpMss,
    ] {
        lens.set(field, Bound::Unknown);
    }
    if let Some(icmp) = opener.value(Field::IcmpTypeCode).and_then(echoed) {
        lens.set(Field::IcmpTypeCode, Bound::Const(icmp));
    }
    lens.set(Field::InName, opener.get(Field::OutName));
    lens.set(Field::OutName, Bound::same(Field::InName));
    lens
}

/// The answer to an echo request.
const fn echoed(kind: u128) -> Option<u128> {
    match kind {
        0x0800 => Some(0),
        0x8000 => Some(0x8100),
        _ => None,
    }
}

fn untracked(lens: &mut Lens) {
    lens.set(Field::HasCt, Bound::Const(0));
    for field in CONNECTION {
        lens.set(field, Bound::Absent);
    }
    lens.set(Field::CtMasterSrc, Bound::Absent);
    lens.set(Field::CtMasterHelper, Bound::Absent);
}

/// A connection that this packet opens.
fn opened(lens: &mut Lens) {
    let (src, dst) = (lens.get(Field::Src), lens.get(Field::Dst));
    let (sport, dport) = (lens.get(Field::Sport), lens.get(Field::Dport));
    for (field, bound) in [
        (Field::HasCt, Bound::Const(1)),
        (Field::CtState, Bound::Const(ctstate::NEW)),
        (Field::CtStatus, Bound::Const(0)),
        (Field::CtDir, Bound::Const(0)),
        (Field::CtMark, Bound::Const(0)),
        (Field::CtProto, Bound::same(Field::Proto)),
        (Field::CtOrigSrc, src),
        (Field::CtMasterSrc, src),
        (Field::CtReplDst, src),
        (Field::CtOrigDst, dst),
        (Field::CtReplSrc, dst),
        (Field::CtOrigSport, sport),
        (Field::CtReplDport, sport),
        (Field::CtOrigDport, dport),
        (Field::CtReplSport, dport),
        (Field::CtExpire, Bound::Unknown),
        (Field::CtOrigPackets, Bound::Unknown),
        (Field::CtOrigBytes, Bound::Unknown),
        (Field::CtReplPackets, Bound::Unknown),
        (Field::CtReplBytes, Bound::Unknown),
    ] {
        lens.set(field, bound);
    }
}
