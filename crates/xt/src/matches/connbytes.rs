//! `-m connbytes`: how much a connection has carried so far (kernel `connbytes_mt`). A
//! connection that is not accounted never matches.

use tidegate_ir::{Cond, Field, StepInput};

use super::pure::pure;
use crate::{
    Arg, Args, Case, Error, Extension, Input, Lower, LowerCtx, Opt, Value, Vector, Words, bad, no,
    ok, packets, saved, yes,
};

const RANGE: usize = 0;
const MODE: usize = 1;
const DIR: usize = 2;

const PACKETS: u64 = 0;
const BYTES: u64 = 1;

const MODES: Words = Words {
    list: &[("packets", 0), ("bytes", 1), ("avgpkt", 2)],
    prefix: false,
    unknown: "Unknown --connbytes-mode `{}'",
};
const DIRS: Words = Words {
    list: &[("original", 0), ("reply", 1), ("both", 2)],
    prefix: false,
    unknown: "Unknown --connbytes-dir `{}'",
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "connbytes",
        Arg::Special {
            arity: 1,
            parse,
            show: |v, _| match v.range() {
                Some((lo, u64::MAX)) => lo.to_string(),
                Some((lo, hi)) => format!("{lo}:{hi}"),
                None => String::new(),
            },
        },
    )
    .invertible()
    .mandatory()
    .help(" [!] --connbytes from:[to]\n"),
    Opt::new("connbytes-mode", Arg::OneOf(&MODES))
        .help("     --connbytes-mode [packets, bytes, avgpkt]\n"),
    Opt::new("connbytes-dir", Arg::OneOf(&DIRS))
        .help("     --connbytes-dir [original, reply, both]\n"),
];

/// Reads `from`, `from:`, `:to` or `from:to`; without an end there is none.
fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let bad = |near: &str| {
        Error::parameter(format!(
            "connbytes: bad value for option \"--connbytes\" near \"{near}\", or out of range (0-{}).\n",
            u64::MAX
        ))
    };
    let bound = |s: &str, near: &str| crate::number::whole(s, 0, u64::MAX).ok_or_else(|| bad(near));
    let (lo, hi) = match text.split_once(':') {
        None => (bound(text, text)?, u64::MAX),
        Some((lo, hi)) => {
            let lo = if lo.is_empty() { 0 } else { bound(lo, text)? };
            let hi = if hi.is_empty() {
                u64::MAX
            } else {
                bound(hi, hi)?
            };
            (lo, hi)
        }
    };
    if lo > hi {
        return Err(Error::parameter(format!("{lo} should be less than {hi}")));
    }
    Ok(Value::Range(lo, hi))
}

