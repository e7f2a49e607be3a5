//! Codes for the values that rules can tell apart, and conditions as sets.

mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_ir::{Cond, Conds, Effect, Field, Ruleset, Test};

use crate::bdd::{Bdd, Set, TooBig};
use crate::lens::{Bound, Lens, LensId, Lenses};
use crate::looks::{Code, Looks, Slot, looks, mirrored, place, slots};

/// How a condition comes out for which packets. All others fail it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// It can hold.
    pub holds: Set,
    /// It can drop the packet.
    pub drops: Set,
    /// Those of them for which it can fail as well: a test keeps state or sees what is not
    /// known.
    pub doubt: Set,
}

impl Case {
    const fn exact(holds: Set) -> Self {
        Case {
            holds,
            drops: Set::EMPTY,
            doubt: Set::EMPTY,
        }
    }

    const EITHER: Case = Case {
        holds: Set::ALL,
        drops: Set::EMPTY,
        doubt: Set::ALL,
    };
}

/// Stateful tests as predicates that hold or not, nobody knows why.
#[derive(Debug, Default)]
struct Opaque {
    /// Names of the tests of the ruleset that is followed, by step; none: they come out
    /// either way.
    names: Option<Arc<Vec<u32>>>,
    /// Where packets are: the same test elsewhere is another predicate.
    place: u32,
    /// Variables by name and place.
    vars: BTreeMap<(u32, u32), u16>,
    /// The first variable, and the next one.
    first: u16,
    next: u16,
}

/// Most predicates.
const PREDICATES: u16 = 20_000;

/// Steps that a new lens stands for.
const LENS: u64 = 100;

/// The space of packets that some rulesets can tell apart.
#[derive(Debug)]
pub struct Space {
    slots: BTreeMap<Field, Slot>,
    lenses: Lenses,
    opaque: Opaque,
    /// Sets.
    pub bdd: Bdd,
}

/// The interval of values with `value & mask == wanted`, if they are one.
pub(crate) fn prefix(field: Field, mask: u128, wanted: u128) -> Option<(u128, u128)> {
    let all = full(field);
    let free = all & !mask;
    let contiguous = free & free.wrapping_add(1) == 0;
    (contiguous && wanted & !mask == 0).then_some((wanted, wanted | free))
}

/// The bits that all values in an interval share and no others do, if it is a network.
fn network(all: u128, lo: u128, hi: u128) -> Option<u128> {
    let free = lo ^ hi;
    let whole = free & free.wrapping_add(1) == 0 && lo & free == 0;
    whole.then_some(all & !free)
}

