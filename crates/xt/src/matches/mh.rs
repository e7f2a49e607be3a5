//! `-m mh`: the type of a mobility header (kernel `mh_mt6`). Anything behind the header
//! drops the packet.

use tidegate_ir::{Cond, Field};
use tidegate_wire::{Family, proto};

use super::{ranges::bang, transport::header};
use crate::{
    Arg, Case, Error, Extension, Families, Help, Input, Legal, Lower, Opt, Value, Vector, bad, no,
    number, ok, packets, saved, starts_with_ignoring_case, yes,
};

const TYPE: usize = 0;

/// Type n and its short name (RFC 6275 section 6.1).
const NAMES: [(&str, &str); 8] = [
    ("binding-refresh-request", "brr"),
    ("home-test-init", "hoti"),
    ("careof-test-init", "coti"),
    ("home-test", "hot"),
    ("careof-test", "cot"),
    ("binding-update", "bu"),
    ("binding-acknowledgement", "ba"),
    ("binding-error", "be"),
];

const OPTIONS: &[Opt] = &[Opt::new(
    "mh-type",
    Arg::Special {
        arity: 1,
        parse,
        show: super::transport::show_range,
    },
)
.invertible()
.help("[!] --mh-type type[:type]\tmatch mh type\n")];

/// The type that a name, the start of one or a number stands for; an exact name goes
/// before a longer one, as the first one listed does.
fn one(word: &str) -> Result<u64, Error> {
    let names = || {
        let both = NAMES.iter().zip(0..);
        both.flat_map(|(&(long, short), n)| [(long, n), (short, n)])
    };
    let exact = names().find(|n| n.0.eq_ignore_ascii_case(word));
    let start = || names().find(|n| !word.is_empty() && starts_with_ignoring_case(n.0, word));
    exact
        .or_else(start)
        .map(|n| n.1)
        .or_else(|| number::whole(word, 0, 255))
        .ok_or_else(|| Error::parameter(format!("Invalid MH type `{word}'")))
}

fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let Some((lo, hi)) = input.text().split_once(':') else {
        let ty = one(input.text())?;
        return Ok(Value::Range(ty, ty));
    };
    let lo = if lo.is_empty() { 0 } else { one(lo)? };
    let hi = if hi.is_empty() { 255 } else { one(hi)? };
    if lo > hi {
        return Err(Error::parameter("Invalid MH type range (min > max)"));
    }
    Ok(Value::Range(lo, hi))
}

/// `-m mh`.
pub static MH: Extension = Extension {
    name: "mh",
    lower: Lower::Match(|args, _| {
        let nothing = Cond::eq(Field::L4 { at: 0, len: 1 }, proto::NONE.into());
        let mut tests = vec![header(6)];
        tests.push(Cond::DropWhen(Box::new(Cond::Not(Box::new(nothing)))));
        if let Some((lo, hi)) = args.range(TYPE) {
            let test = Cond::range(Field::L4 { at: 2, len: 1 }, lo.into(), hi.into());
            tests.push(test.inverted_if(args.inverted(TYPE)));
        }
        Cond::all(tests)
    }),
    families: Families::Only(Family::V6),
    options: OPTIONS,
    help: Help::tail(
        "Valid MH types:\nbinding-refresh-request (brr)\nhome-test-init (hoti)\ncareof-test-init (coti)\nhome-test (hot)\ncareof-test (cot)\nbinding-update (bu)\nbinding-acknowledgement (ba)\nbinding-error (be)\n",
    ),
    legal: Legal::protos(&[proto::MH]),
    finish: |args, _| {
        if args.range(TYPE) == Some((0, 255)) && !args.inverted(TYPE) {
            args.remove(TYPE);
        }
        Ok(())
    },
    list: |x, ctx| {
        let Some((lo, hi)) = x.args.range(TYPE) else {
            return " mh".to_owned();
        };
        let name = |n: u64| match NAMES.get(n as usize) {
            Some(names) if !ctx.numeric => names.0.to_owned(),
            _ => n.to_string(),
        };
        let bang = bang(&x.args, TYPE);
        if lo == hi {
            return format!(" mh {bang}{}", name(lo));
        }
        format!(" mh {bang}{}:{}", name(lo), name(hi))
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-p ipv6-mh -m mh --mh-type 3").v6(),
    saved(
        "-p ipv6-mh -m mh --mh-type binding-refresh-request",
        "-p ipv6-mh -m mh --mh-type 0",
    )
    .v6(),
    saved(
        "-p ipv6-mh -m mh --mh-type hoti:cot",
        "-p ipv6-mh -m mh --mh-type 1:4",
    )
    .v6(),
    saved(
        "-p ipv6-mh -m mh --mh-type BU",
        "-p ipv6-mh -m mh --mh-type 5",
    )
    .v6(),
    saved(
        "-p ipv6-mh -m mh --mh-type bind",
        "-p ipv6-mh -m mh --mh-type 0",
    )
    .v6(),
    saved(
        "-p ipv6-mh -m mh --mh-type :5",
        "-p ipv6-mh -m mh --mh-type 0:5",
    )
    .v6(),
    saved("-p ipv6-mh -m mh --mh-type 0:255", "-p ipv6-mh -m mh").v6(),
    ok("-p ipv6-mh -m mh ! --mh-type 0:255").v6(),
    ok("-p ipv6-mh -m mh ! --mh-type 4").v6(),
    bad("-p ipv6-mh -m mh --mh-type 5:1").v6(),
    bad("-p ipv6-mh -m mh --mh-type foo").v6(),
    bad("-p ipv6-mh -m mh --mh-type 256").v6(),
    bad("-m mh --mh-type 1").v6(),
    bad("-p ipv6-mh -m mh --mh-type 1"),
];

const VECTORS: &[Vector] = &[
    yes("-p ipv6-mh -m mh --mh-type 5", packets::MH),
    no("-p ipv6-mh -m mh ! --mh-type bu", packets::MH),
    no("-p ipv6-mh -m mh --mh-type 0:4", packets::MH),
];
