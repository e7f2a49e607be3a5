//! What conditions ask about IPv6 extension headers.

use tidegate_ir::exthdr;
use tidegate_wire::ext6::{Found, find, is_extension, size};
use tidegate_wire::proto;

use crate::facts::number;

/// Whether there is a header of that number, as [`tidegate_ir::Field::HasExt`] says it.
pub(crate) fn has(packet: &[u8], header: u8) -> u128 {
    match find(packet, header) {
        Found::No => 0,
        Found::At(_) => 1,
        Found::Cut => 2,
    }
}

/// Bytes of the first header of that number.
pub(crate) fn bytes(packet: &[u8], header: u8, at: u8, len: u8) -> Option<u128> {
    let Found::At(start) = find(packet, header) else {
        return None;
    };
    let first = start + usize::from(at);
    number(packet.get(first..first + usize::from(len))?)
}

/// The kinds of headers a packet has (`ipv6header_mt6`).
pub(crate) fn kinds(packet: &[u8]) -> Option<u128> {
    let (mut next, mut at, mut bits) = (*packet.get(6)?, 40, 0);
    while is_extension(next) || next == proto::ESP {
        if next == proto::NONE {
            bits |= exthdr::NONE;
            break;
        }
        let &[following, length] = packet.get(at..at + 2)? else {
            return None;
        };
        bits |= match next {
            proto::HOPOPTS => exthdr::HOP,
            proto::ROUTING => exthdr::ROUTE,
            proto::FRAGMENT => exthdr::FRAG,
            proto::AH => exthdr::AUTH,
            proto::DSTOPTS => exthdr::DST,
            _ => exthdr::ESP,
        };
        if next == proto::ESP {
            break;
        }
        at += size(next, length);
        next = following;
        if at > packet.len() {
            break;
        }
    }
    if next != proto::NONE && next != proto::ESP {
        bits |= exthdr::PROTO;
    }
    Some(u128::from(bits))
}
