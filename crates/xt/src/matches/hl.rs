//! `-m hl`: the IPv6 hop limit as it is at the hook (kernel `hl_mt6`).

use tidegate_wire::Family;

use super::hops;
use crate::{Case, Extension, Families, Legal, Lower, Opt, Vector, bad, no, ok, packets, yes};

const OPTIONS: &[Opt] = &[
    hops::lt("hl-lt", "  --hl-lt value\tMatch HL < value\n"),
    hops::gt("hl-gt", "  --hl-gt value\tMatch HL > value\n"),
    hops::eq("hl-eq", "[!] --hl-eq value\tMatch hop limit value\n"),
];

/// `-m hl`.
pub static HL: Extension = Extension {
    name: "hl",
    lower: Lower::Match(|args, _| hops::lower(args)),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: hops::HELP,
    legal: Legal::ANYWHERE,
    finish: |args, ctx| hops::finish(args, ctx, MISSING),
    save: crate::save_all,
    list: |x, _| hops::list(x, "HL"),
    cases: CASES,
    vectors: VECTORS,
};

const MISSING: &str = "HL match: You must specify one of `--hl-eq', `--hl-lt', `--hl-gt'";

const CASES: &[Case] = &[
    ok("-m hl --hl-eq 5").v6(),
    ok("-m hl ! --hl-eq 5").v6(),
    ok("-m hl --hl-lt 5").v6(),
    ok("-m hl --hl-gt 5").v6(),
    bad("-m hl").v6(),
    bad("-m hl --hl-eq 256").v6(),
    bad("-m hl ! --hl-gt 5").v6(),
    bad("-m hl --hl-eq 1 --hl-lt 5").v6(),
    bad("-m hl --hl-eq 5"),
];

const VECTORS: &[Vector] = &[
    yes("-m hl --hl-eq 64", packets::SYN6),
    no("-m hl ! --hl-eq 64", packets::SYN6),
    no("-m hl --hl-lt 64", packets::SYN6),
    yes("-m hl --hl-gt 63", packets::SYN6),
];
