//! What let a connection in: the rules and policies that its first packet passed by.
//!
//! Most connections come in by a few ways, so a way is kept once and a connection
//! remembers its number and the minute, in the bits of its two tags that the flow cache
//! leaves free ([`crate::flow`]): it costs no memory. When rules change, the ways that are
//! known are told in terms of the rules that stay; what is gone gets a number by which
//! whoever has the rules' text can keep it ([`Engine::take_gone`]).

use std::collections::HashMap;

use tidegate_conntrack::{Conntrack, EntryId, SECOND, Time};
use tidegate_ir::{Hook, Policy, RuleId, Ruleset, TableKind};
use tidegate_wire::Family;

use crate::engine::Engine;
use crate::packet::{Packet, Tracking};

/// Most ways that are known at a time. Beyond, all of them are forgotten.
const MOST: usize = 1 << 14;
/// Most rules that are gone and that nobody has asked for.
const MOST_GONE: usize = 1 << 14;
/// The first bit of a tag that is ours.
const SHIFT: u32 = 44;
/// The numbers that fit there.
const MASK: u64 = (1 << 20) - 1;
const MINUTE: Time = 60 * SECOND;

/// The part of a tag that belongs to the flow cache.
pub(crate) const BELOW: u64 = (1 << SHIFT) - 1;

/// Who let a packet pass a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A rule or policy in force.
    Rule(RuleId),
    /// One that has been changed or taken out since ([`Gone::number`]).
    Gone(u32),
}

/// A table that a connection's first packet passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Passage {
    /// Where.
    pub hook: Hook,
    /// Which table.
    pub table: TableKind,
    /// The rule or policy that decided.
    pub by: By,
}

/// How a connection came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The beginning of the minute in which it did, in the engine's time.
    pub minute: Time,
    /// The tables its first packet passed after tracking had seen it, in their order.
    pub passages: Vec<Passage>,
}

/// A rule that let connections in and is not in force any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its family.
    pub family: Family,
    /// Its number while it was in force.
    pub id: RuleId,
    /// Its number in [`By::Gone`], never given twice.
    pub number: u32,
}

/// Places that are looked at before all others.
const RECENT: usize = 64;

type Way = (Family, Box<[Passage]>);

/// All ways that are known.
#[derive(Debug)]
pub(crate) struct Origins {
    /// The new connection whose packet is at work, and what it has passed.
    at_work: Option<EntryId>,
    passed: Vec<Passage>,
    ways: Vec<Way>,
    places: HashMap<Way, u32>,
    /// Places that were found last, by what tells most ways apart.
    recent: [u32; RECENT],
    /// Number of the first way, less one, and the minute since which the ways are these.
    first: u64,
    since: u64,
    gone: Vec<Gone>,
    next_gone: u32,
}

impl Default for Origins {
    fn default() -> Self {
        Origins {
            at_work: None,
            passed: Vec::new(),
            ways: Vec::new(),
            places: HashMap::new(),
            recent: [0; RECENT],
            first: 0,
            since: 0,
            gone: Vec::new(),
            next_gone: 0,
        }
    }
}

impl Origins {
    /// A packet opens a connection.
    #[inline]
    pub(crate) fn begin(&mut self, id: EntryId) {
        self.at_work = Some(id);
        self.passed.clear();
    }

    /// A packet has been through a table.
    #[inline]
    pub(crate) fn note(&mut self, packet: &Packet, passage: impl FnOnce() -> Option<Passage>) {
        if let Some(id) = self.at_work
            && let Tracking::Connection(a) = packet.tracking
            && a.id == id
        {
            self.passed.extend(passage());
        }
    }

    /// The packet is to wait: what has been noted of it.
    pub(crate) fn pause(&mut self, packet: &Packet) -> Option<(EntryId, Vec<Passage>)> {
        let id = packet.tracking.connection()?.id;
        self.at_work.take_if(|at_work| *at_work == id)?;
        Some((id, std::mem::take(&mut self.passed)))
    }

    /// A packet that has waited goes on.
    pub(crate) fn go_on(&mut self, id: EntryId, passed: Vec<Passage>) {
        self.at_work = Some(id);
        self.passed = passed;
    }

