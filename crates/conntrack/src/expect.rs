//! Expectations: connections that a helper announced (`nf_conntrack_expect`).

use crate::entry::EntryId;
use crate::event::EventKind;
use crate::helper::HelperKind;
use crate::tuple::{Dir, Tuple};
use crate::{Conntrack, SECOND, Time};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;
use hashbrown::HashTable;

/// Flag bits of [`Expectation::flags`].
pub mod expect_flag {
    /// Stays after it matched.
    pub const PERMANENT: u8 = 1;
    /// Does not match yet.
    pub const INACTIVE: u8 = 2;
    /// Made from outside.
    pub const USERSPACE: u8 = 4;
}

/// What happens to a connection that matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMatch {
    /// Nothing.
    Plain,
    /// NAT set up so that it follows its master (`nf_nat_follow_master`).
    FollowMaster,
    /// It is one way of a tunnel that PPTP announced.
    Tunnel,
    /// NAT set up for what SIP announced (`nf_nat_sip_expected`).
    FollowSip,
    /// NAT set up for a call of H.323 from anywhere, or to somebody else
    /// (`ip_nat_q931_expect`, `ip_nat_callforwarding_expect`).
    FollowCall,
}

/// A connection that is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Original tuple of the expected connection; the destination part is exact.
    pub tuple: Tuple,
    /// Bits of the source address that count (IPv4: low 32 bits).
    pub mask_src: u128,
    /// Bits of the source port that count.
    pub mask_src_id: u16,
    /// Connection that announced it.
    pub master: EntryId,
    /// Zone id of the master.
    pub zone: u16,
    /// Class, 0 to 3.
    pub class: u8,
    /// [`expect_flag`] bits.
    pub flags: u8,
    /// Helper that made it.
    pub helper: Option<HelperKind>,
    /// Helper the child gets.
    pub assign_helper: Option<HelperKind>,
    /// NAT set-up for the child.
    pub on_match: OnMatch,
    /// Direction of the expected connection relative to the master (for NAT).
    pub dir: Dir,
    /// Destination address before NAT.
    pub saved_addr: u128,
    /// Destination port before NAT.
    pub saved_id: u16,
    /// When it ends; set by [`Conntrack::expect`].
    pub timeout: Time,
}

/// Limits of a class of expectations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectPolicy {
    /// Most a master may have of the class; 0 is unlimited.
    pub max: u8,
    /// Life in seconds.
    pub timeout: u32,
}

/// Why an expectation was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectError {
    /// The master is gone.
    NoMaster,
    /// The same expectation exists in another class.
    Already,
    /// It overlaps another one.
    Busy,
    /// The table or the master's share is full.
    Full,
}

impl fmt::Display for ExpectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ExpectError::NoMaster => "the master connection is gone",
            ExpectError::Already => "expectation exists in another class",
            ExpectError::Busy => "expectation overlaps another one",
            ExpectError::Full => "nf_conntrack: expectation table full",
        })
    }
}

impl core::error::Error for ExpectError {}

impl Expectation {
    /// Has the connection translated like its master, as one in `dir` of it whose server
    /// listens on the port `saved_id`.
    pub(crate) fn follow(&mut self, dir: Dir, saved_id: u16) {
        self.on_match = OnMatch::FollowMaster;
        self.dir = dir;
        self.saved_id = saved_id;
    }

    /// Whether a packet with `tuple` is what is expected (`nf_ct_tuple_mask_cmp`).
    fn matches(&self, tuple: &Tuple) -> bool {
        same_masked(&self.tuple, tuple, self.mask_src, self.mask_src_id)
    }

    fn same_as(&self, other: &Expectation) -> bool {
        self.tuple == other.tuple
            && self.mask_src == other.mask_src
            && self.mask_src_id == other.mask_src_id
            && self.zone == other.zone
    }

    /// Whether some packet could match both (`expect_clash`).
    fn overlaps(&self, other: &Expectation) -> bool {
        self.zone == other.zone
            && same_masked(
                &self.tuple,
                &other.tuple,
                self.mask_src & other.mask_src,
                self.mask_src_id & other.mask_src_id,
            )
    }
}

fn same_masked(a: &Tuple, b: &Tuple, mask: u128, id_mask: u16) -> bool {
    same_target(a, b) && (a.src ^ b.src) & mask == 0 && (a.src_id ^ b.src_id) & id_mask == 0
}

