//! `-m tos`: the IPv4 type-of-service byte or the IPv6 traffic class under a mask
//! (kernel `tos_mt`).

use tidegate_ir::{Cond, Field};

use crate::{
    Arg, Case, Extension, Families, Help, Instance, Legal, ListCtx, Lower, Opt, Vector, bad, no,
    ok, packets, saved, tos, yes,
};

const TOS_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "tos",
    Arg::Special {
        arity: 1,
        parse: tos::parse,
        show: tos::show,
    },
)
.invertible()
.mandatory()
.help(
    "\
[!] --tos value[/mask]    Match Type of Service/Priority field value
[!] --tos symbol          Match TOS field (IPv4 only) by symbol
                          Accepted symbolic names for value are:
                          (0x10) 16 Minimize-Delay
                          (0x08)  8 Maximize-Throughput
                          (0x04)  4 Maximize-Reliability
                          (0x02)  2 Minimize-Cost
                          (0x00)  0 Normal-Service

",
)];

/// `-m tos`.
pub static TOS: Extension = Extension {
    name: "tos",
    lower: Lower::Match(|args, _| {
        let (value, mask) = args.masked(TOS_OPT).unwrap_or_default();
        Cond::bits(Field::Tos, mask.into(), value.into()).inverted_if(args.inverted(TOS_OPT))
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list,
    cases: CASES,
    vectors: VECTORS,
};

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let Some(given) = x.args.get(TOS_OPT) else {
        return String::new();
    };
    let bang = if given.invert { "!" } else { "" };
    let (value, mask) = given.value.masked().unwrap_or_default();
    match tos::name(value, mask) {
        Some(name) if !ctx.numeric => format!(" tos match{bang} {name}"),
        _ => format!(" tos match{bang}{}", tos::show(&given.value, ctx.family)),
    }
}

const CASES: &[Case] = &[
    saved("-m tos --tos Minimize-Delay", "-m tos --tos 0x10/0x3f"),
    saved("-m tos --tos normal-service", "-m tos --tos 0x00/0x3f"),
    saved("-m tos ! --tos 16", "-m tos ! --tos 0x10/0xff"),
    ok("-m tos --tos 0x04/0x3f"),
    ok("-m tos --tos 0x10/0x1f").v6(),
    bad("-m tos"),
    bad("-m tos --tos foo"),
    bad("-m tos --tos 0x100"),
    bad("-m tos --tos 4/0x100"),
    bad("-m tos --tos 0x10/"),
];

const VECTORS: &[Vector] = &[
    no("-m tos --tos 0x10/0x3f", packets::TOS_12),
    yes("-m tos --tos 0x12", packets::TOS_12),
    no("-m tos ! --tos 0x10/0x10", packets::TOS_12),
    no("-m tos --tos 0x13/0x12", packets::TOS_12),
    yes(
        "-m tos --tos 0xb8",
        "6b8000000014064020010db800000000000000000000000120010db80000000000000000000000020401005000000001000000005002200000000000",
    ),
];
