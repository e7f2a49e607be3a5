//! Which rules of a chain can apply at all, found without testing each one.
//!
//! Rules are kept in a tree. A node sorts them by up to four *cuts*, each some bits of one
//! field: a rule that fixes these bits goes into the cell of its value, one that fixes no
//! cut's bits into the node's *rest*. A packet is looked up in one hash table for all
//! cuts, follows the cells it finds there and the rest, and ends in leaves of a few rules.
//! What stands beside a cell or a leaf's rule (intervals that its packets' values lie in)
//! sorts out nearly everything else. Every rule has its own place in the tree, or a few
//! when it wants a few values, so memory grows with the rules, and a rule is put in or
//! taken out by going down the way of its values. Rules that no cut keeps apart become a
//! *pile*, which is gone through block by block.
//!
//! Nothing here decides: rules that are found are evaluated in full. A look-up may find
//! too much, never too little.
//!
//! What stands behind a guard (`DropWhen`) in a rule tells nothing about a packet that the
//! guard may drop, and such packets are rare. They are looked up a second time in a tree
//! that knows only what stands before the rules' guards.

mod build;
mod edit;
mod key;
mod leaf;
mod reading;
mod tree;

use tidegate_ir::{Cond, Edited, Facts, Rule, Rules, Truth, eval};
use tidegate_wire::Family;

use build::active;
use key::Key;
use reading::{Scope, guards, is_void};
use tree::Tree;

/// Rules tested one by one at the start of a chain before the tree is asked: what most
/// packets meet stands at the top.
const HEAD: usize = 3;
/// The same where a walk goes on in the middle of a chain.
const NEXT: usize = 1;
/// Shorter chains have no tree.
const WORTHWHILE: usize = 10;
/// When a rule that was found stands this near to the one before, the rules behind it are
/// tested one by one for a while.
const NEAR: u32 = 8;
/// Most rules that are tested one by one for that reason.
const STRETCH: usize = 64;

/// Finds the rules of a chain that may apply.
#[derive(Debug)]
pub struct Classifier {
    family: Family,
    seed: u64,
    trees: Option<Trees>,
    /// Rules put in or taken out since the trees were made.
    edits: usize,
}

#[derive(Debug)]
struct Trees {
    whole: Tree,
    /// Rules with guards, by what stands before the guards.
    prelude: Tree,
    /// All that guards say, less what others of them include.
    guards: Vec<Cond>,
}

impl Classifier {
    /// Sorts the rules of a chain. Look-ups of packets that share no way through the
    /// tree's hash tables cannot be made to without knowing `seed`.
    #[must_use]
    pub fn new(rules: &Rules, family: Family, seed: u64) -> Self {
        let worthwhile = rules.len() >= WORTHWHILE;
        Classifier {
            family,
            seed,
            trees: worthwhile.then(|| Trees::new(rules, family, seed)),
            edits: 0,
        }
    }

    /// The rules whose key is `from` or more that may apply; with `every`, all of them.
    #[inline]
    #[must_use]
    pub fn candidates<'c>(&'c self, rules: &'c Rules, from: u32, every: bool) -> Candidates<'c> {
        Candidates {
            trees: self.trees.as_ref().filter(|_| !every),
            rules,
            next: from,
            one_by_one: if from == 0 { HEAD } else { NEXT },
            stretch: 0,
            longest: STRETCH,
            packet: None,
        }
    }

    /// Puts a rule at a position.
    pub fn insert(&mut self, rules: &mut Rules, position: usize, rule: Rule) {
        let edited = rules.insert(position, rule);
        self.edits += 1;
        match &mut self.trees {
            Some(trees) => {
                trees.moved(rules, &edited);
                trees.insert(rules, edited.slot);
            }
            None => *self = Classifier::new(rules, self.family, self.seed),
        }
    }

    /// Takes out the rule at a position, if there is one.
    pub fn remove(&mut self, rules: &mut Rules, position: usize) -> Option<Rule> {
        let slot = rules.slot(position)?;
        if let Some(trees) = &mut self.trees {
            trees.remove(rules, slot);
        }
        let (rule, edited) = rules.remove(position)?;
        self.edits += 1;
        if let Some(trees) = &mut self.trees {
            trees.moved(rules, &edited);
        }
        Some(rule)
    }

    /// Puts a rule in the place of the one at a position, which is returned.
    pub fn replace(&mut self, rules: &mut Rules, position: usize, rule: Rule) -> Option<Rule> {
        let slot = rules.slot(position)?;
        if let Some(trees) = &mut self.trees {
            trees.remove(rules, slot);
        }
        let (old, slot) = rules.replace(position, rule)?;
        self.edits += 1;
        if let Some(trees) = &mut self.trees {
            trees.insert(rules, slot);
        }
        Some(old)
    }

    /// Rules put in or taken out one by one since all were sorted together. When they are
    /// as many as there are rules, sorting anew makes look-ups faster.
    #[must_use]
    pub fn edits(&self) -> usize {
        self.edits
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let trees = self.trees.iter();
        trees.map(|t| t.whole.bytes() + t.prelude.bytes()).sum()
    }
}

