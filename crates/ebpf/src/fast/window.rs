//! TCP windows: the rules of `tcp_in_window` for segments that carry an acknowledgement,
//! neither open nor close anything, and are clearly inside. The tracker of
//! `tidegate-conntrack` judges all others.

use tidegate_conntrack::entry::{TcpClass, tcp_flag};

use super::frame::{ACK, DIR, END, SACK, SEQ, WINDOW};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::at;

/// Least window assumed when judging old acknowledgements (`MAXACKWINCONST`).
const MIN_ACK_WINDOW: i32 = 66_000;

const SENDER: Reg = Reg::R1;
const RECEIVER: Reg = Reg::R2;

/// Judges the segment on the stack against the connection at `connection` and, when it
/// passes, updates that; else goes to `doubt` with nothing changed. Uses R0 to R5.
pub(super) fn judge(a: &mut Asm, connection: Reg, doubt: Label) {
    sides(a, connection);
    acknowledged(a);
    tests(a, doubt);
    update_sender(a);
    update_receiver(a);
    remember(a, connection);
}

/// Points [`SENDER`] and [`RECEIVER`] at their sides.
fn sides(a: &mut Asm, connection: Reg) {
    for (reg, other) in [(SENDER, 0), (RECEIVER, 1)] {
        a.load(Size::W, reg, Reg::R10, DIR);
        a.alu(Op::And, reg, 1);
        a.alu(Op::Xor, reg, other);
        a.alu(Op::Mul, reg, i32::from(at::SIDE));
        a.alu(Op::Add, reg, connection);
        a.alu(Op::Add, reg, i32::from(at::TCP));
    }
}

/// R0: the highest edge acknowledged; SACK blocks count if their receiver allowed them.
fn acknowledged(a: &mut Asm) {
    let plain = a.label();
    a.load(Size::W, Reg::R0, Reg::R10, ACK);
    a.load(Size::W, Reg::R3, RECEIVER, at::SIDE_FLAGS);
    a.alu(Op::And, Reg::R3, i32::from(tcp_flag::SACK_PERM));
    a.jump_if(Cond::Eq, Reg::R3, 0, plain);
    a.load(Size::W, Reg::R0, Reg::R10, SACK);
    a.bind(plain);
}

/// The tests I to IV; R0 stays.
fn tests(a: &mut Asm, doubt: Label) {
    use Reg as R;
    // Sides that are yet to be learnt about.
    for side in [SENDER, RECEIVER] {
        a.load(Size::W, R::R3, side, at::MAXWIN);
        a.jump_if(Cond::Eq, R::R3, 0, doubt);
    }
    // I: before the right edge of the window.
    a.load(Size::W, R::R3, R::R10, SEQ);
    a.load(Size::W, R::R4, SENDER, at::MAXEND);
    a.alu32(Op::Add, R::R4, 1);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sge, R::R3, 0, doubt);
    // III: no acknowledgement of what was not sent.
    a.load(Size::W, R::R4, RECEIVER, at::END);
    a.alu32(Op::Add, R::R4, 1);
    a.mov(R::R3, R::R0);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sge, R::R3, 0, doubt);
    // II: after the left edge.
    a.load(Size::W, R::R3, SENDER, at::END);
    a.load(Size::W, R::R4, RECEIVER, at::MAXWIN);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.alu32(Op::Sub, R::R3, 1);
    a.load(Size::W, R::R4, R::R10, END);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sge, R::R3, 0, doubt);
    // IV: no acknowledgement older than a window.
    let large = a.label();
    a.load(Size::W, R::R4, SENDER, at::MAXWIN);
    a.jump_if32(Cond::Ge, R::R4, MIN_ACK_WINDOW, large);
    a.mov(R::R4, MIN_ACK_WINDOW);
    a.bind(large);
    a.load(Size::W, R::R3, RECEIVER, at::END);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.alu32(Op::Sub, R::R3, 1);
    a.alu32(Op::Sub, R::R3, R::R0);
    a.jump_if32(Cond::Sge, R::R3, 0, doubt);
}

