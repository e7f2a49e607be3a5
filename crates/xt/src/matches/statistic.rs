//! `-m statistic`: a share of the packets, at random or every nth (kernel
//! `statistic_mt`). The count of `nth` starts anew when the rules are loaded.

use tidegate_ir::{Cond, Step, StepInput, Truth};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, ListCtx,
    Lower, LowerCtx, Opt, Value, Vector, Words, bad, ok, saved,
};

const MODE: usize = 0;
const PROBABILITY: usize = 1;
const EVERY: usize = 2;
const PACKET: usize = 3;

const RANDOM: u64 = 0;

/// The number that stands for certainty.
const CERTAIN: u32 = 1 << 31;

const MODES: Words = Words {
    list: &[("random", 0), ("nth", 1)],
    prefix: false,
    unknown: "Bad mode \"{}\"",
};

const OPTIONS: &[Opt] = &[
    Opt::new("mode", Arg::OneOf(&MODES))
        .help(" --mode mode                    Match mode (random, nth)\n"),
    Opt::new(
        "probability",
        Arg::Special {
            arity: 1,
            parse: parse_probability,
            show: |v, _| show_probability(v),
        },
    )
    .invertible()
    .excludes(&[EVERY, PACKET])
    .help(" random mode:\n[!] --probability p\t\t Probability\n"),
    Opt::new(
        "every",
        Arg::Int {
            min: 1,
            max: u32::MAX as u64,
            hex: 0,
        },
    )
    .invertible()
    .excludes(&[PROBABILITY])
    .needs(&[PACKET])
    .help(" nth mode:\n[!] --every n\t\t\t Match every nth packet\n"),
    Opt::new(
        "packet",
        Arg::Int {
            min: 0,
            max: u32::MAX as u64,
            hex: 0,
        },
    )
    .excludes(&[PROBABILITY])
    .needs(&[EVERY])
    .help(" --packet p\t\t\t Initial counter value (0 <= p <= n-1, default 0)\n"),
];

