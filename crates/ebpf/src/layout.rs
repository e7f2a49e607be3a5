//! What the tables of the fast path hold, byte for byte. Numbers are in this machine's
//! byte order, addresses and ports as they are in packets.

use tidegate_conntrack::entry::{TcpClass, TcpSide, TcpState};
use tidegate_conntrack::{Dir, Tuple};
use tidegate_wire::Family;

use crate::maps::{Kind, Map};

/// Bytes of a key of [`FLOWS`].
pub const KEY: usize = 44;
/// Bytes of a value of [`FLOWS`]: the place of the connection, and the direction.
pub const FLOW: usize = 8;
/// Words of a value of [`GATES`].
pub const GATE: usize = 8;
/// Bytes of a value of [`CONNECTIONS`].
pub const CONNECTION: usize = 280;
/// Words of the value of [`GLOBALS`].
pub const GLOBAL: usize = 8;
/// Bytes of a value of [`DOORS`].
pub const DOOR: usize = 4;
/// Words of a value of [`HOPS`].
pub const HOP: usize = 3;
/// Longest transport header and payload whose checksum is verified.
pub const SCRATCH: usize = 2048;

/// Places for connections, unless the loader is told otherwise.
pub const PLACES: u32 = 1 << 16;

/// Which packets belong to which connection.
pub static FLOWS: Map = Map {
    name: "flows",
    kind: Kind::Hash,
    key: KEY as u32,
    value: FLOW as u32,
    entries: 2 * PLACES,
    locked: false,
    shared: false,
};

/// Who handles a connection's packets, and what has passed.
pub static GATES: Map = Map {
    name: "gates",
    kind: Kind::Array,
    key: 4,
    value: GATE as u32 * 8,
    entries: PLACES,
    locked: false,
    shared: true,
};

/// Where a connection's packets go, and its TCP windows.
pub static CONNECTIONS: Map = Map {
    name: "connections",
    kind: Kind::Array,
    key: 4,
    value: CONNECTION as u32,
    entries: PLACES,
    locked: true,
    shared: false,
};

/// One value for everything.
pub static GLOBALS: Map = Map {
    name: "globals",
    kind: Kind::Array,
    key: 4,
    value: GLOBAL as u32 * 8,
    entries: 1,
    locked: false,
    shared: true,
};

/// By interface, the device whose far end takes what goes up.
pub static DOORS: Map = Map {
    name: "doors",
    kind: Kind::Hash,
    key: 4,
    value: DOOR as u32,
    entries: 4096,
    locked: false,
    shared: false,
};

/// Next hops whose Ethernet addresses programs write themselves.
pub static HOPS: Map = Map {
    name: "hops",
    kind: Kind::Array,
    key: 4,
    value: HOP as u32 * 8,
    entries: 4096,
    locked: false,
    shared: true,
};

/// What became of packets, by [`Fate`].
pub static FATES: Map = Map {
    name: "fates",
    kind: Kind::PerCpuArray,
    key: 4,
    value: 8,
    entries: Fate::ALL.len() as u32,
    locked: false,
    shared: false,
};

/// Room to sum up a packet.
pub static SUMS: Map = Map {
    name: "sums",
    kind: Kind::PerCpuArray,
    key: 4,
    value: SCRATCH as u32 + 8,
    entries: 1,
    locked: false,
    shared: false,
};

/// All maps.
pub static MAPS: [&Map; 10] = [
    &FLOWS,
    &GATES,
    &CONNECTIONS,
    &GLOBALS,
    &DOORS,
    &HOPS,
    &FATES,
    &SUMS,
    &crate::stop::STOPS,
    &crate::stop::EARLY_STOPS,
];

/// Words of a gate.
pub mod gate {
    /// Packets that were sent up although their connection was known; counted by the
    /// kernel's side.
    pub const SENT: usize = 0;
    /// As many have been dealt with; written by the engine's side. The kernel handles the
    /// connection as long as both are the same.
    pub const DONE: usize = 1;
    /// Packets and bytes of the original direction; the reply's follow.
    pub const COUNTS: usize = 2;
    /// When the last packet passed, nanoseconds of `CLOCK_BOOTTIME`.
    pub const LAST: usize = 6;
    /// The epoch that the connection's ways are of; another one than [`super::global::EPOCH`]
    /// means that they may be wrong.
    pub const EPOCH: usize = 7;
    /// A number of [`DONE`] that [`SENT`] never has.
    pub const SHUT: u64 = u64::MAX;
}

