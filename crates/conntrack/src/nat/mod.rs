//! Network address translation of tracked connections (`nf_nat_core`).
//!
//! A translation is decided once per connection and end, while the entry is not yet
//! confirmed, by changing the reply tuple; packets are then rewritten from the tuples.

pub mod blocks;
mod bysource;
pub mod mangle;
pub mod manip;
pub mod unique;

use crate::Conntrack;
use crate::entry::{Attached, CtInfo, Entry, EntryId, Status, TcpConn};
use crate::expect::Expectation;
use crate::reason::DropReason;
use crate::tuple::{Dir, Tuple};
use tidegate_wire::{Layout, proto};

pub(crate) use bysource::BySource;
pub use manip::Manip;
pub use unique::{NatRange, choose};
use unique::{Space, Wish};

/// ICMP redirect, and the ICMPv6 one of neighbour discovery.
const REDIRECTS: [(u8, u8); 2] = [(proto::ICMP, 5), (proto::ICMPV6, 137)];

/// Masqueraded connections that are to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    ifindex: u32,
    addr: Option<u128>,
    /// The place that is looked at next.
    next: u32,
}

impl Leaving {
    fn takes(&self, entry: &Entry) -> bool {
        let own = entry.confirmed() && !entry.status.has(Status::DYING);
        let there = entry.masq_index == self.ifindex;
        own && there
            && self
                .addr
                .is_none_or(|a| a == { entry.tuple(Dir::Reply).dst })
    }
}

/// The hooks NAT works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatHook {
    /// Destination of received packets.
    Prerouting,
    /// Source of packets to this host.
    Input,
    /// Destination of locally made packets.
    Output,
    /// Source of packets that leave.
    Postrouting,
}

impl NatHook {
    /// The end that is decided and rewritten here.
    #[must_use]
    pub const fn manip(self) -> Manip {
        match self {
            NatHook::Prerouting | NatHook::Output => Manip::Dst,
            NatHook::Input | NatHook::Postrouting => Manip::Src,
        }
    }
}

/// Status bits of one end: the packet is translated, the decision was made.
const fn bits(manip: Manip) -> (u32, u32) {
    match manip {
        Manip::Src => (Status::SRC_NAT, Status::SRC_NAT_DONE),
        Manip::Dst => (Status::DST_NAT, Status::DST_NAT_DONE),
    }
}

/// Whether the packet is an ICMP error about the connection rather than part of it.
fn is_error(attached: &Attached, layout: &Layout) -> bool {
    matches!(attached.info, CtInfo::Related | CtInfo::RelatedReply)
        && matches!(layout.proto, proto::ICMP | proto::ICMPV6)
}

impl Conntrack {
    /// Whether the nat rules of a hook decide about this packet: the first of a
    /// connection whose `manip` end is not decided yet. When no rule decides, the
    /// caller asks for [`Conntrack::nat_null_binding`]. ICMP errors never come here.
    #[must_use]
    pub fn nat_rules_needed(&self, attached: &Attached, manip: Manip) -> bool {
        match attached.info {
            CtInfo::Established | CtInfo::EstablishedReply => false,
            CtInfo::New | CtInfo::Related | CtInfo::RelatedReply => {
                !self.nat_done(attached.id, manip)
            }
        }
    }

    /// Whether the `manip` end of a connection is decided (`nf_nat_initialized`).
    #[must_use]
    pub fn nat_done(&self, id: EntryId, manip: Manip) -> bool {
        self.entry(id).is_none_or(|e| e.status.has(bits(manip).1))
    }

    /// Decides one end of a connection (`nf_nat_setup_info`). Nothing changes in a
    /// confirmed entry, nor when the end is decided already.
    ///
    /// # Errors
    /// The entry is gone, or there is no port left for its host ([`blocks`]).
    pub fn nat_setup(
        &mut self,
        id: EntryId,
        manip: Manip,
        range: &NatRange,
    ) -> Result<(), DropReason> {
        let entry = self.entry(id).ok_or(DropReason::Dying)?;
        if entry.confirmed() || self.nat_done(id, manip) {
            return Ok(());
        }
        let original = *entry.tuple(Dir::Original);
        let (zone, has_master) = (entry.zone, entry.master().is_some());
        let Some(current) = entry.tuple(Dir::Reply).inverse() else {
            return Ok(());
        };
        let wish = Wish {
            tuple: &current,
            range,
            manip,
            zone: zone.id,
            has_master,
        };
        let new = if self.by_block(&wish) {
            let Some(chosen) = self.source_by_block(id, &wish) else {
                self.stats.nat_exhausted += 1;
                return Err(DropReason::Nat("no port of its host's blocks is free"));
            };
            chosen
        } else {
            choose(&wish, &mut TableSpace { ct: self, id })
        };
        let (translated, done) = bits(manip);
        if new != current
            && let Some(reply) = new.inverse()
        {
            self.alter_reply(id, reply);
            self.add_status(id, translated);
        }
        if manip == Manip::Src {
            let zone_id = zone.id_for(Dir::Original);
            self.by_source
                .insert(&self.table, id.index, &original, zone_id);
        }
        self.add_status(id, done);
        Ok(())
    }

