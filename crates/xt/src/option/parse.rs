//! Readers of the common argument types, with the tools' error texts.

use tidegate_wire::Family;

use super::{Input, Words};
use crate::{Error, Names, Value, number, text};

pub(super) fn int(input: &Input<'_>, min: u64, max: u64) -> Result<Value, Error> {
    number::whole(input.text(), min, max)
        .map(Value::Number)
        .ok_or_else(|| input.out_of_range(min, max))
}

pub(super) fn int_range(input: &Input<'_>, max: u64) -> Result<Value, Error> {
    let arg = input.text();
    let bad = |near: &str| {
        Error::parameter(format!(
            "{}: bad value for option \"--{}\" near \"{near}\", or out of range (0-{max}).\n",
            input.ext, input.opt.name
        ))
    };
    // What cannot be read is shown with all that follows it.
    let bound = |s: &str, empty: u64, near: &str| match s {
        "" => Ok(empty),
        s => number::whole(s, 0, max).ok_or_else(|| bad(near)),
    };
    let (lo, hi) = match arg.split_once(':') {
        None => {
            let n = bound(arg, 0, arg)?;
            (n, n)
        }
        Some((_, hi)) if hi.contains(':') => return Err(too_many(input)),
        Some((lo, hi)) => (bound(lo, 0, arg)?, bound(hi, max, hi)?),
    };
    if lo > hi {
        return Err(Error::parameter(format!(
            "{}: range {lo}-{hi} of option \"--{}\" is negative.\n",
            input.ext, input.opt.name
        )));
    }
    Ok(Value::Range(lo, hi))
}

fn too_many(input: &Input<'_>) -> Error {
    Error::parameter(format!(
        "{}: Too many components for option \"--{}\" (max: 2)\n",
        input.ext, input.opt.name
    ))
}

pub(super) fn mark(input: &Input<'_>) -> Result<Value, Error> {
    let bad = || {
        Error::parameter(format!(
            "{}: bad integer value for option \"--{}\", or out of range.\n",
            input.ext, input.opt.name
        ))
    };
    let read = |s| {
        let (n, rest) = number::prefix(s)?;
        Some((u32::try_from(n).ok()?, rest))
    };
    let (value, rest) = read(input.text()).ok_or_else(bad)?;
    let (mask, rest) = match rest.strip_prefix('/') {
        Some(mask) => read(mask).ok_or_else(bad)?,
        None => (u32::MAX, rest),
    };
    if !rest.is_empty() {
        return Err(Error::parameter(format!(
            "{}: trailing garbage after value for option \"--{}\".\n",
            input.ext, input.opt.name
        )));
    }
    Ok(Value::Masked { value, mask })
}

pub(super) fn string(input: &Input<'_>, min: usize, max: usize) -> Result<Value, Error> {
    let arg = input.text();
    if arg.len() < min {
        return Err(Error::parameter(format!(
            "Argument must have a minimum length of {min} characters\n"
        )));
    }
    if arg.len() > max {
        return Err(Error::parameter(format!(
            "Argument must have a maximum length of {max} characters\n"
        )));
    }
    Ok(Value::Text(arg.to_owned()))
}

/// Reads a port number or the name of a service of the rule's protocol.
#[must_use]
pub fn parse_port(word: &str, names: &dyn Names, proto: Option<&str>) -> Option<u16> {
    match number::whole(word, 0, u64::from(u16::MAX)) {
        Some(n) => u16::try_from(n).ok(),
        None => names.service(word, proto),
    }
}

pub(super) fn port_range(input: &Input<'_>) -> Result<Value, Error> {
    let proto = input.ctx.proto_name();
    let port = |s: &str, empty: u16| {
        if s.is_empty() {
            return Ok(u64::from(empty));
        }
        parse_port(s, input.ctx.names, proto.as_deref())
            .map(u64::from)
            .ok_or_else(|| {
                Error::parameter(format!("Port \"{s}\" does not resolve to anything.\n"))
            })
    };
    let arg = input.text();
    let Some((lo, hi)) = arg.split_once(':') else {
        let p = port(arg, 0)?;
        return Ok(Value::Range(p, p));
    };
    if hi.contains(':') {
        return Err(too_many(input));
    }
    let (lo, hi) = (port(lo, 0)?, port(hi, u16::MAX)?);
    if lo > hi {
        return Err(Error::parameter(format!(
            "Port range {lo}-{hi} is negative.\n"
        )));
    }
    Ok(Value::Range(lo, hi))
}

fn unknown(words: &Words, word: &str) -> Error {
    Error::parameter(words.unknown.replace("{}", word))
}

pub(super) fn one_of(input: &Input<'_>, words: &Words) -> Result<Value, Error> {
    let word = input.text();
    words
        .find(word)
        .map(|n| Value::Number(u64::from(n)))
        .ok_or_else(|| unknown(words, word))
}

pub(super) fn set_of(input: &Input<'_>, words: &Words) -> Result<Value, Error> {
    let mut bits = 0;
    let mut rest = input.text();
    loop {
        let (word, more) = rest.split_once(',').unwrap_or((rest, ""));
        // The tools name the whole rest when nothing stands before a comma.
        let shown = if word.is_empty() { rest } else { word };
        bits |= words.find(word).ok_or_else(|| unknown(words, shown))?;
        if word.len() == rest.len() {
            return Ok(Value::Bits(bits));
        }
        rest = more;
    }
}

pub(super) fn network(input: &Input<'_>) -> Result<Value, Error> {
    let family = input.ctx.family;
    let arg = input.text();
    let (host, mask) = match arg.split_once('/') {
        Some((host, mask)) => (host, parse_mask(mask, family)?),
        None => (arg, text::full_mask(family)),
    };
    let found = text::parse_addr(host, family)
        .or_else(|| input.ctx.names.host(host, family).first().copied());
    let addr = found
        .ok_or_else(|| Error::parameter("getaddrinfo: Name or service not known\n".to_owned()))?;
    Ok(Value::Net { addr, mask })
}

fn parse_mask(mask: &str, family: Family) -> Result<u128, Error> {
    let by_length = mask
        .parse::<u32>()
        .ok()
        .and_then(|n| text::prefix_mask(n, family));
    by_length
        .or_else(|| text::parse_addr(mask, family))
        .ok_or_else(|| {
            Error::parameter(format!(
                "netmask \"{mask}\" is not a valid mask or prefix length\n"
            ))
        })
}

/// Syslog levels: a number prints as itself, names are only read.
const LEVELS: &[(&str, u64)] = &[
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("error", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// The level that `word` names or is.
#[must_use]
pub fn syslog_level(word: &str) -> Option<u64> {
    number::whole(word, 0, 7).or_else(|| LEVELS.iter().find(|l| l.0 == word).map(|l| l.1))
}

pub(super) fn level(input: &Input<'_>) -> Result<Value, Error> {
    let word = input.text();
    syslog_level(word)
        .map(Value::Number)
        .ok_or_else(|| Error::parameter(format!("log level \"{word}\" unknown\n")))
}
