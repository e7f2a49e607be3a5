//! `-m rateest`: compares what rate estimators say (kernel `xt_rateest_mt`).

use tidegate_ir::{Cond, Shared, Step, StepInput, TableKey, Truth};
use tidegate_wire::Family;

use crate::targets::rateest::{Estimator, table};
use crate::{
    Arg, Args, Case, Context, Error, Extension, Input, Instance, ListCtx, Lower, LowerCtx, Opt,
    Value, bad, ok, saved,
};

/// Kind under which a rule names the estimators that it reads: a rule must feed them.
pub const READ: &str = "rateest read";

const FIRST: usize = 0;
const SECOND: usize = 1;
const DELTA: usize = 2;
const BPS1: usize = 3;
const PPS1: usize = 4;
const BPS2: usize = 5;
const PPS2: usize = 6;
const LT: usize = 7;
const GT: usize = 8;
const EQ: usize = 9;

const NAME: Arg = Arg::Name { max: 15 };
const BPS: Arg = Arg::Special {
    arity: 1,
    parse: parse_bps,
    show: |v, _| v.number().map(shown_bps).unwrap_or_default(),
};
const PPS: Arg = Arg::Special {
    arity: 1,
    parse: |input| {
        let Some(word) = input.args.first() else {
            return Ok(Value::Flag);
        };
        let n = crate::number::whole(word, 0, u32::MAX.into());
        n.map(Value::Number)
            .ok_or_else(|| Error::parameter(format!("rateest: could not parse pps `{word}'")))
    },
    show: |v, _| v.number().map(|n| n.to_string()).unwrap_or_default(),
};

const OPTIONS: &[Opt] = &[
    Opt::new("rateest1", NAME)
        .aliases(&["rateest"])
        .twice("rateest: can't specify --rateest1 twice")
        .help(" --rateest1 name\t\tRate estimator name\n"),
    Opt::new("rateest2", NAME)
        .twice("rateest: can't specify --rateest2 twice")
        .help(" --rateest2 name\t\tRate estimator name\n"),
    Opt::new("rateest-delta", Arg::Flag)
        .help(" --rateest-delta\t\tCompare difference(s) to given rate(s)\n"),
    Opt::new("rateest-bps1", BPS)
        .aliases(&["rateest-bps"])
        .optional()
        .help(" --rateest-bps1 [bps]\t\tCompare bps\n"),
    Opt::new("rateest-pps1", PPS)
        .aliases(&["rateest-pps"])
        .optional()
        .help(" --rateest-pps1 [pps]\t\tCompare pps\n"),
    Opt::new("rateest-bps2", BPS)
        .optional()
        .help(" --rateest-bps2 [bps]\t\tCompare bps\n"),
    Opt::new("rateest-pps2", PPS)
        .optional()
        .help(" --rateest-pps2 [pps]\t\tCompare pps\n"),
    Opt::new("rateest-lt", Arg::Flag)
        .invertible()
        .replaces(&[GT, EQ])
        .help(" [!] --rateest-lt\t\tMatch if rate is less than given rate/estimator\n"),
    Opt::new("rateest-gt", Arg::Flag)
        .invertible()
        .replaces(&[LT, EQ])
        .help(" [!] --rateest-gt\t\tMatch if rate is greater than given rate/estimator\n"),
    Opt::new("rateest-eq", Arg::Flag)
        .invertible()
        .replaces(&[LT, GT])
        .help(" [!] --rateest-eq\t\tMatch if rate is equal to given rate/estimator\n"),
];

/// Suffixes of rates and how many bits they stand for; none means bits.
const UNITS: [(&str, f64); 19] = [
    ("bit", 1.0),
    ("Kibit", 1024.0),
    ("kbit", 1e3),
    ("Mibit", 1_048_576.0),
    ("mbit", 1e6),
    ("Gibit", 1_073_741_824.0),
    ("gbit", 1e9),
    ("Tibit", 1_099_511_627_776.0),
    ("tbit", 1e12),
    ("Bps", 8.0),
    ("KiBps", 8192.0),
    ("KBps", 8e3),
    ("MiBps", 8_388_608.0),
    ("MBps", 8e6),
    ("GiBps", 8_589_934_592.0),
    ("GBps", 8e9),
    ("TiBps", 8_796_093_022_208.0),
    ("TBps", 8e12),
    ("", 1.0),
];

/// Bytes a second.
fn parse_bps(input: &Input<'_>) -> Result<Value, Error> {
    let Some(&word) = input.args.first() else {
        return Ok(Value::Flag);
    };
    let wrong = || Error::parameter(format!("rateest: could not parse rate `{word}'"));
    let end = word
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(word.len());
    let number: f64 = word[..end].parse().map_err(|_| wrong())?;
    let unit = UNITS
        .iter()
        .find(|u| u.0.eq_ignore_ascii_case(&word[end..]));
    let bits = number * unit.ok_or_else(wrong)?.1;
    Ok(Value::Number(u64::from((bits / 8.0) as u32)))
}

