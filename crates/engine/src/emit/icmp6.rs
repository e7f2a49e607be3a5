//! ICMPv6 errors (RFC 4443 2.4, `icmp6_send`).

use tidegate_wire::{Family, checksum, proto};

use super::{IcmpError, ipv6_packet};
use crate::env::{Env, RouteType, is_multicast};
use crate::packet::Packet;

/// At most the IPv6 minimum MTU in all.
const QUOTE: usize = 1280 - 40 - 8;

pub(super) fn error(packet: &Packet, env: &Env, error: IcmpError) -> Option<Vec<u8>> {
    if !may_answer(packet, answers_groups(packet, error)) {
        return None;
    }
    let (kind, code, word) = match error {
        IcmpError::Unreachable(code) => (1u8, code, 0),
        IcmpError::TimeExceeded => (3, 0, 0),
        IcmpError::ParameterProblem(code, at) => (4, code, at),
        IcmpError::TooBig(mtu) => (2, 0, mtu),
    };
    let quoted = &packet.bytes[..packet.bytes.len().min(QUOTE)];
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend_from_slice(&word.to_be_bytes());
    icmp.extend_from_slice(quoted);
    let to = packet.src();
    let from = source(packet, env)?;
    let extra = checksum::pseudo(Family::V6, from, to, proto::ICMPV6, icmp.len() as u32);
    let sum = checksum::finish(extra, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(ipv6_packet(
        from,
        to,
        proto::ICMPV6,
        env.settings.default_ttl,
        0,
        &icmp,
    ))
}

/// The address the packet was for, when it was for this host; else what the interface
/// it came in by would use to answer.
fn source(packet: &Packet, env: &Env) -> Option<u128> {
    let family = Family::V6;
    if env.is_local(family, packet.dst()) {
        return Some(packet.dst());
    }
    let back = env.route(family, packet.src(), 0, 0)?;
    if back.kind == RouteType::Local {
        return Some(packet.src());
    }
    back.src.or_else(|| {
        let dev = packet.in_dev.or(back.dev)?;
        env.select_address(family, dev, packet.src())
    })
}

/// Whether the error is sent about packets to a group too: too big, and options whose
/// type asks for it (RFC 4443 2.4 e.3, `opt_unrec`).
fn answers_groups(packet: &Packet, error: IcmpError) -> bool {
    match error {
        IcmpError::TooBig(_) => true,
        IcmpError::ParameterProblem(2, at) => packet
            .bytes
            .get(at as usize)
            .is_some_and(|kind| kind >> 6 == 2),
        _ => false,
    }
}

fn may_answer(packet: &Packet, groups_too: bool) -> bool {
    let src = packet.src();
    let to_one = packet.to_host && !is_multicast(Family::V6, packet.dst());
    (to_one || groups_too) && src != 0 && !is_multicast(Family::V6, src) && !is_error(packet)
}

/// Whether the packet is an ICMPv6 error itself, or one too short to tell
/// (`is_ineligible`).
fn is_error(packet: &Packet) -> bool {
    packet.layout.proto == proto::ICMPV6
        && packet.layout.frag_off == 0
        && packet.l4().first().is_none_or(|kind| kind & 0x80 == 0)
}
