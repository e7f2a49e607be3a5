//! What is in the packet. Headers stay on the stack as a helper has written them, so that
//! the verifier keeps no record of values and finds the same state behind every rule.

use tidegate_wire::{Family, proto};

use super::{FACTOR, KNOWN, PLACE_BITS, helper, look_up, now, skb, word};
use crate::asm::{Asm, Cond, Label, Op, Reg, Size};
use crate::rules::{CONTEXT, Headers, IN_DEVICE, INDEX, IP, L4, L4_LEN, LEAST, LENGTH, REST};

/// Ethernet types in the network's byte order.
const ETH_P_IP: i32 = (0x0800_u16).to_be() as i32;
const ETH_P_IPV6: i32 = (0x86dd_u16).to_be() as i32;

/// The verifier wants no byte of the stack to be read that was not written.
pub(super) fn clear(a: &mut Asm) {
    for at in (IN_DEVICE..0).step_by(8) {
        a.store(Size::D, Reg::R10, at, 0);
    }
}

/// Goes where packets of its family are read.
pub(super) fn family(a: &mut Asm, [v4, v6]: [Label; 2], pass: Label) {
    a.load(Size::W, Reg::R1, CONTEXT, skb::PROTOCOL);
    a.jump_if(Cond::Eq, Reg::R1, ETH_P_IP, v4);
    a.jump_if(Cond::Eq, Reg::R1, ETH_P_IPV6, v6);
    a.jump(pass);
}

/// Reads the headers; passes what is not plain, and what does not go to one host alone:
/// the kernel makes copies of such packets.
pub(super) fn headers(a: &mut Asm, family: Family, broadcast: &[u32], pass: Label) {
    use Reg as R;
    match family {
        Family::V4 => ipv4(a, broadcast, pass),
        Family::V6 => ipv6(a, pass),
    }
    a.load(Size::W, R::R1, CONTEXT, skb::LEN);
    a.jump_if(Cond::Ne, LENGTH, R::R1, pass);
    let header = header_len(family);
    a.mov(REST, LENGTH);
    a.jump_if(Cond::Lt, REST, header + LEAST, pass);
    a.alu(Op::Sub, REST, header);
    let short = a.label();
    a.mov(R::R4, REST);
    a.jump_if(Cond::Lt, R::R4, L4_LEN, short);
    a.mov(R::R4, L4_LEN);
    a.bind(short);
    load(a, header, L4, pass);
}

