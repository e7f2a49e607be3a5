//! The last hook: entries enter the table, clashes are settled.

use crate::entry::{Attached, Counters, CtInfo, Entry, EntryId, Status};
use crate::event::EventKind;
use crate::reason::DropReason;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, SECOND, Time};
use tidegate_wire::proto;

/// Most nodes of a bucket that takes another one: so many, and a random number below the second
/// (`__nf_conntrack_confirm`).
const CHAIN_BASE: u32 = 51;
const CHAIN_RANDOM: u32 = 30;

/// Two entries for one flow: who was first, and seen from which direction.
#[derive(Clone, Copy)]
struct Clash {
    winner: EntryId,
    /// Where in the table the loser's tuple was found.
    on: Dir,
}

impl Conntrack {
    /// The packet leaves the last hook (`nf_conntrack_confirm`): an unconfirmed entry
    /// enters the table, changes to a confirmed one are reported. After a clash the
    /// packet may belong to the entry that was there first, hence `attached` is changed.
    ///
    /// # Errors
    /// The packet must be dropped; its entry is gone.
    pub fn confirm(&mut self, now: Time, attached: &mut Attached) -> Result<(), DropReason> {
        self.clock = self.clock.max(now);
        let Some(entry) = self.slab.get(attached.id) else {
            return Ok(());
        };
        if entry.confirmed() {
            self.report(attached.id, EventKind::Update);
            return Ok(());
        }
        if attached.info.dir() != Dir::Original {
            return Ok(());
        }
        let outcome = if entry.status.has(Status::DYING) {
            self.stats.insert_failed += 1;
            Err(DropReason::Dying)
        } else {
            self.insert(now, attached)
        };
        if outcome.is_err() {
            self.release(attached.id);
        }
        outcome
    }

    fn insert(&mut self, now: Time, attached: &mut Attached) -> Result<(), DropReason> {
        let id = attached.id;
        let limit = CHAIN_BASE + self.rng.below(CHAIN_RANDOM);
        let Some(entry) = self.slab.get(id) else {
            return Ok(());
        };
        let original = self.slab.node(id.index, Dir::Original);
        let hash = [
            original.map_or(0, |node| node.hash),
            self.hash_of_reply(entry.tuple(Dir::Reply), entry.zone),
        ];
        for dir in Dir::BOTH {
            if let Some(clash) = self.clash_on(now, entry, dir, hash[dir.ix()]) {
                return self.resolve(now, attached, clash, hash[Dir::Reply.ix()]);
            }
            if self.bucket_is_full(hash[dir.ix()], limit) {
                self.stats.chaintoolong += 1;
                self.stats.insert_failed += 1;
                return Err(DropReason::ChainTooLong);
            }
        }
        let Some(entry) = self.slab.get_mut(id) else {
            return Ok(());
        };
        entry.stamp(now);
        let life = entry.timeout;
        self.enter(
            now,
            id,
            life,
            &[(Dir::Original, hash[0]), (Dir::Reply, hash[1])],
        );
        self.stats.created += 1;
        self.report(id, EventKind::New);
        self.tell_connection(id, true);
        Ok(())
    }

    /// Whether the bucket of a hash has more than `limit` nodes. With up to eight to a bucket on the
    /// average none has, but for one in 10^23: then nobody's nodes are read for it.
    #[inline]
    fn bucket_is_full(&self, hash: u32, limit: u32) -> bool {
        let few = self.count as usize <= 4 * self.table.buckets();
        let bucket = self.table.bucket(hash);
        !few && self.table.chain(&self.slab, bucket).count() > limit as usize
    }

    /// Puts an entry into the table under the given tuples and starts its timer.
    #[inline]
    pub(crate) fn enter(&mut self, now: Time, id: EntryId, life: Time, under: &[(Dir, u32)]) {
        let deadline = now.saturating_add(life);
        if let Some(entry) = self.slab.get_mut(id) {
            entry.timeout = deadline;
            entry.status.set(Status::CONFIRMED);
        }
        for &(dir, hash) in under {
            self.table.link(&mut self.slab, id.index, dir, hash);
        }
        self.wheel.arm(&mut self.slab, id.index, deadline, now);
        self.registers(id, true);
    }

