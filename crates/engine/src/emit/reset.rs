//! TCP resets for REJECT (`nf_send_reset`, `nf_send_reset6`; RFC 9293 3.10.7.1).

use tidegate_wire::{Family, checksum, proto, tcp::Tcp, tcp::flags};

use super::{ipv4_packet, ipv6_packet, transport_checksum_ok};
use crate::env::{Env, RouteType, is_multicast};
use crate::packet::Packet;

/// The reset that answers `packet`, or `None` when none may be sent.
pub(crate) fn reset(packet: &Packet, env: &Env) -> Option<Vec<u8>> {
    let family = packet.family();
    if packet.layout.proto != proto::TCP
        || packet.layout.frag_off != 0
        || !transport_checksum_ok(packet)
    {
        return None;
    }
    let l4 = packet.l4();
    let tcp = Tcp::new(l4).filter(|t| t.flags() & flags::RST == 0)?;
    let many = |addr| match family {
        Family::V4 => matches!(
            env.address_type(family, addr, None),
            RouteType::Broadcast | RouteType::Multicast
        ),
        Family::V6 => is_multicast(family, addr),
    };
    let no_way_back = packet.src() == 0xffff_ffff && family == Family::V4;
    let not_for_one =
        many(packet.dst()) || no_way_back || family == Family::V6 && many(packet.src());
    if not_for_one {
        return None;
    }
    let mut header = [0u8; 20];
    header[..2].copy_from_slice(&tcp.dport().to_be_bytes());
    header[2..4].copy_from_slice(&tcp.sport().to_be_bytes());
    header[12] = 5 << 4;
    if tcp.flags() & flags::ACK != 0 {
        header[4..8].copy_from_slice(&tcp.ack().to_be_bytes());
        header[13] = flags::RST;
    } else {
        let syn_fin =
            u32::from(tcp.flags() & flags::SYN != 0) + u32::from(tcp.flags() & flags::FIN != 0);
        let ack = tcp
            .seq()
            .wrapping_add(syn_fin)
            .wrapping_add(tcp.payload().len() as u32);
        header[8..12].copy_from_slice(&ack.to_be_bytes());
        header[13] = flags::RST | flags::ACK;
    }
    let (from, to) = (packet.dst(), packet.src());
    let sum = checksum::finish(checksum::pseudo(family, from, to, proto::TCP, 20), &header);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    let ttl = env.settings.default_ttl;
    Some(match family {
        Family::V4 => ipv4_packet(from as u32, to as u32, proto::TCP, ttl, 0, 0x4000, &header),
        Family::V6 => ipv6_packet(from, to, proto::TCP, ttl, 0, &header),
    })
}
