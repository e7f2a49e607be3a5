//! The Internet checksum: whole (RFC 1071), over a pseudo-header, and incremental (RFC 1624).

use crate::{Family, be16, be32};

/// One's-complement sum of `data` as big-endian 16-bit words, to be added to others and
/// folded.
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u64 {
    u64::from(sum_with(0, data))
}

/// The folded sum of `data` and an already summed part.
///
/// Sums are the same in either byte order but for the order of their own bytes (RFC 1071
/// section 2 B), and in words of any width.
#[inline]
fn sum_with(extra: u64, data: &[u8]) -> u16 {
    let word = |bytes: &[u8; 8]| u128::from(u64::from_le_bytes(*bytes));
    let (pairs, rest) = data.as_chunks::<16>();
    // Twice as wide as their words, sums need no care for what is carried; two of them do not
    // wait for each other.
    let mut sums = [0, u128::from(extra.swap_bytes())];
    for pair in pairs {
        for (sum, bytes) in sums.iter_mut().zip(pair.as_chunks().0) {
            *sum += word(bytes);
        }
    }
    let (words, rest) = rest.as_chunks();
    let end = words.iter().map(word).sum::<u128>() + u128::from(last_word(data, rest));
    let total = end + sums[0] + sums[1];
    fold(with_carry(total as u64, (total >> 64) as u64)).swap_bytes()
}

/// The bytes that fill no word, as the beginning of one; `rest` are the last of `data`.
#[inline]
fn last_word(data: &[u8], rest: &[u8]) -> u64 {
    match (rest.len(), data.last_chunk()) {
        (0, _) => 0,
        // Read at once, with others before them that are pushed out.
        (len, Some(last)) => u64::from_le_bytes(*last) >> (64 - 8 * len),
        (_, None) => rest.iter().rfold(0, |word, b| word << 8 | u64::from(*b)),
    }
}

/// Whether the checksum in an IPv4 header is right.
#[inline]
#[must_use]
pub fn is_right_ipv4(header: &[u8]) -> bool {
    // Most have no options; a length that is known makes a shorter sum.
    match <&[u8; 20]>::try_from(header) {
        Ok(plain) => {
            let words = plain.as_chunks().0.iter();
            fold(words.map(|w| u64::from(u32::from_ne_bytes(*w))).sum()) == 0xffff
        }
        Err(_) => is_right(0, header),
    }
}

/// One's-complement sum of two words.
#[inline]
fn with_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u64::from(carry)
}

/// Folds an unfolded sum into 16 bits (not complemented).
#[inline]
#[must_use]
pub fn fold(total: u64) -> u16 {
    let (low, carry) = (total as u32).overflowing_add((total >> 32) as u32);
    let total = low + u32::from(carry);
    // Both halves in the upper one, with what the lower one carries.
    (total.wrapping_add(total.rotate_left(16)) >> 16) as u16
}

/// Sum of the pseudo-header of a transport packet (RFC 9293 3.1, RFC 8200 8.1).
///
/// `src` and `dst` hold IPv4 addresses in the low 32 bits; `len` is the transport
/// length in bytes.
#[inline]
#[must_use]
pub fn pseudo(family: Family, src: u128, dst: u128, proto: u8, len: u32) -> u64 {
    let addresses = match family {
        Family::V4 => (src as u32 as u64) + (dst as u32 as u64),
        Family::V6 => sum(&src.to_be_bytes()) + sum(&dst.to_be_bytes()),
    };
    addresses + u64::from(proto) + u64::from(len)
}

/// The checksum field value for `data` plus an already summed part (`pseudo`).
#[must_use]
pub fn finish(extra: u64, data: &[u8]) -> u16 {
    !sum_with(extra, data)
}

/// Whether the checksum in `data`, which covers an already summed part (`pseudo`) too, is
/// right.
#[inline]
#[must_use]
pub fn is_right(extra: u64, data: &[u8]) -> bool {
    sum_with(extra, data) == 0xffff
}

/// Updates checksum `old` for a 16-bit word that changed (RFC 1624 equation 3).
#[inline]
#[must_use]
pub fn update16(old: u16, from: u16, to: u16) -> u16 {
    !fold(u64::from(!old) + u64::from(!from) + u64::from(to))
}

