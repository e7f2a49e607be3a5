//! What `-m hbh` and `-m dst` share: an IPv6 options header, its length and the options it
//! begins with (kernel `hbh_mt6`).

use tidegate_ir::{Cond, Field, StepInput};
use tidegate_wire::ext6;

use super::{pure::pure, ranges::bang};
use crate::{Arg, Args, Error, Input, Instance, LowerCtx, Value, number};

pub(super) const LEN: usize = 0;
pub(super) const OPTS: usize = 1;

/// Most options.
const MOST: usize = 16;

pub(super) const LENGTH: Arg = Arg::Int {
    min: 0,
    max: u32::MAX as u64,
    hex: 0,
};

pub(super) const LIST: Arg = Arg::Special {
    arity: 1,
    parse,
    show: |v, _| v.text().unwrap_or("").to_owned(),
};

/// The number at the start of `word`, of which the lowest byte counts.
fn byte(word: &str, input: &Input<'_>, what: &str) -> Result<u8, Error> {
    let error = |text: String| Error::parameter(format!("{}: {text}", input.ext));
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word),
    };
    let (n, rest) = number::prefix(digits)
        .ok_or_else(|| error(format!("no valid digits in {what} `{word}'")))?;
    if !rest.is_empty() {
        return Err(error(format!("error parsing {what} `{word}'")));
    }
    Ok(if sign { n.wrapping_neg() } else { n } as u8)
}

/// Reads `TYPE[:LEN][,...]`. The length 255 is that of an option without one.
fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let mut list = Vec::new();
    for item in input.text().split(',') {
        if list.len() == MOST {
            return Err(Error::parameter("too many addresses specified"));
        }
        let (kind, len) = match item.split_once(':') {
            Some((kind, len)) => (byte(kind, input, "opt")?, byte(len, input, "length")?),
            None => (byte(item, input, "opt")?, 255),
        };
        list.push(match len {
            255 => kind.to_string(),
            len => format!("{kind}:{len}"),
        });
    }
    Ok(Value::Text(list.join(",")))
}

/// ` hbh length:!5 opts 1:2,3`.
pub(super) fn list(x: &Instance) -> String {
    let mut out = format!(" {}", x.ext.name);
    if let Some(len) = x.args.number(LEN) {
        out += &format!(" length:{}{len}", bang(&x.args, LEN));
    }
    if let Some(opts) = x.args.text(OPTS) {
        out += &format!(" opts {opts}");
    }
    out
}

/// The condition on the header of that number.
pub(super) fn lower(args: &Args, ctx: &mut LowerCtx<'_>, header: u8) -> Cond {
    let mut tests = super::ext_header::present(header, 2);
    tests.push(pure(ctx, "a whole header", move |input| {
        whole(input, header).is_some()
    }));
    if let Some(len) = args.number(LEN) {
        let units = (len % 8 == 0).then(|| (len / 8).checked_sub(1)).flatten();
        let field = Field::Ext {
            header,
            at: 1,
            len: 1,
        };
        let test = units.map_or(Cond::Const(false), |u| Cond::eq(field, u.into()));
        tests.push(test.inverted_if(args.inverted(LEN)));
    }
    if let Some(opts) = args.text(OPTS) {
        let wanted = wanted(opts);
        tests.push(pure(ctx, format!("options {opts}"), move |input| {
            whole(input, header).is_some_and(|bytes| begins_with(bytes, &wanted))
        }));
    }
    Cond::all(tests)
}

/// Types and lengths, 255 for any.
fn wanted(text: &str) -> Vec<(u8, u8)> {
    let one = |item: &str| {
        let (kind, len) = item.split_once(':').unwrap_or((item, "255"));
        Some((kind.parse().ok()?, len.parse().ok()?))
    };
    text.split(',').filter_map(one).collect()
}

fn whole<'a>(input: &'a StepInput<'_>, header: u8) -> Option<&'a [u8]> {
    ext6::whole(input.facts.packet(), header)
}

/// Whether the header's options are the wanted ones, as far as those go.
fn begins_with(header: &[u8], wanted: &[(u8, u8)]) -> bool {
    let mut rest = header.get(2..).unwrap_or_default();
    for (i, &(kind, len)) in wanted.iter().enumerate() {
        if rest.first() != Some(&kind) {
            return false;
        }
        let size = if kind == 0 {
            1
        } else {
            match rest.get(1) {
                Some(&there) if len == 255 || there == len => usize::from(there) + 2,
                _ => return false,
            }
        };
        match rest.get(size..) {
            Some(more) => rest = more,
            None => return i + 1 == wanted.len(),
        }
    }
    true
}
