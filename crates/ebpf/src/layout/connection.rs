//! What is known of one direction of a connection, and of its TCP windows, as it is written and
//! as it is read.

use tidegate_conntrack::entry::{TcpClass, TcpSide, TcpState};
use tidegate_conntrack::{Dir, Tuple};
use tidegate_wire::Family;

use super::{GATE, Hook, KEY, address, gate, hop, key, put, read_tuple};

/// Bytes of a value of [`CONNECTIONS`](super::CONNECTIONS).
pub const CONNECTION: usize = 88;
/// Words of a [`Path`].
pub const PATH: usize = 16;

/// Offsets in a path and in a connection.
pub(crate) mod at {
    /// Of a path's first half, which begins with the flow's key.
    pub(crate) const KIND: i16 = 44;
    pub(crate) const FLAGS: i16 = 45;
    pub(crate) const TOS: i16 = 46;
    pub(crate) const DEV: i16 = 48;
    pub(crate) const MTU: i16 = 52;
    pub(crate) const OWN: i16 = 54;
    pub(crate) const HOP: i16 = 60;
    /// The second half, seen from the first.
    pub(crate) const REST: i16 = 8 * super::gate::REST as i16;
    pub(crate) const SRC: i16 = REST;
    pub(crate) const DST: i16 = REST + 16;
    pub(crate) const PORTS: i16 = REST + 32;
    pub(crate) const ADDRESS_DIFF: i16 = REST + 36;
    pub(crate) const PORT_DIFF: i16 = REST + 40;
    pub(crate) const NEXT_HOP: i16 = REST + 44;
    pub(crate) const HOP_HOLDS: i16 = 12;
    pub(crate) const HOP_USED: i16 = 8 * super::hop::USED as i16;
    pub(crate) const TCP: i16 = 8;
    pub(crate) const SIDE: i16 = 24;
    pub(crate) const END: i16 = 0;
    pub(crate) const MAXEND: i16 = 4;
    pub(crate) const MAXWIN: i16 = 8;
    pub(crate) const MAXACK: i16 = 12;
    pub(crate) const SCALE: i16 = 16;
    pub(crate) const SIDE_FLAGS: i16 = 20;
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

/// What [`at::KIND`] says.
pub(crate) const OUT: i32 = 1;
const ON: i32 = 2;
/// Bits of [`at::FLAGS`]: addresses or ports change; the interfaces can do without the kernel;
/// the type of service must be that one.
pub(crate) const TRANSLATE: i32 = 1;
pub(crate) const EARLY: i32 = 2;
pub(crate) const TOS_COUNTS: i32 = 4;

/// One direction of a connection as the kernel's side keeps it: the flow's key, and what is
/// done with its packets.
pub type Path = [u64; PATH];

/// The path of packets with `key`; without a way they go up.
#[must_use]
pub fn path(key: &[u8; KEY], way: Option<&Way>) -> Path {
    let mut first = [0; 64];
    let mut rest = [0; 64];
    first[..KEY].copy_from_slice(key);
    if let Some(way) = way {
        way.write(&mut first, &mut rest);
    }
    let mut path = [0; PATH];
    for (word, bytes) in path.iter_mut().zip([first, rest].as_flattened().chunks(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_ne_bytes(eight);
    }
    path
}

impl Way {
    fn write(&self, first: &mut [u8; 64], rest: &mut [u8; 64]) {
        let (before, after) = (self.bytes(&self.before), self.bytes(&self.after));
        let mut flags = 0;
        if before != after {
            flags |= TRANSLATE;
        }
        if let Some(tos) = self.tos {
            flags |= TOS_COUNTS;
            first[at::TOS as usize] = tos;
        }
        if let Some(own) = self.early {
            flags |= EARLY;
            put(first, at::OWN as usize, &own);
        }
        first[at::FLAGS as usize] = flags as u8;
        let mut put_rest = |at: i16, value: &[u8]| put(rest, (at - at::REST) as usize, value);
        match self.goes {
            Goes::Out { dev, next_hop, mtu } => {
                first[at::KIND as usize] = OUT as u8;
                put(first, at::DEV as usize, &dev.to_ne_bytes());
                // A longer one goes up.
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                put(first, at::MTU as usize, &mtu.to_ne_bytes());
                put_rest(at::NEXT_HOP, &address(self.before.family, next_hop));
            }
            Goes::On => first[at::KIND as usize] = ON as u8,
        }
        let hop = self.hop.unwrap_or(0);
        put(first, at::HOP as usize, &hop.to_ne_bytes());
        put_rest(at::SRC, &after);
        let mut diff = |at, old, new| put_rest(at, &difference(old, new).to_ne_bytes());
        diff(at::ADDRESS_DIFF, &before[..32], &after[..32]);
        diff(at::PORT_DIFF, &before[32..], &after[32..]);
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

/// The value of [`CONNECTIONS`](super::CONNECTIONS).
#[must_use]
pub fn windows(tcp: &TcpState) -> [u8; CONNECTION] {
    let mut bytes = [0; CONNECTION];
    for (i, side) in tcp.seen.iter().enumerate() {
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

fn put_words(bytes: &mut [u8], words: &[u32]) {
    for (i, word) in words.iter().enumerate() {
        put(bytes, i * 4, &word.to_ne_bytes());
    }
}

/// Half a path's bytes, from a value of [`GATES`](super::GATES).
fn half(gate: &[u64; GATE], dir: Dir, from: usize) -> [u8; 64] {
    let from = from + 8 * dir as usize;
    let mut bytes = [0; 64];
    for (bytes, word) in bytes.chunks_mut(8).zip(&gate[from..]) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// The key of one direction's packets, from a value of [`GATES`](super::GATES); `None`: that
/// direction is not handled there.
#[must_use]
pub fn key_of(gate: &[u64; GATE], dir: Dir) -> Option<[u8; KEY]> {
    let first = half(gate, dir, gate::PATHS);
    let key = first.first_chunk().copied();
    key.filter(|_| first[at::KIND as usize] != 0)
}

/// The packets of one direction as they leave, from a value of [`GATES`](super::GATES);
/// `None`: that direction is not handled there.
#[must_use]
pub fn after(gate: &[u64; GATE], dir: Dir, (family, proto): (Family, u8)) -> Option<Tuple> {
    key_of(gate, dir)?;
    let rest = half(gate, dir, gate::PATHS + gate::REST);
    read_tuple(&rest, family, proto)
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
            flags: word(from + at::SIDE_FLAGS) as u8,
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
