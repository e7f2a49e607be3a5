//! What programs read while packets pass: gates, paths, and the index of flows.

use std::ops::Range;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use tidegate_ebpf::layout::{GATE, KEY, PATH, Path, Slot, TURN, gate, mix, turn};
use tidegate_engine::conntrack::Dir;

use super::kernel::Tables;

/// How long programs are waited for that are about to count.
const PATIENCE: Duration = Duration::from_millis(100);

impl Tables {
    /// A word of a gate.
    pub(super) fn word(&self, place: u32, word: usize) -> u64 {
        self.gates.load(place as usize * GATE + word)
    }

    /// Sets one.
    pub(super) fn set_word(&self, place: u32, word: usize, value: u64) {
        self.gates.store(place as usize * GATE + word, value);
    }

    /// No program passes the connection's packets any more, and those that did have counted
    /// them.
    pub(super) fn shut(&self, at: u32) {
        self.set_word(at, gate::DONE, gate::SHUT);
        fence(Ordering::SeqCst);
        let until = Instant::now() + PATIENCE;
        for first in (0..self.processors).map(|cpu| cpu * TURN) {
            let begun = self.turns.load(first + turn::BEGUN);
            let inside = || {
                let ended = self.turns.load(first + turn::ENDED);
                (ended.wrapping_sub(begun) as i64) < 0
            };
            while inside() && Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        // Counts are not read before.
        fence(Ordering::SeqCst);
    }

    /// Writes one direction's path, while the gate is shut.
    pub(super) fn set_path(&self, at: u32, dir: usize, path: &Path) {
        let (first, rest) = path.split_at(PATH / 2);
        let word = gate::PATHS + PATH / 2 * dir;
        for (word, half) in [(word, first), (word + gate::REST, rest)] {
            for (i, value) in half.iter().enumerate() {
                self.set_word(at, word + i, *value);
            }
        }
    }

    fn slot(&self, key: &[u8; KEY], (place, dir): (u32, Dir)) -> (Slot, Range<usize>) {
        let mix = mix(&self.secrets.hash, key);
        let slot = Slot { place, dir, mix };
        (slot, slot.bucket(self.buckets))
    }

    /// Puts a flow into the index, instead of one with the same key that is `before`'s. Where
    /// there is no room, its packets go on coming up.
    pub(super) fn add_flow(&self, key: &[u8; KEY], whose: (u32, Dir), before: Option<u32>) {
        let (slot, bucket) = self.slot(key, whose);
        let like = bucket.clone().find(|at| slot.is_like(self.flows.load(*at)));
        let room = match like {
            Some(at) => (before == Some(Slot::place_of(self.flows.load(at)))).then_some(at),
            None => bucket.into_iter().find(|at| self.flows.load(*at) == 0),
        };
        if let Some(at) = room {
            self.flows.store(at, slot.word());
        }
    }

    /// Takes one out.
    pub(super) fn remove_flow(&self, key: &[u8; KEY], whose: (u32, Dir)) {
        let (slot, mut bucket) = self.slot(key, whose);
        // Not there when there was no room.
        if let Some(at) = bucket.find(|at| self.flows.load(*at) == slot.word()) {
            self.flows.store(at, 0);
        }
    }
}
