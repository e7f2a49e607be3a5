//! Expiry of entries: a hierarchical wheel whose lists run through the slab.
//!
//! Arming and disarming cost O(1). A timer that was pushed into the future is not
//! moved; it is put in its new place when its old one comes up. What is due is found
//! exactly, not to the tick.

use crate::Time;
use crate::slab::Slab;
use alloc::vec::Vec;

/// Nanoseconds per tick, as a shift (about a millisecond).
const TICK: u32 = 20;
/// Slots per level, as a shift.
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Levels: enough for every tick there is, so that no deadline lies outside the wheel.
const LEVELS: usize = (u64::BITS - TICK).div_ceil(BITS) as usize;

/// Place of one entry in the wheel.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed(4))]
pub(crate) struct TimerNode {
    /// The deadline it was put in place for; 0 when it is not in the wheel.
    pub(crate) armed: Time,
    prev: u32,
    next: u32,
    /// Level times [`SLOTS`] plus slot.
    place: u16,
}

/// The wheel. List heads and links hold an entry index plus one, 0 for none.
#[derive(Debug)]
pub(crate) struct Wheel {
    /// Tick up to which everything has been looked at.
    elapsed: u64,
    len: u32,
    occupied: [u64; LEVELS],
    heads: [u32; SLOTS * LEVELS],
    /// Nothing is due before this moment.
    next: Time,
    /// The slot that was begun and not finished.
    unfinished: Option<usize>,
    /// Scratch space for timers that stay in the current tick.
    stay: Vec<u32>,
}

