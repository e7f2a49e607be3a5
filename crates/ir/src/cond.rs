//! Conditions and their evaluation.

use alloc::{boxed::Box, vec::Vec};

use crate::{Field, StepId};

/// A set of intervals of 128-bit values, sorted, disjoint, inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ranges {
    /// A single interval; the common case needs no allocation.
    One(u128, u128),
    /// Several intervals in ascending order, or none.
    Many(Box<[(u128, u128)]>),
}

impl Ranges {
    /// The one value `v`.
    #[must_use]
    pub fn value(v: u128) -> Self {
        Ranges::One(v, v)
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
        match out.as_slice() {
            &[(lo, hi)] => Ranges::One(lo, hi),
            _ => Ranges::Many(out.into_boxed_slice()),
        }
    }

    /// The intervals in ascending order.
    #[must_use]
    pub fn intervals(&self) -> Vec<(u128, u128)> {
        match self {
            Ranges::One(lo, hi) => alloc::vec![(*lo, *hi)],
            Ranges::Many(v) => v.to_vec(),
        }
    }

    /// Whether `v` lies in one of the intervals.
    #[inline]
    #[must_use]
    pub fn contains(&self, v: u128) -> bool {
        match self {
            Ranges::One(lo, hi) => *lo <= v && v <= *hi,
            Ranges::Many(list) => {
                let after = list.partition_point(|&(lo, _)| lo <= v);
                after > 0 && v <= list[after - 1].1
            }
        }
    }
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// Always this.
    Const(bool),
    /// All hold, tested left to right, stopping at the first that does not.
    All(Vec<Cond>),
    /// At least one holds, tested left to right, stopping at the first that does.
    Any(Vec<Cond>),
    /// The inner condition does not hold.
    Not(Box<Cond>),
    /// The field is present and its value lies in the set.
    In(Field, Ranges),
    /// The field is present and `value & mask == wanted`.
    Bits {
        /// What is looked at.
        field: Field,
        /// Bits that count.
        mask: u128,
        /// What they must be.
        wanted: u128,
    },
    /// Drops the packet on the spot when the inner condition holds; true otherwise
    /// (`hotdrop` of a kernel match).
    DropWhen(Box<Cond>),
    /// A test that keeps state (limit, statistic). Never reordered, never repeated.
    Call(StepId),
}

impl Cond {
    /// `field == value`.
    #[must_use]
    pub fn eq(field: Field, value: u128) -> Self {
        Cond::In(field, Ranges::value(value))
    }

    /// `lo <= field <= hi`.
    #[must_use]
    pub fn range(field: Field, lo: u128, hi: u128) -> Self {
        Cond::In(field, Ranges::new(alloc::vec![(lo, hi)]))
    }

    /// `field & mask == wanted`.
    #[must_use]
    pub fn bits(field: Field, mask: u128, wanted: u128) -> Self {
        Cond::Bits {
            field,
            mask,
            wanted,
        }
    }

    /// The condition, inverted when `invert` is set.
    #[must_use]
    pub fn inverted_if(self, invert: bool) -> Self {
        if invert {
            Cond::Not(Box::new(self))
        } else {
            self
        }
    }

    /// Conjunction; flattens and drops `Const(true)`.
    #[must_use]
    pub fn all(conds: Vec<Cond>) -> Self {
        let mut flat = Vec::with_capacity(conds.len());
        for c in conds {
            match c {
                Cond::Const(true) => {}
                Cond::All(inner) => flat.extend(inner),
                other @ (Cond::Const(false)
                | Cond::Any(_)
                | Cond::Not(_)
                | Cond::In(..)
                | Cond::Bits { .. }
                | Cond::DropWhen(_)
                | Cond::Call(_)) => flat.push(other),
            }
        }
        match flat.len() {
            0 => Cond::Const(true),
            1 => flat.pop().unwrap_or(Cond::Const(true)),
            _ => Cond::All(flat),
        }
    }

    /// Calls `f` for every leaf and inner node, parents first.
    pub fn visit(&self, f: &mut impl FnMut(&Cond)) {
        f(self);
        match self {
            Cond::All(list) | Cond::Any(list) => list.iter().for_each(|c| c.visit(f)),
            Cond::Not(c) | Cond::DropWhen(c) => c.visit(f),
            Cond::Const(_) | Cond::In(..) | Cond::Bits { .. } | Cond::Call(_) => {}
        }
    }
}

/// The outcome of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Does not hold.
    False,
    /// Holds.
    True,
    /// The packet is to be dropped at once, whatever the rules say.
    Hotdrop,
    /// The same, but the rule holds: it counts and has its effects first (a kernel match
    /// that sets `hotdrop` and yet is true, being inverted).
    HotdropTaken,
}

impl From<bool> for Truth {
    fn from(b: bool) -> Self {
        if b { Truth::True } else { Truth::False }
    }
}

/// Where conditions get their values.
pub trait Facts {
    /// The value of `field`, or `None` when the packet has no such thing.
    fn load(&mut self, field: Field) -> Option<u128>;
    /// Runs a stateful test.
    fn step(&mut self, id: StepId) -> Truth;
    /// Bytes of the network packet.
    fn packet(&self) -> &[u8] {
        &[]
    }
    /// Whether this host sent the packet.
    fn is_own(&self) -> bool {
        false
    }
    /// A number for the packet's connection; no other one ever has the same.
    fn connection(&mut self) -> Option<u64> {
        None
    }
    /// Whether the connection of that number is in the table, and not closing (TCP in
    /// TIME_WAIT or CLOSE).
    fn is_open(&mut self, _connection: u64) -> bool {
        false
    }
}