fn shown_bps(bytes: u64) -> String {
    let bits = bytes as f64 * 8.0;
    if bits >= 1e9 {
        format!("{:.0}Mbit", bits / 1e6)
    } else if bits >= 1e6 {
        format!("{:.0}Kbit", bits / 1e3)
    } else {
        format!("{bits:.0}bit")
    }
}

/// `-m rateest`.
pub static RATEEST: Extension = Extension {
    name: "rateest",
    lower: Lower::Match(lower),
    options: OPTIONS,
    legal: crate::Legal {
        extra: check,
        ..crate::Legal::ANYWHERE
    },
    finish,
    save,
    list,
    cases: CASES,
    ..Extension::MATCH
};

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let number = |opts: [usize; 2]| opts.iter().find_map(|&o| args.number(o)).unwrap_or(0);
    let mode = [
        (LT, std::cmp::Ordering::Less),
        (GT, std::cmp::Ordering::Greater),
    ];
    let mode = mode.into_iter().find(|m| args.has(m.0));
    let signs = [LT, GT, EQ];
    let delta = args.has(DELTA);
    // Without a second estimator and without differences there is one rate, however it is
    // called.
    let (second_bps, second_pps) = match delta {
        true => (number([BPS2, BPS2]), number([PPS2, PPS2])),
        false => (number([BPS1, BPS2]), number([PPS1, PPS2])),
    };
    ctx.step(Compare {
        first: table(args.text(FIRST).unwrap_or("")),
        second: args.text(SECOND).map(table),
        delta,
        wanted: mode.map_or(std::cmp::Ordering::Equal, |m| m.1),
        invert: signs.iter().any(|&o| args.inverted(o)),
        bps: args.has(BPS1) || args.has(BPS2),
        pps: args.has(PPS1) || args.has(PPS2),
        rates: [
            (number([BPS1, BPS1]), number([PPS1, PPS1])),
            (second_bps, second_pps),
        ],
    })
}

/// One rule's comparison.
#[derive(Clone, Debug)]
struct Compare {
    first: TableKey,
    second: Option<TableKey>,
    delta: bool,
    wanted: std::cmp::Ordering,
    invert: bool,
    bps: bool,
    pps: bool,
    /// Bytes and packets in a second.
    rates: [(u64, u64); 2],
}

impl Compare {
    /// What is compared on one side (`xt_rateest_mt`).
    fn side(&self, key: &TableKey, given: (u64, u64), shared: &mut Shared, now: u64) -> (u64, u64) {
        let estimator = shared.get_mut::<Estimator>(key);
        let (bps, pps) = estimator.map_or((0, 0), |e| e.rates(now));
        match self.delta {
            true => (given.0.saturating_sub(bps), given.1.saturating_sub(pps)),
            false => (bps, pps),
        }
    }
}

impl Step for Compare {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        let now = input.now;
        let first = self.side(&self.first, self.rates[0], input.shared, now);
        let second = match &self.second {
            Some(key) => self.side(key, self.rates[1], input.shared, now),
            None => self.rates[1],
        };
        let bps = !self.bps || first.0.cmp(&second.0) == self.wanted;
        let pps = !self.pps || first.1.cmp(&second.1) == self.wanted;
        ((bps && pps) != self.invert).into()
    }

    fn describe(&self, _: u64) -> String {
        format!("rate estimator {}", self.first.name)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }

    fn tables(&self) -> Vec<TableKey> {
        let keys = [Some(&self.first), self.second.as_ref()];
        let read = |key: &TableKey| TableKey {
            kind: READ,
            name: key.name.clone(),
        };
        let both = |key: &TableKey| [key.clone(), read(key)];
        keys.into_iter().flatten().flat_map(both).collect()
    }
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    // Compared with another estimator, rates count only as differences from it.
    if args.has(SECOND) && !args.has(DELTA) {
        for (one, two) in [(BPS1, BPS2), (PPS1, PPS2)] {
            let given = args.remove(two).is_some() | args.has(one);
            if given {
                args.set(one, false, Value::Flag);
            }
        }
    }
    Ok(())
}

fn check(args: &Args, _: &crate::Place<'_>) -> Result<(), crate::Refusal> {
    let mode = [LT, GT, EQ].iter().any(|&o| args.has(o));
    let what = [BPS1, PPS1].iter().any(|&o| args.has(o));
    if !mode || !what {
        return Err(crate::Refusal::invalid("rateest: nothing to compare"));
    }
    if args.text(FIRST).is_none_or(str::is_empty) {
        return Err(crate::Refusal {
            errno: crate::Errno::NotFound,
            why: "rateest: no estimator".to_owned(),
        });
    }
    Ok(())
}

fn mode(x: &Instance, family: Family) -> String {
    [LT, GT, EQ].map(|o| x.save_option(o, family)).concat()
}

/// ` --NAME[ VALUE]`, when the option is given.
fn named(x: &Instance, opt: usize, name: &str, family: Family) -> String {
    let Some(given) = x.args.get(opt) else {
        return String::new();
    };
    let value = OPTIONS[opt].arg.show(&given.value, family);
    let blank = if value.is_empty() { "" } else { " " };
    format!(" --{name}{blank}{value}")
}

