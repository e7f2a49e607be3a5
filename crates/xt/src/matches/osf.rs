//! `-m osf`: the operating system that sent a SYN, by its habits (kernel `xt_osf`).

use tidegate_ir::Hook;
use tidegate_wire::proto;

use super::ranges::blank_bang;
use crate::{Arg, Case, Extension, Help, Legal, Lower, Opt, bad, ok, saved};

const GENRE: usize = 0;
/// Bytes of a name.
const NAME: usize = 31;

const LEVEL: Arg = Arg::Int {
    min: 0,
    max: 2,
    hex: 0,
};

const OPTIONS: &[Opt] = &[
    Opt::new(
        "genre",
        Arg::Name { max: NAME },
    )
    .invertible()
    .mandatory()
    .help("[!] --genre string     Match a OS genre by passive fingerprinting.\n"),
    Opt::new("ttl", LEVEL).help("--ttl level            Use some TTL check extensions to determine OS:\n       0                       true ip and fingerprint TTL comparison. Works for LAN.\n       1                       check if ip TTL is less than fingerprint one. Works for global addresses.\n       2                       do not compare TTL at all. This allows NMAP detection, but can produce false results.\n"),
    Opt::new("log", LEVEL).help("--log level            Log determined genres into dmesg even if they do not match desired one:\n       0                       log all matched or unknown signatures.\n       1                       log only first one.\n       2                       log all known matched signatures.\n"),
];

/// `-m osf`.
pub static OSF: Extension = Extension {
    name: "osf",
    lower: Lower::Match(|_, ctx| ctx.refuse("osf: no fingerprints of systems are loaded")),
    options: OPTIONS,
    help: Help::TABLE.titled("OS fingerprint match options:"),
    legal: Legal {
        hooks: &[Hook::Prerouting, Hook::Input, Hook::Forward],
        ..Legal::protos(&[proto::TCP])
    },
    list: |x, _| {
        let bang = blank_bang(&x.args, GENRE);
        format!(
            " OS fingerprint match{bang} {}",
            x.args.text(GENRE).unwrap_or("")
        )
    },
    cases: CASES,
    families: crate::Families::Only(tidegate_wire::Family::V4),
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-p tcp -m osf --genre linux"),
    ok("-p tcp -m osf ! --genre FreeBSD"),
    ok("-p tcp -m osf --genre Linux --ttl 0 --log 2"),
    saved(
        "-p tcp -m osf --genre aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-p tcp -m osf --genre aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    bad("-p tcp -m osf --genre Linux --ttl 3"),
    bad("-p tcp -m osf --genre Linux --log 3"),
    bad("-m osf --genre Linux"),
    bad("-p tcp -m osf"),
    bad("-p tcp -m osf --genre Linux").at(tidegate_ir::TableKind::Filter, Hook::Output),
];
