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
    /// Went no further though nobody decided so.
    pub lost: Lost,
}

/// Packets that nobody stopped and that went no further all the same, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Arrived when there was no room.
    pub overflow: u64,
    /// The interface did not take them: its queue was full, or it was down.
    pub refused: u64,
    /// Their neighbour did not answer.
    pub unresolved: u64,
    /// Too many were waiting for their neighbour already.
    pub crowded: u64,
    /// Came by loopback, and rules gave them an address that is not this host's.
    pub astray: u64,
}

impl Lost {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.overflow + self.refused + self.unresolved + self.crowded + self.astray
    }
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

impl Report {
    /// What was lost, all interfaces together: reason, packets, explanation.
    #[must_use]
    pub fn lost(&self) -> [(&'static str, u64, &'static str); 6] {
        let sum = |of: fn(&Lost) -> u64| self.interfaces.iter().map(|i| of(&i.traffic.lost)).sum();
        [
            (
                "overflow",
                sum(|l| l.overflow),
                "it arrived when there was no room for it",
            ),
            (
                "refused",
                sum(|l| l.refused),
                "the interface did not take it: queue full, or down",
            ),
            (
                "unresolved",
                sum(|l| l.unresolved),
                "its neighbour did not answer",
            ),
            (
                "crowded",
                sum(|l| l.crowded),
                "too many packets were waiting for its neighbour already",
            ),
            (
                "astray",
                sum(|l| l.astray),
                "it came by lo, and rules gave it an address that is not this host's",
            ),
            ("stray", self.stray, "its interface is not guarded, or gone"),
        ]
    }
}
