//! The programs that drop what the rules drop, before anything else is asked.
//!
//! A flood of packets from sources that nobody has heard of costs a walk of the rules for
//! each of them, and leaves no connection by which the next one would be known. These
//! programs, made from the rules that received packets meet, run for packets of no known
//! flow. They drop those that the engine would drop and count them for the same rules; all
//! others go on their way. The program that has read a packet hands it over in [`TRAIL`].
//!
//! What a program must be sure of:
//! - **The way.** User space has seen the engine drop a packet to the same address at the
//!   same interface, and says for how long that stands for others ([`TARGETS`]): to which
//!   hook it leads, out of which interface. Sources are those that routing takes whatever
//!   it knows of them.
//! - **The connection.** The packet belongs to none that the tracker knows
//!   ([`crate::sender::KNOWN`]), none is expected, and it opens one for certain: a UDP
//!   datagram, or a SYN, with a good checksum.
//! - **The rules.** `walk` gives up where a condition cannot be read off the packet, and
//!   where a rule does more than to count. A limit that is used up is passed by until the
//!   time that user space names ([`LIMITS`]).
//! - **The moment.** The number of the rules in force is the program's own, from before the
//!   look at the rules until all is counted ([`trail::INSIDE`]).

mod read;
mod walk;

pub(crate) use read::hand;

use std::cell::RefCell;
use std::collections::HashMap;

use tidegate_ir::{Hook, RuleId, Ruleset, StepId, TableKind};
use tidegate_wire::Family;

use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::fast::{self, Front, frame::helper};
use crate::layout::global;
use crate::maps::{Kind, Map};
use crate::rules::{
    CONTEXT, Facts, Given, Headers, INDEX, Interval, Intervals, KEPT, LENGTH, Members, NOW, Quiet,
};
use crate::sender::is_registered;

/// Most rules and policies that a program counts for.
pub const MOST_SLOTS: usize = 1 << 17;
/// Most rules that one packet is counted for.
pub const LONGEST_TRAIL: i32 = 24;
/// Most addresses of this host, those of its networks and broadcasts counted; one with more
/// has no such programs.
pub const MOST_ADDRESSES: usize = 64;

/// Where packets of an interface to an address go: [`target`].
pub static TARGETS: Map = Map {
    name: "targets",
    kind: Kind::Recent,
    key: TARGET_KEY as u32,
    value: TARGET as u32,
    entries: 4096,
    locked: false,
    shared: false,
};

/// Times, as many as [`LIMITS`], then packets and bytes by slot, for each processor as many as
/// there are slots. Made for each program anew.
pub static COUNTS: Map = Map {
    name: "counts",
    kind: Kind::Array,
    key: 4,
    value: 8 * COUNT_WORDS as u32,
    entries: 1,
    locked: false,
    shared: true,
};
/// Long lists of values that rules ask for, such as the members of sets: a [`Member`] each. Made
/// for each program anew that has some.
pub static MEMBERS: Map = Map {
    name: "members",
    kind: Kind::Array,
    key: 4,
    value: size_of::<Member>() as u32,
    entries: 1,
    locked: false,
    shared: true,
};
/// The first and the last value of an interval, each in two halves, the lower one first.
pub type Member = Interval;

/// Limits that a program knows of, half of them for each family: until when they match no
/// packet, nanoseconds of `CLOCK_BOOTTIME`.
pub const LIMITS: usize = 2 * LIMITS_EACH;
const LIMITS_EACH: usize = 16;
/// Numbers of 64 bits in a value of [`COUNTS`].
pub const COUNT_WORDS: usize = 2;

/// A packet, and which rules it has met so far.
pub static TRAIL: Map = Map {
    name: "trail",
    kind: Kind::PerCpuArray,
    key: 4,
    value: trail::LEN as u32,
    entries: 1,
    locked: false,
    shared: false,
};

/// The program in front of which [`crate::fast`] stands in traffic control.
pub static STOPS: Map = programs_of("stops");
/// The same for XDP.
pub static EARLY_STOPS: Map = programs_of("early_stops");

const fn programs_of(name: &'static str) -> Map {
    Map {
        name,
        kind: Kind::Programs,
        key: 4,
        value: 4,
        entries: 1,
        locked: false,
        shared: false,
    }
}

