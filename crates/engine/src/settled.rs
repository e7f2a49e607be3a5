//! The rules as somebody else can follow them who sees packets only: tables that neither packets
//! nor time change, such as most sets, are what they hold now.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_ir::{Ruleset, Step, TableKey};
use tidegate_wire::Family;

use crate::engine::{Engine, index};

/// What [`Engine::settled`] was taken from.
#[derive(Debug, Default)]
pub(crate) struct Basis(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    /// Of rules and surroundings.
    epoch: u64,
    /// Of tables.
    as_of: Vec<u64>,
    /// Somebody may have changed tables.
    touched: bool,
    /// How many there have been.
    number: u64,
}

impl Basis {
    /// Tables are about to change.
    pub(crate) fn touch(&mut self) {
        let noted = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        noted.touched = true;
    }
}

impl Engine {
    /// A family's rules, with conditions in the place of tests that look into tables which
    /// neither packets nor time change. They hold as long as [`Engine::basis`] stays as it is.
    #[must_use]
    pub fn settled(&self, family: Family) -> Arc<Ruleset> {
        let rules = &self.families[index(family)].rules;
        let changing = self.changing();
        let stays = |step: &dyn Step| self.as_of(step, &changing).is_some();
        if !rules.steps.iter().any(|step| stays(&**step)) {
            return Arc::clone(rules);
        }
        let known = |step: &dyn Step| stays(step).then(|| step.settled(&self.shared)).flatten();
        Arc::new(rules.settled(known))
    }

    /// A number that changes with rules, with surroundings, and with tables that
    /// [`Engine::settled`] looks into.
    #[must_use]
    pub fn basis(&self) -> u64 {
        let mut noted = self.basis.0.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = self.epoch();
        if noted.number == 0 || noted.epoch != epoch || std::mem::take(&mut noted.touched) {
            let as_of = self.all_as_of();
            if noted.number == 0 || (noted.epoch, &noted.as_of) != (epoch, &as_of) {
                noted.number += 1;
                (noted.epoch, noted.as_of) = (epoch, as_of);
            }
        }
        noted.number
    }

    fn all_as_of(&self) -> Vec<u64> {
        let steps = self.families.iter().flat_map(|f| &f.rules.steps);
        let changing = self.changing();
        let all = steps.filter_map(|step| self.as_of(&**step, &changing));
        all.flatten().collect()
    }

    /// The numbers of what a step looks into, if nobody in `changing` changes that.
    fn as_of(&self, step: &dyn Step, changing: &BTreeSet<TableKey>) -> Option<Vec<u64>> {
        let as_of = step.settled_as_of(&self.shared)?;
        let reached = step.reaches(&self.shared);
        let stays = reached.iter().all(|key| !changing.contains(key));
        stays.then_some(as_of)
    }

    /// Tables that rules of either family change.
    fn changing(&self) -> BTreeSet<TableKey> {
        let steps = self.families.iter().flat_map(|f| f.rules.effect_steps());
        steps.flat_map(|step| step.reaches(&self.shared)).collect()
    }
}