impl Trees {
    fn new(rules: &Rules, family: Family, seed: u64) -> Trees {
        let build = |scope, wanted: fn(&Rule) -> bool| {
            Tree::build(rules, active(rules, wanted), scope, family, seed)
        };
        let mut trees = Trees {
            whole: build(Scope::Whole, |_| true),
            prelude: build(Scope::Prelude, is_guarded),
            guards: Vec::new(),
        };
        for rule in rules.iter() {
            trees.learn_guards(rule);
        }
        trees
    }

    fn learn_guards(&mut self, rule: &Rule) {
        for guard in guards(rule) {
            if !self.guards.iter().any(|g| includes(g, guard)) {
                self.guards.retain(|g| !includes(guard, g));
                self.guards.push(guard.clone());
            }
        }
    }

    fn insert(&mut self, rules: &Rules, slot: u32) {
        let Some(rule) = rules.at_slot(slot).filter(|r| !is_void(r)) else {
            return;
        };
        self.learn_guards(rule);
        self.whole.insert(rules, slot, Scope::Whole);
        if is_guarded(rule) {
            self.prelude.insert(rules, slot, Scope::Prelude);
        }
    }

    fn remove(&mut self, rules: &Rules, slot: u32) {
        self.whole.remove(rules, slot, Scope::Whole);
        self.prelude.remove(rules, slot, Scope::Prelude);
    }

    fn moved(&mut self, rules: &Rules, edited: &Edited) {
        for &moved in &edited.moved {
            self.whole.renumber(rules, moved, Scope::Whole);
            self.prelude.renumber(rules, moved, Scope::Prelude);
        }
    }
}

fn is_guarded(rule: &Rule) -> bool {
    guards(rule).next().is_some()
}

/// Whether `a` holds whenever `b` does; `false` also where that is hard to say.
fn includes(a: &Cond, b: &Cond) -> bool {
    if a == b {
        return true;
    }
    let (Cond::Not(a), Cond::Not(b)) = (a, b) else {
        return false;
    };
    let (Cond::Test(a), Cond::Test(b)) = (&**a, &**b) else {
        return false;
    };
    let single = |test: &tidegate_ir::Test| {
        let mut intervals = test.intervals()?;
        intervals.next().filter(|_| intervals.next().is_none())
    };
    let inside = |a: (u128, u128), b: (u128, u128)| b.0 <= a.0 && a.1 <= b.1;
    a.field() == b.field() && single(a).zip(single(b)).is_some_and(|(a, b)| inside(a, b))
}

/// A packet's values for the two trees.
#[derive(Debug)]
struct Packet {
    whole: Key,
    /// When a guard may drop it.
    prelude: Option<Key>,
}

/// Rules that may apply to one packet, in order. Valid as long as the packet stays as it
/// is.
#[derive(Debug)]
pub struct Candidates<'c> {
    trees: Option<&'c Trees>,
    rules: &'c Rules,
    /// The least key that is still to come.
    next: u32,
    /// How many rules come without being looked for.
    one_by_one: usize,
    /// How many came so the last time, and how many may.
    stretch: usize,
    longest: usize,
    packet: Option<Packet>,
}

impl<'c> Candidates<'c> {
    /// The next rule, with its slot.
    #[inline]
    pub fn next(&mut self, facts: &mut impl Facts) -> Option<(u32, &'c Rule)> {
        let (slot, key) = match self.trees {
            Some(trees) if self.one_by_one == 0 => self.find(trees, facts)?,
            _ => {
                self.one_by_one = self.one_by_one.saturating_sub(1);
                self.rules.from_key(self.next)?
            }
        };
        self.next = key + 1;
        Some((slot, self.rules.at_slot(slot)?))
    }

    /// The least key of a rule that is still to come.
    #[must_use]
    pub fn next_key(&self) -> u32 {
        self.next
    }

    fn find(&mut self, trees: &Trees, facts: &mut impl Facts) -> Option<(u32, u32)> {
        let packet = self.packet.get_or_insert_with(|| {
            let fires = |g: &Cond| eval(g, facts, &mut ()) == Truth::True;
            let odd = trees.guards.iter().any(fires);
            Packet {
                whole: trees.whole.key(facts),
                prelude: odd.then(|| trees.prelude.key(facts)),
            }
        });
        let mut found = trees.whole.find(&packet.whole, self.rules, self.next);
        if let Some(prelude) = &packet.prelude {
            let guarded = trees.prelude.find(prelude, self.rules, self.next);
            let key = |found: &Option<(u32, u32)>| found.map_or(u32::MAX, |f| f.1);
            found = [found, guarded].into_iter().min_by_key(key)?;
        }
        let (_, key) = found?;
        // What comes thick and fast is not worth looking for.
        let near = key - self.next < NEAR;
        self.stretch = if near {
            (2 * self.stretch + 1).min(self.longest)
        } else {
            0
        };
        self.one_by_one = self.stretch;
        found
    }
}

#[cfg(test)]
mod tests;