    fn add_status(&mut self, id: EntryId, bits: u32) {
        if let Some(entry) = self.entry_mut(id) {
            entry.status.set(bits);
        }
    }

    /// Decides that one end stays as it is (`nf_nat_alloc_null_binding`). A source whose
    /// port is in use by a translated connection gets another port.
    ///
    /// # Errors
    /// The entry is gone.
    pub fn nat_null_binding(&mut self, id: EntryId, manip: Manip) -> Result<(), DropReason> {
        let entry = self.entry(id).ok_or(DropReason::Dying)?;
        let reply = entry.tuple(Dir::Reply);
        let addr = match manip {
            Manip::Src => reply.dst,
            Manip::Dst => reply.src,
        };
        self.nat_setup(id, manip, &NatRange::address(addr))
    }

    /// Rewrites a packet as its connection's translation asks for (`nf_nat_packet`,
    /// `nf_nat_icmp_reply_translation`); `true` when it changed. Lengths stay.
    ///
    /// # Errors
    /// The packet must be dropped: a header is cut short, or the checksum of an ICMP
    /// error is wrong.
    pub fn nat_translate(
        &mut self,
        attached: &Attached,
        hook: NatHook,
        pkt: &mut [u8],
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        if is_error(attached, layout) {
            return self.translate_error(attached, hook.manip(), pkt, layout);
        }
        let Some(target) = self.target(attached, hook.manip()) else {
            return Ok(false);
        };
        manip::rewrite(pkt, layout, &target, hook.manip())
            .map_err(|_| DropReason::Nat("transport header cut short"))?;
        Ok(true)
    }

    /// What a packet must look like, when it is translated at this end.
    fn target(&self, attached: &Attached, manip: Manip) -> Option<Tuple> {
        let entry = self.entry(attached.id)?;
        translates(entry, attached.dir, manip)
            .then(|| entry.tuple(attached.dir.other()).inverse())?
    }

    fn translate_error(
        &mut self,
        attached: &Attached,
        manip: Manip,
        pkt: &mut [u8],
        layout: &Layout,
    ) -> Result<bool, DropReason> {
        let Some(entry) = self.entry(attached.id) else {
            return Ok(false);
        };
        if !manip::icmp_checksum_ok(pkt, layout) {
            return Err(DropReason::Nat("bad checksum of an ICMP error"));
        }
        let kind = pkt.get(usize::from(layout.l4)).copied().unwrap_or(0);
        let status = entry.status;
        let both_done = status.0 & Status::NAT_DONE_MASK == Status::NAT_DONE_MASK;
        if REDIRECTS.contains(&(layout.proto, kind)) && (status.has(Status::NAT_MASK) || !both_done)
        {
            return Err(DropReason::Nat("redirect on a translated connection"));
        }
        let other = *entry.tuple(attached.dir.other());
        let Some(target) = self.target(attached, manip) else {
            return Ok(false);
        };
        let outside = Tuple {
            proto: layout.proto,
            ..target
        };
        manip::rewrite_embedded(pkt, layout, &other, manip)
            .and_then(|()| manip::rewrite(pkt, layout, &outside, manip))
            .map_err(|_| DropReason::Nat("packet inside an ICMP error cut short"))?;
        Ok(true)
    }

    /// Remembers the interface a masqueraded connection leaves through.
    pub fn set_masquerade(&mut self, id: EntryId, ifindex: u32) {
        if let Some(entry) = self.entry_mut(id) {
            entry.masq_index = ifindex;
        }
    }

    /// Before a packet leaves through the interface `out`: a masqueraded connection whose
    /// packets took another one so far is removed (`nf_nat_oif_changed`). ICMP errors
    /// never come here.
    ///
    /// # Errors
    /// The connection was removed, and the packet must be dropped.
    pub fn check_masquerade(&mut self, attached: &Attached, out: u32) -> Result<(), DropReason> {
        let entry = self.entry(attached.id);
        if entry.is_some_and(|e| e.has_moved(attached.dir, out)) {
            self.delete(attached.id);
            return Err(DropReason::Killed);
        }
        Ok(())
    }

    /// Removes the masqueraded connections of an interface that went down, or with `addr`,
    /// those that use an address it lost (`masq_device_event`, `masq_inet_event`). With
    /// [`Config::at_once`](crate::Config::at_once) they go piece by piece.
    pub fn flush_masqueraded(&mut self, ifindex: u32, addr: Option<u128>) {
        self.leaving.push_back(Leaving {
            ifindex,
            addr,
            next: 0,
        });
        self.take_leave(self.at_once());
    }

    /// Looks at `most` places for connections that are to go.
    pub(crate) fn take_leave(&mut self, most: u32) {
        let Some(mut leaving) = self.leaving.pop_front() else {
            return;
        };
        // Those of the piece before: no packet holds them any more.
        self.reap();
        let end = leaving.next.saturating_add(most).min(self.slab.slots());
        for index in leaving.next..end {
            if let Some((id, entry)) = self.slab.at(index)
                && leaving.takes(entry)
            {
                self.delete(id);
            }
        }
        leaving.next = end;
        if end < self.slab.slots() {
            self.leaving.push_front(leaving);
        }
    }

