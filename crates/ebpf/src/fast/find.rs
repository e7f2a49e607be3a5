//! Whose a packet is.

use super::frame::{DIR, EPOCH, Front, INDEX, KEY, PLACE, helper};
use super::{CONTEXT, GATE, PATH, Secrets, early, leave, look_up, send, sum, turn, word};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{
    BUCKET, FLOWS, Fate, GATES, GLOBALS, HASH, Hook, MIX_FACTOR, MIX_INDEX, MIX_TAG, gate, global,
    slot,
};
use crate::stop::{self, EARLY_STOPS, STOPS};

/// Begins a turn and finds the packet's connection. What this host sends has a checksum that
/// nobody need verify, and is dropped by no program.
pub(super) fn find(a: &mut Asm, secrets: &Secrets, (front, hook): (Front, Hook), up: Label) {
    use Reg as R;
    let (none, stranger, unknown, found) = (a.label(), a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, CONTEXT, front.device());
    a.store(Size::W, R::R10, KEY, R::R1);
    a.store(Size::B, R::R10, KEY + 6, hook as i32);
    turn::begin(a, none);
    a.store(Size::W, R::R10, INDEX, 0);
    look_up(a, &GLOBALS, INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, unknown);
    a.load(Size::D, R::R1, R::R0, word(global::EPOCH));
    a.store(Size::D, R::R10, EPOCH, R::R1);
    a.load(Size::D, R::R9, R::R0, word(global::LAST_BUCKET));
    bucket(a, secrets, unknown);
    if hook == Hook::Ingress {
        sum::note(a, front);
    }
    whose(a, stranger);
    look_up(a, &GATES, PLACE);
    a.jump_if(Cond::Eq, R::R0, 0, unknown);
    a.mov(GATE, R::R0);
    a.load(Size::W, PATH, R::R10, DIR);
    a.alu(Op::And, PATH, 1);
    a.alu(Op::Lsh, PATH, 6);
    a.alu(Op::Add, PATH, GATE);
    a.alu(Op::Add, PATH, i32::from(word(gate::PATHS)));
    is_its(a, stranger);
    match (front, hook) {
        (Front::Tcx, Hook::Ingress) => send::verify(a),
        (Front::Tcx, Hook::Egress) => {}
        (Front::Xdp, _) => {
            early::find_hop(a, unknown);
            early::verify(a);
        }
    }
    a.jump(found);
    a.bind(stranger);
    if hook == Hook::Ingress {
        turn::end(a);
        stop(a, front, none);
    } else {
        turn::end(a);
    }
    a.jump(none);
    a.bind(unknown);
    turn::end(a);
    a.bind(none);
    leave(a, Fate::Unknown, up);
    a.bind(found);
}

/// Hands the packet to the program that drops what rules say, if there is one.
fn stop(a: &mut Asm, front: Front, none: Label) {
    stop::hand(a, front, none);
    a.mov(Reg::R1, CONTEXT);
    a.load_map(
        Reg::R2,
        match front {
            Front::Tcx => &STOPS,
            Front::Xdp => &EARLY_STOPS,
        },
    );
    a.mov(Reg::R3, 0);
    // Comes back only if there is no such program.
    a.call(helper::TAIL_CALL);
}

/// Where the index has whom [`bucket`] looks for, and by which tag.
const BUCKET_AT: Reg = Reg::R7;
const TAG: Reg = Reg::R8;

/// Finds the key's bucket in the index, whose last bucket's number is in R9. The first load
/// has it fetched while the packet is summed up: of many flows no cache has it.
fn bucket(a: &mut Asm, secrets: &Secrets, unknown: Label) {
    use Reg as R;
    let v4 = a.label();
    let product = |a: &mut Asm, i: usize| {
        a.load(Size::W, R::R1, R::R10, KEY + 4 * i as i16);
        a.constant(R::R2, secrets.hash[i]);
        a.alu(Op::Mul, R::R1, R::R2);
        a.alu(Op::Add, R::R0, R::R1);
    };
    a.mov(R::R0, 0);
    // What both families have; other words of IPv4 are zero.
    const BOTH: [usize; 5] = [0, 1, 2, 6, 10];
    for i in BOTH {
        product(a, i);
    }
    a.load(Size::B, R::R1, R::R10, KEY + 5);
    a.jump_if(Cond::Eq, R::R1, 4, v4);
    for i in (0..HASH).filter(|i| !BOTH.contains(i)) {
        product(a, i);
    }
    a.bind(v4);
    a.mov(R::R1, R::R0);
    a.alu(Op::Rsh, R::R1, 32);
    a.alu(Op::Xor, R::R0, R::R1);
    a.constant(R::R1, MIX_FACTOR);
    a.alu(Op::Mul, R::R0, R::R1);
    a.mov(TAG, R::R0);
    a.alu(Op::Rsh, TAG, MIX_TAG);
    a.alu(Op::Or, TAG, 1);
    a.alu(Op::Rsh, R::R0, MIX_INDEX);
    a.alu(Op::And, R::R0, R::R9);
    a.store(Size::W, R::R10, INDEX, R::R0);
    look_up(a, &FLOWS, INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, unknown);
    a.mov(BUCKET_AT, R::R0);
    a.load(Size::D, R::R1, BUCKET_AT, 0);
}

/// Looks through the bucket: [`PLACE`] and [`DIR`] become whose the packet probably is.
fn whose(a: &mut Asm, stranger: Label) {
    use Reg as R;
    let found = a.label();
    let slots = [(); BUCKET].map(|()| a.label());
    for (i, there) in slots.into_iter().enumerate() {
        a.load(Size::W, R::R1, BUCKET_AT, word(i) + slot::TAG);
        a.jump_if32(Cond::Eq, R::R1, TAG, there);
    }
    a.jump(stranger);
    for (i, there) in slots.into_iter().enumerate() {
        a.bind(there);
        a.load(Size::W, R::R1, BUCKET_AT, word(i) + slot::WHOSE);
        a.jump(found);
    }
    a.bind(found);
    a.mov(R::R2, R::R1);
    a.alu(Op::Rsh, R::R1, 1);
    a.store(Size::W, R::R10, PLACE, R::R1);
    a.alu(Op::And, R::R2, 1);
    a.store(Size::W, R::R10, DIR, R::R2);
}

/// Goes to `stranger` when the path is another flow's.
fn is_its(a: &mut Asm, stranger: Label) {
    use Reg as R;
    for at in (0..40).step_by(8) {
        a.load(Size::D, R::R1, PATH, at);
        a.load(Size::D, R::R2, R::R10, KEY + at);
        a.jump_if(Cond::Ne, R::R1, R::R2, stranger);
    }
    a.load(Size::W, R::R1, PATH, 40);
    a.load(Size::W, R::R2, R::R10, KEY + 40);
    a.jump_if(Cond::Ne, R::R1, R::R2, stranger);
}
