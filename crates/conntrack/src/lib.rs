//! Connection tracking as Linux netfilter does it, without sockets, clocks or threads.
//!
//! Time, randomness and the hash key are arguments; packets are byte slices that
//! start at the network header. The behaviour followed is Linux 6.18's.
#![no_std]

extern crate alloc;

pub mod by_hand;
pub mod config;
pub mod elsewhere;
pub mod entry;
pub mod event;
pub mod expect;
pub mod format;
pub mod helper;
pub mod nat;
pub mod policy;
pub mod reason;
pub mod register;
pub mod seqadj;
pub mod snapshot;
pub mod stats;
pub mod synproxy;
pub mod sysctl;
pub mod tuple;

mod age;
mod ahead;
mod classify;
mod confirm;
mod conntrack;
mod create;
mod go_on;
mod logged;
mod pinned;
mod rng;
mod slab;
mod state;
mod table;
mod timer;
mod tracker;

pub use ahead::AHEAD;
pub use config::{Config, HelperPort};
pub use conntrack::{Conntrack, Cursor, InHook, Template, Tracked};
pub use entry::{
    Attached, CtInfo, Entry, EntryId, Extra, HelperKind, Master, ProtoState, Status, TcpSide, Zone,
};
pub use event::{Event, EventKind, ExpectEvent};
pub use expect::Expectation;
pub use helper::{HelperSettings, HelperState, Way, Ways};
pub use nat::{Manip, NatHook, NatRange};
pub use policy::{Policies, Policy, PolicyId};
pub use reason::{DropReason, InvalidReason, Note};
pub use stats::Stats;
pub use sysctl::Sysctl;
pub use tidegate_wire::Family;
pub use tuple::{Dir, Tuple};

/// Nanoseconds since an origin the caller chooses (usually the Unix epoch).
pub type Time = u64;

/// Nanoseconds in one second.
pub const SECOND: Time = 1_000_000_000;
