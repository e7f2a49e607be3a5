//! The program that hands received frames to `AF_XDP` sockets before the kernel looks at
//! them: one at each queue of an interface.
//!
//! It takes IPv4 and IPv6 frames that are not too long. All others (ARP, tagged frames)
//! and those of a queue without a socket go on as if there were no program.

use crate::asm::{Asm, Cond, Op, Reg, Size};
use crate::fast::{ETH_P_IP, ETH_P_IPV6};
use crate::maps::{Kind, Map};
use crate::object::{Program, object};

/// Name of the program.
pub const UP: &str = "up";

/// Most queues of an interface that can have a socket.
pub const QUEUES: u32 = 64;

/// The socket of each queue.
pub static SOCKETS: Map = Map {
    name: "sockets",
    kind: Kind::Sockets,
    key: 4,
    value: 4,
    entries: QUEUES,
    locked: false,
    shared: false,
};

/// Fields of `struct xdp_md`.
mod xdp {
    pub(super) const DATA: i16 = 0;
    pub(super) const DATA_END: i16 = 4;
    pub(super) const QUEUE: i16 = 16;
}
/// `XDP_PASS`
const PASS: i32 = 2;
/// `bpf_redirect_map`
const REDIRECT_MAP: i32 = 51;

/// The object file with the program and its map, for frames of at most `longest` bytes,
/// link-layer header included.
///
/// # Errors
/// See [`object()`].
pub fn up(longest: u16) -> Result<Vec<u8>, object::write::Error> {
    let program = Program {
        name: UP,
        section: "xdp",
        code: code(longest),
    };
    object(vec![program], &[&SOCKETS])
}

fn code(longest: u16) -> Asm {
    let mut a = Asm::new();
    let (take, pass) = (a.label(), a.label());
    a.load(Size::W, Reg::R2, Reg::R1, xdp::DATA);
    a.load(Size::W, Reg::R3, Reg::R1, xdp::DATA_END);
    a.mov(Reg::R4, Reg::R2);
    a.alu(Op::Add, Reg::R4, i32::from(longest));
    a.jump_if(Cond::Lt, Reg::R4, Reg::R3, pass);
    a.mov(Reg::R4, Reg::R2);
    a.alu(Op::Add, Reg::R4, 14);
    a.jump_if(Cond::Gt, Reg::R4, Reg::R3, pass);
    a.load(Size::H, Reg::R5, Reg::R2, 12);
    a.jump_if(Cond::Eq, Reg::R5, ETH_P_IP, take);
    a.jump_if(Cond::Ne, Reg::R5, ETH_P_IPV6, pass);
    a.bind(take);
    a.load(Size::W, Reg::R2, Reg::R1, xdp::QUEUE);
    a.load_map(Reg::R1, &SOCKETS);
    // What is done where there is no socket.
    a.mov(Reg::R3, PASS);
    a.call(REDIRECT_MAP);
    a.exit();
    a.bind(pass);
    a.mov(Reg::R0, PASS);
    a.exit();
    a
}
