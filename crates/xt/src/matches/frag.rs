//! `-m frag`: the IPv6 fragment header (kernel `frag_mt6`, which does not look at
//! `--fraglen`).

use tidegate_ir::{Cond, Field};
use tidegate_wire::{Family, proto};

use super::{ext_header, ranges};
use crate::{
    Arg, Case, Extension, Families, Help, Lower, Opt, Vector, bad, no, ok, packets, saved, yes,
};

const ID: usize = 0;
const LEN: usize = 1;
const RESERVED: usize = 2;
const FIRST: usize = 3;
const MORE: usize = 4;
const LAST: usize = 5;

const OPTIONS: &[Opt] = &[
    Opt::new("fragid", ranges::RANGE)
        .invertible()
        .help("[!] --fragid id[:id]           match the id (range)\n"),
    Opt::new(
        "fraglen",
        Arg::Int {
            min: 0,
            max: u32::MAX as u64,
            hex: 0,
        },
    )
    .invertible()
    .help("[!] --fraglen length           total length of this header\n"),
    Opt::new("fragres", Arg::Flag).help(" --fragres                     check the reserved field too\n"),
    Opt::new("fragfirst", Arg::Flag).help(" --fragfirst                   matches on the first fragment\n"),
    Opt::new("fragmore", Arg::Flag)
        .excludes(&[LAST])
        .help(" [--fragmore|--fraglast]       there are more fragments or this\n                               is the last one\n"),
    Opt::new("fraglast", Arg::Flag).excludes(&[MORE]),
];

/// `-m frag`.
pub static FRAG: Extension = Extension {
    name: "frag",
    lower: Lower::Match(|args, _| {
        let field = |at, len| Field::Ext {
            header: proto::FRAGMENT,
            at,
            len,
        };
        let mut tests = ext_header::present(proto::FRAGMENT, 8);
        tests.push(ranges::test(args, ID, field(4, 4)));
        // Byte 1 and two bits beside the offset are reserved; the last bit says more.
        let flags: [(usize, u128, u128); 4] = [
            (RESERVED, 0x00ff_0006, 0),
            (FIRST, 0x0000_fff8, 0),
            (MORE, 1, 1),
            (LAST, 1, 0),
        ];
        let given = flags.into_iter().filter(|f| args.has(f.0));
        tests.extend(given.map(|(_, mask, wanted)| Cond::bits(field(0, 4), mask, wanted)));
        Cond::all(tests)
    }),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: Help::TABLE,
    finish: |args, _| {
        ranges::forget_all(args, ID);
        if args.number(LEN) == Some(0) {
            args.remove(LEN);
        }
        Ok(())
    },
    list: |x, _| {
        let args = &x.args;
        let mut out = format!(
            " frag {}",
            ranges::listed(args, ID, "id").unwrap_or_default()
        );
        if let Some(len) = args.number(LEN) {
            out += &format!(" length:{}{len}", ranges::bang(args, LEN));
        }
        let words = [
            (RESERVED, " reserved"),
            (FIRST, " first"),
            (MORE, " more"),
            (LAST, " last"),
        ];
        out.extend(words.iter().filter(|w| args.has(w.0)).map(|w| w.1));
        out
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m frag --fragid 1:42").v6(),
    ok("-m frag ! --fragid 1:42").v6(),
    ok("-m frag ! --fragid 1 ! --fraglen 42 --fragres --fragfirst").v6(),
    ok("-m frag --fragfirst --fraglast").v6(),
    ok("-m frag --fragfirst --fragmore").v6(),
    ok("-m frag ! --fragid 0:4294967295").v6(),
    saved("-m frag --fragid :", "-m frag").v6(),
    ok("-m frag").v6(),
    bad("-m frag --fragmore --fraglast").v6(),
    bad("-m frag --fragid 5:1").v6(),
    bad("-m frag --fragid -1").v6(),
    bad("-m frag ! --fragres").v6(),
    bad("-m frag"),
];

const VECTORS: &[Vector] = &[
    yes("-m frag --fragid 1 --fragres --fragmore", packets::LATER6),
    no("-m frag --fragfirst", packets::LATER6),
    no("-m frag ! --fragid 1", packets::LATER6),
    no("-m frag --fraglast", packets::LATER6),
    no("-m frag", packets::SYN6),
];
