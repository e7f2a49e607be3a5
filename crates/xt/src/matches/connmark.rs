//! `-m connmark`: the connection's mark under a mask (kernel `connmark_mt`). A packet
//! without a connection never matches, inverted or not.

use tidegate_ir::{Cond, Field};

use super::{ct_states, mark};
use crate::{
    Arg, Case, Extension, Families, Help, Legal, Lower, Opt, Vector, bad, no, ok, packets, saved,
    show_mark, yes,
};

const MARK_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new("mark", Arg::Mark)
    .invertible()
    .mandatory()
    .help("[!] --mark value[/mask]    Match ctmark value with optional mask\n")];

/// `-m connmark`.
pub static CONNMARK: Extension = Extension {
    name: "connmark",
    lower: Lower::Match(|args, _| {
        Cond::all(vec![ct_states::tracked(), mark::test(args, Field::CtMark)])
    }),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, _| {
        let (value, mask) = x.args.masked(MARK_OPT).unwrap_or_default();
        let bang = if x.args.inverted(MARK_OPT) { "!" } else { "" };
        format!(" connmark match {bang} {}", show_mark(value, mask))
    },
    cases: CASES,
    vectors: VECTORS,
};

const CASES: &[Case] = &[
    ok("-m connmark --mark 0x5/0x1"),
    saved("-m connmark ! --mark 5", "-m connmark ! --mark 0x5"),
    bad("-m connmark"),
    bad("-m connmark --mark 0xfffffffff"),
];

const VECTORS: &[Vector] = &[
    yes("-m connmark --mark 0x15", packets::SYN).with(&[(Field::HasCt, 1), (Field::CtMark, 0x15)]),
    no("-m connmark ! --mark 0x15", packets::SYN).with(&[(Field::HasCt, 1), (Field::CtMark, 0x15)]),
    yes("-m connmark --mark 0x10/0xf0", packets::SYN)
        .with(&[(Field::HasCt, 1), (Field::CtMark, 0x15)]),
    no("-m connmark --mark 0x10/0xff", packets::SYN)
        .with(&[(Field::HasCt, 1), (Field::CtMark, 0x15)]),
    no("-m connmark --mark 0", packets::SYN).with(&[]),
    no("-m connmark ! --mark 1", packets::SYN).with(&[]),
];
