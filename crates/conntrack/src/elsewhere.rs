//! Connections whose packets pass elsewhere for the time being: by a fast path that keeps
//! their state meanwhile and gives it back when it is asked for.
//!
//! Only what is settled goes there: a packet that comes here although its connection is
//! elsewhere calls the connection back before it is judged, and so does everything else
//! that depends on the connection's state or changes it.

use core::fmt;

use alloc::boxed::Box;
use alloc::vec::Vec;
use tidegate_wire::Family;

use crate::entry::{Counters, Entry, EntryId, ProtoState, Status, TcpConn, TcpState};
use crate::tracker;
use crate::tuple::Dir;
use crate::{Conntrack, SECOND, Time};

/// What has passed since it was last asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets and bytes of each direction.
    pub counters: [Counters; 2],
    /// When the last one passed; `None` when there was none.
    pub last: Option<Time>,
    /// What they made of a TCP connection.
    pub tcp: Option<TcpState>,
}

/// Where packets pass meanwhile.
pub trait Elsewhere: fmt::Debug + Send {
    /// What has happened at `place`, whose connection the tracker knows as `entry`. With
    /// `back`, nothing more happens there from now on.
    fn look(&mut self, place: u32, entry: &Entry, back: bool) -> Seen;
}

/// Why an entry's packets may not pass elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unsettled {
    /// There is no such entry.
    Gone,
    /// Neither TCP nor UDP.
    Protocol,
    /// It is about to end, its timeout is fixed, or it clashes with another.
    Ending,
    /// A helper reads it.
    Helper,
    /// SYNPROXY has opened it.
    Proxied,
    /// Its sequence numbers are adjusted.
    Adjusted,
    /// It is in a zone.
    Zone,
    /// Nothing has come back.
    Unanswered,
    /// TCP that opens or closes.
    Handshake,
    /// Not assured: too little has been said.
    Young,
}

/// Packets that passed elsewhere, for the counters of whoever decided about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Their family.
    pub family: Family,
    /// The entry's tag for their direction.
    pub tag: u64,
    /// How many.
    pub counters: Counters,
}

/// No place.
pub(crate) const HERE: u32 = u32::MAX;

/// The tracker's side.
#[derive(Debug, Default)]
pub(crate) struct Away {
    elsewhere: Option<Box<dyn Elsewhere>>,
    /// By place, whose it is.
    places: Vec<EntryId>,
    passed: Vec<Passed>,
}

impl Entry {
    /// Whether its packets may pass elsewhere meanwhile.
    #[inline]
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.place != HERE
    }
}

impl Conntrack {
    /// From now on connections can be elsewhere.
    pub fn set_elsewhere(&mut self, elsewhere: Box<dyn Elsewhere>) {
        self.recall_all();
        self.away.elsewhere = Some(elsewhere);
    }

    /// Whether an entry is so settled that its packets may pass elsewhere: assured, an
    /// established one of TCP, without helper or adjusted sequence numbers, in no zone.
    #[must_use]
    pub fn is_settled(&self, id: EntryId) -> bool {
        self.unsettled(id).is_none()
    }

    /// Why an entry's packets may not pass elsewhere; `None` when they may.
    #[must_use]
    pub fn unsettled(&self, id: EntryId) -> Option<Unsettled> {
        const ENDING: u32 = Status::DYING | Status::FIXED_TIMEOUT | Status::NAT_CLASH;
        const ANSWERED: u32 = Status::CONFIRMED | Status::SEEN_REPLY;
        let Some(entry) = self.entry(id) else {
            return Some(Unsettled::Gone);
        };
        let tcp = entry.tcp().map(|tcp| tcp.state);
        let stateless = !matches!(entry.proto, ProtoState::Tcp(_) | ProtoState::Udp { .. });
        let adjusted = entry.seqadj().is_some() || entry.status.has(Status::SEQ_ADJUST);
        let tests = [
            (stateless, Unsettled::Protocol),
            (entry.status.has(ENDING), Unsettled::Ending),
            (entry.helper.is_some(), Unsettled::Helper),
            (entry.proxied().is_some(), Unsettled::Proxied),
            (adjusted, Unsettled::Adjusted),
            (entry.zone.id != 0, Unsettled::Zone),
            (entry.status.0 & ANSWERED != ANSWERED, Unsettled::Unanswered),
            (
                tcp.is_some_and(|s| s != TcpConn::Established),
                Unsettled::Handshake,
            ),
            (!entry.status.has(Status::ASSURED), Unsettled::Young),
        ];
        tests.into_iter().find(|t| t.0).map(|t| t.1)
    }

