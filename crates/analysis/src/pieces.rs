//! Rules one by one, where all packets at once are too many.
//!
//! A rule that some single packet matches is alive, one whose packets one earlier rule takes is
//! dead. Of the others the packets that they ask for are looked at: without those that earlier rules
//! of the chain take, and if that does not tell, on their whole way. Only rules whose boxes meet
//! that of the rule are looked at with it.

mod search;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tidegate_ir::{Chain, ChainId, Cond, Field, Hook, Rule, RuleId, Ruleset, TableKind, ctstate};
use tidegate_wire::Family;

use crate::bdd::{Mark, Set, TooBig};
use crate::cover::{Near, Rows, Steady, cover, takes};
use crate::example::Facts;
use crate::lens::LensId;
use crate::possible::possible;
use crate::space::Space;
use crate::walk::{Cases, Reach, Walk};
use crate::window::{TableAsks, Window, choices};
use search::Search;

/// Single packets that are tried for a rule.
const TRIES: u64 = 4;
/// Steps of work for a single packet.
const ATTEMPT: u64 = 50_000;
/// Steps of work for all packets of one rule, in each of two ways to look at them.
const STEPS: u64 = 200_000;
/// Nodes after which diagrams are thrown away.
const NODES: usize = 400_000;
/// Boxes that are compared.
const COMPARED: u64 = 1_000_000_000;
/// Rules that are named as taking another one's packets.
const NAMED: usize = 6;

/// What is known about a rule.
#[derive(Debug)]
pub enum Piece {
    /// Packets of connections match it.
    Alive,
    /// Earlier rules of its chain take all of its packets.
    Taken(Taken),
    /// Only packets without a connection match it, in these states; earlier rules take the others.
    Odd(Taken, Vec<u128>),
    /// What becomes of those packets that this one asks for.
    All(Followed),
    /// It is not known whether packets match.
    Unknown(Why),
}

/// Who takes a rule's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Positions in the chain, in order.
    pub by: Vec<usize>,
    /// Whether these are all that it takes.
    pub complete: bool,
    /// Whether some of the packets are dropped by the way (`hotdrop`), whatever the verdicts.
    pub drops: bool,
}

/// Why something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The rule and those around it tell too many combinations of packets apart.
    Combinations,
    /// The work for all rules together was used up.
    Work,
}

impl Why {
    /// A sentence without its end.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Why::Combinations => {
                "with the rules around them they tell too many combinations of packets apart"
            }
            Why::Work => "there are too many rules, and the work for all of them was used up",
        }
    }
}

/// Some packets on their way through a table, over all its hooks.
#[derive(Debug, Default)]
pub struct Followed {
    /// What gets to each rule; rules that are not here match none of the packets.
    pub reach: BTreeMap<RuleId, Reach>,
    /// What enters each chain.
    pub entered: BTreeMap<ChainId, Set>,
}

impl Followed {
    /// Adds what a walk has found.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn add(&mut self, space: &mut Space, walk: &Walk) -> Result<(), TooBig> {
        for (id, reach) in &walk.reach {
            match self.reach.get_mut(id) {
                None => {
                    self.reach.insert(*id, *reach);
                }
                Some(known) => {
                    known.comes = space.bdd.or(known.comes, reach.comes)?;
                    known.matches = space.bdd.or(known.matches, reach.matches)?;
                }
            }
        }
        for (chain, set) in &walk.entered {
            let known = self.entered.get(chain).copied().unwrap_or(Set::EMPTY);
            self.entered.insert(*chain, space.bdd.or(known, *set)?);
        }
        Ok(())
    }
}

/// A table whose rules are looked at one by one.
pub struct Pieces {
    rules: Arc<Ruleset>,
    table: TableKind,
    entries: Vec<(Hook, ChainId)>,
    asks: TableAsks,
    steady: Steady,
    rows: Rows,
    /// Boxes that may still be compared.
    compared: u64,
    /// Sets that were there before.
    mark: Mark,
    alive: HashSet<RuleId>,
    /// All packets at each entry.
    starts: Vec<Set>,
    cases: Cases,
    /// Steps of work left for all rules together.
    steps: u64,
    /// Steps that the last question took.
    spent: u64,
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces")
            .field("alive", &self.alive.len())
            .finish_non_exhaustive()
    }
}

