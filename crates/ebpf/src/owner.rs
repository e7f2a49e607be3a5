//! The program that notes whose packets local sockets send, for rules that ask for it.
//!
//! It runs within the sender's call (cgroup egress), where the socket is still known, for one
//! network namespace; it drops nothing. While no rule asks it does nothing either.

use tidegate_wire::proto;

use crate::asm::{Asm, Cond, Op, Reg, Size};
use crate::maps::{Kind, Map};

/// Whose packets are: [`key`], [`Note`].
pub static OWNERS: Map = Map {
    name: "owners",
    kind: Kind::Recent,
    key: KEY as u32,
    value: NOTE as u32,
    entries: 1 << 16,
    locked: false,
    shared: false,
};

/// One word: whether rules ask.
pub static ASKED: Map = Map {
    name: "asked",
    kind: Kind::Array,
    key: 4,
    value: 8,
    entries: 1,
    locked: false,
    shared: true,
};

/// All maps.
pub static MAPS: [&Map; 2] = [&OWNERS, &ASKED];

/// Bytes of a key: source, destination (16 each, IPv4 in the last four), ports, protocol.
pub const KEY: usize = 40;
/// Bytes of a note: user, nothing, control group.
pub const NOTE: usize = 16;

/// The key of a packet: addresses and, of TCP and UDP, ports; of ICMP the two bytes behind
/// the checksum for the first port.
#[must_use]
pub fn key(protocol: u8, src: (u128, u16), dst: (u128, u16)) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..16].copy_from_slice(&src.0.to_be_bytes());
    key[16..32].copy_from_slice(&dst.0.to_be_bytes());
    key[32..34].copy_from_slice(&src.1.to_be_bytes());
    key[34..36].copy_from_slice(&dst.1.to_be_bytes());
    key[36] = protocol;
    key
}

/// What is known of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// User that opened the socket.
    pub uid: u32,
    /// Number of its control group (of version 2), which is its directory's inode.
    pub cgroup: u64,
}

impl Note {
    /// As the program has written it.
    #[must_use]
    pub fn read(bytes: [u8; NOTE]) -> Self {
        let [a, b, c, d, _, _, _, _, cgroup @ ..] = bytes;
        Note {
            uid: u32::from_ne_bytes([a, b, c, d]),
            cgroup: u64::from_ne_bytes(cgroup),
        }
    }
}

/// Numbers of helpers (`__BPF_FUNC_MAPPER`).
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const MAP_UPDATE: i32 = 2;
    pub(super) const LOAD_BYTES: i32 = 26;
    pub(super) const SOCKET_UID: i32 = 47;
    pub(super) const CGROUP_ID: i32 = 79;
    pub(super) const NETNS_COOKIE: i32 = 122;
}

/// `protocol` of `struct __sk_buff`.
const PROTOCOL: i16 = 16;
const ETH_P_IP: i32 = 0x0800;
const ETH_P_IPV6: i32 = 0x86dd;

const CONTEXT: Reg = Reg::R6;
/// Where the transport header begins.
const L4_AT: Reg = Reg::R7;
const TRANSPORT: Reg = Reg::R8;

/// On the stack: the network header, what follows it, the key, the note.
const IP: i16 = -40;
const L4: i16 = -48;
const KEY_AT: i16 = -88;
const NOTE_AT: i16 = -104;
const INDEX: i16 = -108;

/// The program for the network namespace with that number.
#[must_use]
pub fn program(cookie: u64) -> Asm {
    use Reg as R;
    let mut a = Asm::new();
    let (pass, v6, found) = (a.label(), a.label(), a.label());
    a.mov(CONTEXT, R::R1);
    is_asked(&mut a, cookie, pass);
    for word in 0..KEY as i16 / 8 {
        a.store(Size::D, R::R10, KEY_AT + word * 8, 0);
    }
    a.store(Size::D, R::R10, L4, 0);
    a.load(Size::W, R::R1, CONTEXT, PROTOCOL);
    a.swap(R::R1, 16);
    a.jump_if(Cond::Eq, R::R1, ETH_P_IPV6, v6);
    a.jump_if(Cond::Ne, R::R1, ETH_P_IP, pass);
    ipv4(&mut a, pass);
    a.jump(found);
    a.bind(v6);
    ipv6(&mut a, pass);
    a.bind(found);
    ports(&mut a);
    note(&mut a);
    a.bind(pass);
    a.mov(R::R0, 1);
    a.exit();
    a
}