/// All bits of a field. Interface names are as wide as addresses.
pub(crate) const fn full(field: Field) -> u128 {
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
        Space::of(looks(rulesets, questions), limit)
    }

    /// As [`new`](Self::new) for whole connections: addresses, ports and interfaces of one
    /// direction are told apart as finely as those of the other.
    #[must_use]
    pub fn mirrored<'r>(
        rulesets: impl IntoIterator<Item = &'r Ruleset> + Clone,
        questions: &[(Field, u128, u128)],
        limit: usize,
    ) -> Self {
        Space::of(mirrored(rulesets, questions), limit)
    }

    fn of(looks: BTreeMap<Field, Looks>, limit: usize) -> Self {
        let slots = slots(looks);
        let end = slots
            .values()
            .map(|s| s.first + 1 + s.bits)
            .max()
            .unwrap_or(0);
        Space {
            opaque: Opaque {
                first: end,
                next: end,
                ..Opaque::default()
            },
            slots,
            lenses: Lenses::default(),
            bdd: Bdd::new(limit),
        }
    }

    /// Forgets all sets but the empty and the full one, all lenses but the clear one, and how much
    /// work has been done.
    pub fn clear(&mut self) {
        self.bdd.clear();
        self.lenses = Lenses::default();
    }

    /// A lens by its name.
    #[must_use]
    pub fn lens(&self, id: LensId) -> Arc<Lens> {
        self.lenses.get(id)
    }

    /// The name of a lens.
    ///
    /// # Errors
    /// The limit is reached: a new one is as much work as many nodes, and takes as much room.
    pub fn name(&mut self, lens: Lens) -> Result<LensId, TooBig> {
        let (id, new) = self.lenses.intern(lens);
        if new {
            self.bdd.spend(LENS)?;
        }
        Ok(id)
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

    /// The values that [`within`](Self::within) takes for `lo..=hi`.
    pub(crate) fn widened(&self, field: Field, lo: u128, hi: u128) -> (u128, u128) {
        match self.slots.get(&field).map(|s| &s.code) {
            Some(Code::Intervals(starts)) => {
                self.decoded(field, (place(starts, lo), place(starts, hi)))
            }
            Some(Code::Bits) => (lo, hi),
            None => (0, u128::MAX),
        }
    }

    /// Short numbers for an interval, in the order of the values: intervals that do not meet have
    /// numbers that do not.
    pub(crate) fn coded(&self, field: Field, lo: u128, hi: u128) -> (u32, u32) {
        match self.slots.get(&field).map(|s| &s.code) {
            Some(Code::Intervals(starts)) => (place(starts, lo) as u32, place(starts, hi) as u32),
            Some(Code::Bits) if full(field) <= u128::from(u32::MAX) => {
                (lo as u32, hi.min(u128::from(u32::MAX)) as u32)
            }
            Some(Code::Bits) | None => (0, u32::MAX),
        }
    }

    /// Packets whose field is in `lo..=hi`. Interval bounds that no rule has widen it.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn within(&mut self, field: Field, lo: u128, hi: u128) -> Result<Set, TooBig> {
        let Some(slot) = self.slots.get(&field) else {
            return Ok(Set::ALL);
        };
        let (lo, hi) = match &slot.code {
            Code::Bits => (lo, hi.min(full(field))),
            Code::Intervals(starts) => (place(starts, lo), place(starts, hi)),
        };
        let values = self.bdd.range(slot.first + 1, slot.bits, lo, hi)?;
        self.bdd.above(slot.first, values)
    }

    /// Packets with a value in each of these intervals, quickly made.
    pub(crate) fn cube(&mut self, of: &[(Field, u128, u128)]) -> Result<Set, TooBig> {
        let slot = |f: &(Field, u128, u128)| self.slots.get(&f.0).cloned().map(|s| (s, f.1, f.2));
        let mut all: Vec<(Slot, u128, u128)> = of.iter().filter_map(slot).collect();
        all.sort_by_key(|s| std::cmp::Reverse(s.0.first));
        let mut set = Set::ALL;
        for (slot, lo, hi) in all {
            let (lo, hi) = match &slot.code {
                Code::Bits => (lo, hi),
                Code::Intervals(starts) => (place(starts, lo), place(starts, hi)),
            };
            set = match lo == hi {
                true => self.bdd.value(slot.first + 1, slot.bits, lo, set)?,
                false => {
                    let range = self.bdd.range(slot.first + 1, slot.bits, lo, hi)?;
                    self.bdd.and(range, set)?
                }
            };
            set = self.bdd.above(slot.first, set)?;
        }
        Ok(set)
    }

    /// How one test comes out.
    fn test(&mut self, test: &Test, lens: &Lens) -> Result<Case, TooBig> {
        if test.field() == Field::CtLabels {
            // Tests may set them.
            return Ok(Case::EITHER);
        }
        let (from, keep, xor) = match lens.get(test.field()) {
            Bound::Const(value) if test.holds(value) => return Ok(Case::exact(Set::ALL)),
            Bound::Const(_) | Bound::Absent => return Ok(Case::exact(Set::EMPTY)),
            Bound::Unknown => return Ok(Case::EITHER),
            Bound::Of { from, .. } if !self.has(from) => return Ok(Case::EITHER),
            Bound::Of { from, keep, xor } => (from, keep, xor),
        };
        let all = full(test.field());
        if let Some((mask, wanted)) = test.mask() {
            return self.masked(from, mask & keep, wanted ^ xor & mask);
        }
        let whole = keep == all && xor == 0;
        let (mut holds, mut exact) = (Set::EMPTY, true);
        for (lo, hi) in test.intervals().into_iter().flatten() {
            // Above the field's largest value there is nothing.
            if lo > all {
                continue;
            }
            let one = if whole {
                exact &= self.tells_apart(from, lo, hi);
                Case::exact(self.within(from, lo, hi)?)
            } else if let Some(mask) = network(all, lo, hi) {
                let wanted = (lo ^ xor) & mask;
                self.masked(from, mask & keep, wanted)?
            } else {
                Case::EITHER
            };
            exact &= one.doubt.is_empty();
            holds = self.bdd.or(holds, one.holds)?;
        }
        let doubt = if exact { Set::EMPTY } else { holds };
        Ok(Case {
            holds,
            drops: Set::EMPTY,
            doubt,
        })
    }

    /// Packets whose field has all these bits.
    pub(crate) fn bits(&mut self, field: Field, bits: u128) -> Result<Set, TooBig> {
        Ok(self.masked(field, bits, bits)?.holds)
    }

    /// Whether the codes of a field have exactly this interval.
    fn tells_apart(&self, field: Field, lo: u128, hi: u128) -> bool {
        self.slots.get(&field).is_none_or(|slot| match &slot.code {
            Code::Bits => true,
            Code::Intervals(starts) => {
                let edge = |v| starts.binary_search(&v).is_ok();
                edge(lo) && (hi >= full(field) || edge(hi + 1))
            }
        })
    }

    /// Where `field & mask == wanted`.
    fn masked(&mut self, field: Field, mask: u128, wanted: u128) -> Result<Case, TooBig> {
        if wanted & !mask != 0 || wanted > full(field) {
            return Ok(Case::exact(Set::EMPTY));
        }
        let Some(slot) = self.slots.get(&field).cloned() else {
            return Ok(Case::EITHER);
        };
        match (&slot.code, prefix(field, mask, wanted)) {
            (Code::Intervals(_), Some((lo, hi))) => {
                let holds = self.within(field, lo, hi)?;
                let exact = self.tells_apart(field, lo, hi);
                Ok(Case {
                    holds,
                    drops: Set::EMPTY,
                    doubt: if exact { Set::EMPTY } else { holds },
                })
            }
            (Code::Intervals(_), None) => Ok(Case::EITHER),
            (Code::Bits, _) => {
                let mut set = Set::ALL;
                for bit in 0..slot.bits {
                    if mask >> bit & 1 == 1 {
                        let var = slot.first + slot.bits - bit;
                        let one = self.bdd.bit(var, wanted >> bit & 1 == 1)?;
                        set = self.bdd.and(one, set)?;
                    }
                }
                let there = self.bdd.bit(slot.first, true)?;
                Ok(Case::exact(self.bdd.and(there, set)?))
            }
        }
    }

    /// How `cond` comes out for packets seen through `lens`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn case(&mut self, cond: &Cond, lens: &Lens) -> Result<Case, TooBig> {
        match cond {
            Cond::Const(true) => Ok(Case::exact(Set::ALL)),
            Cond::Const(false) => Ok(Case::exact(Set::EMPTY)),
            Cond::Test(test) => self.test(test, lens),
            Cond::Shared(inner) => self.case(inner, lens),
            Cond::Not(inner) => {
                let c = self.case(inner, lens)?;
                let mut not = Case {
                    holds: self.fails(c, Set::ALL)?,
                    drops: c.drops,
                    doubt: Set::EMPTY,
                };
                self.doubtful(&mut not, c.holds)?;
                Ok(not)
            }
            Cond::DropWhen(inner) => {
                let c = self.case(inner, lens)?;
                Ok(Case {
                    holds: self.fails(c, Set::ALL)?,
                    drops: self.bdd.or(c.holds, c.drops)?,
                    doubt: Set::EMPTY,
                })
            }
            Cond::All(list) => self.all(list.iter(), lens),
            Cond::Any(list) => self.any(list.iter(), lens),
            // That some drop the packet when their tables are full is not followed.
            Cond::Call(id) => self.call(id.0 as usize),
        }
    }

    fn call(&mut self, step: usize) -> Result<Case, TooBig> {
        let names = self.opaque.names.as_ref();
        let Some(name) = names.and_then(|n| n.get(step)).copied() else {
            return Ok(Case::EITHER);
        };
        let key = (name, self.opaque.place);
        let var = match self.opaque.vars.get(&key) {
            Some(var) => *var,
            None if self.opaque.next > PREDICATES => return Ok(Case::EITHER),
            None => {
                let var = self.opaque.next;
                self.opaque.next += 1;
                self.opaque.vars.insert(key, var);
                var
            }
        };
        Ok(Case::exact(self.bdd.bit(var, true)?))
    }

    /// From here on stateful tests are predicates with these names, by step: in all rulesets
    /// the same under the same name. `None`: they may come out either way.
    pub fn name_steps(&mut self, names: Option<Arc<Vec<u32>>>) {
        self.opaque.names = names;
    }

    /// Packets in `set` however stateful tests with names come out.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn certain(&mut self, set: Set) -> Result<Set, TooBig> {
        let not = self.bdd.not(set)?;
        let not = self.bdd.without_rest(not, self.opaque.first)?;
        self.bdd.not(not)
    }

    /// Packets in `set` for some outcome of stateful tests with names.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn perhaps(&mut self, set: Set) -> Result<Set, TooBig> {
        self.bdd.without_rest(set, self.opaque.first)
    }

    /// Whether stateful tests have names.
    pub(crate) fn has_names(&self) -> bool {
        self.opaque.names.is_some()
    }

    /// Where packets are.
    pub(crate) fn at(&mut self, place: u32) {
        self.opaque.place = place;
    }

    /// How a rule's conditions come out together for packets as they came.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn rule(&mut self, conds: &Conds) -> Result<Case, TooBig> {
        self.all(conds.iter(), &Lens::default())
    }

    /// How a rule's conditions come out together.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn rule_through(&mut self, conds: &Conds, lens: &Lens) -> Result<Case, TooBig> {
        self.all(conds.iter(), lens)
    }

    /// Packets out of `set` for which a condition can fail.
    pub(crate) fn fails(&mut self, case: Case, set: Set) -> Result<Set, TooBig> {
        let mut left = self.bdd.minus(set, case.holds)?;
        if !case.drops.is_empty() {
            left = self.bdd.minus(left, case.drops)?;
        }
        if !case.doubt.is_empty() {
            let doubt = self.bdd.and(set, case.doubt)?;
            left = self.bdd.or(left, doubt)?;
        }
        Ok(left)
    }

    /// Tests one after the other, until one fails.
    fn all<'c>(
        &mut self,
        list: impl Iterator<Item = &'c Cond>,
        lens: &Lens,
    ) -> Result<Case, TooBig> {
        let mut so_far = Case::exact(Set::ALL);
        let mut failed = Set::EMPTY;
        for cond in list {
            if so_far.holds.is_empty() {
                break;
            }
            let c = self.case(cond, lens)?;
            if !c.doubt.is_empty() || !c.drops.is_empty() || !so_far.drops.is_empty() {
                let fails = self.fails(c, so_far.holds)?;
                failed = self.bdd.or(failed, fails)?;
                let dropped = self.bdd.and(so_far.holds, c.drops)?;
                so_far.drops = self.bdd.or(so_far.drops, dropped)?;
            } else if !failed.is_empty() {
                let fails = self.bdd.minus(so_far.holds, c.holds)?;
                failed = self.bdd.or(failed, fails)?;
            }
            so_far.holds = self.bdd.and(c.holds, so_far.holds)?;
        }
        self.doubtful(&mut so_far, failed)?;
        Ok(so_far)
    }

    /// Tests one after the other, until one holds.
    fn any<'c>(
        &mut self,
        list: impl Iterator<Item = &'c Cond>,
        lens: &Lens,
    ) -> Result<Case, TooBig> {
        let (mut left, mut held) = (Set::ALL, Case::exact(Set::EMPTY));
        for cond in list {
            let c = self.case(cond, lens)?;
            let holds = self.bdd.and(left, c.holds)?;
            held.holds = self.bdd.or(held.holds, holds)?;
            let dropped = self.bdd.and(left, c.drops)?;
            held.drops = self.bdd.or(held.drops, dropped)?;
            left = self.fails(c, left)?;
        }
        self.doubtful(&mut held, left)?;
        Ok(held)
    }

    /// Notes which packets can fail although they can do something else.
    fn doubtful(&mut self, case: &mut Case, failed: Set) -> Result<(), TooBig> {
        if !failed.is_empty() {
            let others = self.bdd.or(case.holds, case.drops)?;
            case.doubt = self.bdd.and(others, failed)?;
        }
        Ok(())
    }

    /// How packets are seen after `effect`, of those in `set`.
    pub(crate) fn after(
        &mut self,
        set: Set,
        seen: LensId,
        effect: &Effect,
    ) -> Result<Vec<(LensId, Set)>, TooBig> {
        let lens = self.lens(seen);
        match lens.after(effect, self.slots.keys().copied()) {
            Ok(next) if next == *lens => Ok(vec![(seen, set)]),
            Ok(next) => Ok(vec![(self.name(next)?, set)]),
            Err(sources) => {
                let mut there = Set::ALL;
                for field in sources {
                    let one = self.present(field)?;
                    there = self.bdd.and(there, one)?;
                }
                let mixed = self.name(lens.mixed(effect))?;
                let written = self.bdd.and(set, there)?;
                let rest = self.bdd.minus(set, there)?;
                let all = [(mixed, written), (seen, rest)];
                Ok(all.into_iter().filter(|p| !p.1.is_empty()).collect())
            }
        }
    }
}