    #[inline]
    fn clash_on(&self, now: Time, entry: &Entry, dir: Dir, hash: u32) -> Option<Clash> {
        let tuple = entry.tuple(dir);
        let gone = |other| self.has_run_out(other, now);
        let found = self.table.find(&self.slab, tuple, entry.zone, hash, gone);
        found.map(|(winner, on)| Clash { winner, on })
    }

    /// Settles a clash (`nf_ct_resolve_clash`).
    fn resolve(
        &mut self,
        now: Time,
        attached: &mut Attached,
        clash: Clash,
        reply_hash: u32,
    ) -> Result<(), DropReason> {
        if self.adopt_winner(attached, clash) || self.hide(now, attached.id, reply_hash) {
            self.stats.clash_resolve += 1;
            return Ok(());
        }
        self.stats.drop += 1;
        self.stats.insert_failed += 1;
        Err(DropReason::Clash)
    }

    /// Both entries are the same flow: the packet goes over to the first one.
    fn adopt_winner(&mut self, attached: &mut Attached, clash: Clash) -> bool {
        let (Some(loser), Some(winner)) = (self.slab.get(attached.id), self.slab.get(clash.winner))
        else {
            return false;
        };
        if !allows_clash(loser.tuple(Dir::Original).proto) || loser.zone != winner.zone {
            return false;
        }
        let [a, b] = loser.tuples;
        let dir = if winner.tuples == [a, b] {
            Dir::Original
        } else if winner.tuples == [b, a] && clash.on == Dir::Reply {
            Dir::Reply
        } else {
            return false;
        };
        let counted = loser
            .counters
            .as_ref()
            .map_or_else(Counters::default, |c| c[0]);
        self.release(attached.id);
        if let Some(winner) = self.slab.get_mut(clash.winner) {
            winner.count(dir, counted);
        }
        attached.id = clash.winner;
        attached.dir = dir;
        if dir == Dir::Reply {
            attached.info = CtInfo::EstablishedReply;
        }
        true
    }

    /// Only the original tuples collide: the loser lives one second under its reply
    /// tuple, so that the answer finds its way back.
    fn hide(&mut self, now: Time, id: EntryId, reply_hash: u32) -> bool {
        let Some(entry) = self.slab.get(id) else {
            return false;
        };
        if !allows_clash(entry.tuple(Dir::Original).proto)
            || self.clash_on(now, entry, Dir::Reply, reply_hash).is_some()
        {
            return false;
        }
        if let Some(entry) = self.slab.get_mut(id) {
            entry.status.set(Status::FIXED_TIMEOUT | Status::NAT_CLASH);
        }
        self.enter(now, id, SECOND, &[(Dir::Reply, reply_hash)]);
        true
    }

    /// Whether `tuple`, as a reply tuple of `ignored`, belongs to another entry
    /// (`nf_conntrack_tuple_taken`). Entries with the same original tuple do not count:
    /// those are settled at confirmation.
    pub fn tuple_taken(&mut self, tuple: &Tuple, ignored: EntryId) -> Option<EntryId> {
        let entry = self.slab.get(ignored)?;
        let original = *entry.tuple(Dir::Original);
        let zone = entry.zone;
        let hash = self.hash_of_reply(tuple, zone);
        let (slab, now) = (&self.slab, self.clock);
        let same_flow = |id| {
            id == ignored
                || self.has_run_out(id, now)
                || slab.get(id).is_some_and(|other| {
                    *other.tuple(Dir::Original) == original
                        && other.zone.id_for(Dir::Original) == zone.id_for(Dir::Original)
                })
        };
        let (id, _) = self.table.find(slab, tuple, zone, hash, same_flow)?;
        self.stats.found += 1;
        Some(id)
    }
}

/// Protocols whose trackers tolerate two entries for one flow (`allow_clash`).
pub(crate) fn allows_clash(protocol: u8) -> bool {
    !matches!(
        protocol,
        proto::TCP | proto::SCTP | proto::ICMP | proto::ICMPV6
    )
}
