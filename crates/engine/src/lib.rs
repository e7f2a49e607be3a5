//! The engine: decides packets and touches no system.
//!
//! Time, randomness and surroundings are arguments: the same inputs give the same
//! outputs on every machine. A packet goes in through [`Engine::receive`] or
//! [`Engine::send`]; what came of it is an [`Outcome`].

mod act;
mod at_table;
mod chain6;
pub mod classifier;
mod config;
mod defrag;
mod drops;
mod edit;
mod effects;
mod emit;
mod engine;
pub mod env;
mod facts;
mod flow;
mod fragment;
mod headers6;
mod help;
mod hooks;
mod log;
mod nat;
mod offload;
mod options4;
mod options6;
mod origin;
mod outcome;
mod packet;
mod path;
mod queue;
mod random;
mod rewrite;
mod routing;
mod run;
mod settled;
mod sockets;
mod staged;
mod stop;
mod synproxy;
mod tables;
mod trace;
mod tracker_log;
mod usual;
mod watched;

pub use config::{Config, TrackWhen};
pub use defrag::DefragLimits;
pub use drops::{DropCounters, DropKind, InvalidKind};
pub use edit::{Edit, NotInPlace};
pub use emit::{IpHeader, ip_packet};
pub use engine::{Engine, Incoming, Outgoing, Ready, Survivor, Survivors};
pub use flow::Unplanned;
pub use offload::{Comes, Follower, Goes, Offer, Withheld};
pub use origin::{By, Gone, Origin, Passage};
pub use outcome::{Device, Disposition, DropReason, FragmentError, Nflog, Outcome, Output, Role};
pub use packet::{LinkHeader, Tracking, interface_number};
pub use queue::{
    Answer, Answered, QUEUE_BYTES, QUEUE_LEN, QUEUE_LEN_MAX, QueueCounts, QueueError, QueueReader,
    QueueSettings, QueueVerdict, Queued, Taken, Ticket,
};
pub use settled::Settled;
pub use sockets::{Listed, SocketEnds, SocketList, Sockets};
pub use staged::{ByRule, Differing, Judged, Otherwise, Staged};
pub use stop::{Stopped, Stopper, Towards};
pub use synproxy::SynProxyCounts;
pub use tables::Counter;
pub use tidegate_conntrack as conntrack;
pub use tidegate_ir::{Owner, Ruleset as Rules, Shared, Socket};
pub use trace::{Trace, TraceEvent};
