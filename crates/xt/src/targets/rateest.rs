//! `-j RATEEST`: adds the packet to a rate estimator (kernel `xt_rateest_tg`). The match
//! that reads estimators is refused here, so an estimate is nobody's input.

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Input, Instance, ListCtx, Opt, Value,
    bad, ok, saved,
};

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