fn same_target(a: &Tuple, b: &Tuple) -> bool {
    ({ a.dst }, { a.dst_id }, a.proto, a.family) == ({ b.dst }, { b.dst_id }, b.proto, b.family)
}

/// All expectations.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    slots: Vec<Option<(u64, Expectation)>>,
    free: Vec<u32>,
    /// Slots by hash of the destination part.
    by_target: HashTable<(u64, u32)>,
    by_deadline: BTreeSet<(Time, u32)>,
    /// Insertions so far, which orders expectations by age.
    serial: u64,
}

impl Expectations {
    pub(crate) fn len(&self) -> usize {
        self.by_deadline.len()
    }

    #[inline]
    pub(crate) fn next(&self) -> Option<Time> {
        // The set would be asked out of line, and is nearly always empty.
        if self.by_deadline.is_empty() {
            return None;
        }
        self.by_deadline.first().map(|&(at, _)| at)
    }

    /// Brings every deadline nearer.
    pub(crate) fn age(&mut self, by: Time) {
        let old = core::mem::take(&mut self.by_deadline);
        for (at, slot) in old {
            let at = at.saturating_sub(by);
            if let Some(Some((_, expectation))) = self.slots.get_mut(slot as usize) {
                expectation.timeout = at;
            }
            self.by_deadline.insert((at, slot));
        }
    }

    fn get(&self, slot: u32) -> Option<&Expectation> {
        Some(&self.slots.get(slot as usize)?.as_ref()?.1)
    }

    fn candidates(&self, hash: u64) -> impl Iterator<Item = (u32, &Expectation)> {
        self.by_target
            .iter_hash(hash)
            .filter(move |&&(h, _)| h == hash)
            .filter_map(|&(_, slot)| Some((slot, self.get(slot)?)))
    }

    fn insert(&mut self, hash: u64, expectation: Expectation) {
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        if slot as usize == self.slots.len() {
            self.slots.push(None);
        }
        self.by_deadline.insert((expectation.timeout, slot));
        self.by_target
            .insert_unique(hash, (hash, slot), |&(h, _)| h);
        self.serial += 1;
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some((self.serial, expectation));
        }
    }

    fn remove(&mut self, hash: u64, slot: u32) -> Option<Expectation> {
        let (_, expectation) = self.slots.get_mut(slot as usize)?.take()?;
        self.by_deadline.remove(&(expectation.timeout, slot));
        if let Ok(found) = self.by_target.find_entry(hash, |&(_, s)| s == slot) {
            found.remove();
        }
        self.free.push(slot);
        Some(expectation)
    }

    /// Slots of a master's expectations with their age, youngest last.
    fn of(&self, master: EntryId) -> impl Iterator<Item = (u64, u32, &Expectation)> {
        self.slots.iter().zip(0..).filter_map(move |(place, slot)| {
            let (serial, e) = place.as_ref()?;
            (e.master == master).then_some((*serial, slot, e))
        })
    }

    /// All of them, oldest first.
    pub(crate) fn by_age(&self) -> Vec<&Expectation> {
        let mut all: Vec<_> = self.slots.iter().flatten().collect();
        all.sort_unstable_by_key(|(serial, _)| *serial);
        all.into_iter().map(|(_, e)| e).collect()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Expectation> {
        self.slots.iter().filter_map(|p| Some(&p.as_ref()?.1))
    }
}

impl Conntrack {
    fn target_hash(&self, tuple: &Tuple) -> u64 {
        let target = Tuple {
            src: 0,
            src_id: 0,
            ..*tuple
        };
        u64::from(self.table.hash(&target, 0)) * 0x1_0000_0001
    }

    /// Adds an expectation (`nf_ct_expect_related`). The same one from the same master
    /// and class is replaced; above the class limit the oldest of the class gives way.
    ///
    /// # Errors
    /// [`ExpectError`] says what stands against it.
    pub fn expect(
        &mut self,
        now: Time,
        expectation: Expectation,
        policy: ExpectPolicy,
    ) -> Result<(), ExpectError> {
        self.put_in_force(now, expectation, policy, false)
    }

