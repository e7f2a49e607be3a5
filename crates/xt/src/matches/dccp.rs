//! `-m dccp`: ports, packet type and options (kernel `dccp_mt`).

use tidegate_ir::{Cond, Field, Truth};
use tidegate_wire::proto;

use super::{
    pure::turned,
    ranges::bang,
    transport::{destination_port, header, list_ports, port_test, source_port},
};
use crate::{
    Arg, Args, Case, Extension, Help, Legal, ListCtx, Lower, LowerCtx, Opt, Vector, Words, bad, no,
    ok, packets, saved, yes,
};

const SPORT: usize = 0;
const DPORT: usize = 1;
const TYPES: usize = 2;
const OPTION: usize = 3;

/// Bit n is type n; INVALID are those without a name.
const NAMES: Words = Words {
    list: &[
        ("REQUEST", 1 << 0),
        ("RESPONSE", 1 << 1),
        ("DATA", 1 << 2),
        ("ACK", 1 << 3),
        ("DATAACK", 1 << 4),
        ("CLOSEREQ", 1 << 5),
        ("CLOSE", 1 << 6),
        ("RESET", 1 << 7),
        ("SYNC", 1 << 8),
        ("SYNCACK", 1 << 9),
        ("INVALID", 0xfc00),
    ],
    prefix: false,
    unknown: "Unknown DCCP type `{}'",
};

const OPTIONS: &[Opt] = &[
    source_port(Arg::PortRange, "[!] --source-port port[:port]                          match source port(s)\n --sport ...\n"),
    destination_port(Arg::PortRange, "[!] --destination-port port[:port]                     match destination port(s)\n --dport ...\n"),
    Opt::new(
        "dccp-types",
        Arg::Special {
            arity: 1,
            parse: parse_types,
            show: |v, _| NAMES.names(v.bits().unwrap_or(0)),
        },
    )
    .invertible()
    .help("[!] --dccp-types type[,...]                            match when packet is one of the given types\n"),
    Opt::new(
        "dccp-option",
        Arg::Int {
            min: 1,
            max: 255,
            hex: 0,
        },
    )
    .invertible()
    .help("[!] --dccp-option option                               match if option (by number!) is set\n"),
];

fn parse_types(input: &crate::Input<'_>) -> Result<crate::Value, crate::Error> {
    let mut bits = 0;
    for word in input.text().split(',') {
        let found = NAMES.list.iter().find(|n| n.0.eq_ignore_ascii_case(word));
        let unknown = || crate::Error::parameter(NAMES.unknown.replace("{}", word));
        bits |= found.ok_or_else(unknown)?.1;
    }
    Ok(crate::Value::Bits(bits))
}

