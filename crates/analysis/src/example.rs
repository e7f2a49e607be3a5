//! Single packets: examples out of sets, and their way through the rules.

use std::collections::BTreeMap;

use tidegate_ir::{Field, StepId, Truth};

use crate::bdd::{Set, TooBig};
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

/// Ascending intervals of values, and whether they are all.
pub type Values = (Vec<(u128, u128)>, bool);

impl Space {
    /// A packet out of `set`, with the smallest values that will do; `None` when it is
    /// empty. Fields that rules do not look at are left out.
    #[must_use]
    pub fn example(&self, set: Set) -> Option<Example> {
        let presence = self.presence();
        let picked = self.bdd.pick(set, |var| presence.contains(&var))?;
        let bits: BTreeMap<u16, bool> = presence.iter().map(|v| (*v, true)).collect();
        Some(self.facts(bits, picked))
    }

    /// A packet out of `set`, another one for each `salt`.
    pub(crate) fn any_example(&self, set: Set, salt: u64) -> Option<Example> {
        let presence = self.presence();
        let random = |var: u16| {
            let mixed = (salt ^ u64::from(var) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ mixed >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40 & 1 == 1
        };
        let prefer = |var: u16| presence.contains(&var) || random(var);
        let picked = self.bdd.pick(set, prefer)?;
        let bits = presence.iter().map(|v| (*v, true)).collect();
        Some(self.facts(bits, picked))
    }

    fn facts(&self, mut bits: BTreeMap<u16, bool>, picked: Vec<(u16, bool)>) -> Example {
        bits.extend(picked);
        let values = self
            .fields()
            .filter_map(|f| Some((f, self.value(f, &bits)?)));
        Facts {
            values: values.collect(),
            steps: true,
        }
    }

    /// A packet out of `set` that has as many of these values as possible, the first ones
    /// above all.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn example_near(
        &mut self,
        set: Set,
        wanted: &[(Field, u128)],
    ) -> Result<Option<Example>, TooBig> {
        let (mut left, mut values) = (set, BTreeMap::new());
        for &(field, value) in wanted {
            if !self.has(field) || values.contains_key(&field) {
                continue;
            }
            let class = self.within(field, value, value)?;
            let some = self.bdd.and(left, class)?;
            if !some.is_empty() {
                left = some;
                values.insert(field, value);
            }
        }
        let mut example = self.example(left);
        if let Some(packet) = &mut example {
            for field in [Field::Src, Field::Dst] {
                if let Some(value) = packet.values.get_mut(&field) {
                    *value = self.host(field, *value);
                }
            }
            packet.values.extend(values);
        }
        Ok(example)
    }

    /// An address that rules cannot tell from this one and that looks like a host's: the first one
    /// of a network seldom is.
    fn host(&self, field: Field, address: u128) -> u128 {
        let (first, last) = self.widened(field, address, address);
        address + u128::from(first == address && address < last)
    }

    /// Packets that rules cannot tell from this one, by the fields that `of` names.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn like(&mut self, packet: &Facts, of: &[Field]) -> Result<Set, TooBig> {
        let mut set = Set::ALL;
        for field in of.iter().filter(|f| packet.values.contains_key(f)) {
            let value = packet.values[field];
            let one = self.within(*field, value, value)?;
            set = self.bdd.and(set, one)?;
        }
        Ok(set)
    }

    /// Values of a field in `set`, as ascending intervals, at most `most` of them, and
    /// whether these are all. `None` where rules do not look at the field.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn values(
        &mut self,
        set: Set,
        field: Field,
        most: usize,
    ) -> Result<Option<Values>, TooBig> {
        let Some((first, bits)) = self.place(field) else {
            return Ok(None);
        };
        let there = self.bdd.bit(first, true)?;
        let set = self.bdd.and(set, there)?;
        let only = self.bdd.only(set, first + 1, bits)?;
        let (codes, all) = self.bdd.numbers(only, first + 1, bits, most);
        let values = codes.into_iter().map(|c| self.decoded(field, c));
        Ok(Some((values.collect(), all)))
    }

    /// A packet by its codes, to be looked for in several sets.
    #[must_use]
    pub fn point(&self, packet: &Facts) -> Point {
        Point(self.codes(|f| packet.values.get(&f).copied()))
    }

    /// Whether a packet is in `set`.
    #[must_use]
    pub fn contains(&self, set: Set, packet: &Point) -> bool {
        let bit = |var| packet.0.get(usize::from(var)).copied().unwrap_or(false);
        self.bdd.contains(set, bit)
    }
}

/// A packet by its codes ([`Space::point`]).
#[derive(Clone, Debug)]
pub struct Point(Vec<bool>);
