//! What must hold of a packet before the rules are asked, and where it goes afterwards.

use tidegate_wire::tcp::flags;
use tidegate_wire::{Family, proto};

use super::{HERE, Making, OUT, Side, TARGETS, at};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::fast::{Front, count_fate, frame, go_up, look_for_packet, parse, verify};
use crate::layout::Fate;
use crate::rules::{CONTEXT, IN_DEVICE, IP, L4, L4_LEN, LENGTH, OUT_DEVICE, REST};

/// On the stack: [`HERE`] or [`OUT`].
const HOOK: i16 = -76;

/// Reads the packet, and finds out where it goes; to `out` with all of which the program
/// knows too little. Leaves [`LENGTH`], [`REST`] and the headers where rules look for them.
pub(super) fn packet(a: &mut Asm, making: &Making<'_>, front: Front, out: Label) {
    use Reg as R;
    a.mov(CONTEXT, R::R1);
    look_for_packet(a, making.secrets, front, out);
    opens(a, out);
    target(a, making.epoch, front, out);
    verify(a, front, out);
    a.load(Size::W, LENGTH, R::R10, frame::LEN);
    a.load(Size::W, R::R1, R::R10, frame::IP_LEN);
    a.mov(REST, LENGTH);
    a.alu(Op::Sub, REST, R::R1);
    for (from, to, len) in [(frame::IP, IP, 40), (frame::L4, L4, L4_LEN)] {
        for (at, size) in parse::pieces(to, len) {
            a.load(size, R::R1, R::R10, from + at);
            a.store(size, R::R10, to + at, R::R1);
        }
    }
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

/// Goes to `out` unless it is known where packets to this address go, and that this one
/// gets there.
fn target(a: &mut Asm, epoch: u64, front: Front, out: Label) {
    use Reg as R;
    let (here, v6) = (a.label(), a.label());
    // The key ends with the destination, which the flow's key has in the same place.
    const KEY: i16 = frame::KEY + 16;
    a.load(Size::W, R::R1, CONTEXT, front.device());
    a.store(Size::W, R::R10, IN_DEVICE, R::R1);
    a.store(Size::W, R::R10, KEY, R::R1);
    a.load(Size::B, R::R2, R::R10, frame::KEY + 5);
    a.mov(R::R3, 6);
    a.jump_if(Cond::Eq, R::R2, 6, v6);
    a.mov(R::R3, 0);
    a.bind(v6);
    a.store(Size::W, R::R10, KEY + 4, R::R3);
    a.load_map(R::R1, &TARGETS);
    a.mov(R::R2, R::R10);
    a.alu(Op::Add, R::R2, i32::from(KEY));
    a.call(frame::helper::MAP_LOOKUP);
    a.jump_if(Cond::Eq, R::R0, 0, out);
    a.load(Size::D, R::R1, R::R0, at::EPOCH);
    a.constant(R::R2, epoch);
    a.jump_if(Cond::Ne, R::R1, R::R2, out);
    for half in [0, 2, 4] {
        a.load(Size::H, R::R1, R::R0, at::OWN + half);
        a.load(Size::H, R::R2, R::R10, frame::ETHERNET + half);
        a.jump_if(Cond::Ne, R::R1, R::R2, out);
    }
    a.load(Size::W, R::R1, R::R0, at::OUT);
    a.store(Size::W, R::R10, OUT_DEVICE, R::R1);
    a.load(Size::W, R::R1, R::R0, at::HOOK);
    a.store(Size::W, R::R10, HOOK, R::R1);
    a.jump_if(Cond::Eq, R::R1, HERE, here);
    a.load(Size::W, R::R1, R::R10, frame::TTL);
    a.jump_if(Cond::Le, R::R1, 1, out);
    a.load(Size::W, R::R1, R::R10, frame::LONGEST);
    a.load(Size::W, R::R2, R::R0, at::MTU);
    a.jump_if(Cond::Gt, R::R1, R::R2, out);
    a.bind(here);
}

/// Goes to `forward` with what another interface is to send.
pub(super) fn is_forwarded(a: &mut Asm, forward: Label) {
    a.load(Size::W, Reg::R1, Reg::R10, HOOK);
    a.jump_if(Cond::Eq, Reg::R1, OUT, forward);
}

/// Goes to `v6` with packets of IPv6.
pub(super) fn is_v6(a: &mut Asm, v6: Label) {
    a.load(Size::B, Reg::R1, Reg::R10, IP);
    a.alu(Op::And, Reg::R1, 0xf0);
    a.jump_if(Cond::Eq, Reg::R1, 0x60, v6);
}

/// Goes to `open` with packets whose source routing may refuse (`fib_validate_source`,
/// `ip6_rcv_core`).
pub(super) fn source(a: &mut Asm, side: &Side<'_>, open: Label) {
    use Reg as R;
    match side.rules.family {
        Family::V4 => {
            a.load(Size::W, R::R1, R::R10, IP + 12);
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
            a.load(Size::D, R::R1, R::R10, IP + 8);
            a.jump_if(Cond::Eq, R::R1, 0, open);
            a.swap(R::R1, 64);
            a.load(Size::D, R::R3, R::R10, IP + 16);
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
