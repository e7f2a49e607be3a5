//! `-j RATEEST`: adds the packet to a rate estimator (kernel `xt_rateest_tg`), which
//! `-m rateest` reads.

use tidegate_ir::{Shared, Step, StepInput, TableKey, Truth, Verdict};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Input, Instance, ListCtx, Lower,
    LowerCtx, Opt, Outcome, Value, bad, ok, saved,
};

/// Kind of the shared tables, which are [`Estimator`]s. Rules that feed one name it, and
/// rules that read one.
pub const KIND: &str = "rateest";

const NAME: usize = 0;
const INTERVAL: usize = 1;
const EWMA: usize = 2;

/// Bytes of a name (`IFNAMSIZ` less the final NUL).
const NAME_MAX: usize = 15;
/// Shortest interval of an estimator, in microseconds; the others are its doubles.
const QUARTER: u32 = 250_000;

const TIME: Arg = Arg::Special {
    arity: 1,
    parse: parse_time,
    show: |v, _| time(v.number().unwrap_or(0)),
};

const OPTIONS: &[Opt] = &[
    Opt::new("rateest-name", Arg::Name { max: NAME_MAX })
        .help("  --rateest-name name\t\tRate estimator name\n"),
    Opt::new("rateest-interval", TIME)
        .help("  --rateest-interval sec\tRate measurement interval in seconds\n"),
    Opt::new("rateest-ewmalog", TIME)
        .help("  --rateest-ewmalog value\tRate measurement averaging time constant\n"),
];

/// `-j RATEEST`.
pub static RATEEST: Extension = Extension {
    name: "RATEEST",
    families: Families::Both,
    lower: Lower::Target(lower),
    options: OPTIONS,
    finish,
    list,
    cases: CASES,
    ..Extension::TARGET
};

const UNITS: [(&str, f64); 10] = [
    ("", 1.0),
    ("s", 1e6),
    ("sec", 1e6),
    ("secs", 1e6),
    ("ms", 1e3),
    ("msec", 1e3),
    ("msecs", 1e3),
    ("us", 1.0),
    ("usec", 1.0),
    ("usecs", 1.0),
];

/// Microseconds.
fn parse_time(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let end = word
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(word.len());
    let (digits, unit) = word.split_at(end);
    let unit = UNITS.iter().find(|u| u.0.eq_ignore_ascii_case(unit));
    let time = digits.parse::<f64>().ok().zip(unit).map(|(n, u)| n * u.1);
    let name = input.opt.name.trim_start_matches("rateest-");
    time.map(|t| Value::Number(u64::from(t as u32)))
        .ok_or_else(|| Error::parameter(format!("RATEEST: bad {name} value \"{word}\"")))
}

fn time(us: u64) -> String {
    match us {
        0..1000 => format!("{us}us"),
        1000..1_000_000 => format!("{:.1}ms", us as f64 / 1e3),
        _ => format!("{:.1}s", us as f64 / 1e6),
    }
}

/// Both times become those that an estimator can have: the interval a quarter of a second
/// doubled so many times, the time constant the interval doubled so many times.
fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    let given = |opt| args.number(opt).unwrap_or(0) as f64;
    let (interval, constant) = (given(INTERVAL), given(EWMA));
    let doubles = (0..=5).find(|n| interval <= f64::from(QUARTER << n));
    let doubles =
        doubles.ok_or_else(|| Error::parameter("RATEEST: interval value is too large"))?;
    let slower = |log: &u32| {
        let weight = 1.0 - 1.0 / (1u64 << log) as f64;
        interval / -weight.ln() > constant
    };
    let log = (1..32).find(slower).unwrap_or(32) - 1;
    if log == 0 || log >= 31 {
        return Err(Error::parameter("RATEEST: ewmalog value is out of range"));
    }
    if !args.has(NAME) {
        return Err(Error::parameter(
            "RATEEST: option \"--rateest-name\" must be specified\n",
        ));
    }
    let interval = QUARTER << doubles;
    let constant = interval.wrapping_mul(1 << log);
    args.set(INTERVAL, false, Value::Number(interval.into()));
    args.set(EWMA, false, Value::Number(constant.into()));
    Ok(())
}

/// The shared table of that name.
#[must_use]
pub fn table(name: &str) -> TableKey {
    TableKey {
        kind: KIND,
        name: name.to_owned(),
    }
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Outcome {
    let us = |opt| args.number(opt).unwrap_or(0).max(1);
    let doubles = |n: u64, unit: u64| (n / unit.max(1)).checked_ilog2().unwrap_or(0) as u8;
    let feed = Feed {
        key: table(args.text(NAME).unwrap_or("")),
        interval: doubles(us(INTERVAL), QUARTER.into()).min(5),
        ewma: doubles(us(EWMA), us(INTERVAL)).clamp(1, 31),
    };
    Outcome::effect(ctx.effect(feed, false), Verdict::Continue)
}

/// A moving average of packets and bytes in a second (`struct net_rate_estimator`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Estimator {
    /// It is updated every quarter of a second, doubled so many times.
    interval: u8,
    /// Weight of the last interval: one half, to this power.
    ewma: u8,
    /// When it is next updated, in nanoseconds; `None` before the first packet.
    next: Option<u64>,
    bytes: Average,
    packets: Average,
}

