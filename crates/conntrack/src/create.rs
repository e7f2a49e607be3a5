//! New entries, and room for them in a full table.

use crate::conntrack::{InHook, Template};
use crate::entry::{Attached, CtInfo, Entry, EntryId, Master, ProtoState, Status, change};
use crate::expect::{Expectation, OnMatch};
use crate::helper::HelperKind;
use crate::reason::{DropReason, InvalidReason};
use crate::synproxy::Proxied;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, SECOND, Time};
use alloc::vec::Vec;

/// Neighbouring buckets searched for victims (`NF_CT_EVICTION_RANGE`).
const EVICTION_RANGE: usize = 8;
/// Longest wait for the collection that a full table asks for (`GC_SCAN_INTERVAL_MAX`).
const GC_INTERVAL: Time = 60 * SECOND;

/// Why a packet got no new entry.
pub(crate) enum NoEntry {
    Invalid(InvalidReason),
    Drop(DropReason),
}

impl Entry {
    /// An unconfirmed entry with nothing set but its tuples.
    #[inline]
    pub(crate) fn new(tuples: [Tuple; 2]) -> Entry {
        Entry {
            timeout: 0,
            tags: [0; 2],
            status: Status::default(),
            place: crate::elsewhere::HERE,
            tuples,
            proto: ProtoState::Stateless,
            extra: None,
            counters: None,
            mark: 0,
            masq_index: 0,
            zone: crate::Zone::default(),
            pending: 0,
            helper: None,
            watched: false,
        }
    }

    /// Gives it what the raw table has asked for.
    fn furnish(&mut self, template: &Template) {
        if template.timeouts.is_some() {
            self.extra_mut().policy = template.timeouts;
        }
        if template.proxied {
            self.extra_mut().proxied = Some(Proxied::default());
        }
    }
}

impl Conntrack {
    /// Makes an unconfirmed entry for the first packet of a connection
    /// (`init_conntrack`); the packet holds it until it is confirmed or released. `hash` is
    /// that of tuple and zone.
    pub(crate) fn create(
        &mut self,
        now: Time,
        tuple: &Tuple,
        hash: u32,
        template: &Template,
    ) -> Result<Attached, NoEntry> {
        let no_inverse = NoEntry::Invalid(InvalidReason::IcmpNoRequest(tuple.icmp_type()));
        let reply = tuple.inverse().ok_or(no_inverse)?;
        self.make_room(now, hash).map_err(NoEntry::Drop)?;
        self.count += 1;
        let expected = self.take_expectation(tuple, template.zone.id);
        let serves = |h: &HelperKind| h.serves(tuple.family, tuple.proto);
        let (helper, status) = match (&expected, template.helper.filter(serves)) {
            (Some(e), _) => (e.assign_helper, Status::EXPECTED),
            (None, Some(helper)) => (Some(helper), Status::HELPER),
            (None, None) => (self.automatic_helper(&reply), 0),
        };
        let id = self.slab.insert(Entry::new([*tuple, reply]), hash);
        if let Some(entry) = self.slab.get_mut(id) {
            entry.zone = template.zone;
            entry.keep_accounts(&self.config);
            entry.watched = self.config.events;
            entry.status.set(status);
            entry.helper = helper;
            entry.pending = helper.map_or(0, |_| change::HELPER);
            entry.furnish(template);
        }
        let mut info = CtInfo::New;
        if let Some(e) = expected {
            info = CtInfo::Related;
            self.inherit(id, &e);
            match e.on_match {
                OnMatch::Plain => {}
                OnMatch::FollowMaster => self.follow_master(id, &e),
                OnMatch::Tunnel => self.tunnel_came(id, &e),
                OnMatch::FollowSip => self.follow_sip(id, &e),
                OnMatch::FollowCall => self.follow_h323(id, &e),
            }
        }
        let dir = Dir::Original;
        Ok(Attached { id, dir, info })
    }

