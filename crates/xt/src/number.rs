//! Numbers as the tools read them: decimal, `0x` hexadecimal, leading-zero octal.

/// Reads a number at the start of `text` and returns it with what follows.
///
/// `None` when there is no number, it is negative, or it does not fit 64 bits
/// (`strtoull` with base 0).
#[must_use]
pub fn prefix(text: &str) -> Option<(u64, &str)> {
    let text = text.trim_start_matches([' ', '\t', '\n']);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (radix, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', d, ..] if d.is_ascii_hexdigit() => (16, &text[2..]),
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let (mut number, mut len) = (0_u64, 0);
    for digit in digits.chars().map_while(|c| c.to_digit(radix)) {
        let shifted = number.checked_mul(u64::from(radix))?;
        number = shifted.checked_add(u64::from(digit))?;
        len += 1;
    }
    (len > 0).then(|| (number, &digits[len..]))
}

/// The number that `text` is as a whole, if it lies in `min..=max`.
#[must_use]
pub fn whole(text: &str, min: u64, max: u64) -> Option<u64> {
    match prefix(text)? {
        (n, "") if (min..=max).contains(&n) => Some(n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_bases_and_refuses_signs() {
        assert_eq!(prefix("0x10/0xf"), Some((16, "/0xf")));
        assert_eq!(prefix("010"), Some((8, "")));
        assert_eq!(prefix("08"), Some((0, "8")));
        assert_eq!(prefix("0x"), Some((0, "x")));
        assert_eq!(prefix("-1"), None);
        assert_eq!(prefix(""), None);
        assert_eq!(prefix("99999999999999999999"), None);
        assert_eq!(whole("65536", 0, 65535), None);
    }
}
