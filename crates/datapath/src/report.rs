//! What the datapath says about itself.

pub use tidegate_ebpf::layout::Fate;

/// Packets at one interface since it was guarded. Packets of several segments that the
/// kernel handles as one count as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received from the network.
    pub received: u64,
    /// Sent to the network.
    pub sent: u64,
    /// Sent by this host's sockets.
    pub from_sockets: u64,
    /// Given to this host's sockets.
    pub to_sockets: u64,
    /// Stopped by rules or by what every host refuses.
    pub dropped: u64,
    /// Arrived when there was no room.
    pub lost: u64,
    /// Could not be sent: the interface refused, or the neighbour was not found.
    pub unsent: u64,
}

/// A guarded interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guarded {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// What passed it.
    pub traffic: Traffic,
}

/// What is guarded, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What became of received packets at the programs in the kernel; empty without them.
    pub fates: Vec<(Fate, u64)>,
    /// Guarded interfaces by index.
    pub interfaces: Vec<Guarded>,
    /// Packets for interfaces that are not guarded or not there any more.
    pub stray: u64,
    /// What is not enforced, a sentence each.
    pub notes: Vec<String>,
}
