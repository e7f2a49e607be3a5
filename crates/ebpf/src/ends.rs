//! A packet's ends as programs and this crate's callers write them: the key of tables by
//! which they tell each other about packets.

use tidegate_wire::proto;

use crate::asm::{Asm, Cond, Label, Op, Reg, Size};

/// Bytes of a key: source, destination (16 each, IPv4 in the last four), ports, protocol.
pub const KEY: usize = 40;

/// The key of a packet: addresses and, of TCP and UDP, ports; of ICMP the two bytes behind
/// the checksum for the first port.
#[must_use]
pub fn key(protocol: u8, src: (u128, u16), dst: (u128, u16)) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..16].copy_from_slice(&src.0.to_be_bytes());
    key[16..32].copy_from_slice(&dst.0.to_be_bytes());
    key[32..34].copy_from_slice(&src.1.to_be_bytes());
    key[34..36].copy_from_slice(&dst.1.to_be_bytes());
    key[36] = protocol;
    key
}

/// `bpf_skb_load_bytes`
const LOAD_BYTES: i32 = 26;

/// `protocol` of `struct __sk_buff`.
const PROTOCOL: i16 = 16;
const ETH_P_IP: i32 = 0x0800;
const ETH_P_IPV6: i32 = 0x86dd;

/// Where the transport header begins.
const L4_AT: Reg = Reg::R7;
const TRANSPORT: Reg = Reg::R8;

/// On the stack: the network header, what follows it, the key.
pub(crate) const IP: i16 = -40;
const L4: i16 = -48;
pub(crate) const KEY_AT: i16 = -88;
/// Callers' own part of the stack is below.
pub(crate) const STACK: i16 = KEY_AT;

/// Writes the key of the packet whose network header begins at `base`; jumps to `pass` where
/// it is no whole IPv4 or IPv6 packet. R7 and R8 are used.
pub(crate) fn read(a: &mut Asm, context: Reg, base: i32, pass: Label) {
    use Reg as R;
    let (v6, found) = (a.label(), a.label());
    for word in 0..KEY as i16 / 8 {
        a.store(Size::D, R::R10, KEY_AT + word * 8, 0);
    }
    a.store(Size::D, R::R10, L4, 0);
    a.load(Size::W, R::R1, context, PROTOCOL);
    a.swap(R::R1, 16);
    a.jump_if(Cond::Eq, R::R1, ETH_P_IPV6, v6);
    a.jump_if(Cond::Ne, R::R1, ETH_P_IP, pass);
    ipv4(a, (context, base), pass);
    a.jump(found);
    a.bind(v6);
    ipv6(a, (context, base), pass);
    a.bind(found);
    ports(a, context);
}

pub(crate) fn address(a: &mut Asm, reg: Reg, at: i16) {
    a.mov(reg, Reg::R10);
    a.alu(Op::Add, reg, i32::from(at));
}

/// Bytes of the packet from R2 on; R0 is not 0 where there are not so many.
fn load(a: &mut Asm, context: Reg, to: i16, len: i32) {
    a.mov(Reg::R1, context);
    address(a, Reg::R3, to);
    a.mov(Reg::R4, len);
    a.call(LOAD_BYTES);
}

fn ipv4(a: &mut Asm, (context, base): (Reg, i32), pass: Label) {
    use Reg as R;
    a.mov(R::R2, base);
    load(a, context, IP, 20);
    a.jump_if(Cond::Ne, R::R0, 0, pass);
    for (from, to) in [(12, 12), (16, 28)] {
        a.load(Size::W, R::R1, R::R10, IP + from);
        a.store(Size::W, R::R10, KEY_AT + to, R::R1);
    }
    a.load(Size::B, TRANSPORT, R::R10, IP + 9);
    a.load(Size::B, L4_AT, R::R10, IP);
    a.alu(Op::And, L4_AT, 0x0f);
    a.alu(Op::Lsh, L4_AT, 2);
    a.alu(Op::Add, L4_AT, base);
}

/// Extension headers are not looked behind.
fn ipv6(a: &mut Asm, (context, base): (Reg, i32), pass: Label) {
    use Reg as R;
    a.mov(R::R2, base);
    load(a, context, IP, 40);
    a.jump_if(Cond::Ne, R::R0, 0, pass);
    for word in 0..4 {
        a.load(Size::D, R::R1, R::R10, IP + 8 + word * 8);
        a.store(Size::D, R::R10, KEY_AT + word * 8, R::R1);
    }
    a.load(Size::B, TRANSPORT, R::R10, IP + 6);
    a.mov(L4_AT, 40 + base);
}

/// Ports, or what stands for them; nothing where the packet ends before.
fn ports(a: &mut Asm, context: Reg) {
    use Reg as R;
    let (both, echo, done) = (a.label(), a.label(), a.label());
    a.store(Size::B, R::R10, KEY_AT + 36, TRANSPORT);
    a.mov(R::R2, L4_AT);
    load(a, context, L4, 8);
    a.jump_if(Cond::Ne, R::R0, 0, done);
    for (protocol, to) in [
        (proto::TCP, both),
        (proto::UDP, both),
        (proto::ICMP, echo),
        (proto::ICMPV6, echo),
    ] {
        a.jump_if(Cond::Eq, TRANSPORT, i32::from(protocol), to);
    }
    a.jump(done);
    a.bind(echo);
    a.load(Size::H, R::R1, R::R10, L4 + 4);
    a.store(Size::H, R::R10, KEY_AT + 32, R::R1);
    a.jump(done);
    a.bind(both);
    a.load(Size::W, R::R1, R::R10, L4);
    a.store(Size::W, R::R10, KEY_AT + 32, R::R1);
    a.bind(done);
}
