//! ICMP errors (RFC 792, RFC 1122 3.2.2, `__icmp_send`).

use tidegate_wire::{Family, checksum, proto, put};

use super::{IcmpError, ipv4_packet};
use crate::env::{Env, RouteType, is_multicast};
use crate::options4;
use crate::packet::Packet;

/// At most 576 bytes in all, so 548 bytes of the packet it is about.
const QUOTE: usize = 576 - 20 - 8;

pub(super) fn error(packet: &Packet, env: &Env, error: IcmpError) -> Option<Vec<u8>> {
    if !may_answer(packet, env) {
        return None;
    }
    let (kind, code, word) = match error {
        IcmpError::Unreachable(code) => (3, code, 0),
        IcmpError::TimeExceeded => (11, 0, 0),
        IcmpError::ParameterProblem(code, at) => (12, code, at << 24),
        IcmpError::TooBig(mtu) => (3, 4, mtu.min(0xffff)),
    };
    let from = source(packet, env)?;
    let options = options4::echo(packet, env, from as u32)?;
    let room = QUOTE.saturating_sub(options.len());
    let quoted = &packet.bytes[..packet.bytes.len().min(room)];
    let mut icmp = vec![kind, code, 0, 0];
    icmp.extend_from_slice(&word.to_be_bytes());
    icmp.extend_from_slice(quoted);
    let sum = checksum::finish(0, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let to = packet.src();
    let tos = (packet.tos() & 0x1e) | 0xc0;
    let ttl = env.settings.default_ttl;
    let (from, to) = (from as u32, to as u32);
    let mut bytes = ipv4_packet(from, to, proto::ICMP, ttl, tos, 0, &icmp);
    insert_options(&mut bytes, &options);
    Some(bytes)
}

/// Puts options, in whole words, behind a bare header.
fn insert_options(bytes: &mut Vec<u8>, options: &[u8]) {
    if options.is_empty() {
        return;
    }
    bytes.splice(20..20, options.iter().copied());
    bytes[0] = 0x40 | (5 + options.len() / 4) as u8;
    let total = bytes.len() as u16;
    put(bytes, 2, &total.to_be_bytes());
    checksum::fix_ipv4(bytes);
}

/// This host's address as the sender knows it, when the packet was for this host;
/// otherwise the address of the interface that leads back to the sender.
fn source(packet: &Packet, env: &Env) -> Option<u128> {
    let family = Family::V4;
    if env.is_local(family, packet.dst()) {
        return Some(packet.dst());
    }
    if env.settings.icmp_errors_use_inbound_ifaddr
        && let Some(dev) = packet.in_dev
    {
        return env.select_address(family, dev, packet.src());
    }
    let back = env.route(family, packet.src(), 0, 0)?;
    match back.kind {
        RouteType::Local => Some(packet.src()),
        _ => back
            .src
            .or_else(|| env.select_address(family, back.dev?, back.via.unwrap_or(packet.src()))),
    }
}

fn may_answer(packet: &Packet, env: &Env) -> bool {
    let dst_kind = env.address_type(Family::V4, packet.dst(), None);
    let src = packet.src();
    packet.to_host
        && packet.layout.frag_off == 0
        && !matches!(dst_kind, RouteType::Broadcast | RouteType::Multicast)
        && src >> 24 != 0
        && src != 0xffff_ffff
        && !is_multicast(Family::V4, src)
        && !is_icmp_error(packet)
}

/// ICMP errors and unknown types are never answered with errors.
fn is_icmp_error(packet: &Packet) -> bool {
    if packet.layout.proto != proto::ICMP {
        return false;
    }
    match packet.l4().first() {
        None => false,
        Some(0 | 8 | 9 | 10 | 13..=18) => false,
        Some(_) => true,
    }
}
