//! The tracker: state of one network namespace, and the life of its entries.

use crate::ahead::{self, AHEAD, Ahead};
use crate::config::Config;
use crate::elsewhere::Away;
use crate::entry::{Attached, Entry, EntryId, HelperKind, Status, TcpConn, Zone, change};
use crate::event::{Event, EventKind, ExpectEvent};
use crate::expect::Expectations;
use crate::helper::pptp::KeyMap;
use crate::nat::blocks::{Binding, Blocks};
use crate::nat::{BySource, Leaving};
use crate::policy::PolicyId;
use crate::reason::{DropReason, InvalidReason, Note};
use crate::register::Register;
use crate::rng::Rng;
use crate::slab::Slab;
use crate::stats::Stats;
use crate::synproxy::Cookies;
use crate::table::Table;
use crate::timer::Wheel;
use crate::tuple::{Dir, Tuple};
use crate::{SECOND, Time};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use tidegate_wire::proto;

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
    /// Timeout policy of a new connection.
    pub timeouts: Option<PolicyId>,
    /// A SYN proxy opens the connection ([`crate::synproxy`]).
    pub proxied: bool,
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

/// Where a listing in pieces goes on; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor(u32);

/// Connection tracking of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    pub(crate) config: Config,
    pub(crate) slab: Slab,
    pub(crate) table: Table,
    pub(crate) wheel: Wheel,
    pub(crate) expectations: Expectations,
    pub(crate) by_source: BySource,
    pub(crate) gre_keys: KeyMap,
    pub(crate) stats: Stats,
    pub(crate) events: Vec<Event>,
    pub(crate) expect_events: Vec<ExpectEvent>,
    pub(crate) events_lost: u64,
    /// Who asks for what happens.
    pub(crate) actor: Option<u32>,
    /// The latest moment there was, for events.
    pub(crate) clock: Time,
    pub(crate) rng: Rng,
    pub(crate) note: Option<Note>,
    /// Entries there are, unconfirmed ones included (`nf_conntrack_count`).
    pub(crate) count: u32,
    /// Removed entries that the packet in flight may still hold.
    pub(crate) dying: Vec<EntryId>,
    /// Entries of packets that wait, and how many do.
    pub(crate) pinned: BTreeMap<EntryId, u32>,
    /// Entries whose packets pass elsewhere.
    pub(crate) away: Away,
    /// Who has all tuples of the table.
    pub(crate) register: Option<Box<dyn Register>>,
    /// When a collection forced by a full table is due.
    pub(crate) gc_at: Option<Time>,
    /// The place that a collection which has begun looks at next.
    pub(crate) collecting: Option<u32>,
    /// Connections that go with their interface or its address.
    pub(crate) leaving: VecDeque<Leaving>,
    /// Packets that have been announced.
    pub(crate) ahead: Ahead,
    /// Ports given away by the block.
    pub(crate) blocks: Blocks,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) bindings_lost: u64,
    /// Cookies of SYN proxies.
    pub(crate) cookies: Cookies,
    /// Scratch space for expiry.
    due: Vec<u32>,
}

impl Conntrack {
    /// An empty table.
    #[must_use]
    pub fn new(config: Config) -> Conntrack {
        Conntrack {
            slab: Slab::default(),
            table: Table::new(&config.hash_key, config.buckets),
            wheel: Wheel::new(),
            expectations: Expectations::default(),
            by_source: BySource::default(),
            gre_keys: KeyMap::default(),
            stats: Stats::default(),
            events: Vec::new(),
            expect_events: Vec::new(),
            events_lost: 0,
            actor: None,
            clock: 0,
            rng: Rng::new(config.seed),
            note: None,
            count: 0,
            dying: Vec::new(),
            pinned: BTreeMap::new(),
            away: Away::default(),
            register: None,
            gc_at: None,
            collecting: None,
            leaving: VecDeque::new(),
            ahead: Ahead::default(),
            blocks: Blocks::default(),
            bindings: Vec::new(),
            bindings_lost: 0,
            cookies: Cookies::new(&config.hash_key),
            due: Vec::new(),
            config,
        }
    }

