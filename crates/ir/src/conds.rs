//! What a rule demands: conditions that must all hold.

use alloc::vec::Vec;
use core::mem;

use thin_vec::ThinVec;

use crate::cond::all;
use crate::{Cond, Facts, Observer, Truth};

/// Conditions that stand in place; most rules have no more.
const PLACES: usize = 5;

/// Conditions that must all hold, tested in order, stopping at the first that does not.
///
/// They stand beside the rest of the rule, so that memory is waited for only once when a
/// rule is tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conds {
    first: [Cond; PLACES],
    more: ThinVec<Cond>,
    /// How many of the places are taken.
    count: u8,
}

impl Conds {
    /// The conditions in order.
    pub fn iter(&self) -> impl Iterator<Item = &Cond> {
        self.first[..usize::from(self.count)]
            .iter()
            .chain(&self.more)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count) + self.more.len()
    }

    /// Whether there are none: everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all hold, as [`crate::eval`] says of a single one.
    #[inline]
    pub fn eval<F: Facts, O: Observer>(&self, facts: &mut F, observer: &mut O) -> Truth {
        if observer.listens() {
            self.each(facts, observer)
        } else {
            self.each(facts, &mut ())
        }
    }

    fn each<F: Facts, O: Observer>(&self, facts: &mut F, observer: &mut O) -> Truth {
        let first = all(
            &self.first[..usize::from(self.count)],
            facts,
            observer,
            false,
        );
        match first {
            Truth::True | Truth::HotdropTaken if !self.more.is_empty() => {
                first.and(all(&self.more, facts, observer, false))
            }
            _ => first,
        }
    }

    /// Calls `f` for every leaf and inner node, parents first.
    pub fn visit(&self, f: &mut impl FnMut(&Cond)) {
        self.iter().for_each(|cond| cond.visit(f));
    }
}

impl FromIterator<Cond> for Conds {
    /// Takes conjunctions apart and leaves out what always holds.
    fn from_iter<I: IntoIterator<Item = Cond>>(conds: I) -> Self {
        let mut flat = Vec::new();
        for cond in conds {
            match cond {
                Cond::All(inner) => flat.extend(inner),
                other => flat.push(other),
            }
        }
        flat.retain(|cond| *cond != Cond::Const(true));
        let count = flat.len().min(PLACES) as u8;
        let mut first = [const { Cond::Const(true) }; PLACES];
        // Swapping moves a condition as a whole, not its tag and the rest one by one.
        first
            .iter_mut()
            .zip(&mut flat)
            .for_each(|(place, cond)| mem::swap(place, cond));
        let more = flat.drain(usize::from(count)..).collect();
        Conds { first, more, count }
    }
}

impl From<Cond> for Conds {
    fn from(cond: Cond) -> Self {
        [cond].into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::{Field, StepId, eval};

    struct Counting(u32);

    impl Facts for Counting {
        fn load(&mut self, _: Field) -> Option<u128> {
            Some(1)
        }
        fn step(&mut self, id: StepId) -> Truth {
            self.0 += 1;
            (id.0 == 0).into()
        }
    }

    struct Steps<'a>(&'a [Truth]);

    impl Facts for Steps<'_> {
        fn load(&mut self, _: Field) -> Option<u128> {
            None
        }
        fn step(&mut self, id: StepId) -> Truth {
            self.0[id.0 as usize]
        }
    }

    /// `ipt_do_table` goes on to the rule's next match when one has set `hotdrop` and
    /// holds; if that does not hold, the packet is dropped and the rule is not met.
    #[test]
    fn a_match_that_drops_and_holds_leaves_the_rule_to_the_others() {
        use Truth::{False, Hotdrop, HotdropTaken, True};
        for (steps, wanted) in [
            ([HotdropTaken, True], HotdropTaken),
            ([HotdropTaken, False], Hotdrop),
            ([True, HotdropTaken], HotdropTaken),
            ([HotdropTaken, Hotdrop], Hotdrop),
            ([False, HotdropTaken], False),
        ] {
            let conds = [Cond::Call(StepId(0)), Cond::Call(StepId(1))];
            let together = Cond::all(conds.to_vec());
            let conds: Conds = conds.into_iter().collect();
            let mut facts = Steps(&steps);
            assert_eq!(conds.eval(&mut facts, &mut ()), wanted, "{steps:?}");
            assert_eq!(eval(&together, &mut facts, &mut ()), wanted, "{steps:?}");
        }
    }

    #[test]
    fn a_few_stand_in_place_and_the_rest_elsewhere() {
        for count in 0..12 {
            let call = Cond::Call(StepId(0));
            let conds: Conds = vec![call; count].into_iter().collect();
            assert_eq!((conds.len(), conds.iter().count()), (count, count));
            assert_eq!(conds.is_empty(), count == 0);
            let mut facts = Counting(0);
            assert_eq!(conds.eval(&mut facts, &mut ()), Truth::True);
            assert_eq!(facts.0, count as u32);
        }
    }

    #[test]
    fn the_first_that_does_not_hold_ends_it() {
        for bad in 0..8u32 {
            let call = |i| Cond::Call(StepId(u32::from(i == bad)));
            let conds: Conds = (0..8).map(call).collect();
            let mut facts = Counting(0);
            assert_eq!(conds.eval(&mut facts, &mut ()), Truth::False);
            assert_eq!(facts.0, bad + 1);
        }
    }

    #[test]
    fn conjunctions_are_taken_apart() {
        let (a, b) = (Cond::eq(Field::Mark, 1), Cond::Const(false));
        let all = Cond::All([Cond::Const(true), a.clone()].into_iter().collect());
        let conds: Conds = [all, Cond::Const(true), b.clone()].into_iter().collect();
        assert!(conds.iter().eq([&a, &b]));
        assert_eq!(Conds::from(Cond::Const(true)).len(), 0);
    }
}
