//! One packet after the other, until none is left or one matches.

use std::collections::BTreeSet;

use tidegate_ir::{Chain, Truth};

use super::{NAMED, Taken};
use crate::bdd::{Set, TooBig};
use crate::example::Facts;
use crate::space::Space;

/// The search for a packet that no earlier rule of a chain takes.
pub(super) struct Search {
    /// Packets that no rule so far has taken.
    left: Set,
    /// Rules that can take packets, the widest first.
    takers: Vec<usize>,
    /// Those that have.
    taken: BTreeSet<usize>,
    /// Some of them by dropping packets on the way.
    drops: bool,
}

impl Search {
    /// Among packets that a rule asks for, and rules before it that can take some, the widest
    /// first.
    pub(super) const fn new(own: Set, takers: Vec<usize>) -> Self {
        Search {
            left: own,
            takers,
            taken: BTreeSet::new(),
            drops: false,
        }
    }

    /// A packet of `among` that nobody takes; none: all are taken.
    pub(super) fn packet(
        &mut self,
        space: &mut Space,
        list: &Chain,
        among: Set,
    ) -> Result<Option<Facts>, TooBig> {
        for salt in 0.. {
            let some = space.bdd.and(self.left, among)?;
            let Some(packet) = space.any_example(some, salt) else {
                return Ok(None);
            };
            // Looking at a rule is about as much work as a step.
            let looked = self.takers.len() as u64 / 2;
            let steps = space.bdd.allowed().checked_sub(looked).ok_or(TooBig)?;
            space.bdd.allow(steps);
            let taker = self.takers.iter().position(|at| {
                let conds = list.rules.get(*at).map(|r| &r.cond);
                conds.is_some_and(|c| packet.clone().eval(c) != Truth::False)
            });
            let Some(position) = taker else {
                return Ok(Some(packet));
            };
            if !self.take(space, list, self.takers[position])? {
                // Sets know less than the packet: this rule is left out.
                self.takers.remove(position);
            }
        }
        Ok(None)
    }

    /// Takes away what a rule takes for sure; whether it is anything.
    fn take(&mut self, space: &mut Space, list: &Chain, at: usize) -> Result<bool, TooBig> {
        let Some(rule) = list.rules.get(at) else {
            return Ok(false);
        };
        let case = space.rule(&rule.cond)?;
        let sure = space.bdd.minus(case.holds, case.doubt)?;
        let dropped = space.bdd.minus(case.drops, case.doubt)?;
        let drops = !space.bdd.and(self.left, dropped)?.is_empty();
        let rest = space.bdd.minus(self.left, sure)?;
        let rest = space.bdd.minus(rest, dropped)?;
        if rest == self.left {
            return Ok(false);
        }
        self.left = rest;
        self.drops |= drops;
        self.taken.insert(at);
        Ok(true)
    }

    /// Who has taken what is gone of `own`, without those that the others make superfluous.
    pub(super) fn named(&self, space: &mut Space, list: &Chain, own: Set) -> Result<Taken, TooBig> {
        let mut by: Vec<usize> = self.taken.iter().copied().collect();
        let gone = space.bdd.minus(own, self.left)?;
        if by.len() <= 2 * NAMED {
            for at in by.clone() {
                let mut left = gone;
                for other in by.iter().filter(|o| **o != at) {
                    if let Some(rule) = list.rules.get(*other) {
                        let case = space.rule(&rule.cond)?;
                        let both = space.bdd.or(case.holds, case.drops)?;
                        let sure = space.bdd.minus(both, case.doubt)?;
                        left = space.bdd.minus(left, sure)?;
                    }
                }
                if left.is_empty() {
                    by.retain(|o| *o != at);
                }
            }
        }
        let complete = by.len() <= NAMED;
        by.truncate(NAMED);
        Ok(Taken {
            by,
            complete,
            drops: self.drops,
        })
    }
}
