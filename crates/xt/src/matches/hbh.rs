//! `-m hbh`: the IPv6 header of hop-by-hop options (kernel `hbh_mt6`).

use tidegate_wire::{Family, proto};

use super::opts::{self, LENGTH, LIST};
use crate::{Case, Extension, Families, Lower, Opt, Vector, bad, no, ok, packets, saved, yes};

const OPTIONS: &[Opt] = &[
    Opt::new("hbh-len", LENGTH)
        .invertible()
        .help("[!] --hbh-len length            total length of this header\n"),
    Opt::new("hbh-opts", LIST).help(
        "  --hbh-opts TYPE[:LEN][,TYPE[:LEN]...] \n                                Options and its length (list, max: 16)\n",
    ),
];

/// `-m hbh`.
pub static HBH: Extension = Extension {
    name: "hbh",
    lower: Lower::Match(|args, ctx| opts::lower(args, ctx, proto::HOPOPTS)),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    list: |x, _| opts::list(x),
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m hbh").v6(),
    ok("-m hbh --hbh-len 5").v6(),
    ok("-m hbh ! --hbh-len 5").v6(),
    ok("-m hbh --hbh-len 6 --hbh-opts 1:2,3,4:0").v6(),
    ok("-m hbh --hbh-opts 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16").v6(),
    saved("-m hbh --hbh-opts 256", "-m hbh --hbh-opts 0").v6(),
    saved("-m hbh --hbh-opts 0x10:0x2", "-m hbh --hbh-opts 16:2").v6(),
    saved("-m hbh --hbh-opts 1:-1", "-m hbh --hbh-opts 1").v6(),
    bad("-m hbh --hbh-opts foo").v6(),
    bad("-m hbh --hbh-opts 1,,2").v6(),
    bad("-m hbh --hbh-opts 1:").v6(),
    bad("-m hbh --hbh-opts 1x").v6(),
    bad("-m hbh ! --hbh-opts 1").v6(),
    bad("-m hbh --hbh-not-strict").v6(),
    bad("-m hbh --hbh-len -1").v6(),
    bad("-m hbh"),
];

const VECTORS: &[Vector] = &[
    yes("-m hbh --hbh-len 8 --hbh-opts 5:2,0", packets::HBH),
    yes("-m hbh --hbh-opts 5", packets::HBH),
    no("-m hbh --hbh-opts 5:3", packets::HBH),
    no("-m hbh --hbh-opts 5,5", packets::HBH),
    no("-m hbh ! --hbh-len 8", packets::HBH),
    no("-m hbh", packets::SYN6),
];
