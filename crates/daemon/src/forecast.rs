//! How full the table of connections is, how fast it fills, and with what.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tidegate_engine::conntrack::{Entry, Status};

use crate::plane::Plane;

/// The time that a rate is taken over.
const WINDOW: Duration = Duration::from_secs(60);
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Places of the table looked at in all, and between two packets.
const SAMPLE: u32 = 32_768;
const PIECE: u32 = 512;

/// How many connections there were, and had been, at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    count: u32,
    created: u64,
}

/// Looks of the last minute, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History(VecDeque<Look>);

/// How fast connections come, and how fast their number grows, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Rates {
    new: f64,
    growth: f64,
}

impl History {
    /// Remembers a look, unless the last one was a moment ago.
    pub(crate) fn look(&mut self, at: Instant, count: u32, created: u64) {
        let looks = &mut self.0;
        if looks
            .back()
            .is_some_and(|last| at.saturating_duration_since(last.at) < PAUSE)
        {
            return;
        }
        while looks
            .front()
            .is_some_and(|first| at.saturating_duration_since(first.at) > WINDOW)
        {
            looks.pop_front();
        }
        looks.push_back(Look { at, count, created });
    }

    /// The rates between the oldest look and this moment.
    fn rates(&self, now: Look) -> Rates {
        let Some(first) = self.0.front() else {
            return Rates::default();
        };
        let seconds = now.at.saturating_duration_since(first.at).as_secs_f64();
        if seconds < PAUSE.as_secs_f64() {
            return Rates::default();
        }
        Rates {
            new: now.created.saturating_sub(first.created) as f64 / seconds,
            growth: (f64::from(now.count) - f64::from(first.count)) / seconds,
        }
    }
}

/// The table at a moment, and where it is going.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Forecast {
    /// Percent of the limit in use; absent without a limit.
    pub(crate) fill: Option<f64>,
    /// New connections a second, over the last minute.
    pub(crate) new_per_second: f64,
    /// By how much their number grows a second.
    pub(crate) growth_per_second: f64,
    /// Seconds until the table is full if that goes on; absent when it does not grow.
    pub(crate) full_in_seconds: Option<f64>,
    /// Percent that are not assured: a full table gives those up first.
    pub(crate) not_assured: f64,
}

/// What a sample of the table holds.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    all: u32,
    unassured: u32,
}

impl Tally {
    fn count(&mut self, entry: &Entry) {
        self.all += 1;
        self.unassured += u32::from(!entry.status.has(Status::ASSURED));
    }
}

fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    (f64::from(part) * 1000.0 / f64::from(whole)).round() / 10.0
}

/// Looks at a part of the table, spread over all of it, piece by piece.
fn sample(plane: &dyn Plane) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut from = Some(0);
    while let Some(at) = from {
        (tally, from) = plane.with(move |engine, _| {
            let ct = engine.conntrack();
            let stride = ct.places().div_ceil(SAMPLE).max(1);
            let (entries, next) = ct.sample(at, stride, PIECE);
            entries.for_each(|entry| tally.count(entry));
            (tally, next)
        })?;
    }
    Ok(tally)
}

impl Forecast {
    /// The table as it is now.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(crate) fn make(plane: &dyn Plane, history: &History) -> Result<Forecast> {
        let (count, created, max) = plane.with(|engine, _| {
            let ct = engine.conntrack();
            (ct.count(), ct.stats().created, ct.config().max)
        })?;
        let now = Look {
            at: Instant::now(),
            count,
            created,
        };
        Ok(Forecast::of(now, max, history.rates(now), &sample(plane)?))
    }

    fn of(now: Look, max: u32, rates: Rates, tally: &Tally) -> Forecast {
        let tenths = |n: f64| (n * 10.0).round() / 10.0;
        let room = f64::from(max.saturating_sub(now.count));
        let ends = max != 0 && (rates.growth > 0.0 || room == 0.0);
        Forecast {
            fill: (max != 0).then(|| percent(now.count, max)),
            new_per_second: tenths(rates.new),
            growth_per_second: tenths(rates.growth),
            full_in_seconds: ends.then(|| {
                if room == 0.0 {
                    0.0
                } else {
                    (room / rates.growth).round()
                }
            }),
            not_assured: percent(tally.unassured, tally.all),
        }
    }

    /// For people, in a line.
    pub(crate) fn text(&self) -> String {
        let mut line = String::from("filling     ");
        if let Some(fill) = self.fill {
            let _ = write!(line, "{fill} %, ");
        }
        let (new, unsure) = (self.new_per_second, self.not_assured);
        let _ = writeln!(line, "{new} new a second, {unsure} % not assured");
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, seconds: u64, count: u32, created: u64) -> Look {
        Look {
            at: at + Duration::from_secs(seconds),
            count,
            created,
        }
    }

    const fn tally(all: u32, unassured: u32) -> Tally {
        Tally { all, unassured }
    }

    /// The figures of the everyday case: 241,172 of 262,144, and 5,000 more a minute.
    #[test]
    fn a_table_that_fills_is_told_in_time() {
        let begin = Instant::now();
        let mut history = History::default();
        for n in 0..=20u32 {
            let at = begin + Duration::from_secs(5 * u64::from(n));
            history.look(at, 232_839 + 417 * n, u64::from(1000 * n));
        }
        let now = look(begin, 100, 241_179, 20_000);
        let rates = history.rates(now);
        assert_eq!(rates.new, 200.0);
        assert_eq!((rates.growth * 10.0).round(), 834.0);
        let tally = tally(1000, 730);
        let forecast = Forecast::of(now, 262_144, rates, &tally);
        assert_eq!(forecast.fill, Some(92.0));
        assert_eq!(forecast.full_in_seconds, Some(251.0));
        assert_eq!(forecast.not_assured, 73.0);
        let line = "filling     92 %, 200 new a second, 73 % not assured\n";
        assert_eq!(forecast.text(), line);
    }

    #[test]
    fn a_quiet_table_does_not_fill() {
        let now = look(Instant::now(), 0, 100, 100);
        let forecast = Forecast::of(now, 262_144, Rates::default(), &tally(100, 0));
        assert_eq!(forecast.full_in_seconds, None);
        // Without a limit nothing gets full.
        let rates = Rates {
            new: 9.0,
            growth: 9.0,
        };
        let endless = Forecast::of(now, 0, rates, &tally(100, 0));
        assert_eq!((endless.fill, endless.full_in_seconds), (None, None));
    }

    #[test]
    fn a_full_table_is_told_even_when_it_does_not_grow() {
        let now = look(Instant::now(), 0, 10, 100);
        let forecast = Forecast::of(now, 10, Rates::default(), &tally(10, 10));
        assert_eq!(forecast.full_in_seconds, Some(0.0));
    }

    #[test]
    fn looks_are_a_second_apart_and_of_the_last_minute() {
        let begin = Instant::now();
        let mut history = History::default();
        for tenth in 0..2000 {
            history.look(begin + Duration::from_millis(100 * tenth), 1, 1);
        }
        assert!(history.0.len() <= 62, "{}", history.0.len());
        let first = history.0.front().unwrap().at;
        assert!(first >= begin + Duration::from_secs(138));
    }
}