fn save(x: &Instance, family: Family) -> String {
    let args = &x.args;
    let first = crate::text::bare(args.text(FIRST).unwrap_or(""));
    let second = args.text(SECOND);
    let mut out = if args.has(DELTA) {
        " --rateest-delta"
    } else {
        ""
    }
    .to_owned();
    let word = if second.is_some() {
        "rateest1"
    } else {
        "rateest"
    };
    out += &format!(" --{word} {first}");
    let mode = mode(x, family);
    for (one, two, unit) in [(BPS1, BPS2, "bps"), (PPS1, PPS2, "pps")] {
        if !args.has(one) && !args.has(two) {
            continue;
        }
        if args.has(DELTA) {
            out += &named(x, one, &format!("rateest-{unit}1"), family);
            out += &mode;
            out += &named(x, two, &format!("rateest-{unit}2"), family);
        } else {
            out += &mode;
            out += &named(x, one, &format!("rateest-{unit}"), family);
        }
    }
    if let Some(second) = second {
        out += &format!(" --rateest2 {}", crate::text::bare(second));
    }
    out
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let args = &x.args;
    let mut out = format!(" rateest match {}", args.text(FIRST).unwrap_or(""));
    if args.has(DELTA) {
        out += " delta";
    }
    let words = [(LT, "lt"), (GT, "gt"), (EQ, "eq")];
    let given = words.iter().find(|w| args.has(w.0));
    let mode = given.map_or(String::new(), |w| {
        format!("{} {}", super::ranges::blank_bang(args, w.0), w.1)
    });
    let rate = |opt: usize| match args.number(opt) {
        Some(n) if ctx.numeric || !matches!(opt, BPS1 | BPS2) => format!(" {n}"),
        Some(n) => format!(" {}", shown_bps(n)),
        None => String::new(),
    };
    let other = args
        .text(SECOND)
        .map(|s| format!(" {s}"))
        .unwrap_or_default();
    if args.has(BPS1) || args.has(BPS2) {
        out += " bps";
        // Against an estimator the first rate stands before the sign, else both do.
        out += &match (args.has(SECOND), args.has(DELTA)) {
            (true, _) => format!("{}{mode}{other} bps{}", rate(BPS1), rate(BPS2)),
            (false, _) => format!("{}{}{mode}", rate(BPS1), rate(BPS2)),
        };
    }
    if args.has(PPS1) || args.has(PPS2) {
        out += " pps";
        out += &match (args.has(SECOND), args.has(DELTA)) {
            (true, _) => format!("{}{mode}{other} pps{}", rate(PPS1), rate(PPS2)),
            (false, true) => format!("{}{mode}{}", rate(PPS1), rate(PPS2)),
            (false, false) => format!("{mode}{}", rate(PPS1)),
        };
    }
    out
}

const CASES: &[Case] = &[
    saved(
        "-m rateest --rateest RE1 --rateest-lt --rateest-bps 8bit",
        "-m rateest --rateest RE1 --rateest-lt --rateest-bps 8bit",
    ),
    ok("-m rateest --rateest RE1 --rateest-eq --rateest-pps 5"),
    saved(
        "-m rateest --rateest RE1 --rateest-gt --rateest-bps 1mbit",
        "-m rateest --rateest RE1 --rateest-gt --rateest-bps 1000Kbit",
    ),
    saved(
        "-m rateest --rateest1 RE1 --rateest-lt --rateest-bps1 8bit --rateest2 RE2 --rateest-bps2 16bit",
        "-m rateest --rateest1 RE1 --rateest-lt --rateest-bps --rateest2 RE2",
    ),
    ok(
        "-m rateest --rateest-delta --rateest RE1 --rateest-bps1 8bit --rateest-lt --rateest-bps2 16bit",
    ),
    saved(
        "-m rateest --rateest-delta --rateest1 RE1 --rateest-bps1 8bit --rateest-eq --rateest2 RE2 --rateest-bps2 16bit",
        "-m rateest --rateest-delta --rateest1 RE1 --rateest-bps1 8bit --rateest-eq --rateest-bps2 16bit --rateest2 RE2",
    ),
    ok("-m rateest --rateest RE1 ! --rateest-lt --rateest-pps 5"),
    saved(
        "-m rateest --rateest RE1 --rateest-lt --rateest-gt --rateest-bps 5",
        "-m rateest --rateest RE1 --rateest-gt --rateest-bps 0bit",
    ),
    bad("-m rateest --rateest RE1 --rateest-lt"),
    bad("-m rateest --rateest RE1 --rateest-bps 5"),
    bad("-m rateest --rateest-lt --rateest-bps 5"),
    bad("-m rateest --rateest RE1 --rateest-lt --rateest-bps xyz"),
    bad("-m rateest --rateest RE1 --rateest RE2 --rateest-lt --rateest-bps 5"),
];
