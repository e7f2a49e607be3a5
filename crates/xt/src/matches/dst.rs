//! `-m dst`: the IPv6 header of destination options (kernel `hbh_mt6`).

use tidegate_wire::{Family, proto};

use super::opts::{self, LENGTH, LIST};
use crate::{Case, Extension, Families, Lower, Opt, Vector, bad, no, ok, packets, saved, yes};

const OPTIONS: &[Opt] = &[
    Opt::new("dst-len", LENGTH)
        .invertible()
        .help("[!] --dst-len length            total length of this header\n"),
    Opt::new("dst-opts", LIST).help(
        "  --dst-opts TYPE[:LEN][,TYPE[:LEN]...]\n                                Options and its length (list, max: 16)\n",
    ),
];

/// `-m dst`.
pub static DST: Extension = Extension {
    name: "dst",
    lower: Lower::Match(|args, ctx| opts::lower(args, ctx, proto::DSTOPTS)),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    list: |x, _| opts::list(x),
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m dst").v6(),
    ok("-m dst --dst-len 5").v6(),
    ok("-m dst ! --dst-len 5").v6(),
    ok("-m dst --dst-len 6 --dst-opts 1:2,3,4:0").v6(),
    ok("-m dst --dst-opts 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16").v6(),
    saved("-m dst --dst-opts 256", "-m dst --dst-opts 0").v6(),
    saved("-m dst --dst-opts 0x10:0x2", "-m dst --dst-opts 16:2").v6(),
    saved("-m dst --dst-opts 1:-1", "-m dst --dst-opts 1").v6(),
    bad("-m dst --dst-opts foo").v6(),
    bad("-m dst --dst-opts 1,,2").v6(),
    bad("-m dst --dst-opts 1:").v6(),
    bad("-m dst --dst-opts 1x").v6(),
    bad("-m dst ! --dst-opts 1").v6(),
    bad("-m dst --dst-not-strict").v6(),
    bad("-m dst --dst-len -1").v6(),
    bad("-m dst"),
];

const VECTORS: &[Vector] = &[
    yes("-m dst --dst-len 8 --dst-opts 5:2,0", packets::DST),
    yes("-m dst --dst-opts 5", packets::DST),
    no("-m dst --dst-opts 5:3", packets::DST),
    no("-m dst --dst-opts 5,5", packets::DST),
    no("-m dst ! --dst-len 8", packets::DST),
    no("-m dst", packets::SYN6),
];
