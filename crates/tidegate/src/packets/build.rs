//! The bytes of described packets, with right lengths and checksums.

use std::net::IpAddr;

use tidegate_engine::{IpHeader, ip_packet};
use tidegate_host::number;
use tidegate_wire::{checksum, crc32c, proto, tcp};

use super::Described;

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Sender.
    pub(crate) src: IpAddr,
    /// Receiver.
    pub(crate) dst: IpAddr,
    /// Sender's port or ICMP identifier.
    pub(crate) sport: u16,
    /// Receiver's port.
    pub(crate) dport: u16,
}

impl Ends {
    /// Those of an answer. The identifier of an ICMP echo stays where it is.
    pub(crate) const fn reversed(self, echo: bool) -> Self {
        let (sport, dport) = match echo {
            true => (self.sport, self.dport),
            false => (self.dport, self.sport),
        };
        Ends {
            src: self.dst,
            dst: self.src,
            sport,
            dport,
        }
    }
}

/// What a TCP packet says beside its ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Flags.
    pub(crate) flags: u8,
    /// Sequence number.
    pub(crate) seq: u32,
    /// Acknowledgement number.
    pub(crate) ack: u32,
}

/// The packet between `ends`. `segment` is for TCP.
pub(crate) fn bytes(packet: &Described, ends: Ends, segment: Segment) -> Vec<u8> {
    let l4 = transport(packet, ends, segment);
    network(packet, ends, &l4)
}

fn transport(packet: &Described, ends: Ends, segment: Segment) -> Vec<u8> {
    let mut l4 = match packet.proto {
        proto::TCP => tcp_header(ends, segment),
        proto::UDP | proto::UDPLITE => ports(ends, 8),
        proto::SCTP => ports(ends, 32),
        proto::DCCP => ports(ends, 16),
        proto::ICMP | proto::ICMPV6 => icmp(packet, ends),
        _ => vec![0; 8],
    };
    l4.resize(l4.len() + usize::from(packet.payload), b'x');
    match packet.proto {
        proto::UDP => {
            let len = l4.len() as u16;
            l4[4..6].copy_from_slice(&len.to_be_bytes());
        }
        proto::SCTP => {
            // An INIT opens; payload is its parameters. Its tag must not be 0.
            let chunk = l4.len() as u16 - 12;
            l4[12] = 1;
            l4[14..16].copy_from_slice(&chunk.to_be_bytes());
            l4[19] = 1;
        }
        proto::DCCP => {
            // Data offset in words; type 0 (Request) with long sequence numbers.
            l4[4] = 4;
            l4[8] = 1;
        }
        _ => {}
    }
    sum(packet.proto, ends, &mut l4);
    l4
}

/// Puts the checksum in its place.
fn sum(number_of: u8, ends: Ends, l4: &mut [u8]) {
    let at = match number_of {
        proto::TCP => 16,
        proto::UDP | proto::UDPLITE | proto::DCCP => 6,
        proto::ICMP | proto::ICMPV6 => 2,
        proto::SCTP => {
            if let Some(crc) = crc32c::sctp(l4) {
                l4[8..12].copy_from_slice(&crc.to_le_bytes());
            }
            return;
        }
        _ => return,
    };
    let (family, src) = number(ends.src);
    let (_, dst) = number(ends.dst);
    let extra = match number_of {
        proto::ICMP => 0,
        _ => checksum::pseudo(family, src, dst, number_of, l4.len() as u32),
    };
    let value = match checksum::finish(extra, l4) {
        0 if number_of == proto::UDP => 0xffff,
        value => value,
    };
    l4[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn ports(ends: Ends, len: usize) -> Vec<u8> {
    let mut l4 = vec![0; len];
    l4[..2].copy_from_slice(&ends.sport.to_be_bytes());
    l4[2..4].copy_from_slice(&ends.dport.to_be_bytes());
    l4
}

fn tcp_header(ends: Ends, segment: Segment) -> Vec<u8> {
    let mut l4 = ports(ends, 20);
    l4[4..8].copy_from_slice(&segment.seq.to_be_bytes());
    l4[8..12].copy_from_slice(&segment.ack.to_be_bytes());
    l4[13] = segment.flags;
    l4[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    if segment.flags & tcp::flags::SYN != 0 {
        // MSS 1460: what a SYN on Ethernet says, and what TCPMSS looks for.
        l4.extend([tcp::option::MSS, 4, 0x05, 0xb4]);
    }
    l4[12] = (l4.len() as u8 / 4) << 4;
    l4
}

fn icmp(packet: &Described, ends: Ends) -> Vec<u8> {
    let (kind, code) = packet.icmp.unwrap_or_default();
    let mut l4 = vec![kind, code, 0, 0, 0, 0, 0, 0];
    match &packet.about {
        Some(about) => {
            let segment = Segment {
                flags: about.tcp_flags(),
                seq: crate::course::FIRST_SEQ,
                ack: 0,
            };
            let inner = bytes(about, about.ends(), segment);
            l4.extend(inner);
        }
        None => {
            l4[4..6].copy_from_slice(&ends.sport.to_be_bytes());
            l4[7] = 1;
            // Neighbour discovery names an address.
            if packet.proto == proto::ICMPV6 && matches!(kind, 135 | 136) {
                l4[4..8].fill(0);
                l4.extend(number(ends.dst).1.to_be_bytes());
            }
        }
    }
    l4
}

fn network(packet: &Described, ends: Ends, l4: &[u8]) -> Vec<u8> {
    let (family, src) = number(ends.src);
    let (_, dst) = number(ends.dst);
    // Neighbour discovery is refused unless it cannot have been routed.
    let discovery = matches!(packet.icmp, Some((133..=137, _)));
    let header = IpHeader {
        proto: packet.proto,
        ttl: if discovery && packet.proto == proto::ICMPV6 {
            255
        } else {
            packet.ttl
        },
        tos: packet.tos,
    };
    ip_packet(family, (src, dst), header, l4)
}
