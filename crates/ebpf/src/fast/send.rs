//! Checksums, rewriting, and the way out.

use tidegate_wire::proto;

use super::frame::{
    CHECK, DOUBT, ETH_P_IP, ETHERNET, Front, HOP, HOP_PLACE, INDEX, IP, IP_LEN, KEY, NEIGHBOUR,
    NOW, PROTO, PSEUDO, SUM, answer, helper, skb,
};
use super::parse::{fold, header_sum, reach};
use super::{CONTEXT, PATH, Secrets, entry, globals, stack, sum, turn, word};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::layout::{Fate, HOPS, Hook, OUT, TRANSLATE, at, global, hop};

/// Flags of `bpf_skb_store_bytes` and `bpf_l4_csum_replace`.
const RECOMPUTE: i32 = 1;
const PSEUDO_HEADER: i32 = 1 << 4;
const MANGLED_0: i32 = 1 << 5;

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
pub(super) const ETHERNET_HEADER: i32 = 14;

/// What is written to a frame: from where on the stack, where to, and how wide. Each is read
/// as it was written, or the processor waits until it is in the cache.
type Piece = (i16, i16, Size);
/// Ethernet addresses of the next hop.
pub(super) const ADDRESSES: &[Piece] = &[(HOP, 0, Size::D), (HOP + 8, 8, Size::W)];
/// What changes in an IPv4 header that is forwarded: TTL and sum.
const HOPS_LEFT: &[Piece] = &[(IP + 8, TTL, Size::B), (IP + 10, HEADER_SUM, Size::H)];
const TTL: i16 = ETHERNET_HEADER as i16 + 8;
const HEADER_SUM: i16 = ETHERNET_HEADER as i16 + 10;
/// And what translations change.
const TRANSLATED: &[Piece] = &[(IP + 12, 26, Size::W), (IP + 16, 30, Size::W)];
/// So many bytes of the frame they are in.
pub(super) const WRITTEN: i32 = ETHERNET_HEADER + 20;

/// Verifies the transport checksum unless somebody has. A packet that fails, or is too long to
/// be summed up here, gets a doubt. Uses R9.
pub(super) fn verify(a: &mut Asm) {
    use Reg as R;
    // Most frames are short and right.
    a.load(Size::W, R::R1, R::R10, SUM);
    a.rarely(Cond::Ne, R::R1, 0xffff, verify_others);
}

/// Of those that have no sum yet, or a wrong one.
fn verify_others(a: &mut Asm) {
    use Reg as R;
    let (fine, bad, some) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, R::R10, DOUBT);
    a.jump_if(Cond::Ne, R::R1, 0, fine);
    // Segments are joined only when their sums are right, and cut ones get theirs later.
    a.load(Size::W, R::R1, CONTEXT, skb::GSO_SIZE);
    a.jump_if(Cond::Ne, R::R1, 0, fine);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Ne, R::R1, i32::from(proto::UDP), some);
    a.load(Size::W, R::R1, R::R10, CHECK);
    a.jump_if(Cond::Eq, R::R1, 0, fine);
    a.bind(some);
    counts(a, fine);
    // The card has verified it.
    a.mov(R::R1, CONTEXT);
    a.mov(R::R2, 0);
    a.call(helper::CSUM_LEVEL);
    a.jump_if(Cond::Sge, R::R0, 0, fine);
    // A sender on this machine leaves it to the card, with the pseudo-header's sum in place.
    a.load(Size::D, R::R2, R::R10, PSEUDO);
    fold(a, R::R2, R::R1);
    a.load(Size::W, R::R1, R::R10, CHECK);
    a.jump_if(Cond::Eq, R::R1, R::R2, fine);
    sum::up(a, helper::LOAD_BYTES, bad);
    a.jump_if(Cond::Eq, R::R0, 0xffff, fine);
    a.bind(bad);
    a.store(Size::W, R::R10, DOUBT, Fate::Checksum as i32);
    a.bind(fine);
}

