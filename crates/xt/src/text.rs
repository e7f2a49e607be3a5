//! Small pieces of text shared by the printers.

use std::net::{Ipv4Addr, Ipv6Addr};

use tidegate_wire::Family;

/// Characters that need no quotes in a saved string.
fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// `s` as a saved rule shows it: bare when it is a plain word, else in double quotes
/// with `"`, `'` and `\` escaped.
#[must_use]
pub fn quote(s: &str) -> String {
    if !s.is_empty() && s.chars().all(plain) {
        return s.to_owned();
    }
    in_quotes(s)
}

/// A name as the tools save it where they do not quote, unless it could not be read again.
#[must_use]
pub fn bare(name: &str) -> String {
    if name.contains([' ', '"', '\'', '\\']) || name.is_empty() {
        return quote(name);
    }
    name.to_owned()
}

/// `s` in double quotes, with `"`, `'` and `\` escaped.
#[must_use]
pub fn in_quotes(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        if matches!(c, '"' | '\'' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// An address in its usual text form.
#[must_use]
pub fn addr(addr: u128, family: Family) -> String {
    match family {
        Family::V4 => Ipv4Addr::from_bits(addr as u32).to_string(),
        Family::V6 => Ipv6Addr::from_bits(addr).to_string(),
    }
}

/// Reads one numeric address.
#[must_use]
pub fn parse_addr(text: &str, family: Family) -> Option<u128> {
    match family {
        Family::V4 => text
            .parse::<Ipv4Addr>()
            .ok()
            .map(|a| u128::from(a.to_bits())),
        Family::V6 => text.parse::<Ipv6Addr>().ok().map(Ipv6Addr::to_bits),
    }
}

/// The mask with all address bits set.
#[must_use]
pub const fn full_mask(family: Family) -> u128 {
    match family {
        Family::V4 => 0xffff_ffff,
        Family::V6 => u128::MAX,
    }
}

/// The mask with the first `len` bits set; `None` when the family has fewer.
#[must_use]
pub fn prefix_mask(len: u32, family: Family) -> Option<u128> {
    let width = width(family);
    if len > width {
        return None;
    }
    let host = width - len;
    let low = if host == 0 {
        0
    } else {
        u128::MAX >> (128 - host)
    };
    Some(full_mask(family) & !low)
}

/// `Some(n)` when `mask` is the first `n` bits.
#[must_use]
pub fn prefix_len(mask: u128, family: Family) -> Option<u32> {
    let len = mask.count_ones();
    (prefix_mask(len, family) == Some(mask)).then_some(len)
}

const fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// `/24`, `/255.0.255.0` or nothing for a full mask.
#[must_use]
pub fn mask_suffix(mask: u128, family: Family) -> String {
    match prefix_len(mask, family) {
        Some(n) if n == width(family) => String::new(),
        Some(n) => format!("/{n}"),
        None => format!("/{}", addr(mask, family)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_save_does() {
        assert_eq!(quote("simple"), "simple");
        assert_eq!(quote("drop: "), "\"drop: \"");
        assert_eq!(quote("all \"x\" web's"), "\"all \\\"x\\\" web\\'s\"");
        assert_eq!(quote(""), "\"\"");
        assert_eq!(quote("é"), "\"é\"");
    }

    #[test]
    fn masks() {
        assert_eq!(prefix_mask(24, Family::V4), Some(0xffff_ff00));
        assert_eq!(prefix_mask(0, Family::V6), Some(0));
        assert_eq!(prefix_mask(0, Family::V4), Some(0));
        assert_eq!(prefix_mask(33, Family::V4), None);
        assert_eq!(mask_suffix(0xff00_ff00, Family::V4), "/255.0.255.0");
        assert_eq!(mask_suffix(u128::MAX, Family::V6), "");
        assert_eq!(mask_suffix(u128::MAX << 96, Family::V6), "/32");
    }
}
