//! Programs for the kernel, made at run time without a compiler: an assembler, the
//! programs and tables of the fast path, the program that feeds `AF_XDP` sockets, and the
//! object file that a loader takes.
//!
//! Nothing here talks to the kernel. What the tables hold is decided by the engine; the
//! programs answer for packets of flows that are in them and send all others up.
#![forbid(unsafe_code)]

mod asm;
mod btf;
mod ends;
pub mod fast;
pub mod handing;
pub mod layout;
mod maps;
mod object;
pub mod owner;
mod rules;
pub mod sender;
pub mod stop;
pub mod up;

pub use asm::{Asm, Cond, Insn, Label, Op, Reg, Size, Src};
pub use maps::{Kind, Map};
pub use object::{Program, object};
