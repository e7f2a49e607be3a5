//! `-m icmp`: type and code of an ICMP message (kernel `icmp_match`).
//!
//! Type 255 is every type, whatever the code. Later fragments never match; a packet
//! cut inside the 8-byte header is dropped on the spot.

use tidegate_wire::{Family, proto};

use super::icmp_types::{self, Kind, Name, code, ty};
use crate::{
    Arg, Case, Extension, Families, Help, Legal, Lower, Opt, Vector, bad, dropped, no, ok, packets,
    saved, yes,
};

const OPTIONS: &[Opt] = &[Opt::new(
    "icmp-type",
    Arg::Special {
        arity: 1,
        parse: |input| icmp_types::parse(input, &KIND),
        show: |v, _| icmp_types::show(v, true),
    },
)
.invertible()
.mandatory()
.help(
    "[!] --icmp-type typename\tmatch icmp type\n\
     [!] --icmp-type type[/code]\t(or numeric type or type/code)\n",
)];

/// `-m icmp`.
pub static ICMP: Extension = Extension {
    name: "icmp",
    lower: Lower::Match(|args, _| icmp_types::lower(args, &KIND)),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    help: Help::tail(TYPES_HELP),
    legal: Legal::protos(&[proto::ICMP]),
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, ctx| icmp_types::list(x, ctx, &KIND),
    cases: CASES,
    vectors: VECTORS,
};

const KIND: Kind = Kind {
    names: NAMES,
    title: "ICMP",
    word: "icmp",
    any: true,
};

/// Names (IANA ICMP parameters), in listing order: the first one for a value prints.
const NAMES: &[Name] = &[
    ty("any", 255),
    ty("echo-reply", 0),
    ty("pong", 0),
    ty("destination-unreachable", 3),
    code("network-unreachable", 3, 0),
    code("host-unreachable", 3, 1),
    code("protocol-unreachable", 3, 2),
    code("port-unreachable", 3, 3),
    code("fragmentation-needed", 3, 4),
    code("source-route-failed", 3, 5),
    code("network-unknown", 3, 6),
    code("host-unknown", 3, 7),
    code("network-prohibited", 3, 9),
    code("host-prohibited", 3, 10),
    code("TOS-network-unreachable", 3, 11),
    code("TOS-host-unreachable", 3, 12),
    code("communication-prohibited", 3, 13),
    code("host-precedence-violation", 3, 14),
    code("precedence-cutoff", 3, 15),
    ty("source-quench", 4),
    ty("redirect", 5),
    code("network-redirect", 5, 0),
    code("host-redirect", 5, 1),
    code("TOS-network-redirect", 5, 2),
    code("TOS-host-redirect", 5, 3),
    ty("echo-request", 8),
    ty("ping", 8),
    ty("router-advertisement", 9),
    ty("router-solicitation", 10),
    ty("time-exceeded", 11),
    ty("ttl-exceeded", 11),
    code("ttl-zero-during-transit", 11, 0),
    code("ttl-zero-during-reassembly", 11, 1),
    ty("parameter-problem", 12),
    code("ip-header-bad", 12, 0),
    code("required-option-missing", 12, 1),
    ty("timestamp-request", 13),
    ty("timestamp-reply", 14),
    ty("info-request", 15),
    ty("info-reply", 16),
    ty("address-mask-request", 17),
    ty("address-mask-reply", 18),
];

const TYPES_HELP: &str = "\
Valid ICMP Types:
any
echo-reply (pong)
destination-unreachable
   network-unreachable
   host-unreachable
   protocol-unreachable
   port-unreachable
   fragmentation-needed
   source-route-failed
   network-unknown
   host-unknown
   network-prohibited
   host-prohibited
   TOS-network-unreachable
   TOS-host-unreachable
   communication-prohibited
   host-precedence-violation
   precedence-cutoff
source-quench
redirect
   network-redirect
   host-redirect
   TOS-network-redirect
   TOS-host-redirect
echo-request (ping)
router-advertisement
router-solicitation
time-exceeded (ttl-exceeded)
   ttl-zero-during-transit
   ttl-zero-during-reassembly
parameter-problem
   ip-header-bad
   required-option-missing
timestamp-request
timestamp-reply
info-request
info-reply
address-mask-request
address-mask-reply
";

const CASES: &[Case] = &[
    saved(
        "-p icmp -m icmp --icmp-type echo-request",
        "-p icmp -m icmp --icmp-type 8",
    ),
    saved(
        "-p icmp -m icmp ! --icmp-type PING",
        "-p icmp -m icmp ! --icmp-type 8",
    ),
    ok("-p icmp -m icmp --icmp-type 3/4"),
    ok("-p icmp -m icmp ! --icmp-type 3/4"),
    ok("-p icmp -m icmp --icmp-type any"),
    saved(
        "-p icmp -m icmp --icmp-type redirect",
        "-p icmp -m icmp --icmp-type 5",
    ),
    ok("-p icmp -m icmp --icmp-type 8/0"),
    bad("-p icmp -m icmp --icmp-type nosuch"),
    bad("-p icmp -m icmp --icmp-type 256"),
    bad("-p icmp -m icmp --icmp-type ech"),
    bad("-p icmp -m icmp --icmp-type 8/x"),
    bad("-p icmp -m icmp"),
    bad("-m icmp --icmp-type 8"),
    bad("-p icmp -m icmp --icmp-type 8").v6(),
];

const VECTORS: &[Vector] = &[
    yes("-p icmp -m icmp --icmp-type 8", packets::ECHO),
    no("-p icmp -m icmp ! --icmp-type 8", packets::ECHO),
    yes(
        "-p icmp -m icmp --icmp-type 3/4",
        "4500001c00010000400165dd0a0000020a0001020304000000010001",
    ),
    no(
        "-p icmp -m icmp --icmp-type 3/4",
        "4500001c00010000400165dd0a0000020a0001020303000000010001",
    ),
    yes(
        "-p icmp -m icmp --icmp-type 3",
        "4500001c00010000400165dd0a0000020a000102030f000000010001",
    ),
    yes(
        "-p icmp -m icmp --icmp-type any",
        "4500001c00010000400165dd0a0000020a0001020d09000000010001",
    ),
    no("-p icmp -m icmp ! --icmp-type any", packets::ECHO),
    yes("-p icmp -m icmp --icmp-type 255/5", packets::ECHO),
    no(
        "-p icmp -m icmp --icmp-type 8",
        "4500001c00010001400165dc0a0000020a0001020800000000010001",
    ),
    no(
        "-p icmp -m icmp ! --icmp-type 8",
        "4500001c00010003400165da0a0000020a0001020800000000010001",
    ),
    dropped(
        "-p icmp -m icmp --icmp-type 8",
        "4500001b00010000400165de0a0000020a00010208000000000100",
    ),
    no("-p icmp -m icmp --icmp-type 8", packets::SYN),
];