/// One of the two averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Average {
    count: u64,
    last: u64,
    /// In a second, times 256.
    rate: u64,
}

impl Average {
    /// Takes in one interval (`est_timer`).
    fn update(&mut self, interval: u8, ewma: u8) {
        let seen = self.count.wrapping_sub(self.last) << (10 - interval);
        let change = (seen >> ewma).wrapping_sub(self.rate >> ewma);
        self.rate = self.rate.wrapping_add(change);
        self.last = self.count;
    }
}

impl Estimator {
    /// Takes in all intervals that have passed.
    fn update(&mut self, now: u64) {
        let every = u64::from(QUARTER << self.interval) * 1000;
        let next = self.next.get_or_insert(now.saturating_add(every));
        while now >= *next {
            let before = (self.bytes, self.packets);
            self.bytes.update(self.interval, self.ewma);
            self.packets.update(self.interval, self.ewma);
            *next += every;
            if before == (self.bytes, self.packets) && now >= *next {
                // Nothing will change any more.
                *next += (now - *next) / every * every + every;
            }
        }
    }

    fn count(&mut self, len: u32, now: u64) {
        self.update(now);
        self.bytes.count = self.bytes.count.wrapping_add(len.into());
        self.packets.count = self.packets.count.wrapping_add(1);
    }

    /// Bytes and packets in a second (`gen_estimator_read`).
    pub fn rates(&mut self, now: u64) -> (u64, u64) {
        self.update(now);
        (self.bytes.rate >> 8, self.packets.rate >> 8)
    }
}

/// One rule's feeding of an estimator.
#[derive(Clone, Debug)]
struct Feed {
    key: TableKey,
    interval: u8,
    ewma: u8,
}

impl Step for Feed {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let (len, now) = (input.len, input.now);
        if let Some(estimator) = input.shared.get_mut::<Estimator>(&self.key) {
            estimator.count(len, now);
        }
        Truth::True
    }

    fn describe(&self, _: u64) -> String {
        format!("rate estimator {}", self.key.name)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn load(&self, shared: &mut Shared) {
        shared.table(&self.key, || Estimator {
            interval: self.interval,
            ewma: self.ewma,
            ..Estimator::default()
        });
    }

    fn tables(&self) -> Vec<TableKey> {
        vec![self.key.clone()]
    }
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let name = x.args.text(NAME).unwrap_or("");
    let shown = |opt| time(x.args.number(opt).unwrap_or(0));
    format!(
        " name {name} interval {} ewmalog {}",
        shown(INTERVAL),
        shown(EWMA)
    )
}

const CASES: &[Case] = &[
    saved(
        "-j RATEEST --rateest-name RE1 --rateest-interval 250ms --rateest-ewmalog 500ms",
        "-j RATEEST --rateest-name RE1 --rateest-interval 250.0ms --rateest-ewmalog 500.0ms",
    ),
    ok("-j RATEEST --rateest-name RE1 --rateest-interval 250.0ms --rateest-ewmalog 500.0ms"),
    saved(
        "-j RATEEST --rateest-name RE3 --rateest-interval 3s --rateest-ewmalog 10s",
        "-j RATEEST --rateest-name RE3 --rateest-interval 4.0s --rateest-ewmalog 8.0s",
    ),
    ok("-j RATEEST --rateest-name RE4 --rateest-interval 8.0s --rateest-ewmalog 16.0s").v6(),
    bad("-j RATEEST"),
    bad("-j RATEEST --rateest-name RE2"),
    bad("-j RATEEST --rateest-interval 1s --rateest-ewmalog 2s"),
    bad("-j RATEEST --rateest-name RE3 --rateest-interval 1s --rateest-ewmalog 1s"),
    bad("-j RATEEST --rateest-name RE5 --rateest-interval 16s --rateest-ewmalog 17s"),
    bad("-j RATEEST --rateest-name RE5 --rateest-interval x --rateest-ewmalog 17s"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// 1,000 bytes every quarter of a second are 4,000 in a second, which an average of
    /// weight one half comes near to by halves (`est_timer`).
    #[test]
    fn an_average_follows_by_halves() {
        let quarter = 250_000_000;
        let mut e = Estimator {
            ewma: 1,
            ..Estimator::default()
        };
        let mut seen = Vec::new();
        for n in 0..4 {
            e.count(1000, n * quarter);
            seen.push(e.rates((n + 1) * quarter));
        }
        assert_eq!(seen, [(2000, 2), (3000, 3), (3500, 3), (3750, 3)]);
        // Long silence ends it at once, however many intervals it is.
        assert_eq!(e.rates(u64::MAX / 2), (0, 0));
    }
}