    /// The same, where the same expectation of another connection is as good as one's own
    /// (`NF_CT_EXP_F_SKIP_MASTER`).
    ///
    /// # Errors
    /// [`ExpectError::Already`] when there is one.
    pub(crate) fn expect_from_any(
        &mut self,
        now: Time,
        expectation: Expectation,
        policy: ExpectPolicy,
    ) -> Result<(), ExpectError> {
        self.put_in_force(now, expectation, policy, true)
    }

    fn put_in_force(
        &mut self,
        now: Time,
        mut expectation: Expectation,
        policy: ExpectPolicy,
        any_master: bool,
    ) -> Result<(), ExpectError> {
        self.clock = self.clock.max(now);
        let hash = self.target_hash(&expectation.tuple);
        let master = expectation.master;
        let class = usize::from(expectation.class & 3);
        self.slab.get(master).ok_or(ExpectError::NoMaster)?;
        if let Some(same) = self.conflict(hash, &expectation, any_master)? {
            self.unexpect(hash, same);
        }
        let held = |ct: &Conntrack| ct.slab.get(master).map_or(0, |e| e.expecting()[class]);
        if policy.max != 0 && held(self) >= policy.max {
            self.evict_oldest(master, expectation.class);
        }
        if self.expectations.len() >= self.config.expect_max as usize {
            return Err(ExpectError::Full);
        }
        expectation.timeout = now.saturating_add(Time::from(policy.timeout) * SECOND);
        self.report_expectation(EventKind::New, &expectation);
        self.expectations.insert(hash, expectation);
        if let Some(entry) = self.slab.get_mut(master) {
            let held = &mut entry.extra_mut().expecting[class];
            *held = held.saturating_add(1);
        }
        self.stats.expect_create += 1;
        Ok(())
    }

    /// Puts back an expectation with its deadline, unless it clashes with another.
    pub(crate) fn expect_again(&mut self, expectation: Expectation) -> Result<(), ExpectError> {
        let hash = self.target_hash(&expectation.tuple);
        if self.conflict(hash, &expectation, false)?.is_some() {
            return Err(ExpectError::Already);
        }
        if let Some(entry) = self.slab.get_mut(expectation.master) {
            let held = &mut entry.extra_mut().expecting[usize::from(expectation.class & 3)];
            *held = held.saturating_add(1);
        }
        self.expectations.insert(hash, expectation);
        Ok(())
    }

    /// The slot of the same expectation, if it may be replaced.
    fn conflict(
        &self,
        hash: u64,
        new: &Expectation,
        any_master: bool,
    ) -> Result<Option<u32>, ExpectError> {
        for (slot, old) in self.expectations.candidates(hash) {
            if (any_master || old.master == new.master) && old.same_as(new) {
                if old.class != new.class || old.master != new.master {
                    return Err(ExpectError::Already);
                }
                return Ok(Some(slot));
            }
            if old.overlaps(new) {
                return Err(ExpectError::Busy);
            }
        }
        Ok(None)
    }

    fn evict_oldest(&mut self, master: EntryId, class: u8) {
        let oldest = self
            .expectations
            .of(master)
            .filter(|(_, _, e)| e.class == class)
            .min_by_key(|&(serial, ..)| serial)
            .map(|(_, slot, e)| (slot, { e.tuple }));
        if let Some((slot, tuple)) = oldest {
            self.unexpect(self.target_hash(&tuple), slot);
        }
    }

    fn unexpect(&mut self, hash: u64, slot: u32) -> Option<Expectation> {
        let gone = self.expectations.remove(hash, slot)?;
        self.stats.expect_delete += 1;
        if let Some(entry) = self.slab.get_mut(gone.master) {
            let held = &mut entry.extra_mut().expecting[usize::from(gone.class & 3)];
            *held = held.saturating_sub(1);
        }
        self.report_expectation(EventKind::Destroy, &gone);
        Some(gone)
    }

    /// The expectation a new connection fulfils; it is used up unless permanent
    /// (`nf_ct_find_expectation`).
    pub(crate) fn take_expectation(&mut self, tuple: &Tuple, zone: u16) -> Option<Expectation> {
        if self.expectations.len() == 0 {
            return None;
        }
        let hash = self.target_hash(tuple);
        let (slot, found) = self.expectations.candidates(hash).find(|(_, e)| {
            e.flags & expect_flag::INACTIVE == 0 && e.zone == zone && e.matches(tuple)
        })?;
        self.slab.get(found.master).filter(|m| m.confirmed())?;
        if found.flags & expect_flag::PERMANENT != 0 {
            return Some(found.clone());
        }
        self.unexpect(hash, slot)
    }

