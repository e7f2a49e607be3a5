//! Rules as code: what programs can tell of a condition from a packet alone.
//!
//! `facts` says what is known of a field before the packet is there, `reduce` takes
//! conditions apart into what must hold and what may hold, `test` makes code of what is
//! left, `members` code that finds a value among very many, and `first` code that finds the
//! first of many conditions that holds.

mod facts;
mod first;
mod members;
mod reduce;
mod test;

pub(crate) use facts::{Facts, Given, Quiet, Seen};
pub(crate) use first::{Entry, NOTHING, Search, first};
pub(crate) use members::{Interval, Intervals, KEPT, Members};
pub(crate) use reduce::{Bound, all, reduce};
pub(crate) use test::{branch, is_long};

use crate::asm::{Asm, Reg, Size};

/// The program's context.
pub(crate) const CONTEXT: Reg = Reg::R6;
/// A value that is tested, and above it, with 128 bits, its upper half.
const VALUE: Reg = Reg::R1;
const UPPER: Reg = Reg::R2;
/// Bytes of the packet.
pub(crate) const LENGTH: Reg = Reg::R7;
/// Bytes from the transport header on, at least [`LEAST`].
pub(crate) const REST: Reg = Reg::R8;
/// Bytes of transport header that are always there.
pub(crate) const LEAST: i32 = 8;

/// Where rules find what they ask for: a register, and what is added to the places below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers(pub(crate) Reg, pub(crate) i16);

impl Headers {
    /// On the stack.
    pub(crate) const STACK: Headers = Headers(Reg::R10, 0);
    /// Bytes of all of it, from [`NOW`] on.
    pub(crate) const LEN: i16 = L4 + L4_LEN as i16 - NOW;

    pub(crate) fn load(self, a: &mut Asm, size: Size, to: Reg, at: i16) {
        a.load(size, to, self.0, self.1 + at);
    }

    pub(crate) fn store(self, a: &mut Asm, size: Size, at: i16, from: Reg) {
        a.store(size, self.0, self.1 + at, from);
    }
}

/// The time, for those who ask for it.
pub(crate) const NOW: i16 = -80;
/// The interfaces that the packet came by and is to leave by.
pub(crate) const IN_DEVICE: i16 = -72;
pub(crate) const OUT_DEVICE: i16 = -68;
/// The network header.
pub(crate) const IP: i16 = -64;
/// The first bytes of the transport header, as many as there are.
pub(crate) const L4: i16 = -24;
pub(crate) const L4_LEN: i32 = 20;
/// On the stack: index of a map.
pub(crate) const INDEX: i16 = -4;
