//! Rules as questions about all packets see them: sets that no rule changes are what they have now.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_ir::{Ruleset, Shared, Step};
use tidegate_sets::Sets;
use tidegate_xt::sets::{KIND, all};

use super::rules::Loaded;

/// Most addresses of a set that questions about all packets look at.
const MOST: usize = 4096;

impl Loaded {
    /// The rules with conditions in the place of looks into sets that stay as they are. What is
    /// said about them holds for as long as nobody changes the sets.
    pub(crate) fn settled(&self) -> Arc<Ruleset> {
        let mut shared = Shared::default();
        match all(&mut shared) {
            Some(sets) if !self.sets.is_empty() => *sets = self.sets.clone(),
            _ => return self.lowered.clone(),
        }
        let changing = self.lowered.effect_steps();
        let changing: BTreeSet<String> = changing
            .flat_map(|step| looked_into(step, &self.sets))
            .collect();
        let known = |step: &dyn Step| {
            let named = looked_into(step, &self.sets);
            let stays = !named.is_empty() && named.is_disjoint(&changing);
            stays.then(|| step.settled(&shared, MOST)).flatten()
        };
        let known: Vec<_> = self.lowered.steps.iter().map(|s| known(&**s)).collect();
        Arc::new(self.lowered.settled(&known))
    }
}

/// The sets that a step looks into or changes, those of lists among them.
pub(crate) fn looked_into(step: &dyn Step, sets: &Sets) -> BTreeSet<String> {
    let tables = step.tables().into_iter().filter(|key| key.kind == KIND);
    let named = tables.map(|key| key.name);
    sets.with_members(named).into_iter().collect()
}
