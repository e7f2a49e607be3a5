//! The fast path in front of this datapath: programs in the kernel that answer for packets
//! of flows which the engine has decided (`tidegate-ebpf`), and what they are told.
//!
//! A program sees a frame before the kernel's traffic control and everything behind it,
//! but after packet sockets: ours would see what the program forwards, too. So the socket
//! of a guarded interface takes frames at the far end of a pair of devices instead, where
//! the program sends what must go up. It does so within the same turn of the kernel
//! (`bpf_redirect_peer`): nothing queues between the program and the socket.
//!
//! Everything that keeps an interface closed without the programs stays in place behind
//! them.

mod doorway;
mod gates;
mod handle;
mod hops;
mod index;
mod kernel;
mod predecessor;
mod table;

pub(crate) use handle::Fast;
pub(crate) use kernel::{Attached, Kernel, Shared, link, map, shared};
pub(crate) use predecessor::{Predecessor, adopt};
pub(crate) use table::Table;
