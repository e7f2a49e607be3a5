//! Single packets: examples out of sets, and their way through the rules.

use std::collections::BTreeMap;

use tidegate_ir::{Field, StepId, Truth};

use crate::bdd::Set;
use crate::space::Space;

/// A packet as conditions see it: the values of its fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Values; what is not in here the packet does not have.
    pub values: BTreeMap<Field, u128>,
    /// How stateful tests come out.
    pub steps: bool,
}

impl tidegate_ir::Facts for Facts {
    fn load(&mut self, field: Field) -> Option<u128> {
        self.values.get(&field).copied()
    }

    fn step(&mut self, _: StepId) -> Truth {
        self.steps.into()
    }
}

impl Facts {
    /// How a condition comes out for the packet.
    pub fn eval(&mut self, conds: &tidegate_ir::Conds) -> Truth {
        conds.eval(self, &mut ())
    }
}

/// A packet out of a set.
pub type Example = Facts;

impl Space {
    /// A packet out of `set`, with the smallest values that will do; `None` when it is
    /// empty. Fields that rules do not look at are left out.
    #[must_use]
    pub fn example(&self, set: Set) -> Option<Example> {
        let presence = self.presence();
        let picked = self.bdd.pick(set, |var| presence.contains(&var))?;
        let mut bits: BTreeMap<u16, bool> = presence.iter().map(|v| (*v, true)).collect();
        bits.extend(picked);
        let values = self
            .fields()
            .filter_map(|f| Some((f, self.value(f, &bits)?)));
        Some(Facts {
            values: values.collect(),
            steps: true,
        })
    }

    /// Whether a packet is in `set`.
    #[must_use]
    pub fn contains(&self, set: Set, packet: &Facts) -> bool {
        let codes = self.codes(|f| packet.values.get(&f).copied());
        self.bdd
            .contains(set, |var| codes.get(&var).copied().unwrap_or(false))
    }
}
