//! Codes for the values that rules can tell apart, and conditions as sets.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_ir::{Cond, Conds, Effect, Expr, Field, Ruleset, Test, ctstate};

use crate::bdd::{Bdd, Set, TooBig};

/// How a field's values are coded.
#[derive(Clone, Debug)]
enum Code {
    /// The bits of the value.
    Bits,
    /// The number of the interval it lies in; the intervals' first values.
    Intervals(Vec<u128>),
}

/// Place and code of a field.
#[derive(Clone, Debug)]
struct Slot {
    /// First variable: the field is there; then the code, highest bit first.
    first: u16,
    bits: u16,
    code: Code,
}

/// How a condition comes out for which packets. A packet may be in several of the sets
/// where a test keeps state.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// It can hold.
    pub holds: Set,
    /// It can fail to hold.
    pub fails: Set,
    /// It can drop the packet.
    pub drops: Set,
}

/// The space of packets that some rulesets can tell apart.
#[derive(Debug)]
pub struct Space {
    slots: BTreeMap<Field, Slot>,
    /// Sets.
    pub bdd: Bdd,
}

/// Fields in the order of their variables: what few values have and many rules test first.
const ORDER: [Field; 12] = [
    Field::CtState,
    Field::HasCt,
    Field::InName,
    Field::OutName,
    Field::FragOff,
    Field::Proto,
    Field::L4Len,
    Field::TcpFlags,
    Field::IcmpTypeCode,
    Field::Dport,
    Field::Sport,
    Field::Dst,
];

/// Fields that [`crate::possible`] talks about.
const ALWAYS: [Field; 7] = [
    Field::CtState,
    Field::HasCt,
    Field::InName,
    Field::OutName,
    Field::FragOff,
    Field::Proto,
    Field::L4Len,
];

/// What rules look at in one field.
#[derive(Default)]
struct Looks {
    starts: BTreeSet<u128>,
    /// Some test is no interval, or the field is written.
    bits: bool,
}

impl Looks {
    fn interval(&mut self, lo: u128, hi: u128) {
        self.starts.insert(lo);
        self.starts.extend(hi.checked_add(1));
    }
}

/// The interval of values with `value & mask == wanted`, if they are one.
fn prefix(field: Field, mask: u128, wanted: u128) -> Option<(u128, u128)> {
    let all = full(field);
    let free = all & !mask;
    let contiguous = free & free.wrapping_add(1) == 0;
    (contiguous && wanted & !mask == 0).then_some((wanted, wanted | free))
}

/// All bits of a field. Interface names are as wide as addresses.
fn full(field: Field) -> u128 {
    match field.row().bits {
        128.. => u128::MAX,
        bits => (1 << bits) - 1,
    }
}

