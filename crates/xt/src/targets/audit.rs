//! `-j AUDIT`: a record of the packet for the audit log (kernel `audit_tg`). The type is
//! kept with the rule; the kernel's record no longer says it.

use tidegate_ir::{Effect, Verdict};

use crate::{
    Arg, Extension, Families, Help, Instance, Legal, ListCtx, Lower, Opt, Outcome, Value, Words,
    bad, ok, saved,
};

const TYPE: usize = 0;

const TYPES: Words = Words {
    list: &[("accept", 0), ("drop", 1), ("reject", 2)],
    prefix: false,
    unknown: "Bad action type value \"{}\"",
};

const OPTIONS: &[Opt] = &[Opt::new(
    "type",
    Arg::Special {
        arity: 1,
        parse: |input| {
            let word = input.text();
            TYPES
                .find(&word.to_ascii_lowercase())
                .map(|n| Value::Number(n.into()))
                .ok_or_else(|| crate::Error::parameter(TYPES.unknown.replace("{}", word)))
        },
        show: |v, _| TYPES.name(v.number().unwrap_or(0)).unwrap_or("").to_owned(),
    },
)
.mandatory()
.help("  --type TYPE\t\tAction type to be recorded.\n")];

/// `-j AUDIT`.
pub static AUDIT: Extension = Extension {
    name: "AUDIT",
    lower: Lower::Target(|_, _| Outcome::effect(Effect::Audit, Verdict::Continue)),
    families: Families::Both,
    options: OPTIONS,
    help: Help::TABLE.titled("AUDIT target options"),
    legal: Legal::ANYWHERE,
    list,
    cases: &[
        ok("-j AUDIT --type accept"),
        ok("-j AUDIT --type drop").v6(),
        ok("-j AUDIT --type reject"),
        saved("-j AUDIT --type DROP", "-j AUDIT --type drop"),
        bad("-j AUDIT"),
        bad("-j AUDIT --type"),
        bad("-j AUDIT --type wrong"),
    ],
    ..Extension::TARGET
};

fn list(x: &Instance, _: &ListCtx<'_>) -> String {
    let kind = x.args.number(TYPE).unwrap_or(0);
    format!(" AUDIT {}", TYPES.name(kind).unwrap_or(""))
}
