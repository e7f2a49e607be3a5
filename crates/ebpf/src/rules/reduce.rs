//! Conditions without what cannot be known.

use tidegate_ir::{Cond, Test};

use super::facts::{Facts, Grasp, Seen};

/// A condition of fields that can be read, in whose place another stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Whenever this holds, the other holds.
    Must,
    /// Whenever the other holds, this holds.
    May,
}

impl Bound {
    fn other(self) -> Self {
        match self {
            Bound::Must => Bound::May,
            Bound::May => Bound::Must,
        }
    }

    /// For what is not known.
    fn worst(self) -> Cond {
        Cond::Const(self == Bound::May)
    }
}

/// `cond`, where a rule tests it, bounded from one side. Where `cond` would drop
/// the packet on the spot the result may be either way.
pub(crate) fn reduce(facts: &Facts<'_>, seen: Seen, cond: &Cond, bound: Bound) -> Cond {
    let each = |c: &Cond| reduce(facts, seen, c, bound);
    match cond {
        Cond::Const(held) => Cond::Const(*held),
        Cond::All(list) => all(list.iter().map(each)),
        Cond::Any(list) => any(list.iter().map(each)),
        Cond::Not(inner) => not(reduce(facts, seen, inner, bound.other())),
        Cond::Shared(inner) => each(inner),
        // It holds, or the packet is dropped: nothing that could be wrong about a drop.
        Cond::DropWhen(_) => Cond::Const(true),
        Cond::Call(step) if bound == Bound::May && facts.quiet(*step).is_some() => cond.clone(),
        Cond::Call(_) => bound.worst(),
        Cond::Test(test) => leaf(facts.grasp(seen, test.field()), test, bound),
    }
}

fn leaf(grasp: Grasp, test: &Test, bound: Bound) -> Cond {
    match grasp {
        Grasp::Unknown => bound.worst(),
        // Absent in some packets, which is for the program to see.
        Grasp::Readable => Cond::Test(test.clone()),
        Grasp::AtLeast(least) => at_least(test, least),
        Grasp::OneOf(values) => {
            let mut held = values.iter().map(|v| test.holds(*v));
            match held.next() {
                Some(first) if held.all(|h| h == first) => Cond::Const(first),
                _ => bound.worst(),
            }
        }
    }
}

/// A test of a number from `least` on.
fn at_least(test: &Test, least: u128) -> Cond {
    let most = u128::from(u16::MAX);
    let Some(mut intervals) = test.intervals() else {
        return Cond::Test(test.clone());
    };
    match intervals.find(|(_, hi)| *hi >= least) {
        None => Cond::Const(false),
        Some((lo, hi)) if lo <= least && most <= hi => Cond::Const(true),
        Some(_) => Cond::Test(test.clone()),
    }
}

/// All of `conds`.
pub(crate) fn all(conds: impl Iterator<Item = Cond>) -> Cond {
    let mut list = Vec::new();
    for cond in conds {
        match cond {
            Cond::Const(true) => {}
            Cond::Const(false) => return cond,
            other => list.push(other),
        }
    }
    Cond::all(list)
}

fn any(conds: impl Iterator<Item = Cond>) -> Cond {
    let mut list = Vec::new();
    for cond in conds {
        match cond {
            Cond::Const(false) => {}
            Cond::Const(true) => return cond,
            other => list.push(other),
        }
    }
    match list.len() {
        0 => Cond::Const(false),
        _ => Cond::any(list),
    }
}

fn not(cond: Cond) -> Cond {
    match cond {
        Cond::Const(held) => Cond::Const(!held),
        other => other.inverted_if(true),
    }
}
