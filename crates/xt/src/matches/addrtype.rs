//! `-m addrtype`: what routing says about an address (kernel `addrtype_mt_v1`).
//!
//! IPv4: the route type is one of the listed. IPv6: MULTICAST, UNICAST and UNSPEC are
//! facts of the address which must *all* hold when listed; then the route type must be
//! one of the others listed, if any (`match_type6`).

use tidegate_ir::{Cond, Field, Hook, Ranges};
use tidegate_wire::Family;

use crate::{
    Arg, Args, Case, Context, Error, Extension, Families, Help, Instance, Legal, ListCtx, Lower,
    LowerCtx, Opt, Place, Refusal, Vector, Words, bad, no, ok, packets, saved, yes,
};

const SRC: usize = 0;
const DST: usize = 1;
const IN: usize = 2;
const OUT: usize = 3;

const UNSPEC: u32 = 1 << 0;
const UNICAST: u32 = 1 << 1;
const LOCAL: u32 = 1 << 2;
const BROADCAST: u32 = 1 << 3;
const ANYCAST: u32 = 1 << 4;
const MULTICAST: u32 = 1 << 5;
const UNREACHABLE: u32 = 1 << 7;

/// Bit n is route type n (`RTN_*`).
const TYPES: Words = Words {
    list: &[
        ("UNSPEC", UNSPEC),
        ("UNICAST", UNICAST),
        ("LOCAL", LOCAL),
        ("BROADCAST", BROADCAST),
        ("ANYCAST", ANYCAST),
        ("MULTICAST", MULTICAST),
        ("BLACKHOLE", 1 << 6),
        ("UNREACHABLE", UNREACHABLE),
        ("PROHIBIT", 1 << 8),
        ("THROW", 1 << 9),
        ("NAT", 1 << 10),
        ("XRESOLVE", 1 << 11),
    ],
    prefix: true,
    unknown: "addrtype: bad type \"{}\"",
};

const OPTIONS: &[Opt] = &[
    Opt::new("src-type", Arg::SetOf(&TYPES))
        .invertible()
        .help(" [!] --src-type type[,...]      Match source address type\n"),
    Opt::new("dst-type", Arg::SetOf(&TYPES))
        .invertible()
        .help(" [!] --dst-type type[,...]      Match destination address type\n"),
    Opt::new("limit-iface-in", Arg::Flag)
        .excludes(&[OUT])
        .help("     --limit-iface-in           Match only on the packet's incoming device\n"),
    Opt::new("limit-iface-out", Arg::Flag)
        .excludes(&[IN])
        .help("     --limit-iface-out          Match only on the packet's outgoing device\n"),
];

/// `-m addrtype`.
pub static ADDRTYPE: Extension = Extension {
    name: "addrtype",
    lower: Lower::Match(lower),
    families: Families::Both,
    options: OPTIONS,
    help: Help::tail(TYPES_HELP).titled("Address type match options:"),
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

const TYPES_HELP: &str = "
Valid types:           
                                UNSPEC
                                UNICAST
                                LOCAL
                                BROADCAST
                                ANYCAST
                                MULTICAST
                                BLACKHOLE
                                UNREACHABLE
                                PROHIBIT
                                THROW
                                NAT
                                XRESOLVE
";

fn finish(args: &mut Args, _: &Context<'_>) -> Result<(), Error> {
    if args.has(SRC) || args.has(DST) {
        return Ok(());
    }
    Err(Error::parameter(
        "addrtype: you must specify --src-type or --dst-type",
    ))
}

/// Types that IPv6 routing does not know.
const NOT_IN_V6: u32 = !(UNSPEC | UNICAST | LOCAL | ANYCAST | MULTICAST | UNREACHABLE);

fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let wrong =
        |opt, hooks: [Hook; 2]| args.has(opt) && place.hooks.iter().any(|h| hooks.contains(h));
    if wrong(OUT, [Hook::Prerouting, Hook::Input]) {
        return Err(Refusal::invalid("addrtype: no output interface there"));
    }
    if wrong(IN, [Hook::Postrouting, Hook::Output]) {
        return Err(Refusal::invalid("addrtype: no input interface there"));
    }
    let types = args.bits(SRC).unwrap_or(0) | args.bits(DST).unwrap_or(0);
    if place.family == Family::V6 && types & NOT_IN_V6 != 0 {
        return Err(Refusal::invalid("addrtype: no such type in IPv6"));
    }
    Ok(())
}

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let mut out = " ADDRTYPE match".to_owned();
    for (opt, word) in [(SRC, "src-type"), (DST, "dst-type")] {
        if let Some(types) = x.args.bits(opt) {
            let bang = if x.args.inverted(opt) { "!" } else { "" };
            out += &format!(" {word} {bang}{}", TYPES.names(types));
        }
    }
    for (opt, word) in [(IN, " limit-in"), (OUT, " limit-out")] {
        if x.args.has(opt) {
            out += word;
        }
    }
    out
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let (src, dst) = if args.has(IN) {
        (Field::SrcTypeIn, Field::DstTypeIn)
    } else if args.has(OUT) {
        (Field::SrcTypeOut, Field::DstTypeOut)
    } else {
        (Field::SrcType, Field::DstType)
    };
    let side = |(opt, addr, route)| {
        let types = args.bits(opt)?;
        let test = match ctx.family {
            Family::V4 => route_type(route, types),
            Family::V6 => type6(addr, route, types),
        };
        Some(test.inverted_if(args.inverted(opt)))
    };
    let sides = [(SRC, Field::Src, src), (DST, Field::Dst, dst)];
    Cond::all(sides.into_iter().filter_map(side).collect())
}