/// Goes to `fine` when checksums do not count.
pub(super) fn counts(a: &mut Asm, fine: Label) {
    globals(a);
    a.load(Size::D, Reg::R1, Reg::R0, word(global::VERIFY));
    a.jump_if(Cond::Eq, Reg::R1, 0, fine);
}

/// Copies the Ethernet addresses of the path's next hop to [`HOP`], and its place to
/// [`HOP_PLACE`], or goes to `unknown`.
pub(super) fn hop(a: &mut Asm, unknown: Label) {
    a.load(Size::W, Reg::R1, PATH, at::HOP);
    a.store(Size::W, Reg::R10, HOP_PLACE, Reg::R1);
    next_hop(a, unknown);
    a.load(Size::D, Reg::R1, Reg::R0, 0);
    a.store(Size::D, Reg::R10, HOP, Reg::R1);
    a.load(Size::W, Reg::R1, Reg::R0, 8);
    a.store(Size::W, Reg::R10, HOP + 8, Reg::R1);
}

/// R0: the next hop whose place is R1; goes to `unknown` when its addresses are not known, or
/// nobody has asked for a while whether they are in use: then nobody follows the neighbours any
/// more.
fn next_hop(a: &mut Asm, unknown: Label) {
    use Reg as R;
    let (used, fresh) = (a.label(), a.label());
    a.jump_if(Cond::Eq, R::R1, 0, unknown);
    entry(a, (&HOPS, HOPS.entries), R::R1, unknown);
    a.mov(R::R0, R::R1);
    a.load(Size::W, R::R1, R::R0, at::HOP_HOLDS);
    a.jump_if(Cond::Eq, R::R1, 0, unknown);
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

/// R9: whether the next hop's addresses are at [`HOP`], which the kernel need not find then.
fn address_known(a: &mut Asm) {
    let (unknown, done) = (a.label(), a.label());
    hop(a, unknown);
    a.mov(Reg::R9, 1);
    a.jump(done);
    a.bind(unknown);
    a.mov(Reg::R9, 0);
    a.bind(done);
}

/// Rewrites the packet as its path says and sends it on. The turn ends when all has been read.
pub(super) fn on(a: &mut Asm, secrets: &Secrets) {
    use Reg as R;
    let goes_on = a.label();
    a.load(Size::B, R::R1, PATH, at::KIND);
    a.jump_if(Cond::Ne, R::R1, OUT, goes_on);
    note_sent_on(a, secrets);
    plain(a);
    address_known(a);
    network(a, Hook::Ingress, true);
    translate(a);
    redirect(a);
    a.bind(goes_on);
    pass(a, Hook::Ingress, Fate::Passed);
}

/// For `egress`.
fn note_sent_on(a: &mut Asm, secrets: &Secrets) {
    for (i, word) in secrets.sent_on.into_iter().enumerate() {
        a.mov(Reg::R1, word as i32);
        a.store(Size::W, CONTEXT, skb::CB + 4 * i as i16, Reg::R1);
    }
}

/// The commonest case by itself: IPv4, to a next hop whose addresses are known, of which the path
/// changes nothing else. Leaves all others alone.
fn plain(a: &mut Asm) {
    use Reg as R;
    let other = a.label();
    a.load(Size::B, R::R1, PATH, at::FLAGS);
    a.jump_if(Cond::Set, R::R1, TRANSLATE, other);
    a.load(Size::B, R::R1, R::R10, KEY + 5);
    a.jump_if(Cond::Ne, R::R1, 4, other);
    a.load(Size::W, R::R1, PATH, at::HOP);
    next_hop(a, other);
    reach(a, Front::Tcx, 0.into(), WRITTEN, other);
    for (from, to, size) in ADDRESSES {
        a.load(*size, R::R3, R::R0, from - HOP);
        a.store(*size, R::R2, *to, R::R3);
    }
    a.load(Size::B, R::R3, R::R10, IP + 8);
    a.alu(Op::Sub, R::R3, 1);
    a.store(Size::B, R::R2, TTL, R::R3);
    one_less_sum(a);
    a.store(Size::H, R::R2, HEADER_SUM, R::R1);
    out(a);
    a.bind(other);
}

/// Rewrites the packet as its path says and lets it go on by itself, which is its `fate`.
pub(super) fn pass(a: &mut Asm, hook: Hook, fate: Fate) {
    use Reg as R;
    let done = a.label();
    translates(a, done);
    network(a, hook, false);
    translate(a);
    a.bind(done);
    turn::end(a, Some(fate));
    a.mov(R::R0, answer::PASS);
    a.exit();
}

/// The frame, which has its addresses, leaves by its path's device.
fn out(a: &mut Asm) {
    use Reg as R;
    a.load(Size::W, R::R9, PATH, at::DEV);
    turn::end(a, Some(Fate::Forwarded));
    a.mov(R::R1, R::R9);
    a.mov(R::R2, 0);
    a.call(helper::REDIRECT);
    a.exit();
}

/// R9 is whether the frame has its addresses.
fn redirect(a: &mut Asm) {
    use Reg as R;
    let (v6, known, ask) = (a.label(), a.label(), a.label());
    a.jump_if(Cond::Eq, R::R9, 0, ask);
    out(a);
    a.bind(ask);
    a.load(Size::W, R::R1, CONTEXT, skb::PROTOCOL);
    a.jump_if(Cond::Ne, R::R1, ETH_P_IP, v6);
    a.store(Size::W, R::R10, NEIGHBOUR, AF_INET);
    a.jump(known);
    a.bind(v6);
    a.store(Size::W, R::R10, NEIGHBOUR, AF_INET6);
    a.bind(known);
    for at in (0..16).step_by(4) {
        a.load(Size::W, R::R1, PATH, at::NEXT_HOP + at);
        a.store(Size::W, R::R10, NEIGHBOUR + 4 + at, R::R1);
    }
    a.load(Size::W, R::R9, PATH, at::DEV);
    turn::end(a, Some(Fate::Forwarded));
    a.mov(R::R1, R::R9);
    stack(a, R::R2, NEIGHBOUR);
    a.mov(R::R3, 20);
    a.mov(R::R4, 0);
    a.call(helper::REDIRECT_NEIGH);
    a.exit();
}

/// The headers as they are to be, into the frame; `out`: with the next hop's addresses, if R9
/// says that they are known. R9 stays.
fn network(a: &mut Asm, hook: Hook, out: bool) {
    use Reg as R;
    let (v6, far, done) = (a.label(), a.label(), a.label());
    a.load(Size::W, R::R1, CONTEXT, skb::PROTOCOL);
    a.jump_if(Cond::Ne, R::R1, ETH_P_IP, v6);
    ipv4(a);
    // The header's sum is the same as before, and the card's does not cover Ethernet. TCP
    // keeps what it sends, and of a program that writes to memory itself the kernel copies
    // every such frame's headers first.
    if hook == Hook::Ingress {
        reach(a, Front::Tcx, 0.into(), WRITTEN, far);
        put_ipv4(a);
        if out {
            a.jump_if(Cond::Eq, R::R9, 0, done);
            sum::put(a, ADDRESSES);
        }
        a.jump(done);
        a.bind(far);
    }
    if out {
        known_address(a);
    }
    store(a, 0, ETHERNET, WRITTEN, 0);
    a.jump(done);
    a.bind(v6);
    addresses(a, IP + 8, 16);
    one_less(a, IP + 7);
    if out {
        known_address(a);
    }
    store(a, 0, ETHERNET, ETHERNET_HEADER, 0);
    store(a, ETHERNET_HEADER, IP, 40, RECOMPUTE);
    a.bind(done);
}

/// The next hop's addresses into the header on the stack, if R9 says that they are known.
fn known_address(a: &mut Asm) {
    let unknown = a.label();
    a.jump_if(Cond::Eq, Reg::R9, 0, unknown);
    address(a);
    a.bind(unknown);
}

/// What has changed in the IPv4 header into the frame at R2. Uses R1 and R3.
pub(super) fn put_ipv4(a: &mut Asm) {
    let same = a.label();
    sum::put(a, HOPS_LEFT);
    translates(a, same);
    sum::put(a, TRANSLATED);
    a.bind(same);
}

/// The IPv4 header on the stack as it is to be.
pub(super) fn ipv4(a: &mut Asm) {
    use Reg as R;
    let (same, done) = (a.label(), a.label());
    one_less(a, IP + 8);
    translates(a, same);
    addresses(a, IP + 12, 4);
    a.store(Size::H, R::R10, IP + 10, 0);
    header_sum(a);
    fold(a, R::R1, R::R2);
    a.alu(Op::Xor, R::R1, 0xffff);
    a.jump(done);
    // Only the TTL is another: what is forwarded comes here, and nothing else.
    a.bind(same);
    one_less_sum(a);
    a.bind(done);
    a.store(Size::H, R::R10, IP + 10, R::R1);
}

/// R1: the checksum of the IPv4 header on the stack with one hop less.
fn one_less_sum(a: &mut Asm) {
    let done = a.label();
    a.load(Size::H, Reg::R1, Reg::R10, IP + 10);
    a.alu(Op::Add, Reg::R1, i32::from(0x0100_u16.to_be()));
    a.jump_if(Cond::Lt, Reg::R1, 0xffff, done);
    a.alu(Op::Add, Reg::R1, 1);
    a.bind(done);
}

/// Goes to `same` when the path changes neither addresses nor ports.
pub(super) fn translates(a: &mut Asm, same: Label) {
    a.load(Size::B, Reg::R1, PATH, at::FLAGS);
    a.alu(Op::And, Reg::R1, TRANSLATE);
    a.jump_if(Cond::Eq, Reg::R1, 0, same);
}

/// Puts the new addresses into the header on the stack, if they change.
pub(super) fn addresses(a: &mut Asm, to: i16, len: i16) {
    let same = a.label();
    translates(a, same);
    for (from, to) in [(at::SRC, to), (at::DST, to + len)] {
        for at in (0..len).step_by(4) {
            a.load(Size::W, Reg::R1, PATH, from + at);
            a.store(Size::W, Reg::R10, to + at, Reg::R1);
        }
    }
    a.bind(same);
}

/// TTL or hop limit of what is forwarded.
pub(super) fn one_less(a: &mut Asm, at: i16) {
    let stays = a.label();
    a.load(Size::B, Reg::R1, PATH, at::KIND);
    a.jump_if(Cond::Ne, Reg::R1, OUT, stays);
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

/// Transport checksum and ports, if the path changes them. R9 stays.
fn translate(a: &mut Asm) {
    use Reg as R;
    let (udp, known, same) = (a.label(), a.label(), a.label());
    translates(a, same);
    // R7, the gate, is needed no more: place of the checksum. An absent sum of UDP stays absent.
    a.load(Size::W, R::R7, R::R10, IP_LEN);
    a.alu(Op::Add, R::R7, ETHERNET_HEADER);
    a.load(Size::W, R::R1, R::R10, PROTO);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::UDP), udp);
    a.alu(Op::Add, R::R7, 16);
    a.store(Size::W, R::R10, INDEX, 0);
    a.jump(known);
    a.bind(udp);
    a.alu(Op::Add, R::R7, 6);
    a.store(Size::W, R::R10, INDEX, MANGLED_0);
    a.bind(known);
    for (diff, flag) in [(at::ADDRESS_DIFF, PSEUDO_HEADER), (at::PORT_DIFF, 0)] {
        a.mov(R::R1, CONTEXT);
        a.mov(R::R2, R::R7);
        a.mov(R::R3, 0);
        a.load(Size::W, R::R4, PATH, diff);
        a.load(Size::W, R::R5, R::R10, INDEX);
        a.alu(Op::Or, R::R5, flag);
        a.call(helper::L4_CSUM_REPLACE);
    }
    a.mov(R::R1, CONTEXT);
    a.load(Size::W, R::R2, R::R10, IP_LEN);
    a.alu(Op::Add, R::R2, ETHERNET_HEADER);
    a.mov(R::R3, PATH);
    a.alu(Op::Add, R::R3, i32::from(at::PORTS));
    a.mov(R::R4, 4);
    a.mov(R::R5, 0);
    a.call(helper::STORE_BYTES);
    a.bind(same);
}