/// Offsets in the value of [`TRAIL`].
pub mod trail {
    /// Programs of this processor that are between looking whether their rules are in force
    /// and having counted.
    pub const INSIDE: i16 = 0;
    /// How many slots follow.
    pub(super) const COUNT: i16 = 8;
    /// What a search has found.
    pub(super) const FOUND: i16 = 16;
    /// Bytes of the packet, of those the ones from the transport header on, and bytes of its
    /// longest segment.
    pub(super) const LENGTH: i16 = 20;
    pub(super) const REST: i16 = 24;
    pub(super) const LONGEST: i16 = 28;
    /// Its Ethernet destination.
    pub(super) const OWN: i16 = 34;
    /// Where it goes.
    pub(super) const HOOK: i16 = 40;
    pub(super) const SLOTS: i16 = 48;
    /// What rules ask for.
    pub(super) const HEADERS: i16 = SLOTS + 4 * super::LONGEST_TRAIL as i16;
    /// What a search for a value keeps.
    pub(super) const SEARCH: i16 = (HEADERS + crate::rules::Headers::LEN + 7) & !7;
    /// Bytes in all.
    pub const LEN: i16 = SEARCH + super::KEPT;
}

/// Bytes of a key of [`TARGETS`].
pub const TARGET_KEY: usize = 24;
/// Bytes of a value of [`TARGETS`].
pub const TARGET: usize = 32;

/// Offsets in a value of [`TARGETS`].
mod at {
    pub(super) const EPOCH: i16 = 0;
    pub(super) const HOOK: i16 = 8;
    pub(super) const OUT: i16 = 12;
    pub(super) const MTU: i16 = 16;
    pub(super) const OWN: i16 = 20;
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// To this host.
    Here,
    /// Out of an interface, which takes packets of so many bytes.
    Out(u32, u32),
}

impl Towards {
    const fn number(self) -> u32 {
        match self {
            Towards::Here => HERE as u32,
            Towards::Out(..) => OUT as u32,
        }
    }
}

const HERE: i32 = 1;
const OUT: i32 = 2;

/// The key of packets to `dst` at an interface.
#[must_use]
pub fn target_key(dev: u32, family: Family, dst: u128) -> [u8; TARGET_KEY] {
    let mut bytes = [0; TARGET_KEY];
    bytes[..4].copy_from_slice(&dev.to_ne_bytes());
    match family {
        Family::V4 => bytes[8..12].copy_from_slice(&(dst as u32).to_be_bytes()),
        Family::V6 => {
            bytes[4] = 6;
            bytes[8..].copy_from_slice(&dst.to_be_bytes());
        }
    }
    bytes
}

/// Where they go in one epoch, when their Ethernet destination is `own`.
#[must_use]
pub fn target(epoch: u64, towards: Towards, own: [u8; 6]) -> [u8; TARGET] {
    let mut bytes = [0; TARGET];
    let mut put = |at: i16, value: &[u8]| {
        bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
    };
    put(at::EPOCH, &epoch.to_ne_bytes());
    put(at::HOOK, &towards.number().to_ne_bytes());
    if let Towards::Out(dev, mtu) = towards {
        put(at::OUT, &dev.to_ne_bytes());
        put(at::MTU, &mtu.to_ne_bytes());
    }
    put(at::OWN, &own);
    bytes
}

/// Rules of one family.
#[derive(Clone, Debug)]
pub struct Side<'a> {
    /// Rules.
    pub rules: &'a Ruleset,
    /// Connections are tracked.
    pub tracked: bool,
    /// Those that open meet the nat table.
    pub translated: bool,
    /// Addresses of this host, and those with which a packet goes to everybody on a link:
    /// nobody else sends from them.
    pub own: &'a [u128],
}

/// What a program is made from.
#[derive(Clone, Debug)]
pub struct Making<'a> {
    /// Both families.
    pub sides: [Side<'a>; 2],
    /// Interfaces and the numbers that their names are in conditions: all there are.
    pub interfaces: &'a [(u32, u128)],
    /// For [`global::STOP`] and [`TARGETS`]; not 0.
    pub epoch: u64,
    /// Most instructions.
    pub most: usize,
    /// Most instructions of a packet's way through a hook. Rules beyond one of both are not
    /// looked at.
    pub longest: usize,
    /// Most slots.
    pub slots: usize,
}

/// How a rule ends a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It says DROP.
    Rule,
    /// It is a policy of DROP.
    Policy,
}

/// What a slot counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Family of the rule.
    pub family: Family,
    /// The rule or policy.
    pub rule: RuleId,
    /// Whether packets end there.
    pub end: Option<End>,
}

