//! `-m mac`: the Ethernet source address (kernel `mac_mt`). A packet that came without an
//! Ethernet header never matches.

use tidegate_ir::{Cond, Field, Hook};

use super::ranges::{bang, blank_bang};
use crate::{
    Arg, Case, Error, Extension, Input, Legal, Lower, Opt, Value, Vector, bad, no, ok, packets,
    saved, yes,
};

const SOURCE: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "mac-source",
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| show(v.number().unwrap_or(0)),
    },
)
.invertible()
.mandatory()
.help("[!] --mac-source XX:XX:XX:XX:XX:XX\n\t\t\t\tMatch source MAC address\n")];

/// The largest address.
const MAX: u128 = (1 << 48) - 1;

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let bad = || Error::parameter("Invalid MAC address specified.");
    let parts: Vec<&str> = input.text().split(':').collect();
    if parts.len() != 6 {
        return Err(bad());
    }
    let byte = |part: &&str| {
        let fits = (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u64::from_str_radix(part, 16).ok()).flatten()
    };
    let bytes: Option<Vec<u64>> = parts.iter().map(byte).collect();
    let number = bytes.ok_or_else(bad)?.iter().fold(0, |n, b| n << 8 | b);
    Ok(Value::Number(number))
}

fn show(mac: u64) -> String {
    let bytes = (0..6)
        .rev()
        .map(|i| format!("{:02x}", mac >> (8 * i) & 0xff));
    bytes.collect::<Vec<_>>().join(":")
}

/// `-m mac`.
pub static MAC: Extension = Extension {
    name: "mac",
    lower: Lower::Match(|args, _| {
        let wanted = args.number(SOURCE).unwrap_or(0);
        Cond::all(vec![
            Cond::range(Field::SrcMac, 0, MAX),
            Cond::eq(Field::SrcMac, wanted.into()).inverted_if(!bang(args, SOURCE).is_empty()),
        ])
    }),
    options: OPTIONS,
    legal: Legal::hooks(&[Hook::Prerouting, Hook::Input, Hook::Forward]),
    list: |x, _| {
        let mac = show(x.args.number(SOURCE).unwrap_or(0));
        format!(" MAC{} {mac}", blank_bang(&x.args, SOURCE))
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m mac --mac-source 42:01:02:03:04:05"),
    saved(
        "-m mac ! --mac-source 42:0a:02:03:0b:0F",
        "-m mac ! --mac-source 42:0a:02:03:0b:0f",
    ),
    saved(
        "-m mac --mac-source 1:2:3:4:5:6",
        "-m mac --mac-source 01:02:03:04:05:06",
    )
    .v6(),
    bad("-m mac --mac-source 42:01:02:03:04"),
    bad("-m mac --mac-source 4-01-02-03-04-05"),
    bad("-m mac"),
    bad("-m mac --mac-source 42:01:02:03:04:05").at(tidegate_ir::TableKind::Filter, Hook::Output),
];

const VECTORS: &[Vector] = &[
    yes("-m mac --mac-source 42:01:02:03:04:05", packets::SYN)
        .with(&[(Field::SrcMac, 0x4201_0203_0405)]),
    no("-m mac ! --mac-source 42:01:02:03:04:05", packets::SYN)
        .with(&[(Field::SrcMac, 0x4201_0203_0405)]),
    no("-m mac ! --mac-source 42:01:02:03:04:05", packets::SYN),
];
