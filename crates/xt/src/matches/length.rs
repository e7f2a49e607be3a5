//! `-m length`: bytes of the network packet, header included (kernel `length_mt`,
//! `length_mt6`).

use tidegate_ir::{Cond, Field};

use crate::{
    Arg, Case, Extension, Families, Help, Legal, Lower, Opt, Vector, bad, no, ok, packets, saved,
    yes,
};

const LENGTH_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new("length", Arg::IntRange { max: 0xffff })
    .invertible()
    .mandatory()
    .help(
        "[!] --length length[:length]    Match packet length against value or range\n                                of values (inclusive)\n",
    )];

/// `-m length`.
pub static LENGTH: Extension = Extension {
    name: "length",
    lower: Lower::Match(|args, _| {
        let (lo, hi) = args.range(LENGTH_OPT).unwrap_or_default();
        Cond::range(Field::Length, lo.into(), hi.into()).inverted_if(args.inverted(LENGTH_OPT))
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, ctx| {
        let Some(given) = x.args.get(LENGTH_OPT) else {
            return String::new();
        };
        let bang = if given.invert { "!" } else { "" };
        let row = &OPTIONS[LENGTH_OPT];
        format!(" length {bang}{}", row.arg.show(&given.value, ctx.family))
    },
    cases: CASES,
    vectors: VECTORS,
};

const CASES: &[Case] = &[
    ok("-m length --length 100:1500"),
    ok("-m length ! --length 100"),
    saved("-m length --length 5:", "-m length --length 5:65535"),
    saved("-m length --length :", "-m length --length 0:65535"),
    ok("-m length --length 40").v6(),
    bad("-m length"),
    bad("-m length --length 70000"),
    bad("-m length --length 5:4"),
    bad("-m length --length 1:2:3"),
];

const VECTORS: &[Vector] = &[
    yes("-m length --length 40", packets::SYN),
    no("-m length --length 41:65535", packets::SYN),
    yes("-m length ! --length 0:39", packets::SYN),
    yes("-m length --length 60", packets::SYN6),
    no("-m length --length 20", packets::SYN6),
];