/// Words of the globals.
pub mod global {
    /// Number of the rules and surroundings in force.
    pub const EPOCH: usize = 0;
    /// Whether transport checksums count.
    pub const VERIFY: usize = 1;
    /// Number of the rules for which programs drop packets; 0: none do.
    pub const STOP: usize = 2;
    /// Whether the programs leave everything to those behind them for the time being.
    pub const WAITS: usize = 3;
}

/// What [`HOPS`] says about a next hop.
pub mod hop {
    /// Place of the word that says since when it has been in use without anybody asking;
    /// nanoseconds of `CLOCK_BOOTTIME`, or 0. Who follows the neighbours sets it to 0.
    pub const USED: usize = 2;
    /// After that long unasked, the addresses hold no longer.
    pub const PATIENCE: u64 = 10_000_000_000;

    /// The words of a next hop: an Ethernet header's addresses, and that they hold. The
    /// second is to be zero while the first changes.
    #[must_use]
    pub fn words(to: [u8; 6], from: [u8; 6]) -> [u64; 2] {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&to);
        bytes[6..12].copy_from_slice(&from);
        bytes[12] = 1;
        let word = |at| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        [word(0), word(8)]
    }
}

/// What became of a packet at the fast path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Forwarded.
    Forwarded = 0,
    /// Given to this host's sockets, or sent by them.
    Passed,
    /// Not for this host alone: broadcast, multicast.
    NotOurs,
    /// Not plain TCP or UDP over IPv4 or IPv6: options, extension headers, ICMP, damage.
    Unusual,
    /// A fragment.
    Fragment,
    /// Opens or closes a TCP connection, or is urgent.
    TcpFlags,
    /// TCP options beyond time stamps and SACK.
    TcpOptions,
    /// Of no connection that the kernel was told of.
    Unknown,
    /// The checksum is wrong, or could not be verified.
    Checksum,
    /// The engine has the connection at present.
    Held,
    /// Rules or surroundings have changed.
    Stale,
    /// This direction is not handled here, or other packets than this one are.
    NoWay,
    /// TTL or hop limit runs out.
    Ttl,
    /// Too long for the way out.
    TooBig,
    /// Not clearly inside the TCP window.
    Window,
    /// Forwarded before the kernel looked at it.
    Early,
    /// Dropped, as rules say.
    Stopped,
}

impl Fate {
    /// All, by number.
    pub const ALL: [Fate; 17] = [
        Fate::Forwarded,
        Fate::Passed,
        Fate::NotOurs,
        Fate::Unusual,
        Fate::Fragment,
        Fate::TcpFlags,
        Fate::TcpOptions,
        Fate::Unknown,
        Fate::Checksum,
        Fate::Held,
        Fate::Stale,
        Fate::NoWay,
        Fate::Ttl,
        Fate::TooBig,
        Fate::Window,
        Fate::Early,
        Fate::Stopped,
    ];

    /// A few words for reports.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Fate::Forwarded => "forwarded in the kernel",
            Fate::Passed => "to and from sockets in the kernel",
            Fate::NotOurs => "broadcast and multicast",
            Fate::Unusual => "not plain TCP or UDP",
            Fate::Fragment => "fragments",
            Fate::TcpFlags => "TCP opening, closing or urgent",
            Fate::TcpOptions => "unusual TCP options",
            Fate::Unknown => "of no known connection",
            Fate::Checksum => "checksum wrong or not verified",
            Fate::Held => "while the engine had the connection",
            Fate::Stale => "after a change of rules or routes",
            Fate::NoWay => "not decided for the whole flow",
            Fate::Ttl => "TTL ran out",
            Fate::TooBig => "too long for the way out",
            Fate::Window => "not clearly inside the TCP window",
            Fate::Early => "forwarded at the interface (XDP)",
            Fate::Stopped => "dropped by rules in the kernel",
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// An address as it is in packets, filled up with zeroes.
fn address(family: Family, addr: u128) -> [u8; 16] {
    match family {
        Family::V4 => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&(addr as u32).to_be_bytes());
            bytes
        }
        Family::V6 => addr.to_be_bytes(),
    }
}

