//! Rules one by one, where all packets at once are too many.
//!
//! A rule that some single packet matches is alive. Of the others all packets that they ask for
//! are followed, which are few for most rules.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tidegate_ir::{ChainId, Field, Hook, Rule, RuleId, Ruleset, TableKind, ctstate};
use tidegate_wire::Family;

use crate::bdd::{Set, TooBig};
use crate::lens::LensId;
use crate::possible::possible;
use crate::space::Space;
use crate::walk::{Cases, Reach, Walk};
use crate::window::{TableAsks, Window, choices};

/// Single packets that are tried for a rule.
const TRIES: u64 = 4;
/// Steps of work for all packets of one rule.
const STEPS: u64 = 2_000_000;
/// Nodes after which diagrams are thrown away.
const NODES: usize = 400_000;

/// What is known about a rule.
#[derive(Debug)]
pub enum Piece {
    /// Packets of connections match it.
    Alive,
    /// What becomes of those packets that this one asks for.
    All(Followed),
    /// There is too much to follow.
    Unknown,
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
    alive: HashSet<RuleId>,
    /// All packets at each entry.
    starts: Vec<Set>,
    cases: Cases,
    /// Steps of work left for all rules together.
    steps: u64,
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pieces")
            .field("alive", &self.alive.len())
            .finish_non_exhaustive()
    }
}

impl Pieces {
    /// Of one table, with at most `steps` steps of work.
    #[must_use]
    pub fn new(rules: Arc<Ruleset>, kind: TableKind, steps: u64) -> Self {
        let table = rules.table(kind);
        // Where there are no rules there is nothing to ask.
        let entry = |h: &Hook| {
            let entry = table?.base_chain(*h)?;
            let chain = table?.chain(entry)?;
            (!chain.rules.is_empty()).then_some((*h, entry))
        };
        Pieces {
            table: kind,
            entries: kind.hooks().iter().filter_map(entry).collect(),
            asks: table.map_or_else(TableAsks::default, TableAsks::of),
            rules: rules.clone(),
            alive: HashSet::new(),
            starts: Vec::new(),
            cases: Cases::new(),
            steps,
        }
    }

    /// What is known about a rule. All sets of `space` are thrown away now and then; those of
    /// one answer last until the next.
    pub fn ask(&mut self, space: &mut Space, rule: &Rule) -> Piece {
        if self.alive.contains(&rule.id) {
            return Piece::Alive;
        }
        for at in 0..TRIES {
            let Ok(()) = self.attempt(space, rule, at) else {
                break;
            };
            if self.alive.contains(&rule.id) {
                return Piece::Alive;
            }
        }
        let Some(asks) = self.asks.get(rule.id) else {
            return Piece::Unknown;
        };
        let window = asks.window(space);
        match self.follow(space, &window, STEPS) {
            Ok(reach) => Piece::All(reach),
            Err(TooBig) => Piece::Unknown,
        }
    }

    /// Follows packets around a single one that the rule asks for.
    fn attempt(&mut self, space: &mut Space, rule: &Rule, at: u64) -> Result<(), TooBig> {
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
        let mut window = Window::ALL;
        window.narrow(space, Field::FragOff, 0, 0);
        window.narrow(space, Field::L4Len, 64, 64);
        for (field, all) in [
            (Field::Proto, (6, 6)),
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
        let reach = self.follow(space, &window, STEPS / 10)?;
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

    /// What gets to each rule of the packets in a window.
    fn follow(
        &mut self,
        space: &mut Space,
        window: &Window,
        steps: u64,
    ) -> Result<Followed, TooBig> {
        if space.bdd.size() > NODES {
            space.clear();
            self.starts.clear();
            self.cases.clear();
        }
        let steps = steps.min(self.steps);
        space.bdd.allow(steps);
        let found = self.walk(space, window);
        self.steps -= steps - space.bdd.allowed().min(steps);
        space.bdd.allow(u64::MAX);
        found
    }

    fn walk(&mut self, space: &mut Space, window: &Window) -> Result<Followed, TooBig> {
        if self.starts.is_empty() {
            for (hook, _) in &self.entries {
                let all = possible(space, self.rules.family, Some(*hook))?;
                self.starts.push(all);
            }
        }
        let mut all = Followed::default();
        let Some(table) = self.rules.table(self.table) else {
            return Ok(all);
        };
        for ((_, entry), start) in self.entries.iter().zip(&self.starts) {
            let set = window.packets(space, *start)?;
            let flow = vec![(LensId::CLEAR, set)];
            let known = (window, &self.asks, &mut self.cases);
            let walk = Walk::with(space, table, *entry, flow, known)?;
            all.add(space, &walk)?;
        }
        Ok(all)
    }
}
