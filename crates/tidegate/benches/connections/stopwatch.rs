//! What calls cost: how many, how long together, how long the longest.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Processor time this thread has had: other programs on the machine do not count.
fn cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs() as u32)
}

/// Calls of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    pub(crate) total: Duration,
    /// The longest, in processor time.
    pub(crate) worst: Duration,
    /// The longest by the clock on the wall.
    pub(crate) worst_wall: Duration,
}

impl Calls {
    pub(crate) fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let (wall, start) = (Instant::now(), cpu());
        let result = call();
        let took = cpu().saturating_sub(start);
        self.count += 1;
        self.total += took;
        self.worst = self.worst.max(took);
        self.worst_wall = self.worst_wall.max(wall.elapsed());
        result
    }

    /// Takes the calls of `other` in.
    pub(crate) fn add(&mut self, other: &Calls) {
        self.count += other.count;
        self.total += other.total;
        self.worst = self.worst.max(other.worst);
        self.worst_wall = self.worst_wall.max(other.worst_wall);
    }

    fn mean(&self) -> Duration {
        self.total / u32::try_from(self.count.max(1)).unwrap_or(u32::MAX)
    }
}

/// Heads of the columns that [`row`] prints.
pub(crate) fn heads(title: &str) {
    println!("\n{title}");
    println!(
        "{:<46} {:>9} {:>10} {:>11} {:>11}",
        "", "calls", "mean µs", "worst µs", "wall µs"
    );
}

/// A line about calls.
pub(crate) fn row(name: &str, calls: &Calls) {
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    println!(
        "{name:<46} {:>9} {:>10.2} {:>11.1} {:>11.1}",
        calls.count,
        micros(calls.mean()),
        micros(calls.worst),
        micros(calls.worst_wall),
    );
}
