//! UDP and UDPlite (`nf_conntrack_proto_udp`).

use super::{Packet, Verdict, assure};
use crate::SECOND;
use crate::config::Timeouts;
use crate::entry::{Entry, ProtoState, Status};
use crate::reason::InvalidReason;
use tidegate_wire::{be16, proto};

/// Two-way traffic after this long makes a stream, nanoseconds.
const STREAM_AFTER: u64 = 2 * SECOND;

fn error(packet: &Packet<'_>) -> Option<InvalidReason> {
    let Some(check) = be16(packet.l4, 6) else {
        return Some(InvalidReason::ShortHeader);
    };
    let len = usize::from(be16(packet.l4, 4).unwrap_or(0));
    if len < 8 || len > packet.l4.len() {
        return Some(InvalidReason::Truncated);
    }
    (check != 0 && !packet.checksum_ok(proto::UDP)).then_some(InvalidReason::BadChecksum)
}

/// As [`super::go_on`].
#[inline]
pub(super) fn go_on(timeouts: &Timeouts, entry: &Entry, packet: &Packet<'_>) -> Option<u32> {
    let stream = is_stream(entry, packet);
    if stream && !entry.status.has(Status::ASSURED) || error(packet).is_some() {
        return None;
    }
    Some(timeouts.udp[usize::from(stream)])
}

/// Whether traffic has flown both ways for long enough.
#[inline]
fn is_stream(entry: &Entry, packet: &Packet<'_>) -> bool {
    entry.status.has(Status::SEEN_REPLY)
        && matches!(entry.proto, ProtoState::Udp { stream_ts } if packet.now > stream_ts)
}

/// UDP: assured when traffic still flows both ways after two seconds.
pub(super) fn track(timeouts: &Timeouts, entry: &mut Entry, packet: &Packet<'_>) -> Verdict {
    if let Some(reason) = error(packet) {
        return Verdict::Invalid(reason);
    }
    if !entry.confirmed() {
        entry.proto = ProtoState::Udp {
            stream_ts: packet.now.saturating_add(STREAM_AFTER),
        };
    }
    let [single, stream] = timeouts.udp;
    if !is_stream(entry, packet) {
        return Verdict::Refresh(single);
    }
    assure(entry);
    Verdict::Refresh(stream)
}

fn error_lite(packet: &Packet<'_>) -> Option<InvalidReason> {
    let Some(check) = be16(packet.l4, 6) else {
        return Some(InvalidReason::ShortHeader);
    };
    let cover = match usize::from(be16(packet.l4, 4).unwrap_or(0)) {
        0 => packet.l4.len(),
        n => n,
    };
    if cover < 8 || cover > packet.l4.len() {
        return Some(InvalidReason::Truncated);
    }
    if check == 0 {
        return Some(InvalidReason::NoChecksum);
    }
    // Linux up to 6.18 verifies with UDP's number in the pseudo-header.
    (!packet.checksum_ok_over(proto::UDP, cover)).then_some(InvalidReason::BadChecksum)
}

/// UDPlite: assured with the first packet after a reply.
pub(super) fn track_lite(timeouts: &Timeouts, entry: &mut Entry, packet: &Packet<'_>) -> Verdict {
    if let Some(reason) = error_lite(packet) {
        return Verdict::Invalid(reason);
    }
    let [single, stream] = timeouts.udp;
    if !entry.status.has(Status::SEEN_REPLY) {
        return Verdict::Refresh(single);
    }
    assure(entry);
    Verdict::Refresh(stream)
}
