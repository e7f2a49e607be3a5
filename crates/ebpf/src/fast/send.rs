//! Checksums, rewriting, and the way out.

use tidegate_wire::proto;

use super::frame::{
    ADDRESSED, CHECK, DOUBT, ETH_P_IP, ETHERNET, HOP, HOP_PLACE, INDEX, IP, IP_LEN, LEN, NEIGHBOUR,
    NOW, PROTO, PSEUDO, WAY, answer, helper, skb,
};
use super::parse::{fold, header_sum};
use super::{CONTEXT, GLOBAL, Secrets, count_fate, look_up, stack, word};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{Fate, HOPS, OUT, SCRATCH, SUMS, at, global, hop};

/// Flags of `bpf_skb_store_bytes` and `bpf_l4_csum_replace`.
const RECOMPUTE: i32 = 1;
const PSEUDO_HEADER: i32 = 1 << 4;
const MANGLED_0: i32 = 1 << 5;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
pub(super) const ETHERNET_HEADER: i32 = 14;

/// Verifies the transport checksum unless somebody has; R7 is the globals' value. Uses R8
/// and R9. A packet that fails, or is too long to be summed up here, gets a doubt.
pub(super) fn verify(a: &mut Asm) {
    use Reg as R;
    let (fine, bad, some) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, DOUBT);
    a.jump_if(Cond::Ne, R::R1, 0, fine);
    a.load(Size::D, R::R1, GLOBAL, word(global::VERIFY));
    a.jump_if(Cond::Eq, R::R1, 0, fine);
    // Segments are joined only when their sums are right, and cut ones get theirs later.
    a.load(Size::W, R::R1, CONTEXT, skb::GSO_SIZE);
    a.jump_if(Cond::Ne, R::R1, 0, fine);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Ne, R::R1, i32::from(proto::UDP), some);
    a.load(Size::W, R::R1, R::R10, CHECK);
    a.jump_if(Cond::Eq, R::R1, 0, fine);
    a.bind(some);
    // The card has verified it.
    a.mov(R::R1, CONTEXT);
    a.mov(R::R2, 0);
    a.call(helper::CSUM_LEVEL);
    a.jump_if(Cond::Sge, R::R0, 0, fine);
    // A sender on this machine leaves it to the card, with the pseudo-header's sum in place.
    a.load(Size::D, R::R8, R::R10, PSEUDO);
    fold(a, R::R8, R::R1);
    a.load(Size::W, R::R1, R::R10, CHECK);
    a.jump_if(Cond::Eq, R::R1, R::R8, fine);
    sum_up(a, helper::LOAD_BYTES, bad);
    a.jump_if(Cond::Eq, R::R0, 0xffff, fine);
    a.bind(bad);
    a.store(Size::W, R::R10, DOUBT, Fate::Checksum as i32);
    a.bind(fine);
}

/// R0: the folded sum over the pseudo-header, whose sum is in R8, and what follows, which
/// `load` copies. Uses R9.
pub(super) fn sum_up(a: &mut Asm, load: i32, bad: Label) {
    use Reg as R;
    a.store(Size::D, R::R10, PSEUDO, R::R8);
    a.store(Size::W, R::R10, INDEX, 0);
    look_up(a, &SUMS, INDEX);
    a.jump_if(Cond::Eq, R::R0, 0, bad);
    a.mov(R::R9, R::R0);
    a.load(Size::W, R::R8, R::R10, LEN);
    a.load(Size::W, R::R2, R::R10, IP_LEN);
    a.alu(Op::Sub, R::R8, R::R2);
    a.jump_if(Cond::Gt, R::R8, SCRATCH as i32, bad);
    a.jump_if(Cond::Lt, R::R8, 8, bad);
    a.alu(Op::Add, R::R2, ETHERNET_HEADER);
    a.mov(R::R1, CONTEXT);
    a.mov(R::R3, R::R9);
    a.mov(R::R4, R::R8);
    a.call(load);
    a.jump_if(Cond::Ne, R::R0, 0, bad);
    // Up to the next whole word, zeroes.
    a.mov(R::R1, R::R9);
    a.alu(Op::Add, R::R1, R::R8);
    for i in 0..3 {
        a.store(Size::B, R::R1, i, 0);
    }
    a.alu(Op::Add, R::R8, 3);
    a.alu(Op::And, R::R8, !3);
    a.mov(R::R1, 0);
    a.mov(R::R2, 0);
    a.mov(R::R3, R::R9);
    a.mov(R::R4, R::R8);
    a.load(Size::D, R::R5, R::R10, PSEUDO);
    a.call(helper::CSUM_DIFF);
    a.jump_if(Cond::Slt, R::R0, 0, bad);
    fold(a, R::R0, R::R1);
}

