//! `-m connlabel`: one of 128 labels of the connection (kernel `connlabel_mt`).

use tidegate_ir::{Cond, Field, Step, StepInput, Truth};

use super::ranges::blank_bang;
use crate::{
    Arg, Args, Case, Errno, Error, Extension, Input, Lower, LowerCtx, Opt, Place, Refusal, Value,
    Vector, bad, names::List, no, number, ok, packets, saved, yes,
};

const LABEL: usize = 0;
const SET: usize = 1;

/// How many labels there are.
const LABELS: u8 = 128;

const OPTIONS: &[Opt] = &[
    Opt::new(
        "label",
        Arg::Special {
            arity: 1,
            parse,
            show: |v, _| crate::text::in_quotes(named(v).1),
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
    let text = name.unwrap_or_else(|| label.to_string());
    let number = u8::try_from(label).unwrap_or(u8::MAX);
    Ok(Value::At(number, Box::new(Value::Text(text))))
}

/// Number (255 for all that are none of a label) and name of a label.
fn named(value: &Value) -> (u8, &str) {
    match value {
        Value::At(number, text) => (*number, text.text().unwrap_or("")),
        _ => (u8::MAX, ""),
    }
}

fn label(args: &Args) -> (u8, &str) {
    args.get(LABEL).map_or((u8::MAX, ""), |g| named(&g.value))
}

/// `-m connlabel`.
pub static CONNLABEL: Extension = Extension {
    name: "connlabel",
    lower: Lower::Match(lower),
    options: OPTIONS,
    legal: crate::Legal {
        extra: check,
        ..crate::Legal::ANYWHERE
    },
    list: |x, _| {
        let bang = blank_bang(&x.args, LABEL);
        let set = if x.args.has(SET) { " set" } else { "" };
        format!(" connlabel{bang} {}{set}", label(&x.args).0)
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

/// A packet without a connection has no label, and can get none.
fn lower(args: &Args, ctx: &mut LowerCtx<'_>) -> Cond {
    let (number, _) = label(args);
    let inverted = args.inverted(LABEL);
    if !args.has(SET) {
        let bit = 1u128.checked_shl(number.into()).unwrap_or(0);
        return Cond::bits(Field::CtLabels, bit, bit).inverted_if(inverted);
    }
    let set = ctx.step(Set(number)).inverted_if(inverted);
    // Connections are tracked for its sake.
    Cond::all(vec![Cond::range(Field::HasCt, 0, 1), set])
}

/// Sets a label; true when the connection has it then.
#[derive(Clone, Copy, Debug)]
struct Set(u8);

impl Step for Set {
    fn call(&mut self, input: &mut StepInput<'_>) -> Truth {
        input.facts.set_label(self.0).into()
    }

    fn describe(&self, _: u64) -> String {
        format!("sets label {}", self.0)
    }

    fn fresh(&self) -> Box<dyn Step> {
        Box::new(*self)
    }
}

fn check(args: &Args, _: &Place<'_>) -> Result<(), Refusal> {
    if label(args).0 >= LABELS {
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

/// `connlabel_mt`: without a connection the answer is that of a label that is not set.
const VECTORS: &[Vector] = &[
    yes("-m connlabel --label 40", packets::SYN).with(&[(Field::CtLabels, 1 << 40 | 1)]),
    no("-m connlabel --label 40", packets::SYN).with(&[(Field::CtLabels, 1 << 41)]),
    no("-m connlabel ! --label 40", packets::SYN).with(&[(Field::CtLabels, 1 << 40)]),
    yes("-m connlabel ! --label 40", packets::SYN).with(&[(Field::CtLabels, 0)]),
    yes("-m connlabel --label 127", packets::SYN).with(&[(Field::CtLabels, 1 << 127)]),
    no("-m connlabel --label 0", packets::SYN).with(&[]),
    yes("-m connlabel ! --label 0", packets::SYN).with(&[]),
    no("-m connlabel --label 0 --set", packets::SYN).with(&[]),
    yes("-m connlabel ! --label 0 --set", packets::SYN).with(&[]),
];
