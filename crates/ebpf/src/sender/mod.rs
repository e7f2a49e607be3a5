//! The program that tells local senders at once that rules drop what they send.
//!
//! It runs within the sender's call (cgroup egress), for one network namespace. Its code is
//! made from the rules that local packets meet: where these drop a packet *for certain* it
//! hands a copy up and refuses the packet, and the sender gets `EPERM`. The engine decides
//! about the copy as about any other packet, so that counters, logs, answers and connections
//! are its work alone. All other packets go on to where they are decided without this
//! program.
//!
//! What is certain: `rules::reduce` takes every condition apart into what must hold and what may
//! hold, given what can be read from the packet; `walk` lets a rule drop only if it must
//! hold, and gives up where a rule that lets pass may hold.

mod census;
mod read;
mod walk;

pub use census::{Census, Change};
pub(crate) use read::is_registered;

use tidegate_conntrack::Tuple;
use tidegate_ir::Ruleset;
use tidegate_wire::{Family, proto};

use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::maps::{Kind, Map};
use crate::rules::{CONTEXT, Facts, Given, INDEX, LEAST, LENGTH, OUT_DEVICE};

/// Places of [`KNOWN`].
pub const PLACES: usize = 1 << PLACE_BITS;
const PLACE_BITS: i32 = 19;
/// Words of [`KNOWN`].
pub const WORDS: usize = PLACES / 64;

/// By hash of addresses and ports ([`place`]), a bit: whether a connection's tuple has it. So
/// small that caches keep it, for floods ask about places at random. [`Census`] counts.
pub static KNOWN: Map = Map {
    name: "known",
    kind: Kind::Array,
    key: 4,
    value: WORDS as u32 * 8,
    entries: 1,
    locked: false,
    shared: true,
};

/// What holds for all packets at the moment.
pub static NOW: Map = Map {
    name: "now",
    kind: Kind::Array,
    key: 4,
    value: now::WORDS as u32 * 8,
    entries: 1,
    locked: false,
    shared: true,
};

/// Words of [`NOW`].
pub mod now {
    /// Number of the rules and surroundings in force; programs of others do nothing.
    pub const EPOCH: usize = 0;
    /// Whether connections are expected.
    pub const EXPECTED: usize = 1;
    /// How many there are.
    pub const WORDS: usize = 2;
}

/// Copies of what was dropped: [`record`].
pub static DROPPED: Map = Map {
    name: "dropped",
    kind: Kind::Ring,
    key: 0,
    value: 0,
    entries: 1 << 22,
    locked: false,
    shared: false,
};

/// All maps.
pub static MAPS: [&Map; 3] = [&KNOWN, &NOW, &DROPPED];

/// Bytes before the packet in a copy: its length, and its interface.
const HEAD: i32 = 8;
/// Room in the ring for copies; longer packets are none of ours.
const ROOMS: [i32; 3] = [256, 2048, 16384];

/// The interface and the packet of a copy.
#[must_use]
pub fn record(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (dev, rest) = rest.split_first_chunk()?;
    let packet = rest.get(..u32::from_ne_bytes(*len) as usize)?;
    Some((u32::from_ne_bytes(*dev), packet))
}

/// Rules of one family, and how the engine treats their packets.
#[derive(Clone, Debug)]
pub struct Side<'a> {
    /// Rules.
    pub rules: &'a Ruleset,
    /// Connections are tracked.
    pub tracked: bool,
    /// Connections may be translated.
    pub translated: bool,
}

/// What a program is made from.
#[derive(Clone, Debug)]
pub struct Making<'a> {
    /// Both families.
    pub sides: [Side<'a>; 2],
    /// Interfaces and the numbers that their names are in conditions; those that are not
    /// among them are none of the program's business.
    pub interfaces: &'a [(u32, u128)],
    /// Addresses (IPv4) with which a packet goes to everybody on a link.
    pub broadcast: &'a [u32],
    /// The network namespace.
    pub cookie: u64,
    /// For [`now::EPOCH`].
    pub epoch: u64,
    /// Most instructions; rules beyond that are not looked at.
    pub longest: usize,
}