/// Copies the Ethernet addresses of the next hop whose place is at [`HOP_PLACE`] to [`HOP`];
/// goes to `unknown` when they are not known, or nobody has asked for a while whether they
/// are in use: then nobody follows the neighbours any more.
pub(super) fn hop(a: &mut Asm, unknown: Label) {
    use Reg as R;
    let (used, fresh) = (a.label(), a.label());
    look_up(a, &HOPS, HOP_PLACE);
    a.jump_if(Cond::Eq, R::R0, 0, unknown);
    a.load(Size::W, R::R1, R::R0, at::HOP_HOLDS);
    a.jump_if(Cond::Eq, R::R1, 0, unknown);
    a.load(Size::D, R::R1, R::R0, 0);
    a.store(Size::D, R::R10, HOP, R::R1);
    a.load(Size::W, R::R1, R::R0, 8);
    a.store(Size::W, R::R10, HOP + 8, R::R1);
    a.load(Size::D, R::R2, R::R10, NOW);
    a.load(Size::D, R::R1, R::R0, at::HOP_USED);
    a.jump_if(Cond::Eq, R::R1, 0, fresh);
    a.alu(Op::Sub, R::R2, R::R1);
    a.constant(R::R3, hop::PATIENCE);
    a.jump_if(Cond::Sgt, R::R2, R::R3, unknown);
    a.jump(used);
    a.bind(fresh);
    a.store(Size::D, R::R0, at::HOP_USED, R::R2);
    a.bind(used);
}

/// Puts them into the Ethernet header on the stack.
pub(super) fn address(a: &mut Asm) {
    for half in (0..12).step_by(2) {
        a.load(Size::H, Reg::R1, Reg::R10, HOP + half);
        a.store(Size::H, Reg::R10, ETHERNET + half, Reg::R1);
    }
}

/// [`ADDRESSED`] becomes whether the header on the stack is for the next hop, whose address
/// the kernel need not find then.
fn address_known(a: &mut Asm) {
    let (unknown, done) = (a.label(), a.label());
    a.load(Size::W, Reg::R1, Reg::R10, WAY + at::WAY_HOP);
    a.jump_if(Cond::Eq, Reg::R1, 0, unknown);
    a.store(Size::W, Reg::R10, HOP_PLACE, Reg::R1);
    hop(a, unknown);
    address(a);
    a.store(Size::W, Reg::R10, ADDRESSED, 1);
    a.jump(done);
    a.bind(unknown);
    a.store(Size::W, Reg::R10, ADDRESSED, 0);
    a.bind(done);
}

/// Rewrites the packet as its way says and sends it on.
pub(super) fn on(a: &mut Asm, secrets: &Secrets) {
    use Reg as R;
    let (out, pass) = (a.label(), a.label());
    address_known(a);
    a.load(Size::W, R::R7, R::R10, WAY + at::WAY_KIND);
    a.load(Size::W, R::R8, R::R10, WAY + at::WAY_TRANSLATE);
    rewrite(a);
    a.jump_if(Cond::Eq, R::R7, OUT, out);
    a.jump(pass);
    a.bind(out);
    a.store(Size::W, R::R10, DOUBT, Fate::Forwarded as i32);
    count_fate(a);
    for (i, word) in secrets.sent_on.into_iter().enumerate() {
        a.mov(R::R1, word as i32);
        a.store(Size::W, CONTEXT, skb::CB + 4 * i as i16, R::R1);
    }
    redirect(a);
    a.bind(pass);
    a.store(Size::W, R::R10, DOUBT, Fate::Passed as i32);
    count_fate(a);
    a.mov(R::R0, answer::PASS);
    a.exit();
}

fn redirect(a: &mut Asm) {
    use Reg as R;
    let (v6, known, ask) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, ADDRESSED);
    a.jump_if(Cond::Eq, R::R1, 0, ask);
    a.load(Size::W, R::R1, R::R10, WAY + at::WAY_DEV);
    a.mov(R::R2, 0);
    a.call(helper::REDIRECT);
    a.exit();
    a.bind(ask);
    a.load(Size::W, R::R1, CONTEXT, skb::PROTOCOL);
    a.jump_if(Cond::Ne, R::R1, ETH_P_IP, v6);
    a.store(Size::W, R::R10, NEIGHBOUR, AF_INET);
    a.jump(known);
    a.bind(v6);
    a.store(Size::W, R::R10, NEIGHBOUR, AF_INET6);
    a.bind(known);
    for at in (0..16).step_by(4) {
        a.load(Size::W, R::R1, R::R10, WAY + at::WAY_NEXT_HOP + at);
        a.store(Size::W, R::R10, NEIGHBOUR + 4 + at, R::R1);
    }
    a.load(Size::W, R::R1, R::R10, WAY + at::WAY_DEV);
    stack(a, R::R2, NEIGHBOUR);
    a.mov(R::R3, 20);
    a.mov(R::R4, 0);
    a.call(helper::REDIRECT_NEIGH);
    a.exit();
}

