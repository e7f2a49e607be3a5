//! Sets of packets through a table's chains.

use std::collections::BTreeMap;

use tidegate_ir::{Chain, ChainId, Effect, NatSpec, Policy, RejectKind, RuleId, Table, Verdict};

use crate::bdd::{Set, TooBig};
use crate::space::{Case, Space};

/// How a packet leaves a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Goes on.
    Accept,
    /// Discarded.
    Drop,
    /// Discarded and answered.
    Reject(RejectKind),
    /// Goes on, translated like this.
    Nat(NatSpec),
}

/// What is known about one rule.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Packets that can get to the rule.
    pub comes: Set,
    /// Those for which its condition can hold.
    pub matches: Set,
}

/// Deepest nesting of jumps that is followed.
const DEEPEST: usize = 200;
/// Chains entered at most, calls of one chain counted each.
const CALLS: usize = 20_000;

/// The result of sending packets through a table.
#[derive(Debug, Default)]
pub struct Walk {
    /// By rule; policies have what gets to them in both sets.
    pub reach: BTreeMap<RuleId, Reach>,
    /// Who decides, and for which packets.
    pub endings: Vec<(Ending, RuleId, Set)>,
    calls: usize,
}

/// Packets that come back from a chain.
struct Run<'a, 's> {
    space: &'s mut Space,
    table: &'a Table,
    cases: BTreeMap<RuleId, Case>,
    walk: Walk,
}

impl Walk {
    /// Sends the packets in `set` through `table` from its base chain `entry`.
    ///
    /// # Errors
    /// The limit is reached, or chains call each other too often.
    pub fn new(space: &mut Space, table: &Table, entry: ChainId, set: Set) -> Result<Self, TooBig> {
        let mut run = Run {
            space,
            table,
            cases: BTreeMap::new(),
            walk: Walk::default(),
        };
        let left = run.chain(entry, set, 0)?;
        if let Some(base) = table.chain(entry).and_then(|c| c.base) {
            let ending = match base.policy {
                Policy::Accept => Ending::Accept,
                Policy::Drop => Ending::Drop,
            };
            run.note(base.policy_id, left, left)?;
            run.end(ending, base.policy_id, left);
        }
        Ok(run.walk)
    }

    /// Packets that can end like this.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn ending(
        &self,
        space: &mut Space,
        wanted: impl Fn(Ending) -> bool,
    ) -> Result<Set, TooBig> {
        let mut all = Set::EMPTY;
        for (ending, _, set) in &self.endings {
            if wanted(*ending) {
                all = space.bdd.or(all, *set)?;
            }
        }
        Ok(all)
    }
}

impl<'a> Run<'a, '_> {
    /// Sends `set` through a chain; what comes out at its end or by RETURN.
    fn chain(&mut self, id: ChainId, set: Set, depth: usize) -> Result<Set, TooBig> {
        self.walk.calls += 1;
        if depth > DEEPEST || self.walk.calls > CALLS {
            return Err(TooBig);
        }
        let Some(chain): Option<&'a Chain> = self.table.chain(id) else {
            return Ok(Set::EMPTY);
        };
        let (mut left, mut returned) = (set, Set::EMPTY);
        for rule in chain.rules.iter() {
            if left.is_empty() {
                // Rules that nothing gets to are known as well.
                self.note(rule.id, Set::EMPTY, Set::EMPTY)?;
                continue;
            }
            let case = self.case(rule)?;
            let mut hit = self.space.bdd.and(left, case.holds)?;
            self.note(rule.id, left, hit)?;
            let dropped = self.space.bdd.and(left, case.drops)?;
            self.end(Ending::Drop, rule.id, dropped);
            left = self.space.bdd.and(left, case.fails)?;
            for effect in rule.effects.iter() {
                if let Effect::Queue(_) = effect {
                    // Whoever reads the queue decides.
                    self.end(Ending::Accept, rule.id, hit);
                    self.end(Ending::Drop, rule.id, hit);
                    hit = Set::EMPTY;
                }
                if let Effect::Nat(spec) = effect {
                    self.end(Ending::Nat(*spec), rule.id, hit);
                    hit = Set::EMPTY;
                }
                hit = self.space.after(hit, effect)?;
            }
            let back = match rule.verdict {
                Verdict::Continue => hit,
                Verdict::Accept => self.end(Ending::Accept, rule.id, hit),
                Verdict::Drop => self.end(Ending::Drop, rule.id, hit),
                Verdict::Reject(kind) => self.end(Ending::Reject(kind), rule.id, hit),
                Verdict::Return => {
                    returned = self.space.bdd.or(returned, hit)?;
                    Set::EMPTY
                }
                Verdict::Jump(to) if !hit.is_empty() => self.chain(to, hit, depth + 1)?,
                Verdict::Goto(to) if !hit.is_empty() => {
                    let out = self.chain(to, hit, depth + 1)?;
                    returned = self.space.bdd.or(returned, out)?;
                    Set::EMPTY
                }
                Verdict::Jump(_) | Verdict::Goto(_) => Set::EMPTY,
            };
            left = self.space.bdd.or(left, back)?;
        }
        self.space.bdd.or(left, returned)
    }

    fn case(&mut self, rule: &tidegate_ir::Rule) -> Result<Case, TooBig> {
        if let Some(case) = self.cases.get(&rule.id) {
            return Ok(*case);
        }
        let case = self.space.rule(&rule.cond)?;
        self.cases.insert(rule.id, case);
        Ok(case)
    }

    fn note(&mut self, id: RuleId, comes: Set, matches: Set) -> Result<(), TooBig> {
        let known = self.walk.reach.get(&id).copied();
        let known = known.unwrap_or(Reach {
            comes: Set::EMPTY,
            matches: Set::EMPTY,
        });
        let reach = Reach {
            comes: self.space.bdd.or(known.comes, comes)?,
            matches: self.space.bdd.or(known.matches, matches)?,
        };
        self.walk.reach.insert(id, reach);
        Ok(())
    }

    /// Packets that leave the table; none come back.
    fn end(&mut self, ending: Ending, by: RuleId, set: Set) -> Set {
        if !set.is_empty() {
            self.walk.endings.push((ending, by, set));
        }
        Set::EMPTY
    }
}
