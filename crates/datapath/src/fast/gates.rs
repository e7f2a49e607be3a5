//! What programs read while packets pass: gates and paths.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use tidegate_ebpf::layout::{GATE, PATH, Path, TURN, gate, turn};

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

    /// The sum of a word over all processors' turns.
    pub(super) fn of_turns(&self, word: usize) -> u64 {
        let all = (0..self.processors).map(|cpu| self.turns.load(cpu * TURN + word));
        all.sum()
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
}
