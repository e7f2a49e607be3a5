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
//! A look-up may find too much, never too little: rules that are found are evaluated in
//! full, unless what was looked at on the way to them is all they want.
//!
//! What stands behind a guard (`DropWhen`) in a rule tells nothing about a packet that the
//! guard may drop, and such packets are rare. They are looked up a second time in a tree
//! that knows only what stands before the rules' guards.

mod build;
mod by_field;
mod certain;
mod edit;
mod key;
mod leaf;
mod reading;
mod tree;
mod views;

use std::panic::resume_unwind;
use std::thread;

use tidegate_ir::{Cond, Edited, Facts, Field, Rule, Rules, Truth, eval};
use tidegate_wire::Family;

use build::active;
use reading::{Scope, guards, is_void};
use tree::{Found, Tree};

/// Rules tested one by one at the start of a chain before the tree is asked, if they are
/// as simple as what stands at the top for most packets to meet.
const HEAD: usize = 3;
/// Most parts of a simple rule.
const SIMPLE: usize = 2;
/// Rules tested one by one where a walk goes on in the middle of a chain.
const NEXT: usize = 1;
/// Trees of so many rules are made at the same time.
const MANY: usize = 4096;
/// Shorter chains have no tree.
const WORTHWHILE: usize = 7;
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
    /// Simple rules at the start.
    head: usize,
    /// Rules put in or taken out since the trees were made.
    edits: usize,
}

#[derive(Debug)]
struct Trees {
    whole: Tree,
    /// Rules with guards, by what stands before the guards.
    prelude: Tree,
    guards: Guards,
}

/// What rules' guards say.
#[derive(Debug, Default)]
struct Guards {
    /// They drop packets with a shorter transport header, or without.
    enough: u128,
    /// Everything else.
    others: Vec<Cond>,
}

impl Guards {
    fn learn(&mut self, guard: &Cond) {
        match guard.header_wanted() {
            Some(len) => self.enough = self.enough.max(len.into()),
            None if self.others.contains(guard) => {}
            None => self.others.push(guard.clone()),
        }
    }

    /// Whether one of them may drop the packet.
    #[inline]
    fn fire(&self, facts: &mut impl Facts) -> bool {
        let long = |len| (self.enough..=u128::from(u16::MAX)).contains(&len);
        if self.enough > 0 && !facts.load(Field::L4Len).is_some_and(long) {
            return true;
        }
        self.others.iter().any(|guard| match guard {
            Cond::Test(test) => facts.load(test.field()).is_some_and(|v| test.holds(v)),
            guard => eval(guard, facts, &mut ()) == Truth::True,
        })
    }
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
            head: head(rules),
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
            one_by_one: if from == 0 { self.head } else { NEXT },
            stretch: 0,
            longest: STRETCH,
        }
    }

    /// Puts a rule at a position.
    pub fn insert(&mut self, rules: &mut Rules, position: usize, rule: Rule) {
        let edited = rules.insert(position, rule);
        self.edited(rules);
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
        self.edited(rules);
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
        self.edited(rules);
        if let Some(trees) = &mut self.trees {
            trees.insert(rules, slot);
        }
        Some(old)
    }

    fn edited(&mut self, rules: &Rules) {
        self.edits += 1;
        self.head = head(rules);
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
        let whole = || build(Scope::Whole, |_| true);
        let prelude = || {
            let mut all = Guards::default();
            let guards = rules.iter().flat_map(guards);
            guards.for_each(|guard| all.learn(guard));
            (build(Scope::Prelude, is_guarded), all)
        };
        let (whole, (prelude, guards)) = match rules.len() {
            ..MANY => (whole(), prelude()),
            _ => thread::scope(|scope| {
                // Without a thread it takes longer.
                let other = thread::Builder::new().spawn_scoped(scope, prelude);
                let whole = whole();
                let prelude = match other {
                    Ok(other) => other.join().unwrap_or_else(|panic| resume_unwind(panic)),
                    Err(_) => prelude(),
                };
                (whole, prelude)
            }),
        };
        Trees {
            whole,
            prelude,
            guards,
        }
    }

    /// The first rule with key `from` or more that may do something; certain only if it
    /// applies.
    #[inline]
    fn find(&self, rules: &Rules, from: u32, facts: &mut impl Facts) -> Option<Found> {
        let found = self.whole.find(rules, from, facts);
        if !self.guards.fire(facts) {
            return found.map(|found| Found {
                certain: found.certain && facts.load(Field::FragOff) == Some(0),
                ..found
            });
        }
        let guarded = self.prelude.find(rules, from, facts);
        let both = [found, guarded].into_iter().flatten();
        let first = both.min_by_key(|found| found.key)?;
        Some(Found {
            certain: false,
            ..first
        })
    }

    fn insert(&mut self, rules: &Rules, slot: u32) {
        let Some(rule) = rules.at_slot(slot).filter(|r| !is_void(r)) else {
            return;
        };
        guards(rule).for_each(|guard| self.guards.learn(guard));
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

/// How many of the first rules are simple.
fn head(rules: &Rules) -> usize {
    let simple = |rule: &&Rule| rule.cond.len() <= SIMPLE;
    rules.iter().take(HEAD).take_while(simple).count()
}

fn is_guarded(rule: &Rule) -> bool {
    guards(rule).next().is_some()
}

/// A rule that may apply.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'c> {
    /// Where it is kept.
    pub slot: u32,
    /// The rule.
    pub rule: &'c Rule,
    /// It does apply: all its conditions hold, and to test them would leave no trace.
    pub applies: bool,
}

/// Rules that may apply to one packet, in order. The packet may change between two of them:
/// each is looked for with the values of its time.
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
}

impl<'c> Candidates<'c> {
    /// The next rule.
    #[inline]
    pub fn next(&mut self, facts: &mut impl Facts) -> Option<Candidate<'c>> {
        let (slot, key, rule, applies) = match self.trees {
            Some(trees) if self.one_by_one == 0 => {
                let Found { key, slot, certain } = self.find(trees, facts)?;
                (slot, key, self.rules.at_slot(slot)?, certain)
            }
            _ => {
                self.one_by_one = self.one_by_one.saturating_sub(1);
                let (slot, key, rule) = self.rules.from_key(self.next)?;
                (slot, key, rule, false)
            }
        };
        self.next = key + 1;
        Some(Candidate {
            slot,
            rule,
            applies,
        })
    }

    /// The least key of a rule that is still to come.
    #[must_use]
    pub fn next_key(&self) -> u32 {
        self.next
    }

    fn find(&mut self, trees: &Trees, facts: &mut impl Facts) -> Option<Found> {
        let found = trees.find(self.rules, self.next, facts)?;
        // What comes thick and fast is not worth looking for.
        let near = found.key - self.next < NEAR;
        self.stretch = if near {
            (2 * self.stretch + 1).min(self.longest)
        } else {
            0
        };
        self.one_by_one = self.stretch;
        Some(found)
    }
}

#[cfg(test)]
mod tests;
