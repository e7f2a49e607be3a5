//! The rules of a chain in order, so kept that one can be put in, taken out or found
//! without touching all the others.

use alloc::vec::Vec;
use core::ops::Index;

use crate::Rule;

/// Rules in one block at most.
const BLOCK: usize = 64;
/// Rules in a half of a block that was full.
const HALF: usize = BLOCK / 2;
const BITS: u32 = BLOCK.trailing_zeros();

/// Rules in order, in blocks.
///
/// A rule has a *position* (from 0, as users count less one), a *slot* (where it is kept;
/// changes only when a neighbour in the same block is put in or taken out) and a *key*
/// (which grows with the position; changes whenever blocks come and go). A ruleset that
/// was never edited has all three alike.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// By number.
    blocks: Vec<Vec<Rule>>,
    /// The numbers of blocks that have rules, in the order of rules.
    order: Vec<u32>,
    /// Where a block stands in `order`, by number.
    ranks: Vec<u32>,
    /// How many rules stand before a block, in order.
    starts: Vec<usize>,
    /// Numbers of empty blocks.
    unused: Vec<u32>,
    len: usize,
}

/// What an edit did to the slots of other rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edited {
    /// The slot of the rule that came or went.
    pub slot: u32,
    /// Rules that moved from one slot to another, to be told of in this order: no slot is
    /// moved to before the rule that was there has gone, and keys of slots keep the order
    /// of rules all the time.
    pub moved: Vec<(u32, u32)>,
}

