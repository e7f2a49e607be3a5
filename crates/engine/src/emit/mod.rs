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

/// A locally sent packet may still await its checksum from the network card: then the
/// field holds the sum of the pseudo-header (`CHECKSUM_PARTIAL`).
pub(crate) fn transport_checksum_ok(packet: &Packet) -> bool {
    let l4 = packet.l4();
    let (family, protocol) = (packet.family(), packet.layout.proto);
    let field_at = match protocol {
        proto::TCP => 16,
        proto::UDP => 6,
        p if p == icmp_of(family) => 2,
        _ => return true,
    };
    let Some(field) = be16(l4, field_at) else {
        return false;
    };
    if protocol == proto::UDP && field == 0 {
        return family == Family::V4;
    }
    let extra = match protocol {
        proto::ICMP => 0,
        _ => checksum::pseudo(
            family,
            packet.src(),
            packet.dst(),
            protocol,
            l4.len() as u32,
        ),
    };
    let partial = packet.in_dev.is_none() && field == checksum::fold(extra);
    partial || checksum::fold(extra + checksum::sum(l4)) == 0xffff
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
