//! Looking for IPv6 extension headers (RFC 8200 section 4), as `ipv6_find_hdr` does.

use crate::{be16, proto};

/// Where a header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nowhere.
    No,
    /// At this offset.
    At(usize),
    /// The chain of headers is cut short before it.
    Cut,
}

/// Whether the number is that of an extension header, or of none at all.
#[must_use]
pub const fn is_extension(header: u8) -> bool {
    matches!(
        header,
        proto::HOPOPTS
            | proto::ROUTING
            | proto::FRAGMENT
            | proto::AH
            | proto::NONE
            | proto::DSTOPTS
    )
}

/// Bytes of a header whose length field holds `length`.
#[must_use]
pub const fn size(header: u8, length: u8) -> usize {
    match header {
        proto::FRAGMENT => 8,
        proto::AH => (length as usize + 2) * 4,
        _ => (length as usize + 1) * 8,
    }
}

/// The first header of that number. Behind the header of a later fragment there is
/// nothing to find.
#[must_use]
pub fn find(packet: &[u8], wanted: u8) -> Found {
    let Some(&[next, _]) = packet.get(6..8) else {
        return Found::Cut;
    };
    let (mut next, mut at) = (next, 40);
    loop {
        if next == wanted {
            return if is_extension(next) && packet.get(at + 1).is_none() {
                Found::Cut
            } else {
                Found::At(at)
            };
        }
        if !is_extension(next) || next == proto::NONE {
            return Found::No;
        }
        let Some(&[following, length]) = packet.get(at..at + 2) else {
            return Found::Cut;
        };
        if next == proto::FRAGMENT {
            match be16(packet, at + 2) {
                None => return Found::Cut,
                Some(offset) if offset & !7 != 0 => return Found::No,
                Some(_) => {}
            }
        }
        at += size(next, length);
        next = following;
    }
}

/// The bytes of the first header of that number, if the packet has it whole.
#[must_use]
pub fn whole(packet: &[u8], header: u8) -> Option<&[u8]> {
    let Found::At(start) = find(packet, header) else {
        return None;
    };
    packet.get(start..start + size(header, *packet.get(start + 1)?))
}
