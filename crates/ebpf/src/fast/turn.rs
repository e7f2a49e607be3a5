//! A program's turn with the connections' state: from before it looks a flow up until it has
//! counted the packet and read where that goes.
//!
//! Most packets take no lock. Whoever shuts a gate in user space waits for the turns that have
//! begun before ([`crate::layout::turn`]); those that begin later find it shut.
//!
//! What is received and what is sent share a processor's turns: the kernel runs both with soft
//! interrupts off, one after the other.

use super::entry;
use super::frame::{NOW, TURN, helper};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{Fate, TURNS, turn};

const fn word(n: usize) -> i16 {
    n as i16 * 8
}

/// Begins a turn, or goes to `none` when it cannot. Notes the time at [`NOW`]. Uses R9.
pub(super) fn begin(a: &mut Asm, none: Label) {
    use Reg as R;
    let (other, same, done) = (a.label(), a.label(), a.label());
    a.call(helper::PROCESSOR);
    a.mov(R::R9, R::R0);
    entry(a, (&TURNS, TURNS.entries), R::R9, none);
    a.store(Size::D, R::R10, TURN, R::R9);
    a.mov(R::R1, 1);
    // A barrier: no gate is read before this is seen.
    a.fetch_add(R::R9, word(turn::BEGUN), R::R1);
    // Asking for the time is dear, for the tick not.
    a.call(helper::JIFFIES);
    a.load(Size::D, R::R1, R::R9, word(turn::TICK));
    a.jump_if(Cond::Ne, R::R0, R::R1, other);
    a.aside(|a| {
        a.bind(other);
        a.store(Size::D, R::R9, word(turn::TICK), R::R0);
        a.call(helper::KTIME_BOOT);
        a.store(Size::D, R::R9, word(turn::TIME), R::R0);
        a.jump(done);
    });
    a.bind(same);
    a.load(Size::D, R::R0, R::R9, word(turn::TIME));
    a.bind(done);
    a.store(Size::D, R::R10, NOW, R::R0);
}

/// What has been read of a gate is read no later than what comes.
pub(super) fn ordered(a: &mut Asm) {
    // Where loads are not in order anyway.
    if !cfg!(target_arch = "x86_64") {
        a.load(Size::D, Reg::R2, Reg::R10, TURN);
        a.mov(Reg::R1, 0);
        a.fetch_add(Reg::R2, word(turn::BEGUN), Reg::R1);
    }
}

/// Ends the turn, after everything before, and counts what became of the packet if it has gone
/// on from here. Uses R1 and R2.
pub(super) fn end(a: &mut Asm, fate: Option<Fate>) {
    use Reg as R;
    a.load(Size::D, R::R2, R::R10, TURN);
    if cfg!(target_arch = "x86_64") {
        // Nobody else writes it, and stores are in order.
        a.load(Size::D, R::R1, R::R2, word(turn::ENDED));
        a.alu(Op::Add, R::R1, 1);
        a.store(Size::D, R::R2, word(turn::ENDED), R::R1);
    } else {
        a.mov(R::R1, 1);
        a.fetch_add(R::R2, word(turn::ENDED), R::R1);
    }
    if let Some(counted) = fate.and_then(turn::counted) {
        a.load(Size::D, R::R1, R::R2, word(counted));
        a.alu(Op::Add, R::R1, 1);
        a.store(Size::D, R::R2, word(counted), R::R1);
    }
}
