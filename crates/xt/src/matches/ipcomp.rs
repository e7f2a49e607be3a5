//! `-m ipcomp`: the compression parameter index (kernel `comp_mt`). Without an option any
//! will do, where the tool asks for index 0: it saves "any index" without an option.
//! `--compres` is kept but nothing in the kernel reads it.

use tidegate_ir::{Cond, Field};
use tidegate_wire::proto;

use super::{ranges, transport::header};
use crate::{Arg, Case, Extension, Legal, Lower, Opt, Vector, bad, no, ok, packets, saved, yes};

const SPI: usize = 0;
const RESERVED: usize = 1;

const OPTIONS: &[Opt] = &[
    Opt::new("ipcompspi", ranges::RANGE)
        .invertible()
        .help("[!] --ipcompspi spi[:spi]\n\t\t\t\tmatch spi (range)\n"),
    Opt::new("compres", Arg::Flag),
];

/// `-m ipcomp`.
pub static IPCOMP: Extension = Extension {
    name: "ipcomp",
    lower: Lower::Match(|args, _| {
        let mut tests = vec![header(4)];
        tests.push(ranges::test(args, SPI, Field::L4 { at: 2, len: 2 }));
        Cond::all(tests)
    }),
    options: OPTIONS,
    help: crate::Help::TABLE.titled("comp match options:"),
    legal: Legal::protos(&[proto::IPCOMP]),
    finish: |args, _| {
        ranges::forget_all(args, SPI);
        Ok(())
    },
    list: |x, _| {
        let spi = ranges::listed(&x.args, SPI, "spi");
        let reserved = if x.args.has(RESERVED) {
            " reserved"
        } else {
            ""
        };
        format!(" comp {}{reserved}", spi.unwrap_or_default())
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-p ipcomp -m ipcomp --ipcompspi 18"),
    ok("-p ipcomp -m ipcomp ! --ipcompspi 18"),
    ok("-p ipcomp -m ipcomp --ipcompspi 5:10").v6(),
    saved(
        "-p 108 -m ipcomp --compres",
        "-p ipcomp -m ipcomp --compres",
    ),
    ok("-p ipcomp -m ipcomp"),
    saved("-p ipcomp -m ipcomp --ipcompspi :", "-p ipcomp -m ipcomp"),
    saved(
        "-p ipcomp -m ipcomp ! --ipcompspi :",
        "-p ipcomp -m ipcomp ! --ipcompspi 0:4294967295",
    ),
    bad("-m ipcomp --ipcompspi 5:10"),
];

const VECTORS: &[Vector] = &[
    yes("-p ipcomp -m ipcomp --ipcompspi 256", packets::IPCOMP),
    no("-p ipcomp -m ipcomp ! --ipcompspi 200:300", packets::IPCOMP),
];
