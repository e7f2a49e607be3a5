//! One tracked connection and what hangs on its packets.

use crate::config::Config;
pub use crate::helper::HelperKind;
use crate::helper::HelperState;
use crate::policy::PolicyId;
use crate::seqadj::SeqAdj;
pub use crate::state::{
    ProtoState, SctpConn, SctpState, TcpClass, TcpConn, TcpSide, TcpState, tcp_flag,
};
use crate::synproxy::Proxied;
use crate::tuple::{Dir, Tuple};
use crate::{SECOND, Time};
use alloc::boxed::Box;
use core::num::NonZeroU32;

/// Names one entry for its whole life; a stale id never reaches another entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    pub(crate) generation: NonZeroU32,
    pub(crate) index: u32,
}

impl EntryId {
    /// The id as a number.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation.get()) << 32 | u64::from(self.index)
    }

    /// The id of that number, if one can have it.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Some(EntryId {
            generation: NonZeroU32::new((bits >> 32) as u32)?,
            index: bits as u32,
        })
    }

    /// Bits of [`EntryId::number`] that tell the place.
    pub(crate) const PLACE_BITS: u32 = 22;

    /// An id that no entry has.
    pub(crate) const NOBODY: EntryId = EntryId {
        generation: NonZeroU32::MIN,
        index: u32::MAX,
    };

    /// A 32-bit number for listings (`id=`), unique among living entries as long as
    /// there are fewer than four million.
    #[must_use]
    pub fn number(self) -> u32 {
        self.generation.get() << EntryId::PLACE_BITS | self.index
    }
}

/// Status bits (`enum ip_conntrack_status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status(pub u32);

#[allow(missing_docs, reason = "the names are those of the uapi header")]
impl Status {
    pub const EXPECTED: u32 = 1;
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const ASSURED: u32 = 1 << 2;
    pub const CONFIRMED: u32 = 1 << 3;
    pub const SRC_NAT: u32 = 1 << 4;
    pub const DST_NAT: u32 = 1 << 5;
    pub const NAT_MASK: u32 = Status::SRC_NAT | Status::DST_NAT;
    pub const SEQ_ADJUST: u32 = 1 << 6;
    pub const SRC_NAT_DONE: u32 = 1 << 7;
    pub const DST_NAT_DONE: u32 = 1 << 8;
    pub const NAT_DONE_MASK: u32 = Status::SRC_NAT_DONE | Status::DST_NAT_DONE;
    pub const DYING: u32 = 1 << 9;
    pub const FIXED_TIMEOUT: u32 = 1 << 10;
    pub const TEMPLATE: u32 = 1 << 11;
    pub const NAT_CLASH: u32 = 1 << 12;
    pub const HELPER: u32 = 1 << 13;
}

impl Status {
    /// Whether any of `bits` is set.
    #[inline]
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// Sets `bits`; `true` when at least one was clear before.
    #[inline]
    pub const fn set(&mut self, bits: u32) -> bool {
        let fresh = self.0 & bits != bits;
        self.0 |= bits;
        fresh
    }

    /// Clears `bits`.
    #[inline]
    pub const fn clear(&mut self, bits: u32) {
        self.0 &= !bits;
    }
}

/// How a packet relates to its connection (`enum ip_conntrack_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CtInfo {
    /// Original direction, a reply has been seen.
    Established = 0,
    /// Original direction of an expected connection without reply, or an ICMP error
    /// that travels in the original direction (it is about a reply).
    Related = 1,
    /// Original direction, no reply yet.
    New = 2,
    /// Reply direction.
    EstablishedReply = 3,
    /// An ICMP error that travels in the reply direction.
    RelatedReply = 4,
}

impl CtInfo {
    /// Direction the packet travels in.
    #[inline]
    #[must_use]
    pub const fn dir(self) -> Dir {
        match self {
            CtInfo::EstablishedReply | CtInfo::RelatedReply => Dir::Reply,
            CtInfo::Established | CtInfo::Related | CtInfo::New => Dir::Original,
        }
    }
}

/// What hangs on a packet: its entry, direction and relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The entry.
    pub id: EntryId,
    /// Direction of this packet.
    pub dir: Dir,
    /// Relation of this packet.
    pub info: CtInfo,
}

/// Conntrack zone: an id and the directions it applies to (`struct nf_conntrack_zone`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Zone id, 0 is the default zone.
    pub id: u16,
    /// Directions the id applies to: bit 0 original, bit 1 reply.
    pub dirs: u8,
}

impl Zone {
    /// Applies to the original direction only.
    pub const ORIG: u8 = 1;
    /// Applies to the reply direction only.
    pub const REPLY: u8 = 2;
    /// Applies to both.
    pub const BOTH: u8 = 3;

