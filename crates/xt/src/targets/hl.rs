//! `-j HL`: sets or changes the IPv6 hop limit, held within 0 to 255 (kernel `hl_tg6`).

use tidegate_ir::{Hook, TableKind};
use tidegate_wire::Family;

use super::hops;
use crate::{Case, Extension, Families, Help, Legal, Lower, Opt, bad, ok};

const OPTIONS: &[Opt] = &[
    hops::set("hl-set", "  --hl-set value\t\tSet HL to <value 0-255>\n"),
    hops::dec(
        "hl-dec",
        "  --hl-dec value\t\tDecrement HL by <value 1-255>\n",
    ),
    hops::inc(
        "hl-inc",
        "  --hl-inc value\t\tIncrement HL by <value 1-255>\n",
    ),
];

/// `-j HL`.
pub static HL: Extension = Extension {
    name: "HL",
    lower: Lower::Target(|args, _| hops::outcome(args)),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: Help::TABLE.titled("HL target options"),
    legal: Legal::tables(&[TableKind::Mangle]),
    finish: |args, _| hops::finish(args, "HL"),
    save: crate::save_all,
    list: |x, _| hops::list(x, "HL"),
    cases: CASES,
    vectors: &[],
};

const fn mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting).v6()
}

const CASES: &[Case] = &[
    mangle(ok("-j HL --hl-set 64")),
    mangle(ok("-j HL --hl-set 0")),
    mangle(ok("-j HL --hl-dec 5")),
    mangle(ok("-j HL --hl-inc 5")),
    mangle(bad("-j HL")),
    mangle(bad("-j HL --hl-set 256")),
    mangle(bad("-j HL --hl-inc 0")),
    mangle(bad("-j HL --hl-set 1 --hl-inc 3")),
    bad("-j HL --hl-set 1").v6(),
    bad("-j HL --hl-set 1"),
];
