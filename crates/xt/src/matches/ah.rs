//! `-m ah`: the authentication header (kernel `ah_mt` and `ah_mt6`). In IPv4 it is the
//! packet's transport, in IPv6 one of the extension headers.

use tidegate_ir::{Cond, Field};
use tidegate_wire::{Family, proto};

use super::{ext_header, ranges, transport::header};
use crate::{
    Arg, Case, Extension, Families, Legal, Lower, Opt, Vector, bad, no, ok, packets, saved, yes,
};

const SPI: usize = 0;
const LEN: usize = 1;
const RESERVED: usize = 2;

const OPTIONS: &[Opt] = &[Opt::new("ahspi", ranges::RANGE)
    .invertible()
    .help("[!] --ahspi spi[:spi]\n\t\t\t\tmatch spi (range)\n")];

const OPTIONS6: &[Opt] = &[
    Opt::new("ahspi", ranges::RANGE)
        .invertible()
        .help("[!] --ahspi spi[:spi]          match spi (range)\n"),
    Opt::new(
        "ahlen",
        Arg::Int {
            min: 0,
            max: u32::MAX as u64,
            hex: 0,
        },
    )
    .invertible()
    .help("[!] --ahlen length             total length of this header\n"),
    Opt::new("ahres", Arg::Flag)
        .help(" --ahres                       check the reserved field too\n"),
];

/// `-m ah` of IPv4.
pub static AH: Extension = Extension {
    name: "ah",
    lower: Lower::Match(|args, _| {
        let mut tests = vec![header(12)];
        tests.push(ranges::test(args, SPI, Field::L4 { at: 4, len: 4 }));
        Cond::all(tests)
    }),
    families: Families::Only(Family::V4),
    options: OPTIONS,
    legal: Legal::protos(&[proto::AH]),
    finish: |args, _| {
        ranges::forget_all(args, SPI);
        Ok(())
    },
    list: |x, _| {
        let spi = ranges::listed(&x.args, SPI, "spi").unwrap_or_default();
        format!(" ah {spi}")
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

/// `-m ah` of IPv6.
pub static AH6: Extension = Extension {
    name: "ah",
    lower: Lower::Match(|args, _| {
        let field = |at, len| Field::Ext {
            header: proto::AH,
            at,
            len,
        };
        let mut tests = ext_header::present(proto::AH, 12);
        tests.push(ranges::test(args, SPI, field(4, 4)));
        if let Some(len) = args.number(LEN) {
            // In the header it counts words of four bytes, two fewer than there are.
            let words = (len % 4 == 0).then(|| (len / 4).checked_sub(2)).flatten();
            let test = words.map_or(Cond::Const(false), |w| Cond::eq(field(1, 1), w.into()));
            tests.push(test.inverted_if(args.inverted(LEN)));
        }
        if args.has(RESERVED) {
            tests.push(Cond::eq(field(2, 2), 0));
        }
        Cond::all(tests)
    }),
    families: Families::Only(Family::V6),
    options: OPTIONS6,
    finish: |args, _| {
        ranges::forget_all(args, SPI);
        if args.number(LEN) == Some(0) {
            args.remove(LEN);
        }
        Ok(())
    },
    // The tool forgets the blank before the length.
    list: |x, _| {
        let mut out = " ah ".to_owned();
        out += &ranges::listed(&x.args, SPI, "spi").unwrap_or_default();
        if let Some(len) = x.args.number(LEN) {
            out += &format!("length:{}{len}", ranges::bang(&x.args, LEN));
        }
        if x.args.has(RESERVED) {
            out += " reserved";
        }
        out
    },
    cases: CASES6,
    vectors: VECTORS6,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-p ah -m ah --ahspi 0"),
    ok("-p ah -m ah --ahspi 1:5"),
    ok("-p ah -m ah ! --ahspi 0"),
    ok("-p ah -m ah ! --ahspi 0:4294967295"),
    saved("-p ah -m ah --ahspi 0:4294967295", "-p ah -m ah"),
    ok("-p ah -m ah"),
    bad("-m ah"),
    bad("-m ah --ahspi 1"),
    bad("-p ah -m ah --ahspi -1"),
];

const CASES6: &[Case] = &[
    ok("-m ah --ahspi 0").v6(),
    ok("-m ah --ahspi 0 ! --ahlen 12 --ahres").v6(),
    ok("-m ah ! --ahspi 0:4294967294 --ahlen 4").v6(),
    saved("-m ah --ahlen 0", "-m ah").v6(),
    saved("-m ah --ahspi 0:4294967295", "-m ah").v6(),
    ok("-m ah").v6(),
    bad("-m ah ! --ahres").v6(),
    bad("-m ah --ahlen 4294967296").v6(),
];

const VECTORS: &[Vector] = &[
    yes("-p ah -m ah --ahspi 256", packets::AH),
    no("-p ah -m ah ! --ahspi 256:257", packets::AH),
];

const VECTORS6: &[Vector] = &[
    yes("-m ah --ahspi 256 --ahlen 16 --ahres", packets::AH6),
    no("-m ah ! --ahlen 16", packets::AH6),
    no("-m ah --ahlen 12", packets::AH6),
    no("-m ah ! --ahspi 1", packets::SYN6),
];