/// Numbers of helpers (`__BPF_FUNC_MAPPER`).
mod helper {
    pub(super) const LOAD_BYTES: i32 = 26;
    pub(super) const NETNS_COOKIE: i32 = 122;
    pub(super) const RING_RESERVE: i32 = 131;
    pub(super) const RING_SUBMIT: i32 = 132;
    pub(super) const RING_DISCARD: i32 = 133;
}

/// Fields of `struct __sk_buff`.
mod skb {
    pub(super) const LEN: i16 = 0;
    pub(super) const PROTOCOL: i16 = 16;
    pub(super) const DEVICE: i16 = 40;
    pub(super) const GSO_SIZE: i16 = 176;
}

/// Let pass, and drop (`cgroup_skb`).
const PASS: i32 = 1;
const DROP: i32 = 0;

/// The program.
#[must_use]
pub fn program(making: &Making<'_>) -> Asm {
    let mut a = Asm::new();
    let (pass, certain) = (a.label(), a.label());
    let starts = [a.label(), a.label()];
    a.mov(CONTEXT, Reg::R1);
    read::clear(&mut a);
    concerns_us(&mut a, making, pass);
    read::family(&mut a, starts, pass);
    for (side, start) in making.sides.iter().zip(starts) {
        a.bind(start);
        read::headers(&mut a, side.rules.family, making.broadcast, pass);
        decide(&mut a, making, side, (certain, pass));
    }
    if !a.jumps_to(certain) {
        a = Asm::new();
        answer(&mut a, PASS);
        return a;
    }
    a.bind(certain);
    refuse(&mut a, pass);
    a.bind(pass);
    answer(&mut a, PASS);
    a.prune();
    a
}

fn answer(a: &mut Asm, what: i32) {
    a.mov(Reg::R0, what);
    a.exit();
}

/// Passes what is of another namespace, and everything while other rules are in force.
fn concerns_us(a: &mut Asm, making: &Making<'_>, pass: Label) {
    use Reg as R;
    a.mov(R::R1, CONTEXT);
    a.call(helper::NETNS_COOKIE);
    a.constant(R::R1, making.cookie);
    a.jump_if(Cond::Ne, R::R0, R::R1, pass);
    word(a, now::EPOCH, pass);
    a.constant(R::R2, making.epoch);
    a.jump_if(Cond::Ne, R::R1, R::R2, pass);
    a.load(Size::W, R::R1, CONTEXT, skb::GSO_SIZE);
    a.jump_if(Cond::Ne, R::R1, 0, pass);
    let ours = a.label();
    a.load(Size::W, R::R1, CONTEXT, skb::DEVICE);
    a.store(Size::W, R::R10, OUT_DEVICE, R::R1);
    for (index, _) in making.interfaces {
        a.constant(R::R2, u64::from(*index));
        a.jump_if(Cond::Eq, R::R1, R::R2, ours);
    }
    a.jump(pass);
    a.bind(ours);
}

/// R1: a word of [`NOW`].
fn word(a: &mut Asm, word: usize, pass: Label) {
    a.store(Size::W, Reg::R10, INDEX, 0);
    look_up(a, &NOW);
    a.jump_if(Cond::Eq, Reg::R0, 0, pass);
    a.load(Size::D, Reg::R1, Reg::R0, word as i16 * 8);
}

/// R0: the value of `map` under the key at [`INDEX`].
fn look_up(a: &mut Asm, map: &'static Map) {
    crate::fast::look_up(a, map, INDEX);
}

