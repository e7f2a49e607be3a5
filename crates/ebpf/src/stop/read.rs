//! What must hold of a packet before the rules are asked, and where it goes afterwards.

use tidegate_wire::tcp::flags;
use tidegate_wire::{Family, proto};

use super::{HEADERS, HERE, OUT, Side, TARGET_KEY, TARGETS, TRAIL, TRAIL_AT, at, trail};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::fast::{self, Front, count_fate, frame, go_up, parse, verify};
use crate::layout::{Fate, global};
use crate::rules::{CONTEXT, Headers, IN_DEVICE, IP, L4, L4_LEN, LENGTH, NOW, OUT_DEVICE, REST};

/// On the stack: a key of [`TARGETS`].
const KEY: i16 = -8 - TARGET_KEY as i16;

/// The end of a program of [`crate::fast`] that has found no flow: leaves the packet for the
/// program that comes next, or goes to `out` with one that is not for it.
pub(crate) fn hand(a: &mut Asm, front: Front, out: Label) {
    use Reg as R;
    fast::globals(a);
    a.load(Size::D, R::R1, R::R0, 8 * global::STOP as i16);
    a.jump_if(Cond::Eq, R::R1, 0, out);
    opens(a, out);
    verify(a, front, out);
    a.store(Size::W, R::R10, frame::INDEX, 0);
    fast::look_up(a, &TRAIL, frame::INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, out);
    a.mov(TRAIL_AT, R::R0);
    a.load(Size::W, R::R1, R::R10, frame::LEN);
    a.store(Size::W, TRAIL_AT, trail::LENGTH, R::R1);
    a.load(Size::W, R::R2, R::R10, frame::IP_LEN);
    a.alu(Op::Sub, R::R1, R::R2);
    a.store(Size::W, TRAIL_AT, trail::REST, R::R1);
    a.load(Size::W, R::R1, R::R10, frame::LONGEST);
    a.store(Size::W, TRAIL_AT, trail::LONGEST, R::R1);
    a.load(Size::W, R::R1, CONTEXT, front.device());
    HEADERS.store(a, Size::W, IN_DEVICE, R::R1);
    a.load(Size::D, R::R1, R::R10, frame::NOW);
    HEADERS.store(a, Size::D, NOW, R::R1);
    let Headers(_, headers) = HEADERS;
    // Also where shorter headers leave whatever was there: nobody asks for that.
    for (from, to, len) in [
        (frame::ETHERNET, trail::OWN, 6),
        (frame::IP, headers + IP, 40),
        (frame::L4, headers + L4, L4_LEN),
    ] {
        for (at, size) in parse::pieces(from, len) {
            a.load(size, R::R1, R::R10, from + at);
            a.store(size, TRAIL_AT, to + at, R::R1);
        }
    }
}

/// Finds out where the packet that has been handed over goes; to `open` with all of which
/// the program knows too little. Loads [`LENGTH`] and [`REST`].
pub(super) fn packet(a: &mut Asm, epoch: u64, open: Label) {
    target(a, epoch, open);
    a.load(Size::W, LENGTH, TRAIL_AT, trail::LENGTH);
    a.load(Size::W, REST, TRAIL_AT, trail::REST);
}

/// Goes to `out` with what does not open a connection for certain.
fn opens(a: &mut Asm, out: Label) {
    use Reg as R;
    const KINDS: i32 = (flags::FIN | flags::SYN | flags::RST | flags::URG | flags::ACK) as i32;
    let (tcp, v4, fine) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, frame::DOUBT);
    a.jump_if(Cond::Eq, R::R1, Fate::Unusual as i32, out);
    a.load(Size::W, R::R1, R::R10, frame::PROTO);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::TCP), tcp);
    a.jump(fine);
    a.bind(tcp);
    a.load(Size::B, R::R1, R::R10, frame::L4 + 13);
    a.alu(Op::And, R::R1, KINDS);
    a.jump_if(Cond::Ne, R::R1, i32::from(flags::SYN), out);
    a.bind(fine);
    // No fragment; and a datagram over IPv6 has a sum.
    a.load(Size::B, R::R2, R::R10, frame::KEY + 5);
    a.jump_if(Cond::Eq, R::R2, 4, v4);
    a.load(Size::W, R::R1, R::R10, frame::CHECK);
    a.jump_if(Cond::Eq, R::R1, 0, out);
    let done = a.label();
    a.jump(done);
    a.bind(v4);
    a.load(Size::H, R::R1, R::R10, frame::IP + 6);
    a.swap(R::R1, 16);
    a.alu(Op::And, R::R1, 0x3fff);
    a.jump_if(Cond::Ne, R::R1, 0, out);
    a.bind(done);
}