    /// A zone for both directions.
    #[must_use]
    pub const fn both(id: u16) -> Zone {
        Zone {
            id,
            dirs: Zone::BOTH,
        }
    }

    /// The zone id that counts in `dir` (`nf_ct_zone_id`).
    #[inline]
    #[must_use]
    pub const fn id_for(self, dir: Dir) -> u16 {
        if self.dirs & (1 << dir as u8) != 0 {
            self.id
        } else {
            0
        }
    }
}

impl Default for Zone {
    fn default() -> Zone {
        Zone::both(0)
    }
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Network-layer bytes, IP header included.
    pub bytes: u64,
}

/// A tracked connection (`struct nf_conn`).
///
/// In the order in which it is laid out: what every packet needs comes first.
#[derive(Clone, Debug)]
#[repr(C)]
pub struct Entry {
    /// Expiry: relative nanoseconds until confirmed, absolute time afterwards.
    pub timeout: Time,
    /// A number for each direction that the embedding engine may remember here; 0 at
    /// first.
    pub tags: [u64; 2],
    /// Status bits.
    pub status: Status,
    /// Where its packets pass meanwhile ([`crate::elsewhere`]).
    pub(crate) place: u32,
    /// Tuples of the original and the reply direction.
    pub tuples: [Tuple; 2],
    /// Protocol state.
    pub proto: ProtoState,
    /// What few connections have, allocated on first use.
    pub extra: Option<Box<Extra>>,
    /// Per-direction counters, there when accounting was on at creation.
    pub counters: Option<Box<[Counters; 2]>>,
    /// Connection mark.
    pub mark: u32,
    /// Interface a masqueraded connection left through, 0 when none.
    pub masq_index: u32,
    /// Zone.
    pub zone: Zone,
    /// Changes not yet reported ([`change`] bits).
    pub pending: u16,
    /// Helper in charge.
    pub helper: Option<HelperKind>,
    /// Somebody listened to events when the entry was made.
    pub watched: bool,
}

/// What few connections have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Confirmation time, when time stamps were on at creation; before that any time.
    pub start: Option<Time>,
    /// Connection that announced this one.
    pub master: Option<Master>,
    /// Living connections this one announced.
    pub children: u16,
    /// Expectations this entry has per class.
    pub expecting: [u8; 4],
    /// Sequence number adjustment.
    pub seqadj: Option<SeqAdj>,
    /// What the helper in charge remembers.
    pub helper: HelperState,
    /// Labels, a bit each (`struct nf_conn_labels`).
    pub labels: u128,
    /// Security mark: a number that is kept and shown, without further meaning.
    pub secmark: u32,
    /// Timeout policy.
    pub policy: Option<PolicyId>,
    /// Where a SYN proxy opened it.
    pub proxied: Option<Proxied>,
}

/// The connection that announced another; known by its tuple even after it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Master {
    /// The entry, which may be gone.
    pub id: EntryId,
    /// Its original tuple.
    pub tuple: Tuple,
    /// Its helper when it announced; not known of connections that were restored.
    pub helper: Option<HelperKind>,
}

/// What an update event reports (`enum ip_conntrack_events`).
pub mod change {
    /// First reply.
    pub const REPLY: u16 = 1 << 2;
    /// ASSURED was set.
    pub const ASSURED: u16 = 1 << 3;
    /// Protocol state changed.
    pub const PROTOINFO: u16 = 1 << 4;
    /// A helper was attached.
    pub const HELPER: u16 = 1 << 5;
    /// Mark changed.
    pub const MARK: u16 = 1 << 6;
    /// Labels changed.
    pub const LABEL: u16 = 1 << 7;
    /// Security mark changed.
    pub const SECMARK: u16 = 1 << 8;
    /// What a SYN proxy knows of it, or its sequence adjustment, changed.
    pub const PROXIED: u16 = 1 << 9;
}

impl Entry {
    /// The tuple of `dir`.
    #[inline]
    #[must_use]
    pub fn tuple(&self, dir: Dir) -> &Tuple {
        &self.tuples[dir.ix()]
    }

