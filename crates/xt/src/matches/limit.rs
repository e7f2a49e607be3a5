//! `-m limit`: a token bucket per rule (kernel `limit_mt`).
//!
//! The kernel counts credits per timer tick. The tick here is 4 ms (`CONFIG_HZ=250`,
//! which gives 128 credits per tick); arithmetic is the kernel's, 32 bits wide. The
//! bucket starts full, also when the rules are loaded anew.

use tidegate_ir::{Cond, Step, StepInput, Truth};

use crate::{
    Arg, Args, Case, Context, Errno, Error, Extension, Families, Help, Input, Instance, Legal,
    ListCtx, Lower, LowerCtx, Opt, Place, Refusal, Value, Vector, bad, ok, saved,
    starts_with_ignoring_case,
};

const RATE: usize = 0;
const BURST: usize = 1;

/// The kernel's unit of time in rules: a ten-thousandth of a second per packet.
const SCALE: u32 = 10_000;
const DEFAULT_PERIOD: u32 = SCALE * 3600 / 3;
const DEFAULT_BURST: u32 = 5;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "limit",
        Arg::Special {
            arity: 1,
            parse: parse_rate,
            show: |v, _| show_rate(v.number().unwrap_or(1)),
        },
    )
    .help(
        "--limit avg\t\t\tmax average match rate: default 3/hour\n                                [Packets per second unless followed by \n                                /sec /minute /hour /day postfixes]\n",
    ),
    Opt::new(
        "limit-burst",
        Arg::Int {
            min: 0,
            max: 10_000,
            hex: 0,
        },
    )
    .help("--limit-burst number\t\tnumber to match in a burst, default 5\n"),
];

