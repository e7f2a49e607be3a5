//! `-j REJECT`: drop and answer (kernel `reject_tg`, `reject_tg6`).
//!
//! A kind may be shortened to any start of its name or alias; the first that fits is
//! taken, upper and lower case being the same.

use tidegate_ir::{Hook, RejectKind, TableKind, Verdict};
use tidegate_wire::{Family, proto};

use crate::{
    Arg, Args, Case, Error, Extension, Families, Help, Input, Instance, Legal, Lower, Opt, Outcome,
    Place, Refusal, Value, bad, ok, saved, starts_with_ignoring_case,
};

const WITH: usize = 0;

/// One way to answer.
struct Kind {
    name: &'static str,
    alias: &'static str,
    kind: RejectKind,
}

const fn kind(name: &'static str, alias: &'static str, code: u8) -> Kind {
    Kind {
        name,
        alias,
        kind: RejectKind::Unreachable(code),
    }
}

const RESET: RejectKind = RejectKind::TcpReset;

const KINDS4: &[Kind] = &[
    kind("icmp-net-unreachable", "net-unreach", 0),
    kind("icmp-host-unreachable", "host-unreach", 1),
    kind("icmp-proto-unreachable", "proto-unreach", 2),
    kind("icmp-port-unreachable", "port-unreach", 3),
    kind("icmp-net-prohibited", "net-prohib", 9),
    kind("icmp-host-prohibited", "host-prohib", 10),
    Kind {
        name: "tcp-reset",
        alias: "tcp-rst",
        kind: RESET,
    },
    kind("icmp-admin-prohibited", "admin-prohib", 13),
];
const DEFAULT4: u64 = 3;

const KINDS6: &[Kind] = &[
    kind("icmp6-no-route", "no-route", 0),
    kind("icmp6-adm-prohibited", "adm-prohibited", 1),
    kind("icmp6-addr-unreachable", "addr-unreach", 3),
    kind("icmp6-port-unreachable", "port-unreach", 4),
    Kind {
        name: "tcp-reset",
        alias: "tcp-reset",
        kind: RESET,
    },
    kind("icmp6-policy-fail", "policy-fail", 5),
    kind("icmp6-reject-route", "reject-route", 6),
];
const DEFAULT6: u64 = 3;

const HELP: &str = "\
--reject-with type              drop input packet and send back
                                a reply packet according to type:
Valid reject types:
";

const fn with(arg: Arg) -> [Opt; 1] {
    [Opt::new("reject-with", arg).help(HELP)]
}

const OPTIONS4: [Opt; 1] = with(Arg::Special {
    arity: 1,
    parse: |input| parse(input, KINDS4),
    show: |v, _| name(v, KINDS4).to_owned(),
});

const OPTIONS6: [Opt; 1] = with(Arg::Special {
    arity: 1,
    parse: |input| parse(input, KINDS6),
    show: |v, _| name(v, KINDS6).to_owned(),
});

const FILTER_HOOKS: &[Hook] = &[Hook::Input, Hook::Forward, Hook::Output];

const LEGAL: Legal = Legal {
    tables: &[TableKind::Filter],
    hooks: FILTER_HOOKS,
    protos: &[],
    extra: check,
};

/// `-j REJECT` of IPv4.
pub static REJECT: Extension = Extension {
    name: "REJECT",
    lower: Lower::Target(|args, _| outcome(args, KINDS4)),
    families: Families::Only(Family::V4),
    options: &OPTIONS4,
    help: Help::tail(HELP4),
    legal: LEGAL,
    finish: |args, _| {
        set_default(args, DEFAULT4);
        Ok(())
    },
    save: crate::save_all,
    list: |x, _| list(x, KINDS4),
    cases: CASES4,
    vectors: &[],
};

/// `-j REJECT` of IPv6.
pub static REJECT6: Extension = Extension {
    lower: Lower::Target(|args, _| outcome(args, KINDS6)),
    families: Families::Only(Family::V6),
    options: &OPTIONS6,
    help: Help::tail(HELP6),
    finish: |args, _| {
        set_default(args, DEFAULT6);
        Ok(())
    },
    list: |x, _| list(x, KINDS6),
    cases: CASES6,
    ..REJECT
};

fn set_default(args: &mut Args, kind: u64) {
    if !args.has(WITH) {
        args.set(WITH, false, Value::Number(kind));
    }
}