/// One test as an observer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// The test.
    pub cond: &'a Cond,
    /// The value it looked at, if the field is present.
    pub value: Option<u128>,
    /// Whether it held, before any inversion around it.
    pub held: bool,
    /// Whether an odd number of `Not`s surrounds it.
    pub inverted: bool,
}

/// Told of every test that is evaluated. `()` observes nothing and costs nothing.
pub trait Observer {
    /// Called once per evaluated leaf.
    #[inline]
    fn leaf(&mut self, _leaf: Leaf<'_>) {}
}

impl Observer for () {}

/// Evaluates `cond` left to right, stopping as soon as the outcome is known.
#[inline]
pub fn eval<F: Facts, O: Observer>(cond: &Cond, facts: &mut F, observer: &mut O) -> Truth {
    walk(cond, facts, observer, false)
}

fn walk<F: Facts, O: Observer>(cond: &Cond, facts: &mut F, obs: &mut O, inverted: bool) -> Truth {
    match cond {
        Cond::In(field, ranges) => {
            let value = facts.load(*field);
            let held = value.is_some_and(|v| ranges.contains(v));
            obs.leaf(Leaf {
                cond,
                value,
                held,
                inverted,
            });
            held.into()
        }
        Cond::Bits {
            field,
            mask,
            wanted,
        } => {
            let value = facts.load(*field);
            let held = value.is_some_and(|v| v & mask == *wanted);
            obs.leaf(Leaf {
                cond,
                value,
                held,
                inverted,
            });
            held.into()
        }
        Cond::All(list) => {
            for c in list {
                match walk(c, facts, obs, inverted) {
                    Truth::True => {}
                    stop @ (Truth::False | Truth::Hotdrop | Truth::HotdropTaken) => return stop,
                }
            }
            Truth::True
        }
        Cond::Any(list) => {
            for c in list {
                match walk(c, facts, obs, inverted) {
                    Truth::False => {}
                    stop @ (Truth::True | Truth::Hotdrop | Truth::HotdropTaken) => return stop,
                }
            }
            Truth::False
        }
        Cond::Not(c) => match walk(c, facts, obs, !inverted) {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            drop @ (Truth::Hotdrop | Truth::HotdropTaken) => drop,
        },
        Cond::DropWhen(c) => match walk(c, facts, obs, !inverted) {
            Truth::False => Truth::True,
            Truth::True | Truth::Hotdrop | Truth::HotdropTaken => Truth::Hotdrop,
        },
        Cond::Const(b) => {
            obs.leaf(Leaf {
                cond,
                value: None,
                held: *b,
                inverted,
            });
            (*b).into()
        }
        Cond::Call(id) => {
            let truth = facts.step(*id);
            obs.leaf(Leaf {
                cond,
                value: None,
                held: truth == Truth::True,
                inverted,
            });
            truth
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    struct Packet {
        dport: Option<u128>,
        calls: usize,
    }

    impl Facts for Packet {
        fn load(&mut self, field: Field) -> Option<u128> {
            (field == Field::Dport).then_some(self.dport).flatten()
        }
        fn step(&mut self, _: StepId) -> Truth {
            self.calls += 1;
            Truth::True
        }
    }

    fn check(cond: &Cond, dport: Option<u128>) -> Truth {
        eval(cond, &mut Packet { dport, calls: 0 }, &mut ())
    }

    #[test]
    fn ranges_merge_and_search() {
        let r = Ranges::new(vec![(10, 20), (5, 9), (30, 30), (50, 40)]);
        assert_eq!(r.intervals(), vec![(5, 20), (30, 30)]);
        for (v, want) in [
            (4, false),
            (5, true),
            (20, true),
            (21, false),
            (30, true),
            (31, false),
        ] {
            assert_eq!(r.contains(v), want, "{v}");
        }
        assert!(!Ranges::new(vec![]).contains(0));
        assert!(Ranges::new(vec![(0, u128::MAX), (3, 4)]).contains(u128::MAX));
    }

    #[test]
    fn a_test_on_an_absent_field_is_false_and_its_inversion_true() {
        let c = Cond::eq(Field::Dport, 22);
        assert_eq!(check(&c, None), Truth::False);
        assert_eq!(check(&c.clone().inverted_if(true), None), Truth::True);
        assert_eq!(check(&c, Some(22)), Truth::True);
    }

    #[test]
    fn hotdrop_wins_over_inversion_and_is_not_reached_after_a_false() {
        let drop22 = Cond::DropWhen(Box::new(Cond::eq(Field::Dport, 22)));
        assert_eq!(
            check(&Cond::Not(Box::new(drop22.clone())), Some(22)),
            Truth::Hotdrop
        );
        assert_eq!(check(&drop22, Some(23)), Truth::True);
        let guarded = Cond::all(vec![Cond::Const(false), drop22]);
        assert_eq!(check(&guarded, Some(22)), Truth::False);
    }

    #[test]
    fn a_step_runs_only_when_everything_before_it_held() {
        let rule = Cond::all(vec![Cond::eq(Field::Dport, 22), Cond::Call(StepId(0))]);
        for (dport, calls) in [(22, 1), (23, 0)] {
            let mut p = Packet {
                dport: Some(dport),
                calls: 0,
            };
            eval(&rule, &mut p, &mut ());
            assert_eq!(p.calls, calls);
        }
    }
}
