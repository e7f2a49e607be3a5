//! TCP packets that try what rules would do.

use std::net::SocketAddr;

use tidegate_engine::conntrack::Tuple;
use tidegate_engine::{IpHeader, ip_packet};
use tidegate_host::number;
use tidegate_wire::{Family, checksum, parse, proto, tcp::flags};

/// Flags of a packet in the middle of a connection.
pub(super) const DATA: u8 = flags::PSH | flags::ACK;

/// A TCP packet's way and what its header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Sender and receiver.
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) flags: u8,
    pub(super) seq: u32,
    pub(super) ack: u32,
}

impl Segment {
    /// The packet, with right lengths and checksums.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (family, src) = number(self.from.ip());
        let (_, dst) = number(self.to.ip());
        let l4 = self.tcp(family, src, dst);
        ip_packet(family, (src, dst), header(proto::TCP), &l4)
    }

    fn tcp(&self, family: Family, src: u128, dst: u128) -> Vec<u8> {
        let mut l4 = vec![0; 20];
        l4[..2].copy_from_slice(&self.from.port().to_be_bytes());
        l4[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        l4[4..8].copy_from_slice(&self.seq.to_be_bytes());
        l4[8..12].copy_from_slice(&self.ack.to_be_bytes());
        l4[12] = 5 << 4;
        l4[13] = self.flags;
        l4[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
        if self.flags & flags::PSH != 0 {
            l4.push(b'\n');
        }
        let pseudo = checksum::pseudo(family, src, dst, proto::TCP, l4.len() as u32);
        let sum = checksum::finish(pseudo, &l4);
        l4[16..18].copy_from_slice(&sum.to_be_bytes());
        l4
    }
}

const fn header(proto: u8) -> IpHeader {
    IpHeader {
        proto,
        ttl: 64,
        tos: 0,
    }
}

/// A first packet of `proto` (TCP or UDP) between two ends.
pub(super) fn first(proto: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    if proto == proto::TCP {
        let segment = Segment {
            from,
            to,
            flags: flags::SYN,
            seq: 1,
            ack: 0,
        };
        return segment.bytes();
    }
    let (family, src) = number(from.ip());
    let (_, dst) = number(to.ip());
    let mut l4 = vec![0; 8];
    l4[..2].copy_from_slice(&from.port().to_be_bytes());
    l4[2..4].copy_from_slice(&to.port().to_be_bytes());
    l4[5] = 8;
    let pseudo = checksum::pseudo(family, src, dst, proto, l4.len() as u32);
    let sum = checksum::finish(pseudo, &l4);
    l4[6..8].copy_from_slice(&sum.max(1).to_be_bytes());
    ip_packet(family, (src, dst), header(proto), &l4)
}

/// Sender and receiver of a TCP packet.
pub(super) fn ends(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let layout = parse(bytes).ok()?;
    Some(ends_of(&Tuple::from_packet(bytes, &layout)?))
}

/// Sender and receiver by a tuple.
pub(super) fn ends_of(tuple: &Tuple) -> (SocketAddr, SocketAddr) {
    let end = |addr, port| SocketAddr::new(tidegate_host::address(tuple.family, addr), port);
    (end(tuple.src, tuple.src_id), end(tuple.dst, tuple.dst_id))
}

/// The tuple of TCP packets between two ends.
pub(super) fn tuple(from: SocketAddr, to: SocketAddr) -> Tuple {
    let (family, src) = number(from.ip());
    Tuple {
        src,
        dst: number(to.ip()).1,
        src_id: from.port(),
        dst_id: to.port(),
        family,
        proto: proto::TCP,
    }
}