impl Rules {
    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All rules in order.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.order.iter().flat_map(|&b| &self.blocks[b as usize])
    }

    /// The slots of all rules in order.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let slots =
            |&b: &u32| (0..self.blocks[b as usize].len() as u32).map(move |i| b << BITS | i);
        self.order.iter().flat_map(slots)
    }

    /// The rule at a position.
    #[must_use]
    pub fn get(&self, position: usize) -> Option<&Rule> {
        self.slot(position).and_then(|s| self.at_slot(s))
    }

    /// The slot of the rule at a position.
    #[must_use]
    pub fn slot(&self, position: usize) -> Option<u32> {
        if position >= self.len {
            return None;
        }
        let rank = self.starts.partition_point(|&s| s <= position) - 1;
        Some(self.order[rank] << BITS | (position - self.starts[rank]) as u32)
    }

    /// The rule in a slot.
    #[inline]
    #[must_use]
    pub fn at_slot(&self, slot: u32) -> Option<&Rule> {
        self.blocks
            .get((slot >> BITS) as usize)?
            .get(slot as usize % BLOCK)
    }

    /// The position of the rule in a slot that has one.
    #[must_use]
    pub fn position(&self, slot: u32) -> Option<usize> {
        self.at_slot(slot)?;
        let rank = self.ranks[(slot >> BITS) as usize] as usize;
        Some(self.starts[rank] + slot as usize % BLOCK)
    }

    /// The key of a slot.
    #[inline]
    #[must_use]
    pub fn key(&self, slot: u32) -> u32 {
        let rank = self.ranks.get((slot >> BITS) as usize);
        (rank.copied().unwrap_or(0) << BITS) | (slot % BLOCK as u32)
    }

    /// The first rule whose key is `key` or more, with its slot and key.
    #[inline]
    #[must_use]
    pub fn from_key(&self, key: u32) -> Option<(u32, u32, &Rule)> {
        let mut rank = (key >> BITS) as usize;
        let mut offset = key as usize % BLOCK;
        loop {
            let block = *self.order.get(rank)?;
            if let Some(rule) = self.blocks[block as usize].get(offset) {
                let offset = offset as u32;
                return Some((block << BITS | offset, (rank as u32) << BITS | offset, rule));
            }
            (rank, offset) = (rank + 1, 0);
        }
    }

    /// Puts `rule` at `position`; the rules from there on follow it. A position past the
    /// end is the end.
    pub fn insert(&mut self, position: usize, rule: Rule) -> Edited {
        let (mut rank, mut offset) = self.gap(position.min(self.len));
        let len = |rules: &Rules, rank: usize| rules.order.get(rank).map(|&b| rules.block(b).len());
        let mut moved = Vec::new();
        match len(self, rank) {
            None => self.new_block(rank),
            Some(BLOCK) if offset == 0 => self.new_block(rank),
            Some(BLOCK) if offset == BLOCK => {
                (rank, offset) = (rank + 1, 0);
                self.new_block(rank);
            }
            Some(BLOCK) => {
                self.new_block(rank + 1);
                let (from, to) = (self.order[rank], self.order[rank + 1]);
                let upper = self.blocks[from as usize].split_off(HALF);
                let lower = self.block(from).len();
                // The new rule goes into one of the halves; what stands behind it moves on.
                let room = |i: usize| u32::from(i >= offset);
                let moves = (lower..lower + upper.len()).rev().map(|i| {
                    let new = (i - lower) as u32 + if offset > lower { room(i) } else { 0 };
                    (from << BITS | i as u32, to << BITS | new)
                });
                moved.extend(moves);
                self.blocks[to as usize].extend(upper);
                if offset > lower {
                    (rank, offset) = (rank + 1, offset - lower);
                } else {
                    moved.extend(shifted(from, offset, lower));
                }
            }
            Some(len) => moved.extend(shifted(self.order[rank], offset, len)),
        }
        let number = self.order[rank];
        self.blocks[number as usize].insert(offset, rule);
        self.len += 1;
        self.count_from(rank.saturating_sub(1));
        Edited {
            slot: number << BITS | offset as u32,
            moved,
        }
    }

    /// Takes out the rule at `position`, if there is one.
    pub fn remove(&mut self, position: usize) -> Option<(Rule, Edited)> {
        let slot = self.slot(position)?;
        let (number, offset) = (slot >> BITS, slot as usize % BLOCK);
        let rank = self.ranks[number as usize] as usize;
        let block = &mut self.blocks[number as usize];
        let rule = block.remove(offset);
        let moves = (slot + 1..).take(block.len() - offset);
        let edited = Edited {
            slot,
            moved: moves.map(|s| (s, s - 1)).collect(),
        };
        self.len -= 1;
        if block.is_empty() {
            *block = Vec::new();
            self.order.remove(rank);
            self.starts.remove(rank);
            self.unused.push(number);
        }
        self.count_from(rank);
        Some((rule, edited))
    }

    /// Puts another rule in the place of the one at `position`, which is returned.
    pub fn replace(&mut self, position: usize, rule: Rule) -> Option<(Rule, u32)> {
        let slot = self.slot(position)?;
        let block = &mut self.blocks[(slot >> BITS) as usize];
        Some((
            core::mem::replace(&mut block[slot as usize % BLOCK], rule),
            slot,
        ))
    }

    fn block(&self, number: u32) -> &[Rule] {
        &self.blocks[number as usize]
    }

    /// Where a rule that shall have `position` can go: rank and place in the block.
    /// Prefers the end of a block to the beginning of the next.
    fn gap(&self, position: usize) -> (usize, usize) {
        let rank = self
            .starts
            .partition_point(|&s| s < position)
            .saturating_sub(1);
        (rank, position - self.starts.get(rank).copied().unwrap_or(0))
    }

    /// Makes an empty block at `rank`.
    fn new_block(&mut self, rank: usize) {
        let number = self.unused.pop().unwrap_or_else(|| {
            self.blocks.push(Vec::new());
            self.ranks.push(0);
            (self.blocks.len() - 1) as u32
        });
        self.blocks[number as usize] = Vec::new();
        self.order.insert(rank, number);
        self.starts.insert(rank, 0);
    }

    /// Brings ranks and counts of the blocks from `rank` on up to date.
    fn count_from(&mut self, rank: usize) {
        let mut start = match rank.checked_sub(1) {
            Some(before) => self.starts[before] + self.blocks[self.order[before] as usize].len(),
            None => 0,
        };
        for (rank, &number) in self.order.iter().enumerate().skip(rank) {
            self.ranks[number as usize] = rank as u32;
            self.starts[rank] = start;
            start += self.blocks[number as usize].len();
        }
    }
}

/// The moves of the rules of a block from `offset` on by one, the last first.
fn shifted(number: u32, offset: usize, len: usize) -> impl Iterator<Item = (u32, u32)> {
    let slot = move |i: usize| number << BITS | i as u32;
    (offset..len).rev().map(move |i| (slot(i), slot(i + 1)))
}

impl Extend<Rule> for Rules {
    /// Puts rules behind those that are there.
    fn extend<I: IntoIterator<Item = Rule>>(&mut self, rules: I) {
        for rule in rules {
            let last = self.order.last().map(|&b| &mut self.blocks[b as usize]);
            match last {
                Some(block) if block.len() < BLOCK => block.push(rule),
                _ => {
                    let rank = self.order.len();
                    self.new_block(rank);
                    let number = self.order[rank] as usize;
                    (self.ranks[number], self.starts[rank]) = (rank as u32, self.len);
                    let block = &mut self.blocks[number];
                    // Where there is one full block there will be others.
                    block.reserve_exact(if rank > 0 { BLOCK } else { 1 });
                    block.push(rule);
                }
            }
            self.len += 1;
        }
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        let mut all = Rules::default();
        all.extend(rules);
        all
    }
}

impl From<Vec<Rule>> for Rules {
    fn from(rules: Vec<Rule>) -> Self {
        rules.into_iter().collect()
    }
}

impl Index<usize> for Rules {
    type Output = Rule;