impl Pieces {
    /// Of one table, with at most `steps` steps of work. Sets that `space` has now stay.
    #[must_use]
    pub fn new(space: &Space, rules: Arc<Ruleset>, kind: TableKind, steps: u64) -> Self {
        let table = rules.table(kind);
        let asks = table.map_or_else(TableAsks::default, TableAsks::of);
        let steady = table.map_or_else(Steady::default, Steady::of);
        // Where there are no rules there is nothing to ask.
        let entry = |h: &Hook| {
            let entry = table?.base_chain(*h)?;
            let chain = table?.chain(entry)?;
            (!chain.rules.is_empty()).then_some((*h, entry))
        };
        Pieces {
            table: kind,
            entries: kind.hooks().iter().filter_map(entry).collect(),
            rows: table.map_or_else(Rows::default, |t| Rows::of(t, &asks, space, &steady)),
            compared: COMPARED,
            mark: space.bdd.mark(),
            asks,
            steady,
            rules: rules.clone(),
            alive: HashSet::new(),
            starts: Vec::new(),
            cases: Cases::new(),
            steps,
            spent: 0,
        }
    }

    /// What is known about the rule at a position of a chain. Sets made since [`new`](Self::new) are
    /// thrown away now and then; those of one answer last until the next.
    pub fn ask(&mut self, space: &mut Space, chain: ChainId, index: usize) -> Piece {
        let rules = self.rules.clone();
        let table = rules.table(self.table);
        let found = table.and_then(|t| Some((t.chain(chain)?, t.chain(chain)?.rules.get(index)?)));
        let Some((list, rule)) = found else {
            return Piece::Unknown(Why::Combinations);
        };
        if self.alive.contains(&rule.id) {
            return Piece::Alive;
        }
        let Some(left) = self.compared.checked_sub(self.rows.count() as u64) else {
            return Piece::Unknown(Why::Work);
        };
        self.compared = left;
        let place = (chain.0 as usize, index);
        let near = self.rows.near(place, list.base.is_some());
        if let Some(taken) = self.covered(list, &near[place.0], place) {
            return Piece::Taken(taken);
        }
        for at in 0..TRIES {
            let Ok(()) = self.attempt(space, rule, at, &near) else {
                break;
            };
            if self.alive.contains(&rule.id) {
                return Piece::Alive;
            }
        }
        if self.steps == 0 {
            return Piece::Unknown(Why::Work);
        }
        match self.counted(space, |p, s| p.without_taken(s, list, place, &near)) {
            Ok(Some(piece)) => return piece,
            Ok(None) => {}
            // The whole way is longer still.
            Err(TooBig) => return Piece::Unknown(Why::Combinations),
        }
        let Some(window) = self.asks.get(rule.id).map(|a| a.window(space)) else {
            return Piece::Unknown(Why::Combinations);
        };
        match self.counted(space, |p, s| p.follow(s, &window, &near, STEPS)) {
            Ok(reach) => Piece::All(reach),
            Err(TooBig) => Piece::Unknown(Why::Combinations),
        }
    }

    /// Work that counts; single packets are cheap.
    fn counted<T>(
        &mut self,
        space: &mut Space,
        work: impl FnOnce(&mut Self, &mut Space) -> Result<T, TooBig>,
    ) -> Result<T, TooBig> {
        self.spent = 0;
        let done = work(self, space);
        self.steps -= self.spent.min(self.steps);
        done
    }

    /// One earlier rule that takes everything.
    fn covered(&self, list: &Chain, near: &[u32], (chain, index): (usize, usize)) -> Option<Taken> {
        let rule = list.rules.get(index)?;
        if rule.cond.iter().any(|c| *c == Cond::Const(false)) {
            return None;
        }
        let earlier = near.iter().map(|n| *n as usize).filter(|n| *n < index);
        let earlier = earlier.filter(|n| self.rows.around(chain, *n, index));
        let mut dropping = None;
        for at in earlier {
            let Some(other) = list.rules.get(at).filter(|r| takes(r)) else {
                continue;
            };
            match cover(&other.cond, &rule.cond, &self.steady) {
                Some(found) if !found.drops => {
                    return Some(Taken {
                        by: vec![at],
                        complete: true,
                        drops: false,
                    });
                }
                Some(_) => dropping = dropping.or(Some(at)),
                None => {}
            }
        }
        dropping.map(|at| Taken {
            by: vec![at],
            complete: true,
            drops: true,
        })
    }

