//! Timing on a machine that does other things too, and tables of figures.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use crate::memory::resident;

/// Processor time this thread has had.
fn cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::ThreadCPUTime).try_into()?)
}

/// Processor time of `work`.
///
/// # Errors
/// That of `work`.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = cpu()?;
    let result = work()?;
    Ok((cpu()?.saturating_sub(start), result))
}

/// What a piece of work took.
#[derive(Clone, Copy)]
pub(crate) struct Took {
    pub(crate) time: Duration,
    /// How many things were done.
    pub(crate) count: usize,
    /// Bytes held for it at its end, where that is known.
    pub(crate) bytes: Option<usize>,
}

impl Took {
    pub(crate) const fn new(time: Duration, count: usize) -> Self {
        Took {
            time,
            count,
            bytes: None,
        }
    }

    /// With so many bytes that were there before.
    #[allow(dead_code, reason = "shared with other figures")]
    pub(crate) fn and(self, bytes: usize) -> Self {
        Took {
            bytes: self.bytes.map(|b| b + bytes),
            ..self
        }
    }

    fn nanoseconds(&self) -> f64 {
        self.time.as_secs_f64() * 1e9 / self.count as f64
    }
}

/// Made before what is measured, so that it sees what that holds.
pub(crate) struct Meter {
    before: usize,
}

impl Meter {
    /// # Errors
    /// The system keeps no account of memory.
    pub(crate) fn new() -> Result<Self> {
        tidegate_sys::give_back();
        Ok(Meter {
            before: resident().context("smaps_rollup")?,
        })
    }

    /// Bytes in memory more than when this was made.
    ///
    /// # Errors
    /// As for [`Meter::new`].
    pub(crate) fn held(&self) -> Result<usize> {
        // What has been freed on the way, such as the rules' text, is not held.
        tidegate_sys::give_back();
        let now = resident().context("smaps_rollup")?;
        Ok(now.saturating_sub(self.before))
    }

    /// Times `work`, which does `count` things.
    ///
    /// # Errors
    /// That of `work`, or the system keeps no account.
    #[allow(dead_code, reason = "shared with other figures")]
    pub(crate) fn time(&self, count: usize, work: impl FnOnce() -> Result<()>) -> Result<Took> {
        let (time, ()) = timed(work)?;
        self.took(time, count)
    }

    /// What `count` things took, which have just been done.
    ///
    /// # Errors
    /// As for [`Meter::new`].
    pub(crate) fn took(&self, time: Duration, count: usize) -> Result<Took> {
        Ok(Took {
            bytes: Some(self.held()?),
            ..Took::new(time, count)
        })
    }
}

/// A number that the command line gives as `--NAME=N`.
fn option(name: &str) -> Option<usize> {
    let value = |a: String| a.strip_prefix(name)?.parse().ok();
    std::env::args().find_map(value)
}

/// Measure only groups that have this in their title or in a line's name: the first argument
/// that is no option.
fn wanted() -> Option<String> {
    std::env::args().skip(1).find(|a| !a.starts_with('-'))
}

/// One thing to measure, a line of a table.
pub(crate) struct Subject<'a> {
    name: String,
    /// Ratios of the lines that follow are to this one.
    base: bool,
    work: Box<dyn FnMut() -> Result<Took> + 'a>,
}

impl<'a> Subject<'a> {
    /// `work` is called once a round.
    pub(crate) fn new(name: impl Into<String>, work: impl FnMut() -> Result<Took> + 'a) -> Self {
        Subject {
            name: name.into(),
            base: false,
            work: Box::new(work),
        }
    }

    /// A baseline for the lines that follow, as the first one is anyhow.
    #[allow(dead_code, reason = "shared with other figures")]
    pub(crate) fn base(self) -> Self {
        Subject { base: true, ..self }
    }
}

/// A table.
pub(crate) struct Group<'a> {
    pub(crate) title: String,
    /// What is counted, in the singular.
    pub(crate) unit: &'a str,
    pub(crate) rounds: usize,
    pub(crate) subjects: Vec<Subject<'a>>,
}

impl Group<'_> {
    /// Measures all subjects in turn, so that a disturbance meets them alike, and prints
    /// each one's shortest time. Returns the nanoseconds of each, nothing if nobody wants
    /// them. `--rounds` says how often at most.
    ///
    /// # Errors
    /// That of a subject.
    pub(crate) fn run(mut self) -> Result<Vec<f64>> {
        let named = |wanted: &String| {
            let mut names = self.subjects.iter().map(|s| &s.name);
            self.title.contains(wanted) || names.any(|n| n.contains(wanted))
        };
        if !wanted().as_ref().is_none_or(named) {
            return Ok(Vec::new());
        }
        let rounds = option("--rounds=").unwrap_or(self.rounds).min(self.rounds);
        let mut best: Vec<Option<Took>> = vec![None; self.subjects.len()];
        for _ in 0..rounds.max(1) {
            for (subject, best) in self.subjects.iter_mut().zip(&mut best) {
                let took = (subject.work)()?;
                if best.is_none_or(|b| took.nanoseconds() < b.nanoseconds()) {
                    *best = Some(took);
                }
            }
        }
        let best: Vec<Took> = best.into_iter().flatten().collect();
        self.print(&best);
        Ok(best.iter().map(Took::nanoseconds).collect())
    }

    /// A ratio is to the last line above that has 1.
    fn print(&self, best: &[Took]) {
        let unit = self.unit;
        println!("\n{}\n", self.title);
        println!("| | ns a {unit} | {unit}s a second | ratio | memory, MB |");
        println!("|---|--:|--:|--:|--:|");
        let mut base = best.first().map_or(1.0, Took::nanoseconds);
        for (subject, took) in self.subjects.iter().zip(best) {
            let ns = took.nanoseconds();
            if subject.base {
                base = ns;
            }
            let memory = took.bytes.map(|b| format!("{:.1}", b as f64 / 1e6));
            println!(
                "| {} | {} | {:.0} | {} | {} |",
                subject.name,
                figure(ns),
                1e9 / ns,
                figure(ns / base),
                memory.unwrap_or_default()
            );
        }
    }
}

/// Three digits or more.
fn figure(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        _ => format!("{value:.5}"),
    }
}
