//! Classic BPF: checking and running programs (kernel `bpf_check_classic` and the meaning
//! its Documentation gives the instructions; McCanne and Jacobson 1993).

use tidegate_wire::{be16, be32};

/// A program that has been checked.
#[derive(Clone, Debug)]
pub(super) struct Program(Vec<Instruction>);

#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u32,
    jt: usize,
    jf: usize,
    k: u32,
}

const LD: u32 = 0;
const LDX: u32 = 1;
const ST: u32 = 2;
const STX: u32 = 3;
const ALU: u32 = 4;
const JMP: u32 = 5;
const RET: u32 = 6;

/// Words of scratch memory.
const MEMORY: u32 = 16;
/// Offsets from here on name surroundings, or headers, rather than bytes.
const SPECIAL: u32 = 0xfff0_0000;
/// Among them: bytes from the network header on, which is where the packet begins.
const FROM_NETWORK: u32 = 0xfff0_0000;
const SURROUNDINGS: u32 = 0xffff_f000;

impl Instruction {
    fn class(self) -> u32 {
        self.code & 7
    }

    /// Width of what a load takes from the packet, if that is what it does.
    fn width(self) -> Option<u32> {
        match (self.class(), self.code & 0xe0) {
            (LD, 0x20 | 0x40) => match self.code & 0x18 {
                0x00 => Some(4),
                0x08 => Some(2),
                0x10 => Some(1),
                _ => None,
            },
            _ => None,
        }
    }

    fn is_known(self) -> bool {
        match self.class() {
            // Immediate, memory, length, packet.
            LD => matches!(self.code, 0x00 | 0x60 | 0x80) || self.width().is_some(),
            LDX => matches!(self.code, 0x01 | 0x61 | 0x81 | 0xb1),
            ST | STX => matches!(self.code, 0x02 | 0x03),
            ALU => self.code & !8 == self.code & 0xf4 && self.code >> 4 <= 10,
            JMP => self.code == 0x05 || matches!(self.code >> 4, 1..=4),
            RET => matches!(self.code, 0x06 | 0x16),
            // Between the registers.
            _ => matches!(self.code, 0x07 | 0x87),
        }
    }

    fn is_sound(self, at: usize, len: usize) -> bool {
        let inside = |n: usize| at + 1 + n < len;
        let (op, by_x) = (self.code & 0xf0, self.code & 8 != 0);
        match self.class() {
            LD | LDX if self.code & 0xe0 == 0x60 => self.k < MEMORY,
            ST | STX => self.k < MEMORY,
            ALU if matches!(op, 0x30 | 0x90) && !by_x => self.k != 0,
            ALU if matches!(op, 0x60 | 0x70) && !by_x => self.k < 32,
            JMP if self.code == 0x05 => inside(self.k as usize),
            JMP => inside(self.jt) && inside(self.jf),
            _ => true,
        }
    }
}

impl Program {
    /// The program of those instructions (code, two jumps, number), if it is valid.
    pub(super) fn new(instructions: &[[u32; 4]]) -> Option<Self> {
        let one = |&[code, jt, jf, k]: &[u32; 4]| Instruction {
            code,
            jt: jt as usize,
            jf: jf as usize,
            k,
        };
        let all: Vec<_> = instructions.iter().map(one).collect();
        let sound = all.iter().enumerate();
        let sound = sound.filter(|(at, i)| i.is_known() && i.is_sound(*at, all.len()));
        let ends = all.last().is_some_and(|i| i.class() == RET);
        (ends && sound.count() == all.len() && initialised(&all)).then_some(Program(all))
    }

    /// Whether it loads what is not in the packet.
    pub(super) fn asks_surroundings(&self) -> bool {
        let asks = |i: &Instruction| i.width().is_some() && i.k >= SURROUNDINGS;
        self.0.iter().any(asks)
    }

    /// What it returns for the packet. Jumps lead forwards, so it ends.
    pub(super) fn run(&self, packet: &[u8]) -> u32 {
        let mut cpu = Cpu {
            packet,
            a: 0,
            x: 0,
            memory: [0; MEMORY as usize],
        };
        let mut at = 0;
        while let Some(&i) = self.0.get(at) {
            at += 1;
            match i.class() {
                RET if i.code & 0x10 != 0 => return cpu.a,
                RET => return i.k,
                JMP if i.code == 0x05 => at += i.k as usize,
                JMP => at += if cpu.jumps(i) { i.jt } else { i.jf },
                _ => {
                    if cpu.step(i).is_none() {
                        return 0;
                    }
                }
            }
        }
        0
    }
}