    /// # Panics
    /// There is no such position.
    fn index(&self, position: usize) -> &Rule {
        self.get(position).expect("a position within the chain")
    }
}

#[cfg(test)]
mod tests {
    use alloc::boxed::Box;

    use super::*;
    use crate::{Cond, RuleId, Verdict};

    fn rule(n: u32) -> Rule {
        Rule {
            id: RuleId(n),
            cond: Cond::Const(true).into(),
            effects: Box::default(),
            verdict: Verdict::Continue,
            bare: true,
        }
    }

    /// What `rules` must be: ids in order, slots found by id.
    struct Model {
        ids: Vec<u32>,
        /// By id, while it is there.
        slots: Vec<Option<u32>>,
    }

    impl Model {
        fn told(&mut self, edited: &Edited, rules: &Rules) {
            for &(from, to) in &edited.moved {
                assert!(!self.slots.contains(&Some(to)), "slot {to} is taken");
                let at = self.slots.iter().position(|&s| s == Some(from));
                let at = at.expect("a rule in the slot");
                self.slots[at] = Some(to);
                assert_eq!(rules.at_slot(to).map(|r| r.id.0), Some(at as u32));
                let slots = self.ids.iter().filter_map(|&id| self.slots[id as usize]);
                assert!(slots.map(|s| rules.key(s)).is_sorted());
            }
        }

        fn check(&self, rules: &Rules) {
            assert_eq!(rules.len(), self.ids.len());
            let ids: Vec<u32> = rules.iter().map(|r| r.id.0).collect();
            assert_eq!(ids, self.ids);
            let found = |key| {
                rules
                    .from_key(key)
                    .map(|(slot, key, r)| (slot, key, r.id.0))
            };
            let mut last = None;
            for ((position, &id), slot) in self.ids.iter().enumerate().zip(rules.slots()) {
                assert_eq!(rules.get(position).map(|r| r.id.0), Some(id));
                assert_eq!(rules.slot(position), Some(slot));
                assert_eq!(self.slots[id as usize], Some(slot));
                assert_eq!(rules.at_slot(slot).map(|r| r.id.0), Some(id));
                assert_eq!(rules.position(slot), Some(position));
                let key = rules.key(slot);
                assert!(last < Some(key));
                assert_eq!(found(key), Some((slot, key, id)));
                let after = last.map_or(0, |l| l + 1);
                assert_eq!(found(after), Some((slot, key, id)));
                last = Some(key);
            }
            assert_eq!(found(last.map_or(0, |l| l + 1)), None);
            assert_eq!(rules.get(self.ids.len()).map(|r| r.id), None);
        }
    }

    /// Edits at random places with a preference for the ends, as users make them.
    #[test]
    fn edits_keep_order_and_tell_of_moves() {
        for start in [0, 1, 63, 64, 65, 500] {
            let mut rules: Rules = (0..start).map(rule).collect();
            let mut model = Model {
                ids: (0..start).collect(),
                slots: rules.slots().map(Some).collect(),
            };
            model.check(&rules);
            let mut state = u64::from(start) + 1;
            for step in 0..600u32 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(step.into());
                let len = model.ids.len();
                let at = match state >> 60 {
                    0..4 => 0,
                    4..8 => len.saturating_sub(1),
                    _ => (state >> 33) as usize % (len + 1),
                };
                // More come than go, then the other way round.
                let grow = (state >> 20) % 8 < if step < 300 { 5 } else { 2 };
                if grow {
                    let id = model.slots.len() as u32;
                    let edited = rules.insert(at, rule(id));
                    model.told(&edited, &rules);
                    assert!(!model.slots.contains(&Some(edited.slot)));
                    model.slots.push(Some(edited.slot));
                    model.ids.insert(at, id);
                } else if at < len {
                    let (gone, edited) = rules.remove(at).expect("a rule");
                    assert_eq!(gone.id.0, model.ids.remove(at));
                    assert_eq!(model.slots[gone.id.0 as usize].take(), Some(edited.slot));
                    model.told(&edited, &rules);
                } else {
                    assert!(rules.remove(at).is_none());
                }
                if step % 7 == 0 {
                    model.check(&rules);
                }
            }
            model.check(&rules);
        }
    }

    #[test]
    fn few_rules_move_at_an_edit() {
        let mut rules: Rules = (0..10_000).map(rule).collect();
        for at in [0, 0, 5_000, 5_000, 5_001, 10_000, 10_006, 64, 128] {
            assert!(rules.insert(at, rule(0)).moved.len() <= BLOCK);
        }
        let (old, slot) = rules.replace(70, rule(7)).expect("a rule");
        assert_ne!(old.id, RuleId(7));
        assert_eq!(rules.at_slot(slot).map(|r| r.id), Some(RuleId(7)));
    }
}