    /// Settings in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Settings for changing; as with sysctls, timeouts take effect at the next packet
    /// that refreshes an entry. Buckets ([`Conntrack::resize`]), hash key and seed are read
    /// at creation only.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The entry `id` names, unless it is gone. An entry removed while a packet holds
    /// it stays readable (status DYING) until the next packet.
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
        self.recall(id);
        if let Some(entry) = self.entry_mut(id)
            && entry.mark != mark
        {
            entry.mark = mark;
            entry.pending |= change::MARK;
        }
    }

    /// Sets the labels that `bits` holds to those of `labels` (`nf_connlabels_replace`).
    pub fn set_labels(&mut self, id: EntryId, labels: u128, bits: u128) {
        self.recall(id);
        if let Some(entry) = self.entry_mut(id) {
            let new = entry.labels() & !bits | labels & bits;
            if new != entry.labels() {
                entry.extra_mut().labels = new;
                entry.pending |= change::LABEL;
            }
        }
    }

    /// Sets the security mark.
    pub fn set_secmark(&mut self, id: EntryId, secmark: u32) {
        if let Some(entry) = self.entry_mut(id)
            && entry.secmark() != secmark
        {
            entry.extra_mut().secmark = secmark;
            entry.pending |= change::SECMARK;
        }
    }

    /// Remembers a number with a direction of an entry.
    pub fn set_tag(&mut self, id: EntryId, dir: Dir, tag: u64) {
        if let Some(entry) = self.entry_mut(id) {
            entry.tags[dir.ix()] = tag;
        }
    }

    /// The same with both.
    pub fn set_tags(&mut self, id: EntryId, tags: [u64; 2]) {
        if let Some(entry) = self.entry_mut(id) {
            entry.tags = tags;
        }
    }

    /// Leaves of all entries' tags the bits of `mask`.
    pub fn mask_tags(&mut self, mask: u64) {
        for index in 0..self.slab.slots() {
            let id = self.slab.at(index).map(|(id, _)| id);
            if let Some(entry) = id.and_then(|id| self.slab.get_mut(id)) {
                entry.tags = entry.tags.map(|tag| tag & mask);
            }
        }
    }

    /// All entries that listings show: confirmed, not the hidden loser of a clash, and
    /// not beyond their time.
    pub fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        self.slab.iter().filter(|(_, e)| self.is_listed(e))
    }

    fn is_listed(&self, entry: &Entry) -> bool {
        entry.confirmed()
            && !entry.status.has(Status::DYING | Status::NAT_CLASH)
            && entry.timeout > self.clock
    }

    /// The entry that listings show with this number ([`EntryId::number`]).
    #[must_use]
    pub fn by_number(&self, number: u32) -> Option<EntryId> {
        let first = number & ((1 << EntryId::PLACE_BITS) - 1);
        let mut places = (first..self.slab.slots()).step_by(1 << EntryId::PLACE_BITS);
        places.find_map(|index| {
            let (id, entry) = self.slab.at(index)?;
            (id.number() == number && self.is_listed(entry)).then_some(id)
        })
    }

    /// A piece of a listing: the entries that [`Conntrack::iter`] shows in `slots` places
    /// from the one that `cursor` names, and where to go on. Between two pieces the table
    /// may change; every entry that is there all the time is shown once.
    pub fn piece(
        &self,
        cursor: Cursor,
        slots: u32,
    ) -> (impl Iterator<Item = (EntryId, &Entry)>, Option<Cursor>) {
        let end = cursor.0.saturating_add(slots.max(1)).min(self.slab.slots());
        let entries = (cursor.0..end).filter_map(|index| self.slab.at(index));
        let next = (end < self.slab.slots()).then_some(Cursor(end));
        (entries.filter(|(_, e)| self.is_listed(e)), next)
    }

    /// Places that entries can be in, used or not.
    #[must_use]
    pub fn places(&self) -> u32 {
        self.slab.slots()
    }

    /// A part of the table: of every `stride`th place from `from` on, `most` of them, the
    /// entries that listings show; and where to go on.
    pub fn sample(
        &self,
        from: u32,
        stride: u32,
        most: u32,
    ) -> (impl Iterator<Item = &Entry>, Option<u32>) {
        let stride = stride.max(1);
        let end = from.saturating_add(stride.saturating_mul(most.max(1)));
        let places = (from..end.min(self.slab.slots())).step_by(stride as usize);
        let entries = places.filter_map(|index| self.slab.at(index).map(|(_, e)| e));
        let next = (end < self.slab.slots()).then_some(end);
        (entries.filter(|e| self.is_listed(e)), next)
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

    /// The entry with this tuple as a packet in `zone` would find it.
    #[must_use]
    pub fn find(&self, tuple: &Tuple, zone: Zone) -> Option<(EntryId, Dir)> {
        let hash = self.table.hash(tuple, zone.id_for(Dir::Original));
        let (id, dir, _) = self.entry_by(tuple, zone, hash)?;
        Some((id, dir))
    }

    /// The same with the entry itself, where the hash of tuple and zone is known.
    #[inline]
    fn entry_by(&self, tuple: &Tuple, zone: Zone, hash: u32) -> Option<(EntryId, Dir, &Entry)> {
        let search = |hash| {
            self.table
                .find_entry(&self.slab, tuple, zone, hash, |_| false)
        };
        let reply_id = zone.id_for(Dir::Reply);
        search(hash).or_else(|| {
            let other = reply_id != zone.id_for(Dir::Original);
            other.then(|| search(self.table.hash(tuple, reply_id)))?
        })
    }

    /// Removes an entry and what it announced; `false` when there is none. It stays
    /// readable until the next packet, since the packet in flight may hold it.
    pub fn delete(&mut self, id: EntryId) -> bool {
        let removed = self.end(id);
        if removed {
            self.dying.push(id);
        }
        removed
    }

    /// Takes an entry out of everything but its place in memory.
    fn end(&mut self, id: EntryId) -> bool {
        self.recall(id);
        let Some(entry) = self.slab.get_mut(id) else {
            return false;
        };
        if !entry.status.set(Status::DYING) {
            return false;
        }
        let confirmed = entry.confirmed();
        let master = entry.master().map(|m| m.id);
        let tunnel = entry.tuple(Dir::Original).proto == proto::GRE;
        if confirmed {
            self.table.unlink(&mut self.slab, id.index, Dir::Original);
            self.table.unlink(&mut self.slab, id.index, Dir::Reply);
            self.wheel.disarm(&mut self.slab, id.index);
            self.report(id, EventKind::Destroy);
            self.registers(id, false);
            self.tell_connection(id, false);
        }
        self.clean_up(id);
        if let Some(master) = master.filter(|_| tunnel) {
            self.gre_keys.forget(master);
        }
        if let Some(master) = master.and_then(|m| self.slab.get_mut(m)) {
            let children = &mut master.extra_mut().children;
            *children = children.saturating_sub(1);
        }
        self.count = self.count.saturating_sub(1);
        true
    }

    /// Undoes what the entry has brought about elsewhere; it may come to that again while a
    /// packet waits with it.
    pub(crate) fn clean_up(&mut self, id: EntryId) {
        let Some(entry) = self.slab.get(id) else {
            return;
        };
        let announces = entry.expecting() != [0; 4];
        if entry.helper == Some(HelperKind::Pptp) {
            self.end_tunnel(id);
        }
        if announces {
            self.forget_expectations(id);
        }
        self.nat_cleanup(id);
    }

    /// Gives the table another number of buckets, rounded up as the kernel does
    /// (`nf_conntrack_hash_resize`: whole pages of list heads). With
    /// [`Config::at_once`] the entries follow piece by piece.
    pub fn resize(&mut self, buckets: u32) {
        const PAGE_OF_HEADS: u32 = 512;
        let rounded = buckets
            .max(1)
            .div_ceil(PAGE_OF_HEADS)
            .saturating_mul(PAGE_OF_HEADS);
        self.config.buckets = rounded;
        self.table.resize(&mut self.slab, rounded);
        let most = self.at_once() as usize;
        self.table.spread(&mut self.slab, most);
    }

    /// How much is looked at for the clock's sake.
    pub(crate) fn at_once(&self) -> u32 {
        match self.config.at_once {
            0 => u32::MAX,
            some => some,
        }
    }

    /// Removes every entry in the table, all in one call; in pieces that is
    /// [`Conntrack::piece`] and [`Conntrack::delete_by_hand`].
    pub fn flush(&mut self) {
        let all: Vec<EntryId> = self
            .slab
            .iter()
            .filter(|(_, e)| e.confirmed())
            .map(|(id, _)| id)
            .collect();
        for id in all {
            self.delete(id);
        }
        self.reap();
    }

    /// The packet holding `id` is gone: an unconfirmed entry dies with it.
    pub fn release(&mut self, id: EntryId) {
        if self.slab.get(id).is_some_and(|e| !e.confirmed()) {
            self.delete(id);
            self.reap();
        }
    }

    /// Frees removed entries that no packet holds any more, [`Config::at_once`] of them.
    pub(crate) fn reap(&mut self) {
        for _ in 0..self.at_once() {
            let Some(id) = self.dying.pop() else { break };
            self.vacate(id);
        }
    }

    /// REJECT with a TCP reset: the entry closes (`nf_ct_set_closing`).
    pub fn close_for_reset(&mut self, now: Time, id: EntryId) {
        let Some(entry) = self.slab.get_mut(id).filter(|e| e.confirmed()) else {
            return;
        };
        let seconds = self.config.timeouts_of(entry).tcp[TcpConn::Close as usize];
        let Some(tcp) = entry.tcp_mut() else {
            return;
        };
        if core::mem::replace(&mut tcp.state, TcpConn::Close) != TcpConn::Close {
            entry.pending |= change::PROTOINFO;
        }
        self.set_timeout(now, id, Time::from(seconds) * SECOND);
    }

    /// Lets a confirmed entry end `life` nanoseconds from now.
    pub(crate) fn set_timeout(&mut self, now: Time, id: EntryId, life: Time) {
        if let Some(entry) = self.slab.get_mut(id) {
            entry.timeout = now.saturating_add(life);
            self.check_timer(now, id.index);
        }
    }

    /// Moves the timer of an entry whose deadline came nearer.
    pub(crate) fn check_timer(&mut self, now: Time, index: u32) {
        if self.slab.timer_is_late(index)
            && let Some(deadline) = self.slab.at(index).map(|(_, e)| e.timeout)
        {
            self.wheel.disarm(&mut self.slab, index);
            self.wheel.arm(&mut self.slab, index, deadline, now);
        }
    }

    /// Removes what has run out at `now`: entries, expectations; costs O(removed). Goes on
    /// with what is done piece by piece ([`Config::at_once`]).
    #[inline]
    pub fn handle_timeout(&mut self, now: Time) {
        self.clock = self.clock.max(now);
        if !(self.wheel.rests(now) && self.rests(now)) {
            self.catch_up(now);
        }
    }

    /// Whether nothing is due at `now` but, perhaps, entries.
    #[inline]
    pub(crate) fn rests(&self, now: Time) -> bool {
        let later = |at: Option<Time>| at.is_none_or(|at| at > now);
        later(self.expectations.next()) && later(self.gc_at) && !self.is_busy()
    }

    /// Whether something is being done piece by piece.
    fn is_busy(&self) -> bool {
        self.collecting.is_some() || !self.leaving.is_empty() || self.table.is_spreading()
    }

    /// The timer of an entry has gone off.
    fn fall_due(&mut self, now: Time, index: u32) {
        let Some((id, _)) = self.slab.at(index) else {
            return;
        };
        // What passed elsewhere may have kept it alive.
        self.recall(id);
        let deadline = self.slab.get(id).map_or(0, |e| e.timeout);
        if deadline > now {
            self.wheel.arm(&mut self.slab, index, deadline, now);
        } else if self.end(id) {
            self.vacate(id);
        }
    }

    fn catch_up(&mut self, now: Time) {
        let most = self.at_once();
        let mut due = core::mem::take(&mut self.due);
        self.wheel.advance(&mut self.slab, now, &mut due, most);
        for few in due.chunks(AHEAD) {
            ahead::bring_near_ends(few, &self.table, &self.slab);
            few.iter().for_each(|&index| self.fall_due(now, index));
        }
        due.clear();
        self.due = due;
        self.expire_expectations(now);
        if self.gc_at.is_some_and(|at| at <= now) {
            self.gc_at = None;
            self.collecting = Some(0);
        }
        if let Some(from) = self.collecting {
            self.collecting = self.collect_early(from, most);
        }
        self.take_leave(most);
        if self.table.is_spreading() {
            self.table.spread(&mut self.slab, most as usize);
        }
    }

    /// When [`Conntrack::handle_timeout`] should run next; a moment that has passed while
    /// something is done piece by piece.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let again = self.is_busy().then_some(self.clock);
        [
            self.wheel.next(),
            self.expectations.next(),
            self.gc_at,
            again,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether an entry has lived longer than it should, and only waits for its turn to be
    /// removed.
    #[inline]
    pub(crate) fn has_run_out(&self, id: EntryId, now: Time) -> bool {
        self.slab.get(id).is_some_and(|e| e.expired(now))
    }

    /// The entry with this tuple as [`Conntrack::find`] finds it, and its status; one that
    /// has run out is removed instead.
    #[inline]
    pub(crate) fn find_alive(
        &mut self,
        now: Time,
        tuple: &Tuple,
        zone: Zone,
        hash: u32,
    ) -> Option<(EntryId, Dir, Status)> {
        loop {
            let (id, dir, entry) = self.entry_by(tuple, zone, hash)?;
            if !entry.expired(now) {
                return Some((id, dir, entry.status));
            }
            self.end(id);
            self.vacate(id);
        }
    }
}