/// Whether no word of memory is read before it was written, whatever way was taken
/// (`check_load_and_stores`).
fn initialised(all: &[Instruction]) -> bool {
    let mut valid = vec![u16::MAX; all.len()];
    let mut now = 0u16;
    for (at, i) in all.iter().enumerate() {
        now &= valid[at];
        let mut reach = |n: usize, now: u16| {
            if let Some(v) = valid.get_mut(at + 1 + n) {
                *v &= now;
            }
        };
        match i.class() {
            ST | STX => now |= 1 << (i.k & 15),
            LD | LDX if i.code & 0xe0 == 0x60 && now & 1 << (i.k & 15) == 0 => return false,
            JMP if i.code == 0x05 => {
                reach(i.k as usize, now);
                now = u16::MAX;
            }
            JMP => {
                reach(i.jt, now);
                reach(i.jf, now);
                now = u16::MAX;
            }
            _ => {}
        }
    }
    true
}

struct Cpu<'p> {
    packet: &'p [u8],
    a: u32,
    x: u32,
    memory: [u32; MEMORY as usize],
}

impl Cpu<'_> {
    fn load(&self, at: u32, width: u32) -> Option<u32> {
        let at = match at {
            SPECIAL.. => at - FROM_NETWORK,
            at => at,
        } as usize;
        match width {
            1 => self.packet.get(at).map(|&b| b.into()),
            2 => be16(self.packet, at).map(u32::from),
            _ => be32(self.packet, at),
        }
    }

    fn operand(&self, i: Instruction) -> u32 {
        if i.code & 8 != 0 { self.x } else { i.k }
    }

    fn jumps(&self, i: Instruction) -> bool {
        let n = self.operand(i);
        match i.code >> 4 {
            1 => self.a == n,
            2 => self.a > n,
            3 => self.a >= n,
            _ => self.a & n != 0,
        }
    }

    /// `None` ends the program with 0.
    fn step(&mut self, i: Instruction) -> Option<()> {
        let word = (i.k % MEMORY) as usize;
        match i.class() {
            LD => self.a = self.loaded(i)?,
            LDX if i.code == 0xb1 => self.x = (self.load(i.k, 1)? & 0xf) * 4,
            LDX => self.x = self.loaded(i)?,
            ST => self.memory[word] = self.a,
            STX => self.memory[word] = self.x,
            ALU => self.a = self.computed(i)?,
            _ if i.code == 0x07 => self.x = self.a,
            _ => self.a = self.x,
        }
        Some(())
    }

    fn loaded(&self, i: Instruction) -> Option<u32> {
        match i.code & 0xe0 {
            0x00 => Some(i.k),
            0x60 => Some(self.memory[(i.k % MEMORY) as usize]),
            0x80 => u32::try_from(self.packet.len()).ok(),
            0x40 => self.load(self.x.checked_add(i.k)?, i.width()?),
            _ => self.load(i.k, i.width()?),
        }
    }

    fn computed(&self, i: Instruction) -> Option<u32> {
        let (a, n) = (self.a, self.operand(i));
        Some(match i.code >> 4 {
            0 => a.wrapping_add(n),
            1 => a.wrapping_sub(n),
            2 => a.wrapping_mul(n),
            3 => a.checked_div(n)?,
            4 => a | n,
            5 => a & n,
            6 => a.wrapping_shl(n),
            7 => a.wrapping_shr(n),
            8 => a.wrapping_neg(),
            9 => a.checked_rem(n)?,
            _ => a ^ n,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_the_kernel_refuses() {
        let program = |list: &[[u32; 4]]| Program::new(list).is_some();
        assert!(!program(&[]), "empty");
        assert!(!program(&[[0x00, 0, 0, 1]]), "no return");
        assert!(
            !program(&[[0x15, 1, 0, 1], [0x06, 0, 0, 0]]),
            "a jump outside"
        );
        assert!(
            !program(&[[0x34, 0, 0, 0], [0x16, 0, 0, 0]]),
            "division by 0"
        );
        assert!(
            !program(&[[0x60, 0, 0, 3], [0x16, 0, 0, 0]]),
            "memory never written"
        );
        assert!(program(&[
            [0x02, 0, 0, 3],
            [0x60, 0, 0, 3],
            [0x16, 0, 0, 0]
        ]));
        assert!(
            !program(&[[0x02, 0, 0, 16], [0x16, 0, 0, 0]]),
            "memory that is not there"
        );
    }

    #[test]
    fn computes() {
        // ((7 * 6) ^ 2) >> 1, by way of x.
        let program = Program::new(&[
            [0x00, 0, 0, 7],
            [0x24, 0, 0, 6],
            [0xa4, 0, 0, 2],
            [0x07, 0, 0, 0],
            [0x87, 0, 0, 0],
            [0x74, 0, 0, 1],
            [0x16, 0, 0, 0],
        ]);
        assert_eq!(program.map(|p| p.run(&[])), Some(20));
    }
}
