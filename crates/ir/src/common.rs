//! Conditions that many rules have.

use core::ops::Deref;

use crate::{Cond, Facts, Field};

/// A condition of which one copy serves many rules, with what is worth knowing of it.
///
/// Most are what a match on a transport header demands before it looks into it: that the packet
/// is no later fragment, and long enough. Nearly every packet meets that, which takes two
/// comparisons to see and not a walk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Common {
    cond: Cond,
    /// It holds for every packet that is no later fragment and has so many bytes of transport
    /// header.
    header: Option<u16>,
}

impl Common {
    pub(crate) fn new(cond: Cond) -> Common {
        Common {
            header: header_that_suffices(&cond),
            cond,
        }
    }

    /// Whether it holds, as far as that takes no walk to see.
    #[inline]
    pub(crate) fn holds_at_once(&self, facts: &mut impl Facts) -> bool {
        self.header.is_some_and(|enough| {
            let long_enough = u128::from(enough)..=u128::from(u16::MAX);
            facts.load(Field::FragOff) == Some(0)
                && facts
                    .load(Field::L4Len)
                    .is_some_and(|len| long_enough.contains(&len))
        })
    }
}

impl Deref for Common {
    type Target = Cond;

    #[inline]
    fn deref(&self) -> &Cond {
        &self.cond
    }
}

/// How many bytes of transport header are enough for a condition to hold where the packet is no
/// later fragment; `None` where it asks for anything else.
fn header_that_suffices(cond: &Cond) -> Option<u16> {
    match cond {
        Cond::All(list) => list.iter().try_fold(0, |enough: u16, part| {
            Some(enough.max(header_that_suffices(part)?))
        }),
        Cond::Test(test) => (test.field() == Field::FragOff && test.holds(0)).then_some(0),
        Cond::DropWhen(guard) => match &**guard {
            Cond::Test(test) => (test.field() == Field::FragOff && !test.holds(0)).then_some(0),
            guard => guard.header_wanted(),
        },
        _ => None,
    }
}

impl Cond {
    /// How many bytes of transport header a packet must have for a guard
    /// ([`Cond::DropWhen`]) of this not to drop it, if it looks at nothing else.
    #[must_use]
    pub fn header_wanted(&self) -> Option<u16> {
        let Cond::Not(enough) = self else {
            return None;
        };
        match &**enough {
            Cond::Test(test) if test.field() == Field::L4Len => {
                let (lo, hi) = test.interval()?;
                (hi >= u128::from(u16::MAX)).then(|| u16::try_from(lo).ok())?
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::{vec, vec::Vec};

    use super::*;
    use crate::{Leaf, Observer, StepId, Truth, eval};

    /// Where a packet's transport header is in its fragments, and how long.
    struct Packet(u128, Option<u128>);

    impl Facts for Packet {
        fn load(&mut self, field: Field) -> Option<u128> {
            match field {
                Field::FragOff => Some(self.0),
                Field::L4Len => self.1,
                _ => None,
            }
        }
        fn step(&mut self, _: StepId) -> Truth {
            Truth::True
        }
    }

    /// Wants to know of every test, so that none is passed by.
    struct Listening;

    impl Observer for Listening {
        fn leaf(&mut self, _: Leaf<'_>) {}
    }

    fn shorter_than(len: u128) -> Cond {
        Cond::drop_when(Cond::range(Field::L4Len, len, 0xffff).inverted_if(true))
    }

    #[test]
    fn what_is_seen_at_once_is_what_a_walk_finds() {
        let no_fragment = || Cond::eq(Field::FragOff, 0);
        let tiny = || Cond::drop_when(Cond::eq(Field::FragOff, 1));
        let demands = [
            vec![no_fragment(), shorter_than(8)],
            vec![tiny(), no_fragment(), shorter_than(20)],
            vec![shorter_than(8), no_fragment(), shorter_than(4)],
            vec![shorter_than(8)],
            vec![tiny()],
        ];
        let others = [
            vec![Cond::eq(Field::FragOff, 1), shorter_than(8)],
            vec![Cond::drop_when(no_fragment())],
            vec![no_fragment(), Cond::eq(Field::L4Len, 8)],
            vec![Cond::drop_when(Cond::range(Field::L4Len, 8, 0xffff))],
            vec![Cond::drop_when(
                Cond::range(Field::L4Len, 8, 40).inverted_if(true),
            )],
            vec![no_fragment(), Cond::Call(StepId(0))],
            vec![no_fragment(), Cond::eq(Field::Dport, 22)],
        ];
        let known = demands.map(|d| (d, true)).into_iter();
        for (parts, known) in known.chain(others.map(|o| (o, false))) {
            let cond = Cond::all(parts);
            let common = Common::new(cond.clone());
            assert_eq!(common.header.is_some(), known, "{cond:?}");
            let lengths: Vec<Option<u128>> = [3, 4, 7, 8, 19, 20, 41, 0xffff, 0x1_0000]
                .map(Some)
                .into_iter()
                .chain([None])
                .collect();
            for (frag_off, &len) in [0, 1, 2]
                .iter()
                .flat_map(|f| lengths.iter().map(move |l| (*f, l)))
            {
                let packet = || Packet(frag_off, len);
                let walked = eval(&cond, &mut packet(), &mut Listening);
                let shared = Cond::Shared(common.clone().into());
                let case = (frag_off, len, &cond);
                assert_eq!(eval(&shared, &mut packet(), &mut ()), walked, "{case:?}");
                assert_eq!(
                    eval(&shared, &mut packet(), &mut Listening),
                    walked,
                    "{case:?}"
                );
                if frag_off == 0 && len == Some(0xffff) {
                    assert_eq!(common.holds_at_once(&mut packet()), known, "{case:?}");
                }
            }
        }
    }
}