/// Updates checksum `old` for any aligned value that changed, given as big-endian
/// bytes of equal, even length.
#[inline]
#[must_use]
pub fn update(old: u16, from: &[u8], to: &[u8]) -> u16 {
    let mut total = u64::from(!old);
    let mut f = from.chunks_exact(2);
    let mut t = to.chunks_exact(2);
    for (a, b) in (&mut f).zip(&mut t) {
        total += u64::from(!u16::from_be_bytes([a[0], a[1]]));
        total += u64::from(u16::from_be_bytes([b[0], b[1]]));
    }
    !fold(total)
}

/// Rewrites the IPv4 header checksum of `packet` from scratch.
pub fn fix_ipv4(packet: &mut [u8]) {
    let ihl = packet.first().map_or(0, |b| usize::from(b & 0x0f) * 4);
    if ihl < 20 || packet.len() < ihl {
        return;
    }
    packet[10..12].fill(0);
    let c = finish(0, &packet[..ihl]);
    packet[10..12].copy_from_slice(&c.to_be_bytes());
}

/// Writes the 16-bit word at `off` of an IPv4 header and repairs its checksum.
pub fn replace_ipv4_word(packet: &mut [u8], off: usize, new: u16) {
    let (Some(old), Some(check)) = (be16(packet, off), be16(packet, 10)) else {
        return;
    };
    packet[off..off + 2].copy_from_slice(&new.to_be_bytes());
    let check = update16(check, old, new);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

/// Writes the 32-bit value at `off` of an IPv4 header and repairs its checksum.
pub fn replace_ipv4_addr(packet: &mut [u8], off: usize, new: u32) {
    let (Some(old), Some(check)) = (be32(packet, off), be16(packet, 10)) else {
        return;
    };
    packet[off..off + 4].copy_from_slice(&new.to_be_bytes());
    let check = update(check, &old.to_be_bytes(), &new.to_be_bytes());
    packet[10..12].copy_from_slice(&check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 1071 section 3: the example bytes sum to 0xddf2.
    #[test]
    fn rfc1071_example() {
        assert_eq!(
            fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])),
            0xddf2
        );
    }

    // RFC 1624 section 4: header checksum 0xDD2F, field 0x5555 -> 0x3285 gives 0x0000.
    #[test]
    fn rfc1624_example() {
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    /// Any length and content, against the definition: 16-bit words added one by one.
    #[test]
    fn the_sum_is_that_of_16_bit_words() {
        let mut data = [0u8; 300];
        let mut state = 1u32;
        for len in 0..data.len() {
            for byte in &mut data[..len] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
            let words = data[..len].chunks(2).map(|w| match *w {
                [high, low] => u32::from(u16::from_be_bytes([high, low])),
                [high] => u32::from(high) << 8,
                _ => 0,
            });
            let plain = words.fold(0, |total, w| {
                let total: u32 = total + w;
                (total & 0xffff) + (total >> 16)
            });
            assert_eq!(u32::from(fold(sum(&data[..len]))), plain, "{len} bytes");
            for extra in [0, 1, 0xffff, 0x1234_5678_9abc, u64::MAX] {
                let check = finish(extra, &data[..len]);
                let all = fold(u64::from(fold(extra)) + u64::from(plain));
                assert_eq!(check, !all, "{len} bytes and {extra:#x}");
                assert_eq!(is_right(extra, &data[..len]), all == 0xffff);
                let whole = [&check.to_be_bytes(), &data[..len]].concat();
                assert!(is_right(extra, &whole), "{len} bytes and {extra:#x}");
            }
        }
        assert_eq!(sum(&[0; 7]), 0);
        assert_eq!(fold(sum(&[0xff; 8])), 0xffff);
    }

    /// A sum of any size, against folding until it fits.
    #[test]
    fn every_sum_folds_into_16_bits() {
        let edges = [
            0,
            1,
            0xffff,
            0x1_0000,
            0x1_fffe,
            u64::from(u32::MAX),
            u64::MAX,
        ];
        let near = edges
            .iter()
            .flat_map(|e| [e.wrapping_sub(1), *e, e.wrapping_add(1)]);
        let halves = (0..=0xffff).map(|low: u64| low << 16 | (0xffff - low) & 0xfffe);
        for total in near.chain((0..64).map(|bit| 1 << bit)).chain(halves) {
            let mut plain = total;
            while plain > 0xffff {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            assert_eq!(u64::from(fold(total)), plain, "{total:#x}");
        }
    }

    #[test]
    fn odd_length_is_padded_with_zero() {
        assert_eq!(fold(sum(&[0xab])), 0xab00);
        assert_eq!(fold(sum(&[1, 2, 3])), 0x0402);
    }
}
