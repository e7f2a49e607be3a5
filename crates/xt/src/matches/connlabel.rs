//! `-m connlabel`: one of 128 labels of the connection (kernel `connlabel_mt`).

use super::ranges::blank_bang;
use crate::{
    Arg, Args, Case, Errno, Error, Extension, Input, Lower, Opt, Place, Refusal, Value, bad,
    names::List, number, ok, saved,
};

const LABEL: usize = 0;
const SET: usize = 1;

/// How many labels there are.
const LABELS: u64 = 128;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "label",
        Arg::Special {
            arity: 1,
            parse,
            show: |v, _| crate::text::in_quotes(v.text().unwrap_or("")),
        },
    )
    .invertible()
    .mandatory()
    .help("[!] --label name     Match if label has been set on connection\n"),
    Opt::new("set", Arg::Flag).help("    --set            Set label on connection\n"),
];

/// Reads a name or a number; a label that has a name is kept under it.
fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let names = input.ctx.names;
    let named = names.id(List::Labels, text).map(u64::from);
    let found = named.or_else(|| number::whole(text, 0, 0xffff));
    let label = found
        .ok_or_else(|| Error::parameter(format!("label '{text}' not found or invalid value")))?;
    let name = u32::try_from(label)
        .ok()
        .and_then(|n| names.id_name(List::Labels, n));
    Ok(Value::Text(name.unwrap_or_else(|| label.to_string())))
}

/// `-m connlabel`.
pub static CONNLABEL: Extension = Extension {
    name: "connlabel",
    lower: Lower::Match(|_, ctx| ctx.refuse("connlabel: connections have no labels here")),
    options: OPTIONS,
    legal: crate::Legal {
        extra: check,
        ..crate::Legal::ANYWHERE
    },
    list: |x, _| {
        let bang = blank_bang(&x.args, LABEL);
        let set = if x.args.has(SET) { " set" } else { "" };
        format!(" connlabel{bang} {}{set}", x.args.text(LABEL).unwrap_or(""))
    },
    cases: CASES,
    ..Extension::MATCH
};

fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    let label = args.text(LABEL).and_then(|t| t.parse::<u64>().ok());
    if label.is_some_and(|n| n >= LABELS) {
        return Err(Refusal {
            errno: Errno::Range,
            why: "connlabel: there are 128 labels".to_owned(),
        });
    }
    Ok(())
}

const CASES: &[Case] = &[
    saved("-m connlabel --label 40", "-m connlabel --label \"40\""),
    saved(
        "-m connlabel ! --label 40 --set",
        "-m connlabel ! --label \"40\" --set",
    )
    .v6(),
    ok("-m connlabel --label \"127\""),
    bad("-m connlabel --label 128"),
    bad("-m connlabel --label foo"),
    bad("-m connlabel --label -1"),
    bad("-m connlabel"),
    bad("-m connlabel --set"),
];
