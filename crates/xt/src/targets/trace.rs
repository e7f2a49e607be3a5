//! `-j TRACE`: from here on every rule the packet meets is logged (kernel `trace_tg`,
//! `trace_packet`).

use tidegate_ir::{Effect, Hook, TableKind, Verdict};

use crate::{Extension, Families, Help, Legal, Lower, Outcome, bad, ok};

/// `-j TRACE`.
pub static TRACE: Extension = Extension {
    name: "TRACE",
    lower: Lower::Target(|_, _| Outcome::effect(Effect::Trace, Verdict::Continue)),
    families: Families::Both,
    help: Help::TABLE.titled("TRACE does not take any options"),
    legal: Legal::tables(&[TableKind::Raw]),
    cases: &[
        ok("-p tcp -j TRACE").at(TableKind::Raw, Hook::Prerouting),
        ok("-j TRACE").at(TableKind::Raw, Hook::Output).v6(),
        bad("-j TRACE").at(TableKind::Mangle, Hook::Prerouting),
        bad("-j TRACE"),
    ],
    ..Extension::TARGET
};
