//! Tests of one field.

use alloc::{boxed::Box, vec::Vec};

use thin_vec::ThinVec;

use crate::Field;

/// A set of intervals of 128-bit values, sorted, disjoint, inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ranges(Box<[(u128, u128)]>);

impl Ranges {
    /// The one value `v`.
    #[must_use]
    pub fn value(v: u128) -> Self {
        Ranges(Box::new([(v, v)]))
    }

    /// Sorts and merges `intervals`; those with `lo > hi` are empty and vanish.
    #[must_use]
    pub fn new(mut intervals: Vec<(u128, u128)>) -> Self {
        intervals.retain(|&(lo, hi)| lo <= hi);
        intervals.sort_unstable();
        let mut out: Vec<(u128, u128)> = Vec::with_capacity(intervals.len());
        for (lo, hi) in intervals {
            match out.last_mut() {
                Some(last) if lo <= last.1.saturating_add(1) => last.1 = last.1.max(hi),
                _ => out.push((lo, hi)),
            }
        }
        Ranges(out.into())
    }

    /// The intervals in ascending order.
    #[must_use]
    pub fn intervals(&self) -> &[(u128, u128)] {
        &self.0
    }

    /// Whether `v` lies in one of the intervals.
    #[inline]
    #[must_use]
    pub fn contains(&self, v: u128) -> bool {
        let after = self.0.partition_point(|&(lo, _)| lo <= v);
        after > 0 && v <= self.0[after - 1].1
    }
}

/// A test of one field: it is present, and its value is one of some.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Test(Repr);

/// Numbers up to 32 bits, which most are, stand in place; the field stands in the same place
/// whatever comes behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
enum Repr {
    Range(Field, u32, u32),
    Ranges(Field, ThinVec<(u32, u32)>),
    Bits(Field, u32, u32),
    WideRange(Field, Box<(u128, u128)>),
    WideRanges(Field, Box<Ranges>),
    WideBits(Field, Box<(u128, u128)>),
}

impl Test {
    /// The field's value is one of `ranges`.
    #[must_use]
    pub fn within(field: Field, ranges: Ranges) -> Self {
        if let &[(lo, hi)] = ranges.intervals() {
            return Test::range(field, lo, hi);
        }
        let mut all = ThinVec::with_capacity(ranges.0.len());
        let narrow = |&(lo, hi): &(u128, u128)| Some((short(lo)?, short(hi)?));
        all.extend(ranges.0.iter().map_while(narrow));
        Test(match all.len() == ranges.0.len() {
            true => Repr::Ranges(field, all),
            false => Repr::WideRanges(field, Box::new(ranges)),
        })
    }

    /// `lo <= field <= hi`; never when `lo` is the larger one.
    #[must_use]
    pub fn range(field: Field, lo: u128, hi: u128) -> Self {
        Test(match (short(lo), short(hi)) {
            _ if lo > hi => Repr::Ranges(field, ThinVec::new()),
            (Some(lo), Some(hi)) => Repr::Range(field, lo, hi),
            _ => Repr::WideRange(field, Box::new((lo, hi))),
        })
    }

    /// `field & mask == wanted`.
    #[must_use]
    pub fn bits(field: Field, mask: u128, wanted: u128) -> Self {
        Test(match (short(mask), short(wanted)) {
            (Some(mask), Some(wanted)) => Repr::Bits(field, mask, wanted),
            _ => Repr::WideBits(field, Box::new((mask, wanted))),
        })
    }

    /// What is looked at.
    #[inline]
    #[must_use]
    pub fn field(&self) -> Field {
        match &self.0 {
            Repr::Range(field, ..)
            | Repr::Ranges(field, _)
            | Repr::Bits(field, ..)
            | Repr::WideRange(field, _)
            | Repr::WideRanges(field, _)
            | Repr::WideBits(field, _) => *field,
        }
    }

    /// Whether the test holds for a field that is present.
    #[inline]
    #[must_use]
    pub fn holds(&self, value: u128) -> bool {
        // Most are of this kind, of which the processor need not guess the others apart.
        if let Repr::Range(_, lo, hi) = &self.0 {
            return (u128::from(*lo)..=u128::from(*hi)).contains(&value);
        }
        self.holds_otherwise(value)
    }

    #[inline(never)]
    fn holds_otherwise(&self, value: u128) -> bool {
        match &self.0 {
            Repr::Range(_, lo, hi) => (u128::from(*lo)..=u128::from(*hi)).contains(&value),
            Repr::Ranges(_, list) => short(value).is_some_and(|v| {
                let after = list.partition_point(|&(lo, _)| lo <= v);
                after > 0 && v <= list[after - 1].1
            }),
            Repr::Bits(_, mask, wanted) => value as u32 & mask == *wanted,
            Repr::WideRange(_, range) => range.0 <= value && value <= range.1,
            Repr::WideRanges(_, ranges) => ranges.contains(value),
            Repr::WideBits(_, bits) => value & bits.0 == bits.1,
        }
    }

