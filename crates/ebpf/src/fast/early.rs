//! The program before the kernel (XDP): what is different from traffic control's.
//!
//! Frames that it sends on leave with the Ethernet addresses that the engine's side knows of
//! the next hop, and with a checksum: a sender on the same machine may have left that to
//! the card, which nothing says here.

use tidegate_wire::proto;

use super::find::find;
use super::frame::{
    CHECK, DIR, DOUBT, ETH_P_IP, ETH_P_IPV6, ETHERNET, Front, IP, IP_LEN, KEY, L4, NOW, PLACE,
    PROTO, PSEUDO, SUM, answer, helper, note, xdp,
};
use super::parse::{Exits, fold, reach};
use super::send::{
    ADDRESSES, ETHERNET_HEADER, WRITTEN, addresses, ipv4, one_less, put_ipv4, translates,
};
use super::sum::{put, store};
use super::take::take;
use super::{CONTEXT, PATH, Secrets, fine, send, sum, turn};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{EARLY, Fate, Hook, TRANSLATE, at};

pub(super) fn early(secrets: &Secrets) -> Asm {
    let mut a = Asm::new();
    let (hold, other, pass) = (a.label(), a.label(), a.label());
    a.mov(CONTEXT, Reg::R1);
    fine(&mut a);
    read(&mut a, pass);
    find(&mut a, secrets, (Front::Xdp, Hook::Ingress), pass);
    take(&mut a, hold, Some(other));
    on(&mut a);

    a.bind(hold);
    turn::end(&mut a, None);
    write_note(&mut a, secrets, pass);
    a.jump(pass);
    a.bind(other);
    turn::end(&mut a, None);
    a.bind(pass);
    a.mov(Reg::R0, answer::XDP_PASS);
    a.exit();
    a
}

/// Reads the packet; what is not plain goes on to the kernel.
pub(super) fn read(a: &mut Asm, pass: Label) {
    let exits = Exits {
        front: Front::Xdp,
        unusual: pass,
        fragment: pass,
    };
    let ours = a.label();
    exits.first(a, pass);
    a.load(Size::H, Reg::R8, Reg::R10, ETHERNET + 12);
    a.jump_if(Cond::Eq, Reg::R8, ETH_P_IP, ours);
    a.jump_if(Cond::Ne, Reg::R8, ETH_P_IPV6, pass);
    a.bind(ours);
}

/// Looks up the next hop of the packet's path; goes to `pass` when the kernel is needed on the
/// way, or the frame is not for this host.
pub(super) fn find_hop(a: &mut Asm, pass: Label) {
    use Reg as R;
    a.load(Size::B, R::R1, PATH, at::FLAGS);
    a.alu(Op::And, R::R1, EARLY);
    a.jump_if(Cond::Eq, R::R1, 0, pass);
    for half in [0, 2, 4] {
        a.load(Size::H, R::R1, PATH, at::OWN + half);
        a.load(Size::H, R::R2, R::R10, ETHERNET + half);
        a.jump_if(Cond::Ne, R::R1, R::R2, pass);
    }
    send::hop(a, pass);
}

/// Verifies the transport checksum, or completes one that was left to the card: the
/// pseudo-header's sum alone. [`CHECK`] becomes what it is to be. A packet that fails, or is
/// too long to be summed up here, gets a doubt. Uses R9.
pub(super) fn verify(a: &mut Asm) {
    use Reg as R;
    let (fine, bad, some) = (a.label(), a.label(), a.label());
    let (summed, unknown, whole) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, DOUBT);
    a.jump_if(Cond::Ne, R::R1, 0, fine);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Ne, R::R1, i32::from(proto::UDP), some);
    a.load(Size::W, R::R1, R::R10, CHECK);
    a.jump_if(Cond::Eq, R::R1, 0, fine);
    a.bind(some);
    a.load(Size::W, R::R0, R::R10, SUM);
    a.jump_if(Cond::Ne, R::R0, 0, summed);
    sum::up(a, helper::XDP_LOAD_BYTES, unknown);
    a.bind(summed);
    a.jump_if(Cond::Eq, R::R0, 0xffff, fine);
    partial(a, whole);
    a.alu(Op::Xor, R::R2, 0xffff);
    a.alu(Op::Add, R::R0, R::R2);
    store_sum(a, R::R0);
    a.jump(fine);
    a.bind(unknown);
    partial(a, whole);
    a.jump(bad);
    a.bind(whole);
    send::counts(a, fine);
    a.bind(bad);
    a.store(Size::W, R::R10, DOUBT, Fate::Checksum as i32);
    a.bind(fine);
}

/// R2: the sum over the pseudo-header; goes to `whole` when the checksum is not just that.
fn partial(a: &mut Asm, whole: Label) {
    a.load(Size::D, Reg::R2, Reg::R10, PSEUDO);
    fold(a, Reg::R2, Reg::R1);
    a.load(Size::W, Reg::R1, Reg::R10, CHECK);
    a.jump_if(Cond::Ne, Reg::R1, Reg::R2, whole);
}

