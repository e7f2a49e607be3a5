//! The programs of the fast path.
//!
//! `ingress` looks at every frame that a guarded interface receives. A packet of a flow
//! that the engine has decided, that is plain in every respect and clearly inside its TCP
//! window, is counted, rewritten and sent on; every other one goes up to the engine, and
//! while one of a connection is up there all of its others follow, so that none overtakes.
//!
//! `early` does the same before the kernel looks at a frame (XDP), for flows that go between
//! interfaces which can do without it; it hands all other frames on to `ingress`.
//!
//! Packets of flows that nobody has heard of are handed to a program of [`crate::stop`], where
//! there is one.
//!
//! `egress` lets out what `ingress` has sent on, and does for packets of this host's own
//! sockets what `ingress` does for received ones; on loopback these come in again, where
//! `inside` counts those that the engine lets in. `tail` ends the way of frames that the engine's
//! socket has taken.

mod early;
mod find;
pub(crate) mod frame;
mod local;
pub(crate) mod parse;
mod send;
mod sum;
mod take;
#[cfg(test)]
mod tests;
mod turn;
mod window;

use tidegate_conntrack::Dir;

use self::find::find;
pub use self::frame::Front;
use self::frame::{DIR, DOUBT, ETHERNET, INDEX, PLACE, answer, helper, note, skb};
pub(crate) use self::frame::{ETH_P_IP, ETH_P_IPV6};
use self::parse::Exits;
use self::take::take;
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{DOORS, FATES, Fate, GLOBALS, HASH, Hook, global};
use crate::maps::Map;
use crate::object::Program;

/// The packet that the program was started for.
const CONTEXT: Reg = Reg::R6;
/// The packet's connection, and the path of its direction.
const GATE: Reg = Reg::R7;
const PATH: Reg = Reg::R8;
/// Its TCP windows.
const CONNECTION: Reg = Reg::R9;

/// What the programs of one datapath are made with. But for the last two, nobody else knows it.
#[derive(Clone, Copy, Debug)]
pub struct Secrets {
    /// Ethernet source of frames that the engine lets in.
    pub injected: [u8; 6],
    /// First bytes of the Ethernet address of frames that go up although their connection is
    /// known; see [`known`]. It is this host's own in such a frame, so nothing is lost.
    pub known: [u8; 2],
    /// Note on packets that the fast path has sent on.
    pub sent_on: [u32; 2],
    /// Of the hash of flows.
    pub hash: [u64; HASH],
    /// For how many connections there are places, which says how the index of flows is laid out.
    pub places: u32,
    /// Frames may come with a note of [`EARLY`].
    pub early: bool,
}

/// `PACKET_OTHERHOST`: frames for somebody else, which nobody here looks at.
const OTHER_HOST: i32 = 3;

/// Name of the program for what interfaces receive.
pub const INGRESS: &str = "ingress";
/// Name of the program for what interfaces receive, before the kernel.
pub const EARLY: &str = "early";
/// Name of the program for what is sent.
pub const EGRESS: &str = "egress";
/// Name of the program for what loopback receives.
pub const INSIDE: &str = "inside";
/// Name of the program behind the engine's socket.
pub const TAIL: &str = "tail";

/// All programs, for [`tables`](crate::layout::tables) that exist already: `map` knows their file
/// descriptors. `None` when it does not know one.
pub fn programs(secrets: &Secrets, map: impl Fn(&Map) -> Option<i32>) -> Option<Vec<Program>> {
    let all = [
        (INGRESS, "classifier", ingress(secrets)),
        (EGRESS, "classifier", local::egress(secrets)),
        (INSIDE, "classifier", local::inside(secrets)),
        (TAIL, "classifier", tail()),
        (EARLY, "xdp", early::early(secrets)),
    ];
    let bound = |(name, section, code): (_, _, Asm)| {
        let code = code.bound(&map)?;
        Some(Program {
            name,
            section,
            code,
        })
    };
    all.into_iter().map(bound).collect()
}

/// `dst` points to a place of the stack.
fn stack(a: &mut Asm, dst: Reg, at: i16) {
    a.mov(dst, Reg::R10);
    a.alu(Op::Add, dst, i32::from(at));
}

/// R0: the value of `map` under the key at `key` on the stack.
pub(crate) fn look_up(a: &mut Asm, map: &'static Map, key: i16) {
    a.load_map(Reg::R1, map);
    stack(a, Reg::R2, key);
    a.call(helper::MAP_LOOKUP);
}

/// R0: what is the same for all packets.
pub(crate) fn globals(a: &mut Asm) {
    a.load_values(Reg::R0, &GLOBALS);
}