    /// Takes one packet after the other out of those that a rule asks for, finds an earlier rule of its
    /// chain that takes it, the widest first, and goes on with what that rule leaves, until a packet
    /// is left that matches, or none.
    fn without_taken(
        &mut self,
        space: &mut Space,
        list: &Chain,
        place: (usize, usize),
        near: &Near,
    ) -> Result<Option<Piece>, TooBig> {
        let Some(rule) = list
            .rules
            .get(place.1)
            .filter(|r| self.steady.covers(&r.cond))
        else {
            return Ok(None);
        };
        self.begin(space, STEPS)?;
        let mut all = Set::EMPTY;
        for start in &self.starts {
            all = space.bdd.or(all, *start)?;
        }
        let holds = space.rule(&rule.cond)?.holds;
        let own = space.bdd.and(all, holds)?;
        if own.is_empty() {
            return Ok(None);
        }
        let mut search = Search::new(own, self.takers(list, place, near));
        let plain = space.within(Field::CtState, ctstate::ESTABLISHED, ctstate::NEW)?;
        let mut odd = Vec::new();
        let classes = [None, Some(ctstate::INVALID), Some(ctstate::UNTRACKED)];
        for class in classes {
            let among = match class {
                None => plain,
                Some(state) => space.within(Field::CtState, state, state)?,
            };
            let Some(packet) = search.packet(space, list, among)? else {
                continue;
            };
            if !self.arrives(space, rule, &packet, near)? {
                // Something outside of the chain takes it.
                return Ok(None);
            }
            match class {
                None => return Ok(Some(Piece::Alive)),
                Some(state) => odd.push(state),
            }
        }
        self.spent += STEPS - space.bdd.allowed().min(STEPS);
        let taken = search.named(space, list, own)?;
        Ok(Some(match odd.is_empty() {
            true => Piece::Taken(taken),
            false => Piece::Odd(taken, odd),
        }))
    }

    /// Earlier rules of a chain that take packets and can be asked for a single one, the widest
    /// first.
    fn takers(&self, list: &Chain, (chain, index): (usize, usize), near: &Near) -> Vec<usize> {
        let mut all: Vec<usize> = near[chain].iter().map(|n| *n as usize).collect();
        all.retain(|at| {
            let rule = list.rules.get(*at).filter(|_| *at < index);
            rule.is_some_and(|r| takes(r) && self.steady.covers(&r.cond))
        });
        all.sort_by_cached_key(|at| std::cmp::Reverse(self.rows.volume((chain, *at))));
        all
    }

