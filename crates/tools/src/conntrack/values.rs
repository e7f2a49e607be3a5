//! Values of options: numbers in C's notation, addresses, lists of words.

use std::net::{Ipv4Addr, Ipv6Addr};

use tidegate_conntrack::Family;

use super::Refusal;

/// The whole number that `text` begins with in this base, 0 if none (`strtoul`): base 0
/// reads C's prefixes. A minus sign counts below zero, as in unsigned arithmetic.
pub(super) fn number(text: &str, base: u32) -> u64 {
    let text = text.trim_start();
    let (negative, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match base {
        0 if lower.starts_with("0x") => (&lower[2..], 16),
        0 if lower.starts_with('0') => (lower.as_str(), 8),
        0 => (lower.as_str(), 10),
        _ => (lower.as_str(), base),
    };
    let end = digits.find(|c: char| !c.is_digit(radix));
    let digits = end.map_or(digits, |end| &digits[..end]);
    let value = if digits.is_empty() {
        0
    } else {
        u64::from_str_radix(digits, radix).unwrap_or(u64::MAX)
    };
    if negative {
        value.wrapping_neg()
    } else {
        value
    }
}

/// The same, cut to 32 bits.
pub(super) fn number32(text: &str) -> u32 {
    number(text, 0) as u32
}

/// A decimal number, cut to 16 bits.
pub(super) fn port(text: &str) -> u16 {
    number(text, 10) as u16
}

/// A mark and the bits that count.
pub(super) fn mark(text: &str) -> (u32, u32) {
    match text.split_once('/') {
        Some((mark, mask)) => (number32(mark), number32(mask)),
        None => (number32(text), u32::MAX),
    }
}

/// An address: IPv4 in all forms of `inet_aton`, or IPv6.
pub(super) fn address(text: &str) -> Result<(Family, u128), Refusal> {
    if let Some(addr) = ipv4(text) {
        return Ok((Family::V4, u128::from(addr)));
    }
    match text.parse::<Ipv6Addr>() {
        Ok(addr) => Ok((Family::V6, addr.to_bits())),
        Err(_) => Err(Refusal::usage(format!("Invalid IP address `{text}'"))),
    }
}

/// Up to four numbers in C's notation; the last one fills what is left.
fn ipv4(text: &str) -> Option<u32> {
    if let Ok(addr) = text.parse::<Ipv4Addr>() {
        return Some(addr.to_bits());
    }
    let parts: Option<Vec<u64>> = text.split('.').map(part).collect();
    let parts = parts.filter(|p| p.len() <= 4)?;
    let (last, first) = parts.split_last()?;
    let room = 32 - 8 * first.len() as u32;
    if *last >> room != 0 || first.iter().any(|p| *p > 255) {
        return None;
    }
    let shifts = [24, 16, 8];
    let high = first.iter().zip(shifts).map(|(p, shift)| p << shift);
    Some((high.sum::<u64>() | last) as u32)
}

fn part(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match lower.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if lower.starts_with('0') => u64::from_str_radix(&lower, 8).ok(),
        None => lower.parse().ok(),
    }
}

/// The mask of a network prefix.
pub(super) fn prefix(family: Family, text: &str) -> Result<u128, Refusal> {
    let bits = match family {
        Family::V4 => 32,
        Family::V6 => 128,
    };
    let len = number(text, 10);
    if text.chars().any(|c| !c.is_ascii_digit()) || len > bits {
        return Err(Refusal::usage("Invalid netmask"));
    }
    let full = u128::MAX >> (128 - bits);
    Ok(full & full.checked_shl((bits - len) as u32).unwrap_or(0))
}

/// An address to translate to, and a port.
pub(super) fn nat(text: &str) -> Result<(Family, u128, Option<u16>), Refusal> {
    let text = text.strip_prefix('=').unwrap_or(text);
    let (addr, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((addr, after)) = rest.split_once(']') else {
                return Err(Refusal::usage("No closing ']' around IPv6 address"));
            };
            if addr.is_empty() {
                return Err(Refusal::usage("No IPv6 address specified"));
            }
            (addr, after.strip_prefix(':'))
        }
        None if text.matches(':').count() == 1 => match text.split_once(':') {
            Some((addr, port)) => (addr, Some(port)),
            None => (text, None),
        },
        None => (text, None),
    };
    let port = port.map(|port| match (port, port.parse()) {
        ("", _) => Err(Refusal::usage("No port specified after `:'")),
        (_, Ok(number)) => Ok(number),
        (_, Err(_)) => Err(Refusal::usage(format!("Invalid port `{port}'"))),
    });
    let port = port.transpose()?;
    let (family, addr) = address(addr)?;
    Ok((family, addr, port))
}

/// The words of a list, each any beginning of a name in `names`, whatever its case.
pub(super) fn words<T: Copy>(text: &str, names: &[(&str, T)]) -> Result<Vec<T>, Refusal> {
    let mut found = Vec::new();
    let mut rest = Some(text);
    while let Some(list) = rest {
        let (word, after) = match list.split_once(',') {
            Some((word, after)) => (word, Some(after)),
            None => (list, None),
        };
        let fits = |name: &&str| {
            let start = name.get(..word.len());
            !word.is_empty() && start.is_some_and(|s| s.eq_ignore_ascii_case(word))
        };
        match names.iter().find(|(name, _)| fits(name)) {
            Some(&(_, meaning)) => found.push(meaning),
            None => return Err(Refusal::usage(format!("Bad parameter `{list}'"))),
        }
        rest = after;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_in_c() {
        for (text, base, wanted) in [
            ("0x2a", 0, 42),
            ("010", 0, 8),
            ("42x", 0, 42),
            ("x", 0, 0),
            ("0x", 0, 0),
            ("", 10, 0),
            ("0x16", 10, 0),
            (" 7", 10, 7),
            ("-1", 10, u64::MAX),
        ] {
            assert_eq!(number(text, base), wanted, "{text}");
        }
        assert_eq!(port("70000"), 4464);
        assert_eq!(mark("0x10/"), (16, 0));
    }

    #[test]
    fn addresses_as_inet_aton_reads_them() {
        for (text, wanted) in [
            ("1", Some(1)),
            ("1.1.1", Some(0x0101_0001)),
            ("0x1010101", Some(0x0101_0101)),
            ("01.1.1.1", Some(0x0101_0101)),
            ("300.1.1.1", None),
            ("1.1.1.1.1", None),
            ("", None),
            ("localhost", None),
        ] {
            assert_eq!(address(text).ok().map(|a| a.1), wanted, "{text}");
        }
        assert!(address("fe80::1%eth0").is_err());
        assert_eq!(prefix(Family::V4, "24").ok(), Some(0xffff_ff00));
        assert_eq!(prefix(Family::V4, "0").ok(), Some(0));
        assert!(prefix(Family::V4, "33").is_err());
        assert!(prefix(Family::V4, "255.0.0.0").is_err());
    }
}