/// R7 is the kind of way, R8 whether addresses and ports change.
fn rewrite(a: &mut Asm) {
    use Reg as R;
    let (v6, network, transport, done) = (a.label(), a.label(), a.label(), a.label());
    a.load(Size::W, R::R9, CONTEXT, skb::PROTOCOL);
    a.jump_if(Cond::Eq, R::R7, OUT, network);
    a.jump_if(Cond::Eq, R::R8, 0, done);
    a.bind(network);
    a.jump_if(Cond::Ne, R::R9, ETH_P_IP, v6);
    addresses(a, IP + 12, 4);
    one_less(a, IP + 8);
    a.store(Size::H, R::R10, IP + 10, 0);
    header_sum(a);
    a.alu(Op::Xor, R::R1, 0xffff);
    a.store(Size::H, R::R10, IP + 10, R::R1);
    // The header's sum is the same as before, and the card's does not cover Ethernet.
    store(a, 0, ETHERNET, ETHERNET_HEADER + 20, 0);
    a.jump(transport);
    a.bind(v6);
    addresses(a, IP + 8, 16);
    one_less(a, IP + 7);
    store(a, 0, ETHERNET, ETHERNET_HEADER, 0);
    store(a, ETHERNET_HEADER, IP, 40, RECOMPUTE);
    a.bind(transport);
    a.jump_if(Cond::Eq, R::R8, 0, done);
    ports(a);
    a.bind(done);
}

/// Puts the new addresses into the header on the stack, if they change.
pub(super) fn addresses(a: &mut Asm, to: i16, len: i16) {
    let same = a.label();
    a.jump_if(Cond::Eq, Reg::R8, 0, same);
    for (from, to) in [(at::WAY_SRC, to), (at::WAY_DST, to + len)] {
        for at in (0..len).step_by(4) {
            a.load(Size::W, Reg::R1, Reg::R10, WAY + from + at);
            a.store(Size::W, Reg::R10, to + at, Reg::R1);
        }
    }
    a.bind(same);
}

/// TTL or hop limit of what is forwarded.
fn one_less(a: &mut Asm, at: i16) {
    let stays = a.label();
    a.jump_if(Cond::Ne, Reg::R7, OUT, stays);
    a.load(Size::B, Reg::R1, Reg::R10, at);
    a.alu(Op::Sub, Reg::R1, 1);
    a.store(Size::B, Reg::R10, at, Reg::R1);
    a.bind(stays);
}

/// Writes a piece of the stack to the frame.
fn store(a: &mut Asm, offset: i32, from: i16, len: i32, flags: i32) {
    a.mov(Reg::R1, CONTEXT);
    a.mov(Reg::R2, offset);
    stack(a, Reg::R3, from);
    a.mov(Reg::R4, len);
    a.mov(Reg::R5, flags);
    a.call(helper::STORE_BYTES);
}

/// Transport checksum and ports.
fn ports(a: &mut Asm) {
    use Reg as R;
    let (udp, known) = (a.label(), a.label());
    // R8: place of the transport header. R9: of its checksum. R7: flags; an absent sum of
    // UDP stays absent.
    a.load(Size::W, R::R8, R::R10, IP_LEN);
    a.alu(Op::Add, R::R8, ETHERNET_HEADER);
    a.mov(R::R9, R::R8);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.store(Size::W, R::R10, INDEX, R::R7);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::UDP), udp);
    a.alu(Op::Add, R::R9, 16);
    a.mov(R::R7, 0);
    a.jump(known);
    a.bind(udp);
    a.alu(Op::Add, R::R9, 6);
    a.mov(R::R7, MANGLED_0);
    a.bind(known);
    for (diff, flag) in [
        (at::WAY_ADDRESS_DIFF, PSEUDO_HEADER),
        (at::WAY_PORT_DIFF, 0),
    ] {
        a.mov(R::R1, CONTEXT);
        a.mov(R::R2, R::R9);
        a.mov(R::R3, 0);
        a.load(Size::W, R::R4, R::R10, WAY + diff);
        a.mov(R::R5, R::R7);
        a.alu(Op::Or, R::R5, flag);
        a.call(helper::L4_CSUM_REPLACE);
    }
    a.mov(R::R1, CONTEXT);
    a.mov(R::R2, R::R8);
    stack(a, R::R3, WAY + at::WAY_PORTS);
    a.mov(R::R4, 4);
    a.mov(R::R5, 0);
    a.call(helper::STORE_BYTES);
    a.load(Size::W, R::R7, R::R10, INDEX);
}
