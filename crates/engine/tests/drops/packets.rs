//! Packets from their parts.

use tidegate_wire::{Family, checksum, crc32c, proto};

/// Addresses of a packet; IPv4 in the low 32 bits.
#[derive(Clone, Copy)]
pub(crate) struct Ends(pub(crate) Family, pub(crate) u128, pub(crate) u128);

impl Ends {
    pub(crate) fn back(self) -> Ends {
        Ends(self.0, self.2, self.1)
    }

    /// A packet around a transport header as it is.
    pub(crate) fn packet(self, protocol: u8, l4: &[u8]) -> Vec<u8> {
        let len = l4.len() as u16;
        let mut bytes;
        match self.0 {
            Family::V4 => {
                bytes = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
                bytes[2..4].copy_from_slice(&(len + 20).to_be_bytes());
                bytes.extend((self.1 as u32).to_be_bytes());
                bytes.extend((self.2 as u32).to_be_bytes());
                checksum::fix_ipv4(&mut bytes);
            }
            Family::V6 => {
                bytes = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                bytes.extend(self.1.to_be_bytes());
                bytes.extend(self.2.to_be_bytes());
            }
        }
        bytes.extend(l4);
        bytes
    }

    /// The same with the checksum of the transport header filled in.
    pub(crate) fn summed(self, protocol: u8, mut l4: Vec<u8>, at: usize) -> Vec<u8> {
        let pseudo = match protocol {
            proto::ICMP => 0,
            p => checksum::pseudo(self.0, self.1, self.2, p, l4.len() as u32),
        };
        let check = checksum::finish(pseudo, &l4);
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        self.packet(protocol, &l4)
    }

    pub(crate) fn udp(self, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
        let len = 8 + data.len() as u16;
        let mut l4 = [ports[0], ports[1], len, 0].map(u16::to_be_bytes).concat();
        l4.extend(data);
        self.summed(proto::UDP, l4, 6)
    }

    pub(crate) fn tcp(self, ports: [u16; 2], flags: u8, seq: u32, ack: u32) -> Vec<u8> {
        self.segment(ports, flags, [seq, ack], &[], b"")
    }

    pub(crate) fn segment(
        self,
        ports: [u16; 2],
        flags: u8,
        numbers: [u32; 2],
        options: &[u8],
        data: &[u8],
    ) -> Vec<u8> {
        let mut l4 = ports.map(u16::to_be_bytes).concat();
        l4.extend(numbers.map(u32::to_be_bytes).concat());
        let words = 5 + options.len() as u8 / 4;
        l4.extend([words << 4, flags, 4, 0, 0, 0, 0, 0]);
        l4.extend(options);
        l4.extend(data);
        self.summed(proto::TCP, l4, 16)
    }

    pub(crate) fn icmp(self, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
        let mut l4 = vec![kind, code, 0, 0];
        l4.extend(rest);
        let protocol = match self.0 {
            Family::V4 => proto::ICMP,
            Family::V6 => proto::ICMPV6,
        };
        self.summed(protocol, l4, 2)
    }

    /// An ICMP error about `inner`, with the second word `word`.
    pub(crate) fn error(self, kind: u8, code: u8, word: u32, inner: &[u8]) -> Vec<u8> {
        let mut rest = word.to_be_bytes().to_vec();
        rest.extend(inner);
        self.icmp(kind, code, &rest)
    }

    /// SCTP with these chunks: type and value each.
    pub(crate) fn sctp(self, tag: u32, chunks: &[(u8, &[u8])]) -> Vec<u8> {
        let mut l4 = [7u16, 8].map(u16::to_be_bytes).concat();
        l4.extend(tag.to_be_bytes());
        l4.extend([0; 4]);
        for (kind, value) in chunks {
            l4.extend([*kind, 0]);
            l4.extend((4 + value.len() as u16).to_be_bytes());
            l4.extend(*value);
        }
        let check = crc32c::sctp(&l4).unwrap();
        l4[8..12].copy_from_slice(&check.to_le_bytes());
        self.packet(proto::SCTP, &l4)
    }
}

/// Changes an IPv4 packet's header and repairs its checksum.
pub(crate) fn with(mut packet: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    packet[at..at + bytes.len()].copy_from_slice(bytes);
    checksum::fix_ipv4(&mut packet);
    packet
}