const fn header_len(family: Family) -> i32 {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// As many bytes of the packet as R4 says.
fn load(a: &mut Asm, from: i32, to: i16, pass: Label) {
    a.mov(Reg::R1, CONTEXT);
    a.mov(Reg::R2, from);
    a.mov(Reg::R3, Reg::R10);
    a.alu(Op::Add, Reg::R3, i32::from(to));
    a.call(helper::LOAD_BYTES);
    a.jump_if(Cond::Ne, Reg::R0, 0, pass);
}

fn ipv4(a: &mut Asm, broadcast: &[u32], pass: Label) {
    use Reg as R;
    a.mov(R::R4, 20);
    load(a, 0, IP, pass);
    a.load(Size::B, R::R1, R::R10, IP);
    a.jump_if(Cond::Ne, R::R1, 0x45, pass);
    a.load(Size::H, R::R1, R::R10, IP + 6);
    a.swap(R::R1, 16);
    a.alu(Op::And, R::R1, 0x3fff);
    a.jump_if(Cond::Ne, R::R1, 0, pass);
    a.load(Size::W, R::R1, R::R10, IP + 16);
    a.swap(R::R1, 32);
    a.constant(R::R2, 0xe000_0000);
    a.jump_if(Cond::Ge, R::R1, R::R2, pass);
    for address in broadcast {
        a.constant(R::R2, u64::from(*address));
        a.jump_if(Cond::Eq, R::R1, R::R2, pass);
    }
    a.load(Size::H, LENGTH, R::R10, IP + 2);
    a.swap(LENGTH, 16);
}

fn ipv6(a: &mut Asm, pass: Label) {
    use Reg as R;
    a.mov(R::R4, 40);
    load(a, 0, IP, pass);
    a.load(Size::B, R::R1, R::R10, IP);
    a.alu(Op::And, R::R1, 0xf0);
    a.jump_if(Cond::Ne, R::R1, 0x60, pass);
    a.load(Size::B, R::R1, R::R10, IP + 6);
    for header in [
        proto::HOPOPTS,
        proto::ROUTING,
        proto::FRAGMENT,
        proto::AH,
        proto::DSTOPTS,
        proto::NONE,
    ] {
        a.jump_if(Cond::Eq, R::R1, i32::from(header), pass);
    }
    a.load(Size::B, R::R1, R::R10, IP + 24);
    a.jump_if(Cond::Eq, R::R1, 0xff, pass);
    a.load(Size::H, LENGTH, R::R10, IP + 4);
    a.swap(LENGTH, 16);
    a.alu(Op::Add, LENGTH, 40);
}

/// Goes to `known` when the packet may be of a known connection, or about one.
pub(super) fn is_known(a: &mut Asm, family: Family, known: Label, pass: Label) {
    word(a, now::EXPECTED, pass);
    a.jump_if(Cond::Ne, Reg::R1, 0, known);
    is_registered(a, (family, Headers::STACK), known, pass);
}

/// Goes to `known` when a connection's packets look like this one, or when it is about
/// another packet.
pub(crate) fn is_registered(
    a: &mut Asm,
    (family, from): (Family, Headers),
    known: Label,
    pass: Label,
) {
    use Reg as R;
    let (ports, echo, ids) = (a.label(), a.label(), a.label());
    let (proto_at, addresses, words, icmp) = match family {
        Family::V4 => (IP + 9, IP + 12, 2, proto::ICMP),
        Family::V6 => (IP + 6, IP + 8, 8, proto::ICMPV6),
    };
    a.store(Size::W, R::R10, INDEX, 0);
    look_up(a, &KNOWN);
    a.jump_if(Cond::Eq, R::R0, 0, pass);
    // R0: the table. R1: the hash. R4: the word of ports.
    from.load(a, Size::B, R::R1, proto_at);
    a.constant(R::R3, FACTOR);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::TCP), ports);
    a.jump_if(Cond::Eq, R::R1, i32::from(proto::UDP), ports);
    a.jump_if(Cond::Eq, R::R1, i32::from(icmp), echo);
    a.mov(R::R4, 0);
    a.jump(ids);
    a.bind(echo);
    errors(a, (family, from), known);
    from.load(a, Size::H, R::R4, L4 + 4);
    if cfg!(target_endian = "big") {
        a.alu(Op::Lsh, R::R4, 16);
    }
    a.jump(ids);
    a.bind(ports);
    from.load(a, Size::W, R::R4, L4);
    a.bind(ids);
    for i in 0..=words {
        if i < words {
            from.load(a, Size::W, R::R2, addresses + 4 * i);
        } else {
            a.mov(R::R2, R::R4);
        }
        a.alu(Op::Xor, R::R1, R::R2);
        a.alu(Op::Mul, R::R1, R::R3);
        a.mov(R::R2, R::R1);
        a.alu(Op::Rsh, R::R2, 32);
        a.alu(Op::Xor, R::R1, R::R2);
    }
    // The last bits choose one of a word's.
    a.alu(Op::Rsh, R::R1, 64 - PLACE_BITS);
    a.mov(R::R2, R::R1);
    a.alu(Op::And, R::R1, 63);
    a.alu(Op::Rsh, R::R2, 6);
    a.alu(Op::Lsh, R::R2, 3);
    a.alu(Op::Add, R::R0, R::R2);
    a.load(Size::D, R::R2, R::R0, 0);
    a.alu(Op::Rsh, R::R2, R::R1);
    a.alu(Op::And, R::R2, 1);
    a.jump_if(Cond::Ne, R::R2, 0, known);
}

/// Goes to `known` for ICMP messages about other packets.
fn errors(a: &mut Asm, (family, from): (Family, Headers), known: Label) {
    use Reg as R;
    from.load(a, Size::B, R::R2, L4);
    match family {
        Family::V4 => {
            // ICMP_DEST_UNREACH, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETERPROB
            for kind in [3, 4, 5, 11, 12] {
                a.jump_if(Cond::Eq, R::R2, kind, known);
            }
        }
        Family::V6 => {
            // Errors, and the redirect, which quotes a packet as well.
            a.jump_if(Cond::Lt, R::R2, 128, known);
            a.jump_if(Cond::Eq, R::R2, 137, known);
        }
    }
}