    /// Whether nothing but translation is left to be done to a packet that has been
    /// accepted: nobody reads it, its numbers stay, and there is nothing to tell.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let quiet = self.helper.is_none() && self.pending == 0;
        quiet && self.confirmed() && !self.status.has(Status::SEQ_ADJUST | Status::DYING)
    }

    /// Whether some of its packets are rewritten.
    #[inline]
    #[must_use]
    pub fn is_translated(&self) -> bool {
        self.status.has(Status::NAT_MASK)
    }

    /// Whether a packet of a masqueraded connection leaves by another interface than the
    /// address was taken from.
    #[inline]
    #[must_use]
    pub fn has_moved(&self, dir: Dir, out: u32) -> bool {
        dir == Dir::Original && self.masq_index != 0 && self.masq_index != out
    }

    /// Whether the entry is in the table.
    #[inline]
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.status.has(Status::CONFIRMED)
    }

    /// Whether a confirmed entry has run out at `now`.
    #[inline]
    #[must_use]
    pub fn expired(&self, now: Time) -> bool {
        self.timeout <= now && self.confirmed()
    }

    /// Whether the connection is over but for its timeout: TCP in TIME_WAIT or CLOSE
    /// (`already_closed` of `nf_conncount`).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.tcp()
            .is_some_and(|t| matches!(t.state, TcpConn::TimeWait | TcpConn::Close))
    }

    /// Whether a full table may evict the entry: unassured, or about to end.
    #[must_use]
    pub fn can_early_drop(&self) -> bool {
        !self.status.has(Status::ASSURED)
            || match &self.proto {
                ProtoState::Tcp(t) => t.state.can_early_drop(),
                ProtoState::Sctp(s) => s.state.can_early_drop(),
                ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => false,
            }
    }

    /// Remaining whole seconds, 0 when expired.
    #[must_use]
    pub fn remaining(&self, now: Time) -> u64 {
        if self.confirmed() {
            self.timeout.saturating_sub(now) / SECOND
        } else {
            self.timeout / SECOND
        }
    }

    /// When it was confirmed, if it has time stamps.
    #[must_use]
    pub fn start(&self) -> Option<Time> {
        self.extra.as_ref()?.start.filter(|_| self.confirmed())
    }

    /// The connection that announced it.
    #[must_use]
    pub fn master(&self) -> Option<&Master> {
        self.extra.as_ref()?.master.as_ref()
    }

    /// How many living connections it announced.
    #[must_use]
    pub fn children(&self) -> u16 {
        self.extra.as_ref().map_or(0, |x| x.children)
    }

    /// How many expectations it has, per class.
    #[must_use]
    pub fn expecting(&self) -> [u8; 4] {
        self.extra.as_ref().map_or([0; 4], |x| x.expecting)
    }

    /// Counts a packet of so many bytes in a direction, if it has counters.
    #[inline]
    pub(crate) fn count_one(&mut self, dir: Dir, len: u32) {
        let bytes = u64::from(len);
        self.count(dir, Counters { packets: 1, bytes });
    }

    /// Adds to the counters of a direction, if it has any.
    #[inline]
    pub(crate) fn count(&mut self, dir: Dir, more: Counters) {
        if let Some(counters) = &mut self.counters {
            counters[dir.ix()].packets += more.packets;
            counters[dir.ix()].bytes += more.bytes;
        }
    }

    /// Notes when it enters the table, if it is to have time stamps.
    pub(crate) fn stamp(&mut self, now: Time) {
        if let Some(start) = self.extra.as_mut().and_then(|x| x.start.as_mut()) {
            *start = now;
        }
    }

    /// Has what is counted and stamped counted and stamped from now on.
    pub(crate) fn keep_accounts(&mut self, config: &Config) {
        self.counters = config.acct.then(Box::default);
        if config.timestamp {
            self.extra_mut().start = Some(0);
        }
    }

    /// Its labels, a bit each.
    #[must_use]
    pub fn labels(&self) -> u128 {
        self.extra.as_ref().map_or(0, |x| x.labels)
    }

    /// Its security mark.
    #[must_use]
    pub fn secmark(&self) -> u32 {
        self.extra.as_ref().map_or(0, |x| x.secmark)
    }

    /// Its sequence number adjustment, if there is any.
    #[inline]
    #[must_use]
    pub fn seqadj(&self) -> Option<&SeqAdj> {
        self.extra.as_ref()?.seqadj.as_ref()
    }

    /// What its helper remembers.
    #[must_use]
    pub fn helper_state(&self) -> Option<&HelperState> {
        self.extra.as_ref().map(|x| &x.helper)
    }

    pub(crate) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The TCP state, for TCP entries.
    #[inline]
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpState> {
        match &self.proto {
            ProtoState::Tcp(t) => Some(t),
            ProtoState::Stateless
            | ProtoState::Sctp(_)
            | ProtoState::Udp { .. }
            | ProtoState::Gre { .. } => None,
        }
    }

    /// The TCP state for changing, for TCP entries.
    #[inline]
    pub fn tcp_mut(&mut self) -> Option<&mut TcpState> {
        match &mut self.proto {
            ProtoState::Tcp(t) => Some(t),
            ProtoState::Stateless
            | ProtoState::Sctp(_)
            | ProtoState::Udp { .. }
            | ProtoState::Gre { .. } => None,
        }
    }
}
