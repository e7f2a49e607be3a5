//! `-m mark`: the packet's mark under a mask (kernel `mark_mt`). The value is not
//! masked first: `0x3/0x1` never matches.

use tidegate_ir::{Cond, Field};

use crate::{
    Arg, Args, Case, Extension, Families, Help, Legal, Lower, Opt, Vector, bad, no, ok, packets,
    saved, show_mark, yes,
};

const MARK_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new("mark", Arg::Mark)
    .invertible()
    .mandatory()
    .help("[!] --mark value[/mask]    Match nfmark value with optional mask\n")];

/// `-m mark`.
pub static MARK: Extension = Extension {
    name: "mark",
    lower: Lower::Match(|args, _| test(args, Field::Mark)),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, _| {
        let (value, mask) = x.args.masked(MARK_OPT).unwrap_or_default();
        let bang = if x.args.inverted(MARK_OPT) { " !" } else { "" };
        format!(" mark match{bang} {}", show_mark(value, mask))
    },
    cases: CASES,
    vectors: VECTORS,
};

/// The test of option 0 on `field`.
pub(super) fn test(args: &Args, field: Field) -> Cond {
    let (value, mask) = args.masked(MARK_OPT).unwrap_or_default();
    Cond::bits(field, mask.into(), value.into()).inverted_if(args.inverted(MARK_OPT))
}

const CASES: &[Case] = &[
    ok("-m mark --mark 0x10/0xf0"),
    saved("-m mark ! --mark 5", "-m mark ! --mark 0x5"),
    saved("-m mark --mark 010/0", "-m mark --mark 0x8/0x0"),
    saved("-m mark --mark 0/0xffffffff", "-m mark --mark 0x0"),
    bad("-m mark"),
    bad("-m mark --mark -1"),
    bad("-m mark --mark 1/1x"),
    bad("-m mark --mark 1 --mark 2"),
    bad("-m mark --mark 4294967296"),
];

const VECTORS: &[Vector] = &[
    yes("-m mark --mark 0x10/0xf0", packets::SYN).with(&[(Field::Mark, 0x15)]),
    yes("-m mark --mark 0", packets::SYN),
    no("-m mark ! --mark 0", packets::SYN),
    no("-m mark --mark 1/0", packets::SYN),
    yes("-m mark ! --mark 1", packets::SYN),
];
