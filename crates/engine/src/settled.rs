//! The rules as somebody else can follow them who sees packets only: tables that neither packets
//! nor time change, such as most sets, are what they hold now.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tidegate_ir::{Cond, Ruleset, Step, TableKey};
use tidegate_wire::Family;

use crate::engine::{Engine, index};

/// Most addresses that a test may ask for: what a set has room for unless it is told otherwise.
const MOST: usize = 65_536;

/// Rules, and conditions that stand for some of their tests.
#[derive(Debug)]
pub struct Settled {
    rules: Arc<Ruleset>,
    known: Vec<Option<Cond>>,
    settled: OnceLock<Ruleset>,
}

impl Settled {
    /// The rules with these conditions: if there are any, a copy that is made when somebody asks
    /// for it, which takes time with many rules.
    pub fn rules(&self) -> &Ruleset {
        match self.known.iter().all(Option::is_none) {
            true => &self.rules,
            false => {
                let settled = || self.rules.settled(&self.known);
                self.settled.get_or_init(settled)
            }
        }
    }
}

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
    /// A family's rules, and what is known of tests that look into tables which neither packets
    /// nor time change. That holds as long as [`Engine::basis`] stays as it is.
    #[must_use]
    pub fn settled(&self, family: Family) -> Settled {
        let rules = &self.families[index(family)].rules;
        let changing = self.changing();
        let known = |step: &dyn Step| {
            self.as_of(step, &changing)?;
            step.settled(&self.shared, MOST)
        };
        Settled {
            rules: Arc::clone(rules),
            known: rules.steps.iter().map(|step| known(&**step)).collect(),
            settled: OnceLock::new(),
        }
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
        let as_of = step.settled_as_of(&self.shared, MOST)?;
        let reached = step.reaches(&self.shared);
        let stays = reached.iter().all(|key| !changing.contains(key));
        stays.then_some(as_of)
    }

    /// Tables that rules of either family change, if any look into some.
    fn changing(&self) -> BTreeSet<TableKey> {
        let mut all = self.families.iter().flat_map(|f| &f.rules.steps);
        if !all.any(|step| step.settled_as_of(&self.shared, MOST).is_some()) {
            return BTreeSet::new();
        }
        let steps = self.families.iter().flat_map(|f| f.rules.effect_steps());
        steps.flat_map(|step| step.reaches(&self.shared)).collect()
    }
}