/// `-m limit`.
pub static LIMIT: Extension = Extension {
    name: "limit",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

/// Names and lengths in seconds of the units, as read (any start of a name will do).
const UNITS: [(&str, u32); 4] = [
    ("second", 1),
    ("minute", 60),
    ("hour", 3600),
    ("day", 86400),
];
/// The same as printed, longest first.
const PRINTED: [(&str, u32); 4] = [("day", 86400), ("hour", 3600), ("min", 60), ("sec", 1)];

fn parse_rate(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let bad = || Error::parameter(format!("bad rate \"{text}\"'"));
    let (rate, unit) = read_rate(text).ok_or_else(bad)?;
    match u64::from(SCALE * unit) / rate {
        0 => Err(Error::parameter(format!("Rate too fast \"{text}\""))),
        period => Ok(Value::Number(period)),
    }
}

/// Reads `N[/unit]`: the number, not 0, and the seconds of the unit.
pub(super) fn read_rate(text: &str) -> Option<(u64, u32)> {
    let (number, unit) = match text.split_once('/') {
        None => (text, 1),
        Some((_, "")) => return None,
        Some((number, unit)) => {
            let named = UNITS.iter().find(|u| starts_with_ignoring_case(u.0, unit));
            (number, named?.1)
        }
    };
    let digits = number.find(|c: char| !c.is_ascii_digit());
    let digits = &number[..digits.unwrap_or(number.len())];
    let rate = digits.parse::<u32>().ok().filter(|&r| r > 0)?;
    Some((rate.into(), unit))
}

fn show_rate(period: u64) -> String {
    largest_unit(period, SCALE.into()).0
}

/// The rate in the largest unit in which it is nearly a whole number, and the seconds of
/// that unit. `period` is counted in parts of a second, `scale` of them.
pub(super) fn largest_unit(period: u64, scale: u64) -> (String, u32) {
    let period = period.max(1);
    let span = |unit: u32| scale * u64::from(unit);
    let fits = |&(_, unit): &(&str, u32)| {
        let span = span(unit);
        period <= span && span / period >= span % period
    };
    let held = PRINTED
        .iter()
        .take(1)
        .chain(PRINTED.iter().skip(1).take_while(|u| fits(u)));
    let (name, unit) = held.last().copied().unwrap_or(PRINTED[0]);
    (format!("{}/{name}", span(unit) / period), unit)
}

fn period(args: &Args) -> u32 {
    args.number(RATE)
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(DEFAULT_PERIOD)
}

fn burst(args: &Args) -> u32 {
    args.number(BURST)
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(DEFAULT_BURST)
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    let rate = Value::Number(u64::from(period(args)));
    args.set(RATE, false, rate);
    if burst(args) == DEFAULT_BURST {
        args.remove(BURST);
    }
    Ok(())
}

/// The kernel refuses buckets whose size overflows (`limit_mt_check`).
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let (period, burst) = (period(args), burst(args));
    let size = credits(period.wrapping_mul(burst));
    if burst == 0 || size < credits(period) {
        return Err(Refusal {
            errno: Errno::Range,
            why: format!(
                "limit: burst {burst} at {} overflows",
                show_rate(u64::from(period))
            ),
        });
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let rate = show_rate(u64::from(period(&x.args)));
    format!(" limit: avg {rate} burst {}", burst(&x.args))
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    ctx.step(Bucket::new(period(args), burst(args)))
}

/// Nanoseconds per tick of a kernel with `CONFIG_HZ=250`.
pub(super) const TICK: u64 = 1_000_000_000 / HZ as u64;
pub(super) const HZ: u32 = 250;
/// Credits per tick: the largest power of two that lets a day fit in 32 bits.
const PER_TICK: u32 = 1 << (u32::MAX / (HZ * 60 * 60 * 24)).ilog2();

/// A period in credits, wrapping as in the kernel (`user2credits`).
fn credits(period: u32) -> u32 {
    let per_second = HZ * PER_TICK;
    if period > u32::MAX / per_second {
        (period / SCALE).wrapping_mul(per_second)
    } else {
        period.wrapping_mul(per_second) / SCALE
    }
}

/// The state of one rule.
#[derive(Clone, Debug)]
struct Bucket {
    cost: u32,
    cap: u32,
    credit: u32,
    /// Tick of the last packet.
    last: Option<u64>,
}

impl Bucket {
    fn new(period: u32, burst: u32) -> Self {
        let cap = credits(period.wrapping_mul(burst));
        Bucket {
            cost: credits(period),
            cap,
            credit: cap,
            last: None,
        }
    }

    /// Whether a packet at `now` is within the limit; pays for it.
    fn take(&mut self, now: u64) -> bool {
        let tick = now / TICK;
        self.credit = self.filled(tick);
        self.last = Some(tick);
        match self.credit.checked_sub(self.cost) {
            Some(left) => {
                self.credit = left;
                true
            }
            None => false,
        }
    }

    /// Credit at `tick`.
    fn filled(&self, tick: u64) -> u32 {
        let passed = tick.saturating_sub(self.last.unwrap_or(tick));
        let gained = (passed as u32).wrapping_mul(PER_TICK);
        self.credit.wrapping_add(gained).min(self.cap)
    }
}

impl Step for Bucket {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        self.take(input.now).into()
    }

    fn describe(&self, now: u64) -> String {
        let credit = self.filled(now / TICK);
        let cost = self.cost.max(1);
        if credit >= cost {
            return format!("{} of {} packets left", credit / cost, self.cap / cost);
        }
        let ticks = u64::from((cost - credit).div_ceil(PER_TICK));
        let seconds = (ticks * TICK) as f64 / 1e9;
        format!("bucket empty, next packet in {seconds:.3} s")
    }

    /// Credit grows evenly, whoever looks, until there is enough for a packet.
    fn quiet_until(&self) -> Option<u64> {
        let Some(last) = self.last else {
            return Some(0);
        };
        Some(match self.cost.checked_sub(self.credit) {
            None | Some(0) => 0,
            Some(_) if self.cap < self.cost => u64::MAX,
            Some(lacking) => (last + u64::from(lacking.div_ceil(PER_TICK))).saturating_mul(TICK),
        })
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(Bucket {
            credit: self.cap,
            last: None,
            ..self.clone()
        })
    }
}