/// The key of packets with `tuple` at interface `dev`.
#[must_use]
pub fn key(dev: u32, hook: Hook, tuple: &Tuple) -> [u8; KEY] {
    let mut bytes = [0; KEY];
    put(&mut bytes, 0, &dev.to_ne_bytes());
    bytes[4] = tuple.proto;
    bytes[5] = match tuple.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    bytes[6] = hook as u8;
    put(&mut bytes, 8, &address(tuple.family, tuple.src));
    put(&mut bytes, 24, &address(tuple.family, tuple.dst));
    put(&mut bytes, 40, &{ tuple.src_id }.to_be_bytes());
    put(&mut bytes, 42, &{ tuple.dst_id }.to_be_bytes());
    bytes
}

/// The tuple of a key's packets; `None`: it is no key of packets that interfaces receive.
#[must_use]
pub fn tuple_of(key: &[u8; KEY]) -> Option<Tuple> {
    let family = match key[5] {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    let tuple = || read_tuple(&key[8..], family, key[4]);
    (key[6] == Hook::Ingress as u8).then(tuple)?
}

/// A tuple from addresses and ports.
fn read_tuple(bytes: &[u8], family: Family, proto: u8) -> Option<Tuple> {
    let address = |at: usize| {
        let bytes: &[u8; 16] = bytes.get(at..)?.first_chunk()?;
        Some(match family {
            Family::V4 => u128::from_be_bytes(*bytes) >> 96,
            Family::V6 => u128::from_be_bytes(*bytes),
        })
    };
    let port = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    Some(Tuple {
        src: address(0)?,
        dst: address(16)?,
        src_id: port(32)?,
        dst_id: port(34)?,
        family,
        proto,
    })
}

/// The packets of one direction as they leave, from a value of [`CONNECTIONS`]; `None`: that
/// direction is not handled there.
#[must_use]
pub fn after(bytes: &[u8; CONNECTION], dir: Dir, (family, proto): (Family, u8)) -> Option<Tuple> {
    let way = (at::WAYS + dir as i16 * at::WAY) as usize;
    let way = &bytes[way..way + at::WAY as usize];
    let there = way[at::WAY_KIND as usize..][..4] != [0; 4];
    let tuple = || read_tuple(&way[at::WAY_SRC as usize..], family, proto);
    there.then(tuple)?
}

/// The place of a value of [`FLOWS`], and the direction.
#[must_use]
pub fn place_of(value: &[u8; FLOW]) -> (u32, Dir) {
    let [a, b, c, d, dir @ ..] = *value;
    let dir = match u32::from_ne_bytes(dir) {
        0 => Dir::Original,
        _ => Dir::Reply,
    };
    (u32::from_ne_bytes([a, b, c, d]), dir)
}

/// Where a program looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Received by an interface.
    Ingress = 0,
    /// Sent out of one by this host.
    Egress = 1,
}

/// The value of [`FLOWS`].
#[must_use]
pub fn flow(place: u32, dir: Dir) -> [u8; FLOW] {
    let mut bytes = [0; FLOW];
    put(&mut bytes, 0, &place.to_ne_bytes());
    put(&mut bytes, 4, &(dir as u32).to_ne_bytes());
    bytes
}

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
    /// Place of the next hop in [`HOPS`]; `None`: the kernel is to find its address.
    pub hop: Option<u32>,
    /// Both interfaces can do without the kernel, for frames to this Ethernet address: that
    /// of the interface that they come by.
    pub early: Option<[u8; 6]>,
}

/// What [`at::WAY_KIND`] says.
pub(crate) const OUT: i32 = 1;
pub(crate) const ON: i32 = 2;
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
    /// The value of [`CONNECTIONS`].
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
