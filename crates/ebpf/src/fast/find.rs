//! Whose a packet is.

use super::frame::{
    BUCKET_AT, BUCKET_PLACE, DIR, EPOCH, Front, HOME, KEY, LAST_BUCKET, PLACE, TAG, helper,
};
use super::parse::{Exits, L4_OF_IPV4, headers};
use super::{CONTEXT, GATE, PATH, Secrets, early, entry, globals, leave, send, sum, turn, word};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{
    BUCKET, FLOWS, Fate, GATES, HASH, Hook, MIX_FACTOR, MIX_HOME, MIX_INDEX, MIX_TAG, entries,
    gate, global, tag_mask, whose_bits,
};
use crate::stop::{self, EARLY_STOPS, STOPS};

/// Begins a turn, reads the packet, of whose Ethernet type R8 is, and finds its connection;
/// goes `up` with all others. What this host sends has a checksum that nobody need verify, and is
/// dropped by no program.
pub(super) fn find(a: &mut Asm, secrets: &Secrets, (front, hook): (Front, Hook), up: Label) {
    let (none, stranger, unknown, found) = (a.label(), a.label(), a.label(), a.label());
    let exits = Exits::new(a, front);
    turn::begin(a, none);
    headers(a, &exits, |a| fetch(a, secrets, (front, hook), unknown));
    if hook == Hook::Ingress {
        sum::note(a, front);
    }
    whose(a, secrets.places, stranger);
    match (front, hook) {
        (Front::Tcx, Hook::Ingress) => send::verify(a),
        (Front::Tcx, Hook::Egress) => {}
        (Front::Xdp, _) => {
            early::find_hop(a, unknown);
            early::verify(a);
        }
    }
    a.aside(|a| {
        a.bind(stranger);
        turn::end(a, None);
        if hook == Hook::Ingress {
            stop(a, front, none);
        }
        a.jump(none);
        for (label, fate) in [
            (exits.unusual, Fate::Unusual),
            (exits.fragment, Fate::Fragment),
        ] {
            a.bind(label);
            turn::end(a, None);
            leave(a, fate, up);
        }
        a.bind(unknown);
        turn::end(a, None);
        a.bind(none);
        leave(a, Fate::Unknown, up);
    });
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

/// Completes the key and has its bucket in the index fetched, which of many flows no cache has:
/// nobody waits for it before [`whose`].
fn fetch(a: &mut Asm, secrets: &Secrets, (front, hook): (Front, Hook), unknown: Label) {
    use Reg as R;
    let places = secrets.places;
    a.load(Size::W, R::R1, CONTEXT, front.device());
    a.store(Size::W, R::R10, KEY, R::R1);
    // What is received is 0 there.
    if hook as u8 != 0 {
        a.load(Size::W, R::R1, R::R10, KEY + 4);
        a.alu(Op::Or, R::R1, i32::from_ne_bytes([0, 0, hook as u8, 0]));
        a.store(Size::W, R::R10, KEY + 4, R::R1);
    }
    globals(a);
    a.load(Size::D, R::R1, R::R0, word(global::EPOCH));
    a.store(Size::D, R::R10, EPOCH, R::R1);
    a.load(Size::D, R::R9, R::R0, word(global::LAST_BUCKET));
    a.store(Size::D, R::R10, LAST_BUCKET, R::R9);
    hash(a, secrets);
    a.mov(R::R1, R::R0);
    a.alu(Op::Rsh, R::R1, MIX_TAG);
    a.alu32(Op::And, R::R1, tag_mask(places) as i32);
    a.alu32(Op::Or, R::R1, 1 << whose_bits(places));
    a.store(Size::W, R::R10, TAG, R::R1);
    a.mov(R::R1, R::R0);
    a.alu(Op::Rsh, R::R1, MIX_HOME - 2);
    a.alu(Op::And, R::R1, HOMES);
    a.store(Size::W, R::R10, HOME, R::R1);
    a.alu(Op::Rsh, R::R0, MIX_INDEX);
    a.alu(Op::And, R::R0, R::R9);
    // Behind those of fewer buckets.
    a.alu32(Op::Add, R::R9, 1);
    a.alu32(Op::Add, R::R0, R::R9);
    a.mov(R::R1, R::R0);
    bucket(a, places, unknown);
    a.load(Size::D, R::R1, R::R1, 0);
}

/// R1, and on the stack: the bucket of which it is the place, which is noted too.
fn bucket(a: &mut Asm, places: u32, none: Label) {
    a.store(Size::W, Reg::R10, BUCKET_PLACE, Reg::R1);
    entry(a, (&FLOWS, entries(places)), Reg::R1, none);
    a.store(Size::D, Reg::R10, BUCKET_AT, Reg::R1);
}

/// R0: the key's sum; see [`crate::layout::mix`]. R8 is the transport header's place.
fn hash(a: &mut Asm, secrets: &Secrets) {
    use Reg as R;
    let product = |a: &mut Asm, to: Reg, i: usize| {
        a.load(Size::W, to, R::R10, KEY + 4 * i as i16);
        a.constant(R::R2, secrets.hash[i]);
        a.alu(Op::Mul, to, R::R2);
    };
    let add_product = |a: &mut Asm, i: usize| {
        product(a, R::R1, i);
        a.alu(Op::Add, R::R0, R::R1);
    };
    // What both families have; other words of IPv4 are zero.
    const BOTH: [usize; 5] = [0, 1, 2, 6, 10];
    product(a, R::R0, BOTH[0]);
    for i in &BOTH[1..] {
        add_product(a, *i);
    }
    a.rarely(Cond::Ne, R::R8, L4_OF_IPV4, |a| {
        for i in (0..HASH).filter(|i| !BOTH.contains(i)) {
            add_product(a, i);
        }
    });
    a.mov(R::R1, R::R0);
    a.alu(Op::Rsh, R::R1, 32);
    a.alu(Op::Xor, R::R0, R::R1);
    a.constant(R::R1, MIX_FACTOR);
    a.alu(Op::Mul, R::R0, R::R1);
}

/// Where in a bucket a slot can begin, in bytes.
const HOMES: i32 = 4 * (BUCKET as i32 - 1);

/// Looks for the packet's flow in its buckets, in each first where it most likely is; [`PLACE`]
/// and [`DIR`] become whose it is.
fn whose(a: &mut Asm, places: u32, stranger: Label) {
    use Reg as R;
    let (again, other, found, away) = (a.label(), a.label(), a.label(), a.label());
    // R9: the second bucket.
    a.mov(R::R9, 0);
    a.bind(again);
    a.load(Size::D, R::R3, R::R10, BUCKET_AT);
    a.load(Size::W, R::R2, R::R10, TAG);
    let look = |a: &mut Asm, (base, at): (Reg, i16), cond: Cond, to: Label| {
        a.load(Size::W, R::R1, base, at);
        a.alu32(Op::Xor, R::R1, R::R2);
        a.jump_if(cond, R::R1, 1 << whose_bits(places), to);
    };
    a.load(Size::W, R::R4, R::R10, HOME);
    a.alu(Op::And, R::R4, HOMES);
    a.alu(Op::Add, R::R4, R::R3);
    look(a, (R::R4, 0), Cond::Ge, away);
    a.aside(|a| {
        a.bind(away);
        for slot in 0..BUCKET as i16 {
            look(a, (R::R3, 4 * slot), Cond::Lt, found);
        }
        a.bind(other);
        a.jump_if(Cond::Ne, R::R9, 0, stranger);
        a.load(Size::D, R::R1, R::R10, LAST_BUCKET);
        a.jump_if(Cond::Sge, R::R1, 0, stranger);
        a.mov(R::R9, 1);
        a.load(Size::W, R::R1, R::R10, BUCKET_PLACE);
        a.alu(Op::Xor, R::R1, 1);
        bucket(a, places, stranger);
        a.jump(again);
    });
    a.bind(found);
    a.mov(PATH, R::R1);
    a.alu(Op::And, PATH, 1);
    a.store(Size::W, R::R10, DIR, PATH);
    a.mov(GATE, R::R1);
    a.alu(Op::Rsh, GATE, 1);
    a.store(Size::W, R::R10, PLACE, GATE);
    entry(a, (&GATES, places), GATE, other);
    a.alu(Op::Lsh, PATH, 6);
    a.alu(Op::Add, PATH, GATE);
    a.alu(Op::Add, PATH, i32::from(word(gate::PATHS)));
    is_its(a, other);
}

/// Goes to `other` when the path is another flow's.
fn is_its(a: &mut Asm, other: Label) {
    use Reg as R;
    let same = |a: &mut Asm, size: Size, at: i16| {
        a.load(size, R::R1, PATH, at);
        a.load(size, R::R2, R::R10, KEY + at);
        a.jump_if(Cond::Ne, R::R1, R::R2, other);
    };
    for (size, at) in [(Size::D, 0), (Size::W, 8), (Size::W, 24), (Size::W, 40)] {
        same(a, size, at);
    }
    // Of a key of IPv4 all else is zero.
    a.load(Size::B, R::R1, R::R10, KEY + 5);
    a.rarely(Cond::Ne, R::R1, 4, |a| {
        for (size, at) in [(Size::W, 12), (Size::D, 16), (Size::W, 28), (Size::D, 32)] {
            same(a, size, at);
        }
    });
}