fn route_type(field: Field, types: u32) -> Cond {
    let listed = (0..12).filter(|t| types & (1 << t) != 0);
    Cond::within(field, Ranges::new(listed.map(|t| (t, t)).collect()))
}

/// `ff00::/8`.
const MULTICAST_START: u128 = 0xff << 120;
/// `::ffff:0:0/96`, which is no unicast address.
const MAPPED: (u128, u128) = (0xffff << 32, (0xffff << 32) | 0xffff_ffff);

fn type6(addr: Field, route: Field, types: u32) -> Cond {
    let mut all = Vec::new();
    if types & MULTICAST != 0 {
        all.push(Cond::range(addr, MULTICAST_START, u128::MAX));
    }
    if types & UNICAST != 0 {
        let unicast = vec![(1, MAPPED.0 - 1), (MAPPED.1 + 1, MULTICAST_START - 1)];
        all.push(Cond::within(addr, Ranges::new(unicast)));
    }
    if types & UNSPEC != 0 {
        all.push(Cond::eq(addr, 0));
    }
    let routed = types & (LOCAL | ANYCAST | UNREACHABLE);
    if routed != 0 {
        all.push(route_type(route, routed));
    }
    Cond::all(all)
}

const CASES: &[Case] = &[
    ok("-m addrtype --dst-type BROADCAST,MULTICAST"),
    saved(
        "-m addrtype --src-type LOCAL,uni ! --dst-type broadcast --limit-iface-in",
        "-m addrtype --src-type UNICAST,LOCAL ! --dst-type BROADCAST --limit-iface-in",
    ),
    ok(
        "-m addrtype --src-type UNSPEC,UNICAST,LOCAL,BROADCAST,ANYCAST,MULTICAST,BLACKHOLE,UNREACHABLE,PROHIBIT,THROW,NAT,XRESOLVE",
    ),
    ok("-m addrtype --src-type LOCAL").v6(),
    bad("-m addrtype --src-type BROADCAST").v6(),
    bad("-m addrtype --src-type PROHIBIT").v6(),
    bad("-m addrtype"),
    bad("-m addrtype --limit-iface-in"),
    bad("-m addrtype --dst-type FOO"),
    bad("-m addrtype --src-type LOCAL,"),
    bad("-m addrtype --limit-iface-in --limit-iface-out --dst-type LOCAL"),
    bad("-m addrtype --limit-iface-out --dst-type LOCAL"),
];

const VECTORS: &[Vector] = &[
    yes("-m addrtype --dst-type LOCAL", packets::SYN)
        .with(&[(Field::SrcType, 1), (Field::DstType, 2)]),
    no("-m addrtype --src-type LOCAL", packets::SYN)
        .with(&[(Field::SrcType, 1), (Field::DstType, 2)]),
    yes(
        "-m addrtype --src-type UNICAST,BROADCAST ! --dst-type BROADCAST",
        packets::SYN,
    )
    .with(&[(Field::SrcType, 1), (Field::DstType, 2)]),
    no("-m addrtype ! --dst-type LOCAL,MULTICAST", packets::SYN)
        .with(&[(Field::SrcType, 1), (Field::DstType, 2)]),
    yes(
        "-m addrtype --dst-type LOCAL --limit-iface-in",
        packets::SYN,
    )
    .with(&[(Field::DstType, 1), (Field::DstTypeIn, 2)]),
    yes("-m addrtype --src-type UNICAST", packets::SYN6),
    no("-m addrtype --src-type MULTICAST", packets::SYN6),
    no("-m addrtype --src-type UNICAST,MULTICAST", packets::SYN6),
    yes("-m addrtype ! --dst-type MULTICAST", packets::SYN6),
];
