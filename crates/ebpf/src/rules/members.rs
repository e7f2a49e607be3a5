//! Long lists of values, in a map and not in a program: they are written there in no time, and
//! the kernel need not go through them before it takes the program.

use std::cell::RefCell;

use super::{INDEX, UPPER, VALUE};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::fast::look_up;
use crate::maps::Map;

/// Tests of more intervals have them in a map, where there is one.
pub(super) const MANY: usize = 256;
/// Most intervals in one.
const MOST: usize = 1 << 20;
/// An interval: its first and its last value, each in two halves, the lower one first.
pub(crate) type Interval = [u64; 4];
/// Offsets in it: of the halves of the first value, and of the last.
const FIRST: i16 = 0;
const LAST: i16 = 16;
const HALF: i16 = 8;

/// What is in a map.
#[derive(Debug, Default)]
pub(crate) struct Intervals {
    all: Vec<Interval>,
    /// Where each test's begin, and how many they are.
    runs: Vec<(usize, usize)>,
}

impl Intervals {
    pub(crate) fn into_all(self) -> Vec<Interval> {
        self.all
    }

    /// Where these are, ascending and apart from each other; `None` without room for them.
    fn place(&mut self, intervals: &[(u128, u128)]) -> Option<usize> {
        let words =
            |&(lo, hi): &(u128, u128)| [lo as u64, (lo >> 64) as u64, hi as u64, (hi >> 64) as u64];
        let same = |&&(at, len): &&(usize, usize)| {
            let own = self.all.get(at..at + len).unwrap_or(&[]);
            len == intervals.len() && own.iter().copied().eq(intervals.iter().map(words))
        };
        if let Some((at, _)) = self.runs.iter().find(same) {
            return Some(*at);
        }
        let at = self.all.len();
        if at + intervals.len() > MOST {
            return None;
        }
        self.all.extend(intervals.iter().map(words));
        self.runs.push((at, intervals.len()));
        Some(at)
    }
}

/// A map of them, and what a search keeps meanwhile: in a map too, for the verifier would follow
/// each way through the steps by itself if it could tell what each of them has found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Members<'a> {
    pub(crate) intervals: &'a RefCell<Intervals>,
    pub(crate) map: &'static Map,
    pub(crate) kept: (Reg, i16),
    /// Where a packet goes of which nobody can say whether its value is among them.
    pub(crate) open: Label,
}

/// What a search keeps: the value in two halves, and how many intervals begin no later.
const COUNT: i16 = 16;
/// Bytes of it.
pub(crate) const KEPT: i16 = 24;

impl Members<'_> {
    /// Goes to `yes` if the value, of 64 bits unless it is `wide`, is in one of the intervals, else
    /// to `no`.
    pub(super) fn search(
        &self,
        a: &mut Asm,
        intervals: &[(u128, u128)],
        wide: bool,
        (yes, no): (Label, Label),
    ) {
        let Some(first) = self.intervals.borrow_mut().place(intervals) else {
            return a.jump(self.open);
        };
        let (base, kept) = self.kept;
        a.store(Size::D, base, kept, VALUE);
        if wide {
            a.store(Size::D, base, kept + HALF, UPPER);
        }
        a.store(Size::W, base, kept + COUNT, 0);
        let before = first as i32 - 1;
        let mut step = 1 << intervals.len().ilog2();
        while step > 0 {
            let next = a.label();
            self.count(a, step);
            a.jump_if(Cond::Gt, Reg::R1, intervals.len() as i32, next);
            self.entry(a, before);
            self.beyond(a, FIRST, wide, (Cond::Lt, next));
            self.count(a, step);
            a.store(Size::W, base, kept + COUNT, Reg::R1);
            a.bind(next);
            step /= 2;
        }
        self.count(a, 0);
        a.jump_if(Cond::Eq, Reg::R1, 0, no);
        self.entry(a, before);
        self.beyond(a, LAST, wide, (Cond::Gt, no));
        a.jump(yes);
    }

    /// R1: the count and `more`.
    fn count(&self, a: &mut Asm, more: i32) {
        a.load(Size::W, Reg::R1, self.kept.0, self.kept.1 + COUNT);
        if more > 0 {
            a.alu(Op::Add, Reg::R1, more);
        }
    }

    /// R0: the interval of the number in R1, counted from the one after `before`.
    fn entry(&self, a: &mut Asm, before: i32) {
        a.alu(Op::Add, Reg::R1, before);
        a.store(Size::W, Reg::R10, INDEX, Reg::R1);
        look_up(a, self.map, INDEX);
        a.jump_if(Cond::Eq, Reg::R0, 0, self.open);
    }

    /// Goes to `there` if the value is beyond (less or greater than) the end of an interval at `at`.
    fn beyond(&self, a: &mut Asm, at: i16, wide: bool, (beyond, there): (Cond, Label)) {
        let (base, kept) = self.kept;
        let done = a.label();
        let halves = |a: &mut Asm, half: i16| {
            a.load(Size::D, Reg::R1, base, kept + half);
            a.load(Size::D, Reg::R2, Reg::R0, at + half);
        };
        if wide {
            halves(a, HALF);
            a.jump_if(beyond, Reg::R1, Reg::R2, there);
            a.jump_if(Cond::Ne, Reg::R1, Reg::R2, done);
        }
        halves(a, 0);
        a.jump_if(beyond, Reg::R1, Reg::R2, there);
        a.bind(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::MEMBERS;

    /// Sets that fill the map, one after the other: what one has no room for is left open, and
    /// what is there already takes none.
    #[test]
    fn what_has_no_room_is_left_open() {
        const EACH: usize = 1 << 16;
        let set = |n: usize| -> Vec<(u128, u128)> {
            let addresses = (0..EACH as u128).map(|i| 2 * i + ((n as u128) << 40));
            addresses.map(|lo| (lo, lo + 1)).collect()
        };
        let intervals = RefCell::default();
        let search = |n: usize| {
            let mut a = Asm::new();
            let (yes, no, open) = (a.label(), a.label(), a.label());
            let members = Members {
                intervals: &intervals,
                map: &MEMBERS,
                kept: (Reg::R9, 0),
                open,
            };
            members.search(&mut a, &set(n), false, (yes, no));
            (a.jumps_to(yes), a.jumps_to(open))
        };
        for n in 0..MOST / EACH {
            assert_eq!(search(n), (true, true));
        }
        assert_eq!(search(MOST / EACH), (false, true));
        assert_eq!(search(0), (true, true));
        assert_eq!(intervals.into_inner().into_all().len(), MOST);
    }
}
