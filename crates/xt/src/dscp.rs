//! DiffServ code points and their class names (RFC 2474, 2597, 3246).

use crate::{Arg, Args, Error, Input, Value};

/// Class names; upper and lower case are the same.
const CLASSES: [(&str, u64); 22] = [
    ("CS0", 0),
    ("CS1", 8),
    ("CS2", 16),
    ("CS3", 24),
    ("CS4", 32),
    ("CS5", 40),
    ("CS6", 48),
    ("CS7", 56),
    ("BE", 0),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("EF", 46),
];

/// A code point as a number, saved as `0x2e`.
pub(crate) const NUMBER: Arg = Arg::Int {
    min: 0,
    max: 63,
    hex: 2,
};

/// A code point by class name.
pub(crate) const CLASS: Arg = Arg::Special {
    arity: 1,
    parse: parse_class,
    show: |v, _| format!("0x{:02x}", v.number().unwrap_or(0)),
};

fn parse_class(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    let known = CLASSES.iter().find(|c| c.0.eq_ignore_ascii_case(word));
    known
        .map(|c| Value::Number(c.1))
        .ok_or_else(|| Error::parameter(format!("Invalid DSCP value `{word}'")))
}

/// Turns a class option into the number option; `missing` when there is neither.
pub(crate) fn finish(
    args: &mut Args,
    number: usize,
    class: usize,
    missing: &str,
) -> Result<(), Error> {
    if let Some(given) = args.remove(class) {
        args.set(number, given.invert, given.value);
    }
    if args.is_empty() {
        return Err(Error::parameter(missing));
    }
    Ok(())
}