    /// Removes what `master` announced (`nf_ct_remove_expectations`).
    pub(crate) fn forget_expectations(&mut self, master: EntryId) {
        let mine: Vec<(u32, Tuple)> = self
            .expectations
            .of(master)
            .map(|(_, slot, e)| (slot, e.tuple))
            .collect();
        for (slot, tuple) in mine {
            self.unexpect(self.target_hash(&tuple), slot);
        }
    }

    /// Removes expectations that ran out.
    pub(crate) fn expire_expectations(&mut self, now: Time) {
        while let Some(&(at, slot)) = self.expectations.by_deadline.first() {
            let Some(tuple) = self.expectations.get(slot).map(|e| e.tuple) else {
                break;
            };
            if at > now {
                break;
            }
            self.unexpect(self.target_hash(&tuple), slot);
        }
    }

    /// The expectation that a connection with `tuple` in `zone` would fulfil
    /// (`__nf_ct_expect_find`), active or not.
    #[must_use]
    pub fn expectation(&self, tuple: &Tuple, zone: u16) -> Option<&Expectation> {
        let candidates = self.expectations.candidates(self.target_hash(tuple));
        let mut found = candidates.map(|(_, e)| e);
        found.find(|e| e.zone == zone && e.matches(tuple))
    }

    /// Removes the expectation that a connection with `tuple` would fulfil; `false` when
    /// there is none.
    pub fn forget_expectation(&mut self, tuple: &Tuple, zone: u16) -> bool {
        let hash = self.target_hash(tuple);
        let slot = {
            let mut candidates = self.expectations.candidates(hash);
            let found = candidates.find(|(_, e)| e.zone == zone && e.matches(tuple));
            found.map(|(slot, _)| slot)
        };
        slot.is_some_and(|slot| self.unexpect(hash, slot).is_some())
    }

    /// Removes this expectation, if it is in force.
    pub(crate) fn forget_same(&mut self, e: &Expectation) {
        let hash = self.target_hash(&e.tuple);
        let same = {
            let mut candidates = self.expectations.candidates(hash);
            let same = candidates.find(|(_, old)| old.master == e.master && old.same_as(e));
            same.map(|(slot, _)| slot)
        };
        if let Some(slot) = same {
            self.unexpect(hash, slot);
        }
    }

    /// Gives the first expectation that `wanted` holds for a new deadline and changes it;
    /// `false` when there is none.
    pub(crate) fn refresh_expectation(
        &mut self,
        deadline: Time,
        wanted: impl Fn(&Expectation) -> bool,
        change: impl FnOnce(&mut Expectation),
    ) -> bool {
        let all = &mut self.expectations;
        let mut slots = all.slots.iter_mut().zip(0u32..);
        let found = slots.find_map(|(place, slot)| {
            let (_, e) = place.as_mut()?;
            wanted(e).then_some((e, slot))
        });
        let Some((e, slot)) = found else {
            return false;
        };
        all.by_deadline.remove(&(e.timeout, slot));
        e.timeout = deadline;
        change(e);
        all.by_deadline.insert((deadline, slot));
        true
    }

    /// The youngest expectation of `master` that `wanted` holds for.
    pub(crate) fn youngest_expectation(
        &self,
        master: EntryId,
        wanted: impl Fn(&Expectation) -> bool,
    ) -> Option<&Expectation> {
        let all = self.expectations.of(master).filter(|(_, _, e)| wanted(e));
        all.max_by_key(|&(serial, ..)| serial).map(|(_, _, e)| e)
    }

    /// Removes the expectations that `wanted` holds for.
    pub fn forget_expectations_where(&mut self, wanted: impl Fn(&Expectation) -> bool) {
        let slots = (0..).zip(&self.expectations.slots);
        let gone: Vec<(u32, Tuple)> = slots
            .filter_map(|(slot, place)| Some((slot, &place.as_ref()?.1)))
            .filter(|(_, e)| wanted(e))
            .map(|(slot, e)| (slot, e.tuple))
            .collect();
        for (slot, tuple) in gone {
            self.unexpect(self.target_hash(&tuple), slot);
        }
    }

    /// All expectations.
    pub fn expectations(&self) -> impl Iterator<Item = &Expectation> {
        self.expectations.iter()
    }
}