fn is_asked(a: &mut Asm, cookie: u64, pass: crate::asm::Label) {
    use Reg as R;
    a.store(Size::W, R::R10, INDEX, 0);
    address(a, R::R2, INDEX);
    a.load_map(R::R1, &ASKED);
    a.call(helper::MAP_LOOKUP);
    a.jump_if(Cond::Eq, R::R0, 0, pass);
    a.load(Size::D, R::R1, R::R0, 0);
    a.jump_if(Cond::Eq, R::R1, 0, pass);
    a.mov(R::R1, CONTEXT);
    a.call(helper::NETNS_COOKIE);
    a.constant(R::R1, cookie);
    a.jump_if(Cond::Ne, R::R0, R::R1, pass);
}

fn address(a: &mut Asm, reg: Reg, at: i16) {
    a.mov(reg, Reg::R10);
    a.alu(Op::Add, reg, i32::from(at));
}

/// Bytes of the packet from R2 on; R0 is not 0 where there are not so many.
fn load(a: &mut Asm, to: i16, len: i32) {
    a.mov(Reg::R1, CONTEXT);
    address(a, Reg::R3, to);
    a.mov(Reg::R4, len);
    a.call(helper::LOAD_BYTES);
}

fn ipv4(a: &mut Asm, pass: crate::asm::Label) {
    use Reg as R;
    a.mov(R::R2, 0);
    load(a, IP, 20);
    a.jump_if(Cond::Ne, R::R0, 0, pass);
    for (from, to) in [(12, 12), (16, 28)] {
        a.load(Size::W, R::R1, R::R10, IP + from);
        a.store(Size::W, R::R10, KEY_AT + to, R::R1);
    }
    a.load(Size::B, TRANSPORT, R::R10, IP + 9);
    a.load(Size::B, L4_AT, R::R10, IP);
    a.alu(Op::And, L4_AT, 0x0f);
    a.alu(Op::Lsh, L4_AT, 2);
}

/// Extension headers are not looked behind.
fn ipv6(a: &mut Asm, pass: crate::asm::Label) {
    use Reg as R;
    a.mov(R::R2, 0);
    load(a, IP, 40);
    a.jump_if(Cond::Ne, R::R0, 0, pass);
    for word in 0..4 {
        a.load(Size::D, R::R1, R::R10, IP + 8 + word * 8);
        a.store(Size::D, R::R10, KEY_AT + word * 8, R::R1);
    }
    a.load(Size::B, TRANSPORT, R::R10, IP + 6);
    a.mov(L4_AT, 40);
}

/// Ports, or what stands for them; nothing where the packet ends before.
fn ports(a: &mut Asm) {
    use Reg as R;
    let (both, echo, done) = (a.label(), a.label(), a.label());
    a.store(Size::B, R::R10, KEY_AT + 36, TRANSPORT);
    a.mov(R::R2, L4_AT);
    load(a, L4, 8);
    a.jump_if(Cond::Ne, R::R0, 0, done);
    for (protocol, to) in [
        (proto::TCP, both),
        (proto::UDP, both),
        (proto::ICMP, echo),
        (proto::ICMPV6, echo),
    ] {
        a.jump_if(Cond::Eq, TRANSPORT, i32::from(protocol), to);
    }
    a.jump(done);
    a.bind(echo);
    a.load(Size::H, R::R1, R::R10, L4 + 4);
    a.store(Size::H, R::R10, KEY_AT + 32, R::R1);
    a.jump(done);
    a.bind(both);
    a.load(Size::W, R::R1, R::R10, L4);
    a.store(Size::W, R::R10, KEY_AT + 32, R::R1);
    a.bind(done);
}

fn note(a: &mut Asm) {
    use Reg as R;
    a.store(Size::D, R::R10, NOTE_AT, 0);
    a.mov(R::R1, CONTEXT);
    a.call(helper::SOCKET_UID);
    a.store(Size::W, R::R10, NOTE_AT, R::R0);
    a.mov(R::R1, CONTEXT);
    a.call(helper::CGROUP_ID);
    a.store(Size::D, R::R10, NOTE_AT + 8, R::R0);
    a.load_map(R::R1, &OWNERS);
    address(a, R::R2, KEY_AT);
    address(a, R::R3, NOTE_AT);
    a.mov(R::R4, 0);
    a.call(helper::MAP_UPDATE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_notes_are_laid_out_as_the_program_does() {
        let key = key(17, (0x0a00_0001, 0x1234), (0x0a00_0002, 53));
        assert_eq!(key[..16], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        assert_eq!(key[28..], [10, 0, 0, 2, 0x12, 0x34, 0, 53, 17, 0, 0, 0]);
        let mut bytes = [0; NOTE];
        bytes[..4].copy_from_slice(&1000u32.to_ne_bytes());
        bytes[8..].copy_from_slice(&77u64.to_ne_bytes());
        let note = Note {
            uid: 1000,
            cgroup: 77,
        };
        assert_eq!(Note::read(bytes), note);
    }
}
