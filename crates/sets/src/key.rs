//! What a member is found under.

use std::iter;

use tidegate_wire::Family;

/// A member without what belongs to it; parts that its type does not have are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// First and second address; those of a network without host bits.
    pub addrs: [u128; 2],
    /// Their prefix lengths; the family's width where the part is an address.
    pub lengths: [u8; 2],
    /// Protocol of the port.
    pub proto: u8,
    /// Port, or ICMP type and code.
    pub port: u16,
    /// MAC address, mark, or interface name as 16 bytes, NUL padded.
    pub other: u128,
    /// The interface is a port of a bridge (`physdev:`).
    pub physdev: bool,
    /// The name is how interface names begin (`wildcard`).
    pub wildcard: bool,
}

/// Bits of an address.
pub(crate) const fn width(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The bits of a prefix of `length`.
pub(crate) const fn mask(family: Family, length: u8) -> u128 {
    let width = width(family);
    let all = match family {
        Family::V4 => 0xffff_ffff,
        Family::V6 => u128::MAX,
    };
    match length {
        0 => 0,
        _ if length >= width => all,
        _ => all << (width - length) & all,
    }
}

/// Keys of wildcard members whose interface name the key's begins with.
pub(crate) fn wildcards(key: Key) -> impl Iterator<Item = Key> {
    (0..=15u32).rev().map(move |letters| {
        let mut key = key;
        key.other &= u128::MAX.checked_shl(128 - 8 * letters).unwrap_or(0);
        key.wildcard = true;
        key
    })
}

/// The fewest networks that make up the addresses from `first` to `last`
/// (`ip_set_range_to_cidr`): address and prefix length.
pub fn keys_of_range(family: Family, first: u128, last: u128) -> impl Iterator<Item = (u128, u8)> {
    let width = u32::from(width(family));
    let mut next = (first <= last).then_some(first);
    iter::from_fn(move || {
        let at = next?;
        let fit = |bits: &u32| {
            let size = 1u128.checked_shl(*bits).unwrap_or(0).wrapping_sub(1);
            at & size == 0 && at.checked_add(size).is_some_and(|end| end <= last)
        };
        let bits = (0..=width).rev().find(fit).unwrap_or(0);
        let size = 1u128.checked_shl(bits).unwrap_or(0).wrapping_sub(1);
        let end = at.saturating_add(size);
        next = (end < last).then(|| end + 1);
        Some((at, (width - bits) as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_into_networks() {
        let nets: Vec<_> = keys_of_range(Family::V4, 0x0a01_0000, 0x0a01_000a).collect();
        assert_eq!(
            nets,
            [(0x0a01_0000, 29), (0x0a01_0008, 31), (0x0a01_000a, 32)]
        );
        let all: Vec<_> = keys_of_range(Family::V4, 0, 0xffff_ffff).collect();
        assert_eq!(all, [(0, 0)]);
        assert_eq!(keys_of_range(Family::V6, 0, u128::MAX).next(), Some((0, 0)));
        assert_eq!(keys_of_range(Family::V4, 5, 4).count(), 0);
    }
}
