//! Changing single rules of a ruleset at work, in time that does not grow with it.

use std::sync::Arc;

use tidegate_ir::{ChainId, Cond, Rule, RuleId, TableKind, Verdict};
use tidegate_wire::Family;

use crate::engine::{Engine, Family4Or6, index};
use crate::tables::Counter;

/// Edits of one chain after which all its rules are better sorted anew, if it has fewer
/// rules than that.
const WORN: usize = 1000;

/// What to do to a chain. Positions count from 0.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Puts a rule at a position; past the end is the end.
    Insert(usize, Rule),
    /// Takes out the rule at a position.
    Remove(usize),
    /// Puts a rule in the place of another.
    Replace(usize, Rule),
}

/// Why an edit must be made by preparing the whole ruleset anew
/// ([`Engine::replace`]); nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotInPlace {
    /// There is no such table, chain or rule.
    Missing,
    /// Somebody else holds the ruleset ([`Engine::rules`]).
    Held,
    /// The rule keeps state, calls a chain, or has to do with connection tracking being
    /// on or off.
    Entangled,
    /// The chain has changed so often that sorting its rules anew is due.
    Worn,
}

impl Engine {
    /// Changes one rule between two packets. The rule that is put in gets a new id, which
    /// is returned, and a counter of zero; the ids of all others stay. The ids of rules
    /// taken out are given to later ones.
    ///
    /// # Errors
    /// See [`NotInPlace`].
    pub fn edit(
        &mut self,
        family: Family,
        (table, chain): (TableKind, ChainId),
        edit: Edit,
    ) -> Result<Option<RuleId>, NotInPlace> {
        self.recall_all();
        let (id, gone) = self.families[index(family)].edit(table, chain, edit)?;
        if let Some(gone) = gone {
            self.origins.follow(family, |id| (id != gone).then_some(id));
        }
        self.other_rules();
        Ok(id)
    }
}

impl Family4Or6 {
    /// The ids of the rule that was put in and of the one that was taken out.
    fn edit(
        &mut self,
        kind: TableKind,
        ChainId(chain): ChainId,
        edit: Edit,
    ) -> Result<(Option<RuleId>, Option<RuleId>), NotInPlace> {
        let ruleset = Arc::get_mut(&mut self.rules).ok_or(NotInPlace::Held)?;
        let table = ruleset.tables[kind as usize].as_mut();
        let own = table.and_then(|t| t.chains.get_mut(chain as usize));
        let rules = &mut own.ok_or(NotInPlace::Missing)?.rules;
        let sorted = self.classifiers[kind as usize].get_mut(chain as usize);
        let classifier = sorted.ok_or(NotInPlace::Missing)?;
        let old = match &edit {
            Edit::Insert(..) => None,
            Edit::Remove(at) | Edit::Replace(at, _) => {
                Some(rules.get(*at).ok_or(NotInPlace::Missing)?)
            }
        };
        let new = match &edit {
            Edit::Insert(_, rule) | Edit::Replace(_, rule) => Some(rule),
            Edit::Remove(_) => None,
        };
        let tracked = self.tracked;
        let needs = |r: &Rule| r.needs_conntrack();
        let tracking = old.is_some_and(needs) || !tracked && new.is_some_and(needs);
        if tracking || new.is_some_and(is_entangled) {
            return Err(NotInPlace::Entangled);
        }
        if classifier.edits() > rules.len().max(WORN) {
            return Err(NotInPlace::Worn);
        }
        let (counters, unused) = (&mut self.counters, &mut self.unused);
        let mut numbered = |mut rule: Rule| {
            rule.id = new_id(counters, unused);
            (rule.id, rule)
        };
        let (id, gone) = match edit {
            Edit::Insert(at, rule) => {
                let (id, rule) = numbered(rule);
                classifier.insert(rules, at, rule);
                (Some(id), None)
            }
            Edit::Replace(at, rule) => {
                let (id, rule) = numbered(rule);
                (Some(id), classifier.replace(rules, at, rule))
            }
            Edit::Remove(at) => (None, classifier.remove(rules, at)),
        };
        let gone = gone.map(|rule| rule.id);
        unused.extend(gone);
        ruleset.rule_ids = counters.len() as u32;
        Ok((id, gone))
    }
}

/// A counter of zero.
fn new_id(counters: &mut Vec<Counter>, unused: &mut Vec<RuleId>) -> RuleId {
    match unused.pop() {
        Some(id) => {
            counters[id.0 as usize] = Counter::default();
            id
        }
        None => {
            counters.push(Counter::default());
            RuleId((counters.len() - 1) as u32)
        }
    }
}

/// Whether other parts of the ruleset depend on the rule's coming: its stateful tests, the
/// chain it calls, which packets may not have reached before.
fn is_entangled(rule: &Rule) -> bool {
    let mut calls = matches!(rule.verdict, Verdict::Jump(_) | Verdict::Goto(_));
    // Loading it switches accounting on.
    calls |= rule.needs_accounting();
    rule.cond
        .visit(&mut |c| calls |= matches!(c, Cond::Call(_)));
    calls
}
