//! TCP headers, and options as stacks arrange them.

use tidegate_wire::tcp::flags;

use super::{Exits, doubt, word};
use crate::asm::{Asm, Cond, Op, Reg, Size};
use crate::fast::frame::{ACK, CHECK, END, IP_LEN, L4, LONGEST, SACK, SEQ, WINDOW};
use crate::layout::Fate;

/// Reads a TCP header, behind which R7 bytes end. Uses R9.
pub(super) fn read(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    const FLAGS: i32 = (flags::FIN | flags::SYN | flags::RST | flags::URG | flags::ACK) as i32;
    let (usual, single) = (a.label(), a.label());
    // R9: bytes of header.
    a.load(Size::B, R::R9, R::R10, L4 + 12);
    a.alu(Op::Rsh, R::R9, 4);
    a.alu(Op::Lsh, R::R9, 2);
    a.jump_if(Cond::Lt, R::R9, 20, exits.unusual);
    a.jump_if(Cond::Gt, R::R9, R::R7, exits.unusual);
    a.load(Size::B, R::R1, R::R10, L4 + 13);
    a.alu(Op::And, R::R1, FLAGS);
    a.jump_if(Cond::Eq, R::R1, i32::from(flags::ACK), usual);
    doubt(a, Fate::TcpFlags);
    a.bind(usual);
    for (from, to) in [(L4 + 4, SEQ), (L4 + 8, ACK)] {
        a.load(Size::W, R::R1, R::R10, from);
        a.swap(R::R1, 32);
        a.store(Size::W, R::R10, to, R::R1);
    }
    a.store(Size::W, R::R10, SACK, R::R1);
    a.load(Size::H, R::R1, R::R10, L4 + 14);
    a.swap(R::R1, 16);
    a.store(Size::W, R::R10, WINDOW, R::R1);
    a.load(Size::H, R::R1, R::R10, L4 + 16);
    a.store(Size::W, R::R10, CHECK, R::R1);
    a.load(Size::W, R::R1, R::R10, SEQ);
    a.alu32(Op::Add, R::R1, R::R7);
    a.alu32(Op::Sub, R::R1, R::R9);
    a.store(Size::W, R::R10, END, R::R1);
    // Of several segments in one, each is as long as one and its headers.
    exits.segment_len(a);
    a.jump_if(Cond::Eq, R::R1, 0, single);
    a.alu(Op::Add, R::R1, R::R9);
    a.load(Size::W, R::R2, R::R10, IP_LEN);
    a.alu(Op::Add, R::R1, R::R2);
    a.store(Size::W, R::R10, LONGEST, R::R1);
    a.bind(single);
    options(a, exits);
}

/// Two NOPs and the kinds and lengths of options as stacks arrange them.
const TIME_STAMP: u32 = 0x0101_080a;
const SACK_BLOCKS: u32 = 0x0101_0500;

/// TCP options: none, a time stamp, SACK blocks, or a time stamp and blocks, each behind
/// two NOPs. R9 is the header's length, R8 its place, and again afterwards.
fn options(a: &mut Asm, exits: &Exits) {
    use Reg as R;
    let (odd, done, no_stamp, blocks) = (a.label(), a.label(), a.label(), a.label());
    a.jump_if(Cond::Eq, R::R9, 20, done);
    a.alu(Op::Add, R::R8, 20);
    a.alu(Op::Sub, R::R9, 20);
    exits.load(a, R::R8, L4 + 20, 4);
    word(a, L4 + 20);
    a.jump_if32(Cond::Ne, R::R1, TIME_STAMP as i32, no_stamp);
    a.alu(Op::Sub, R::R9, 12);
    a.alu(Op::Add, R::R8, 12);
    a.jump_if(Cond::Eq, R::R9, 0, done);
    a.jump_if(Cond::Slt, R::R9, 12, odd);
    exits.load(a, R::R8, L4 + 20, 4);
    word(a, L4 + 20);
    a.bind(no_stamp);
    // What is left is one to four blocks and nothing else.
    for count in 1..=4 {
        let next = a.label();
        a.jump_if(Cond::Ne, R::R9, 4 + 8 * count, next);
        let kind = SACK_BLOCKS as i32 + 2 + 8 * count;
        a.jump_if32(Cond::Eq, R::R1, kind, blocks);
        a.bind(next);
    }
    a.bind(odd);
    doubt(a, Fate::TcpOptions);
    a.jump(done);

    a.bind(blocks);
    a.alu(Op::Add, R::R8, 8);
    for _ in 0..4 {
        let older = a.label();
        exits.load(a, R::R8, L4 + 24, 4);
        word(a, L4 + 24);
        a.load(Size::W, R::R2, R::R10, SACK);
        a.alu32(Op::Sub, R::R2, R::R1);
        a.jump_if32(Cond::Sge, R::R2, 0, older);
        a.store(Size::W, R::R10, SACK, R::R1);
        a.bind(older);
        a.alu(Op::Add, R::R8, 8);
        a.alu(Op::Sub, R::R9, 8);
        a.jump_if(Cond::Slt, R::R9, 12, done);
    }
    a.bind(done);
    a.load(Size::W, R::R8, R::R10, IP_LEN);
    a.alu(Op::Add, R::R8, 14);
}