/// `-m dccp`.
pub static DCCP: Extension = Extension {
    name: "dccp",
    lower: Lower::Match(lower),
    options: OPTIONS,
    help: Help::TABLE.titled("dccp match options"),
    legal: Legal::protos(&[proto::DCCP]),
    list: |x, ctx| {
        let mut out = " dccp".to_owned();
        for (opt, word) in [(SPORT, "spt"), (DPORT, "dpt")] {
            out += &ports(&x.args, opt, word, ctx);
        }
        if let Some(bits) = x.args.bits(TYPES) {
            let names = if ctx.numeric {
                let numbers = (0..16).filter(|t| bits & 1 << t != 0);
                numbers.map(|t| t.to_string()).collect::<Vec<_>>().join(",")
            } else {
                NAMES.names(bits)
            };
            let bang = super::ranges::blank_bang(&x.args, TYPES);
            out += &format!("{bang} {names}");
        }
        if let Some(option) = x.args.number(OPTION) {
            out += &format!(" option={}{option}", bang(&x.args, OPTION));
        }
        out
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

/// As the other port options; all ports, not inverted, are not mentioned.
pub(super) fn ports(args: &Args, opt: usize, word: &str, ctx: &ListCtx<'_>) -> String {
    let all = args.range(opt) == Some((0, 0xffff)) && !args.inverted(opt);
    if all {
        return String::new();
    }
    let proto = crate::names::known_protocol_name(ctx.proto).unwrap_or_default();
    list_ports(args, opt, word, ctx, proto)
}

fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let mut tests = vec![header(12)];
    tests.extend(port_test(args, SPORT, Field::Sport));
    tests.extend(port_test(args, DPORT, Field::Dport));
    if let Some(types) = args.bits(TYPES) {
        // The type is bits 1 to 4 of byte 8.
        let one = |t| Cond::bits(Field::L4 { at: 8, len: 1 }, 0x1e, t << 1);
        let listed = (0..16u128).filter(|t| types & 1 << t != 0);
        tests.push(Cond::any(listed.map(one).collect()).inverted_if(args.inverted(TYPES)));
    }
    if let Some(option) = args.number(OPTION) {
        let kind = u8::try_from(option).unwrap_or(0);
        let asks = format!("DCCP option {kind}");
        let test = turned(ctx, asks, args.inverted(OPTION), move |input| {
            has_option(input.facts.packet(), kind)
        });
        tests.push(test);
    }
    Cond::all(tests)
}

/// Bytes of the fixed header of a packet type (RFC 4340 section 5), without those all have.
fn fixed_len(ty: u8) -> usize {
    match ty {
        0 => 4,
        2 => 0,
        3..=6 | 8 | 9 => 8,
        _ => 12,
    }
}

fn has_option(packet: &[u8], kind: u8) -> Truth {
    let Ok(layout) = tidegate_wire::parse(packet) else {
        return Truth::Hotdrop;
    };
    let l4 = layout.l4(packet);
    let (Some(&words), Some(&ty)) = (l4.get(4), l4.get(8)) else {
        return Truth::Hotdrop;
    };
    let long = if ty & 1 != 0 { 4 } else { 0 };
    let fixed = 12 + long + fixed_len(ty >> 1 & 0xf);
    let Some(options) = l4.get(fixed..usize::from(words) * 4) else {
        return Truth::Hotdrop;
    };
    let mut at = 0;
    while let Some(&k) = options.get(at) {
        if k == kind {
            return Truth::True;
        }
        let len = options.get(at + 1).copied().unwrap_or(1);
        at += if k < 2 { 1 } else { usize::from(len.max(1)) };
    }
    Truth::False
}

const CASES: &[Case] = &[
    ok("-p dccp -m dccp"),
    ok("-p dccp -m dccp --sport 1"),
    ok("-p dccp -m dccp --dport 1:3"),
    saved(
        "-p dccp -m dccp --dport :",
        "-p dccp -m dccp --dport 0:65535",
    ),
    ok("-p dccp -m dccp ! --dport 0:65535"),
    ok("-p dccp -m dccp --dccp-types REQUEST,RESPONSE"),
    saved(
        "-p dccp -m dccp ! --dccp-types request,RESPONSE,DATA,ACK,DATAACK,CLOSEREQ,CLOSE,SYNC,SYNCACK,INVALID,RESET",
        "-p dccp -m dccp ! --dccp-types REQUEST,RESPONSE,DATA,ACK,DATAACK,CLOSEREQ,CLOSE,RESET,SYNC,SYNCACK,INVALID",
    ),
    ok("-p dccp -m dccp --dccp-types INVALID"),
    ok("-p dccp -m dccp ! --dccp-option 255").v6(),
    bad("-p dccp -m dccp --dport 3:1"),
    bad("-p dccp -m dccp --dccp-types FOO"),
    bad("-p dccp -m dccp --dccp-option 0"),
    bad("-p dccp -m dccp --dccp-option 256"),
    bad("-m dccp --sport 1"),
];

const VECTORS: &[Vector] = &[
    yes(
        "-p dccp -m dccp --dport 80 --dccp-types REQUEST --dccp-option 41",
        packets::DCCP,
    ),
    no("-p dccp -m dccp --dccp-types RESPONSE,ACK", packets::DCCP),
    no("-p dccp -m dccp ! --dccp-option 41", packets::DCCP),
    no("-p dccp -m dccp --dccp-option 42", packets::DCCP),
];
