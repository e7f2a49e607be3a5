//! `-m ipv6header`: which kinds of headers a packet has (kernel `ipv6header_mt6`).

use tidegate_ir::{Cond, Field, exthdr};
use tidegate_wire::{Family, proto};

use super::ranges::bang;
use crate::{
    Arg, Case, Error, Extension, Families, Help, Input, Lower, Opt, Value, Vector, bad, no, number,
    ok, packets, saved, yes,
};

const HEADER: usize = 0;
const SOFT: usize = 1;

/// Bit, number, name as printed, short name.
const KINDS: [(u32, u8, &str, &str); 8] = [
    (exthdr::HOP, proto::HOPOPTS, "hop-by-hop", "hop"),
    (exthdr::DST, proto::DSTOPTS, "ipv6-opts", "dst"),
    (exthdr::ROUTE, proto::ROUTING, "ipv6-route", "route"),
    (exthdr::FRAG, proto::FRAGMENT, "ipv6-frag", "frag"),
    (exthdr::AUTH, proto::AH, "ah", "auth"),
    (exthdr::ESP, proto::ESP, "esp", "esp"),
    (exthdr::NONE, proto::NONE, "ipv6-nonxt", "none"),
    (exthdr::PROTO, 255, "protocol", "prot"),
];

const OPTIONS: &[Opt] = &[
    Opt::new(
        "header",
        Arg::Special {
            arity: 1,
            parse,
            show: |v, _| names(v.bits().unwrap_or(0)),
        },
    )
    .invertible()
    .mandatory()
    .help("[!] --header headers     Type of header to match, by name\n                         names: hop,dst,route,frag,auth,esp,none,prot\n                    long names: hop-by-hop,ipv6-opts,ipv6-route,\n                                ipv6-frag,ah,esp,ipv6-nonxt,protocol\n                       numbers: 0,60,43,44,51,50,59\n"),
    Opt::new("soft", Arg::Flag).help("--soft                    The header CONTAINS the specified extensions\n"),
];

fn names(bits: u32) -> String {
    let listed = KINDS.iter().filter(|k| bits & k.0 != 0);
    listed.map(|k| k.2).collect::<Vec<_>>().join(",")
}

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    if input.text().is_empty() {
        return Err(Error::parameter(
            "ip6t_ipv6header: cannot parse header names",
        ));
    }
    let mut bits = 0;
    for word in input.text().split(',') {
        let lower = word.to_ascii_lowercase();
        let named = KINDS.iter().find(|k| k.2 == lower || k.3 == lower);
        let number = || {
            number::whole(word, 0, 255).or_else(|| input.ctx.names.protocol(&lower).map(u64::from))
        };
        let found = named.or_else(|| {
            let number = number()?;
            KINDS.iter().find(|k| u64::from(k.1) == number)
        });
        let shown = || number().map_or_else(|| word.to_owned(), |n| n.to_string());
        let unknown = || Error::parameter(format!("unknown header `{}' specified", shown()));
        bits |= found.ok_or_else(unknown)?.0;
    }
    Ok(Value::Bits(bits))
}

/// `-m ipv6header`.
pub static IPV6HEADER: Extension = Extension {
    name: "ipv6header",
    lower: Lower::Match(|args, _| {
        let bits = u128::from(args.bits(HEADER).unwrap_or(0));
        let invert = args.inverted(HEADER);
        let kinds = Field::ExtHeaders;
        if args.has(SOFT) {
            return Cond::bits(kinds, bits, if invert { 0 } else { bits });
        }
        let same = Cond::eq(kinds, bits).inverted_if(invert);
        Cond::all(vec![Cond::range(kinds, 0, 0xff), same])
    }),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: Help::TABLE,
    list: |x, ctx| {
        let bits = x.args.bits(HEADER).unwrap_or(0);
        let flags = if ctx.numeric {
            format!("0x{bits:02X}")
        } else {
            names(bits)
        };
        let soft = if x.args.has(SOFT) { " soft" } else { "" };
        format!(" ipv6header flags:{}{flags}{soft}", bang(&x.args, HEADER))
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m ipv6header --header hop-by-hop").v6(),
    ok("-m ipv6header --header hop-by-hop --soft").v6(),
    ok("-m ipv6header --header ipv6-nonxt").v6(),
    saved(
        "-m ipv6header --header ipv6-nonxt,hop,dst,route,frag,auth,esp,prot",
        "-m ipv6header --header hop-by-hop,ipv6-opts,ipv6-route,ipv6-frag,ah,esp,ipv6-nonxt,protocol",
    )
    .v6(),
    saved(
        "-m ipv6header ! --header 0,60,43,44,51,50,59",
        "-m ipv6header ! --header hop-by-hop,ipv6-opts,ipv6-route,ipv6-frag,ah,esp,ipv6-nonxt",
    )
    .v6(),
    saved("-m ipv6header --header 255", "-m ipv6header --header protocol").v6(),
    bad("-m ipv6header --header foo").v6(),
    bad("-m ipv6header --header tcp").v6(),
    bad("-m ipv6header --header \"\"").v6(),
    bad("-m ipv6header ! --soft --header esp").v6(),
    bad("-m ipv6header --soft").v6(),
    bad("-m ipv6header").v6(),
    bad("-m ipv6header --header esp"),
];

const VECTORS: &[Vector] = &[
    yes("-m ipv6header --header prot", packets::SYN6),
    no("-m ipv6header --header frag", packets::LATER6),
    yes("-m ipv6header --header frag,prot", packets::LATER6),
    yes("-m ipv6header --header frag --soft", packets::LATER6),
    no("-m ipv6header ! --header frag --soft", packets::LATER6),
    yes("-m ipv6header ! --header frag", packets::LATER6),
    yes("-m ipv6header ! --header frag --soft", packets::SYN6),
];