/// `at`, the number of one of so many `entries` of `map`, becomes its address; goes to `none` with
/// a higher one. Uses R0 to R5.
fn entry(a: &mut Asm, (map, entries): (&'static Map, u32), at: Reg, none: Label) {
    if map.is_whole(entries) {
        a.jump_if(Cond::Ge, at, entries as i32, none);
        match map.value.is_power_of_two() {
            true => a.alu(Op::Lsh, at, map.value.ilog2() as i32),
            false => a.alu(Op::Mul, at, map.value as i32),
        }
        a.load_values(Reg::R0, map);
        a.alu(Op::Add, at, Reg::R0);
    } else {
        a.store(Size::W, Reg::R10, INDEX, at);
        look_up(a, map, INDEX);
        a.jump_if(Cond::Eq, Reg::R0, 0, none);
        a.mov(at, Reg::R0);
    }
}

fn ingress(secrets: &Secrets) -> Asm {
    let mut a = Asm::new();
    let (next, up, hold, noted) = (a.label(), a.label(), a.label(), a.label());
    let let_in = a.label();
    a.mov(CONTEXT, Reg::R1);
    fine(&mut a);
    waits(&mut a, next);
    if secrets.early {
        judged(&mut a, secrets, noted);
    }
    read(&mut a, secrets, (next, let_in), up);
    find(&mut a, secrets, (Front::Tcx, Hook::Ingress), up);
    take(&mut a, hold, None);
    send::on(&mut a, secrets);

    a.bind(hold);
    turn::end(&mut a, None);
    a.bind(noted);
    mark_known(&mut a, secrets, 0);
    a.bind(up);
    go_up(&mut a, next);
    a.bind(let_in);
    local::let_in(&mut a);
    a.bind(next);
    a.mov(Reg::R0, answer::NEXT);
    a.exit();
    a
}

const fn word(n: usize) -> i16 {
    n as i16 * 8
}

/// Goes to `next` while those behind are to do the work: a predecessor's.
fn waits(a: &mut Asm, next: Label) {
    globals(a);
    a.load(Size::D, Reg::R1, Reg::R0, word(global::WAITS));
    a.jump_if(Cond::Ne, Reg::R1, 0, next);
}

/// Goes to `noted` with a frame that [`early`] has judged.
fn judged(a: &mut Asm, secrets: &Secrets, noted: Label) {
    use Reg as R;
    let plain = a.label();
    a.load(Size::W, R::R2, CONTEXT, skb::META);
    a.load(Size::W, R::R3, CONTEXT, skb::DATA);
    a.mov(R::R4, R::R2);
    a.alu(Op::Add, R::R4, i32::from(note::LEN));
    a.jump_if(Cond::Gt, R::R4, R::R3, plain);
    for (i, word) in early::secret(secrets).into_iter().enumerate() {
        a.load(Size::W, R::R4, R::R2, note::SECRET + 4 * i as i16);
        a.jump_if32(Cond::Ne, R::R4, word, plain);
    }
    a.load(Size::W, R::R4, R::R2, note::PLACE);
    a.mov(R::R5, R::R4);
    a.alu(Op::And, R::R4, 0x7fff_ffff);
    a.store(Size::W, R::R10, PLACE, R::R4);
    a.alu(Op::Rsh, R::R5, 31);
    a.store(Size::W, R::R10, DIR, R::R5);
    a.load(Size::W, R::R4, R::R2, note::FATE);
    a.store(Size::W, R::R10, DOUBT, R::R4);
    a.jump(noted);
    a.bind(plain);
}

/// Reads the packet. What does not concern us goes to `next`, what the engine lets in to
/// `let_in`.
fn read(a: &mut Asm, secrets: &Secrets, (next, let_in): (Label, Label), up: Label) {
    use Reg as R;
    let exits = ours(a, next);
    let (short, not_ours, read) = (a.label(), a.label(), a.label());
    let is_ours = |a: &mut Asm, yes| {
        parse::source_is(a, secrets.injected, let_in);
        a.load(Size::W, R::R1, CONTEXT, skb::PACKET_TYPE);
        a.jump_if(Cond::Eq, R::R1, 0, yes);
    };
    exits.first(a, short);
    is_ours(a, read);
    a.jump(not_ours);
    a.aside(|a| {
        a.bind(not_ours);
        a.jump_if(Cond::Ge, R::R1, OTHER_HOST, next);
        leave(a, Fate::NotOurs, up);
        a.bind(short);
        exits.load(a, 0, ETHERNET, send::ETHERNET_HEADER);
        is_ours(a, exits.unusual);
        a.jump(not_ours);
        a.bind(exits.unusual);
        leave(a, Fate::Unusual, up);
    });
    a.bind(read);
}

/// Goes to `next` with what is neither IPv4 nor IPv6, or bears a tag. R8: the Ethernet type.
fn ours(a: &mut Asm, next: Label) -> Exits {
    use Reg as R;
    let ours = a.label();
    a.load(Size::W, R::R8, CONTEXT, skb::PROTOCOL);
    a.load(Size::W, R::R1, CONTEXT, skb::VLAN_PRESENT);
    a.jump_if(Cond::Ne, R::R1, 0, next);
    a.jump_if(Cond::Eq, R::R8, ETH_P_IP, ours);
    a.jump_if(Cond::Ne, R::R8, ETH_P_IPV6, next);
    a.bind(ours);
    Exits::new(a, Front::Tcx)
}

/// Nothing is wrong with the packet so far.
fn fine(a: &mut Asm) {
    a.store(Size::W, Reg::R10, DOUBT, 0);
}

/// Notes why the packet goes up, and goes.
fn leave(a: &mut Asm, fate: Fate, to: Label) {
    a.store(Size::W, Reg::R10, DOUBT, fate as i32);
    a.jump(to);
}

/// Goes to `out` with a packet that has been read and summed up, and whose transport checksum
/// is wrong, or could not be verified.
pub(crate) fn verify(a: &mut Asm, front: Front, out: Label) {
    a.store(Size::W, Reg::R10, DOUBT, 0);
    match front {
        Front::Tcx => send::verify(a),
        Front::Xdp => early::verify(a),
    }
    a.load(Size::W, Reg::R1, Reg::R10, DOUBT);
    a.jump_if(Cond::Ne, Reg::R1, 0, out);
}

/// Counts the packet by the fate at [`DOUBT`].
pub(crate) fn count_fate(a: &mut Asm) {
    let none = a.label();
    look_up(a, &FATES, DOUBT);
    a.jump_if(Cond::Eq, Reg::R0, 0, none);
    a.load(Size::D, Reg::R1, Reg::R0, 0);
    a.alu(Op::Add, Reg::R1, 1);
    a.store(Size::D, Reg::R0, 0, Reg::R1);
    a.bind(none);
}

/// Says on the frame whose it is, in place of the Ethernet address that this host itself has
/// there, the one at `offset`: [`known`] reads that.
fn mark_known(a: &mut Asm, secrets: &Secrets, offset: i32) {
    use Reg as R;
    a.load(Size::W, R::R1, R::R10, PLACE);
    a.load(Size::W, R::R2, R::R10, DIR);
    a.alu(Op::Lsh, R::R2, 31);
    a.alu(Op::Or, R::R1, R::R2);
    a.store(Size::W, R::R10, ETHERNET + 2, R::R1);
    let tag = i32::from(u16::from_ne_bytes(secrets.known));
    a.store(Size::H, R::R10, ETHERNET, tag);
    a.mov(R::R1, CONTEXT);
    a.mov(R::R2, offset);
    stack(a, R::R3, ETHERNET);
    a.mov(R::R4, 6);
    a.mov(R::R5, 0);
    a.call(helper::STORE_BYTES);
}

/// Place and direction of a known connection, from the Ethernet address of one of its packets
/// that came up: the destination of a received one, the source of a sent one.
#[must_use]
pub fn known(secrets: &Secrets, address: [u8; 6]) -> Option<(u32, Dir)> {
    let [a, b, place @ ..] = address;
    let place = u32::from_ne_bytes(place);
    let dir = Dir::BOTH[(place >> 31) as usize];
    ([a, b] == secrets.known).then_some((place & 0x7fff_ffff, dir))
}

/// Sends the packet up to the engine: out of the far end of its interface's door.
pub(crate) fn go_up(a: &mut Asm, next: Label) {
    count_fate(a);
    door(a, 0, next);
    a.call(helper::REDIRECT_PEER);
    a.exit();
}

/// R1: the `n`th door of the packet's interface, R2: no flags; goes to `next` without one.
fn door(a: &mut Asm, n: i16, next: Label) {
    use Reg as R;
    a.load(Size::W, R::R1, CONTEXT, skb::DEVICE);
    a.store(Size::W, R::R10, INDEX, R::R1);
    look_up(a, &DOORS, INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, next);
    a.load(Size::W, R::R1, R::R0, 4 * n);
    a.mov(R::R2, 0);
}

fn tail() -> Asm {
    let mut a = Asm::new();
    a.mov(Reg::R0, answer::DROP);
    a.exit();
    a
}
