//! Packets the firewall makes itself: ICMP errors and TCP resets.

mod icmp4;
mod icmp6;
mod reset;
mod segment;

use tidegate_wire::{Family, be16, checksum, proto};

use crate::env::Env;
use crate::facts::icmp_of;
use crate::packet::Packet;

pub(crate) use reset::reset;
pub(crate) use segment::Segment;

/// An ICMP error to send, in terms both families share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum IcmpError {
    /// Destination unreachable with this code.
    Unreachable(u8),
    /// TTL or hop limit ran out in transit.
    TimeExceeded,
    /// A header field makes no sense: code and the offset of the field.
    ParameterProblem(u8, u32),
    /// Needs fragmentation (IPv4) or is too big (IPv6) for this MTU.
    TooBig(u32),
}

/// The error packet about `packet`, or `None` when none may be sent (`icmp_send`,
/// `icmp6_send`).
pub(crate) fn icmp_error(packet: &Packet, env: &Env, error: IcmpError) -> Option<Vec<u8>> {
    match packet.family() {
        Family::V4 => icmp4::error(packet, env, error),
        Family::V6 => icmp6::error(packet, env, error),
    }
}

/// Whether REJECT answers this packet with ICMP: not later fragments, and not when
/// the transport checksum is wrong (`nf_send_unreach`).
pub(crate) fn rejectable(packet: &Packet) -> bool {
    packet.layout.frag_off == 0 && transport_checksum_ok(packet)
}

/// Whether the 16 bits that make a packet's sum come out are right. The kernel asks this of
/// every protocol but those of which it knows that they have no such checksum over all of their bytes, or
/// that it is left out (`nf_reject_verify_csum`): ports do not matter, it may be one without a name.
///
/// A locally sent packet may still await its checksum from the network card: then the
/// field holds the sum of the pseudo-header (`CHECKSUM_PARTIAL`).
pub(crate) fn transport_checksum_ok(packet: &Packet) -> bool {
    let l4 = packet.l4();
    let (family, protocol) = (packet.family(), packet.layout.proto);
    let nothing = l4.is_empty() || protocol == proto::NONE || !packet.layout.has_l4();
    if nothing && (family == Family::V6 || protocol == proto::ICMP) {
        return false;
    }
    let field_at = match protocol {
        proto::TCP => Some(16),
        proto::UDP => Some(6),
        proto::GRE | proto::ESP | proto::AH | proto::SCTP | proto::UDPLITE => return true,
        p if p == icmp_of(family) => Some(2),
        _ => None,
    };
    let field = field_at.and_then(|at| be16(l4, at));
    if protocol == proto::UDP && field == Some(0) {
        return true;
    }
    let extra = match (family, protocol) {
        (Family::V6, _) | (_, proto::TCP | proto::UDP) => checksum::pseudo(
            family,
            packet.src(),
            packet.dst(),
            protocol,
            l4.len() as u32,
        ),
        // The kernel sums the header, too, which comes to this.
        (Family::V4, _) => 0xffff,
    };
    let partial = packet.in_dev.is_none() && field == Some(checksum::fold(extra));
    partial || checksum::is_right(extra, l4)
}

/// What an IP header says beside addresses and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Transport protocol.
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS byte or traffic class.
    pub tos: u8,
}

/// A packet of `family` from and to `ends` without options or extension headers; an IPv4
/// packet must not be fragmented. `payload` is shorter than 65,516 bytes.
#[must_use]
pub fn ip_packet(family: Family, ends: (u128, u128), header: IpHeader, payload: &[u8]) -> Vec<u8> {
    const DONT_FRAGMENT: u16 = 0x4000;
    let (src, dst) = ends;
    let IpHeader { proto, ttl, tos } = header;
    match family {
        Family::V4 => {
            let (src, dst) = (src as u32, dst as u32);
            ipv4_packet(src, dst, proto, ttl, tos, DONT_FRAGMENT, payload)
        }
        Family::V6 => ipv6_packet(src, dst, proto, ttl, tos, payload),
    }
}