const CASES: &[Case] = &[
    saved("-m limit", "-m limit --limit 3/hour"),
    ok("-m limit --limit 5/min --limit-burst 10"),
    saved("-m limit --limit 7/s", "-m limit --limit 7/sec"),
    saved("-m limit --limit 100", "-m limit --limit 100/sec"),
    saved("-m limit --limit 3000/hour", "-m limit --limit 50/min"),
    saved("-m limit --limit 7000/m", "-m limit --limit 117/sec"),
    saved(
        "-m limit --limit 13/HOU --limit-burst 7",
        "-m limit --limit 13/hour --limit-burst 7",
    ),
    saved(
        "-m limit --limit 86400/d --limit-burst 5",
        "-m limit --limit 1/sec",
    ),
    saved("-m limit --limit 1.5/s", "-m limit --limit 1/sec"),
    ok("-m limit --limit 90/min"),
    ok("-m limit --limit 10000/sec"),
    bad("-m limit --limit 10001/s"),
    bad("-m limit --limit foo"),
    bad("-m limit --limit 5/foo"),
    bad("-m limit --limit 5/"),
    bad("-m limit --limit 0/s"),
    bad("-m limit --limit 0x5/s"),
    bad("-m limit --limit 1/day"),
    bad("-m limit --limit 1/day --limit-burst 4"),
    bad("-m limit --limit 1/s --limit-burst 0"),
    bad("-m limit --limit 1/s --limit-burst 10001"),
    bad("-m limit ! --limit 5/s"),
];

const VECTORS: &[Vector] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bucket: &mut Bucket, milliseconds: u64) -> bool {
        bucket.take(milliseconds * 1_000_000)
    }

    #[test]
    fn a_day_fits_in_32_bits() {
        assert_eq!(PER_TICK, 128);
        assert_eq!(credits(SCALE), 32_000);
    }

    #[test]
    fn burst_first_then_the_rate() {
        // 10/s, burst 3: three at once, then one every 100 ms.
        let mut b = Bucket::new(SCALE / 10, 3);
        assert_eq!(
            [0, 0, 0, 0].map(|t| at(&mut b, t)),
            [true, true, true, false]
        );
        assert!(!at(&mut b, 96));
        assert!(at(&mut b, 100), "what a refused packet saw is not lost");
        assert!(!at(&mut b, 196));
        assert!(at(&mut b, 200));
        assert_eq!(
            [60_000; 4].map(|t| at(&mut b, t)),
            [true, true, true, false]
        );
    }

    #[test]
    fn a_fresh_bucket_is_full() {
        let mut b = Bucket::new(SCALE, 1);
        assert!(at(&mut b, 0) && !at(&mut b, 4));
        assert_eq!(b.describe(0), "bucket empty, next packet in 0.996 s");
        assert_eq!(b.fresh().describe(0), "1 of 1 packets left");
    }

    /// Whoever is asked only when it is not quiet says the same as one who is asked always.
    #[test]
    fn nothing_is_missed_while_it_is_quiet() {
        for (period, burst) in [(SCALE / 10, 3), (SCALE / 3, 1), (1, 1), (7, 2), (SCALE, 0)] {
            let (mut always, mut seldom) = (Bucket::new(period, burst), Bucket::new(period, burst));
            let mut asked = 0;
            for step in 0..4000_u64 {
                let now = 1_000_000_000 + step * 1_700_000 + step * step % 977 * 1000;
                let quiet = seldom.quiet_until().unwrap();
                let wanted = always.take(now);
                let said = now >= quiet && seldom.take(now);
                asked += u64::from(now >= quiet);
                assert_eq!(said, wanted, "{period} {burst}: step {step}");
            }
            assert!(
                asked < 2000 || period < 20,
                "{period} {burst}: asked {asked} times"
            );
        }
    }
}
