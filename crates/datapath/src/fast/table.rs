//! Which connections the programs handle, and what they are told about them.

use std::collections::HashMap;

use tidegate_ebpf::layout::{
    self, Fate, Hook, KEY, PATH, Way, gate, global, key, path, tcp_state, turn, windows,
};
use tidegate_engine::conntrack::elsewhere::Seen;
use tidegate_engine::conntrack::entry::Counters;
use tidegate_engine::conntrack::{Dir, Entry, EntryId, SECOND, Time};
use tidegate_engine::{Comes, Engine, Offer};
use tidegate_sys::Clock;

use super::doorway::Doorway;
use super::hops::Hops;
use super::kernel::Tables;

/// `BPF_F_LOCK`
pub(super) const LOCK: u64 = 4;

/// How often connections are looked at, and after how much silence.
pub(super) const SWEEP: Time = SECOND;

/// How packets of a flow are sent without the kernel's help.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hop {
    /// Of the next hop.
    pub(super) place: Option<u32>,
    /// Before the kernel, if they are for this Ethernet address.
    pub(super) early: Option<[u8; 6]>,
}

/// One connection's place.
#[derive(Debug, Default)]
struct Place {
    id: Option<EntryId>,
    ways: [Option<Way>; 2],
    keys: [Option<[u8; KEY]>; 2],
    /// What the connection's tags were when the ways were offered.
    tags: [u64; 2],
    /// Epoch of the engine when the ways were offered.
    epoch: u64,
    /// Packets and bytes of each direction that have been told.
    told: [Counters; 2],
    /// Time of the last packet that has been told.
    last: u64,
    /// Packets that came up with the connection's mark on them.
    seen: u64,
    /// Directions of which one has come since their key was set: all that came up before
    /// without a mark has been dealt with.
    proved: [bool; 2],
    /// Packets that had come up when some were missing though nothing waited.
    missing: Option<u64>,
    /// There is an offer to be handed over.
    waits: bool,
    /// It is in the list of those.
    listed: bool,
}

impl Place {
    /// Whether packets of one direction are for a socket of this host.
    fn is_of_socket(&self) -> bool {
        let mut ways = self.ways.iter().flatten();
        ways.any(|way| way.goes == layout::Goes::On)
    }
}

/// The tables and what is in them.
pub(crate) struct Table {
    pub(super) kernel: Tables,
    pub(super) hops: Hops,
    /// Into this host's sockets, and from them.
    pub(super) inward: Doorway,
    pub(super) upward: Doorway,
    clock: Clock,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Freed, but a program may still be about to look at them.
    cooling: Vec<u32>,
    by_id: HashMap<EntryId, u32>,
    by_key: HashMap<[u8; KEY], u32>,
    /// Places that are to be handed over.
    waiting: Vec<u32>,
    /// Places of which packets came in this batch.
    touched: Vec<u32>,
    /// There are new offers.
    pub(super) fresh: bool,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("places", &self.by_id.len())
            .finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn new(kernel: Tables, clock: Clock) -> Self {
        Table {
            kernel,
            hops: Hops::default(),
            inward: Doorway::default(),
            upward: Doorway::default(),
            clock,
            places: Vec::new(),
            free: Vec::new(),
            cooling: Vec::new(),
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            waiting: Vec::new(),
            touched: Vec::new(),
            fresh: false,
        }
    }

    /// A place for a connection; `None` when all are taken.
    fn place(&mut self, id: EntryId) -> Option<u32> {
        if let Some(place) = self.by_id.get(&id) {
            return Some(*place);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.places.len() < self.kernel.secrets.places as usize => {
                self.places.push(Place::default());
                self.places.len() as u32 - 1
            }
            None => return None,
        };
        self.kernel.set_word(place, gate::DONE, gate::SHUT);
        for dir in 0..2 {
            self.kernel.set_path(place, dir, &[0; PATH]);
        }
        let counted = |dir: usize| Counters {
            packets: self.kernel.word(place, gate::COUNTS + 2 * dir),
            bytes: self.kernel.word(place, gate::COUNTS + 2 * dir + 1),
        };
        self.places[place as usize] = Place {
            id: Some(id),
            told: [counted(0), counted(1)],
            seen: self.kernel.word(place, gate::SENT),
            last: self.kernel.word(place, gate::LAST),
            ..Place::default()
        };
        self.by_id.insert(id, place);
        Some(place)
    }

