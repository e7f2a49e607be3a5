//! Changing one rule in its place, in time that hardly grows with the rules beside it.

use tidegate_engine::{Counter, Edit, Gone, NotInPlace};
use tidegate_ir::{ChainId, RuleId};
use tidegate_syntax::{Change, Failure, Invocation, Rule, fits, lower_one};

use super::{LiveRules, Side, stopped};
use crate::locked;

impl LiveRules {
    /// Carries out a command line that changes one rule, if the engine can do it in place;
    /// otherwise nothing has happened.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(super) fn edit_in_place(
        &self,
        side: &mut Side,
        call: &Invocation,
    ) -> Result<bool, Failure> {
        side.source.timeouts = self.timeouts()?;
        let Some((mut change, chain, edit)) = planned(side, call) else {
            return Ok(false);
        };
        let Some(edit) = edit else {
            return Ok(true);
        };
        let (family, place) = (side.source.family, (call.table, chain));
        let counter = change.new.as_ref().map_or_else(Counter::default, counted);
        let edited = self.plane.with(move |engine, _| {
            let id = engine.edit(family, place, edit)?;
            id.into_iter()
                .for_each(|id| engine.set_counter(family, id, counter));
            Ok((id, engine.take_gone()))
        });
        let edited: Result<(Option<RuleId>, Vec<Gone>), NotInPlace> = edited.map_err(stopped)?;
        let Ok((id, gone)) = edited else {
            return Ok(false);
        };
        locked(&self.past).keep(&gone, &side.source);
        if let Some(rule) = &mut change.new {
            rule.was = id.map(|id| id.0);
        }
        self.plane.settle();
        let table = side.source.table_mut(call.table);
        if let Some(own) = call.command.chain().and_then(|name| table.chain_mut(name)) {
            change.make(own);
        }
        (self.changed)(family);
        Ok(true)
    }
}

fn counted(rule: &Rule) -> Counter {
    Counter {
        packets: rule.counters.packets,
        bytes: rule.counters.bytes,
    }
}

/// What the command changes and the engine is to do, where the change touches nothing but
/// its chain: all its rules are in the engine, the table keeps no state, and no other
/// chain is called or left. Nothing is to be done for a mere question.
fn planned(side: &Side, call: &Invocation) -> Option<(Change, ChainId, Option<Edit>)> {
    let (kind, rules) = (call.table, &side.source);
    if !side.steps[kind as usize].is_empty() {
        return None;
    }
    let name = call.command.chain()?;
    let (chain, hooks) = side.whole[kind as usize].get(name)?;
    let table = rules.table(kind)?;
    let own = table.chain(name)?;
    let change = Change::of(call, own).filter(|c| c.leaves_whole(own))?;
    let new = match &change.new {
        Some(new) if !fits(&new.spec, table, rules, hooks) => return None,
        Some(new) => Some(lower_one(&new.spec, rules.family)?),
        None => None,
    };
    let edit = match (change.gone, new) {
        (true, None) => Some(Edit::Remove(change.at)),
        (true, Some(rule)) => Some(Edit::Replace(change.at, rule)),
        (false, Some(rule)) => Some(Edit::Insert(change.at, rule)),
        (false, None) => None,
    };
    Some((change, *chain, edit))
}