fn parse(input: &Input<'_>, kinds: &[Kind]) -> Result<Value, Error> {
    let word = input.text();
    let fits = |k: &Kind| {
        starts_with_ignoring_case(k.name, word) || starts_with_ignoring_case(k.alias, word)
    };
    kinds
        .iter()
        .position(fits)
        .map(|n| Value::Number(n as u64))
        .ok_or_else(|| Error::parameter(format!("unknown reject type \"{word}\"")))
}

fn chosen<'a>(value: &Value, kinds: &'a [Kind]) -> Option<&'a Kind> {
    kinds.get(usize::try_from(value.number()?).ok()?)
}

fn name(value: &Value, kinds: &'static [Kind]) -> &'static str {
    chosen(value, kinds).map_or("", |k| k.name)
}

fn list(x: &Instance, kinds: &'static [Kind]) -> String {
    let given = x.args.get(WITH);
    format!(
        " reject-with {}",
        given.map_or("", |g| name(&g.value, kinds))
    )
}

fn outcome(args: &Args, kinds: &[Kind]) -> Outcome {
    let kind = args.get(WITH).and_then(|g| chosen(&g.value, kinds));
    Outcome::verdict(kind.map_or(Verdict::Drop, |k| Verdict::Reject(k.kind)))
}

/// A reset answers TCP only (`reject_tg_check`).
fn check(args: &Args, place: &Place<'_>) -> Result<(), Refusal> {
    let kinds = match place.family {
        Family::V4 => KINDS4,
        Family::V6 => KINDS6,
    };
    let kind = args.get(WITH).and_then(|g| chosen(&g.value, kinds));
    if kind.is_some_and(|k| k.kind == RESET) && place.proto != (proto::TCP, false) {
        return Err(Refusal::invalid("REJECT: tcp-reset needs -p tcp"));
    }
    Ok(())
}

const HELP4: &str = "    icmp-net-unreachable     \tICMP network unreachable
    net-unreach              \talias
    icmp-host-unreachable    \tICMP host unreachable
    host-unreach             \talias
    icmp-proto-unreachable   \tICMP protocol unreachable
    proto-unreach            \talias
    icmp-port-unreachable    \tICMP port unreachable (default)
    port-unreach             \talias
    icmp-net-prohibited      \tICMP network prohibited
    net-prohib               \talias
    icmp-host-prohibited     \tICMP host prohibited
    host-prohib              \talias
    tcp-reset                \tTCP RST packet
    tcp-rst                  \talias
    icmp-admin-prohibited    \tICMP administratively prohibited (*)
    admin-prohib             \talias

(*) See man page or read the INCOMPATIBILITES file for compatibility issues.
";

const HELP6: &str = "    icmp6-no-route           \tICMPv6 no route
    no-route                 \talias
    icmp6-adm-prohibited     \tICMPv6 administratively prohibited
    adm-prohibited           \talias
    icmp6-addr-unreachable   \tICMPv6 address unreachable
    addr-unreach             \talias
    icmp6-port-unreachable   \tICMPv6 port unreachable
    port-unreach             \talias
    tcp-reset                \tTCP RST packet
    tcp-reset                \talias
    icmp6-policy-fail        \tICMPv6 policy fail
    policy-fail              \talias
    icmp6-reject-route       \tICMPv6 reject route
    reject-route             \talias

";

const CASES4: &[Case] = &[
    saved("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
    saved(
        "-j REJECT --reject-with net-unreach",
        "-j REJECT --reject-with icmp-net-unreachable",
    ),
    saved(
        "-j REJECT --reject-with ICMP-HOST-p",
        "-j REJECT --reject-with icmp-host-prohibited",
    ),
    saved(
        "-p tcp -j REJECT --reject-with tcp-rst",
        "-p tcp -j REJECT --reject-with tcp-reset",
    ),
    ok("-j REJECT --reject-with icmp-admin-prohibited"),
    bad("-j REJECT --reject-with tcp-reset"),
    bad("! -p tcp -j REJECT --reject-with tcp-reset"),
    bad("-j REJECT --reject-with foo"),
    bad("-j REJECT").at(TableKind::Nat, Hook::Prerouting),
    bad("-j REJECT").at(TableKind::Mangle, Hook::Input),
];

const CASES6: &[Case] = &[
    saved(
        "-j REJECT",
        "-j REJECT --reject-with icmp6-port-unreachable",
    )
    .v6(),
    saved(
        "-j REJECT --reject-with adm-prohibited",
        "-j REJECT --reject-with icmp6-adm-prohibited",
    )
    .v6(),
    ok("-p tcp -j REJECT --reject-with tcp-reset").v6(),
    bad("-j REJECT --reject-with tcp-reset").v6(),
    bad("-j REJECT --reject-with icmp-net-unreachable").v6(),
];
