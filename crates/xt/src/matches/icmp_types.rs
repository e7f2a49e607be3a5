//! What the ICMP matches share: type names, reading, printing.

use std::sync::LazyLock;

use tidegate_ir::{Cond, Field};

use super::transport::header;
use crate::{Args, Error, Input, Instance, ListCtx, Value, number, starts_with_ignoring_case};

/// A name for a type and a range of codes.
pub(super) struct Name {
    pub(super) name: &'static str,
    pub(super) ty: u8,
    pub(super) codes: (u8, u8),
}

pub(super) const fn ty(name: &'static str, ty: u8) -> Name {
    Name {
        name,
        ty,
        codes: (0, 255),
    }
}

pub(super) const fn code(name: &'static str, ty: u8, code: u8) -> Name {
    Name {
        name,
        ty,
        codes: (code, code),
    }
}

/// One protocol's names and words.
pub(super) struct Kind {
    pub(super) names: &'static [Name],
    /// In errors: `ICMP`.
    pub(super) title: &'static str,
    /// In listings: `icmp`.
    pub(super) word: &'static str,
    /// Whether type 255 stands for every type.
    pub(super) any: bool,
}

/// The option both matches have.
pub(super) const TYPE: usize = 0;

const fn pack(ty: u8, code: u8) -> u64 {
    ty as u64 * 256 + code as u64
}

fn unpack(value: &Value) -> (u8, u8, u8) {
    let (lo, hi) = value.range().unwrap_or_default();
    ((lo >> 8) as u8, lo as u8, hi as u8)
}

/// Reads a name (or its unambiguous start), `type`, `type/code` or `type/code:code`.
pub(super) fn parse(input: &Input<'_>, kind: &Kind) -> Result<Value, Error> {
    let text = input.text();
    let fits = |n: &&Name| starts_with_ignoring_case(n.name, text);
    let mut found = kind.names.iter().filter(fits);
    let title = kind.title;
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(Value::Range(
            pack(one.ty, one.codes.0),
            pack(one.ty, one.codes.1),
        )),
        (Some(one), Some(two)) => Err(Error::parameter(format!(
            "Ambiguous {title} type `{text}': `{}' or `{}'?",
            one.name, two.name
        ))),
        (None, _) => parse_numbers(text, title),
    }
}

fn parse_numbers(text: &str, title: &str) -> Result<Value, Error> {
    let unknown = |what: &str| Error::parameter(format!("Unknown {title} {what} `{text}'"));
    let byte = |s: &str| number::whole(s, 0, 255).and_then(|n| u8::try_from(n).ok());
    let (ty, codes) = match text.split_once('/') {
        Some((ty, codes)) => (ty, Some(codes)),
        None => (text, None),
    };
    let ty = byte(ty).ok_or_else(|| unknown("type"))?;
    let (lo, hi) = match codes {
        None => (0, 255),
        Some(codes) => {
            let (lo, hi) = codes.split_once(':').unwrap_or((codes, codes));
            byte(lo)
                .zip(byte(hi))
                .filter(|(lo, hi)| lo <= hi)
                .ok_or_else(|| unknown("code"))?
        }
    };
    Ok(Value::Range(pack(ty, lo), pack(ty, hi)))
}

/// Saves `any`, `type`, `type/code` or `type/code:code`.
pub(super) fn show(value: &Value, any: bool) -> String {
    match unpack(value) {
        (255, 0, 255) if any => "any".to_owned(),
        (ty, 0, 255) => ty.to_string(),
        (ty, lo, hi) if lo == hi => format!("{ty}/{lo}"),
        (ty, lo, hi) => format!("{ty}/{lo}:{hi}"),
    }
}

pub(super) fn list(x: &Instance, ctx: &ListCtx<'_>, kind: &Kind) -> String {
    let Some(given) = x.args.get(TYPE) else {
        return String::new();
    };
    let (ty, lo, hi) = unpack(&given.value);
    let bang = if given.invert { "!" } else { "" };
    let known = |n: &&Name| n.ty == ty && n.codes == (lo, hi);
    if let (false, Some(name)) = (ctx.numeric, kind.names.iter().find(known)) {
        return format!(" {} {bang}{}", kind.word, name.name);
    }
    let blank = if given.invert { " " } else { "" };
    let codes = match (lo, hi) {
        (0, 255) => String::new(),
        (lo, hi) if lo == hi => format!(" code {lo}"),
        (lo, hi) => format!(" codes {lo}-{hi}"),
    };
    format!(" {}{blank}{bang}type {ty}{codes}", kind.word)
}

pub(super) fn lower(args: &Args, kind: &Kind) -> Cond {
    let Some(given) = args.get(TYPE) else {
        return Cond::Const(true);
    };
    let (ty, lo, hi) = unpack(&given.value);
    let test = if kind.any && ty == 255 {
        Cond::Const(true)
    } else {
        let (lo, hi) = (pack(ty, lo), pack(ty, hi));
        Cond::range(Field::IcmpTypeCode, u128::from(lo), u128::from(hi))
    };
    static WHOLE: LazyLock<Cond> = LazyLock::new(|| header(HEADER).shared());
    Cond::all(vec![WHOLE.clone(), test.inverted_if(given.invert)])
}

/// Bytes of the ICMP header (`struct icmphdr`, `struct icmp6hdr`).
const HEADER: u16 = 8;
