//! Packets as ends of conversations write them.

use tidegate_wire::tcp::flags::SYN;
use tidegate_wire::{Family, be16, be32, checksum, parse, proto};

/// An address and a port; of an echo its number.
pub(crate) type Place = (u128, u16);

/// One end of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) own: Place,
    /// The other one, as this one sees it.
    pub(crate) peer: Place,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
}

/// What an end says.
#[derive(Clone, Copy)]
pub(crate) struct Speech {
    pub(crate) family: Family,
    pub(crate) proto: u8,
    /// TCP's flags; 1 where an echo is an answer.
    pub(crate) flags: u8,
    /// Bytes of payload, at most 1,400.
    pub(crate) len: usize,
    /// Whether TCP carries time stamps.
    pub(crate) stamps: bool,
}

/// MSS, SACK permitted.
const SYN_OPTIONS: [u8; 8] = [2, 4, 5, 0xb4, 4, 2, 1, 1];
/// Time stamps behind two paddings.
const STAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1];
/// What is said, at its longest.
const PAYLOAD: [u8; 1400] = [0x2a; 1400];

impl Speech {
    /// The packet.
    pub(crate) fn packet(&self, end: &End) -> Vec<u8> {
        let mut l4 = match self.proto {
            proto::TCP => self.segment(end),
            proto::UDP => {
                let len = (8 + self.len) as u16;
                [end.own.1, end.peer.1, len, 0]
                    .iter()
                    .flat_map(|word| word.to_be_bytes())
                    .collect()
            }
            _ => self.echo(end),
        };
        l4.extend_from_slice(&PAYLOAD[..self.len]);
        let mut packet = self.header(end, l4.len());
        let (at, pseudo) = match self.proto {
            proto::TCP => (16, self.pseudo(end, l4.len())),
            proto::UDP => (6, self.pseudo(end, l4.len())),
            proto::ICMP => (2, 0),
            _ => (2, self.pseudo(end, l4.len())),
        };
        let check = checksum::finish(pseudo, &l4);
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
        packet.extend(l4);
        packet
    }

    fn pseudo(&self, end: &End, len: usize) -> u64 {
        checksum::pseudo(self.family, end.own.0, end.peer.0, self.proto, len as u32)
    }

    fn header(&self, end: &End, len: usize) -> Vec<u8> {
        let mut header = Vec::with_capacity(40 + len);
        match self.family {
            Family::V4 => {
                header.extend([0x45, 0]);
                header.extend((20 + len as u16).to_be_bytes());
                header.extend([0, 0, 0x40, 0, 64, self.proto, 0, 0]);
                header.extend((end.own.0 as u32).to_be_bytes());
                header.extend((end.peer.0 as u32).to_be_bytes());
                checksum::fix_ipv4(&mut header);
            }
            Family::V6 => {
                header.extend([0x60, 0, 0, 0]);
                header.extend((len as u16).to_be_bytes());
                header.extend([self.proto, 64]);
                header.extend(end.own.0.to_be_bytes());
                header.extend(end.peer.0.to_be_bytes());
            }
        }
        header
    }

    fn segment(&self, end: &End) -> Vec<u8> {
        let options: &[u8] = match (self.flags & SYN != 0, self.stamps) {
            (true, _) => &SYN_OPTIONS,
            (false, true) => &STAMPS,
            (false, false) => &[],
        };
        let mut l4 = Vec::with_capacity(20 + options.len() + self.len);
        l4.extend(end.own.1.to_be_bytes());
        l4.extend(end.peer.1.to_be_bytes());
        l4.extend(end.seq.to_be_bytes());
        l4.extend(end.ack.to_be_bytes());
        let words = (20 + options.len()) as u8 / 4;
        l4.extend([words << 4, self.flags, 0x80, 0, 0, 0, 0, 0]);
        l4.extend(options);
        l4
    }

    fn echo(&self, end: &End) -> Vec<u8> {
        // An answer has the number of what it answers.
        let number = if self.flags == 0 { end.seq } else { end.ack };
        let kind = match (self.family, self.flags) {
            (Family::V4, 0) => 8,
            (Family::V4, _) => 0,
            (Family::V6, answer) => 128 + answer,
        };
        let mut l4 = vec![kind, 0, 0, 0];
        l4.extend(end.own.1.to_be_bytes());
        l4.extend((number as u16).to_be_bytes());
        l4
    }
}

/// From whom a packet is, to whom, and what is to be acknowledged of it: of an echo its number.
pub(crate) fn heard(packet: &[u8]) -> Option<(Place, Place, u32)> {
    let layout = parse(packet).ok()?;
    let l4 = layout.l4(packet);
    let (from, to, ack) = match layout.proto {
        proto::TCP => {
            let header = usize::from(l4.get(12)? >> 4) * 4;
            // SYN and FIN count as a byte each.
            let counted = (l4.get(13)? & 3).count_ones();
            let len = l4.len().checked_sub(header)? as u32;
            let ack = be32(l4, 4)?.wrapping_add(len).wrapping_add(counted);
            (be16(l4, 0)?, be16(l4, 2)?, ack)
        }
        proto::UDP => (be16(l4, 0)?, be16(l4, 2)?, 0),
        _ => (be16(l4, 4)?, be16(l4, 4)?, be16(l4, 6)?.into()),
    };
    Some(((layout.src(packet), from), (layout.dst(packet), to), ack))
}