/// The rules of one family: once for packets of connections that may be known, and once
/// for others.
fn decide(a: &mut Asm, making: &Making<'_>, side: &Side<'_>, (certain, pass): (Label, Label)) {
    let known = a.label();
    if side.tracked {
        read::is_known(a, side.rules.family, known, pass);
    }
    let given = Given {
        tracked: side.tracked,
        translated: side.translated,
        received: false,
    };
    let mut facts = Facts::new(side.rules, making.interfaces, given);
    // Those who have rules share the room.
    let walks = |side: &Side<'_>| match side.rules.tables.iter().flatten().count() {
        0 => 0,
        _ => 1 + usize::from(side.tracked),
    };
    let shares: usize = making.sides.iter().map(walks).sum();
    let limit = |a: &Asm| a.len() + making.longest / shares.max(1);
    let most = limit(a);
    walk::output(a, &facts, most, certain);
    a.jump(pass);
    a.bind(known);
    if side.tracked {
        facts.known = true;
        let most = limit(a);
        walk::output(a, &facts, most, certain);
    }
    a.jump(pass);
}

/// Hands a copy up and drops the packet; passes it when there is no room.
fn refuse(a: &mut Asm, pass: Label) {
    use Reg as R;
    // Known to be so, but not to every verifier.
    a.jump_if(Cond::Lt, LENGTH, LEAST, pass);
    for room in ROOMS {
        let (larger, failed) = (a.label(), a.label());
        a.jump_if(Cond::Gt, LENGTH, room - HEAD, larger);
        a.load_map(R::R1, &DROPPED);
        a.mov(R::R2, room);
        a.mov(R::R3, 0);
        a.call(helper::RING_RESERVE);
        a.jump_if(Cond::Eq, R::R0, 0, pass);
        a.mov(R::R9, R::R0);
        a.store(Size::W, R::R9, 0, LENGTH);
        a.load(Size::W, R::R1, CONTEXT, skb::DEVICE);
        a.store(Size::W, R::R9, 4, R::R1);
        a.mov(R::R1, CONTEXT);
        a.mov(R::R2, 0);
        a.mov(R::R3, R::R9);
        a.alu(Op::Add, R::R3, HEAD);
        a.mov(R::R4, LENGTH);
        a.call(helper::LOAD_BYTES);
        a.jump_if(Cond::Ne, R::R0, 0, failed);
        ring(a, helper::RING_SUBMIT);
        answer(a, DROP);
        a.bind(failed);
        ring(a, helper::RING_DISCARD);
        a.jump(pass);
        a.bind(larger);
    }
    a.jump(pass);
}

/// Ends the writing of a copy.
fn ring(a: &mut Asm, helper: i32) {
    a.mov(Reg::R1, Reg::R9);
    a.mov(Reg::R2, 0);
    a.call(helper);
}

/// Odd, and its bits are in no order.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The place in [`KNOWN`] of a tuple as packets have it.
#[must_use]
pub fn place(tuple: &Tuple) -> usize {
    let words = |address: u128| {
        let bytes = address.to_be_bytes();
        let skip = match tuple.family {
            Family::V4 => 12,
            Family::V6 => 0,
        };
        let words: Vec<u32> = bytes[skip..].chunks_exact(4).map(word_of).collect();
        words
    };
    let ids = match tuple.proto {
        proto::TCP | proto::UDP => [tuple.src_id.to_be_bytes(), tuple.dst_id.to_be_bytes()],
        // The id of an echo; what else these protocols have is not looked at.
        proto::ICMP | proto::ICMPV6 => [tuple.src_id.to_be_bytes(), [0, 0]],
        _ => [[0, 0]; 2],
    };
    let mut hash = u64::from(tuple.proto);
    let addresses = words(tuple.src).into_iter().chain(words(tuple.dst));
    for word in addresses.chain([word_of(&ids.concat())]) {
        hash = (hash ^ u64::from(word)).wrapping_mul(FACTOR);
        hash ^= hash >> 32;
    }
    (hash >> (64 - PLACE_BITS)) as usize
}

/// Four bytes as a program loads them.
fn word_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |b| u32::from_ne_bytes(*b))
}
