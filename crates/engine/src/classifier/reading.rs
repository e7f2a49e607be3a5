//! What of a rule can tell that it does nothing to a packet.

use tidegate_ir::{Cond, Field, Rule, Test};

use crate::flow::is_settled;

/// Which of a rule's tests count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All that stand before the first stateful test: for packets that no guard drops.
    Whole,
    /// Those before the first guard: what must hold for a guard to be asked at all.
    Prelude,
}

/// The conditions of a rule that must all hold, also those that it shares.
pub(super) fn parts(rule: &Rule) -> impl Iterator<Item = &Cond> {
    rule.cond.iter().flat_map(|cond| {
        let own = match cond {
            Cond::Shared(shared) => &***shared,
            own => own,
        };
        match own {
            Cond::All(list) => list.as_slice(),
            single => std::slice::from_ref(single),
        }
    })
}

/// Whether a condition neither keeps state nor drops packets.
fn is_pure(cond: &Cond) -> bool {
    let mut pure = true;
    cond.visit(&mut |c| pure &= !matches!(c, Cond::Call(_) | Cond::DropWhen(_)));
    pure
}

/// Whether the condition comes out the same for all packets of a flow that follow the
/// same plan of the flow cache.
fn is_lasting(cond: &Cond) -> bool {
    let mut lasting = true;
    cond.visit(&mut |c| {
        if let Cond::Test(test) = c {
            lasting &= is_settled(test.field());
        }
    });
    lasting
}

/// The parts of a rule that may be asked at any time: they keep no state, and nothing
/// that does stands before them. What stands behind a guard that drops one packet of a
/// flow and not the next tells nothing: whoever skipped the rule for its sake would leave
/// the flow cache without knowing of the guard.
fn harmless(rule: &Rule) -> impl Iterator<Item = &Cond> {
    parts(rule).take_while(|part| match part {
        Cond::Test(_) => true,
        Cond::DropWhen(guard) => is_pure(guard) && is_lasting(guard),
        other => is_pure(other),
    })
}

/// Whether all parts of a rule may be asked at any time.
pub(super) fn is_harmless(rule: &Rule) -> bool {
    harmless(rule).count() == parts(rule).count()
}

/// Tests that the rule needs to hold, in `scope`.
pub(super) fn tests(rule: &Rule, scope: Scope) -> impl Iterator<Item = &Test> {
    harmless(rule)
        .take_while(move |part| scope == Scope::Whole || !matches!(part, Cond::DropWhen(_)))
        .filter_map(|part| match part {
            Cond::Test(test) => Some(test),
            Cond::Const(_) | Cond::All(_) | Cond::Any(_) | Cond::Not(_) => None,
            Cond::Shared(_) | Cond::DropWhen(_) | Cond::Call(_) => None,
        })
}

/// Conditions that drop a packet.
pub(super) fn guards(rule: &Rule) -> impl Iterator<Item = &Cond> {
    harmless(rule).filter_map(|part| match part {
        Cond::DropWhen(guard) => Some(&**guard),
        _ => None,
    })
}

/// Whether the rule does nothing to any packet.
pub(super) fn is_void(rule: &Rule) -> bool {
    let until_guard = harmless(rule).take_while(|part| !matches!(part, Cond::DropWhen(_)));
    until_guard
        .into_iter()
        .any(|part| *part == Cond::Const(false))
}

/// Fields that are read off the packet or its connection and say the same of all packets
/// that follow one plan of the flow cache; others cost more than the tests they save.
pub(super) fn is_cheap(field: Field) -> bool {
    let read = matches!(
        field,
        Field::Src
            | Field::Dst
            | Field::Proto
            | Field::Sport
            | Field::Dport
            | Field::IcmpTypeCode
            | Field::InName
            | Field::OutName
            | Field::Mark
            | Field::CtState
            | Field::CtOrigSrc
            | Field::CtOrigDst
            | Field::CtOrigDport
    );
    read && is_settled(field)
}

/// About how many bits a test on a field sorts out, given how many it fixes.
pub(super) fn worth(field: Field, bits: u32) -> f64 {
    let (per_bit, most) = match field {
        Field::Src | Field::Dst | Field::CtOrigSrc | Field::CtOrigDst => (1.0, 16.0),
        Field::Sport => (1.0, 12.0),
        Field::Dport | Field::CtOrigDport => (1.0, 10.0),
        Field::Mark => (0.5, 8.0),
        Field::InName | Field::OutName => (0.1, 3.0),
        Field::IcmpTypeCode => (0.5, 3.0),
        Field::Proto => (0.2, 1.5),
        Field::CtState => (0.5, 1.0),
        _ => (0.3, 2.0),
    };
    (f64::from(bits) * per_bit).min(most)
}

/// The bits that all values of an interval share.
pub(super) fn agreed(lo: u128, hi: u128) -> u128 {
    match lo ^ hi {
        0 => u128::MAX,
        differing => !(u128::MAX >> differing.leading_zeros()),
    }
}

/// The bits that all values a test wants share with each other.
pub(super) fn common(test: &Test) -> u128 {
    match test.mask() {
        Some((mask, _)) => mask,
        None => {
            let (lo, hi) = hull(test, u128::MAX);
            agreed(lo, hi)
        }
    }
}

