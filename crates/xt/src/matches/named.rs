//! What the matches on numbers with names share: a value under a mask that the host's
//! lists may have a name for.

use tidegate_ir::{Cond, Field};

use crate::{Error, Given, Input, ListCtx, Value, names::List, number, show_mark};

/// Reads a name of the list, or `value[/mask]`. A value without a mask that has a name is
/// kept under its name.
pub(super) fn parse(input: &Input<'_>, list: List) -> Result<Value, Error> {
    let text = input.text();
    let numeric = text.starts_with(|c: char| c.is_ascii_digit());
    if !numeric {
        return match input.ctx.names.id(list, text) {
            Some(id) => Ok(Value::Named(id, text.to_owned())),
            None => Err(Error::parameter(format!(
                "{}: could not map name {text} to an integer value for option \"--{}\".\n",
                input.ext, input.opt.name
            ))),
        };
    }
    let value = crate::Arg::Mark.parse(input)?;
    let plain = match value {
        Value::Masked {
            value,
            mask: u32::MAX,
        } => input
            .ctx
            .names
            .id_name(list, value)
            .map(|name| (value, name)),
        _ => None,
    };
    Ok(plain.map_or(value, |(id, name)| Value::Named(id, name)))
}

/// As it is saved.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Masked { value, mask } => show_mark(*value, *mask),
        Value::Named(_, name) => name.clone(),
        _ => String::new(),
    }
}

/// As it is listed.
pub(super) fn list(value: &Value, ctx: &ListCtx<'_>) -> String {
    match value {
        Value::Named(id, _) if ctx.numeric => format!("{id:#x}"),
        value => show(value),
    }
}

/// Whether a field has the option's value under its mask, inverted or not.
pub(super) fn test(field: Field, given: &Given) -> Cond {
    let (value, mask) = given.value.masked().unwrap_or_default();
    Cond::bits(field, mask.into(), value.into()).inverted_if(given.invert)
}

/// A user or group: one or a range, by number or (one alone) by name.
pub(super) fn owner(input: &Input<'_>, list: List) -> Result<Value, Error> {
    let text = input.text();
    let max = u64::from(u32::MAX) - 1;
    let by_name = input
        .ctx
        .names
        .id(list, text)
        .map(|id| (id.into(), id.into()));
    let one = |s: &str| number::whole(s, 0, max);
    let by_number = match text.split_once('-') {
        None => one(text).map(|n| (n, n)),
        Some((lo, hi)) => one(lo).zip(one(hi)),
    };
    let (lo, hi) = by_name.or(by_number).ok_or_else(|| input.bad_value(text))?;
    Ok(Value::Range(lo, hi))
}
