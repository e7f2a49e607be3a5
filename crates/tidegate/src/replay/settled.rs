//! Rules as questions about all packets see them: sets that no rule changes are what they have now.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_ir::{Chain, Cond, Effect, Rule, Ruleset, Shared, Step, Table};
use tidegate_sets::{Members, Sets};
use tidegate_xt::sets::{KIND, all};

use super::rules::Loaded;

impl Loaded {
    /// The rules with conditions in the place of looks into sets that stay as they are. What is
    /// said about them holds for as long as nobody changes the sets.
    pub(crate) fn settled(&self) -> Arc<Ruleset> {
        let mut shared = Shared::default();
        match all(&mut shared) {
            Some(sets) if !self.sets.is_empty() => *sets = self.sets.clone(),
            _ => return self.lowered.clone(),
        }
        let rules = &*self.lowered;
        let changing = changing(rules, &self.sets);
        let one = |step: &dyn Step| {
            let named = looked_into(step, &self.sets);
            let stays = !named.is_empty() && named.is_disjoint(&changing);
            stays.then(|| step.settled(&shared)).flatten()
        };
        let known: Vec<Option<Cond>> = rules.steps.iter().map(|s| one(&**s)).collect();
        Arc::new(Ruleset {
            family: rules.family,
            tables: rules
                .tables
                .each_ref()
                .map(|t| t.as_ref().map(|t| table(t, &known))),
            steps: rules.steps.iter().map(|s| s.fresh()).collect(),
            rule_ids: rules.rule_ids,
            tracks_connections: rules.tracks_connections,
            reassembles: rules.reassembles,
            asks_sockets: rules.asks_sockets,
        })
    }
}

/// The sets that a step looks into or changes, those of lists among them.
pub(crate) fn looked_into(step: &dyn Step, sets: &Sets) -> BTreeSet<String> {
    let tables = step.tables().into_iter().filter(|key| key.kind == KIND);
    let mut names: BTreeSet<String> = tables.map(|key| key.name).collect();
    let lists: Vec<&Members> = names
        .iter()
        .filter_map(|n| Some(sets.get(n)?.members()))
        .collect();
    for list in lists {
        if let Members::List(list) = list {
            names.extend(list.iter().map(|(name, _)| name.clone()));
        }
    }
    names
}

/// Sets that rules put packets into or take them out of.
fn changing(rules: &Ruleset, sets: &Sets) -> BTreeSet<String> {
    let effects = rules.rules().flat_map(|(_, _, rule)| &rule.effects);
    let steps = effects.filter_map(|effect| match effect {
        Effect::Call { step, .. } => rules.steps.get(step.0 as usize),
        _ => None,
    });
    steps.flat_map(|step| looked_into(&**step, sets)).collect()
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