/// The bits that all values in any one interval of a test share.
pub(super) fn known(test: &Test) -> u128 {
    if let Some((lo, hi)) = test.interval() {
        return agreed(lo, hi);
    }
    if let Some((mask, _)) = test.mask() {
        return mask;
    }
    let intervals = test.intervals().into_iter().flatten();
    intervals.fold(u128::MAX, |known, (lo, hi)| known & agreed(lo, hi))
}

/// The least and the greatest value that a test can want; empty (1, 0) when there is
/// none. `all` are the bits that values can have.
pub(super) fn hull(test: &Test, all: u128) -> (u128, u128) {
    if let Some(interval) = test.interval() {
        return interval;
    }
    if let Some((mask, wanted)) = test.mask() {
        return (wanted, wanted | (all & !mask));
    }
    let mut intervals = test.intervals().into_iter().flatten();
    match intervals.next() {
        Some((lo, hi)) => (lo, intervals.last().map_or(hi, |last| last.1)),
        None => (1, 0),
    }
}

/// Intervals of one test that are looked at one by one.
const MOST_INTERVALS: usize = 16;
/// Cells that one interval may lie across.
const MOST_CELLS: u128 = 2;

/// The values under `mask` that packets have for which the test holds, if they are few.
/// Without one the test says too little. `all` are the bits that values can have.
pub(super) fn cells(test: &Test, mask: u128, all: u128, out: &mut Vec<u128>) {
    out.clear();
    if let Some(interval) = test.interval() {
        if !spread(interval, mask, all, out) {
            out.clear();
        }
        return;
    }
    if let Some((known, wanted)) = test.mask() {
        if known & mask == mask {
            out.push(wanted & mask);
        }
        return;
    }
    let Some(intervals) = test.intervals() else {
        return;
    };
    let few = intervals.size_hint().0 <= MOST_INTERVALS;
    for (lo, hi) in intervals {
        if !few || !spread((lo, hi), mask, all, out) {
            out.clear();
            return;
        }
    }
    out.sort_unstable();
    out.dedup();
}

/// The cells of an interval; `false` when they are too many.
fn spread((lo, hi): (u128, u128), mask: u128, all: u128, out: &mut Vec<u128>) -> bool {
    let unit = mask & mask.wrapping_neg();
    let (first, last) = (lo & mask, hi & mask);
    if lo ^ hi < unit {
        out.push(first);
        return true;
    }
    // Cells follow each other only where no higher bits are left out.
    let contiguous = unit > 0 && mask | (unit - 1) == all;
    if !contiguous || (last - first) / unit >= MOST_CELLS {
        return false;
    }
    out.extend([first, last]);
    true
}

#[cfg(test)]
mod tests {
    use tidegate_ir::Ranges;

    use super::*;

    fn cells_of(test: &Test, mask: u128) -> Vec<u128> {
        let mut out = Vec::new();
        cells(test, mask, 0xffff, &mut out);
        out
    }

    #[test]
    fn cells_hold_every_value_of_a_test() {
        let range = |lo, hi| Test::range(Field::Dport, lo, hi);
        assert_eq!(cells_of(&range(0x10, 0x1f), 0xfff0), [0x10]);
        assert_eq!(cells_of(&range(0x1f, 0x20), 0xfff0), [0x10, 0x20]);
        assert_eq!(cells_of(&range(0x1f, 0x30), 0xfff0), [0; 0]);
        assert_eq!(cells_of(&range(5, 5), 0xffff), [5]);
        assert_eq!(cells_of(&range(0x0f0f, 0x0f10), 0xf0f0), [0; 0]);
        assert_eq!(cells_of(&range(0x0f00, 0x0f0f), 0xf0f0), [0]);
        let bits = Test::bits(Field::Mark, 0xff, 0x12);
        assert_eq!(cells_of(&bits, 0xf0), [0x10]);
        assert_eq!(cells_of(&bits, 0x1f0), [0; 0]);
        let many = Ranges::new(vec![(22, 22), (80, 81), (443, 443)]);
        let many = Test::within(Field::Dport, many);
        assert_eq!(cells_of(&many, 0xffff), [22, 80, 81, 443]);
        assert_eq!(cells_of(&many, 0xff00), [0, 0x100]);
        let none = Test::within(Field::Dport, Ranges::new(vec![]));
        assert_eq!(cells_of(&none, 0xffff), [0; 0]);
    }

    #[test]
    fn known_bits_and_hull_enclose_the_values() {
        let all = u128::from(u16::MAX);
        let test = Test::range(Field::Dport, 0x1230, 0x123f);
        assert_eq!(known(&test) & all, 0xfff0);
        assert_eq!(hull(&test, all), (0x1230, 0x123f));
        let many = Test::within(Field::Dport, Ranges::new(vec![(1, 2), (9, 9)]));
        assert_eq!(hull(&many, all), (1, 9));
        assert_eq!((known(&many) & all, common(&many) & all), (0xfffc, 0xfff0));
        let bits = Test::bits(Field::Mark, 0xf0, 0x30);
        assert_eq!((known(&bits), hull(&bits, 0xff)), (0xf0, (0x30, 0x3f)));
    }
}
