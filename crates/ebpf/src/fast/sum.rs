//! Sums over what a frame carries, and pieces of frames written back.

use super::frame::{Front, INDEX, IP_LEN, LEN, PSEUDO, SUM, helper};
use super::parse::{fold, nearly_fold, pieces, point, reach};
use super::send::ETHERNET_HEADER;
use super::{CONTEXT, look_up, stack};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size, Src};
use crate::layout::{SCRATCH, SUMS};

/// Transport headers and payload up to this are summed up where they are; for longer ones the
/// kernel's help is worth its call.
const SHORT: i32 = 127;

/// Notes the packet's sum at [`SUM`] when it is short; R7 and R8 are length and place of what
/// follows the network header. Uses R0 to R5.
pub(super) fn note(a: &mut Asm, front: Front) {
    let (long, done) = (a.label(), a.label());
    short(a, front, long);
    a.jump(done);
    a.bind(long);
    a.mov(Reg::R0, 0);
    a.bind(done);
    a.store(Size::W, Reg::R10, SUM, Reg::R0);
}

/// R0: the nearly folded sum over pseudo-header, transport header and payload; goes to `long` when
/// that is more than [`SHORT`], or not in the memory that programs may read.
fn short(a: &mut Asm, front: Front, long: Label) {
    use Reg as R;
    a.jump_if(Cond::Gt, R::R7, SHORT, long);
    point(a, front, R::R8.into());
    a.load(Size::D, R::R0, R::R10, PSEUDO);
    // As many bytes as each bit of the length says; most short packets have none of the first.
    for len in [64, 32] {
        a.rarely(Cond::Set, R::R7, len, |a| add(a, len, long));
    }
    for len in [16, 8, 4, 2, 1] {
        let (some, next) = (a.label(), a.label());
        a.jump_if(Cond::Set, R::R7, len, some);
        a.jump(next);
        a.bind(some);
        add(a, len, long);
        a.bind(next);
    }
    nearly_fold(a, R::R0, R::R1);
}

/// Adds the `len` bytes at R2, a power of two, to R0, and goes on to what follows them; to `far`
/// unless they are before R3, the end. Uses R1 and R5.
fn add(a: &mut Asm, len: i32, far: Label) {
    use Reg as R;
    let size = match len {
        1 => Size::B,
        2 => Size::H,
        _ => Size::W,
    };
    within(a, len, far);
    for at in (0..len as i16).step_by(4) {
        a.load(size, R::R1, R::R2, at);
        if len == 1 && cfg!(target_endian = "big") {
            a.alu(Op::Lsh, R::R1, 8);
        }
        a.alu(Op::Add, R::R0, R::R1);
    }
    a.alu(Op::Add, R::R2, len);
}

/// Goes to `far` unless `len` bytes of the frame follow R2; R3 is its end.
fn within(a: &mut Asm, len: i32, far: Label) {
    a.mov(Reg::R5, Reg::R2);
    a.alu(Op::Add, Reg::R5, len);
    a.jump_if(Cond::Gt, Reg::R5, Reg::R3, far);
}

/// R0: the same for up to [`SCRATCH`] bytes, which `load` copies. Uses R9.
pub(super) fn up(a: &mut Asm, load: i32, bad: Label) {
    use Reg as R;
    let length = |a: &mut Asm, to: Reg| {
        a.load(Size::W, to, R::R10, LEN);
        a.load(Size::W, R::R2, R::R10, IP_LEN);
        a.alu(Op::Sub, to, R::R2);
        a.jump_if(Cond::Gt, to, SCRATCH as i32, bad);
        a.jump_if(Cond::Lt, to, 8, bad);
    };
    a.store(Size::W, R::R10, INDEX, 0);
    look_up(a, &SUMS, INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, bad);
    a.mov(R::R9, R::R0);
    length(a, R::R4);
    a.alu(Op::Add, R::R2, ETHERNET_HEADER);
    a.mov(R::R1, CONTEXT);
    a.mov(R::R3, R::R9);
    a.call(load);
    a.jump_if(Cond::Ne, R::R0, 0, bad);
    // Up to the next whole word, zeroes.
    length(a, R::R4);
    a.mov(R::R1, R::R9);
    a.alu(Op::Add, R::R1, R::R4);
    for i in 0..3 {
        a.store(Size::B, R::R1, i, 0);
    }
    a.alu(Op::Add, R::R4, 3);
    a.alu(Op::And, R::R4, !3);
    a.mov(R::R1, 0);
    a.mov(R::R2, 0);
    a.mov(R::R3, R::R9);
    a.load(Size::D, R::R5, R::R10, PSEUDO);
    a.call(helper::CSUM_DIFF);
    a.jump_if(Cond::Slt, R::R0, 0, bad);
    fold(a, R::R0, R::R1);
}

/// Writes pieces of the stack to the frame at R2, each to its place there. Uses R3.
pub(super) fn put(a: &mut Asm, pieces: &[(i16, i16, Size)]) {
    for (from, to, size) in pieces {
        a.load(*size, Reg::R3, Reg::R10, *from);
        a.store(*size, Reg::R2, *to, Reg::R3);
    }
}

/// Writes a piece of the stack to the frame, where it has been read from.
pub(super) fn store(a: &mut Asm, front: Front, offset: impl Into<Src>, from: i16, len: i32) {
    let (offset, (far, done)) = (offset.into(), (a.label(), a.label()));
    reach(a, front, offset, len, far);
    for (at, size) in pieces(from, len) {
        a.load(size, Reg::R3, Reg::R10, from + at);
        a.store(size, Reg::R2, at, Reg::R3);
    }
    a.jump(done);
    a.bind(far);
    a.mov(Reg::R1, CONTEXT);
    a.mov(Reg::R2, offset);
    stack(a, Reg::R3, from);
    a.mov(Reg::R4, len);
    a.mov(Reg::R5, 0);
    a.call(match front {
        Front::Tcx => helper::STORE_BYTES,
        Front::Xdp => helper::XDP_STORE_BYTES,
    });
    a.bind(done);
}
