//! `-j SYNPROXY`: answers SYNs with cookies in the name of the destination (kernel
//! `synproxy_tg4`).

use tidegate_ir::{Effect, Hook, SynProxySpec, Verdict};
use tidegate_wire::proto;

use crate::{
    Arg, Args, Case, Extension, Families, Input, Instance, Legal, ListCtx, Lower, Opt, Outcome,
    Value, bad, number, ok, saved,
};

const SHOW_NUMBER: fn(&Value, tidegate_wire::Family) -> String =
    |v, _| v.number().unwrap_or(0).to_string();

const SACK: usize = 0;
const TIMESTAMP: usize = 1;
const WSCALE: usize = 2;
const MSS: usize = 3;
const ECN: usize = 4;

/// A number of which so many bits count, as the tool reads it.
fn low_bits(input: &Input<'_>, mask: u64) -> Result<Value, crate::Error> {
    number::whole(input.text(), 0, u32::MAX.into())
        .map(|n| Value::Number(n & mask))
        .ok_or_else(|| input.out_of_range(0, u32::MAX))
}

const OPTIONS: &[Opt] = &[
    Opt::new("sack-perm", Arg::Flag).help("  --sack-perm                        Set SACK_PERM\n"),
    Opt::new("timestamp", Arg::Flag).help("  --timestamp                        Set TIMESTAMP\n"),
    Opt::new(
        "wscale",
        Arg::Special {
            arity: 1,
            parse: |input| low_bits(input, 0xff),
            show: SHOW_NUMBER,
        },
    )
    .help("  --wscale value                     Set window scaling factor\n"),
    Opt::new(
        "mss",
        Arg::Special {
            arity: 1,
            parse: |input| low_bits(input, 0xffff),
            show: SHOW_NUMBER,
        },
    )
    .help("  --mss value                        Set MSS value\n"),
    Opt::new("ecn", Arg::Flag).help("  --ecn                              Set ECN\n"),
];

/// `-j SYNPROXY`.
pub static SYNPROXY: Extension = Extension {
    name: "SYNPROXY",
    lower: Lower::Target(|args, _| {
        Outcome::effect(Effect::SynProxy(spec(args)), Verdict::Continue)
    }),
    families: Families::Both,
    options: OPTIONS,
    legal: Legal {
        hooks: &[Hook::Input, Hook::Forward],
        protos: &[proto::TCP],
        ..Legal::ANYWHERE
    },
    list,
    cases: CASES,
    ..Extension::TARGET
};

fn spec(args: &Args) -> SynProxySpec {
    let number = |opt| args.get(opt).and_then(|g| g.value.number());
    SynProxySpec {
        mss: number(MSS).and_then(|n| n.try_into().ok()),
        wscale: number(WSCALE).and_then(|n| n.try_into().ok()),
        sack: args.has(SACK),
        timestamp: args.has(TIMESTAMP),
        ecn: args.has(ECN),
    }
}

fn list(x: &Instance, ctx: &ListCtx<'_>) -> String {
    let words = x.args.iter().map(|g| {
        let value = OPTIONS[g.opt].arg.show(&g.value, ctx.family);
        let blank = if value.is_empty() { "" } else { " " };
        format!("{}{blank}{value} ", OPTIONS[g.opt].name)
    });
    format!(" SYNPROXY {}", words.collect::<String>())
}

const CASES: &[Case] = &[
    ok("-p tcp -j SYNPROXY"),
    ok("-p tcp -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460"),
    ok("-p tcp -j SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460").v6(),
    saved(
        "-p tcp -j SYNPROXY --ecn --wscale 14 --mss 65535",
        "-p tcp -j SYNPROXY --wscale 14 --mss 65535 --ecn",
    ),
    ok("-p tcp -j SYNPROXY").at(tidegate_ir::TableKind::Filter, Hook::Forward),
    bad("-j SYNPROXY"),
    bad("-p udp -j SYNPROXY"),
    bad("! -p tcp -j SYNPROXY"),
    bad("-p tcp -j SYNPROXY").at(tidegate_ir::TableKind::Filter, Hook::Output),
];
