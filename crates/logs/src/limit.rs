//! Limits that cost the datapath a few instructions.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_engine::conntrack::{SECOND, Time};

use crate::config::Limit;

/// Lets so many pass a second and so many at once, and counts the others.
///
/// One number holds the state: the moment until which what has passed is paid for
/// (the generic cell rate algorithm).
#[derive(Debug)]
pub(crate) struct Gate {
    /// Nanoseconds that one costs; 0 for no limit.
    cost: u64,
    /// How far the paid moment may lie ahead.
    depth: u64,
    paid: AtomicU64,
    suppressed: AtomicU64,
}

impl Gate {
    pub(crate) fn new(limit: Limit) -> Self {
        let cost = match limit.per_second {
            0 => 0,
            n => SECOND / u64::from(n),
        };
        Gate {
            cost,
            depth: cost.saturating_mul(u64::from(limit.burst.max(1))),
            paid: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether one more may pass at `now`.
    pub(crate) fn pass(&self, now: Time) -> bool {
        if self.cost == 0 {
            return true;
        }
        let paid = self
            .paid
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |paid| {
                // Further ahead than can be, if the clock has not gone back.
                let ahead = paid.saturating_sub(now);
                let from = if ahead > self.depth { now } else { now + ahead };
                let next = from.saturating_add(self.cost);
                (next - now <= self.depth).then_some(next)
            });
        if paid.is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
        paid.is_ok()
    }

    /// How many did not pass so far.
    pub(crate) fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }
}

/// The kernel's limit of messages about the network (`net_ratelimit`): ten in five
/// seconds, and with the first of the next five how many there were besides.
#[derive(Debug, Default)]
pub(crate) struct NetRatelimit(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    begun: Option<Time>,
    passed: u32,
    missed: u64,
}

const INTERVAL: Time = 5 * SECOND;
const BURST: u32 = 10;

impl NetRatelimit {
    /// Whether one more may pass at `now`, and how many did not pass before it.
    pub(crate) fn pass(&self, now: Time) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let over = window
            .begun
            .is_none_or(|b| now.saturating_sub(b) > INTERVAL);
        let mut missed = 0;
        if over {
            missed = window.missed;
            *window = Window {
                begun: Some(now),
                ..Window::default()
            };
        }
        if window.passed >= BURST {
            window.missed += 1;
            return None;
        }
        window.passed += 1;
        Some(missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = 1_795_000_000 * SECOND;

    fn passed(gate: &Gate, times: impl Iterator<Item = Time>) -> usize {
        times.filter(|&at| gate.pass(at)).count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let gate = Gate::new(Limit {
            per_second: 10,
            burst: 25,
        });
        assert_eq!(passed(&gate, std::iter::repeat_n(NOW, 100)), 25);
        assert_eq!(gate.suppressed(), 75);
        // Ten seconds of a thousand a second.
        let flood = (1..=10_000).map(|i| NOW + i * SECOND / 1000);
        assert_eq!(passed(&gate, flood), 100);
        // After a quiet time the burst again, not more.
        assert_eq!(
            passed(&gate, std::iter::repeat_n(NOW + 60 * SECOND, 99)),
            25
        );
    }

    #[test]
    fn a_clock_that_goes_back_stops_nothing() {
        let gate = Gate::new(Limit {
            per_second: 1,
            burst: 1,
        });
        assert!(gate.pass(NOW));
        assert!(!gate.pass(NOW + 1));
        let earlier = NOW - 3600 * SECOND;
        assert!(gate.pass(earlier));
        assert!(!gate.pass(earlier + 1));
        assert!(gate.pass(earlier + SECOND));
        let free = Gate::new(Limit {
            per_second: 0,
            burst: 0,
        });
        assert_eq!(passed(&free, std::iter::repeat_n(NOW, 1000)), 1000);
    }

    /// As in a recorded log of a full table: ten, then with the first message of a later
    /// interval the number of the others.
    #[test]
    fn the_kernels_own_limit() {
        let limit = NetRatelimit::default();
        let ten: Vec<_> = (0..52)
            .map(|i| limit.pass(NOW + i * SECOND / 100))
            .collect();
        assert!(ten[..10].iter().all(|&m| m == Some(0)));
        assert!(ten[10..].iter().all(Option::is_none));
        assert_eq!(limit.pass(NOW + 15 * SECOND), Some(42));
        assert_eq!(limit.pass(NOW + 16 * SECOND), Some(0));
        assert_eq!(limit.pass(NOW), Some(0));
    }
}