    /// Takes an offer; it is handed over when none of the flow's packets is on its way
    /// through here any more.
    pub(super) fn offer(&mut self, offer: &Offer, goes: layout::Goes, hop: Hop, epoch: u64) {
        let Some(at) = self.place(offer.id) else {
            return;
        };
        // It is, for the engine has the connection.
        if self.kernel.word(at, gate::DONE) != gate::SHUT {
            self.kernel.shut(at);
        }
        let dir = offer.dir as usize;
        let hook = match offer.comes {
            Comes::Received(_) => Hook::Ingress,
            Comes::Sent(_) => Hook::Egress,
        };
        let key = key(offer.comes.dev().0, hook, &offer.before);
        if self.places[at as usize].epoch != epoch {
            (0..2).for_each(|dir| self.forget_way(at, dir));
            self.places[at as usize].epoch = epoch;
        }
        let place = &mut self.places[at as usize];
        let way = Way {
            goes,
            before: offer.before,
            after: offer.after,
            tos: offer.tos,
            hop: hop.place,
            early: hop.early,
        };
        place.ways[dir] = Some(way);
        place.tags[dir] = offer.tag;
        place.waits = true;
        self.fresh = true;
        if !std::mem::replace(&mut place.listed, true) {
            self.waiting.push(at);
        }
        if let Some(old) = place.keys[dir].replace(key)
            && old != key
        {
            self.remove_key(&old, (at, offer.dir));
        }
        self.kernel.set_path(at, dir, &path(&key, Some(&way)));
        let before = self.by_key.insert(key, at);
        if before != Some(at) {
            self.places[at as usize].proved[dir] = false;
            self.kernel.index.add(&key, (at, offer.dir), before);
        }
    }

    /// Packets of a direction go up, and are counted, until it is offered again.
    fn forget_way(&mut self, at: u32, dir: usize) {
        let place = &mut self.places[at as usize];
        place.ways[dir] = None;
        let path = place.keys[dir].map_or([0; PATH], |key| path(&key, None));
        self.kernel.set_path(at, dir, &path);
    }

    fn remove_key(&mut self, key: &[u8; KEY], whose: (u32, Dir)) {
        if self.by_key.get(key) == Some(&whose.0) {
            self.by_key.remove(key);
            self.kernel.index.remove(key, whose);
        }
    }

    /// A packet of a known connection came up.
    pub(super) fn seen(&mut self, at: u32, dir: Dir) {
        if let Some(place) = self.places.get_mut(at as usize) {
            place.seen += 1;
            place.proved[dir as usize] = true;
            self.touched.push(at);
        }
    }

    /// Hands over what is ripe, given that everything decided has been sent: connections of
    /// which all packets that came up have been seen. With `idle`, nothing waits in any
    /// socket: then packets that are missing were lost on their way up.
    pub(super) fn hand_over(&mut self, engine: &Engine, idle: bool) -> Vec<(EntryId, u32)> {
        let mut touched = std::mem::take(&mut self.touched);
        if idle {
            self.fresh = false;
            touched.append(&mut self.waiting);
        }
        let mut gone = Vec::new();
        let (globals, now) = (&self.kernel.globals, self.clock.now());
        let none_inward = self.inward.is_empty(globals.load(global::LET_IN), now);
        let none_upward = self.upward.is_empty(globals.load(global::SENT_UP), now);
        for at in touched.drain(..) {
            let sent = self.kernel.word(at, gate::SENT);
            let place = &mut self.places[at as usize];
            // Its packets may be on their way into a socket still, or from one: what came up last
            // says so, unless it bears no mark or has been lost.
            if place.is_of_socket() && !(none_inward && (none_upward || !idle)) {
                self.fresh = true;
                if idle {
                    self.waiting.push(at);
                }
                continue;
            }
            if idle {
                place.proved = [true; 2];
                // One may be between the program and the socket; twice is no accident.
                if place.seen != sent && place.missing.replace(sent) != Some(sent) {
                    self.fresh = true;
                    self.waiting.push(at);
                    continue;
                }
                place.listed = false;
                place.seen = sent;
            }
            let proved = (0..2).all(|dir| place.proved[dir] || place.ways[dir].is_none());
            if !place.waits || place.seen != sent || !proved {
                continue;
            }
            place.waits = false;
            if let Some(id) = place.id
                && place.epoch == engine.epoch()
                && engine.conntrack().is_settled(id)
                && self.give(engine, id, at, sent)
            {
                gone.push((id, at));
            }
        }
        self.touched = touched;
        gone
    }

