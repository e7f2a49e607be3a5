//! Named sets of addresses, ports, interfaces and marks, as the kernel's `ip_set` keeps
//! them: what `-m set` looks into, `-j SET` changes and `ipset` shows and edits.
//!
//! [`Sets`] is all sets of a firewall by name. [`Kind`] is a set's type, one row of
//! [`KINDS`]. A member is found under its [`Key`] and carries an [`Entry`]. Packets meet
//! sets through a [`Probe`], which says what the packet has of what a key is made of.
//!
//! Times are nanoseconds on the caller's clock. Nothing here reads a clock or a file.
#![forbid(unsafe_code)]

mod entry;
mod key;
mod kind;
mod packet;
mod set;
mod sets;

pub use entry::{Change, Entry, SkbInfo};
pub use key::{Key, keys_of_range};
pub use kind::{KINDS, Kind, Part, Storage};
pub use packet::{Ask, Comparison, Found, Probe};
pub use set::{Members, Options, Refused, Set};
pub use sets::{NAME_MAX, Place, Sets};

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;
