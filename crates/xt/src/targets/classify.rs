//! `-j CLASSIFY`: sets the packet's priority, which is a queueing discipline's class
//! (kernel `classify_tg`).

use tidegate_ir::{Effect, Expr, Field, Hook, TableKind, Verdict};

use crate::{
    Arg, Case, Error, Extension, Families, Input, Legal, Lower, Opt, Outcome, Value, bad, ok, saved,
};

const CLASS: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "set-class",
    Arg::Special {
        arity: 1,
        parse,
        show: |v, _| {
            let class = v.number().unwrap_or(0);
            format!("{:04x}:{:04x}", class >> 16, class & 0xffff)
        },
    },
)
.mandatory()
.help("--set-class MAJOR:MINOR    Set skb->priority value (always hexadecimal!)\n")];

/// `-j CLASSIFY`.
pub static CLASSIFY: Extension = Extension {
    name: "CLASSIFY",
    lower: Lower::Target(|args, _| {
        let class = args.number(CLASS).unwrap_or(0);
        let expr = Expr::Masked {
            keep: 0,
            xor: class.into(),
        };
        Outcome::effect(Effect::Assign(Field::Priority, expr), Verdict::Continue)
    }),
    families: Families::Both,
    options: OPTIONS,
    legal: Legal::hooks(&[Hook::Forward, Hook::Output, Hook::Postrouting]),
    list: |x, _| {
        let class = x.args.number(CLASS).unwrap_or(0);
        format!(" CLASSIFY set {:x}:{:x}", class >> 16, class & 0xffff)
    },
    cases: CASES,
    ..Extension::TARGET
};

/// Two hexadecimal numbers as `sscanf` reads `%x:%x`, of each of which 16 bits count; what
/// follows them is not looked at.
fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let class = half(word).and_then(|(major, rest)| {
        let (minor, _) = half(rest.strip_prefix(':')?)?;
        Some(major << 16 | minor)
    });
    class
        .map(|c| Value::Number(c.into()))
        .ok_or_else(|| Error::parameter(format!("Bad class value \"{word}\"")))
}

/// A number with its sign, and what follows.
fn half(text: &str) -> Option<(u32, &str)> {
    let text = text.trim_start();
    let (minus, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let bare = digits.strip_prefix("0x").or(digits.strip_prefix("0X"));
    let digits = bare.unwrap_or(digits);
    let end = digits.find(|c: char| !c.is_ascii_hexdigit());
    let (number, rest) = digits.split_at(end.unwrap_or(digits.len()));
    // Numbers that do not fit become the largest, of which the low bits are all set.
    let number = match number {
        "" => return None,
        number => u64::from_str_radix(number, 16).unwrap_or(u64::MAX),
    };
    let number = if minus { number.wrapping_neg() } else { number };
    Some((number as u32 & 0xffff, rest))
}

const fn post(case: Case) -> Case {
    case.at(TableKind::Mangle, Hook::Postrouting)
}

const CASES: &[Case] = &[
    post(ok("-j CLASSIFY --set-class 0000:ffff")),
    post(
        saved(
            "-j CLASSIFY --set-class 1:10",
            "-j CLASSIFY --set-class 0001:0010",
        )
        .v6(),
    ),
    post(saved(
        "-j CLASSIFY --set-class 1ffff:1fffe",
        "-j CLASSIFY --set-class ffff:fffe",
    )),
    ok("-j CLASSIFY --set-class 0001:0001").at(TableKind::Filter, Hook::Forward),
    ok("-j CLASSIFY --set-class 0001:0001").at(TableKind::Nat, Hook::Postrouting),
    post(bad("-j CLASSIFY")),
    post(bad("-j CLASSIFY --set-class 10")),
    post(bad("-j CLASSIFY --set-class 10:x")),
    post(bad("-j CLASSIFY --set-class 1:")),
    post(bad("-j CLASSIFY --set-class :1")),
    bad("-j CLASSIFY --set-class 1:1"),
    bad("-j CLASSIFY --set-class 1:1").at(TableKind::Mangle, Hook::Prerouting),
];
