//! Trackers: what a packet does to its entry, per transport protocol.

mod icmp;
mod sctp;
mod tcp;
mod udp;

use crate::config::{Config, Timeouts};
use crate::entry::{Entry, ProtoState, Status, change};
use crate::reason::{InvalidReason, Note};
use crate::tuple::Dir;
use crate::{Family, Time};
use tidegate_wire::{Layout, checksum, proto};

/// A packet as trackers see it.
pub(crate) struct Packet<'a> {
    pub(crate) now: Time,
    pub(crate) pkt: &'a [u8],
    pub(crate) layout: &'a Layout,
    /// Transport header and payload, ending with the packet.
    pub(crate) l4: &'a [u8],
    /// Checksums count.
    pub(crate) verify: bool,
}

/// What becomes of packet and entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Accepted: timer set to so many seconds, packet counted.
    Refresh(u32),
    /// Accepted without touching timer and counters.
    Keep,
    /// Accepted, the entry ends.
    Die,
    /// The entry ends, the packet starts anew.
    Repeat,
    /// The packet goes on without entry.
    Invalid(InvalidReason),
}

impl Packet<'_> {
    /// Whether the transport checksum over the whole IP payload is right, with a
    /// pseudo-header for `protocol` (`nf_checksum`); true when it does not count.
    fn checksum_ok(&self, protocol: u8) -> bool {
        self.checksum_ok_over(protocol, self.l4.len())
    }

    /// As [`Packet::checksum_ok`], over the first `cover` bytes only.
    fn checksum_ok_over(&self, protocol: u8, cover: usize) -> bool {
        if !self.verify {
            return true;
        }
        let pseudo = if protocol == proto::ICMP {
            0
        } else {
            let (src, dst) = (self.layout.src(self.pkt), self.layout.dst(self.pkt));
            let len = self.l4.len() as u32;
            checksum::pseudo(self.layout.family, src, dst, protocol, len)
        };
        let covered = self.l4.get(..cover).unwrap_or(self.l4);
        checksum::is_right(pseudo, covered)
    }
}

/// Runs the tracker of the packet's protocol (`nf_conntrack_handle_packet`).
#[inline]
pub(crate) fn track(
    config: &Config,
    note: &mut Option<Note>,
    entry: &mut Entry,
    packet: &Packet<'_>,
    dir: Dir,
) -> Verdict {
    let timeouts = config.timeouts_of(entry);
    match packet.layout.proto {
        proto::TCP => tcp::track(config, timeouts, note, entry, packet, dir),
        proto::UDP => udp::track(timeouts, entry, packet),
        proto::UDPLITE => udp::track_lite(timeouts, entry, packet),
        proto::ICMP => icmp::track(entry, packet, Family::V4, timeouts.icmp),
        proto::ICMPV6 => icmp::track(entry, packet, Family::V6, timeouts.icmpv6),
        proto::SCTP => sctp::track(timeouts, note, entry, packet, dir),
        proto::GRE => gre(timeouts, entry),
        _ => Verdict::Refresh(timeouts.generic),
    }
}

/// Seconds that an entry lives on after a packet that brings a connection under way nothing
/// but data or an acknowledgement: what [`track`] would say and do, in a few steps. `None`, and
/// nothing has changed, for any other packet.
#[inline]
pub(crate) fn go_on(
    config: &Config,
    entry: &mut Entry,
    packet: &Packet<'_>,
    dir: Dir,
) -> Option<u32> {
    const UNDER_WAY: u32 = Status::CONFIRMED | Status::SEEN_REPLY;
    const SPECIAL: u32 = Status::FIXED_TIMEOUT | Status::DYING | Status::SEQ_ADJUST;
    if entry.status.0 & (UNDER_WAY | SPECIAL) != UNDER_WAY || entry.extra.is_some() {
        return None;
    }
    match packet.layout.proto {
        proto::TCP => tcp::go_on(config, entry, packet, dir),
        proto::UDP => udp::go_on(&config.timeouts, entry, packet),
        _ => None,
    }
}

/// Seconds that an entry lives on after a packet that brought it nothing new, once it is
/// settled (established or a stream); 0 for protocols that never are.
pub(crate) fn settled_timeout(config: &Config, entry: &Entry) -> u32 {
    let timeouts = config.timeouts_of(entry);
    match &entry.proto {
        ProtoState::Tcp(tcp) => tcp::timeout(config, timeouts, tcp),
        ProtoState::Udp { .. } => timeouts.udp[1],
        ProtoState::Stateless | ProtoState::Sctp(_) | ProtoState::Gre { .. } => 0,
    }
}

/// GRE: assured with the first packet after a reply (`nf_conntrack_gre_packet`).
fn gre(timeouts: &Timeouts, entry: &mut Entry) -> Verdict {
    if !entry.confirmed() {
        let [timeout, stream_timeout] = timeouts.gre;
        entry.proto = ProtoState::Gre {
            timeout,
            stream_timeout,
        };
    }
    let ProtoState::Gre {
        timeout,
        stream_timeout,
    } = entry.proto
    else {
        return Verdict::Refresh(timeouts.gre[0]);
    };
    if !entry.status.has(Status::SEEN_REPLY) {
        return Verdict::Refresh(timeout);
    }
    assure(entry);
    Verdict::Refresh(stream_timeout)
}

/// Sets ASSURED, except on the hidden loser of a clash.
fn assure(entry: &mut Entry) {
    if !entry.status.has(Status::NAT_CLASH) && entry.status.set(Status::ASSURED) {
        entry.pending |= change::ASSURED;
    }
}
