//! What belongs to a member.

use crate::SECOND;

/// What packets take from a member (`--map-set`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkbInfo {
    /// Mark.
    pub mark: u32,
    /// Bits of the mark that are set.
    pub mask: u32,
    /// Class, which is the packet's priority.
    pub priority: u32,
    /// Queue of the network card.
    pub queue: u16,
}

/// What a set remembers of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it leaves; `None` for never.
    pub expires: Option<u64>,
    /// Packets that matched.
    pub packets: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// A remark.
    pub comment: Option<Box<str>>,
    /// What packets take.
    pub skb: SkbInfo,
    /// It is an exception.
    pub nomatch: bool,
    /// The MAC address of `bitmap:ip,mac`, once it is known.
    pub mac: Option<u64>,
}

impl Entry {
    /// Whether its time is up.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// Seconds left as listings show them, 0 for no end (`ip_set_timeout_get`).
    #[must_use]
    pub fn seconds(&self, now: u64) -> u64 {
        self.expires
            .map_or(0, |at| (at.saturating_sub(now) / SECOND).max(1))
    }
}

/// What is said about a member that is added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Seconds; the set's own when not given, 0 for no end.
    pub timeout: Option<u32>,
    /// Value of the packet counter.
    pub packets: Option<u64>,
    /// Value of the byte counter.
    pub bytes: Option<u64>,
    /// A remark.
    pub comment: Option<Box<str>>,
    /// What packets take.
    pub skb: SkbInfo,
    /// It is an exception.
    pub nomatch: bool,
    /// MAC address, for `bitmap:ip,mac`.
    pub mac: Option<u64>,
}