/// Goes to `open` unless it is known where packets to this address go, and that this one
/// gets there.
fn target(a: &mut Asm, epoch: u64, open: Label) {
    use Reg as R;
    let (v6, find) = (a.label(), a.label());
    HEADERS.load(a, Size::W, R::R1, IN_DEVICE);
    a.store(Size::W, R::R10, KEY, R::R1);
    a.store(Size::W, R::R10, KEY + 4, 0);
    is_v6(a, v6);
    HEADERS.load(a, Size::W, R::R1, IP + 16);
    a.store(Size::W, R::R10, KEY + 8, R::R1);
    a.store(Size::W, R::R10, KEY + 12, 0);
    a.store(Size::D, R::R10, KEY + 16, 0);
    HEADERS.load(a, Size::B, R::R8, IP + 8);
    a.jump(find);
    a.bind(v6);
    a.store(Size::W, R::R10, KEY + 4, 6);
    for half in [0, 8] {
        HEADERS.load(a, Size::D, R::R1, IP + 24 + half);
        a.store(Size::D, R::R10, KEY + 8 + half, R::R1);
    }
    HEADERS.load(a, Size::B, R::R8, IP + 7);
    a.bind(find);
    a.load_map(R::R1, &TARGETS);
    a.mov(R::R2, R::R10);
    a.alu(Op::Add, R::R2, i32::from(KEY));
    a.call(frame::helper::MAP_LOOKUP);
    a.jump_if(Cond::Eq, R::R0, 0, open);
    a.load(Size::D, R::R1, R::R0, at::EPOCH);
    a.constant(R::R2, epoch);
    a.jump_if(Cond::Ne, R::R1, R::R2, open);
    for half in [0, 2, 4] {
        a.load(Size::H, R::R1, R::R0, at::OWN + half);
        a.load(Size::H, R::R2, TRAIL_AT, trail::OWN + half);
        a.jump_if(Cond::Ne, R::R1, R::R2, open);
    }
    gets_there(a, open);
}

/// R0: a target. R8: TTL or hop limit.
fn gets_there(a: &mut Asm, open: Label) {
    use Reg as R;
    let here = a.label();
    a.load(Size::W, R::R1, R::R0, at::OUT);
    HEADERS.store(a, Size::W, OUT_DEVICE, R::R1);
    a.load(Size::W, R::R1, R::R0, at::HOOK);
    a.store(Size::W, TRAIL_AT, trail::HOOK, R::R1);
    a.jump_if(Cond::Eq, R::R1, HERE, here);
    a.jump_if(Cond::Le, R::R8, 1, open);
    a.load(Size::W, R::R1, TRAIL_AT, trail::LONGEST);
    a.load(Size::W, R::R2, R::R0, at::MTU);
    a.jump_if(Cond::Gt, R::R1, R::R2, open);
    a.bind(here);
}

/// Goes to `forward` with what another interface is to send.
pub(super) fn is_forwarded(a: &mut Asm, forward: Label) {
    a.load(Size::W, Reg::R1, TRAIL_AT, trail::HOOK);
    a.jump_if(Cond::Eq, Reg::R1, OUT, forward);
}

/// Goes to `v6` with packets of IPv6.
pub(super) fn is_v6(a: &mut Asm, v6: Label) {
    HEADERS.load(a, Size::B, Reg::R1, IP);
    a.alu(Op::And, Reg::R1, 0xf0);
    a.jump_if(Cond::Eq, Reg::R1, 0x60, v6);
}

/// Goes to `open` with packets whose source routing may refuse (`fib_validate_source`,
/// `ip6_rcv_core`).
pub(super) fn source(a: &mut Asm, side: &Side<'_>, open: Label) {
    use Reg as R;
    match side.rules.family {
        Family::V4 => {
            HEADERS.load(a, Size::W, R::R1, IP + 12);
            a.swap(R::R1, 32);
            for own in side.own {
                a.constant(R::R2, u64::from(*own as u32));
                a.jump_if(Cond::Eq, R::R1, R::R2, open);
            }
            // 0.0.0.0/8, 127.0.0.0/8, groups and beyond.
            a.alu(Op::Rsh, R::R1, 24);
            a.jump_if(Cond::Eq, R::R1, 0, open);
            a.jump_if(Cond::Eq, R::R1, 127, open);
            a.jump_if(Cond::Ge, R::R1, 224, open);
        }
        Family::V6 => {
            // Unspecified, loopback, mapped and the like; link-local; groups.
            HEADERS.load(a, Size::D, R::R1, IP + 8);
            a.jump_if(Cond::Eq, R::R1, 0, open);
            a.swap(R::R1, 64);
            HEADERS.load(a, Size::D, R::R3, IP + 16);
            a.swap(R::R3, 64);
            for own in side.own {
                let other = a.label();
                a.constant(R::R2, (own >> 64) as u64);
                a.jump_if(Cond::Ne, R::R1, R::R2, other);
                a.constant(R::R2, *own as u64);
                a.jump_if(Cond::Eq, R::R3, R::R2, open);
                a.bind(other);
            }
            a.alu(Op::Rsh, R::R1, 54);
            a.jump_if(Cond::Eq, R::R1, 0xfe80 >> 6, open);
            a.alu(Op::Rsh, R::R1, 2);
            a.jump_if(Cond::Eq, R::R1, 0xff, open);
        }
    }
}

/// The end of a packet.
pub(super) fn drop(a: &mut Asm, front: Front) {
    a.store(Size::W, Reg::R10, frame::DOUBT, Fate::Stopped as i32);
    count_fate(a);
    a.mov(Reg::R0, front.drop());
    a.exit();
}

/// The way of a packet of an unknown flow: from XDP to traffic control, from there up.
pub(super) fn go_on(a: &mut Asm, front: Front) {
    if front == Front::Xdp {
        a.mov(Reg::R0, frame::answer::XDP_PASS);
        return a.exit();
    }
    let next = a.label();
    a.store(Size::W, Reg::R10, frame::DOUBT, Fate::Unknown as i32);
    go_up(a, next);
    a.bind(next);
    a.mov(Reg::R0, frame::answer::NEXT);
    a.exit();
}
