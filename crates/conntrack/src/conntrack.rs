//! The tracker: state of one network namespace.

use crate::config::Config;
use crate::entry::{Attached, Entry, EntryId, HelperKind, Zone, change};
use crate::reason::{DropReason, InvalidReason, Note};
use crate::rng::Rng;
use crate::slab::Slab;
use crate::stats::Stats;

/// The hook a packet enters conntrack from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InHook {
    /// Received packets; transport checksums are verified here only.
    Prerouting,
    /// Locally made packets.
    Output,
}

/// What `-j CT` in the raw table asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// Zone.
    pub zone: Zone,
    /// Helper for a new connection.
    pub helper: Option<HelperKind>,
}

/// What tracking says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// The packet has an entry.
    Ct(Attached),
    /// Not tracked by design (some ICMPv6), state UNTRACKED.
    Untracked,
    /// Continues without entry, state INVALID.
    Invalid(InvalidReason),
    /// To be dropped.
    Drop(DropReason),
}

/// Connection tracking of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    pub(crate) config: Config,
    pub(crate) slab: Slab,
    pub(crate) stats: Stats,
    pub(crate) rng: Rng,
    pub(crate) note: Option<Note>,
    /// Entries there are, unconfirmed ones included (`nf_conntrack_count`).
    pub(crate) count: u32,
}

impl Conntrack {
    /// An empty table.
    #[must_use]
    pub fn new(config: Config) -> Conntrack {
        Conntrack {
            slab: Slab::default(),
            stats: Stats::default(),
            rng: Rng::new(config.seed),
            note: None,
            count: 0,
            config,
        }
    }

    /// Settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The entry `id` names, unless it is gone.
    #[inline]
    #[must_use]
    pub fn entry(&self, id: EntryId) -> Option<&Entry> {
        self.slab.get(id)
    }

    /// The entry `id` names, for changing what is not part of the table's order
    /// (tuples and timeout of a confirmed entry have their own methods).
    #[inline]
    pub(crate) fn entry_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        self.slab.get_mut(id)
    }

    /// Sets the connection mark.
    pub fn set_mark(&mut self, id: EntryId, mark: u32) {
        if let Some(entry) = self.slab.get_mut(id)
            && entry.mark != mark
        {
            entry.mark = mark;
            entry.pending |= change::MARK;
        }
    }

    /// All entries that are in the table.
    pub fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.slab.iter().filter(|(_, e)| e.confirmed())
    }

    /// Entries there are, unconfirmed and hidden ones included (`nf_conntrack_count`).
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Statistics.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Why the last packet handled left its entry as it was, if it did.
    #[must_use]
    pub fn last_note(&self) -> Option<Note> {
        self.note
    }
}
