//! A clock for the engine.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since 1970 that never go back: the time of day when the clock was made,
/// and from there on as the machine counts, suspended or not (`CLOCK_BOOTTIME`).
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Time of day at boot.
    boot: u64,
}

impl Clock {
    /// A clock that shows the time of day now.
    #[must_use]
    pub fn new() -> Self {
        Clock {
            boot: read(ClockId::Realtime).saturating_sub(read(ClockId::Boottime)),
        }
    }

    /// The time that `CLOCK_BOOTTIME` showed `boot` nanoseconds at.
    #[must_use]
    pub fn at(&self, boot: u64) -> u64 {
        self.boot.saturating_add(boot)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.boot + read(ClockId::Boottime)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

fn read(id: ClockId) -> u64 {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(id);
    let whole = u64::try_from(tv_sec).unwrap_or(0);
    whole * 1_000_000_000 + u64::try_from(tv_nsec).unwrap_or(0)
}
