//! `-m icmp6`: type and code of an ICMPv6 message (kernel `icmp6_match`).
//!
//! Unlike with ICMP, type 255 is just type 255. Later fragments never match; a packet
//! cut inside the 8-byte header is dropped on the spot.

use tidegate_wire::{Family, proto};

use super::icmp_types::{self, Kind, Name, code, ty};
use crate::{
    Arg, Case, Extension, Families, Help, Legal, Lower, Opt, Vector, bad, dropped, no, ok, packets,
    saved, yes,
};

const OPTIONS: &[Opt] = &[Opt::new(
    "icmpv6-type",
    Arg::Special {
        arity: 1,
        parse: |input| icmp_types::parse(input, &KIND),
        show: |v, _| icmp_types::show(v, false),
    },
)
.invertible()
.mandatory()
.help("[!] --icmpv6-type typename\tmatch icmpv6 type\n\t\t\t\t(or numeric type or type/code)\n")];

/// `-m icmp6`.
pub static ICMP6: Extension = Extension {
    name: "icmp6",
    lower: Lower::Match(|args, _| icmp_types::lower(args, &KIND)),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: Help::tail(TYPES_HELP).titled("icmpv6 match options:"),
    legal: Legal::protos(&[proto::ICMPV6]),
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, ctx| icmp_types::list(x, ctx, &KIND),
    cases: CASES,
    vectors: VECTORS,
};

const KIND: Kind = Kind {
    names: NAMES,
    title: "ICMPv6",
    word: "ipv6-icmp",
    any: false,
};

/// Names (IANA ICMPv6 parameters), in listing order: the first one for a value prints.
const NAMES: &[Name] = &[
    ty("destination-unreachable", 1),
    code("no-route", 1, 0),
    code("communication-prohibited", 1, 1),
    code("beyond-scope", 1, 2),
    code("address-unreachable", 1, 3),
    code("port-unreachable", 1, 4),
    code("failed-policy", 1, 5),
    code("reject-route", 1, 6),
    ty("packet-too-big", 2),
    ty("time-exceeded", 3),
    ty("ttl-exceeded", 3),
    code("ttl-zero-during-transit", 3, 0),
    code("ttl-zero-during-reassembly", 3, 1),
    ty("parameter-problem", 4),
    code("bad-header", 4, 0),
    code("unknown-header-type", 4, 1),
    code("unknown-option", 4, 2),
    ty("echo-request", 128),
    ty("ping", 128),
    ty("echo-reply", 129),
    ty("pong", 129),
    ty("mld-listener-query", 130),
    ty("mld-listener-report", 131),
    ty("mld-listener-done", 132),
    ty("mld-listener-reduction", 132),
    ty("router-solicitation", 133),
    ty("router-advertisement", 134),
    ty("neighbour-solicitation", 135),
    ty("neighbor-solicitation", 135),
    ty("neighbour-advertisement", 136),
    ty("neighbor-advertisement", 136),
    ty("redirect", 137),
];

const TYPES_HELP: &str = "\
Valid ICMPv6 Types:
destination-unreachable
   no-route
   communication-prohibited
   beyond-scope
   address-unreachable
   port-unreachable
   failed-policy
   reject-route
packet-too-big
time-exceeded (ttl-exceeded)
   ttl-zero-during-transit
   ttl-zero-during-reassembly
parameter-problem
   bad-header
   unknown-header-type
   unknown-option
echo-request (ping)
echo-reply (pong)
mld-listener-query
mld-listener-report
mld-listener-done (mld-listener-reduction)
router-solicitation
router-advertisement
neighbour-solicitation (neighbor-solicitation)
neighbour-advertisement (neighbor-advertisement)
redirect
";

const CASES: &[Case] = &[
    saved(
        "-p ipv6-icmp -m icmp6 --icmpv6-type echo-request",
        "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
    )
    .v6(),
    ok("-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/4").v6(),
    ok("-p ipv6-icmp -m icmp6 ! --icmpv6-type 255").v6(),
    bad("-p ipv6-icmp -m icmp6 --icmpv6-type any").v6(),
    bad("-p ipv6-icmp -m icmp6 --icmpv6-type router").v6(),
    bad("-p ipv6-icmp -m icmp6").v6(),
    bad("-p icmp -m icmp6 --icmpv6-type 1").v6(),
    bad("-p ipv6-icmp -m icmp6 --icmpv6-type 128"),
];

const VECTORS: &[Vector] = &[
    yes("-p ipv6-icmp -m icmp6 --icmpv6-type 128", packets::ECHO6),
    no("-p ipv6-icmp -m icmp6 ! --icmpv6-type 128", packets::ECHO6),
    yes(
        "-p ipv6-icmp -m icmp6 --icmpv6-type 1/4",
        "6000000000083a4020010db800000000000000000000000120010db80000000000000000000000020104000000010001",
    ),
    no(
        "-p ipv6-icmp -m icmp6 --icmpv6-type 1/4",
        "6000000000083a4020010db800000000000000000000000120010db80000000000000000000000020103000000010001",
    ),
    no("-p ipv6-icmp -m icmp6 --icmpv6-type 255", packets::ECHO6),
    dropped(
        "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
        packets::CUT_ECHO6,
    ),
    dropped(
        "-p ipv6-icmp -m icmp6 ! --icmpv6-type 128",
        packets::CUT_ECHO6,
    ),
];
