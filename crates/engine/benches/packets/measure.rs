//! Timing on a machine that does other things too, and tables of figures.

use std::time::Duration;

use anyhow::{Context, Result};

/// Processor time this thread has had.
fn cpu() -> Result<Duration> {
    // The kernel brings the number up to date when the thread gives way.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let first = text.split(' ').next().context("schedstat")?;
    Ok(Duration::from_nanos(first.parse()?))
}

/// Processor time of `work`.
///
/// # Errors
/// That of `work`, or the system keeps no such account.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = cpu()?;
    let result = work()?;
    Ok((cpu()?.saturating_sub(start), result))
}

/// Measure only what has this in its name or its group's: the first argument that is no option.
fn wanted() -> Option<String> {
    std::env::args().skip(1).find(|a| !a.starts_with('-'))
}

/// One thing to measure; called once a round, says how long its work took.
pub(crate) type Subject<'a> = Box<dyn FnMut() -> Result<Duration> + 'a>;

/// A table of subjects that work on the same input; the first is the baseline.
pub(crate) struct Group<'a> {
    pub(crate) title: String,
    /// What is counted, in the singular, and how many there are.
    pub(crate) unit: (&'a str, usize),
    pub(crate) rounds: usize,
    pub(crate) subjects: Vec<(&'a str, Subject<'a>)>,
}

impl Group<'_> {
    /// Measures all subjects in turn, so that a disturbance meets them alike, and
    /// prints each one's shortest time. Returns the nanoseconds of those measured.
    ///
    /// # Errors
    /// That of a subject.
    pub(crate) fn run(mut self) -> Result<Vec<f64>> {
        if let Some(wanted) = wanted() {
            let all = self.title.contains(&wanted);
            self.subjects
                .retain(|(name, _)| all || name.contains(&wanted));
            if self.subjects.is_empty() {
                return Ok(Vec::new());
            }
        }
        let mut best = vec![Duration::MAX; self.subjects.len()];
        for _ in 0..self.rounds {
            for ((_, subject), best) in self.subjects.iter_mut().zip(&mut best) {
                *best = subject()?.min(*best);
            }
        }
        let (unit, count) = self.unit;
        println!("\n{}", self.title);
        println!(
            "{:<52} {:>12} {:>16} {:>8}",
            "",
            format!("ns/{unit}"),
            format!("{unit}s/s"),
            "ratio"
        );
        let base = best.first().copied().unwrap_or_default().as_secs_f64();
        for ((name, _), time) in self.subjects.iter().zip(&best) {
            let seconds = time.as_secs_f64();
            println!(
                "{name:<52} {:>12.1} {:>16.0} {:>8.2}",
                seconds * 1e9 / count as f64,
                count as f64 / seconds,
                seconds / base,
            );
        }
        let each = best.iter().map(|t| t.as_secs_f64() * 1e9 / count as f64);
        Ok(each.collect())
    }
}