    /// The packet has come to its end: its connection, if it has got one, remembers.
    #[inline]
    pub(crate) fn end(&mut self, now: Time, packet: &Packet, conntrack: &mut Conntrack) {
        if let Some(id) = self.at_work.take() {
            self.keep(now, packet.family(), id, conntrack);
        }
    }

    fn keep(&mut self, now: Time, family: Family, id: EntryId, conntrack: &mut Conntrack) {
        let tags = match conntrack.entry(id) {
            Some(entry) if entry.confirmed() => entry.tags,
            _ => return,
        };
        let minute = now / MINUTE;
        let Some(number) = self.number(family, minute) else {
            return;
        };
        let [there, back] = tags.map(|tag| tag & BELOW);
        let with = |tag, value| tag | (value & MASK) << SHIFT;
        conntrack.set_tags(id, [with(there, number), with(back, minute)]);
    }

    /// The number of the way that has been noted; never 0.
    fn number(&mut self, family: Family, minute: u64) -> Option<u64> {
        let ids = self.passed.iter().map(|passage| match passage.by {
            By::Rule(id) => id.0,
            By::Gone(_) => 0,
        });
        let recent = ids.fold(0, |all: u32, id| all.rotate_left(3) ^ id) as usize % RECENT;
        let mut place = self.recent[recent];
        let is_it = |way: &Way| way.0 == family && *way.1 == *self.passed;
        if !self.ways.get(place as usize).is_some_and(is_it) {
            place = self.place(family, minute)?;
            self.recent[recent] = place;
        }
        Some((self.first + u64::from(place)) % MASK + 1)
    }

    fn place(&mut self, family: Family, minute: u64) -> Option<u32> {
        let way = (family, self.passed.as_slice().into());
        if let Some(&place) = self.places.get(&way) {
            return Some(place);
        }
        if self.ways.len() >= MOST {
            // Numbers are told apart by the minute once they come round.
            if minute <= self.since {
                return None;
            }
            self.first += self.ways.len() as u64;
            self.since = minute;
            self.ways.clear();
            self.places.clear();
        }
        let place = self.ways.len() as u32;
        self.ways.push(way.clone());
        self.places.insert(way, place);
        Some(place)
    }

    /// What an entry with these tags remembers.
    fn of(&self, tags: [u64; 2], now: Time) -> Option<Origin> {
        let [number, minute] = tags.map(|tag| tag >> SHIFT);
        let present = now / MINUTE;
        let age = present.wrapping_sub(minute) & MASK;
        let minute = present.checked_sub(age)?;
        let place = (number.checked_sub(1)? + MASK - self.first % MASK) % MASK;
        let (_, passages) = self.ways.get(place as usize)?;
        (minute >= self.since).then(|| Origin {
            minute: minute * MINUTE,
            passages: passages.to_vec(),
        })
    }

    /// Rules of a family have changed: `moved` gives the number of those that stay.
    pub(crate) fn follow(&mut self, family: Family, moved: impl Fn(RuleId) -> Option<RuleId>) {
        let mut gone: HashMap<RuleId, u32> = HashMap::new();
        let mut changed = false;
        let own = self.ways.iter_mut().filter(|way| way.0 == family);
        for passage in own.flat_map(|way| &mut way.1) {
            let By::Rule(id) = passage.by else {
                continue;
            };
            let by = moved(id).map_or_else(
                || {
                    By::Gone(*gone.entry(id).or_insert_with(|| {
                        self.next_gone = self.next_gone.wrapping_add(1);
                        self.next_gone
                    }))
                },
                By::Rule,
            );
            changed |= by != passage.by;
            passage.by = by;
        }
        if !changed {
            return;
        }
        let gone = gone
            .into_iter()
            .map(|(id, number)| Gone { family, id, number });
        self.gone.extend(gone);
        self.gone.truncate(MOST_GONE);
        let ways = self.ways.iter().cloned();
        self.places = ways.zip(0..).collect();
    }

    /// Whether any way of a family is known.
    pub(crate) fn has(&self, family: Family) -> bool {
        self.ways.iter().any(|way| way.0 == family)
    }
}