    /// Whether a packet gets to a rule and matches it.
    fn arrives(
        &mut self,
        space: &mut Space,
        rule: &Rule,
        packet: &Facts,
        near: &Near,
    ) -> Result<bool, TooBig> {
        let mut window = Window::ALL;
        for (field, value) in &packet.values {
            window.narrow(space, *field, *value, *value);
        }
        for at in 0..self.entries.len() {
            let set = window.packets(space, self.starts[at])?;
            let alike: Vec<Field> = packet.values.keys().copied().collect();
            let alike = space.like(packet, &alike)?;
            let set = space.bdd.and(set, alike)?;
            if set.is_empty() {
                continue;
            }
            let walk = self.through(space, (at, set), &window, near)?;
            let reach = walk.and_then(|w| w.reach.get(&rule.id).copied());
            if reach.is_some_and(|r| !r.matches.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Follows packets around a single one that the rule asks for.
    fn attempt(
        &mut self,
        space: &mut Space,
        rule: &Rule,
        at: u64,
        near: &Near,
    ) -> Result<(), TooBig> {
        let mut random =
            (u64::from(rule.id.0) * TRIES + at).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            random.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        let top = match self.rules.family {
            Family::V4 => u128::from(u32::MAX),
            Family::V6 => u128::MAX,
        };
        let wanted = choices(&rule.cond);
        // TCP, UDP, and something that has no ports to be stopped by.
        let proto = [6, 17, 47][at as usize % 3];
        let mut window = Window::ALL;
        window.narrow(space, Field::FragOff, 0, 0);
        window.narrow(space, Field::L4Len, 64, 64);
        for (field, all) in [
            (Field::Proto, (proto, proto)),
            (Field::Dport, (0, 0xffff)),
            (Field::Sport, (1024, 0xffff)),
            (Field::Src, (0, top)),
            (Field::Dst, (0, top)),
        ] {
            let asked = wanted.iter().filter(|w| w.0 == field);
            let (mut lo, mut hi) = all;
            for (count, (_, list)) in asked.enumerate() {
                let one = list[(next() % list.len() as u64) as usize];
                (lo, hi) = if count == 0 {
                    one
                } else {
                    (lo.max(one.0), hi.min(one.1))
                };
            }
            let wide = u128::from(next()) << 64 | u128::from(next());
            let value = match (at, hi.checked_sub(lo).and_then(|d| d.checked_add(1))) {
                (0, _) => lo,
                (1, _) => hi,
                (_, Some(span)) => lo + wide % span,
                (_, None) => wide,
            };
            window.narrow(space, field, value, value);
        }
        self.note_alive(space, &window, near)
    }

    /// Follows a few packets, and notes which rules they match.
    fn note_alive(
        &mut self,
        space: &mut Space,
        window: &Window,
        near: &Near,
    ) -> Result<(), TooBig> {
        let reach = self.follow(space, window, near, ATTEMPT)?;
        for (id, reach) in reach.reach {
            if reach.matches.is_empty() || self.alive.contains(&id) {
                continue;
            }
            // Those of connections; what only others match must be looked into.
            let plain = space.within(Field::CtState, ctstate::ESTABLISHED, ctstate::NEW)?;
            if !space.bdd.and(reach.matches, plain)?.is_empty() {
                self.alive.insert(id);
            }
        }
        Ok(())
    }

    /// Makes room for work of so many steps.
    fn begin(&mut self, space: &mut Space, steps: u64) -> Result<(), TooBig> {
        if space.bdd.size() > self.mark.size() + NODES {
            space.bdd.back(self.mark);
            self.starts.clear();
            self.cases.clear();
        }
        space.bdd.allow(u64::MAX);
        if self.starts.is_empty() {
            for (hook, _) in &self.entries {
                let all = possible(space, self.rules.family, Some(*hook))?;
                self.starts.push(all);
            }
        }
        space.bdd.allow(steps);
        Ok(())
    }

    /// What gets to each rule of the packets in a window.
    fn follow(
        &mut self,
        space: &mut Space,
        window: &Window,
        near: &Near,
        steps: u64,
    ) -> Result<Followed, TooBig> {
        self.begin(space, steps)?;
        let found = self.walk(space, window, near);
        self.spent += steps - space.bdd.allowed().min(steps);
        space.bdd.allow(u64::MAX);
        found
    }

    fn walk(
        &mut self,
        space: &mut Space,
        window: &Window,
        near: &Near,
    ) -> Result<Followed, TooBig> {
        let mut all = Followed::default();
        for at in 0..self.entries.len() {
            let set = window.packets(space, self.starts[at])?;
            if let Some(walk) = self.through(space, (at, set), window, near)? {
                all.add(space, &walk)?;
            }
        }
        Ok(all)
    }

    /// Sends packets through the table from one of its entries.
    fn through(
        &mut self,
        space: &mut Space,
        (entry, set): (usize, Set),
        window: &Window,
        near: &Near,
    ) -> Result<Option<Walk>, TooBig> {
        let Some(table) = self.rules.table(self.table) else {
            return Ok(None);
        };
        let flow = vec![(LensId::CLEAR, set)];
        let known = (window, Some(near), &self.asks, &mut self.cases);
        Walk::with(space, table, self.entries[entry].1, flow, known).map(Some)
    }
}
