//! What targets write into a packet's headers beyond single fields.

use tidegate_conntrack::{Conntrack, Dir};
use tidegate_ir::{HashMark, Manip, NptSpec, TcpEcn, TcpOptions};
use tidegate_wire::jhash::jhash;
use tidegate_wire::{Family, Layout, be16, be32, checksum, parse, parse_embedded, proto, put, tcp};

use crate::env;
use crate::packet::Packet;

/// The packet is to be dropped.
pub(crate) struct Drop;

/// Overwrites options with no-operations (`tcpoptstrip_mangle_packet`).
pub(crate) fn strip_options(packet: &mut Packet, kinds: &TcpOptions) -> Result<(), Drop> {
    if packet.layout.frag_off != 0 {
        return Ok(());
    }
    let at = usize::from(packet.layout.l4);
    let l4 = packet.bytes.get_mut(at..).unwrap_or_default();
    if packet.layout.broken_chain || l4.len() < 20 {
        return Err(Drop);
    }
    let header = usize::from(l4[12] >> 4) * 4;
    let Some(bytes) = l4.get_mut(..header).filter(|h| h.len() >= 20) else {
        return Err(Drop);
    };
    let mut before = [0; 60];
    before[..header].copy_from_slice(bytes);
    let mut i = 20;
    while i + 1 < bytes.len() {
        let len = match bytes[i] {
            tcp::option::EOL | tcp::option::NOP => 1,
            _ => usize::from(bytes[i + 1]).max(1),
        };
        let Some(option) = bytes.get_mut(i..i + len) else {
            break;
        };
        if kinds.has(option[0]) {
            option.fill(tcp::option::NOP);
        }
        i += len;
    }
    repair_tcp(bytes, &before[..header]);
    Ok(())
}

/// Takes the change of a TCP header from `before` into its checksum.
fn repair_tcp(header: &mut [u8], before: &[u8]) {
    if header != before
        && let Some(check) = be16(header, 16)
    {
        let check = checksum::update(check, before, header);
        put(header, 16, &check.to_be_bytes());
    }
}

/// Sets congestion bits (`set_ect_tcp`). Later fragments are written to as well.
pub(crate) fn set_tcp_ecn(packet: &mut Packet, bits: TcpEcn) -> Result<(), Drop> {
    if packet.layout.proto != proto::TCP {
        return Ok(());
    }
    let at = usize::from(packet.layout.l4);
    let header = packet.bytes.get_mut(at..);
    let Some(header) = header.and_then(|b| b.first_chunk_mut::<20>()) else {
        return Err(Drop);
    };
    let before = *header;
    for (bit, wanted) in [(0x40, bits.ece), (0x80, bits.cwr)] {
        match wanted {
            Some(true) => header[13] |= bit,
            Some(false) => header[13] &= !bit,
            None => {}
        }
    }
    repair_tcp(header, &before);
    Ok(())
}

/// Addresses and ports as HMARK sees them (`struct hmark_tuple`).
#[derive(Default)]
struct Tuple {
    src: u32,
    dst: u32,
    ports: u32,
    proto: u8,
}

/// The mark for the packet; `None` when it has no connection and needs one.
pub(crate) fn hash_mark(packet: &Packet, spec: &HashMark, conntrack: &Conntrack) -> Option<u32> {
    let tuple = if spec.of_connection {
        connection_tuple(packet, spec, conntrack)?
    } else {
        packet_tuple(packet, spec)?
    };
    let (low, high) = (tuple.src.min(tuple.dst), tuple.src.max(tuple.dst));
    let hash = jhash(&[low, high, tuple.ports], spec.seed);
    let hash = hash ^ (u32::from(tuple.proto) & u32::from(spec.proto_mask));
    let scaled = (u64::from(hash) * u64::from(spec.modulus)) >> 32;
    Some((scaled as u32).wrapping_add(spec.offset))
}

/// 32 bits of an address: those of an IPv6 address are its words, one over the other.
pub(crate) fn address(addr: u128, mask: u128) -> u32 {
    let addr = addr & mask;
    (addr >> 96) as u32 ^ (addr >> 64) as u32 ^ (addr >> 32) as u32 ^ addr as u32
}

/// Masked ports, the greater one first (`hmark_swap_ports`).
fn ports(word: u32, spec: &HashMark) -> u32 {
    let word = word & spec.port_mask | spec.port_set;
    let (src, dst) = (word >> 16, word & 0xffff);
    src.max(dst) << 16 | src.min(dst)
}