    /// The intervals that the value must lie in one of, ascending and disjoint; `None`
    /// for a test of bits.
    #[must_use]
    pub fn intervals(&self) -> Option<Intervals<'_>> {
        Some(match &self.0 {
            Repr::Range(_, lo, hi) => Intervals::One(Some((u128::from(*lo), u128::from(*hi)))),
            Repr::Ranges(_, list) => Intervals::Short(list.iter()),
            Repr::WideRange(_, range) => Intervals::One(Some(**range)),
            Repr::WideRanges(_, ranges) => Intervals::Wide(ranges.0.iter()),
            Repr::Bits(..) | Repr::WideBits(..) => return None,
        })
    }

    /// The interval that the value must lie in, where it is a single one.
    #[inline]
    #[must_use]
    pub fn interval(&self) -> Option<(u128, u128)> {
        match &self.0 {
            Repr::Range(_, lo, hi) => Some((u128::from(*lo), u128::from(*hi))),
            Repr::WideRange(_, range) => Some(**range),
            Repr::Ranges(..) | Repr::WideRanges(..) | Repr::Bits(..) | Repr::WideBits(..) => None,
        }
    }

    /// The bits that count and what they must be, for a test of bits.
    #[must_use]
    pub fn mask(&self) -> Option<(u128, u128)> {
        match &self.0 {
            Repr::Bits(_, mask, wanted) => Some((u128::from(*mask), u128::from(*wanted))),
            Repr::WideBits(_, bits) => Some(**bits),
            Repr::Range(..) | Repr::Ranges(..) | Repr::WideRange(..) | Repr::WideRanges(..) => None,
        }
    }
}

fn short(v: u128) -> Option<u32> {
    u32::try_from(v).ok()
}

/// Intervals that a [`Test`] wants the value in, in ascending order.
#[derive(Clone, Debug)]
pub enum Intervals<'t> {
    /// A single one.
    One(Option<(u128, u128)>),
    /// Several of up to 32 bits.
    Short(core::slice::Iter<'t, (u32, u32)>),
    /// Several.
    Wide(core::slice::Iter<'t, (u128, u128)>),
}

impl Iterator for Intervals<'_> {
    type Item = (u128, u128);

    fn next(&mut self) -> Option<(u128, u128)> {
        match self {
            Intervals::One(one) => one.take(),
            Intervals::Short(list) => {
                let &(lo, hi) = list.next()?;
                Some((lo.into(), hi.into()))
            }
            Intervals::Wide(list) => list.next().copied(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Intervals::One(one) => (usize::from(one.is_some()), Some(1)),
            Intervals::Short(list) => list.size_hint(),
            Intervals::Wide(list) => list.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const MAX: u128 = u128::MAX;

    /// What the values say, by their definition.
    fn check(test: &Test, inside: impl Fn(u128) -> bool) {
        let edges = [
            0,
            1,
            4,
            5,
            20,
            21,
            30,
            80,
            0xffff_fff0,
            0xffff_ffff,
            1 << 32,
            1 << 100,
        ];
        for v in edges
            .into_iter()
            .flat_map(|v: u128| [v.saturating_sub(1), v, v + 1, MAX - v])
        {
            assert_eq!(test.holds(v), inside(v), "{test:?} {v:#x}");
        }
    }

    #[test]
    fn ranges_merge_and_search() {
        let r = Ranges::new(vec![(10, 20), (5, 9), (30, 30), (50, 40)]);
        assert_eq!(r.intervals(), [(5, 20), (30, 30)]);
        for v in 0..40 {
            assert_eq!(r.contains(v), (5..=20).contains(&v) || v == 30, "{v}");
        }
        assert!(!Ranges::new(vec![]).contains(0));
        assert!(Ranges::new(vec![(0, MAX), (3, 4)]).contains(MAX));
    }

    #[test]
    fn a_test_holds_inside_its_intervals() {
        let sets = [
            vec![],
            vec![(5, 20)],
            vec![(5, 20), (30, 0xffff_ffff)],
            vec![(5, 1 << 32)],
            vec![(0, MAX)],
            vec![(5, 20), (MAX - 5, MAX)],
        ];
        for set in sets {
            let test = Test::within(Field::Mark, Ranges::new(set.clone()));
            check(&test, |v| set.iter().any(|&(lo, hi)| lo <= v && v <= hi));
            assert_eq!(test.intervals().map(Vec::from_iter), Some(set));
            assert_eq!((test.field(), test.mask()), (Field::Mark, None));
        }
    }

    #[test]
    fn a_test_of_bits_holds_where_they_agree() {
        for (mask, wanted) in [
            (0xff, 5),
            (0, 0),
            (1, 2),
            (!0 << 96, 1 << 100),
            (MAX, 30),
            (0xff, 1 << 40),
        ] {
            let test = Test::bits(Field::InName, mask, wanted);
            check(&test, |v| v & mask == wanted);
            assert_eq!(test.mask(), Some((mask, wanted)));
            assert!(test.intervals().is_none());
        }
    }
}
