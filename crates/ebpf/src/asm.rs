//! An assembler with labels for BPF instructions (Linux `instruction-set.rst`, RFC 9669).

use std::ops::Range;

use crate::maps::Map;

mod order;

/// A register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(u8);

#[allow(missing_docs, reason = "the registers by their names")]
impl Reg {
    pub const R0: Reg = Reg(0);
    pub const R1: Reg = Reg(1);
    pub const R2: Reg = Reg(2);
    pub const R3: Reg = Reg(3);
    pub const R4: Reg = Reg(4);
    pub const R5: Reg = Reg(5);
    pub const R6: Reg = Reg(6);
    pub const R7: Reg = Reg(7);
    pub const R8: Reg = Reg(8);
    pub const R9: Reg = Reg(9);
    /// Frame pointer.
    pub const R10: Reg = Reg(10);
}

/// The second operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// A register.
    Reg(Reg),
    /// A constant, extended with its sign where the operation has 64 bits.
    Imm(i32),
}

impl From<Reg> for Src {
    fn from(reg: Reg) -> Self {
        Src::Reg(reg)
    }
}

impl From<i32> for Src {
    fn from(imm: i32) -> Self {
        Src::Imm(imm)
    }
}

/// Width of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "8, 16, 32 and 64 bits")]
pub enum Size {
    B = 0x10,
    H = 0x08,
    W = 0x00,
    D = 0x18,
}

/// Arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the operations' own names")]
pub enum Op {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    Or = 0x40,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Xor = 0xa0,
    Mov = 0xb0,
}

/// When a jump is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "equal, greater and so on; S is signed")]
pub enum Cond {
    Eq = 0x10,
    Gt = 0x20,
    Ge = 0x30,
    /// Any of the bits of the second operand is set.
    Set = 0x40,
    Ne = 0x50,
    Sgt = 0x60,
    Sge = 0x70,
    Lt = 0xa0,
    Le = 0xb0,
    Slt = 0xc0,
    Sle = 0xd0,
}

const LDX: u8 = 0x61;
const STX: u8 = 0x63;
const ST: u8 = 0x62;
const ALU32: u8 = 0x04;
const ALU64: u8 = 0x07;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const FROM_REG: u8 = 0x08;
const LOAD_IMM64: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const ATOMIC: u8 = 0xdb;
/// Of an atomic addition: the old value is wanted.
const FETCH: i32 = 1;
const TO_BIG_ENDIAN: u8 = 0xdc;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    code: u8,
    dst: Reg,
    src: Reg,
    off: i16,
    imm: i32,
}

impl Insn {
    /// As the kernel takes it, in this machine's byte order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let registers = if cfg!(target_endian = "little") {
            self.src.0 << 4 | self.dst.0
        } else {
            self.dst.0 << 4 | self.src.0
        };
        let mut bytes = [self.code, registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.off.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.imm.to_ne_bytes());
        bytes
    }
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A program in the making.
#[derive(Clone, Debug, Default)]
pub struct Asm {
    code: Vec<Insn>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Jumps and where they go.
    jumps: Vec<(usize, Label)>,
    /// Loads of a map and which one.
    maps: Vec<(usize, &'static Map)>,
    /// What is yet to be put behind everything else.
    aside: Vec<Range<usize>>,
}

impl Asm {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Asm::default()
    }