    /// What the child of an expectation takes over.
    fn inherit(&mut self, id: EntryId, expected: &Expectation) {
        self.stats.expect_new += 1;
        let Some(master) = self.slab.get_mut(expected.master) else {
            return;
        };
        let children = &mut master.extra_mut().children;
        *children = children.saturating_add(1);
        let from = Master {
            id: expected.master,
            tuple: *master.tuple(Dir::Original),
            helper: master.helper,
        };
        let mark = master.mark;
        if let Some(entry) = self.slab.get_mut(id) {
            entry.extra_mut().master = Some(from);
            entry.mark = mark;
        }
    }

    /// The helper in charge of the service a reply would come from.
    pub(crate) fn automatic_helper(&self, reply: &Tuple) -> Option<HelperKind> {
        let mut ports = self.config.helpers.iter();
        let found = ports.find(|h| h.proto == reply.proto && h.port == { reply.src_id })?;
        Some(found.kind)
    }

    /// Gives an unconfirmed entry another reply tuple (`nf_conntrack_alter_reply`); the
    /// automatic helper follows the new service port.
    pub fn alter_reply(&mut self, id: EntryId, reply: Tuple) {
        let helper = self.automatic_helper(&reply);
        let Some(entry) = self.slab.get_mut(id).filter(|e| !e.confirmed()) else {
            return;
        };
        entry.tuples[Dir::Reply.ix()] = reply;
        if entry.master().is_none() && !entry.status.has(Status::HELPER) {
            entry.helper = helper;
        }
    }

    pub(crate) fn full(&self, extra: u32) -> bool {
        self.config.max != 0 && self.count + extra > self.config.max
    }

    /// Ensures that one more entry is allowed.
    pub(crate) fn make_room(&mut self, now: Time, hash: u32) -> Result<(), DropReason> {
        if !self.full(1) || self.early_drop(hash) {
            return Ok(());
        }
        if self.gc_at.is_none() {
            self.gc_at = Some((now / GC_INTERVAL + 1).saturating_mul(GC_INTERVAL));
        }
        self.stats.drop += 1;
        Err(DropReason::TableFull)
    }

    /// Evicts the unassured entries of the first of some buckets that has any.
    fn early_drop(&mut self, hash: u32) -> bool {
        let first = self.table.bucket(hash);
        for step in 0..EVICTION_RANGE {
            let bucket = (first + step) % self.table.buckets();
            let victims: Vec<EntryId> = self
                .table
                .chain(&self.slab, bucket)
                .filter_map(|(index, ..)| self.slab.at(index))
                .filter(|(_, e)| !e.status.has(Status::ASSURED))
                .map(|(id, _)| id)
                .collect();
            let before = self.stats.early_drop;
            for id in victims {
                self.stats.early_drop += u64::from(self.delete(id));
            }
            if self.stats.early_drop != before {
                return true;
            }
        }
        false
    }

    /// A piece of the collection after a full table: while it is filled to 95 percent,
    /// what is unassured or closing goes. Looks at `most` places from `from` on; returns
    /// where to go on.
    pub(crate) fn collect_early(&mut self, from: u32, most: u32) -> Option<u32> {
        let floor = self.config.max / 100 * 95;
        // Those of the piece before: no packet holds them any more.
        self.reap();
        let end = from.saturating_add(most).min(self.slab.slots());
        for index in from..end {
            if floor == 0 || self.count < floor {
                return None;
            }
            if let Some((id, e)) = self.slab.at(index)
                && e.confirmed()
                && !e.status.has(Status::DYING)
                && e.can_early_drop()
            {
                self.delete(id);
            }
        }
        (end < self.slab.slots()).then_some(end)
    }
}

/// Whether checksums count for packets entering from `hook`.
pub(crate) fn verifies(ct: &Conntrack, hook: InHook) -> bool {
    hook == InHook::Prerouting && ct.config.checksum
}
