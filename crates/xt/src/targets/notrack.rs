//! `-j NOTRACK`: `-j CT --notrack` under its old name (kernel `notrack_tg`).

use tidegate_ir::{CtSpec, Effect, Hook, TableKind, Verdict};

use crate::{Extension, Families, Help, Legal, Lower, Outcome, bad, ok};

/// `-j NOTRACK`.
pub static NOTRACK: Extension = Extension {
    name: "NOTRACK",
    lower: Lower::Target(|_, _| Outcome::effect(Effect::Ct(CtSpec::Untracked), Verdict::Continue)),
    families: Families::Both,
    options: &[],
    help: Help::TABLE.titled("NOTRACK does not take any options"),
    legal: Legal::tables(&[TableKind::Raw]),
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |_, _| " NOTRACK".to_owned(),
    cases: &[
        ok("-p udp -j NOTRACK").at(TableKind::Raw, Hook::Prerouting),
        ok("-j NOTRACK").at(TableKind::Raw, Hook::Output).v6(),
        bad("-j NOTRACK"),
    ],
    vectors: &[],
};
