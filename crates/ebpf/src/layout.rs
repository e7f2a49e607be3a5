//! What the tables of the fast path hold, byte for byte. Numbers are in this machine's
//! byte order, addresses and ports as they are in packets.

mod connection;
mod fate;
mod index;

use tidegate_conntrack::Tuple;
use tidegate_wire::Family;

pub use self::connection::{
    CONNECTION, Goes, PATH, Path, Way, after, key_of, path, tcp_state, windows,
};
pub(crate) use self::connection::{EARLY, OUT, TOS_COUNTS, TRANSLATE, at};
pub use self::fate::Fate;
pub use self::index::{
    BUCKET, CROWDED, FEWEST, HASH, MOST_PLACES, Mix, SPILLED, Slot, buckets, entries, mix,
};
pub(crate) use self::index::{MIX_FACTOR, MIX_HOME, MIX_INDEX, MIX_TAG, tag_mask, whose_bits};
use crate::maps::{Kind, Map};

/// Bytes of a flow's key.
pub const KEY: usize = 44;
/// Words of a value of [`GATES`].
pub const GATE: usize = 40;
/// Words of a value of [`TURNS`].
pub const TURN: usize = 8;
/// Words of the value of [`GLOBALS`].
pub const GLOBAL: usize = 8;
/// Words of a value of [`DOORS`].
pub const DOOR: usize = 2;
/// Words of a value of [`HOPS`].
pub const HOP: usize = 3;
/// Longest transport header and payload whose checksum is verified.
pub const SCRATCH: usize = 2048;

/// Places for connections, unless the loader is told otherwise.
pub const PLACES: u32 = 1 << 16;

/// Which packets belong to which connection: buckets of [`Slot`]s. A look-up here costs no
/// call of the kernel and one line of the cache. First come 32 buckets that are never used, then
/// those that are while there are 32 in use, then as many again, for when there are 64, and so on.
pub static FLOWS: Map = Map {
    name: "flows",
    kind: Kind::Whole,
    key: 4,
    value: BUCKET as u32 * 4,
    entries: entries(PLACES),
    locked: false,
    shared: true,
};

/// Who handles a connection's packets, what has passed, and where they go.
pub static GATES: Map = Map {
    name: "gates",
    kind: Kind::Whole,
    key: 4,
    value: GATE as u32 * 8,
    entries: PLACES,
    locked: false,
    shared: true,
};

/// A TCP connection's windows.
pub static CONNECTIONS: Map = Map {
    name: "connections",
    kind: Kind::Array,
    key: 4,
    value: CONNECTION as u32,
    entries: PLACES,
    locked: true,
    shared: false,
};

/// By processor, whether a program is at work there, the time, and how many packets have gone on.
pub static TURNS: Map = Map {
    name: "turns",
    kind: Kind::Whole,
    key: 4,
    value: TURN as u32 * 8,
    entries: 1024,
    locked: false,
    shared: true,
};

/// One value for everything.
pub static GLOBALS: Map = Map {
    name: "globals",
    kind: Kind::Whole,
    key: 4,
    value: GLOBAL as u32 * 8,
    entries: 1,
    locked: false,
    shared: true,
};

/// By interface, the devices whose far ends take what goes up: of received packets, and of what
/// this host's own sockets send.
pub static DOORS: Map = Map {
    name: "doors",
    kind: Kind::Hash,
    key: 4,
    value: DOOR as u32 * 4,
    entries: 4096,
    locked: false,
    shared: false,
};

/// Next hops whose Ethernet addresses programs write themselves.
pub static HOPS: Map = Map {
    name: "hops",
    kind: Kind::Whole,
    key: 4,
    value: HOP as u32 * 8,
    entries: 4096,
    locked: false,
    shared: true,
};

/// What became of packets, by [`Fate`], but for those that [`turn::counted`] has.
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
static MAPS: [&Map; 12] = [
    &FLOWS,
    &GATES,
    &CONNECTIONS,
    &TURNS,
    &GLOBALS,
    &DOORS,
    &HOPS,
    &FATES,
    &SUMS,
    &crate::stop::TRAIL,
    &crate::stop::STOPS,
    &crate::stop::EARLY_STOPS,
];

/// All tables, with room for so many connections.
#[must_use]
pub fn tables(places: u32) -> Vec<Map> {
    let sized = |map: &&Map| {
        let entries = match map.name {
            name if name == FLOWS.name => entries(places),
            name if name == GATES.name || name == CONNECTIONS.name => places,
            _ => map.entries,
        };
        Map { entries, ..**map }
    };
    MAPS.iter().map(sized).collect()
}

/// Words of a gate. The first eight, a line of the cache, are written as packets pass; then
/// come the directions' [`Path`]s, first halves first: most packets need no second one.
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
    /// The first half of the original direction's path; the reply's follows.
    pub const PATHS: usize = 8;
    /// From a first half to the second.
    pub const REST: usize = 16;
    /// A number of [`DONE`] that [`SENT`] never has.
    pub const SHUT: u64 = u64::MAX;
}

/// Words of a turn.
pub mod turn {
    /// How often programs have begun.
    pub const BEGUN: usize = 0;
    /// How often they have ended. Whoever shuts a gate and then sees each processor's programs
    /// end that have begun knows that nobody is in.
    pub const ENDED: usize = 1;
    /// The kernel's tick in which a program last asked for the time, and what that was,
    /// nanoseconds of `CLOCK_BOOTTIME`. No packet's time is more than a tick old.
    pub const TICK: usize = 2;
    /// See [`TICK`].
    pub const TIME: usize = 3;

    /// Where packets are counted that have gone on from here, which this line of the cache has
    /// room for; `None`: [`super::FATES`] has those.
    #[must_use]
    pub const fn counted(fate: super::Fate) -> Option<usize> {
        match fate {
            super::Fate::Forwarded => Some(4),
            super::Fate::Passed => Some(5),
            super::Fate::Early => Some(6),
            super::Fate::Sent => Some(7),
            _ => None,
        }
    }
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
    /// Frames of the engine's that have come in on their way to this host's sockets.
    pub const LET_IN: usize = 4;
    /// How many buckets of [`super::FLOWS`] are in use, a power of two, less one; and
    /// [`super::SPILLED`].
    pub const LAST_BUCKET: usize = 5;
    /// Frames of this host's sockets that have set out for the engine.
    pub const SENT_UP: usize = 6;
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

/// The tuple of a key's packets; `None`: it is no key.
#[must_use]
pub fn tuple_of(key: &[u8; KEY]) -> Option<Tuple> {
    let family = match key[5] {
        4 => Family::V4,
        6 => Family::V6,
        _ => return None,
    };
    read_tuple(&key[8..], family, key[4])
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

/// Where a program looks at packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Received by an interface.
    Ingress = 0,
    /// Sent out of one by this host.
    Egress = 1,
}
