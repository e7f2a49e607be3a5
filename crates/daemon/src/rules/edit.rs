//! Changing one rule in its place, in time that hardly grows with the rules beside it.

use tidegate_engine::{Counter, Edit, NotInPlace};
use tidegate_ir::{ChainId, RuleId, TableKind};
use tidegate_syntax::{Chain, Failure, Rule, Ruleset, Target, lower_one, whole_chain};

use super::{LiveRules, Side, counted, stopped};

/// The rule that is put into a chain, taken out of it, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    table: TableKind,
    chain: String,
    at: usize,
    gone: bool,
    new: bool,
}

impl LiveRules {
    /// Changes what distinguishes `rules` from those in force, if that is a single rule and
    /// the engine can do it in place. Otherwise nothing has happened, and `rules` come back.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(super) fn edit(
        &self,
        side: &mut Side,
        mut rules: Ruleset,
        seen: &[Counter],
    ) -> Result<Option<Ruleset>, Failure> {
        let change = only_change(&side.source, &rules, seen);
        let Some((change, (chain, edit))) = change.and_then(|c| {
            let edit = lowered(side, &rules, &c)?;
            Some((c, edit))
        }) else {
            return Ok(Some(rules));
        };
        let (family, place) = (rules.family, (change.table, chain));
        let own = rules.table_mut(change.table).chain_mut(&change.chain);
        let new = own.and_then(|c| c.rules.get_mut(change.at).filter(|_| change.new));
        let counter = new.as_ref().map_or_else(Counter::default, |r| Counter {
            packets: r.counters.packets,
            bytes: r.counters.bytes,
        });
        let edited = self.plane.with(move |engine, _| {
            let id = engine.edit(family, place, edit)?;
            id.into_iter()
                .for_each(|id| engine.set_counter(family, id, counter));
            Ok(id)
        });
        let id: Result<Option<RuleId>, NotInPlace> = edited.map_err(stopped)?;
        let Ok(id) = id else {
            return Ok(Some(rules));
        };
        if let Some(rule) = new {
            rule.was = id.map(|id| id.0);
        }
        side.source = rules;
        (self.changed)(family);
        Ok(None)
    }
}

/// What the engine is to do, where the change touches nothing but its chain: all its rules
/// are in the engine, the table keeps no state, and no other chain is called or left.
fn lowered(side: &Side, rules: &Ruleset, change: &Change) -> Option<(ChainId, Edit)> {
    let (kind, at) = (change.table, change.at);
    if !side.steps[kind as usize].is_empty() {
        return None;
    }
    let old = side.source.table(kind)?.chain(&change.chain)?;
    let ended = old.rules.iter().position(|r| r.spec.ends_chain());
    let gone = old.rules.get(at).filter(|_| change.gone);
    let calls = gone.is_some_and(|r| matches!(r.spec.target, Target::Chain { .. }));
    if calls || ended.is_some_and(|end| end + 1 < old.rules.len()) {
        return None;
    }
    let table = rules.table(kind)?;
    let id = whole_chain(table, &change.chain)?;
    if !change.new {
        return Some((id, Edit::Remove(at)));
    }
    let new = table.chain(&change.chain)?.rules.get(at)?;
    let rule = lower_one(&new.spec, rules.family)?;
    let edit = match change.gone {
        true => Edit::Replace(at, rule),
        false => Edit::Insert(at, rule),
    };
    Some((id, edit))
}

/// The rule that distinguishes `new` from `old`, if nothing else does: neither other rules
/// nor their counters, which were `seen`.
fn only_change(old: &Ruleset, new: &Ruleset, seen: &[Counter]) -> Option<Change> {
    let mut found = None;
    let mut kinds = old.tables.iter().zip(&new.tables);
    if old.tables.len() != new.tables.len() || kinds.any(|(o, n)| o.kind != n.kind) {
        return None;
    }
    for (was, is) in old.tables.iter().zip(&new.tables) {
        if was.chains().count() != is.chains().count() {
            return None;
        }
        for (before, after) in was.chains().zip(is.chains()) {
            if before.name != after.name || !same_policy(before, after, seen) {
                return None;
            }
            match difference(&before.rules, &after.rules, seen)? {
                Difference::None => {}
                Difference::One { at, gone, new } => {
                    let change = Change {
                        table: is.kind,
                        chain: after.name.clone(),
                        at,
                        gone,
                        new,
                    };
                    if found.replace(change).is_some() {
                        return None;
                    }
                }
            }
        }
    }
    found
}

fn same_policy(old: &Chain, new: &Chain, seen: &[Counter]) -> bool {
    match (&old.base, &new.base) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            let same = (old.hook, old.policy, old.was) == (new.hook, new.policy, new.was);
            same && counted(seen, new.was) == Some(new.counters)
        }
        _ => false,
    }
}

/// How two lists of rules differ, if by one rule at most.
enum Difference {
    None,
    One { at: usize, gone: bool, new: bool },
}

fn difference(old: &[Rule], new: &[Rule], seen: &[Counter]) -> Option<Difference> {
    let stays = |(old, new): &(&Rule, &Rule)| {
        new.was.is_some() && old.was == new.was && counted(seen, new.was) == Some(new.counters)
    };
    let at = old.iter().zip(new).take_while(stays).count();
    let (old, new) = (&old[at..], &new[at..]);
    let after = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(stays)
        .count();
    let (gone, added) = (old.len() - after, new.len() - after);
    let fresh = new.iter().take(added).all(|r| r.was.is_none());
    match (gone, added) {
        (0, 0) => Some(Difference::None),
        (0 | 1, 0 | 1) if fresh => Some(Difference::One {
            at,
            gone: gone == 1,
            new: added == 1,
        }),
        _ => None,
    }
}
