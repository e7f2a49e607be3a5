//! The program that hands packets to sockets they are not addressed to (TPROXY): it sees what
//! the datapath lets in, before routing, and gives a packet the mark that the host's routing
//! rules are to see and the socket that is to have it.

use crate::asm::{Asm, Cond, Reg, Size};
use crate::ends::{self, KEY_AT, address};
use crate::maps::{Kind, Map};
use crate::object::Program;

pub use crate::ends::{KEY, key};

/// What is to be done with packets between two ends: [`key`], [`Gift`].
pub static GIVEN: Map = Map {
    name: "given",
    kind: Kind::Hash,
    key: KEY as u32,
    value: GIFT as u32,
    entries: MOST as u32,
    locked: false,
    shared: false,
};

/// Most entries.
pub const MOST: usize = 1 << 16;
/// Bytes of a [`Gift`]: mark, port (in the wire's order), whether there is a socket, address
/// (IPv4 in the last four bytes).
pub const GIFT: usize = 24;
/// Name of the program.
pub const NAME: &str = "handing";

/// What the program does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gift {
    /// The mark that it gets.
    pub mark: u32,
    /// Where the socket waits that it is for; `None`: the one it is addressed to.
    pub socket: Option<(u128, u16)>,
}

impl Gift {
    /// As the program reads it.
    #[must_use]
    pub fn bytes(&self) -> [u8; GIFT] {
        let mut bytes = [0; GIFT];
        bytes[..4].copy_from_slice(&self.mark.to_ne_bytes());
        if let Some((address, port)) = self.socket {
            bytes[4..6].copy_from_slice(&port.to_be_bytes());
            bytes[6] = 1;
            bytes[8..].copy_from_slice(&address.to_be_bytes());
        }
        bytes
    }
}

/// Numbers of helpers (`__BPF_FUNC_MAPPER`).
mod helper {
    pub(super) const MAP_LOOKUP: i32 = 1;
    pub(super) const LOOKUP_TCP: i32 = 84;
    pub(super) const LOOKUP_UDP: i32 = 85;
    pub(super) const RELEASE: i32 = 86;
    pub(super) const ASSIGN: i32 = 124;
}

/// Bytes of a link-layer header.
const ETHERNET: i32 = 14;
/// `mark` of `struct __sk_buff`.
const MARK: i16 = 8;
/// `TCX_NEXT`: others decide.
const NEXT: i32 = -1;
/// `BPF_F_CURRENT_NETNS`
const HERE: i32 = -1;
const UDP: i32 = 17;
const TCP: i32 = 6;

const CONTEXT: Reg = Reg::R6;
/// The packet's transport protocol, as [`ends::read`] leaves it.
const TRANSPORT: Reg = Reg::R8;
const GIFT_AT: Reg = Reg::R9;

/// On the stack, below the packet's ends: `struct bpf_sock_tuple`, of IPv6 36 bytes.
const TUPLE: i16 = ends::STACK - 40;

/// The program, with its table.
#[must_use]
pub fn program() -> Program {
    Program {
        name: NAME,
        section: "classifier",
        code: code(),
    }
}

fn code() -> Asm {
    use Reg as R;
    let mut a = Asm::new();
    let (pass, v6) = (a.label(), a.label());
    a.mov(CONTEXT, R::R1);
    ends::read(&mut a, CONTEXT, ETHERNET, pass);
    a.load_map(R::R1, &GIVEN);
    address(&mut a, R::R2, KEY_AT);
    a.call(helper::MAP_LOOKUP);
    a.jump_if(Cond::Eq, R::R0, 0, pass);
    a.mov(GIFT_AT, R::R0);
    a.load(Size::W, R::R1, GIFT_AT, 0);
    a.store(Size::W, CONTEXT, MARK, R::R1);
    a.load(Size::B, R::R1, GIFT_AT, 6);
    a.jump_if(Cond::Eq, R::R1, 0, pass);
    a.load(Size::B, R::R1, R::R10, VERSION);
    a.jump_if(Cond::Ge, R::R1, 0x60, v6);
    hand(&mut a, &V4, pass);
    a.bind(v6);
    hand(&mut a, &V6, pass);
    a.bind(pass);
    a.mov(R::R0, NEXT);
    a.exit();
    a
}

/// The network header's first byte on the stack.
const VERSION: i16 = ends::IP;

/// How a family's ends lie in a tuple: where its addresses begin in 16 bytes, and how long
/// they are.
struct Lay {
    from: i16,
    len: i16,
}

const V4: Lay = Lay { from: 12, len: 4 };
const V6: Lay = Lay { from: 0, len: 16 };

/// Looks for the socket and gives the packet to it.
fn hand(a: &mut Asm, lay: &Lay, pass: crate::asm::Label) {
    use Reg as R;
    let (udp, found) = (a.label(), a.label());
    for word in (0..lay.len).step_by(4) {
        a.load(Size::W, R::R1, R::R10, KEY_AT + lay.from + word);
        a.store(Size::W, R::R10, TUPLE + word, R::R1);
        a.load(Size::W, R::R1, GIFT_AT, 8 + lay.from + word);
        a.store(Size::W, R::R10, TUPLE + lay.len + word, R::R1);
    }
    a.load(Size::H, R::R1, R::R10, KEY_AT + 32);
    a.store(Size::H, R::R10, TUPLE + 2 * lay.len, R::R1);
    a.load(Size::H, R::R1, GIFT_AT, 4);
    a.store(Size::H, R::R10, TUPLE + 2 * lay.len + 2, R::R1);
    a.mov(R::R1, CONTEXT);
    address(a, R::R2, TUPLE);
    a.mov(R::R3, i32::from(2 * lay.len + 4));
    a.mov(R::R4, HERE);
    a.mov(R::R5, 0);
    a.jump_if(Cond::Eq, TRANSPORT, UDP, udp);
    a.jump_if(Cond::Ne, TRANSPORT, TCP, pass);
    a.call(helper::LOOKUP_TCP);
    a.jump(found);
    a.bind(udp);
    a.call(helper::LOOKUP_UDP);
    a.bind(found);
    a.jump_if(Cond::Eq, R::R0, 0, pass);
    a.mov(R::R7, R::R0);
    a.mov(R::R1, CONTEXT);
    a.mov(R::R2, R::R7);
    a.mov(R::R3, 0);
    a.call(helper::ASSIGN);
    a.mov(R::R1, R::R7);
    a.call(helper::RELEASE);
    a.jump(pass);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gifts_are_laid_out_as_the_program_reads_them() {
        let gift = Gift {
            mark: 0x0102_0304,
            socket: Some((0x0a00_0001, 0x1234)),
        };
        let bytes = gift.bytes();
        assert_eq!(bytes[..4], 0x0102_0304_u32.to_ne_bytes());
        assert_eq!(bytes[4..8], [0x12, 0x34, 1, 0]);
        assert_eq!(bytes[20..], [10, 0, 0, 1]);
        let plain = Gift {
            mark: 7,
            socket: None,
        };
        assert_eq!(plain.bytes()[4..], [0; 20]);
    }
}
