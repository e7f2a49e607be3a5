//! `-m cpu`: the processor that handles the packet (kernel `cpu_mt`).

use tidegate_ir::{Cond, Field};

use super::ranges::blank_bang;
use crate::{Arg, Case, Extension, Lower, Opt, Vector, bad, no, ok, packets, yes};

const CPU_OPT: usize = 0;

const OPTIONS: &[Opt] = &[Opt::new(
    "cpu",
    Arg::Int {
        min: 0,
        max: u32::MAX as u64,
        hex: 0,
    },
)
.invertible()
.mandatory()
.help("[!] --cpu number   Match CPU number\n")];

/// `-m cpu`.
pub static CPU: Extension = Extension {
    name: "cpu",
    lower: Lower::Match(|args, _| {
        let cpu = args.number(CPU_OPT).unwrap_or(0);
        Cond::eq(Field::Cpu, cpu.into()).inverted_if(args.inverted(CPU_OPT))
    }),
    options: OPTIONS,
    list: |x, _| {
        let cpu = x.args.number(CPU_OPT).unwrap_or(0);
        format!(" cpu{} {cpu}", blank_bang(&x.args, CPU_OPT))
    },
    cases: CASES,
    vectors: VECTORS,
    ..Extension::MATCH
};

const CASES: &[Case] = &[
    ok("-m cpu --cpu 0"),
    ok("-m cpu ! --cpu 1").v6(),
    ok("-m cpu --cpu 4294967295"),
    bad("-m cpu"),
    bad("-m cpu --cpu foo"),
    bad("-m cpu --cpu 4294967296"),
];

/// By the definition of the field.
const VECTORS: &[Vector] = &[
    yes("-m cpu --cpu 1", packets::SYN).with(&[(Field::Cpu, 1)]),
    no("-m cpu --cpu 0", packets::SYN).with(&[(Field::Cpu, 1)]),
    yes("-m cpu ! --cpu 0", packets::SYN).with(&[(Field::Cpu, 1)]),
];
