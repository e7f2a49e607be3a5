//! The programs that note whose packets local sockets send, for rules that ask for it.
//!
//! One runs within the sender's call (cgroup egress), where the socket is still known, for one
//! network namespace; it drops nothing. While no rule asks it does nothing either. The kernel
//! does not tell it of a socket's group and class: another notes them with the socket when a
//! program opens one.

use crate::asm::{Asm, Cond, Op, Reg, Size};
use crate::ends::{self, KEY_AT, address};
use crate::maps::{Kind, Map};

pub use crate::ends::{KEY, key};

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

/// What [`creation`] notes with a socket: group, class and process.
pub static CREATORS: Map = Map {
    name: "creators",
    kind: Kind::OfSocket,
    key: 4,
    value: CREATOR as u32,
    entries: 0,
    locked: false,
    shared: false,
};

/// All maps.
pub static MAPS: [&Map; 3] = [&OWNERS, &ASKED, &CREATORS];

const CREATOR: usize = 12;
/// Bytes of a note: user, nothing, control group, and what a creator is.
pub const NOTE: usize = 32;

/// What is known of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// User that opened the socket.
    pub uid: u32,
    /// Number of its control group (of version 2), which is its directory's inode.
    pub cgroup: u64,
    /// Who opened the socket, where that was seen.
    pub creator: Option<Creator>,
}

/// The program that opened a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Its group.
    pub gid: u32,
    /// Its class (`net_cls.classid`).
    pub class: u32,
    /// Its process.
    pub process: u32,
}

impl Note {
    /// As the program has written it.
    #[must_use]
    pub fn read(bytes: [u8; NOTE]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_ne_bytes(word)
        };
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h, ..] = bytes;
        Note {
            uid: word(0),
            cgroup: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            creator: (word(24) != 0).then(|| Creator {
                gid: word(16),
                class: word(20),
                process: word(24),
            }),
        }
    }
}

/// Numbers of helpers (`__BPF_FUNC_MAPPER`).
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const MAP_UPDATE: i32 = 2;
    pub(super) const CURRENT_PROCESS: i32 = 14;
    pub(super) const CURRENT_IDS: i32 = 15;
    pub(super) const CURRENT_CLASS: i32 = 17;
    pub(super) const SOCKET_UID: i32 = 47;
    pub(super) const CGROUP_ID: i32 = 79;
    pub(super) const SOCKET_STORAGE: i32 = 107;
    pub(super) const NETNS_COOKIE: i32 = 122;
}

const CONTEXT: Reg = Reg::R6;
/// `sk` of `struct __sk_buff`.
const SOCKET: i16 = 168;
/// `BPF_SK_STORAGE_GET_F_CREATE`
const MAKE: i32 = 1;

/// On the stack, below the packet's ends: the note.
const NOTE_AT: i16 = ends::STACK - NOTE as i16;
const INDEX: i16 = NOTE_AT - 4;

/// The program for the network namespace with that number.
#[must_use]
pub fn program(cookie: u64) -> Asm {
    use Reg as R;
    let mut a = Asm::new();
    let pass = a.label();
    a.mov(CONTEXT, R::R1);
    is_asked(&mut a, cookie, pass);
    ends::read(&mut a, CONTEXT, 0, pass);
    note(&mut a);
    a.bind(pass);
    a.mov(R::R0, 1);
    a.exit();
    a
}

/// The program that notes who opens a socket, for the same namespace.
#[must_use]
pub fn creation(cookie: u64) -> Asm {
    use Reg as R;
    let mut a = Asm::new();
    let pass = a.label();
    a.mov(CONTEXT, R::R1);
    is_here(&mut a, cookie, pass);
    a.load_map(R::R1, &CREATORS);
    a.mov(R::R2, CONTEXT);
    a.mov(R::R3, 0);
    a.mov(R::R4, MAKE);
    a.call(helper::SOCKET_STORAGE);
    a.jump_if(Cond::Eq, R::R0, 0, pass);
    a.mov(R::R7, R::R0);
    a.call(helper::CURRENT_IDS);
    a.alu(Op::Rsh, R::R0, 32);
    a.store(Size::W, R::R7, 0, R::R0);
    a.mov(R::R1, CONTEXT);
    a.call(helper::CURRENT_CLASS);
    a.store(Size::W, R::R7, 4, R::R0);
    a.call(helper::CURRENT_PROCESS);
    a.alu(Op::Rsh, R::R0, 32);
    a.store(Size::W, R::R7, 8, R::R0);
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
    is_here(a, cookie, pass);
}

fn is_here(a: &mut Asm, cookie: u64, pass: crate::asm::Label) {
    use Reg as R;
    a.mov(R::R1, CONTEXT);
    a.call(helper::NETNS_COOKIE);
    a.constant(R::R1, cookie);
    a.jump_if(Cond::Ne, R::R0, R::R1, pass);
}

fn note(a: &mut Asm) {
    use Reg as R;
    for word in 0..NOTE as i16 / 8 {
        a.store(Size::D, R::R10, NOTE_AT + word * 8, 0);
    }
    a.mov(R::R1, CONTEXT);
    a.call(helper::SOCKET_UID);
    a.store(Size::W, R::R10, NOTE_AT, R::R0);
    a.mov(R::R1, CONTEXT);
    a.call(helper::CGROUP_ID);
    a.store(Size::D, R::R10, NOTE_AT + 8, R::R0);
    creator(a);
    a.load_map(R::R1, &OWNERS);
    address(a, R::R2, KEY_AT);
    address(a, R::R3, NOTE_AT);
    a.mov(R::R4, 0);
    a.call(helper::MAP_UPDATE);
}

/// What has been noted with the socket.
fn creator(a: &mut Asm) {
    use Reg as R;
    let nothing = a.label();
    a.load(Size::D, R::R2, CONTEXT, SOCKET);
    a.jump_if(Cond::Eq, R::R2, 0, nothing);
    a.load_map(R::R1, &CREATORS);
    a.mov(R::R3, 0);
    a.mov(R::R4, 0);
    a.call(helper::SOCKET_STORAGE);
    a.jump_if(Cond::Eq, R::R0, 0, nothing);
    for word in 0..CREATOR as i16 / 4 {
        a.load(Size::W, R::R1, R::R0, word * 4);
        a.store(Size::W, R::R10, NOTE_AT + 16 + word * 4, R::R1);
    }
    a.bind(nothing);
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
        bytes[8..16].copy_from_slice(&77u64.to_ne_bytes());
        let note = Note {
            uid: 1000,
            cgroup: 77,
            creator: None,
        };
        assert_eq!(Note::read(bytes), note);
        bytes[16..20].copy_from_slice(&100u32.to_ne_bytes());
        bytes[20..24].copy_from_slice(&5u32.to_ne_bytes());
        bytes[24..28].copy_from_slice(&4321u32.to_ne_bytes());
        let creator = Creator {
            gid: 100,
            class: 5,
            process: 4321,
        };
        assert_eq!(Note::read(bytes).creator, Some(creator));
    }
}
