//! What was written and what was not.

use std::fmt::{Display, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

/// Counts of one target, shared with who asks.
#[derive(Debug)]
pub(crate) struct Meter {
    name: String,
    written: AtomicU64,
    lost: AtomicU64,
    failing: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Meter {
    pub(crate) fn new(name: String) -> Self {
        Meter {
            name,
            written: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            last_error: Mutex::new(None),
        }
    }

    /// So many were written.
    pub(crate) fn success(&self, n: u64) {
        self.written.fetch_add(n, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
    }

    /// So many were not.
    pub(crate) fn failure(&self, n: u64, why: &dyn Display) {
        self.lost.fetch_add(n, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(|e| e.into_inner()) = Some(why.to_string());
    }

    pub(crate) fn status(&self) -> TargetStatus {
        let last_error = self.last_error.lock().unwrap_or_else(|e| e.into_inner());
        TargetStatus {
            name: self.name.clone(),
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            failing: self.failing.load(Ordering::Relaxed),
            last_error: last_error.clone(),
        }
    }
}

/// Counts of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetStatus {
    /// Path or address.
    pub name: String,
    /// Lines or packets written.
    pub written: u64,
    /// Lines or packets that this target did not take.
    pub lost: u64,
    /// Whether it did not take the last one.
    pub failing: bool,
    /// Why it did not take the last of those it did not take.
    pub last_error: Option<String>,
}

/// What was written and what was not, since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogStatus {
    /// LOG lines above the limit.
    pub lines_suppressed: u64,
    /// LOG lines for which there was no place in the queue.
    pub lines_lost: u64,
    /// NFLOG packets above the limit.
    pub packets_suppressed: u64,
    /// NFLOG packets for which there was no place in the queue.
    pub packets_lost: u64,
    /// Where lines go.
    pub targets: Vec<TargetStatus>,
    /// Where packets go.
    pub captures: TargetStatus,
}

impl LogStatus {
    /// For people: a line per target, and one for what was left out.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let targets = self.targets.iter().map(|t| ("lines", t));
        for (what, t) in targets.chain([("packets", &self.captures)]) {
            // Writing to a String cannot fail.
            let _ = write!(out, "{} {what} to {}", t.written, t.name);
            if let Some(why) = &t.last_error {
                let now = if t.failing { ", FAILING" } else { "" };
                let _ = write!(out, ", {} lost{now}: {why}", t.lost);
            }
            out.push('\n');
        }
        let left_out = [
            (self.lines_suppressed, "lines above the limit"),
            (self.lines_lost, "lines without a place in the queue"),
            (self.packets_suppressed, "packets above the limit"),
            (self.packets_lost, "packets without a place in the queue"),
        ];
        for (n, what) in left_out.into_iter().filter(|x| x.0 > 0) {
            let _ = writeln!(out, "not logged: {n} {what}");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_what_is_wrong() {
        let full = Meter::new("/var/log/tidegate".to_owned());
        full.success(7);
        full.failure(2, &"No space left on device");
        let fine = Meter::new("/dev/log".to_owned());
        fine.failure(1, &"gone");
        fine.success(3);
        let status = LogStatus {
            lines_suppressed: 5,
            lines_lost: 0,
            packets_suppressed: 0,
            packets_lost: 1,
            targets: vec![fine.status()],
            captures: full.status(),
        };
        assert_eq!(
            status.text(),
            "\
3 lines to /dev/log, 1 lost: gone
7 packets to /var/log/tidegate, 2 lost, FAILING: No space left on device
not logged: 5 lines above the limit
not logged: 1 packets without a place in the queue
"
        );
    }
}
