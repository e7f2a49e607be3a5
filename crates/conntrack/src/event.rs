//! What happened to entries, for listeners (`conntrack -E`).

use crate::entry::{Entry, EntryId, Status};
use crate::expect::Expectation;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, Time};
use alloc::vec::Vec;

/// Kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The entry was confirmed.
    New,
    /// It changed.
    Update,
    /// It was removed.
    Destroy,
}

/// An event with the entry as it was at that moment.
#[derive(Clone, Debug)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// Changes since the last event ([`crate::entry::change`] bits).
    pub changes: u16,
    /// The entry.
    pub id: EntryId,
    /// Its contents.
    pub entry: Entry,
    /// When.
    pub at: Time,
    /// Who asked for it from outside ([`Conntrack::acting_for`]).
    pub by: Option<u32>,
}

/// An event about an expectation.
#[derive(Clone, Debug)]
pub struct ExpectEvent {
    /// Made or gone; expectations do not change.
    pub kind: EventKind,
    /// The expectation.
    pub expectation: Expectation,
    /// Original tuple of the connection that announced it.
    pub master: Option<Tuple>,
    /// When.
    pub at: Time,
    /// Who asked for it from outside ([`Conntrack::acting_for`]).
    pub by: Option<u32>,
}

/// Events of each kind kept until somebody takes them; what comes then is lost.
pub const EVENTS_MAX: usize = 1 << 16;

/// When events are recorded (`nf_conntrack_events`), given that somebody listens
/// ([`crate::Config::events`]).
pub mod event_mode {
    /// Never.
    pub const OFF: u8 = 0;
    /// About all entries.
    pub const ALL: u8 = 1;
    /// About entries made while somebody listened.
    pub const LISTENED: u8 = 2;
}

impl Conntrack {
    /// From now on events say that `actor`, a number that listeners are told (a process
    /// id), asked for what happens; `None` ends that.
    pub fn acting_for(&mut self, actor: Option<u32>) {
        self.actor = actor;
    }

    /// Takes the expectation events recorded since the last call.
    pub fn expect_events(&mut self) -> Vec<ExpectEvent> {
        core::mem::take(&mut self.expect_events)
    }

    /// How many events were lost since the last call, because nobody took those that
    /// were there.
    pub fn events_lost(&mut self) -> u64 {
        core::mem::take(&mut self.events_lost)
    }

    /// Whether events about an entry with this `watched` flag are wanted.
    fn listened_to(&self, watched: bool) -> bool {
        self.config.events
            && match self.config.events_mode {
                event_mode::OFF => false,
                event_mode::ALL => true,
                _ => watched,
            }
    }

    pub(crate) fn report_expectation(&mut self, kind: EventKind, expectation: &Expectation) {
        let master = self.slab.get(expectation.master);
        if !self.listened_to(master.is_some_and(|m| m.watched)) {
            return;
        }
        if self.expect_events.len() >= EVENTS_MAX {
            self.events_lost += 1;
            return;
        }
        self.expect_events.push(ExpectEvent {
            kind,
            expectation: expectation.clone(),
            master: master.map(|m| *m.tuple(Dir::Original)),
            at: self.clock,
            by: self.actor,
        });
    }

    /// Takes the events recorded since the last call; none are recorded unless
    /// [`crate::Config::events`] is set.
    pub fn events(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }

    /// Records an event with what is pending on the entry.
    pub(crate) fn report(&mut self, id: EntryId, kind: EventKind) {
        let Some(entry) = self.slab.get_mut(id) else {
            return;
        };
        let changes = core::mem::take(&mut entry.pending);
        let nothing_new = changes == 0 || entry.status.has(Status::DYING);
        if kind == EventKind::Update && nothing_new {
            return;
        }
        let watched = entry.watched;
        if !self.listened_to(watched) {
            return;
        }
        if self.events.len() >= EVENTS_MAX {
            self.events_lost += 1;
            return;
        }
        let Some(entry) = self.slab.get(id).cloned() else {
            return;
        };
        self.events.push(Event {
            kind,
            changes,
            id,
            entry,
            at: self.clock,
            by: self.actor,
        });
    }
}
