//! `-j REDIRECT`: the input interface's address as destination, or loopback for
//! packets from here (kernel `redirect_tg4`, `redirect_tg6`).

use tidegate_ir::{Hook, Manip, NatSource, TableKind};

use super::nat_to::{self, Form};
use crate::{Arg, Case, Extension, Families, Help, Legal, Lower, Opt, bad, ok, saved};

const TO: usize = 0;
const RANDOM: usize = 1;

const FORM: Form = Form {
    addrs: false,
    shifted: false,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "to-ports",
        Arg::Special {
            arity: 1,
            parse: |input| nat_to::parse(input, FORM),
            show: |v, _| nat_to::show_ports(v.nat().unwrap_or_default()),
        },
    )
    .help(" --to-ports <port>[-<port>]\n\t\t\t\tPort (range) to map to.\n"),
    Opt::new("random", Arg::Flag).help(" [--random]\n"),
];

/// `-j REDIRECT`.
pub static REDIRECT: Extension = Extension {
    name: "REDIRECT",
    lower: Lower::Target(|args, _| {
        let to = args.nat(TO).unwrap_or_default();
        let random = args.has(RANDOM);
        nat_to::outcome(Manip::Dst, NatSource::InInterface, to, random, false)
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal {
        tables: &[TableKind::Nat],
        hooks: &[Hook::Prerouting, Hook::Output],
        ..Legal::ANYWHERE
    },
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, _| {
        let ports = x.args.nat(TO).map(nat_to::show_ports);
        let ports = ports.map_or(String::new(), |p| format!(" redir ports {p}"));
        ports + &nat_to::list_flags(&x.args, &[(RANDOM, "random")])
    },
    cases: CASES,
    vectors: &[],
};

const fn pre(case: Case) -> Case {
    case.at(TableKind::Nat, Hook::Prerouting)
}

const CASES: &[Case] = &[
    pre(ok("-p tcp -j REDIRECT")),
    pre(ok("-p tcp -j REDIRECT --to-ports 80-81 --random")),
    pre(saved(
        "-p udp -j REDIRECT --to-ports 53-53",
        "-p udp -j REDIRECT --to-ports 53",
    )
    .v6()),
    ok("-p tcp -j REDIRECT --to-ports 80").at(TableKind::Nat, Hook::Output),
    pre(bad("-j REDIRECT --to-ports 5")),
    pre(bad("-p tcp -j REDIRECT --to-ports 5-3")),
    pre(bad("-p tcp -j REDIRECT --to-ports 80-90/5")),
    pre(bad("-p tcp -j REDIRECT --to-ports x")),
    bad("-j REDIRECT").at(TableKind::Nat, Hook::Input),
];