/// What became of a slot.
enum Drained {
    /// It is empty.
    All,
    /// It is the current tick's, and timers wait for the rest of the tick.
    Waits,
    /// There was more than was to be looked at.
    Partly,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel {
            elapsed: 0,
            len: 0,
            occupied: [0; LEVELS],
            heads: [0; SLOTS * LEVELS],
            next: Time::MAX,
            unfinished: None,
            stay: Vec::new(),
        }
    }

    /// The earliest moment something may be due.
    pub(crate) fn next(&self) -> Option<Time> {
        (self.len > 0).then_some(self.next)
    }

    /// Level and slot for a deadline, relative to `elapsed`.
    fn place(&self, deadline: Time) -> (usize, usize) {
        let tick = (deadline >> TICK).max(self.elapsed);
        let differs = tick ^ self.elapsed;
        let level = (63 - (differs | 1).leading_zeros()) / BITS;
        let slot = (tick >> (BITS * level)) as usize & (SLOTS - 1);
        (level as usize, slot)
    }

    /// First tick of a slot.
    fn start(&self, level: usize, slot: usize) -> u64 {
        let shift = BITS * level as u32;
        ((self.elapsed >> (shift + BITS)) << BITS | slot as u64) << shift
    }

    /// Arms the timer of entry `index`, which is not in the wheel.
    pub(crate) fn arm(&mut self, slab: &mut Slab, index: u32, deadline: Time, now: Time) {
        if self.len == 0 {
            self.elapsed = now >> TICK;
            self.next = Time::MAX;
            self.unfinished = None;
        }
        self.put(slab, index, deadline);
    }

    fn put(&mut self, slab: &mut Slab, index: u32, deadline: Time) {
        let (level, slot) = self.place(deadline);
        let place = level * SLOTS + slot;
        let (Some(head), Some(bits)) = (self.heads.get_mut(place), self.occupied.get_mut(level))
        else {
            return;
        };
        *bits |= 1 << slot;
        let first = core::mem::replace(head, index + 1);
        if let Some(node) = slab.timer_mut(index) {
            *node = TimerNode {
                armed: deadline.max(1),
                prev: 0,
                next: first,
                place: place as u16,
            };
        }
        if let Some(node) = first.checked_sub(1).and_then(|i| slab.timer_mut(i)) {
            node.prev = index + 1;
        }
        self.len += 1;
        let wake = if level == 0 {
            deadline
        } else {
            self.start(level, slot) << TICK
        };
        self.next = self.next.min(wake);
    }

    /// Takes entry `index` out of the wheel; nothing when it is not in it.
    pub(crate) fn disarm(&mut self, slab: &mut Slab, index: u32) {
        let Some(node) = slab.timer_mut(index) else {
            return;
        };
        let TimerNode {
            armed,
            prev,
            next,
            place,
        } = core::mem::take(node);
        if armed == 0 {
            return;
        }
        if let Some(node) = next.checked_sub(1).and_then(|i| slab.timer_mut(i)) {
            node.prev = prev;
        }
        match prev.checked_sub(1) {
            Some(before) => {
                if let Some(node) = slab.timer_mut(before) {
                    node.next = next;
                }
            }
            None => self.set_head(usize::from(place), next),
        }
        self.len -= 1;
    }

    fn set_head(&mut self, place: usize, link: u32) {
        if let Some(head) = self.heads.get_mut(place) {
            *head = link;
        }
        if link == 0
            && let Some(bits) = self.occupied.get_mut(place / SLOTS)
        {
            *bits &= !(1 << (place % SLOTS));
        }
    }

    /// Whether nothing in it is due at `now`.
    #[inline]
    pub(crate) fn rests(&mut self, now: Time) -> bool {
        if now < self.next {
            // No slot starts before `next`, so places may count from here.
            self.elapsed = self.elapsed.max(now >> TICK);
            return true;
        }
        false
    }

    /// Collects what is due at `now` into `due`; those entries leave the wheel. Looks at
    /// no more than `most` timers; what is left waits for the next call.
    pub(crate) fn advance(&mut self, slab: &mut Slab, now: Time, due: &mut Vec<u32>, most: u32) {
        if self.rests(now) {
            return;
        }
        let tick = now >> TICK;
        let mut left = most;
        loop {
            self.next = Time::MAX;
            let place = match self.unfinished.take() {
                Some(place) => place,
                None => {
                    let Some((level, slot)) = self.first() else {
                        break;
                    };
                    let start = self.start(level, slot);
                    if start > tick {
                        self.next = start << TICK;
                        break;
                    }
                    self.elapsed = self.elapsed.max(start);
                    level * SLOTS + slot
                }
            };
            match self.drain(slab, place, now, due, &mut left) {
                Drained::All => {}
                Drained::Waits => break,
                Drained::Partly => {
                    // Time stands still until the slot is done.
                    self.unfinished = Some(place);
                    self.next = self.elapsed << TICK;
                    return;
                }
            }
        }
        self.elapsed = self.elapsed.max(tick);
    }

    /// The earliest slot in use: lower levels come before higher ones.
    fn first(&self) -> Option<(usize, usize)> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        Some((level, self.occupied.get(level)?.trailing_zeros() as usize))
    }

    /// Empties one slot, as far as `left` reaches; what is not due is put in its proper
    /// place.
    fn drain(
        &mut self,
        slab: &mut Slab,
        place: usize,
        now: Time,
        due: &mut Vec<u32>,
        left: &mut u32,
    ) -> Drained {
        let mut drained = Drained::All;
        let mut link = self.heads.get(place).copied().unwrap_or(0);
        while let Some(index) = link.checked_sub(1) {
            let Some(node) = slab.timer_mut(index) else {
                link = 0;
                break;
            };
            if *left == 0 {
                node.prev = 0;
                drained = Drained::Partly;
                break;
            }
            *left -= 1;
            link = core::mem::take(node).next;
            self.len -= 1;
            let deadline = slab.at(index).map_or(0, |(_, e)| e.timeout);
            if deadline <= now {
                due.push(index);
            } else if deadline >> TICK <= self.elapsed {
                self.stay.push(index);
            } else {
                self.put(slab, index, deadline);
            }
        }
        self.set_head(place, link);
        let mut stay = core::mem::take(&mut self.stay);
        for index in stay.drain(..) {
            let deadline = slab.at(index).map_or(0, |(_, e)| e.timeout);
            self.put(slab, index, deadline);
            if matches!(drained, Drained::All) {
                drained = Drained::Waits;
            }
        }
        self.stay = stay;
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Entry, Status};
    use crate::{SECOND, tuple::Tuple};
    use alloc::vec;
    use tidegate_wire::Family;

    const NOW: Time = 1_795_227_335 * SECOND + 123_456_789;

    fn with(deadlines: &[Time]) -> (Slab, Wheel) {
        let tuple = Tuple {
            src: 1,
            dst: 2,
            src_id: 3,
            dst_id: 4,
            family: Family::V4,
            proto: 17,
        };
        let (mut slab, mut wheel) = (Slab::default(), Wheel::new());
        for &deadline in deadlines {
            let mut entry = Entry::new([tuple, tuple]);
            entry.status.set(Status::CONFIRMED);
            entry.timeout = deadline;
            let id = slab.insert(entry, 0);
            wheel.arm(&mut slab, id.index, deadline, NOW);
        }
        (slab, wheel)
    }

    fn due(slab: &mut Slab, wheel: &mut Wheel, now: Time) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(slab, now, &mut due, u32::MAX);
        due.sort_unstable();
        due
    }

    #[test]
    fn fires_exactly_and_only_what_is_due() {
        let deadlines = [
            NOW + 1,
            NOW + 2,
            NOW + SECOND,
            NOW + 300 * SECOND,
            NOW + 432_000 * SECOND,
            NOW + 4_000_000_000 * SECOND,
        ];
        let (mut slab, mut wheel) = with(&deadlines);
        assert_eq!(due(&mut slab, &mut wheel, NOW), vec![]);
        for (i, &at) in deadlines.iter().enumerate() {
            assert_eq!(due(&mut slab, &mut wheel, at - 1), vec![], "{i}");
            assert_eq!(due(&mut slab, &mut wheel, at), vec![i as u32]);
        }
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn an_extended_timer_waits_for_its_new_deadline() {
        let (mut slab, mut wheel) = with(&[NOW + SECOND]);
        let id = slab.at(0).unwrap().0;
        slab.get_mut(id).unwrap().timeout = NOW + 100 * SECOND;
        assert_eq!(due(&mut slab, &mut wheel, NOW + 99 * SECOND), vec![]);
        assert_eq!(due(&mut slab, &mut wheel, NOW + 100 * SECOND), vec![0]);
    }

    #[test]
    fn disarmed_timers_stay_silent_and_neighbours_fire() {
        let (mut slab, mut wheel) = with(&[NOW + 5; 5]);
        wheel.disarm(&mut slab, 2);
        wheel.disarm(&mut slab, 4);
        wheel.disarm(&mut slab, 0);
        wheel.disarm(&mut slab, 0);
        assert_eq!(due(&mut slab, &mut wheel, NOW + 5), vec![1, 3]);
    }

    /// A few at a time they come as they are due, however their slots are shared out.
    #[test]
    fn in_pieces_all_come_and_none_too_early() {
        let deadlines: Vec<Time> = (0..3000u64)
            .map(|i| NOW + 1 + i * i * 7_919 % (600 * SECOND))
            .collect();
        let (mut slab, mut wheel) = with(&deadlines);
        let (mut came, mut now) = (vec![false; deadlines.len()], NOW);
        let mut late = 0;
        for _ in 0..100_000 {
            let Some(next) = wheel.next() else { break };
            now = now.max(next);
            let mut due = Vec::new();
            wheel.advance(&mut slab, now, &mut due, 7);
            for index in due {
                let deadline = deadlines[index as usize];
                assert!(deadline <= now);
                assert!(!core::mem::replace(&mut came[index as usize], true));
                late = late.max(now - deadline);
            }
            // Some are taken out while a slot is half done.
            if now % 3 == 0
                && let Some(index) = came.iter().position(|c| !c)
            {
                wheel.disarm(&mut slab, index as u32);
                came[index] = true;
            }
        }
        assert_eq!(wheel.next(), None);
        assert!(came.iter().all(|&c| c));
        assert!(late < SECOND, "{late}");
    }

    #[test]
    fn the_wake_up_time_is_never_late() {
        let deadlines: Vec<Time> = (1..200).map(|i| NOW + i * i * 77_777_777).collect();
        let (mut slab, mut wheel) = with(&deadlines);
        for &at in &deadlines {
            let mut wakes = 0;
            while let Some(wake) = wheel.next().filter(|&w| w < at) {
                assert_eq!(due(&mut slab, &mut wheel, wake), vec![]);
                wakes += 1;
                assert!(wakes <= LEVELS + 1, "wheel makes no progress");
            }
            assert_eq!(wheel.next(), Some(at));
            assert_eq!(due(&mut slab, &mut wheel, at).len(), 1);
        }
    }
}
