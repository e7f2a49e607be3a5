//! The value of [`CONNECTIONS`](super::CONNECTIONS), as it is written and as it is read.

use tidegate_conntrack::entry::{TcpClass, TcpSide, TcpState};
use tidegate_conntrack::{Dir, Tuple};
use tidegate_wire::Family;

use super::{Hook, address, hop, key, put, read_tuple};

/// Bytes of a value of [`CONNECTIONS`](super::CONNECTIONS).
pub const CONNECTION: usize = 280;

/// Offsets in a connection.
pub(crate) mod at {
    pub(crate) const WAYS: i16 = 8;
    pub(crate) const WAY: i16 = 96;
    pub(crate) const WAY_KIND: i16 = 0;
    pub(crate) const WAY_DEV: i16 = 4;
    pub(crate) const WAY_NEXT_HOP: i16 = 8;
    pub(crate) const WAY_TRANSLATE: i16 = 24;
    pub(crate) const WAY_MTU: i16 = 28;
    pub(crate) const WAY_SRC: i16 = 32;
    pub(crate) const WAY_DST: i16 = 48;
    pub(crate) const WAY_PORTS: i16 = 64;
    pub(crate) const WAY_ADDRESS_DIFF: i16 = 68;
    pub(crate) const WAY_PORT_DIFF: i16 = 72;
    pub(crate) const WAY_TOS: i16 = 76;
    pub(crate) const WAY_HOP: i16 = 80;
    pub(crate) const WAY_OWN: i16 = 84;
    pub(crate) const WAY_EARLY: i16 = 90;
    pub(crate) const HOP_HOLDS: i16 = 12;
    pub(crate) const HOP_USED: i16 = 8 * super::hop::USED as i16;
    pub(crate) const TCP: i16 = WAYS + 2 * WAY;
    pub(crate) const SIDE: i16 = 24;
    pub(crate) const END: i16 = 0;
    pub(crate) const MAXEND: i16 = 4;
    pub(crate) const MAXWIN: i16 = 8;
    pub(crate) const MAXACK: i16 = 12;
    pub(crate) const SCALE: i16 = 16;
    pub(crate) const FLAGS: i16 = 20;
    pub(crate) const LAST: i16 = TCP + 2 * SIDE;
    pub(crate) const LAST_DIR: i16 = LAST;
    pub(crate) const RETRANS: i16 = LAST + 4;
    pub(crate) const LAST_CLASS: i16 = LAST + 8;
    pub(crate) const LAST_SEQ: i16 = LAST + 12;
    pub(crate) const LAST_ACK: i16 = LAST + 16;
    pub(crate) const LAST_END: i16 = LAST + 20;
    pub(crate) const LAST_WIN: i16 = LAST + 24;
}

/// Where packets of one direction go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goes {
    /// Out of another interface, to this next hop.
    Out {
        /// Interface.
        dev: u32,
        /// Next hop's address.
        next_hop: u128,
        /// Longest packet that the interface takes.
        mtu: u32,
    },
    /// On their own way: into this host's sockets, or out of the interface they were to be
    /// sent by.
    On,
}

/// What is done with the packets of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where they go.
    pub goes: Goes,
    /// The packets as they come.
    pub before: Tuple,
    /// As they leave.
    pub after: Tuple,
    /// The only type of service (traffic class) for which that holds.
    pub tos: Option<u8>,
    /// Place of the next hop in [`HOPS`](super::HOPS); `None`: the kernel is to find its address.
    pub hop: Option<u32>,
    /// Both interfaces can do without the kernel, for frames to this Ethernet address: that
    /// of the interface that they come by.
    pub early: Option<[u8; 6]>,
}

/// What [`at::WAY_KIND`] says.
pub(crate) const OUT: i32 = 1;
const ON: i32 = 2;
/// Beside a type of service: it must be that one.
pub(crate) const TOS_COUNTS: u32 = 0x100;

impl Way {
    fn write(&self, bytes: &mut [u8]) {
        let mut word = |at: i16, value: u32| put(bytes, at as usize, &value.to_ne_bytes());
        word(
            at::WAY_TOS,
            self.tos.map_or(0, |t| u32::from(t) | TOS_COUNTS),
        );
        let (before, after) = (self.bytes(&self.before), self.bytes(&self.after));
        word(at::WAY_TRANSLATE, u32::from(before != after));
        let (a, b) = (&before[..32], &after[..32]);
        word(at::WAY_ADDRESS_DIFF, difference(a, b));
        word(at::WAY_PORT_DIFF, difference(&before[32..], &after[32..]));
        match self.goes {
            Goes::Out { dev, next_hop, mtu } => {
                word(at::WAY_KIND, OUT as u32);
                word(at::WAY_DEV, dev);
                word(at::WAY_MTU, mtu);
                let hop = address(self.before.family, next_hop);
                put(bytes, at::WAY_NEXT_HOP as usize, &hop);
            }
            Goes::On => word(at::WAY_KIND, ON as u32),
        }
        let hop = self.hop.unwrap_or(0);
        put(bytes, at::WAY_HOP as usize, &hop.to_ne_bytes());
        if let Some(own) = self.early {
            put(bytes, at::WAY_OWN as usize, &own);
            bytes[at::WAY_EARLY as usize] = 1;
        }
        put(bytes, at::WAY_SRC as usize, &after);
    }