/// The policies of a ruleset by their counters.
pub(crate) fn policies(rules: &Ruleset) -> HashMap<RuleId, Policy> {
    let chains = rules.tables.iter().flatten().flat_map(|t| &t.chains);
    let bases = chains.filter_map(|c| c.base);
    bases.map(|b| (b.policy_id, b.policy)).collect()
}

impl Engine {
    /// How a connection came in; `None` where that is not known: it was there before
    /// the engine, made by hand or restored, or too many ways have been seen since.
    #[must_use]
    pub fn origin(&self, id: EntryId, now: Time) -> Option<Origin> {
        let entry = self.conntrack.entry(id)?;
        self.origins.of(entry.tags, now)
    }

    /// Rules that let connections in and have gone since the last call.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.origins.gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGE: Passage = Passage {
        hook: Hook::Input,
        table: TableKind::Filter,
        by: By::Rule(RuleId(7)),
    };

    fn tags(origins: &mut Origins, id: u32, minute: u64) -> Option<[u64; 2]> {
        origins.passed = vec![Passage {
            by: By::Rule(RuleId(id)),
            ..PASSAGE
        }];
        let number = origins.number(Family::V4, minute)?;
        Some([number, minute].map(|value| (value & MASK) << SHIFT))
    }

    fn rule(origins: &Origins, tags: [u64; 2], minute: u64) -> Option<By> {
        let found = origins.of(tags, minute * MINUTE)?;
        Some(found.passages[0].by)
    }

    /// A number never names another way than its own, however often numbers come round.
    #[test]
    fn what_is_forgotten_is_not_mistaken() {
        let mut origins = Origins::default();
        let old = tags(&mut origins, 1, 1000).unwrap();
        assert_eq!(rule(&origins, old, 1001), Some(By::Rule(RuleId(1))));
        for minute in 1001..1200 {
            for id in 0..MOST as u32 {
                let made = tags(&mut origins, id + 2, minute).unwrap();
                assert_eq!(rule(&origins, made, minute), Some(By::Rule(RuleId(id + 2))));
            }
            tags(&mut origins, 1 << 20, minute + 1).unwrap();
            assert_eq!(rule(&origins, old, minute), None);
        }
        assert_eq!(rule(&origins, [0; 2], 1200), None);
    }

    #[test]
    fn too_many_ways_in_one_minute_are_not_kept() {
        let mut origins = Origins::default();
        for id in 0..MOST as u32 {
            tags(&mut origins, id, 0).unwrap();
        }
        assert_eq!(tags(&mut origins, 1 << 20, 0), None);
        assert!(tags(&mut origins, 1 << 20, 1).is_some());
    }

    /// The minute is right for two years.
    #[test]
    fn the_minute_is_found_again() {
        let mut origins = Origins::default();
        let made = tags(&mut origins, 1, 29_000_000).unwrap();
        for later in [0, 1, 60, 1_000_000] {
            let origin = origins.of(made, (29_000_000 + later) * MINUTE).unwrap();
            assert_eq!(origin.minute, 29_000_000 * MINUTE);
        }
    }

    #[test]
    fn rules_are_followed_and_told_when_they_go() {
        let mut origins = Origins::default();
        let stays = tags(&mut origins, 3, 5).unwrap();
        let goes = tags(&mut origins, 4, 5).unwrap();
        origins.follow(Family::V6, |_| None);
        assert!(origins.gone.is_empty());
        origins.follow(Family::V4, |id| (id.0 == 3).then_some(RuleId(9)));
        assert_eq!(rule(&origins, stays, 5), Some(By::Rule(RuleId(9))));
        assert_eq!(rule(&origins, goes, 5), Some(By::Gone(1)));
        let told = Gone {
            family: Family::V4,
            id: RuleId(4),
            number: 1,
        };
        assert_eq!(origins.gone, [told]);
        // Its old number may be another rule's now.
        let other = tags(&mut origins, 4, 6).unwrap();
        assert_ne!(other, goes);
        assert_eq!(rule(&origins, other, 6), Some(By::Rule(RuleId(4))));
        assert_eq!(rule(&origins, goes, 6), Some(By::Gone(1)));
    }
}
