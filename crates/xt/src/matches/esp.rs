//! `-m esp`: the security parameters index (kernel `esp_mt`).

use tidegate_ir::{Cond, Field};
use tidegate_wire::proto;

use super::{ranges, transport::header};
use crate::{
    Case, Extension, Legal, Lower, Opt, Vector, bad, dropped, no, ok, packets, saved, yes,
};

const SPI: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new("espspi", ranges::RANGE)
    .invertible()
    .help("[!] --espspi spi[:spi]\n\t\t\t\tmatch spi (range)\n")];

/// `-m esp`.
pub static ESP: Extension = Extension {
    name: "esp",
    lower: Lower::Match(|args, _| {
        let mut tests = vec![header(8)];
        tests.push(ranges::test(args, SPI, Field::L4 { at: 0, len: 4 }));
        Cond::all(tests)
    }),
    options: OPTIONS,
    legal: Legal::protos(&[proto::ESP]),
    finish: |args, _| {
        ranges::forget_all(args, SPI);
        Ok(())
    },
    list: |x, _| match ranges::listed(&x.args, SPI, "spi") {
        Some(spi) => format!(" esp {spi}"),
        None => " esp".to_owned(),
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-p esp -m esp --espspi 0"),
    saved("-p esp -m esp --espspi :32", "-p esp -m esp --espspi 0:32"),
    saved("-p esp -m esp --espspi 0:4294967295", "-p esp -m esp"),
    ok("-p esp -m esp ! --espspi 0:4294967294"),
    ok("-p esp -m esp ! --espspi 0:4294967295"),
    saved(
        "-p esp -m esp --espspi 5:",
        "-p esp -m esp --espspi 5:4294967295",
    ),
    saved("-p esp -m esp --espspi 0x20", "-p esp -m esp --espspi 32").v6(),
    ok("-p esp -m esp"),
    bad("-m esp"),
    bad("-p tcp -m esp --espspi 1"),
    bad("-p esp -m esp --espspi -1"),
    bad("-p esp -m esp --espspi 4294967296"),
    bad("-p esp -m esp --espspi 7:5"),
];

const VECTORS: &[Vector] = &[
    yes("-p esp -m esp --espspi 256:300", packets::ESP),
    no("-p esp -m esp ! --espspi 256", packets::ESP),
    no("-p esp -m esp --espspi 0:255", packets::ESP),
    yes("-p esp -m esp ! --espspi 0:255", packets::ESP),
    dropped("-p esp -m esp --espspi 256", packets::CUT_ESP),
];