    /// A label that is yet to be put somewhere.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label here.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
    }

    fn push(&mut self, code: u8, dst: Reg, src: Src, off: i16) {
        let (code, src, imm) = match src {
            Src::Reg(reg) => (code | FROM_REG, reg, 0),
            Src::Imm(imm) => (code, Reg::R0, imm),
        };
        self.code.push(Insn {
            code,
            dst,
            src,
            off,
            imm,
        });
    }

    /// `dst = src`
    pub fn mov(&mut self, dst: Reg, src: impl Into<Src>) {
        self.alu(Op::Mov, dst, src);
    }

    /// Arithmetic on 64 bits.
    pub fn alu(&mut self, op: Op, dst: Reg, src: impl Into<Src>) {
        self.push(ALU64 | op as u8, dst, src.into(), 0);
    }

    /// Arithmetic on the low 32 bits; the others become zero.
    pub fn alu32(&mut self, op: Op, dst: Reg, src: impl Into<Src>) {
        self.push(ALU32 | op as u8, dst, src.into(), 0);
    }

    /// Swaps the low `bits` (16, 32 or 64) between the machine's byte order and the
    /// network's; the others become zero.
    pub fn swap(&mut self, dst: Reg, bits: i32) {
        self.code.push(Insn {
            code: TO_BIG_ENDIAN,
            dst,
            src: Reg::R0,
            off: 0,
            imm: bits,
        });
    }

    /// `dst = *(base + off)`
    pub fn load(&mut self, size: Size, dst: Reg, base: Reg, off: i16) {
        self.code.push(Insn {
            code: LDX | size as u8,
            dst,
            src: base,
            off,
            imm: 0,
        });
    }

    /// `*(base + off) = src`
    pub fn store(&mut self, size: Size, base: Reg, off: i16, src: impl Into<Src>) {
        let (code, src, imm) = match src.into() {
            Src::Reg(reg) => (STX, reg, 0),
            Src::Imm(imm) => (ST, Reg::R0, imm),
        };
        self.code.push(Insn {
            code: code | size as u8,
            dst: base,
            src,
            off,
            imm,
        });
    }

    /// Adds `src` to the 64 bits at `base + off`, which nobody else does meanwhile; `src`
    /// becomes what was there. A full barrier.
    pub fn fetch_add(&mut self, base: Reg, off: i16, src: Reg) {
        self.code.push(Insn {
            code: ATOMIC,
            dst: base,
            src,
            off,
            imm: FETCH,
        });
    }

    /// Adds `src` to the 64 bits at `base + off`, which nobody else does meanwhile.
    pub fn add_to(&mut self, base: Reg, off: i16, src: Reg) {
        self.code.push(Insn {
            code: ATOMIC,
            dst: base,
            src,
            off,
            imm: 0,
        });
    }

    /// Goes to `label`.
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JMP, Reg::R0, Src::Imm(0), 0);
    }

    /// Goes to `label` when 64 bits compare so.
    pub fn jump_if(&mut self, cond: Cond, dst: Reg, src: impl Into<Src>, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JMP | cond as u8, dst, src.into(), 0);
    }

    /// Goes to `label` when the low 32 bits compare so.
    pub fn jump_if32(&mut self, cond: Cond, dst: Reg, src: impl Into<Src>, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(JMP32 | cond as u8, dst, src.into(), 0);
    }

    /// The address of a map.
    pub fn load_map(&mut self, dst: Reg, map: &'static Map) {
        /// `BPF_PSEUDO_MAP_FD`
        const MAP: Reg = Reg(1);
        self.load_of(dst, map, MAP);
    }

    /// The address of a map's only value.
    pub fn load_values(&mut self, dst: Reg, map: &'static Map) {
        /// `BPF_PSEUDO_MAP_VALUE`
        const VALUE: Reg = Reg(2);
        self.load_of(dst, map, VALUE);
    }

    /// An address of a map; what takes the source's place says which.
    fn load_of(&mut self, dst: Reg, map: &'static Map, which: Reg) {
        self.maps.push((self.code.len(), map));
        self.code.push(Insn {
            code: LOAD_IMM64,
            dst,
            src: which,
            off: 0,
            imm: 0,
        });
        self.push(0, Reg::R0, Src::Imm(0), 0);
    }

    /// `dst` becomes a constant of 64 bits.
    pub fn constant(&mut self, dst: Reg, value: u64) {
        match i32::try_from(value) {
            Ok(short) => self.mov(dst, short),
            Err(_) => {
                self.push(LOAD_IMM64, dst, Src::Imm(value as u32 as i32), 0);
                let high = (value >> 32) as u32 as i32;
                self.push(0, Reg::R0, Src::Imm(high), 0);
            }
        }
    }

    /// How many instructions there are so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.code.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.code.is_empty()
    }

    /// Calls one of the kernel's helpers (`bpf.h`, `__BPF_FUNC_MAPPER`).
    pub fn call(&mut self, helper: i32) {
        self.push(CALL, Reg::R0, Src::Imm(helper), 0);
    }

    /// Ends the program with what is in R0.
    pub fn exit(&mut self) {
        self.push(EXIT, Reg::R0, Src::Imm(0), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(asm: Asm, mem: &mut [u8]) -> u64 {
        let (code, _) = asm.finish();
        let bytes: Vec<u8> = code.iter().flat_map(|i| i.to_bytes()).collect();
        let vm = rbpf::EbpfVmRaw::new(Some(&bytes)).unwrap();
        vm.execute_program(mem).unwrap()
    }

    /// RFC 9669 section 3: the encodings of its own examples.
    #[test]
    fn instructions_are_encoded_as_the_standard_says() {
        let mut asm = Asm::new();
        asm.mov(Reg::R1, 7);
        asm.alu(Op::Add, Reg::R2, Reg::R1);
        asm.load(Size::W, Reg::R3, Reg::R2, 16);
        let (code, _) = asm.finish();
        assert_eq!(code[0].to_bytes(), [0xb7, 1, 0, 0, 7, 0, 0, 0]);
        assert_eq!(code[1].to_bytes(), [0x0f, 0x12, 0, 0, 0, 0, 0, 0]);
        assert_eq!(code[2].to_bytes(), [0x61, 0x23, 16, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_put_aside_comes_last_and_back() {
        let mut asm = Asm::new();
        let (odd, odder, back) = (asm.label(), asm.label(), asm.label());
        let (here, done) = (asm.label(), asm.label());
        asm.load(Size::B, Reg::R0, Reg::R1, 0);
        asm.jump_if(Cond::Ge, Reg::R0, 7, odd);
        asm.jump(here);
        asm.bind(here);
        asm.aside(|a| {
            a.bind(odd);
            a.jump_if(Cond::Ge, Reg::R0, 8, odder);
            a.aside(|a| {
                a.bind(odder);
                a.constant(Reg::R2, 1 << 40);
                a.alu(Op::Add, Reg::R0, Reg::R2);
                a.jump(back);
            });
            a.bind(back);
            a.alu(Op::Add, Reg::R0, 100);
            a.jump(done);
        });
        asm.bind(done);
        asm.alu(Op::Add, Reg::R0, 1);
        asm.exit();
        let end = asm.clone().finish().0.iter().position(|i| i.code == EXIT);
        assert_eq!(end, Some(4));
        let mut pruned = asm.clone();
        pruned.prune();
        for asm in [asm, pruned] {
            let said = [6, 7, 8].map(|n| run(asm.clone(), &mut [n]));
            assert_eq!(said, [7, 108, 109 + (1 << 40)]);
        }
    }

    #[test]
    fn jumps_find_their_labels_both_ways() {
        // Counts the first byte down to zero, adding it up.
        let mut asm = Asm::new();
        let (top, end) = (asm.label(), asm.label());
        asm.load(Size::B, Reg::R2, Reg::R1, 0);
        asm.mov(Reg::R0, 0);
        asm.bind(top);
        asm.jump_if(Cond::Eq, Reg::R2, 0, end);
        asm.alu(Op::Add, Reg::R0, Reg::R2);
        asm.alu(Op::Sub, Reg::R2, 1);
        asm.jump(top);
        asm.bind(end);
        asm.exit();
        assert_eq!(run(asm, &mut [10]), 55);
    }

    #[test]
    fn what_no_way_leads_to_is_taken_out() {
        let mut asm = Asm::new();
        let (end, never, next) = (asm.label(), asm.label(), asm.label());
        asm.jump(next);
        asm.bind(next);
        asm.constant(Reg::R0, 1 << 40);
        asm.jump(end);
        asm.bind(never);
        asm.mov(Reg::R0, 7);
        asm.jump(never);
        asm.bind(end);
        asm.alu(Op::Rsh, Reg::R0, 38);
        asm.exit();
        asm.prune();
        assert_eq!(asm.len(), 5);
        assert_eq!(run(asm, &mut [0]), 4);
    }

    /// `BPF_JMP32 | BPF_JA`, and conditional jumps across one.
    #[test]
    fn jumps_lead_as_far_as_programs_are_long() {
        let far = |distance: usize| {
            let mut asm = Asm::new();
            let (there, back, end) = (asm.label(), asm.label(), asm.label());
            asm.load(Size::B, Reg::R2, Reg::R1, 0);
            asm.jump_if(Cond::Eq, Reg::R2, 1, there);
            asm.bind(back);
            asm.mov(Reg::R0, 7);
            asm.jump(end);
            for _ in 0..distance {
                asm.mov(Reg::R3, 0);
            }
            asm.bind(there);
            asm.jump_if(Cond::Eq, Reg::R2, 1, back);
            asm.bind(end);
            asm.exit();
            asm.finish().0
        };
        let near = far(32_765);
        let plain: Vec<u8> = near.iter().map(|i| i.code).collect();
        assert_eq!(plain[..4], [LDX | 0x10, JMP | 0x10, ALU64 | 0xb0, JMP]);
        let wide = far(40_000);
        assert_eq!(wide.len(), near.len() + 40_000 - 32_765 + 4);
        let at = |i: usize| (wide[i].code, wide[i].off, wide[i].imm);
        // Condition, over the long way, the long way; the same at the other end.
        assert_eq!(at(1), (JMP | 0x10, 1, 1));
        assert_eq!(at(2), (JMP, 1, 0));
        assert_eq!(at(3), (JMP32, 0, 40_002));
        assert_eq!(at(5), (JMP32, 0, 40_003));
        assert_eq!(at(40_006), (JMP | 0x10, 1, 1));
        assert_eq!(at(40_008), (JMP32, 0, -40_005));
    }

    #[test]
    fn network_order_is_swapped() {
        let mut asm = Asm::new();
        asm.load(Size::H, Reg::R0, Reg::R1, 0);
        asm.swap(Reg::R0, 16);
        asm.exit();
        assert_eq!(run(asm, &mut [0x12, 0x34]), 0x1234);
    }
}