    /// Addresses and ports.
    fn bytes(&self, tuple: &Tuple) -> [u8; 36] {
        let mut bytes = [0; 36];
        let key = key(0, Hook::Ingress, tuple);
        bytes.copy_from_slice(&key[8..]);
        bytes
    }
}

/// What is to be added to a sum in which `from` becomes `to` (RFC 1624), words as they are
/// in memory.
fn difference(from: &[u8], to: &[u8]) -> u32 {
    let word = |c: &[u8]| u64::from(u16::from_ne_bytes([c[0], c[1]]));
    let old = from.chunks_exact(2).map(|c| 0xffff - word(c));
    let new = to.chunks_exact(2).map(word);
    let sum: u64 = old.chain(new).sum();
    sum as u32
}

/// A connection as the kernel's side keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// What is done in each direction; `None`: its packets go up.
    pub ways: [Option<Way>; 2],
    /// TCP windows.
    pub tcp: TcpState,
}

impl Connection {
    /// The value of [`CONNECTIONS`](super::CONNECTIONS).
    #[must_use]
    pub fn to_bytes(&self) -> [u8; CONNECTION] {
        let mut bytes = [0; CONNECTION];
        for (i, way) in self.ways.iter().enumerate() {
            let from = (at::WAYS + i as i16 * at::WAY) as usize;
            if let Some(way) = way {
                way.write(&mut bytes[from..from + at::WAY as usize]);
            }
        }
        for (i, side) in self.tcp.seen.iter().enumerate() {
            let from = (at::TCP + i as i16 * at::SIDE) as usize;
            let words = [
                side.end,
                side.maxend,
                side.maxwin,
                side.maxack,
                u32::from(side.scale),
                u32::from(side.flags),
            ];
            put_words(&mut bytes[from..], &words);
        }
        let tcp = &self.tcp;
        let last = [
            tcp.last_dir as u32,
            u32::from(tcp.retrans),
            tcp.last_class as u32,
            tcp.last_seq,
            tcp.last_ack,
            tcp.last_end,
            u32::from(tcp.last_win),
        ];
        put_words(&mut bytes[at::LAST as usize..], &last);
        bytes
    }
}

fn put_words(bytes: &mut [u8], words: &[u32]) {
    for (i, word) in words.iter().enumerate() {
        put(bytes, i * 4, &word.to_ne_bytes());
    }
}

/// The packets of one direction as they leave, from a value of [`CONNECTIONS`](super::CONNECTIONS); `None`: that
/// direction is not handled there.
#[must_use]
pub fn after(bytes: &[u8; CONNECTION], dir: Dir, (family, proto): (Family, u8)) -> Option<Tuple> {
    let way = (at::WAYS + dir as i16 * at::WAY) as usize;
    let way = &bytes[way..way + at::WAY as usize];
    let there = way[at::WAY_KIND as usize..][..4] != [0; 4];
    let tuple = || read_tuple(&way[at::WAY_SRC as usize..], family, proto);
    there.then(tuple)?
}

/// What the kernel's side has made of a connection's TCP windows; the rest of `tcp` is what
/// it was. A value that no program writes leaves it as it is.
#[must_use]
pub fn tcp_state(bytes: &[u8; CONNECTION], tcp: &TcpState) -> TcpState {
    let word = |at: i16| {
        let at = at as usize;
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(word)
    };
    let side = |i: i16| {
        let from = at::TCP + i * at::SIDE;
        TcpSide {
            end: word(from + at::END),
            maxend: word(from + at::MAXEND),
            maxwin: word(from + at::MAXWIN),
            maxack: word(from + at::MAXACK),
            scale: word(from + at::SCALE) as u8,
            flags: word(from + at::FLAGS) as u8,
        }
    };
    let dir = match word(at::LAST_DIR) {
        0 => Dir::Original,
        _ => Dir::Reply,
    };
    TcpState {
        seen: [side(0), side(1)],
        last_dir: dir,
        retrans: word(at::RETRANS) as u8,
        last_class: if word(at::LAST_CLASS) == TcpClass::Ack as u32 {
            TcpClass::Ack
        } else {
            tcp.last_class
        },
        last_seq: word(at::LAST_SEQ),
        last_ack: word(at::LAST_ACK),
        last_end: word(at::LAST_END),
        last_win: word(at::LAST_WIN) as u16,
        ..*tcp
    }
}
