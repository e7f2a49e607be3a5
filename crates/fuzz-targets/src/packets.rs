//! Packets made from fields, and what must hold for packets that come out.

use tidegate_wire::{Family, Layout, checksum, parse, proto};

/// Addresses of one packet; IPv4 in the low 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) family: Family,
    pub(crate) src: u128,
    pub(crate) dst: u128,
}

/// A whole packet around a transport header whose checksum, at offset `check`, is
/// filled in.
pub(crate) fn packet(ends: Ends, protocol: u8, mut l4: Vec<u8>, check: Option<usize>) -> Vec<u8> {
    if let Some(at) = check.filter(|at| at + 2 <= l4.len()) {
        l4[at..at + 2].fill(0);
        let sum = checksum::finish(pseudo(ends, protocol, l4.len()), &l4);
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut bytes = header(ends, protocol, l4.len());
    bytes.extend(l4);
    bytes
}

/// ICMP alone has no pseudo-header.
fn pseudo(ends: Ends, protocol: u8, len: usize) -> u64 {
    match protocol {
        proto::ICMP => 0,
        _ => checksum::pseudo(ends.family, ends.src, ends.dst, protocol, len as u32),
    }
}

fn header(ends: Ends, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes;
    match ends.family {
        Family::V4 => {
            bytes = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
            bytes[2..4].copy_from_slice(&((len + 20) as u16).to_be_bytes());
            bytes.extend((ends.src as u32).to_be_bytes());
            bytes.extend((ends.dst as u32).to_be_bytes());
            checksum::fix_ipv4(&mut bytes);
        }
        Family::V6 => {
            bytes = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            bytes[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            bytes.extend(ends.src.to_be_bytes());
            bytes.extend(ends.dst.to_be_bytes());
        }
    }
    bytes
}

/// What a TCP segment says besides its ports.
#[derive(Clone, Copy, Default)]
pub(crate) struct Segment<'a> {
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// Padded to a multiple of four bytes.
    pub(crate) options: &'a [u8],
    pub(crate) data: &'a [u8],
}

/// A TCP segment without checksum; its place is [`TCP_CHECK`].
pub(crate) fn tcp(s: Segment<'_>) -> Vec<u8> {
    let options = s.options.len().min(40).next_multiple_of(4);
    let mut l4 = [s.ports.0, s.ports.1].map(u16::to_be_bytes).concat();
    l4.extend([s.seq, s.ack].map(u32::to_be_bytes).concat());
    l4.extend([((20 + options) as u8) << 2, s.flags, 0xff, 0xff, 0, 0, 0, 0]);
    l4.extend(&s.options[..s.options.len().min(40)]);
    l4.resize(20 + options, 0);
    l4.extend(s.data);
    l4
}

/// A UDP datagram without checksum; its place is [`UDP_CHECK`].
pub(crate) fn udp(ports: (u16, u16), data: &[u8]) -> Vec<u8> {
    let len = (8 + data.len()) as u16;
    let mut l4 = [ports.0, ports.1, len, 0].map(u16::to_be_bytes).concat();
    l4.extend(data);
    l4
}

/// Offset of the checksum in a TCP header.
pub(crate) const TCP_CHECK: usize = 16;
/// Offset of the checksum in a UDP header.
pub(crate) const UDP_CHECK: usize = 6;
/// Offset of the checksum in an ICMP header.
pub(crate) const ICMP_CHECK: usize = 2;

/// A packet that left: it parses and is as long as it says; IPv4 header checksums are
/// part of parsing.
pub(crate) fn well_formed(bytes: &[u8]) -> Layout {
    let layout = match parse(bytes) {
        Ok(layout) => layout,
        Err(e) => panic!("{e:?}: {bytes:02x?}"),
    };
    assert_eq!(layout.len as usize, bytes.len(), "length");
    layout
}

/// Whether the transport checksum is right; `None` where there is none to verify:
/// fragments, other protocols, UDP over IPv4 without one, lengths that disagree.
pub(crate) fn checksum_holds(bytes: &[u8]) -> Option<bool> {
    let layout = parse(bytes).ok()?;
    if layout.is_fragment() || !layout.has_l4() {
        return None;
    }
    let l4 = bytes.get(usize::from(layout.l4)..layout.len as usize)?;
    let least = match layout.proto {
        proto::TCP => 20,
        proto::UDP => 8,
        proto::ICMP if layout.family == Family::V4 => 8,
        proto::ICMPV6 if layout.family == Family::V6 => 8,
        _ => return None,
    };
    if l4.len() < least {
        return None;
    }
    if layout.proto == proto::UDP {
        let says = usize::from(u16::from_be_bytes([l4[4], l4[5]]));
        if says != l4.len() || l4[6..8] == [0, 0] {
            return None;
        }
    }
    let ends = Ends {
        family: layout.family,
        src: layout.src(bytes),
        dst: layout.dst(bytes),
    };
    let total = pseudo(ends, layout.proto, l4.len()) + checksum::sum(l4);
    Some(checksum::fold(total) == 0xffff)
}