/// A bare IPv4 header for `payload` with valid checksum.
pub(crate) fn ipv4_packet(
    src: u32,
    dst: u32,
    proto: u8,
    ttl: u8,
    tos: u8,
    flags: u16,
    payload: &[u8],
) -> Vec<u8> {
    let total = (20 + payload.len()) as u16;
    let mut p = vec![0x45, tos];
    p.extend_from_slice(&total.to_be_bytes());
    p.extend_from_slice(&[0, 0]);
    p.extend_from_slice(&flags.to_be_bytes());
    p.extend_from_slice(&[ttl, proto, 0, 0]);
    p.extend_from_slice(&src.to_be_bytes());
    p.extend_from_slice(&dst.to_be_bytes());
    p.extend_from_slice(payload);
    checksum::fix_ipv4(&mut p);
    p
}

/// A bare IPv6 header for `payload`.
pub(crate) fn ipv6_packet(
    src: u128,
    dst: u128,
    proto: u8,
    hop_limit: u8,
    tclass: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut p = vec![0x60 | tclass >> 4, tclass << 4, 0, 0];
    p.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    p.extend_from_slice(&[proto, hop_limit]);
    p.extend_from_slice(&src.to_be_bytes());
    p.extend_from_slice(&dst.to_be_bytes());
    p.extend_from_slice(payload);
    p
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: (u128, u128) = (0x0a00_0002, 0x0a00_0102);
    const V6: (u128, u128) = (0xfd << 120 | 2, 0xfd << 120 | 1 << 64 | 2);

    fn answered(family: Family, proto: u8, payload: &[u8]) -> bool {
        let ends = match family {
            Family::V4 => V4,
            Family::V6 => V6,
        };
        let (ttl, tos) = (64, 0);
        let bytes = ip_packet(family, ends, IpHeader { proto, ttl, tos }, payload);
        let mut packet = Packet::new(bytes).unwrap();
        packet.in_dev = Some(crate::env::IfIndex(2));
        rejectable(&packet)
    }

    /// `payload` with the last two bytes such that its sum comes out, with a pseudo-header or without.
    fn summed(payload: &[u8], extra: u64) -> Vec<u8> {
        let (body, _) = payload.split_at(payload.len() - 2);
        let sum = checksum::finish(extra, body);
        [body, &sum.to_be_bytes()].concat()
    }

    /// As Linux 6.18 does with REJECT in FORWARD.
    #[test]
    fn reject_answers_what_has_a_good_checksum_or_none() {
        const RANDOM: &[u8; 8] = b"\x13\xc4\x9a\x01\xfe\x70\x33\x2d";
        let plain = summed(RANDOM, 0);
        for proto in [2, 4, 33, 94, 253] {
            let pseudo = checksum::pseudo(Family::V6, V6.0, V6.1, proto, 8);
            let with_pseudo = summed(RANDOM, pseudo);
            let four = |payload| answered(Family::V4, proto, payload);
            let six = |payload| answered(Family::V6, proto, payload);
            assert!(!four(RANDOM) && !six(RANDOM), "{proto}");
            assert!(four(&plain) && !six(&plain), "{proto}");
            assert!(!four(&with_pseudo) && six(&with_pseudo), "{proto}");
            // The sum of nothing is that of the header.
            assert!(four(&[0; 8]) && !six(&[0; 8]), "{proto}");
            assert!(four(&[]) && !six(&[]), "{proto}");
        }
        for proto in [47, 50, 132, 136] {
            assert!(answered(Family::V4, proto, RANDOM), "{proto}");
            assert!(answered(Family::V6, proto, RANDOM), "{proto}");
            assert!(answered(Family::V4, proto, &[]), "{proto}");
            assert!(!answered(Family::V6, proto, &[]), "{proto}");
        }
        assert!(answered(Family::V4, proto::AH, RANDOM));
        assert!(!answered(Family::V6, proto::NONE, &plain));
        let without = [3, 232, 7, 208, 0, 8, 0, 0];
        for family in [Family::V4, Family::V6] {
            assert!(answered(family, proto::UDP, &without));
            assert!(!answered(family, proto::UDP, &without[..2]));
        }
        assert!(answered(Family::V4, proto::ICMP, &[0; 8]));
        assert!(!answered(Family::V4, proto::ICMP, &[]));
    }
}
