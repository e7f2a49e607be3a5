//! `-j MASQUERADE`: the output interface's address as source (kernel `masquerade_tg`).

use tidegate_ir::{Hook, Manip, NatSource, TableKind};

use super::nat_to::{self, Form};
use crate::{Arg, Case, Extension, Families, Help, Legal, Lower, Opt, bad, ok, saved};

const TO: usize = 0;
const RANDOM: usize = 1;
const RANDOM_FULLY: usize = 2;

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
    Opt::new("random", Arg::Flag).help(" --random\n\t\t\t\tRandomize source port.\n"),
    Opt::new("random-fully", Arg::Flag)
        .help(" --random-fully\n\t\t\t\tFully randomize source port.\n"),
];

/// `-j MASQUERADE`.
pub static MASQUERADE: Extension = Extension {
    name: "MASQUERADE",
    lower: Lower::Target(|args, _| {
        let to = args.nat(TO).unwrap_or_default();
        let random = args.has(RANDOM) || args.has(RANDOM_FULLY);
        nat_to::outcome(Manip::Src, NatSource::OutInterface, to, random, false)
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal {
        tables: &[TableKind::Nat],
        hooks: &[Hook::Postrouting],
        ..Legal::ANYWHERE
    },
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, _| {
        let ports = x.args.nat(TO).map(nat_to::show_ports);
        let ports = ports.map_or(String::new(), |p| format!(" masq ports: {p}"));
        let words = [(RANDOM, "random"), (RANDOM_FULLY, "random-fully")];
        ports + &nat_to::list_flags(&x.args, &words)
    },
    cases: CASES,
    vectors: &[],
};

const fn post(case: Case) -> Case {
    case.at(TableKind::Nat, Hook::Postrouting)
}

const CASES: &[Case] = &[
    post(ok("-j MASQUERADE")),
    post(ok(
        "-p tcp -j MASQUERADE --to-ports 1024-65535 --random-fully",
    )),
    post(saved(
        "-p tcp -j MASQUERADE --to-ports 5-5",
        "-p tcp -j MASQUERADE --to-ports 5",
    )),
    post(ok("-p sctp -j MASQUERADE --to-ports 1-2")),
    post(ok("-p tcp -j MASQUERADE --to-ports 80").v6()),
    post(bad("-p udplite -j MASQUERADE --to-ports 1-2")),
    post(bad("-j MASQUERADE --to-ports 5")),
    post(bad("-p tcp -j MASQUERADE --to-ports 5-3")),
    post(bad("-p tcp -j MASQUERADE --to-ports 5/3")),
    post(bad("-j MASQUERADE --persistent")),
    bad("-j MASQUERADE").at(TableKind::Nat, Hook::Prerouting),
];
