//! `-j TTL`: sets or changes the IPv4 time to live, held within 0 to 255 (kernel
//! `ttl_tg`).

use tidegate_ir::{Hook, TableKind};
use tidegate_wire::Family;

use super::hops;
use crate::{Case, Extension, Families, Help, Legal, Lower, Opt, bad, ok};

const OPTIONS: &[Opt] = &[
    hops::set("ttl-set", "  --ttl-set value\t\tSet TTL to <value 0-255>\n"),
    hops::dec(
        "ttl-dec",
        "  --ttl-dec value\t\tDecrement TTL by <value 1-255>\n",
    ),
    hops::inc(
        "ttl-inc",
        "  --ttl-inc value\t\tIncrement TTL by <value 1-255>\n",
    ),
];

/// `-j TTL`.
pub static TTL: Extension = Extension {
    name: "TTL",
    lower: Lower::Target(|args, _| hops::outcome(args)),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    help: Help::TABLE.titled("TTL target options"),
    legal: Legal::tables(&[TableKind::Mangle]),
    finish: |args, _| hops::finish(args, "TTL"),
    save: crate::save_all,
    list: |x, _| hops::list(x, "TTL"),
    cases: CASES,
    vectors: &[],
};

const fn mangle(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Prerouting)
}

const CASES: &[Case] = &[
    mangle(ok("-j TTL --ttl-set 64")),
    mangle(ok("-j TTL --ttl-set 0")),
    mangle(ok("-j TTL --ttl-dec 5")),
    mangle(ok("-j TTL --ttl-inc 5")),
    mangle(bad("-j TTL")),
    mangle(bad("-j TTL --ttl-set 256")),
    mangle(bad("-j TTL --ttl-inc 0")),
    mangle(bad("-j TTL --ttl-set 1 --ttl-inc 3")),
    bad("-j TTL --ttl-set 1"),
    bad("-j TTL --ttl-set 1").v6(),
];
