//! Type-of-service values as options write them: `value[/mask]` or a name.

use tidegate_wire::Family;

use crate::{Error, Input, Value, number};

/// Names of the four service bits (RFC 1349); they imply [`NAMED_MASK`].
const NAMES: [(&str, u32); 5] = [
    ("Minimize-Delay", 0x10),
    ("Maximize-Throughput", 0x08),
    ("Maximize-Reliability", 0x04),
    ("Minimize-Cost", 0x02),
    ("Normal-Service", 0x00),
];
const NAMED_MASK: u32 = 0x3f;

/// Reads `value`, `value/mask` or a name; the mask is 0xff when not given.
pub(crate) fn parse(input: &Input<'_>) -> Result<Value, Error> {
    let text = input.text();
    let illegal = || Error::parameter(format!("Illegal value: \"{text}\""));
    let Some((value, rest)) = number::prefix(text).filter(|n| n.0 <= 0xff) else {
        return named(text);
    };
    let mask = match rest.strip_prefix('/') {
        None if rest.is_empty() => 0xff,
        None => return Err(illegal()),
        Some(mask) => number::whole(mask, 0, 0xff).ok_or_else(illegal)?,
    };
    Ok(Value::Masked {
        value: value as u32,
        mask: mask as u32,
    })
}

fn named(word: &str) -> Result<Value, Error> {
    let known = NAMES.iter().find(|n| n.0.eq_ignore_ascii_case(word));
    let (_, value) =
        known.ok_or_else(|| Error::parameter(format!("Symbolic name \"{word}\" is unknown")))?;
    Ok(Value::Masked {
        value: *value,
        mask: NAMED_MASK,
    })
}

/// `0x10/0x3f`.
pub(crate) fn show(value: &Value, _: Family) -> String {
    let (value, mask) = value.masked().unwrap_or_default();
    format!("0x{value:02x}/0x{mask:02x}")
}

/// The name of a value under the names' mask.
pub(crate) fn name(value: u32, mask: u32) -> Option<&'static str> {
    let known = NAMES.iter().find(|n| n.1 == value);
    known.filter(|_| mask == NAMED_MASK).map(|n| n.0)
}
