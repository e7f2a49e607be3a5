//! Judging and counting packets of known connections.

use tidegate_wire::proto;

use super::frame::{DIR, DOUBT, EPOCH, HOP_PLACE, LEN, LONGEST, NOW, PLACE, PROTO, TTL, helper};
use super::{CONNECTION, GATE, PATH, leave, look_up, parse, turn, window, word};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{CONNECTIONS, Fate, OUT, TOS_COUNTS, at, gate};

/// Judges the packet and counts it, or goes to `hold`, where it has been counted among those
/// that go up. With XDP, to `other` with one that goes another way than by the next hop that
/// has been looked up.
pub(super) fn take(a: &mut Asm, hold: Label, other: Option<Label>) {
    use Reg as R;
    let (segment, stateless, counted) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::TCP), segment);
    a.aside(|a| {
        a.bind(segment);
        take_segment(a, (hold, counted), other);
    });
    a.bind(stateless);
    let doubt = a.label();
    may_pass(a, doubt, other);
    count(a);
    a.aside(|a| {
        a.bind(doubt);
        count_sent(a);
        a.jump(hold);
    });
    a.bind(counted);
}

/// The same for TCP, under the connection's lock.
fn take_segment(a: &mut Asm, (hold, counted): (Label, Label), other: Option<Label>) {
    use Reg as R;
    let (missing, window, doubt, elsewhere) = (a.label(), a.label(), a.label(), a.label());
    let locked_other = other.map(|_| elsewhere);
    look_up(a, &CONNECTIONS, PLACE);
    a.jump_if(Cond::Eq, R::R0, 0, missing);
    a.mov(CONNECTION, R::R0);
    a.mov(R::R1, CONNECTION);
    a.call(helper::SPIN_LOCK);
    may_pass(a, doubt, locked_other);
    window::judge(a, CONNECTION, window);
    count(a);
    unlock(a);
    a.jump(counted);
    a.bind(window);
    a.store(Size::W, R::R10, DOUBT, Fate::Window as i32);
    a.bind(doubt);
    count_sent(a);
    unlock(a);
    a.jump(hold);
    if let Some(other) = other {
        a.bind(elsewhere);
        unlock(a);
        a.jump(other);
    }
    a.bind(missing);
    a.store(Size::W, R::R10, DOUBT, Fate::Unknown as i32);
    count_sent(a);
    a.jump(hold);
}

/// The packet is counted among those that go up; how many there were before is at [`NOW`].
fn count_sent(a: &mut Asm) {
    a.mov(Reg::R1, 1);
    a.fetch_add(GATE, word(gate::SENT), Reg::R1);
    a.store(Size::D, Reg::R10, NOW, Reg::R1);
}

fn unlock(a: &mut Asm) {
    a.mov(Reg::R1, CONNECTION);
    a.call(helper::SPIN_UNLOCK);
}

/// Sees whether the programs have the connection, and the packet can go its path; to `doubt`
/// when not. With XDP, to `other` when the path's next hop is not the one at [`HOP_PLACE`].
fn may_pass(a: &mut Asm, doubt: Label, other: Option<Label>) {
    use Reg as R;
    a.load(Size::W, R::R1, R::R10, DOUBT);
    a.jump_if(Cond::Ne, R::R1, 0, doubt);
    let same = |a: &mut Asm, first: usize, second: (Reg, i16), fate: Fate| {
        let (fine, other) = (a.label(), a.label());
        a.load(Size::D, R::R1, GATE, word(first));
        a.load(Size::D, R::R2, second.0, second.1);
        a.jump_if(Cond::Ne, R::R1, R::R2, other);
        a.aside(|a| {
            a.bind(other);
            leave(a, fate, doubt);
        });
        a.bind(fine);
    };
    same(a, gate::EPOCH, (R::R10, EPOCH), Fate::Stale);
    same(a, gate::SENT, (GATE, word(gate::DONE)), Fate::Held);
    turn::ordered(a);
    fits(a, doubt);
    if let Some(other) = other {
        a.load(Size::W, R::R1, PATH, at::HOP);
        a.load(Size::W, R::R2, R::R10, HOP_PLACE);
        a.jump_if(Cond::Ne, R::R1, R::R2, other);
    }
}

/// Sees whether the packet can go the path.
fn fits(a: &mut Asm, doubt: Label) {
    use Reg as R;
    let (no_way, ttl, too_big) = (a.label(), a.label(), a.label());
    let fine = a.label();
    a.load(Size::B, R::R5, PATH, at::KIND);
    a.jump_if(Cond::Eq, R::R5, 0, no_way);
    a.load(Size::B, R::R1, PATH, at::FLAGS);
    a.rarely(Cond::Set, R::R1, TOS_COUNTS, |a| {
        parse::service(a);
        a.load(Size::B, R::R2, PATH, at::TOS);
        a.jump_if(Cond::Ne, R::R1, R::R2, no_way);
    });
    a.jump_if(Cond::Ne, R::R5, OUT, fine);
    a.load(Size::W, R::R1, R::R10, TTL);
    a.jump_if(Cond::Le, R::R1, 1, ttl);
    a.load(Size::W, R::R1, R::R10, LONGEST);
    a.load(Size::H, R::R2, PATH, at::MTU);
    a.jump_if(Cond::Gt, R::R1, R::R2, too_big);
    a.aside(|a| {
        for (label, fate) in [
            (no_way, Fate::NoWay),
            (ttl, Fate::Ttl),
            (too_big, Fate::TooBig),
        ] {
            a.bind(label);
            leave(a, fate, doubt);
        }
    });
    a.bind(fine);
}

/// Counts the packet for its connection. Others may count for it at the same time.
fn count(a: &mut Asm) {
    use Reg as R;
    let later = a.label();
    a.load(Size::D, R::R1, R::R10, NOW);
    a.load(Size::D, R::R2, GATE, word(gate::LAST));
    a.jump_if(Cond::Ge, R::R2, R::R1, later);
    a.store(Size::D, GATE, word(gate::LAST), R::R1);
    a.bind(later);
    a.load(Size::W, R::R5, R::R10, DIR);
    a.alu(Op::And, R::R5, 1);
    a.alu(Op::Lsh, R::R5, 4);
    a.alu(Op::Add, R::R5, GATE);
    a.mov(R::R1, 1);
    a.add_to(R::R5, word(gate::COUNTS), R::R1);
    a.load(Size::W, R::R1, R::R10, LEN);
    a.add_to(R::R5, word(gate::COUNTS + 1), R::R1);
}