    /// How many entries are elsewhere.
    #[must_use]
    pub fn elsewhere(&self) -> usize {
        let there = |id: &&EntryId| self.is_elsewhere(**id);
        self.away.places.iter().filter(there).count()
    }

    /// The packets of an entry pass at `place` from now on.
    pub fn entrust(&mut self, id: EntryId, place: u32) {
        let Some(entry) = self.slab.get_mut(id) else {
            return;
        };
        entry.place = place;
        let at = place as usize;
        if self.away.places.len() <= at {
            self.away.places.resize(at + 1, EntryId::NOBODY);
        }
        self.away.places[at] = id;
    }

    /// Whether the packets of an entry pass elsewhere.
    #[must_use]
    pub fn is_elsewhere(&self, id: EntryId) -> bool {
        self.entry(id).is_some_and(Entry::is_elsewhere)
    }

    /// Calls an entry back.
    #[inline]
    pub(crate) fn recall(&mut self, id: EntryId) {
        if self.slab.get(id).is_some_and(Entry::is_elsewhere) {
            self.ask(id, true);
        }
    }

    /// Calls every entry back.
    pub fn recall_all(&mut self) {
        for id in core::mem::take(&mut self.away.places) {
            self.recall(id);
        }
    }

    /// Takes over what has happened to an entry elsewhere, and leaves it there.
    pub fn look_at(&mut self, place: u32) {
        let known = self.away.places.get(place as usize).copied();
        if let Some(id) = known
            && self.is_elsewhere(id)
        {
            self.ask(id, false);
        }
    }

    /// Takes over what has happened to all entries elsewhere.
    pub fn look_elsewhere(&mut self) {
        for place in 0..self.away.places.len() as u32 {
            self.look_at(place);
        }
    }

    /// Whether [`Conntrack::take_passed`] has any.
    #[inline]
    #[must_use]
    pub fn has_passed(&self) -> bool {
        !self.away.passed.is_empty()
    }

    /// Packets that passed elsewhere, as far as it has been asked, since the last call.
    pub fn take_passed(&mut self) -> Vec<Passed> {
        core::mem::take(&mut self.away.passed)
    }

    fn ask(&mut self, id: EntryId, back: bool) {
        let Some(entry) = self.slab.get_mut(id) else {
            return;
        };
        let place = entry.place;
        let Some(elsewhere) = self.away.elsewhere.as_mut() else {
            return;
        };
        let seen = elsewhere.look(place, entry, back);
        if back {
            entry.place = HERE;
            if let Some(slot) = self.away.places.get_mut(place as usize) {
                *slot = EntryId::NOBODY;
            }
        }
        for dir in Dir::BOTH {
            let counters = seen.counters[dir.ix()];
            if counters.packets == 0 {
                continue;
            }
            entry.count(dir, counters);
            self.away.passed.push(Passed {
                family: entry.tuples[0].family,
                tag: entry.tags[dir.ix()],
                counters,
            });
        }
        if let (Some(state), Some(tcp)) = (seen.tcp, entry.tcp_mut()) {
            *tcp = state;
        }
        let Some(last) = seen.last else {
            return;
        };
        let seconds = tracker::settled_timeout(&self.config, entry);
        entry.timeout = last.saturating_add(Time::from(seconds) * SECOND);
        self.check_timer(self.clock.max(last), id.index);
    }
}
