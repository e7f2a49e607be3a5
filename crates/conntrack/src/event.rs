//! What happened to entries, for listeners (`conntrack -E`).

use crate::Conntrack;
use crate::entry::{Entry, EntryId, Status};
use crate::expect::Expectation;
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
}

/// An event about an expectation.
#[derive(Clone, Debug)]
pub struct ExpectEvent {
    /// Made or gone; expectations do not change.
    pub kind: EventKind,
    /// The expectation.
    pub expectation: Expectation,
}

impl Conntrack {
    /// Takes the expectation events recorded since the last call.
    pub fn expect_events(&mut self) -> Vec<ExpectEvent> {
        core::mem::take(&mut self.expect_events)
    }

    pub(crate) fn report_expectation(&mut self, kind: EventKind, expectation: &Expectation) {
        if self.config.events {
            let expectation = expectation.clone();
            self.expect_events.push(ExpectEvent { kind, expectation });
        }
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
        if !self.config.events || (kind == EventKind::Update && nothing_new) {
            return;
        }
        let entry = entry.clone();
        self.events.push(Event {
            kind,
            changes,
            id,
            entry,
        });
    }
}
