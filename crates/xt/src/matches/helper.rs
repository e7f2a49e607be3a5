//! `-m helper`: a connection that a helper announced (kernel `helper_mt`). A helper whose
//! name is the start of the wanted one will do; without a name any will.

use tidegate_ir::{Cond, Field};

use super::ranges::blank_bang;
use crate::{Arg, Case, Extension, Lower, Opt, Vector, bad, no, ok, packets, saved, text, yes};

const NAME: usize = 0;
/// Bytes of a name in the kernel's structure, and of a helper's own.
const MOST: usize = 29;
const OWN: usize = 16;

const OPTIONS: &[Opt] = &[Opt::new(
    "helper",
    Arg::Special {
        arity: 1,
        parse: |input| Ok(input.cut(MOST)),
        show: |v, _| text::quote(v.text().unwrap_or("")),
    },
)
.invertible()
.mandatory()
.help("[!] --helper string        Match helper identified by string\n")];

/// `-m helper`.
pub static HELPER: Extension = Extension {
    name: "helper",
    lower: Lower::Match(|args, _| {
        let name = args.text(NAME).unwrap_or("").as_bytes();
        let test = if name.is_empty() {
            Cond::range(Field::CtMasterHelper, 0, u128::MAX)
        } else {
            let starts = (1..=name.len().min(OWN)).map(|n| number(&name[..n]));
            Cond::within(
                Field::CtMasterHelper,
                tidegate_ir::Ranges::new(starts.map(|n| (n, n)).collect()),
            )
        };
        test.inverted_if(args.inverted(NAME))
    }),
    options: OPTIONS,
    list: |x, _| {
        let bang = blank_bang(&x.args, NAME);
        format!(
            " helper match{bang} \"{}\"",
            x.args.text(NAME).unwrap_or("")
        )
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

/// A name as 16 bytes, NUL padded.
const fn number(name: &[u8]) -> u128 {
    let mut bytes = [0; OWN];
    let mut i = 0;
    while i < name.len() {
        bytes[i] = name[i];
        i += 1;
    }
    u128::from_be_bytes(bytes)
}

const CASES: &[Case] = &[
    ok("-m helper --helper ftp"),
    ok("-m helper ! --helper ftp-2121").v6(),
    ok("-m helper --helper \"a b\""),
    ok("-m helper --helper \"\""),
    saved(
        "-m helper --helper aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "-m helper --helper aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ),
    bad("-m helper"),
    bad("-m helper --helper a --helper b"),
];

const FTP: &[(Field, u128)] = &[(Field::CtMasterHelper, number(b"ftp"))];

const VECTORS: &[Vector] = &[
    yes("-m helper --helper ftp", packets::SYN).with(FTP),
    yes("-m helper --helper ftp-2121", packets::SYN).with(FTP),
    no("-m helper --helper ft", packets::SYN).with(FTP),
    yes("-m helper --helper \"\"", packets::SYN).with(FTP),
    no("-m helper ! --helper ftp", packets::SYN).with(FTP),
    yes("-m helper ! --helper ftp", packets::SYN),
    no("-m helper --helper \"\"", packets::SYN),
];
