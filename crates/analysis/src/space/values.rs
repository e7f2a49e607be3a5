//! From values to codes and back.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_ir::Field;

use super::{Space, full};
use crate::bdd::{Set, TooBig};
use crate::looks::{Code, place};

impl Space {
    /// The code of a packet's values: a bit for each variable.
    pub(crate) fn codes(&self, mut load: impl FnMut(Field) -> Option<u128>) -> Vec<bool> {
        let mut codes = Vec::new();
        for (&field, slot) in &self.slots {
            let (first, bits) = (usize::from(slot.first), usize::from(slot.bits));
            if codes.len() <= first + bits {
                codes.resize(first + bits + 1, false);
            }
            let value = load(field);
            codes[first] = value.is_some();
            let code = match &slot.code {
                Code::Bits => value.unwrap_or(0),
                Code::Intervals(starts) => place(starts, value.unwrap_or(0)),
            };
            for i in 0..bits {
                codes[first + 1 + i] = code >> (bits - 1 - i) & 1 == 1;
            }
        }
        codes
    }

    /// The smallest value of a field under these bits; `None` where it is absent.
    pub(crate) fn value(&self, field: Field, bits: &BTreeMap<u16, bool>) -> Option<u128> {
        let slot = self.slots.get(&field)?;
        if !bits.get(&slot.first).copied().unwrap_or(false) {
            return None;
        }
        let code = (0..slot.bits).fold(0u128, |code, i| {
            code << 1 | u128::from(bits.get(&(slot.first + 1 + i)).copied().unwrap_or(false))
        });
        Some(match &slot.code {
            Code::Bits => code,
            Code::Intervals(starts) => starts.get(code as usize).copied().unwrap_or(0),
        })
    }

    /// First variable and bits of a field.
    pub(crate) fn place(&self, field: Field) -> Option<(u16, u16)> {
        self.slots.get(&field).map(|s| (s.first, s.bits))
    }

    /// The values of an interval of codes.
    pub(crate) fn decoded(&self, field: Field, (lo, hi): (u128, u128)) -> (u128, u128) {
        match self.slots.get(&field).map(|s| &s.code) {
            Some(Code::Intervals(starts)) => {
                let start = |code: u128| starts.get(code as usize).copied();
                let end = start(hi + 1).map_or(full(field), |next| next - 1);
                (start(lo).unwrap_or(0), end)
            }
            Some(Code::Bits) | None => (lo, hi),
        }
    }

    /// Intervals of a field that rules tell apart; none where they look at its bits.
    #[must_use]
    pub fn classes(&self, field: Field) -> Vec<(u128, u128)> {
        match self.slots.get(&field).map(|s| &s.code) {
            Some(Code::Intervals(starts)) => {
                let ends = starts.iter().skip(1).map(|next| next - 1);
                let ends = ends.chain([full(field)]);
                starts.iter().copied().zip(ends).collect()
            }
            Some(Code::Bits) | None => Vec::new(),
        }
    }

    /// `set` whatever the field is.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn without(&mut self, set: Set, field: Field) -> Result<Set, TooBig> {
        match self.place(field) {
            Some((first, bits)) => self.bdd.forget(set, first, 1 + bits),
            None => Ok(set),
        }
    }

    /// Variables that say a field is there.
    pub(crate) fn presence(&self) -> BTreeSet<u16> {
        self.slots.values().map(|s| s.first).collect()
    }

    /// Codes that no value has.
    pub(crate) fn unused(&mut self) -> Result<Set, TooBig> {
        let mut unused = Set::EMPTY;
        for slot in self.slots.values().cloned().collect::<Vec<_>>() {
            if let Code::Intervals(starts) = &slot.code {
                let used = starts.len() as u128;
                let last = (1u128 << slot.bits) - 1;
                let beyond = self.bdd.range(slot.first + 1, slot.bits, used, last)?;
                unused = self.bdd.or(unused, beyond)?;
            }
        }
        Ok(unused)
    }
}
