//! `-m eui64`: an IPv6 source address made from the Ethernet source address (kernel
//! `eui64_mt6`, RFC 4291 appendix A).

use tidegate_ir::{Cond, Field, Hook, StepInput, TableKind};
use tidegate_wire::Family;

use super::pure::pure;
use crate::{Case, Extension, Families, Help, Legal, Lower, Vector, bad, no, ok, packets, yes};

/// `-m eui64`.
pub static EUI64: Extension = Extension {
    name: "eui64",
    lower: Lower::Match(|_, ctx| {
        Cond::all(vec![
            Cond::range(Field::SrcMac, 0, u128::MAX),
            pure(ctx, "source address made from the MAC address", holds),
        ])
    }),
    families: Families::Only(Family::V6),
    help: Help::TABLE.titled("eui64 does not take any options"),
    legal: Legal::hooks(&[Hook::Prerouting, Hook::Input, Hook::Forward]),
    // The tool has the blank behind the word.
    list: |_, _| "eui64 ".to_owned(),
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

fn holds(input: &mut StepInput<'_>) -> bool {
    let mac = input.facts.load(Field::SrcMac).unwrap_or(0) as u64;
    let src = input.facts.load(Field::Src).unwrap_or(0) as u64;
    let (vendor, rest) = (mac >> 24, mac & 0xff_ffff);
    src == (vendor ^ 0x02_0000) << 40 | 0xff_fe00_0000 | rest
}

const CASES: &[Case] = &[
    ok("-m eui64").v6(),
    ok("-m eui64").at(TableKind::Mangle, Hook::Prerouting).v6(),
    bad("-m eui64").at(TableKind::Filter, Hook::Output).v6(),
    bad("-m eui64"),
];

const VECTORS: &[Vector] = &[
    no("-m eui64", packets::SYN6).with(&[(Field::SrcMac, 0x4201_0203_0405)]),
    no("-m eui64", packets::SYN6),
    yes("-m eui64", packets::EUI64).with(&[(Field::SrcMac, 0x4201_0203_0405)]),
];
