//! Conversations: who opens them, how long they are, what is said in turn.

use tidegate_wire::tcp::flags::{ACK, FIN, PSH, SYN};
use tidegate_wire::{Family, proto};

use crate::random::Random;
use crate::speech::{End, Place, Speech, heard};

/// The router's outer address, and the server that is called by it.
const PUBLIC: u128 = 0xc633_6402;
const SERVER: Place = (0xc0a8_000a, 8443);
const SERVER6: Place = (0x2001_0db8_0001_0000_0000_0000_0000_000a, 8443);

/// Which protocol, which port is called, how much is said at most.
#[derive(Clone, Copy)]
struct Kind {
    proto: u8,
    port: u16,
    longest: u64,
    /// Opened by somebody inside.
    outward: bool,
}

const fn kind(proto: u8, port: u16, longest: u64, outward: bool) -> Kind {
    Kind {
        proto,
        port,
        longest,
        outward,
    }
}

/// Kinds by how often they are begun.
const KINDS: [(u32, Kind); 8] = [
    (30, kind(proto::TCP, 443, 3_000, true)),
    (8, kind(proto::TCP, 80, 100, true)),
    (4, kind(proto::TCP, 22, 4_000, true)),
    (4, kind(proto::TCP, 993, 200, true)),
    (20, kind(proto::TCP, 8443, 600, false)),
    (14, kind(proto::UDP, 53, 2, true)),
    (16, kind(proto::UDP, 443, 4_000, true)),
    (4, kind(proto::ICMP, 0, 20, true)),
];

/// One conversation.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    family: Family,
    proto: u8,
    outward: bool,
    stamps: bool,
    step: u64,
    length: u64,
    /// The one that calls, and the one that answers.
    ends: [End; 2],
}

impl Talk {
    /// The `n`th, through a router that translates addresses or not.
    pub(crate) fn new(n: usize, translated: bool, random: &mut Random) -> Self {
        let kind = random.weighted(&KINDS);
        let family = random.weighted(&[(3, Family::V4), (1, Family::V6)]);
        let (inside, outside) = match family {
            Family::V4 => (0xc0a8_0064, 0x5000_0000),
            Family::V6 => (SERVER6.0 + 0x100, 0x2001_0db9 << 96),
        };
        // Ports repeat after a while, with other addresses.
        let own_port = 1024 + (n % 60_000) as u16;
        let inside = inside + (n / 60_000 % 40) as u128 + u128::from(random.below(100));
        let outside = outside + u128::from(random.skewed(1 << 24));
        let server = match (family, translated) {
            (Family::V4, true) => (PUBLIC, 443),
            (Family::V4, false) => SERVER,
            (Family::V6, _) => SERVER6,
        };
        let (own, peer) = match (kind.proto, kind.outward) {
            (proto::ICMP, _) => ((inside, own_port), (outside, own_port)),
            (_, true) => ((inside, own_port), (outside, kind.port)),
            (_, false) => ((outside, own_port), server),
        };
        let end = |own, peer, random: &mut Random| End {
            own,
            peer,
            seq: random.next() as u32,
            ack: 0,
        };
        Talk {
            family,
            proto: match (kind.proto, family) {
                (proto::ICMP, Family::V6) => proto::ICMPV6,
                (proto, _) => proto,
            },
            outward: kind.outward,
            stamps: random.below(3) > 0,
            step: 0,
            length: 2 + random.skewed(kind.longest),
            ends: [end(own, peer, random), end(peer, own, random)],
        }
    }

    /// Whether all has been said.
    pub(crate) fn is_over(&self) -> bool {
        let around = if self.proto == proto::TCP { 6 } else { 0 };
        self.step >= self.length + around
    }

    /// What one of the two says until the other one does, at most so many packets; each with
    /// whether it is the one inside.
    pub(crate) fn says(&mut self, most: u64) -> Vec<(bool, Vec<u8>)> {
        let mut said = Vec::new();
        let speaker = self.script().0;
        while said.len() < most as usize && !self.is_over() {
            let (by, flags, len) = self.script();
            if by != speaker {
                break;
            }
            let speech = Speech {
                family: self.family,
                proto: self.proto,
                flags,
                len,
                stamps: self.stamps,
            };
            let end = &mut self.ends[by];
            said.push(((by == 0) == self.outward, speech.packet(end)));
            end.seq = end.seq.wrapping_add(match self.proto {
                proto::TCP => len as u32 + (flags & (SYN | FIN)).count_ones(),
                _ => 1,
            });
            self.step += 1;
        }
        said
    }

    /// Who speaks next, with which flags, and how many bytes.
    fn script(&self) -> (usize, u8, usize) {
        let step = self.step;
        match self.proto {
            proto::TCP if step < 3 => [(0, SYN, 0), (1, SYN | ACK, 0), (0, ACK, 0)][step as usize],
            proto::TCP if step < 3 + self.length => match step % 6 {
                3 => (0, PSH | ACK, 180),
                4 | 5 => (1, ACK, 1400),
                0 => (1, PSH | ACK, (self.length % 1300) as usize),
                _ => (0, ACK, 0),
            },
            proto::TCP => match step - self.length {
                3 => (0, FIN | ACK, 0),
                4 => (1, FIN | ACK, 0),
                _ => (0, ACK, 0),
            },
            proto::UDP if step.is_multiple_of(2) => (0, 0, 40),
            proto::UDP => (1, 0, 60 + (self.length % 1200) as usize),
            _ => ((step % 2) as usize, (step % 2) as u8, 56),
        }
    }

    /// The one on the other side of who has spoken gets a packet; `None` where it can make
    /// nothing of it, or it is not from whom it has called.
    pub(crate) fn hears(&mut self, by_inside: bool, packet: &[u8]) -> Option<()> {
        let (from, to, ack) = heard(packet)?;
        let caller_hears = by_inside != self.outward;
        let end = &mut self.ends[usize::from(!caller_hears)];
        if caller_hears && (from != end.peer || to != end.own) {
            return None;
        }
        (end.peer, end.own, end.ack) = (from, to, ack);
        Some(())
    }
}

/// A packet of somebody who looks for open ports.
pub(crate) fn stranger(random: &mut Random) -> Vec<u8> {
    let from = (0x3000_0000 + u128::from(random.below(1 << 24)), 40_000);
    let to = (PUBLIC, 1_000 + random.below(7_000) as u16);
    let (proto, flags) = random.weighted(&[(3, (proto::TCP, SYN)), (1, (proto::UDP, 0))]);
    let speech = Speech {
        family: Family::V4,
        proto,
        flags,
        len: 0,
        stamps: false,
    };
    speech.packet(&End {
        own: from,
        peer: to,
        seq: random.next() as u32,
        ack: 0,
    })
}