fn connection_tuple(packet: &Packet, spec: &HashMark, conntrack: &Conntrack) -> Option<Tuple> {
    let entry = conntrack.entry(packet.tracking.connection()?.id)?;
    let (orig, reply) = (entry.tuple(Dir::Original), entry.tuple(Dir::Reply));
    let word = u32::from(orig.src_id) << 16 | u32::from(reply.src_id);
    Some(Tuple {
        src: address(orig.src, spec.src_mask),
        dst: address(reply.src, spec.dst_mask),
        proto: orig.proto,
        ports: match orig.proto {
            proto::ICMP => 0,
            _ => ports(word, spec),
        },
    })
}

/// The packet's own, or those of the packet that an ICMP error is about.
fn packet_tuple(packet: &Packet, spec: &HashMark) -> Option<Tuple> {
    let outer = &packet.bytes[..];
    let layout = &packet.layout;
    if layout.broken_chain {
        return Some(Tuple::default());
    }
    let (bytes, layout) = match icmp_quote(packet) {
        Some(bytes) => (bytes, &parse_embedded(layout.family, bytes)?),
        None => (outer, layout),
    };
    if layout.broken_chain {
        return None;
    }
    let mut tuple = Tuple {
        src: address(layout.src(bytes), spec.src_mask),
        dst: address(layout.dst(bytes), spec.dst_mask),
        proto: layout.proto,
        ports: 0,
    };
    let icmp = match layout.family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    };
    if layout.proto != icmp && !layout.is_fragment() {
        tuple.ports = port_word(layout, bytes).map_or(0, |word| ports(word, spec));
    }
    Some(tuple)
}

/// What an ICMP error quotes (`get_inner_hdr`, `get_inner6_hdr`).
fn icmp_quote(packet: &Packet) -> Option<&[u8]> {
    let layout = &packet.layout;
    let l4 = layout.l4(&packet.bytes);
    let quote = l4.get(8..)?;
    let kind = l4[0];
    let error = match (layout.family, layout.proto) {
        (Family::V4, proto::ICMP) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (Family::V6, proto::ICMPV6) => (1..128).contains(&kind),
        _ => false,
    };
    if !error || layout.is_fragment() {
        return None;
    }
    Some(quote)
}

/// The four bytes of ports or of a security index (`proto_ports_offset`).
fn port_word(layout: &Layout, bytes: &[u8]) -> Option<u32> {
    let at = match layout.proto {
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP | proto::ESP => 0,
        proto::AH => 4,
        _ => return None,
    };
    be32(bytes, usize::from(layout.l4) + at)
}

/// Gives an address another prefix (`ip6t_snpt_tg`, `ip6t_dnpt_tg`). An ICMP error about a
/// packet with the address before has that one's address rewritten. `Err` when the
/// address has no word to take up the difference.
pub(crate) fn translate_prefix(packet: &mut Packet, spec: &NptSpec) -> Result<(), Drop> {
    let (own, inner) = match spec.manip {
        Manip::Src => (8, 24),
        Manip::Dst => (24, 8),
    };
    if !map_prefix(&mut packet.bytes, own, spec) {
        return Err(Drop);
    }
    let error = packet.bytes.get(6) == Some(&proto::ICMPV6)
        && packet.bytes.get(40).is_some_and(|&kind| kind < 128);
    let at = 40 + 8 + inner;
    if error && packet.bytes.len() >= 40 + 8 + 40 {
        let quoted = tidegate_wire::be128(&packet.bytes, at).unwrap_or(0);
        if quoted & env::mask(Family::V6, spec.from.1) == spec.from.0 {
            map_prefix(&mut packet.bytes, at, spec);
        }
    }
    if let Ok(layout) = parse(&packet.bytes) {
        packet.layout = layout;
    }
    Ok(())
}

/// `ip6t_npt_map_pfx`.
fn map_prefix(bytes: &mut [u8], at: usize, spec: &NptSpec) -> bool {
    let Some(addr) = bytes.get_mut(at..at + 16) else {
        return false;
    };
    let old = u128::from_be_bytes(<[u8; 16]>::try_from(&addr[..]).unwrap_or_default());
    let len = spec.from.1.max(spec.to.1);
    let mask = env::mask(Family::V6, len);
    let new = (old & !mask) | (spec.to.0 & mask);
    let mut words: [u16; 8] = std::array::from_fn(|i| (new >> (112 - 16 * i)) as u16);
    let at = if len <= 48 {
        Some(3)
    } else {
        (4..8).find(|&i| words[i] != 0xffff)
    };
    if let Some(at) = at {
        let sum = |prefix: u128| checksum::fold(checksum::sum(&prefix.to_be_bytes()));
        let difference = u64::from(sum(spec.from.0)) + u64::from(!sum(spec.to.0));
        let word = checksum::fold(u64::from(words[at]) + difference);
        words[at] = if word == 0xffff { 0 } else { word };
    }
    for (to, word) in addr.chunks_exact_mut(2).zip(words) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    at.is_some()
}
