//! `-j CHECKSUM`: computes a checksum that was left to the network card (kernel
//! `checksum_tg`). Packets come to the engine with their checksums complete, so there is
//! nothing left to do.

use tidegate_ir::{Hook, TableKind, Verdict};

use crate::{Arg, Case, Extension, Families, Help, Legal, Lower, Opt, Outcome, bad, ok};

const OPTIONS: &[Opt] = &[Opt::new("checksum-fill", Arg::Flag)
    .mandatory()
    .help("  --checksum-fill\t\t\tFill in packet checksum.\n")];

/// `-j CHECKSUM`.
pub static CHECKSUM: Extension = Extension {
    name: "CHECKSUM",
    lower: Lower::Target(|_, _| Outcome::verdict(Verdict::Continue)),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE.titled("CHECKSUM target options"),
    legal: Legal::tables(&[TableKind::Mangle]),
    list: |_, _| " CHECKSUM fill".to_owned(),
    cases: CASES,
    ..Extension::TARGET
};

const fn post(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Postrouting)
}

const CASES: &[Case] = &[
    post(ok("-j CHECKSUM --checksum-fill")),
    post(ok("-p udp -j CHECKSUM --checksum-fill").v6()),
    post(bad("-j CHECKSUM")),
    post(bad("-j CHECKSUM ! --checksum-fill")),
    bad("-j CHECKSUM --checksum-fill"),
];
