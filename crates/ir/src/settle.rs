//! Rules with conditions in the place of tests that look into tables.

use alloc::boxed::Box;

use crate::{Chain, Cond, Effect, Rule, Ruleset, Step, Table};

impl Ruleset {
    /// The same rules with a condition in the place of each test for which `known` has one, by
    /// the test's [`StepId`](crate::StepId).
    #[must_use]
    pub fn settled(&self, known: &[Option<Cond>]) -> Ruleset {
        let table = |t: &Option<Table>| t.as_ref().map(|t| table(t, known));
        Ruleset {
            family: self.family,
            tables: self.tables.each_ref().map(table),
            steps: self.steps.iter().map(|s| s.fresh()).collect(),
            rule_ids: self.rule_ids,
            tracks_connections: self.tracks_connections,
            reassembles: self.reassembles,
            asks_sockets: self.asks_sockets,
        }
    }

    /// The steps that rules run for what they do, not as a test.
    pub fn effect_steps(&self) -> impl Iterator<Item = &dyn Step> {
        let effects = self.rules().flat_map(|(_, _, rule)| &rule.effects);
        effects.filter_map(|effect| match effect {
            Effect::Call { step, .. } => self.steps.get(step.0 as usize).map(|s| &**s),
            _ => None,
        })
    }
}

fn table(from: &Table, known: &[Option<Cond>]) -> Table {
    let rule = |rule: &Rule| Rule {
        cond: rule.cond.iter().map(|c| settled(c, known)).collect(),
        ..rule.clone()
    };
    let chain = |chain: &Chain| Chain {
        name: chain.name.clone(),
        base: chain.base,
        rules: chain.rules.iter().map(rule).collect(),
    };
    Table {
        kind: from.kind,
        chains: from.chains.iter().map(chain).collect(),
        entry: from.entry,
    }
}

fn settled(cond: &Cond, known: &[Option<Cond>]) -> Cond {
    let inner = |c: &Cond| Box::new(settled(c, known));
    match cond {
        Cond::Call(id) => known
            .get(id.0 as usize)
            .cloned()
            .flatten()
            .unwrap_or(Cond::Call(*id)),
        Cond::All(list) => Cond::All(list.iter().map(|c| settled(c, known)).collect()),
        Cond::Any(list) => Cond::Any(list.iter().map(|c| settled(c, known)).collect()),
        Cond::Not(c) => Cond::Not(inner(c)),
        Cond::DropWhen(c) => Cond::DropWhen(inner(c)),
        // What many rules share keeps no state.
        Cond::Shared(_) | Cond::Const(_) | Cond::Test(_) => cond.clone(),
    }
}