    /// Translates an announced connection like the one that announced it
    /// (`nf_nat_follow_master`).
    pub(crate) fn follow_master(&mut self, id: EntryId, expected: &Expectation) {
        let Some(master) = self.entry(expected.master) else {
            return;
        };
        let there = *master.tuple(expected.dir.other());
        let set_up = self.nat_setup(id, Manip::Src, &NatRange::address(there.dst));
        let to = NatRange {
            ports: Some((expected.saved_id, expected.saved_id)),
            ..NatRange::address(there.src)
        };
        // Neither can fail: the child was there a moment ago.
        let _ = set_up.and_then(|()| self.nat_setup(id, Manip::Dst, &to));
    }

    /// Forgets the source of an entry that goes away.
    pub(crate) fn nat_cleanup(&mut self, id: EntryId) {
        self.let_go(id);
        if let Some(entry) = self.slab.get(id) {
            let zone = entry.zone.id_for(Dir::Original);
            let tuple = entry.tuple(Dir::Original);
            self.by_source.remove(&self.table, id.index, tuple, zone);
        }
    }
}

/// Whether packets of `dir` are rewritten at the `manip` end: replies at the opposite.
fn translates(entry: &Entry, dir: Dir, manip: Manip) -> bool {
    let seen = match dir {
        Dir::Original => manip,
        Dir::Reply => manip.other(),
    };
    entry.status.has(bits(seen).0)
}

/// The connection table as the space to choose from, for one unconfirmed entry.
struct TableSpace<'a> {
    ct: &'a mut Conntrack,
    id: EntryId,
}

impl TableSpace<'_> {
    /// Whether the two entries are one connection seen from both ends.
    fn crossing(&self, other: EntryId) -> bool {
        const USES_NAT: u32 = Status::NAT_MASK | Status::SEQ_ADJUST;
        let (Some(own), Some(other)) = (self.ct.entry(self.id), self.ct.entry(other)) else {
            return false;
        };
        let [original, reply] = own.tuples;
        !own.status.has(USES_NAT)
            && !other.status.has(USES_NAT)
            && other.tuples == [reply, original]
    }

    /// A closing connection whose sequence numbers the new one has passed gives way.
    fn evict(&mut self, other: EntryId) -> bool {
        const REFUSE: u32 = Status::FIXED_TIMEOUT | Status::DYING;
        let (Some(old), Some(own)) = (self.ct.entry(other), self.ct.entry(self.id)) else {
            return false;
        };
        let (Some(was), Some(is)) = (old.tcp(), own.tcp()) else {
            return false;
        };
        let advanced = is.seen[0].end.wrapping_sub(was.seen[0].end) as i32 > 0;
        (was.state as u8) >= TcpConn::TimeWait as u8
            && old.status.has(Status::SRC_NAT)
            && !old.status.has(REFUSE)
            && advanced
            && self.ct.delete(other)
    }
}

impl Space for TableSpace<'_> {
    fn taken(&mut self, tuple: &Tuple) -> bool {
        let reply = tuple.inverse();
        reply.is_some_and(|reply| self.ct.tuple_taken(&reply, self.id).is_some())
    }

    fn taken_unless_crossing(&mut self, tuple: &Tuple) -> bool {
        let Some(reply) = tuple.inverse() else {
            return false;
        };
        let Some(other) = self.ct.tuple_taken(&reply, self.id) else {
            return false;
        };
        !(crate::confirm::allows_clash(tuple.proto) && self.crossing(other))
    }

    fn taken_by_live(&mut self, tuple: &Tuple) -> bool {
        let own = self.ct.entry(self.id);
        let opening = own
            .and_then(Entry::tcp)
            .is_some_and(|t| t.state == TcpConn::SynSent);
        let zone = own.map(|e| e.zone);
        let (true, Some(zone), Some(reply)) = (opening, zone, tuple.inverse()) else {
            return self.taken(tuple);
        };
        match self.ct.find(&reply, zone) {
            None => false,
            Some((_, Dir::Original)) => true,
            Some((other, Dir::Reply)) => !self.evict(other),
        }
    }

    fn mapped_source(&mut self, tuple: &Tuple, range: &NatRange) -> Option<Tuple> {
        let ct = &self.ct;
        let zone = ct.entry(self.id)?.zone.id_for(Dir::Original);
        ct.by_source
            .replies(&ct.table, &ct.slab, tuple, zone)
            .filter_map(Tuple::inverse)
            .map(|mapped| Tuple {
                dst: tuple.dst,
                dst_id: tuple.dst_id,
                ..mapped
            })
            .find(|mapped| range.holds_source(mapped))
    }

    fn random(&mut self) -> u16 {
        (self.ct.rng.next_u32() >> 16) as u16
    }

    fn exhausted(&mut self) {
        self.ct.stats.nat_exhausted += 1;
    }
}