    fn give(&mut self, engine: &Engine, id: EntryId, at: u32, sent: u64) -> bool {
        let Some(entry) = engine.conntrack().entry(id) else {
            return false;
        };
        for dir in 0..2 {
            // A packet after the one that was offered was another matter: what passes would be
            // counted as it was.
            if entry.tags[dir] != self.places[at as usize].tags[dir] {
                self.forget_way(at, dir);
            }
        }
        if self.places[at as usize].ways == [None; 2] {
            return false;
        }
        if let Some(tcp) = entry.tcp()
            && self.kernel.connections.set(at, windows(tcp), LOCK).is_err()
        {
            return false;
        }
        let epoch = self.kernel.globals.load(global::EPOCH);
        self.kernel.set_word(at, gate::EPOCH, epoch);
        self.kernel.set_word(at, gate::DONE, sent);
        true
    }

    /// Frees places of connections that are no more, and says which connections have been
    /// silent for a while after something passed.
    pub(super) fn sweep(&mut self, engine: &Engine, now: Time) -> Vec<u32> {
        self.free.append(&mut self.cooling);
        let mut silent = Vec::new();
        for at in 0..self.places.len() as u32 {
            let place = &self.places[at as usize];
            let Some(id) = place.id else {
                continue;
            };
            if engine.conntrack().entry(id).is_none() {
                self.release(at, id);
                continue;
            }
            let last = self.kernel.word(at, gate::LAST);
            if last != place.last && self.clock.at(last).saturating_add(SWEEP) <= now {
                silent.push(at);
            }
        }
        silent
    }

    fn release(&mut self, at: u32, id: EntryId) {
        self.kernel.set_word(at, gate::DONE, gate::SHUT);
        let keys = std::mem::take(&mut self.places[at as usize].keys);
        for (key, dir) in keys.into_iter().zip(Dir::BOTH) {
            if let Some(key) = key {
                self.remove_key(&key, (at, dir));
            }
        }
        self.places[at as usize] = Place::default();
        self.by_id.remove(&id);
        self.cooling.push(at);
    }

    /// Whether programs have all connections that have been offered to them.
    pub(super) fn is_settled(&self) -> bool {
        !self.fresh && self.places.iter().all(|place| !place.waits)
    }

    pub(super) fn fates(&self) -> Vec<(Fate, u64)> {
        let count = |fate: Fate| match turn::counted(fate) {
            Some(word) => self.kernel.of_turns(word),
            None => {
                let cpus = self.kernel.fates.get(&(fate as u32), 0);
                cpus.map_or(0, |c| c.iter().sum())
            }
        };
        Fate::ALL.into_iter().map(|f| (f, count(f))).collect()
    }

    pub(super) fn look(&mut self, at: u32, entry: &Entry, back: bool) -> Seen {
        if back {
            self.kernel.shut(at);
        }
        let mut seen = Seen::default();
        if self.places.get(at as usize).is_none() {
            return seen;
        }
        let tcp = entry.tcp();
        let state = tcp.map(|_| self.kernel.connections.get(&at, LOCK));
        for dir in Dir::BOTH {
            let word = gate::COUNTS + 2 * dir as usize;
            let now = Counters {
                packets: self.kernel.word(at, word),
                bytes: self.kernel.word(at, word + 1),
            };
            let told = std::mem::replace(&mut self.places[at as usize].told[dir as usize], now);
            seen.counters[dir as usize] = Counters {
                packets: now.packets.wrapping_sub(told.packets),
                bytes: now.bytes.wrapping_sub(told.bytes),
            };
        }
        let passed = seen.counters.iter().any(|c| c.packets > 0);
        if passed {
            let last = self.kernel.word(at, gate::LAST);
            self.places[at as usize].last = last;
            seen.last = Some(self.clock.at(last));
        }
        // A packet may have been counted by the look before, after that look had read the
        // state: who calls back takes the state whatever the counters say.
        if (back || passed)
            && let (Some(tcp), Some(Ok(bytes))) = (tcp, state)
        {
            seen.tcp = Some(tcp_state(&bytes, tcp));
        }
        seen
    }
}