/// A program, and for which rule each slot counts.
#[derive(Debug)]
pub struct Made {
    /// Its code.
    pub code: Asm,
    /// By number.
    pub slots: Vec<Slot>,
    /// What it must be told of.
    pub limits: Vec<Limit>,
    /// What is in [`MEMBERS`].
    pub members: Vec<Member>,
}

/// A step of a rule of which programs know until when it matches no packet.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Where in [`COUNTS`].
    pub number: usize,
    /// Family of the rule.
    pub family: Family,
    /// The step.
    pub step: StepId,
}

/// Where a packet goes that the program is done with.
#[derive(Clone, Copy)]
struct Ends {
    /// Nobody knows, and no look at the rules has begun.
    out: Label,
    /// Nobody knows.
    open: Label,
    /// Dropped for certain.
    certain: Label,
}

/// What a walk counts.
#[derive(Debug)]
struct Slots {
    all: Vec<Slot>,
    most: usize,
    numbers: HashMap<(Family, RuleId), SlotNumber>,
}

/// The number of a slot, or one behind all of them for a rule that has none.
#[derive(Clone, Copy, Debug)]
struct SlotNumber(i32, bool);

impl SlotNumber {
    const fn counts(self) -> bool {
        self.1
    }
}

impl Slots {
    fn new(most: usize) -> Self {
        Slots {
            all: Vec::new(),
            most,
            numbers: HashMap::new(),
        }
    }

    /// The number of a slot: a larger one than all before, if it is new.
    fn of(&mut self, slot: Slot) -> SlotNumber {
        let next = self.numbers.len();
        let counts = next < self.most;
        let entry = self.numbers.entry((slot.family, slot.rule));
        *entry.or_insert_with(|| {
            if counts {
                self.all.push(slot);
            }
            SlotNumber(next as i32, counts)
        })
    }
}

/// The value of [`TRAIL`].
const TRAIL_AT: Reg = Reg::R9;
/// There, and not on the stack: since Linux 6.18 the verifier goes through the whole program
/// for each instruction that reads from the stack, and all that is there is part of each state
/// that it remembers.
const HEADERS: Headers = Headers(TRAIL_AT, trail::HEADERS - NOW);

const FIRST: [TableKind; 3] = [TableKind::Raw, TableKind::Mangle, TableKind::Nat];
const SECOND: [TableKind; 3] = [TableKind::Mangle, TableKind::Filter, TableKind::Security];

/// The program that stands behind `front`'s look for a flow.
#[must_use]
pub fn program(making: &Making<'_>, front: Front) -> Made {
    let mut a = Asm::new();
    let ends = Ends {
        out: a.label(),
        open: a.label(),
        certain: a.label(),
    };
    let mut slots = Slots::new(making.slots);
    let members = RefCell::default();
    enter(&mut a, making.epoch, ends);
    read::packet(&mut a, making.epoch, ends.open);
    let v6 = a.label();
    read::is_v6(&mut a, v6);
    let [side4, side6] = &making.sides;
    let known = (&mut slots, &members);
    decide(&mut a, making, (side4, 0), known, ends);
    a.bind(v6);
    let known = (&mut slots, &members);
    decide(&mut a, making, (side6, LIMITS_EACH), known, ends);
    let drops = a.jumps_to(ends.certain);
    a.bind(ends.certain);
    if drops {
        count(&mut a, slots.all.len());
        leave(&mut a);
        read::drop(&mut a, front);
    }
    a.bind(ends.open);
    leave(&mut a);
    a.bind(ends.out);
    read::go_on(&mut a, front);
    a.prune();
    let numbered = |(i, side): (usize, &Side<'_>)| {
        let (family, first) = (side.rules.family, i * LIMITS_EACH);
        let steps = limits(side.rules).into_iter().enumerate();
        steps.map(move |(n, step)| Limit {
            number: first + n,
            family,
            step,
        })
    };
    Made {
        code: a,
        slots: slots.all,
        limits: making.sides.iter().enumerate().flat_map(numbered).collect(),
        members: members.into_inner().into_all(),
    }
}

/// R0: the value of `map` under the key at [`INDEX`].
fn look_up(a: &mut Asm, map: &'static Map) {
    fast::look_up(a, map, INDEX);
}