/// [`CHECK`] becomes the complement of a sum, which for UDP is not 0 (RFC 768). Uses R1.
fn store_sum(a: &mut Asm, sum: Reg) {
    let done = a.label();
    fold(a, sum, Reg::R1);
    a.alu(Op::Xor, sum, 0xffff);
    a.store(Size::W, Reg::R10, CHECK, sum);
    a.jump_if(Cond::Ne, sum, 0, done);
    a.load(Size::W, Reg::R1, Reg::R10, PROTO);
    a.jump_if(Cond::Ne, Reg::R1, i32::from(proto::UDP), done);
    a.store(Size::W, Reg::R10, CHECK, 0xffff);
    a.bind(done);
}

/// Rewrites the packet as its path says and sends it on.
fn on(a: &mut Asm) {
    use Reg as R;
    let (v6, far, transport) = (a.label(), a.label(), a.label());
    a.load(Size::B, R::R1, R::R10, KEY + 5);
    a.jump_if(Cond::Ne, R::R1, 4, v6);
    ipv4(a);
    reach(a, Front::Xdp, 0.into(), WRITTEN, far);
    put(a, ADDRESSES);
    put_ipv4(a);
    a.jump(transport);
    a.bind(far);
    send::address(a);
    store(a, Front::Xdp, 0, ETHERNET, ETHERNET_HEADER + 20);
    a.jump(transport);
    a.bind(v6);
    send::address(a);
    addresses(a, IP + 8, 16);
    one_less(a, IP + 7);
    store(a, Front::Xdp, 0, ETHERNET, ETHERNET_HEADER + 40);
    a.bind(transport);
    translate(a);
    store_transport(a);
    a.load(Size::W, R::R9, PATH, at::DEV);
    turn::end(a, Some(Fate::Early));
    a.mov(R::R1, R::R9);
    a.mov(R::R2, 0);
    a.call(helper::REDIRECT);
    a.exit();
}

/// New ports, and what they and the addresses change in the checksum. An absent sum of UDP
/// stays absent.
fn translate(a: &mut Asm) {
    use Reg as R;
    let (same, sum) = (a.label(), a.label());
    translates(a, same);
    a.load(Size::W, R::R1, PATH, at::PORTS);
    a.store(Size::W, R::R10, L4, R::R1);
    a.load(Size::W, R::R2, R::R10, CHECK);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Ne, R::R1, i32::from(proto::UDP), sum);
    a.jump_if(Cond::Eq, R::R2, 0, same);
    a.bind(sum);
    a.alu(Op::Xor, R::R2, 0xffff);
    for diff in [at::ADDRESS_DIFF, at::PORT_DIFF] {
        a.load(Size::W, R::R1, PATH, diff);
        a.alu(Op::Add, R::R2, R::R1);
    }
    store_sum(a, R::R2);
    a.bind(same);
}

/// Writes the transport header back if it has changed.
fn store_transport(a: &mut Asm) {
    use Reg as R;
    let (udp, done) = (a.label(), a.label());
    let write = |a: &mut Asm, check: i16, len: i32| {
        let changed = a.label();
        a.load(Size::W, R::R1, R::R10, CHECK);
        a.load(Size::H, R::R2, R::R10, L4 + check);
        a.store(Size::H, R::R10, L4 + check, R::R1);
        a.load(Size::B, R::R3, PATH, at::FLAGS);
        a.alu(Op::And, R::R3, TRANSLATE);
        a.jump_if(Cond::Ne, R::R3, 0, changed);
        a.jump_if(Cond::Eq, R::R1, R::R2, done);
        a.bind(changed);
        a.load(Size::W, R::R5, R::R10, IP_LEN);
        a.alu(Op::Add, R::R5, ETHERNET_HEADER);
        store(a, Front::Xdp, R::R5, L4, len);
    };
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::UDP), udp);
    write(a, 16, 20);
    a.jump(done);
    a.bind(udp);
    write(a, 6, 8);
    a.bind(done);
}

/// What only our own programs know.
pub(super) fn secret(secrets: &Secrets) -> [i32; 2] {
    secrets.sent_on.map(|word| word as i32)
}

/// Notes before the frame whose it is and why it goes up; the packet's number is at
/// [`NOW`]. Without room for that traffic control judges the frame once more.
fn write_note(a: &mut Asm, secrets: &Secrets, pass: Label) {
    use Reg as R;
    a.mov(R::R1, CONTEXT);
    a.mov(R::R2, -i32::from(note::LEN));
    a.call(helper::ADJUST_META);
    a.jump_if(Cond::Ne, R::R0, 0, pass);
    a.load(Size::W, R::R2, CONTEXT, xdp::META);
    a.load(Size::W, R::R3, CONTEXT, xdp::DATA);
    a.mov(R::R4, R::R2);
    a.alu(Op::Add, R::R4, i32::from(note::LEN));
    a.jump_if(Cond::Gt, R::R4, R::R3, pass);
    a.load(Size::W, R::R4, R::R10, PLACE);
    a.load(Size::W, R::R5, R::R10, DIR);
    a.alu(Op::Lsh, R::R5, 31);
    a.alu(Op::Or, R::R4, R::R5);
    a.store(Size::W, R::R2, note::PLACE, R::R4);
    a.load(Size::W, R::R4, R::R10, DOUBT);
    a.store(Size::W, R::R2, note::FATE, R::R4);
    a.load(Size::D, R::R4, R::R10, NOW);
    a.store(Size::D, R::R2, note::NUMBER, R::R4);
    for (i, word) in secret(secrets).into_iter().enumerate() {
        a.store(Size::W, R::R2, note::SECRET + 4 * i as i16, word);
    }
}
