//! `-m comment`: a remark, at most 255 bytes; always true (kernel `comment_mt`).

use tidegate_ir::Cond;

use crate::{Arg, Extension, Families, Help, Legal, Lower, Opt, bad, ok, packets, saved, yes};

const COMMENT_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new("comment", Arg::Text { min: 0, max: 255 })
    .mandatory()
    .help("--comment COMMENT             Attach a comment to a rule\n")];

/// `-m comment`.
pub static COMMENT: Extension = Extension {
    name: "comment",
    lower: Lower::Match(|_, _| Cond::Const(true)),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE,
    legal: Legal::ANYWHERE,
    finish: |_, _| Ok(()),
    save: crate::save_all,
    list: |x, _| format!(" /* {} */", x.args.text(COMMENT_OPT).unwrap_or("")),
    cases: &[
        ok("-m comment --comment simple"),
        saved(
            "-m comment --comment 'two words'",
            "-m comment --comment \"two words\"",
        ),
        ok("-m comment --comment \"Zugriff für Büro \\\"west\\\"\""),
        ok("-m comment --comment \"\""),
        bad("-m comment"),
    ],
    vectors: &[yes("-m comment --comment x", packets::SYN)],
};
