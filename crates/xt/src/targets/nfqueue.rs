//! `-j NFQUEUE`: hands the packet to who reads a queue (kernel `nfqueue_tg_v3`). With
//! several queues a flow keeps to one of them. Without a reader the packet is dropped, or
//! leaves the table as accepted when bypassing was asked for (`nf_queue`).

use tidegate_ir::{Effect, QueueSpec, Verdict};

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Input, Instance, Legal, Lower,
    LowerCtx, Opt, Outcome, Place, Refusal, Value, bad, number, ok, saved,
};

const NUM: usize = 0;
const BALANCE: usize = 1;
const BYPASS: usize = 2;
const FANOUT: usize = 3;

const MAX: u64 = u16::MAX as u64;

const OPTIONS: &[Opt] = &[
    Opt::new("queue-num", Arg::Int { min: 0, max: MAX, hex: 0 })
        .excludes(&[BALANCE])
        .help("  --queue-num value            Send packet to QUEUE number <value>.\n                               Valid queue numbers are 0-65535\n"),
    Opt::new(
        "queue-balance",
        Arg::Special {
            arity: 1,
            parse: parse_balance,
            show: |v, _| {
                let (first, last) = v.range().unwrap_or_default();
                format!("{first}:{last}")
            },
        },
    )
    .excludes(&[NUM])
    .help("  --queue-balance first:last   Balance flows between queues <value> to <value>.\n"),
    Opt::new("queue-bypass", Arg::Flag)
        .help("  --queue-bypass               Bypass Queueing if no queue instance exists.\n"),
    Opt::new("queue-cpu-fanout", Arg::Flag)
        .needs(&[BALANCE])
        .help("  --queue-cpu-fanout\tUse current CPU (no hashing)\n"),
];

/// `-j NFQUEUE`.
pub static NFQUEUE: Extension = Extension {
    name: "NFQUEUE",
    lower: Lower::Target(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE.titled("NFQUEUE target options"),
    legal: Legal {
        extra: check,
        ..Legal::ANYWHERE
    },
    finish,
    list,
    cases: CASES,
    ..Extension::TARGET
};

fn parse_balance(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let Some((first, last)) = word.split_once(':') else {
        return Err(Error::parameter(format!("Bad range \"{word}\"")));
    };
    let bound = |s: &str, open, near: &str| match s {
        "" => Ok(open),
        s => number::whole(s, 0, MAX).ok_or_else(|| {
            Error::parameter(format!(
                "{}: bad value for option \"--{}\" near \"{near}\", or out of range (0-{MAX}).\n",
                input.ext, input.opt.name
            ))
        }),
    };
    let (first, last) = (bound(first, 0, word)?, bound(last, MAX, last)?);
    if first >= last {
        return Err(Error::parameter(format!(
            "{first} should be less than {last}"
        )));
    }
    Ok(Value::Range(first, last))
}

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if !args.has(BALANCE) && !args.has(NUM) {
        args.set(NUM, false, Value::Number(0));
    }
    Ok(())
}

/// The number of queues has 16 bits (`nfqueue_tg_check`).
fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    match args.range(BALANCE) {
        Some((0, MAX)) => Err(Refusal::invalid("NFQUEUE: number of queues out of range")),
        _ => Ok(()),
    }
}

fn list(x: &Instance, _: &crate::ListCtx<'_>) -> String {
    let mut out = match (x.args.number(NUM), x.args.range(BALANCE)) {
        (_, Some((first, last))) => format!(" NFQUEUE balance {first}:{last}"),
        (num, None) => format!(" NFQUEUE num {}", num.unwrap_or(0)),
    };
    for (opt, word) in [(BYPASS, " bypass"), (FANOUT, " cpu-fanout")] {
        if x.args.has(opt) {
            out += word;
        }
    }
    out
}

fn lower(args: &Args, _: &mut LowerCtx<'_>) -> Outcome {
    let (first, last) = args.range(BALANCE).or(args.range(NUM)).unwrap_or_default();
    let spec = QueueSpec {
        first: first as u16,
        last: last as u16,
        bypass: args.has(BYPASS),
        by_cpu: args.has(FANOUT),
    };
    Outcome::effect(Effect::Queue(spec), Verdict::Accept)
}

const CASES: &[Case] = &[
    saved("-j NFQUEUE", "-j NFQUEUE --queue-num 0"),
    ok("-j NFQUEUE --queue-num 65535").v6(),
    ok("-j NFQUEUE --queue-num 10 --queue-bypass"),
    saved(
        "-j NFQUEUE --queue-bypass",
        "-j NFQUEUE --queue-num 0 --queue-bypass",
    ),
    ok("-j NFQUEUE --queue-balance 0:6"),
    saved(
        "-j NFQUEUE --queue-balance :5",
        "-j NFQUEUE --queue-balance 0:5",
    ),
    saved(
        "-j NFQUEUE --queue-balance 5:",
        "-j NFQUEUE --queue-balance 5:65535",
    ),
    saved(
        "-j NFQUEUE --queue-balance 0:6 --queue-cpu-fanout --queue-bypass",
        "-j NFQUEUE --queue-balance 0:6 --queue-bypass --queue-cpu-fanout",
    ),
    bad("-j NFQUEUE --queue-num 65536"),
    bad("-j NFQUEUE --queue-num -1"),
    bad("-j NFQUEUE --queue-balance 6:0"),
    bad("-j NFQUEUE --queue-balance 5:5"),
    bad("-j NFQUEUE --queue-balance 6"),
    bad("-j NFQUEUE --queue-balance 0:65536"),
    bad("-j NFQUEUE --queue-balance 0:65535"),
    bad("-j NFQUEUE --queue-cpu-fanout"),
    bad("-j NFQUEUE --queue-num 2 --queue-cpu-fanout"),
    bad("-j NFQUEUE --queue-num 2 --queue-balance 1:3"),
    bad("-j NFQUEUE --queue-num 2 --queue-num 3"),
];
