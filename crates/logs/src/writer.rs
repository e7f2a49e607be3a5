//! The thread that writes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tidegate_engine::conntrack::Time;

use crate::captures::Captures;
use crate::handle::{GAPS, Item, Shared};
use crate::line::{Author, Line, printable};
use crate::target::Target;

/// Longest sleep.
const TICK: Duration = Duration::from_secs(1);
/// Items between two flushes.
const BATCH: usize = 256;
/// Shortest time between two reports of what was not written.
const BETWEEN_REPORTS: Duration = Duration::from_secs(5);
/// Level of those reports.
const WARNING: u8 = 4;

pub(crate) struct Writer {
    shared: Arc<Shared>,
    author: Author,
    /// In the order of [`Shared::targets`].
    targets: Vec<Box<dyn Target>>,
    captures: Captures,
    /// The gaps reported, and when.
    told: [u64; GAPS.len()],
    told_at: Option<Instant>,
}

impl Writer {
    pub(crate) fn new(
        author: Author,
        targets: Vec<Box<dyn Target>>,
        captures: Captures,
        shared: Arc<Shared>,
    ) -> Self {
        Writer {
            shared,
            author,
            targets,
            captures,
            told: [0; GAPS.len()],
            told_at: None,
        }
    }

    /// Writes until it is time to stop.
    pub(crate) fn run(mut self, queue: &Receiver<Item>) {
        loop {
            let stopping = self.shared.stopping();
            if !stopping {
                match queue.recv_timeout(TICK) {
                    Ok(item) => self.take(item),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            let most = if stopping { usize::MAX } else { BATCH };
            queue.try_iter().take(most).for_each(|item| self.take(item));
            self.report_gaps(stopping);
            self.flush();
            if stopping {
                return;
            }
        }
    }

    fn take(&mut self, item: Item) {
        self.shared.taken(&item);
        match item {
            Item::Line(line) => self.write(Line {
                text: printable(&line.text),
                ..line
            }),
            Item::Packet(packet) => self.captures.write(&packet, &self.shared.captures),
            Item::Wake => {}
        }
    }

    fn write(&mut self, line: Line) {
        for (target, meter) in self.targets.iter_mut().zip(&self.shared.targets) {
            target.write(&mut self.author, &line, meter);
        }
    }

    fn flush(&mut self) {
        for (target, meter) in self.targets.iter_mut().zip(&self.shared.targets) {
            target.flush(meter);
        }
        self.captures.flush(&self.shared.captures);
    }

    /// Says in the log what is missing from it.
    fn report_gaps(&mut self, at_once: bool) {
        let gaps = self.shared.gaps();
        let recent = self
            .told_at
            .is_some_and(|at| at.elapsed() < BETWEEN_REPORTS);
        if gaps == self.told || recent && !at_once {
            return;
        }
        for (i, what) in GAPS.iter().enumerate() {
            let new = gaps[i] - self.told[i];
            if new > 0 {
                self.write(Line {
                    at: now(),
                    level: WARNING,
                    text: format!("tidegate: {new} {what}"),
                });
            }
        }
        self.told = gaps;
        self.told_at = Some(Instant::now());
    }
}

/// Nanoseconds since 1970.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as Time)
}