/// `-m connbytes`.
pub static CONNBYTES: Extension = Extension {
    name: "connbytes",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: crate::Help::order(&[RANGE, DIR, MODE]),
    finish: |args, _| {
        for (opt, name) in [
            (RANGE, "connbytes"),
            (DIR, "connbytes-dir"),
            (MODE, "connbytes-mode"),
        ] {
            if !args.has(opt) {
                return Err(Error::parameter(format!(
                    "connbytes: option \"--{name}\" must be specified\n"
                )));
            }
        }
        // The kernel tells an inverted range by its ends, which do not tell here.
        if let (Some((lo, hi)), true) = (args.range(RANGE), args.inverted(RANGE))
            && lo == hi
        {
            args.set(RANGE, false, Value::Range(lo, hi));
        }
        Ok(())
    },
    list: |x, ctx| {
        let bang = super::ranges::blank_bang(&x.args, RANGE);
        let shown = |opt: usize| match x.args.get(opt) {
            Some(g) => OPTIONS[opt].arg.show(&g.value, ctx.family),
            None => String::new(),
        };
        format!(
            "{bang} connbytes {} connbytes mode {} connbytes direction {}",
            shown(RANGE),
            shown(MODE),
            shown(DIR)
        )
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let (lo, hi) = args.range(RANGE).unwrap_or_default();
    let (lo, hi) = (u128::from(lo), u128::from(hi));
    let mode = args.number(MODE).unwrap_or(PACKETS);
    let dir = args.number(DIR).unwrap_or(2);
    let (packets, bytes): (&[Field], &[Field]) = match dir {
        0 => (&[Field::CtOrigPackets], &[Field::CtOrigBytes]),
        1 => (&[Field::CtReplPackets], &[Field::CtReplBytes]),
        _ => (
            &[Field::CtOrigPackets, Field::CtReplPackets],
            &[Field::CtOrigBytes, Field::CtReplBytes],
        ),
    };
    let one: Option<Field> = match (mode, packets, bytes) {
        (PACKETS, &[field], _) | (BYTES, _, &[field]) => Some(field),
        _ => None,
    };
    let test = match one {
        Some(field) => Cond::range(field, lo, hi),
        None => pure(ctx, "what the connection carried", move |input| {
            let n = match mode {
                PACKETS => sum(input, packets),
                BYTES => sum(input, bytes),
                // Nothing carried is no bytes a packet.
                _ => sum(input, bytes)
                    .checked_div(sum(input, packets))
                    .unwrap_or(0),
            };
            (lo..=hi).contains(&n)
        }),
    };
    Cond::all(vec![
        Cond::range(Field::CtOrigPackets, 0, u128::MAX),
        test.inverted_if(args.inverted(RANGE)),
    ])
}

fn sum(input: &mut StepInput<'_>, fields: &[Field]) -> u128 {
    fields.iter().filter_map(|&f| input.facts.load(f)).sum()
}

const CASES: &[Case] = &[
    saved(
        "-m connbytes --connbytes 0:1000 --connbytes-dir original --connbytes-mode packets",
        "-m connbytes --connbytes 0:1000 --connbytes-mode packets --connbytes-dir original",
    ),
    ok("-m connbytes --connbytes 1000 --connbytes-mode bytes --connbytes-dir both"),
    saved(
        "-m connbytes --connbytes 1000: --connbytes-mode avgpkt --connbytes-dir reply",
        "-m connbytes --connbytes 1000 --connbytes-mode avgpkt --connbytes-dir reply",
    ),
    saved(
        "-m connbytes ! --connbytes :1000 --connbytes-mode avgpkt --connbytes-dir reply",
        "-m connbytes ! --connbytes 0:1000 --connbytes-mode avgpkt --connbytes-dir reply",
    )
    .v6(),
    bad("-m connbytes --connbytes 1000:5 --connbytes-mode packets --connbytes-dir reply"),
    bad("-m connbytes --connbytes -1:0 --connbytes-mode packets --connbytes-dir original"),
    bad("-m connbytes --connbytes 0:-1 --connbytes-mode packets --connbytes-dir original"),
    bad(
        "-m connbytes --connbytes 0:18446744073709551616 --connbytes-mode avgpkt --connbytes-dir both",
    ),
    bad("-m connbytes --connbytes 0:1000 --connbytes-mode wrong --connbytes-dir both"),
    bad("-m connbytes --connbytes 0:1000 --connbytes-dir original"),
    bad("-m connbytes --connbytes 0:1000 --connbytes-mode packets"),
    bad("-m connbytes --connbytes-dir original"),
    bad("-m connbytes --connbytes 5 --connbytes-mode packets --connbytes-dir foo"),
    bad("-m connbytes"),
];

const CARRIED: &[(Field, u128)] = &[
    (Field::CtOrigPackets, 3),
    (Field::CtOrigBytes, 300),
    (Field::CtReplPackets, 2),
    (Field::CtReplBytes, 1000),
];

const VECTORS: &[Vector] = &[
    yes(
        "-m connbytes --connbytes 3:3 --connbytes-mode packets --connbytes-dir original",
        packets::SYN,
    )
    .with(CARRIED),
    no(
        "-m connbytes ! --connbytes 0:1300 --connbytes-mode bytes --connbytes-dir both",
        packets::SYN,
    )
    .with(CARRIED),
    yes(
        "-m connbytes --connbytes 1300 --connbytes-mode bytes --connbytes-dir both",
        packets::SYN,
    )
    .with(CARRIED),
    yes(
        "-m connbytes --connbytes 500:500 --connbytes-mode avgpkt --connbytes-dir reply",
        packets::SYN,
    )
    .with(CARRIED),
    yes(
        "-m connbytes --connbytes 260:260 --connbytes-mode avgpkt --connbytes-dir both",
        packets::SYN,
    )
    .with(CARRIED),
    no(
        "-m connbytes ! --connbytes 5:6 --connbytes-mode bytes --connbytes-dir both",
        packets::SYN,
    ),
];
