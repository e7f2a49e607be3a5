//! Tests that keep state between packets.

use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};
use core::any::Any;
use core::fmt::Debug;

use crate::{Cond, Expr, Facts, Field, Truth};

/// Index of a [`Step`] in [`Ruleset::steps`](crate::Ruleset::steps).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub u32);

/// What a step may look at. Time and randomness come from outside, so that the same
/// inputs give the same answers.
pub struct StepInput<'a> {
    /// Nanoseconds on the caller's clock, since 1970 where that is known.
    pub now: u64,
    /// A fresh random number.
    pub random: u32,
    /// Bytes of the network packet.
    pub len: u32,
    /// The packet and its surroundings.
    pub facts: &'a mut dyn Facts,
    /// Tables that several rules share.
    pub shared: &'a mut Shared,
    /// What the step wants written to the packet: its mark or its priority. It is done
    /// after the step, and only where an effect runs it ([`Effect::Call`]).
    ///
    /// [`Effect::Call`]: crate::Effect::Call
    pub writes: &'a mut Vec<(Field, Expr)>,
}

/// A test that keeps state, as one rule owns it.
pub trait Step: Debug + Send + Sync {
    /// Whether this packet matches; updates the state.
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth;

    /// The state in a few words, for explanations ("bucket empty, refills in 0.4 s").
    fn describe(&self, now: u64) -> String;

    /// Until when (nanoseconds on the caller's clock) it matches no packet, and calls that are left
    /// out change nothing of what later ones say; 0 for no time at all. `None` for a step of which
    /// that can never be said.
    fn quiet_until(&self) -> Option<u64> {
        None
    }

    /// A copy of the step in its initial state, for loading the same rules anew.
    fn fresh(&self) -> Box<dyn Step>;

    /// Called when the rule is loaded: the place to make the [`Shared`] table.
    fn load(&self, _shared: &mut Shared) {}

    /// The test as a condition on fields, which it is as long as the tables that it looks into stay
    /// as they are; `None` where it is none, or is one of more than `most` addresses.
    fn settled(&self, _shared: &Shared, _most: usize) -> Option<Cond> {
        None
    }

    /// Numbers of which one changes whenever somebody changes what [`Step::settled`] depends on;
    /// `None` where packets that it looks at, or time, change that too, or where that is none.
    fn settled_as_of(&self, _shared: &Shared, _most: usize) -> Option<Vec<u64>> {
        None
    }

    /// The [`Shared`] tables it works on, and what is named in such a table.
    fn tables(&self) -> Vec<TableKey> {
        Vec::new()
    }

    /// The same, and what is named in those.
    fn reaches(&self, _shared: &Shared) -> Vec<TableKey> {
        self.tables()
    }
}

/// Which of the [`Shared`] tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableKey {
    /// Kind of table, as the extension calls it.
    pub kind: &'static str,
    /// Name in the rules.
    pub name: String,
}

/// A named table of one kind.
pub trait SharedTable: Any + Debug + Send + Sync {
    /// The table as what it is.
    fn as_any(&self) -> &dyn Any;
    /// The same, to be changed.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Debug + Send + Sync> SharedTable for T {
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Named tables that rules share and that outlive a change of rules, as long as some
/// rule names them, or for good.
#[derive(Debug, Default)]
pub struct Shared {
    tables: BTreeMap<TableKey, Box<dyn SharedTable>>,
    lasting: Vec<TableKey>,
}

impl Shared {
    /// The table of that key, if there is one of this type.
    #[must_use]
    pub fn get<T: Any>(&self, key: &TableKey) -> Option<&T> {
        self.tables.get(key)?.as_ref().as_any().downcast_ref()
    }

    /// The same, to be changed.
    pub fn get_mut<T: Any>(&mut self, key: &TableKey) -> Option<&mut T> {
        self.tables
            .get_mut(key)?
            .as_mut()
            .as_any_mut()
            .downcast_mut()
    }

    /// The table of that key, made by `new` when there is none yet.
    pub fn table<T: SharedTable>(
        &mut self,
        key: &TableKey,
        new: impl FnOnce() -> T,
    ) -> Option<&mut T> {
        if !self.tables.contains_key(key) {
            self.tables.insert(key.clone(), Box::new(new()));
        }
        self.get_mut(key)
    }

    /// The same for a table that stays even if no rule names it.
    pub fn lasting<T: SharedTable>(
        &mut self,
        key: &TableKey,
        new: impl FnOnce() -> T,
    ) -> Option<&mut T> {
        if !self.lasting.contains(key) {
            self.lasting.push(key.clone());
        }
        self.table(key, new)
    }

    /// The names of the tables of a kind, in order.
    pub fn names(&self, kind: &'static str) -> impl Iterator<Item = &str> {
        let of_kind = self.tables.keys().filter(move |k| k.kind == kind);
        of_kind.map(|k| k.name.as_str())
    }

    /// Forgets the tables for which `keep` is false; not those that last.
    pub fn retain(&mut self, mut keep: impl FnMut(&TableKey) -> bool) {
        let lasting = &self.lasting;
        self.tables
            .retain(|key, _| lasting.contains(key) || keep(key));
    }
}