/// From here on, as user space sees, this processor counts for the rules of `epoch`, if
/// those are in force.
fn enter(a: &mut Asm, epoch: u64, ends: Ends) {
    use Reg as R;
    a.mov(CONTEXT, R::R1);
    a.store(Size::W, R::R10, INDEX, 0);
    look_up(a, &TRAIL);
    a.jump_if(Cond::Eq, R::R0, 0, ends.out);
    a.mov(TRAIL_AT, R::R0);
    a.store(Size::D, TRAIL_AT, trail::COUNT, 0);
    // A barrier as well: what comes is not read before this is seen.
    a.mov(R::R1, 1);
    a.fetch_add(TRAIL_AT, trail::INSIDE, R::R1);
    fast::globals(a);
    a.load(Size::D, R::R1, R::R0, 8 * global::STOP as i16);
    a.constant(R::R2, epoch);
    a.jump_if(Cond::Ne, R::R1, R::R2, ends.open);
}

/// A barrier too: user space sees this no sooner than the counts.
fn leave(a: &mut Asm) {
    a.mov(Reg::R1, -1);
    a.fetch_add(TRAIL_AT, trail::INSIDE, Reg::R1);
}

/// The first of the steps of which it can be said until when they match no packet.
fn limits(rules: &Ruleset) -> Vec<StepId> {
    let steps = rules.steps.iter().enumerate();
    let quiet = steps.filter(|(_, step)| step.quiet_until().is_some());
    let ids = quiet.map(|(i, _)| StepId(i as u32));
    ids.take(LIMITS_EACH).collect()
}

/// One family's packets.
fn decide(
    a: &mut Asm,
    making: &Making<'_>,
    (side, limit): (&Side<'_>, usize),
    (slots, members): (&mut Slots, &RefCell<Intervals>),
    ends: Ends,
) {
    let family = side.rules.family;
    if side.rules.tables.iter().flatten().next().is_none() {
        return a.jump(ends.open);
    }
    read::source(a, side, ends.open);
    if side.tracked {
        is_registered(a, (family, HEADERS), ends.open, ends.open);
    }
    let given = Given {
        tracked: side.tracked,
        translated: false,
        received: true,
    };
    let mut facts = Facts::new(side.rules, making.interfaces, given);
    facts.headers = HEADERS;
    let steps = limits(side.rules);
    facts.quiet = Some(Quiet {
        steps: &steps,
        map: &COUNTS,
        first: limit as i32,
    });
    facts.members = Some(Members {
        intervals: members,
        map: &MEMBERS,
        kept: (TRAIL_AT, trail::SEARCH),
        open: ends.open,
    });
    let mut hook = |a: &mut Asm, hook, tables: &[TableKind]| {
        facts.hook = hook;
        let mut room = walk::Room {
            most: making.most,
            longest: making.longest,
            begun: a.len(),
            aside: 0,
        };
        walk::tables(a, &facts, tables, (slots, &mut room), ends);
    };
    let first = match side.tracked && side.translated {
        true => &FIRST[..],
        false => &FIRST[..2],
    };
    hook(a, Hook::Prerouting, first);
    let forward = a.label();
    read::is_forwarded(a, forward);
    hook(a, Hook::Input, &SECOND);
    a.jump(ends.open);
    a.bind(forward);
    hook(a, Hook::Forward, &SECOND);
    a.jump(ends.open);
}

/// Counts the packet for the rules it has met. Uses [`crate::rules::REST`]'s register, of
/// which nobody asks any more.
fn count(a: &mut Asm, slots: usize) {
    use Reg as R;
    let done = a.label();
    a.call(helper::PROCESSOR);
    a.alu(Op::Mul, R::R0, slots as i32);
    a.alu(Op::Add, R::R0, LIMITS as i32);
    a.mov(R::R8, R::R0);
    for i in 0..LONGEST_TRAIL {
        a.load(Size::D, R::R1, TRAIL_AT, trail::COUNT);
        a.jump_if(Cond::Le, R::R1, i, done);
        a.load(Size::W, R::R1, TRAIL_AT, trail::SLOTS + 4 * i as i16);
        a.alu(Op::Add, R::R1, R::R8);
        a.store(Size::W, R::R10, INDEX, R::R1);
        look_up(a, &COUNTS);
        a.jump_if(Cond::Eq, R::R0, 0, done);
        a.load(Size::D, R::R1, R::R0, 0);
        a.alu(Op::Add, R::R1, 1);
        a.store(Size::D, R::R0, 0, R::R1);
        a.load(Size::D, R::R1, R::R0, 8);
        a.alu(Op::Add, R::R1, LENGTH);
        a.store(Size::D, R::R0, 8, R::R1);
    }
    a.bind(done);
}
