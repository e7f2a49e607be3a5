//! `-m ipcomp`: the compression parameter index (kernel `comp_mt`). Without an option the
//! tool asks for index 0; `--compres` is kept but nothing in the kernel reads it.

use tidegate_ir::{Cond, Field};

use super::{ranges, transport::header};
use crate::{
    Arg, Case, Extension, Legal, Lower, Opt, Value, Vector, bad, no, ok, packets, saved, yes,
};

const SPI: usize = 0;
const RESERVED: usize = 1;

/// Protocol number of IPComp (RFC 3173).
const COMP: u8 = 108;

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
    legal: Legal::protos(&[COMP]),
    finish: |args, _| {
        if !args.has(SPI) {
            args.set(SPI, false, Value::Range(0, 0));
        }
        Ok(())
    },
    save: |x, family| {
        let all = x.args.range(SPI) == Some((0, u32::MAX.into())) && !x.args.inverted(SPI);
        let spi = if all {
            String::new()
        } else {
            x.save_option(SPI, family)
        };
        spi + &x.save_option(RESERVED, family)
    },
    list: |x, _| {
        let all = x.args.range(SPI) == Some((0, u32::MAX.into())) && !x.args.inverted(SPI);
        let spi = ranges::listed(&x.args, SPI, "spi").filter(|_| !all);
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
    ok("-p 108 -m ipcomp --ipcompspi 18"),
    ok("-p 108 -m ipcomp ! --ipcompspi 18"),
    ok("-p 108 -m ipcomp --ipcompspi 5:10").v6(),
    saved(
        "-p 108 -m ipcomp --compres",
        "-p 108 -m ipcomp --ipcompspi 0 --compres",
    ),
    saved("-p 108 -m ipcomp", "-p 108 -m ipcomp --ipcompspi 0"),
    bad("-m ipcomp --ipcompspi 5:10"),
];

const VECTORS: &[Vector] = &[
    yes("-p 108 -m ipcomp --ipcompspi 256", packets::IPCOMP),
    no("-p 108 -m ipcomp ! --ipcompspi 200:300", packets::IPCOMP),
];
