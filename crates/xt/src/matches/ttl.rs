//! `-m ttl`: the IPv4 time to live as it is at the hook (kernel `ttl_mt`).

use tidegate_wire::Family;

use super::hops;
use crate::{
    Case, Extension, Families, Legal, Lower, Opt, Vector, bad, no, ok, packets, saved, yes,
};

const OPTIONS: &[Opt] = &[
    hops::lt("ttl-lt", "  --ttl-lt value\tMatch TTL < value\n"),
    hops::gt("ttl-gt", "  --ttl-gt value\tMatch TTL > value\n"),
    hops::eq("ttl-eq", "[!] --ttl-eq value\tMatch time to live value\n").aliases(&["ttl"]),
];

/// `-m ttl`.
pub static TTL: Extension = Extension {
    name: "ttl",
    lower: Lower::Match(|args, _| hops::lower(args)),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    help: hops::HELP,
    legal: Legal::ANYWHERE,
    finish: |args, ctx| hops::finish(args, ctx, MISSING),
    save: crate::save_all,
    list: |x, _| hops::list(x, "TTL"),
    cases: CASES,
    vectors: VECTORS,
};

const MISSING: &str = "TTL match: You must specify one of `--ttl-eq', `--ttl-lt', `--ttl-gt";

const CASES: &[Case] = &[
    ok("-m ttl --ttl-eq 5"),
    ok("-m ttl ! --ttl-eq 5"),
    ok("-m ttl --ttl-lt 5"),
    ok("-m ttl --ttl-gt 5"),
    bad("-m ttl"),
    bad("-m ttl --ttl-eq 256"),
    bad("-m ttl ! --ttl-gt 5"),
    bad("-m ttl --ttl-eq 1 --ttl-lt 5"),
    bad("-m ttl --ttl-eq 5").v6(),
    saved("-m ttl --ttl 5", "-m ttl --ttl-eq 5"),
];

const VECTORS: &[Vector] = &[
    yes("-m ttl --ttl-eq 64", packets::SYN),
    no("-m ttl ! --ttl-eq 64", packets::SYN),
    no("-m ttl --ttl-lt 64", packets::SYN),
    yes("-m ttl --ttl-lt 65", packets::SYN),
    yes("-m ttl --ttl-gt 63", packets::SYN),
    no("-m ttl --ttl-gt 64", packets::SYN),
    no(
        "-m ttl --ttl-gt 255",
        "4500002800010000ff06a6cb0a0000020a0001020401005000000001000000005002200000000000",
    ),
    no(
        "-m ttl --ttl-lt 0",
        "45000028000100000106a4cc0a0000020a0001020401005000000001000000005002200000000000",
    ),
];