impl Space {
    /// The space for these rulesets and for questions about these intervals, with at most
    /// `limit` diagram nodes.
    #[must_use]
    pub fn new<'r>(
        rulesets: impl IntoIterator<Item = &'r Ruleset>,
        questions: &[(Field, u128, u128)],
        limit: usize,
    ) -> Self {
        let mut looks: BTreeMap<Field, Looks> = BTreeMap::new();
        for &(field, lo, hi) in questions {
            looks.entry(field).or_default().interval(lo, hi);
        }
        for field in ALWAYS {
            looks.entry(field).or_default();
        }
        for value in [
            ctstate::INVALID,
            ctstate::ESTABLISHED,
            ctstate::RELATED,
            ctstate::NEW,
            ctstate::UNTRACKED,
        ] {
            looks
                .entry(Field::CtState)
                .or_default()
                .interval(value, value);
        }
        for field in [Field::InName, Field::OutName, Field::FragOff] {
            looks.entry(field).or_default().interval(0, 0);
        }
        looks.entry(Field::HasCt).or_default().bits = true;
        for edge in [2, 4, 14] {
            looks.entry(Field::L4Len).or_default().interval(0, edge - 1);
        }
        for proto in [1, 6, 17, 58] {
            looks
                .entry(Field::Proto)
                .or_default()
                .interval(proto, proto);
        }
        for (_, _, rule) in rulesets.into_iter().flat_map(Ruleset::rules) {
            rule.cond.visit(&mut |cond| look(cond, &mut looks));
            for effect in &rule.effects {
                if let Effect::Assign(field, _) = effect {
                    looks.entry(*field).or_default().bits = true;
                }
            }
        }
        Space {
            slots: slots(looks),
            bdd: Bdd::new(limit),
        }
    }

    /// Fields that rules look at.
    pub(crate) fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.slots.keys().copied()
    }

    /// Whether rules look at the field.
    #[must_use]
    pub fn has(&self, field: Field) -> bool {
        self.slots.contains_key(&field)
    }

    /// Packets that have the field at all.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn present(&mut self, field: Field) -> Result<Set, TooBig> {
        match self.slots.get(&field) {
            Some(slot) => self.bdd.bit(slot.first, true),
            None => Ok(Set::ALL),
        }
    }

    /// Packets whose field is in `lo..=hi`. Interval bounds that no rule has widen it.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn within(&mut self, field: Field, lo: u128, hi: u128) -> Result<Set, TooBig> {
        let Some(slot) = self.slots.get(&field).cloned() else {
            return Ok(Set::ALL);
        };
        let (lo, hi) = match &slot.code {
            Code::Bits => (lo, hi.min(full(field))),
            Code::Intervals(starts) => (place(starts, lo), place(starts, hi)),
        };
        let values = self.bdd.range(slot.first + 1, slot.bits, lo, hi)?;
        let there = self.bdd.bit(slot.first, true)?;
        self.bdd.and(values, there)
    }

    fn test(&mut self, test: &Test) -> Result<Set, TooBig> {
        let field = test.field();
        if let Some((mask, wanted)) = test.mask() {
            return self.masked(field, mask, wanted);
        }
        let mut all = Set::EMPTY;
        for (lo, hi) in test.intervals().into_iter().flatten() {
            // Above the field's largest value there is nothing.
            if lo <= full(field) {
                let one = self.within(field, lo, hi)?;
                all = self.bdd.or(all, one)?;
            }
        }
        Ok(all)
    }

    fn masked(&mut self, field: Field, mask: u128, wanted: u128) -> Result<Set, TooBig> {
        let Some(slot) = self.slots.get(&field).cloned() else {
            return Ok(Set::ALL);
        };
        match (&slot.code, prefix(field, mask, wanted)) {
            (Code::Intervals(_), Some((lo, hi))) => self.within(field, lo, hi),
            (Code::Intervals(_), None) => Ok(Set::EMPTY),
            (Code::Bits, _) if wanted & !mask != 0 || wanted > full(field) => Ok(Set::EMPTY),
            (Code::Bits, _) => {
                let mut set = self.bdd.bit(slot.first, true)?;
                for i in 0..slot.bits {
                    let bit = slot.bits - 1 - i;
                    if mask >> bit & 1 == 1 {
                        let one = self.bdd.bit(slot.first + 1 + i, wanted >> bit & 1 == 1)?;
                        set = self.bdd.and(set, one)?;
                    }
                }
                Ok(set)
            }
        }
    }

    /// How `cond` comes out.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn case(&mut self, cond: &Cond) -> Result<Case, TooBig> {
        let exact = |space: &mut Self, holds| -> Result<Case, TooBig> {
            Ok(Case {
                holds,
                fails: space.bdd.not(holds)?,
                drops: Set::EMPTY,
            })
        };
        match cond {
            Cond::Const(true) => exact(self, Set::ALL),
            Cond::Const(false) => exact(self, Set::EMPTY),
            Cond::Test(test) => {
                let holds = self.test(test)?;
                exact(self, holds)
            }
            Cond::Shared(inner) => self.case(inner),
            Cond::Not(inner) => {
                let c = self.case(inner)?;
                Ok(Case {
                    holds: c.fails,
                    fails: c.holds,
                    drops: c.drops,
                })
            }
            Cond::DropWhen(inner) => {
                let c = self.case(inner)?;
                Ok(Case {
                    holds: c.fails,
                    fails: Set::EMPTY,
                    drops: self.bdd.or(c.holds, c.drops)?,
                })
            }
            Cond::All(list) => self.chain(list.iter(), false),
            Cond::Any(list) => self.chain(list.iter(), true),
            // That some drop the packet when their tables are full is not followed.
            Cond::Call(_) => Ok(Case {
                holds: Set::ALL,
                fails: Set::ALL,
                drops: Set::EMPTY,
            }),
        }
    }

    /// How a rule's conditions come out together.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn rule(&mut self, conds: &Conds) -> Result<Case, TooBig> {
        self.chain(conds.iter(), false)
    }

    /// Tests one after the other, until one holds (`any`) or fails.
    fn chain<'c>(
        &mut self,
        list: impl Iterator<Item = &'c Cond>,
        any: bool,
    ) -> Result<Case, TooBig> {
        let (mut left, mut decided, mut drops) = (Set::ALL, Set::EMPTY, Set::EMPTY);
        for cond in list {
            let c = self.case(cond)?;
            let (ends, goes_on) = if any {
                (c.holds, c.fails)
            } else {
                (c.fails, c.holds)
            };
            let ends = self.bdd.and(left, ends)?;
            decided = self.bdd.or(decided, ends)?;
            let dropped = self.bdd.and(left, c.drops)?;
            drops = self.bdd.or(drops, dropped)?;
            left = self.bdd.and(left, goes_on)?;
        }
        let (holds, fails) = if any {
            (decided, left)
        } else {
            (left, decided)
        };
        Ok(Case {
            holds,
            fails,
            drops,
        })
    }

    /// What `effect` makes of the packets in `set`.
    ///
    /// # Errors
    /// The limit is reached.
    pub(crate) fn after(&mut self, set: Set, effect: &Effect) -> Result<Set, TooBig> {
        let changed: Vec<(Field, Slot)> = self
            .slots
            .iter()
            .filter(|(field, _)| effect.changes(**field))
            .map(|(field, slot)| (*field, slot.clone()))
            .collect();
        let mut set = set;
        for (field, slot) in changed {
            set = match effect {
                Effect::Assign(written, expr) if *written == field => {
                    self.assigned(set, field, &slot, *expr)?
                }
                _ => self.bdd.forget(set, slot.first, 1 + slot.bits)?,
            };
        }
        Ok(set)
    }

    /// Packets that do not have the field stay as they are.
    fn assigned(&mut self, set: Set, field: Field, slot: &Slot, expr: Expr) -> Result<Set, TooBig> {
        let Expr::Masked { keep: 0, xor } = expr else {
            return self.bdd.forget(set, slot.first + 1, slot.bits);
        };
        let there = self.bdd.bit(slot.first, true)?;
        let written = self.bdd.and(set, there)?;
        let absent = self.bdd.minus(set, there)?;
        let free = self.bdd.forget(written, slot.first + 1, slot.bits)?;
        let value = self.masked(field, full(field), xor & full(field))?;
        let written = self.bdd.and(free, value)?;
        self.bdd.or(written, absent)
    }

    /// The code of a packet's values, bit by bit.
    pub(crate) fn codes(&self, mut load: impl FnMut(Field) -> Option<u128>) -> BTreeMap<u16, bool> {
        let mut codes = BTreeMap::new();
        for (&field, slot) in &self.slots {
            let value = load(field);
            codes.insert(slot.first, value.is_some());
            let code = match &slot.code {
                Code::Bits => value.unwrap_or(0),
                Code::Intervals(starts) => place(starts, value.unwrap_or(0)),
            };
            for i in 0..slot.bits {
                let bit = code >> (slot.bits - 1 - i) & 1 == 1;
                codes.insert(slot.first + 1 + i, bit);
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

/// Number of the interval that `value` lies in.
fn place(starts: &[u128], value: u128) -> u128 {
    starts.partition_point(|&s| s <= value).saturating_sub(1) as u128
}

fn look(cond: &Cond, looks: &mut BTreeMap<Field, Looks>) {
    let Cond::Test(test) = cond else {
        return;
    };
    let look = looks.entry(test.field()).or_default();
    for (lo, hi) in test.intervals().into_iter().flatten() {
        look.interval(lo, hi);
    }
    if let Some((mask, wanted)) = test.mask() {
        match prefix(test.field(), mask, wanted) {
            Some((lo, hi)) => look.interval(lo, hi),
            // What cannot hold distinguishes nothing.
            None if wanted & !mask != 0 => {}
            None => look.bits = true,
        }
    }
}

fn slots(mut looks: BTreeMap<Field, Looks>) -> BTreeMap<Field, Slot> {
    let mut slots = BTreeMap::new();
    let mut next = 0;
    let first = ORDER.into_iter().filter_map(|f| looks.remove_entry(&f));
    let ordered: Vec<(Field, Looks)> = first.collect();
    for (field, look) in ordered.into_iter().chain(looks) {
        let (bits, code) = if look.bits {
            (u16::from(field.row().bits), Code::Bits)
        } else {
            let mut starts = look.starts;
            starts.insert(0);
            let starts: Vec<u128> = starts.into_iter().filter(|s| *s <= full(field)).collect();
            let bits = usize::BITS - (starts.len() - 1).leading_zeros();
            (bits as u16, Code::Intervals(starts))
        };
        let slot = Slot {
            first: next,
            bits,
            code,
        };
        next += 1 + bits;
        slots.insert(field, slot);
    }
    slots
}