/// `-m statistic`.
pub static STATISTIC: Extension = Extension {
    name: "statistic",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish,
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

fn parse_probability(input: &Input<'_>) -> Result<Value, Error> {
    let p = input.text().parse::<f64>().ok();
    let p = p.filter(|p| (0.0..=1.0).contains(p));
    let p = p.ok_or_else(|| input.out_of_range(0, 1))?;
    Ok(Value::Number((p * f64::from(CERTAIN)).round() as u64))
}

fn show_probability(value: &Value) -> String {
    let p = value.number().unwrap_or(0) as f64 / f64::from(CERTAIN);
    format!("{p:.11}")
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if !args.is_empty() && !args.has(MODE) {
        return Err(Error::parameter(
            "statistic: option \"--mode\" must be specified\n",
        ));
    }
    if args.number(MODE).unwrap_or(RANDOM) == RANDOM {
        if !args.has(PROBABILITY) {
            return Err(Error::parameter(
                "--probability must be specified when using random mode",
            ));
        }
        return Ok(());
    }
    let (every, packet) = (args.number(EVERY), args.number(PACKET));
    if every.is_none() && packet.is_none() {
        return Err(Error::parameter(
            "--every and --packet must be specified when using nth mode",
        ));
    }
    // That one needs the other is said later.
    if packet.unwrap_or(0) >= every.unwrap_or(1) {
        return Err(Error::parameter("the --packet p must be 0 <= p <= n-1"));
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let args = &x.args;
    let bang = |opt| if args.inverted(opt) { " !" } else { "" };
    if let Some(given) = args.get(PROBABILITY) {
        let p = show_probability(&given.value);
        return format!(
            " statistic mode random{} probability {p}",
            bang(PROBABILITY)
        );
    }
    let every = args.number(EVERY).unwrap_or(1);
    let packet = match args.number(PACKET) {
        Some(p @ 1..) => format!(" packet {p}"),
        _ => String::new(),
    };
    format!(" statistic mode nth{} every {every}{packet}", bang(EVERY))
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let word = |opt| args.number(opt).and_then(|n| u32::try_from(n).ok());
    if let Some(threshold) = word(PROBABILITY) {
        let step = ctx.step(Random { threshold });
        return step.inverted_if(args.inverted(PROBABILITY));
    }
    let every = word(EVERY).unwrap_or(1);
    let last = every.saturating_sub(1);
    let first = last.saturating_sub(word(PACKET).unwrap_or(0));
    let step = ctx.step(Nth {
        last,
        first,
        count: first,
    });
    step.inverted_if(args.inverted(EVERY))
}

/// Matches when 31 random bits are below the threshold.
#[derive(Clone, Debug)]
struct Random {
    threshold: u32,
}

impl Random {
    fn holds(&self, random: u32) -> bool {
        random & (CERTAIN - 1) < self.threshold
    }
}

impl Step for Random {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        self.holds(input.random).into()
    }

    fn describe(&self, _: u64) -> String {
        let p = f64::from(self.threshold) / f64::from(CERTAIN);
        format!("true for {:.3} % of the packets", p * 100.0)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(self.clone())
    }
}

/// Counts up to `last`, then matches and starts at 0.
#[derive(Clone, Debug)]
struct Nth {
    last: u32,
    first: u32,
    count: u32,
}

impl Nth {
    fn next(&mut self) -> bool {
        self.count = if self.count == self.last {
            0
        } else {
            self.count.wrapping_add(1)
        };
        self.count == 0
    }
}

impl Step for Nth {
    fn call(&mut self, _: &mut StepInput<'_>) -> Truth {
        self.next().into()
    }

    fn describe(&self, _: u64) -> String {
        let left = self.last.saturating_sub(self.count);
        format!("true after {left} more packets")
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(Nth {
            count: self.first,
            ..self.clone()
        })
    }
}

const CASES: &[Case] = &[
    saved(
        "-m statistic --mode random --probability 0.25",
        "-m statistic --mode random --probability 0.25000000000",
    ),
    saved(
        "-m statistic --mode random ! --probability 0.3333",
        "-m statistic --mode random ! --probability 0.33330000006",
    ),
    saved(
        "-m statistic --mode random --probability 1",
        "-m statistic --mode random --probability 1.00000000000",
    ),
    ok("-m statistic --mode nth --every 3 --packet 1"),
    ok("-m statistic --mode nth ! --every 3 --packet 0"),
    bad("-m statistic --mode nth --every 3"),
    bad("-m statistic"),
    bad("-m statistic --probability 0.1"),
    bad("-m statistic --mode foo"),
    bad("-m statistic --mode random"),
    bad("-m statistic --mode random --probability 2"),
    bad("-m statistic --mode random --probability x"),
    bad("-m statistic --mode nth --every 3 --packet 3"),
    bad("-m statistic --mode nth --every 0 --packet 0"),
    bad("-m statistic --mode nth --probability 0.5"),
    bad("-m statistic --mode random --every 3 --packet 0"),
    bad("-m statistic --mode nth --every 3 ! --packet 2"),
    bad("-m statistic --mode random --probability 0.5 --every 3"),
];

const VECTORS: &[Vector] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nth_matches_packet_p_and_every_nth_after_it() {
        // --every 3 --packet 1: the second packet, the fifth, …
        let mut step = Nth {
            last: 2,
            first: 1,
            count: 1,
        };
        let seen: Vec<_> = (0..6).map(|_| step.next()).collect();
        assert_eq!(seen, [false, true, false, false, true, false]);
        assert_eq!(step.fresh().describe(0), "true after 1 more packets");
    }

    #[test]
    fn random_compares_31_bits() {
        let half = Random {
            threshold: CERTAIN / 2,
        };
        assert!(half.holds(0x8000_0000));
        assert!(half.holds(0x3fff_ffff));
        assert!(!half.holds(0x4000_0000));
        assert!(Random { threshold: CERTAIN }.holds(u32::MAX));
        assert!(!Random { threshold: 0 }.holds(0));
    }
}
