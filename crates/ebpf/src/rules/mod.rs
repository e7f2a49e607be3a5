//! Rules as code: what programs can tell of a condition from a packet alone.
//!
//! `facts` says what is known of a field before the packet is there, `reduce` takes
//! conditions apart into what must hold and what may hold, `test` makes code of what is
//! left.

mod facts;
mod reduce;
mod test;

pub(crate) use facts::{Facts, Given};
pub(crate) use reduce::{Bound, all, reduce};
pub(crate) use test::branch;

use crate::asm::Reg;

/// The program's context.
pub(crate) const CONTEXT: Reg = Reg::R6;
/// Bytes of the packet.
pub(crate) const LENGTH: Reg = Reg::R7;
/// Bytes from the transport header on, at least [`LEAST`].
pub(crate) const REST: Reg = Reg::R8;
/// Bytes of transport header that are always there.
pub(crate) const LEAST: i32 = 8;

/// On the stack: the interfaces that the packet came by and is to leave by.
pub(crate) const IN_DEVICE: i16 = -72;
pub(crate) const OUT_DEVICE: i16 = -68;
/// The network header.
pub(crate) const IP: i16 = -64;
/// The first bytes of the transport header, as many as there are.
pub(crate) const L4: i16 = -24;
pub(crate) const L4_LEN: i32 = 20;
/// Index of a map.
pub(crate) const INDEX: i16 = -4;