/// What the segment says about its sender, and how far it used the window. Leaves its
/// scaled window in R5.
fn update_sender(a: &mut Asm) {
    use Reg as R;
    let (narrow, old, set, older, inside) = (a.label(), a.label(), a.label(), a.label(), a.label());
    a.load(Size::W, R::R5, R::R10, WINDOW);
    a.load(Size::W, R::R3, SENDER, at::SCALE);
    a.alu32(Op::And, R::R3, 15);
    a.alu32(Op::Lsh, R::R5, R::R3);
    // Advertised, SACK blocks included.
    a.mov(R::R3, R::R0);
    a.load(Size::W, R::R4, R::R10, ACK);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.alu32(Op::Add, R::R3, R::R5);
    a.load(Size::W, R::R4, SENDER, at::MAXWIN);
    a.jump_if32(Cond::Le, R::R3, R::R4, narrow);
    a.store(Size::W, SENDER, at::MAXWIN, R::R3);
    a.bind(narrow);
    // More was sent.
    a.load(Size::W, R::R3, SENDER, at::END);
    a.load(Size::W, R::R4, R::R10, END);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sge, R::R3, 0, old);
    a.store(Size::W, SENDER, at::END, R::R4);
    raise(a, SENDER, tcp_flag::DATA_UNACKNOWLEDGED);
    a.bind(old);
    // More was acknowledged.
    a.load(Size::W, R::R4, R::R10, ACK);
    a.load(Size::W, R::R3, SENDER, at::SIDE_FLAGS);
    a.alu(Op::And, R::R3, i32::from(tcp_flag::MAXACK_SET));
    a.jump_if(Cond::Eq, R::R3, 0, set);
    a.load(Size::W, R::R3, SENDER, at::MAXACK);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sge, R::R3, 0, older);
    a.bind(set);
    a.store(Size::W, SENDER, at::MAXACK, R::R4);
    raise(a, SENDER, tcp_flag::MAXACK_SET);
    a.bind(older);
    // Beyond what the receiver was known to take.
    a.load(Size::W, R::R3, R::R10, END);
    a.load(Size::W, R::R4, SENDER, at::MAXEND);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sle, R::R3, 0, inside);
    a.load(Size::W, R::R4, RECEIVER, at::MAXWIN);
    a.alu32(Op::Add, R::R4, R::R3);
    a.store(Size::W, RECEIVER, at::MAXWIN, R::R4);
    a.bind(inside);
}

fn raise(a: &mut Asm, side: Reg, flag: u8) {
    a.load(Size::W, Reg::R3, side, at::SIDE_FLAGS);
    a.alu(Op::Or, Reg::R3, i32::from(flag));
    a.store(Size::W, side, at::SIDE_FLAGS, Reg::R3);
}

/// What the segment grants its receiver.
fn update_receiver(a: &mut Asm) {
    use Reg as R;
    let (old, open, unacknowledged) = (a.label(), a.label(), a.label());
    a.mov(R::R4, R::R0);
    a.alu32(Op::Add, R::R4, R::R5);
    a.load(Size::W, R::R3, RECEIVER, at::MAXEND);
    a.alu32(Op::Sub, R::R3, 1);
    a.alu32(Op::Sub, R::R3, R::R4);
    a.jump_if32(Cond::Sge, R::R3, 0, old);
    a.jump_if32(Cond::Ne, R::R5, 0, open);
    a.alu32(Op::Add, R::R4, 1);
    a.bind(open);
    a.store(Size::W, RECEIVER, at::MAXEND, R::R4);
    a.bind(old);
    a.load(Size::W, R::R3, R::R10, ACK);
    a.load(Size::W, R::R4, RECEIVER, at::END);
    a.jump_if32(Cond::Ne, R::R3, R::R4, unacknowledged);
    a.load(Size::W, R::R3, RECEIVER, at::SIDE_FLAGS);
    a.alu(Op::And, R::R3, !i32::from(tcp_flag::DATA_UNACKNOWLEDGED));
    a.store(Size::W, RECEIVER, at::SIDE_FLAGS, R::R3);
    a.bind(unacknowledged);
}

/// Counts identical acknowledgements in a row.
fn remember(a: &mut Asm, connection: Reg) {
    use Reg as R;
    const SAME: [(i16, i16); 5] = [
        (DIR, at::LAST_DIR),
        (SEQ, at::LAST_SEQ),
        (ACK, at::LAST_ACK),
        (END, at::LAST_END),
        (WINDOW, at::LAST_WIN),
    ];
    let (other, done) = (a.label(), a.label());
    for (new, last) in SAME {
        a.load(Size::W, R::R3, R::R10, new);
        a.load(Size::W, R::R4, connection, last);
        a.jump_if32(Cond::Ne, R::R3, R::R4, other);
    }
    a.load(Size::W, R::R3, connection, at::RETRANS);
    a.jump_if32(Cond::Ge, R::R3, 255, done);
    a.alu32(Op::Add, R::R3, 1);
    a.store(Size::W, connection, at::RETRANS, R::R3);
    a.jump(done);
    a.bind(other);
    for (new, last) in SAME {
        a.load(Size::W, R::R3, R::R10, new);
        a.store(Size::W, connection, last, R::R3);
    }
    a.store(Size::W, connection, at::RETRANS, 0);
    a.bind(done);
    a.store(Size::W, connection, at::LAST_CLASS, TcpClass::Ack as i32);
}
