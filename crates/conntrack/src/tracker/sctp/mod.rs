//! SCTP (`nf_conntrack_proto_sctp`).

mod table;

use super::{Packet, Verdict, assure};
use crate::config::Timeouts;
use crate::entry::{Entry, ProtoState, SctpConn, SctpState, change};
use crate::reason::{InvalidReason, Note};
use crate::tuple::Dir;
use tidegate_wire::{be16, be32, crc32c};

/// Chunk types (RFC 9260 section 3.2).
mod chunk {
    pub(super) const DATA: u8 = 0;
    pub(super) const INIT: u8 = 1;
    pub(super) const INIT_ACK: u8 = 2;
    pub(super) const HEARTBEAT: u8 = 4;
    pub(super) const HEARTBEAT_ACK: u8 = 5;
    pub(super) const ABORT: u8 = 6;
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const SHUTDOWN_ACK: u8 = 8;
    pub(super) const ERROR: u8 = 9;
    pub(super) const COOKIE_ECHO: u8 = 10;
    pub(super) const COOKIE_ACK: u8 = 11;
    pub(super) const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Bytes of the common header.
const HEADER: usize = 12;
/// T bit: the tag is the peer's (RFC 9260 section 8.5.1).
const TAG_REFLECTED: u8 = 1;

/// Chunks that may not open an association.
const NO_OPENERS: u32 = set(&[chunk::ABORT, chunk::SHUTDOWN_COMPLETE, chunk::COOKIE_ACK]);
/// Chunks with rules of their own for the verification tag.
const OWN_TAG_RULE: u32 = set(&[
    chunk::INIT,
    chunk::SHUTDOWN_COMPLETE,
    chunk::COOKIE_ECHO,
    chunk::ABORT,
    chunk::SHUTDOWN_ACK,
    chunk::HEARTBEAT,
    chunk::HEARTBEAT_ACK,
]);

const fn set(kinds: &[u8]) -> u32 {
    let mut bits = 0;
    let mut i = 0;
    while i < kinds.len() {
        bits |= bit(kinds[i]);
        i += 1;
    }
    bits
}

/// Bit of a chunk type; types above 31 are of no interest here.
const fn bit(kind: u8) -> u32 {
    if kind < 32 { 1 << kind } else { 0 }
}

/// A chunk: type, flags, and its bytes from the type on to the end of the packet.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    kind: u8,
    flags: u8,
    len: u16,
    bytes: &'a [u8],
}

impl Chunk<'_> {
    /// The initiate tag of INIT and INIT_ACK.
    fn init_tag(&self) -> Option<u32> {
        self.bytes.get(..20)?;
        be32(self.bytes, 4)
    }
}

/// The chunks of a packet; lengths are rounded up to four.
fn chunks(l4: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut at = HEADER;
    core::iter::from_fn(move || {
        let bytes = l4.get(at..).filter(|b| b.len() >= 4)?;
        let len = be16(bytes, 2)?;
        at += (usize::from(len) + 3) & !3;
        Some(Chunk {
            kind: *bytes.first()?,
            flags: *bytes.get(1)?,
            len,
            bytes,
        })
    })
}

/// Which chunks there are, once their order is right (`do_basic_checks`).
fn sound(packet: &Packet<'_>) -> Result<u32, InvalidReason> {
    let right = crc32c::sctp(packet.l4).ok_or(InvalidReason::ShortHeader)?;
    let sent = be32(packet.l4, 8).map_or(0, u32::swap_bytes);
    if packet.verify && right != sent {
        return Err(InvalidReason::BadChecksum);
    }
    let (mut present, mut alone) = (0, false);
    for (number, c) in (0..).zip(chunks(packet.l4)) {
        alone |= matches!(
            c.kind,
            chunk::INIT | chunk::INIT_ACK | chunk::SHUTDOWN_COMPLETE
        );
        let first = matches!(c.kind, chunk::COOKIE_ECHO | chunk::COOKIE_ACK);
        if c.len == 0 || (number > 0 && (alone || first)) {
            return Err(InvalidReason::BadChunks {
                number,
                kind: c.kind,
                len: c.len,
                alone,
            });
        }
        present |= bit(c.kind);
    }
    if chunks(packet.l4).next().is_none() {
        return Err(InvalidReason::NoChunks);
    }
    Ok(present)
}

/// State of an association that starts with this packet (`sctp_new`).
fn open(packet: &Packet<'_>, tag: u32) -> Result<SctpState, InvalidReason> {
    let mut state = SctpState::default();
    for c in chunks(packet.l4) {
        let opens = table::next(Dir::Original, c.kind, SctpConn::None)
            .is_some_and(|next| next != SctpConn::None);
        if !opens || bit(c.kind) & NO_OPENERS != 0 {
            return Err(InvalidReason::ChunkCannotOpen(c.kind));
        }
        match c.kind {
            chunk::INIT => {
                if tag != 0 {
                    return Err(InvalidReason::ChunkTag(tag));
                }
                state.vtag[Dir::Reply.ix()] = c.init_tag().ok_or(InvalidReason::Truncated)?;
                state.init[Dir::Original.ix()] = true;
            }
            chunk::HEARTBEAT => state.vtag[Dir::Original.ix()] = tag,
            chunk::SHUTDOWN_ACK => state.vtag[Dir::Reply.ix()] = tag,
            _ => {}
        }
    }
    Ok(state)
}

/// Judges a packet and updates its association.
pub(super) fn track(
    timeouts: &Timeouts,
    note: &mut Option<Note>,
    entry: &mut Entry,
    packet: &Packet<'_>,
    dir: Dir,
) -> Verdict {
    match judge(entry, packet, dir) {
        Ok(Accepted::Refresh(state)) => Verdict::Refresh(timeouts.sctp[state as usize]),
        Ok(Accepted::Keep(why)) => {
            *note = Some(why);
            Verdict::Keep
        }
        Err(reason) => Verdict::Invalid(reason),
    }
}

/// What an accepted packet does to the timer.
enum Accepted {
    /// Sets it to this state's timeout.
    Refresh(SctpConn),
    /// Nothing.
    Keep(Note),
}

fn judge(entry: &mut Entry, packet: &Packet<'_>, dir: Dir) -> Result<Accepted, InvalidReason> {
    let present = sound(packet)?;
    let tag = be32(packet.l4, 4).unwrap_or(0);
    let fresh = !entry.confirmed();
    if fresh {
        entry.proto = ProtoState::Sctp(open(packet, tag)?);
    }
    let ProtoState::Sctp(mut state) = entry.proto else {
        return Err(InvalidReason::NoTuple);
    };
    let known = state.vtag[dir.ix()];
    if present & OWN_TAG_RULE == 0 && tag != known {
        return Err(InvalidReason::BadTag { tag, known, dir });
    }
    let run = Run {
        tag,
        dir,
        fresh,
        bundled: present & bit(chunk::DATA) != 0,
    };
    let mut keep = None;
    let mut outcome = Ok(());
    for c in chunks(packet.l4) {
        let old = state.state;
        outcome = run.step(&mut state, &c, &mut keep);
        // What the chunks before a wrong one did remains.
        entry.proto = ProtoState::Sctp(state);
        if state.state != old {
            entry.pending |= change::PROTOINFO;
            if state.state == SctpConn::Established {
                assure(entry);
            }
        }
        if outcome.is_err() {
            break;
        }
    }
    outcome?;
    Ok(keep.map_or(Accepted::Refresh(state.state), Accepted::Keep))
}

/// What the rules for one chunk need to know of its packet.
struct Run {
    tag: u32,
    dir: Dir,
    /// The packet makes the entry.
    fresh: bool,
    /// The packet carries data.
    bundled: bool,
}

impl Run {
    /// What one chunk does to the association; `keep` becomes why the packet shall not
    /// refresh the timer.
    fn step(
        &self,
        state: &mut SctpState,
        c: &Chunk<'_>,
        keep: &mut Option<Note>,
    ) -> Result<(), InvalidReason> {
        if !self.tag_ok(state, c, keep.is_some())? {
            *keep = Some(Note::HeartbeatTag(self.tag));
            return Ok(());
        }
        let old = state.state;
        let new = table::next(self.dir, c.kind, old).ok_or(InvalidReason::BadChunkInState {
            kind: c.kind,
            dir: self.dir,
            state: old,
        })?;
        self.note_tags(state, c)?;
        if c.kind == chunk::INIT && old == SctpConn::Closed && new == old && !self.fresh {
            *keep = Some(Note::InitRetransmitted);
        }
        state.state = new;
        Ok(())
    }

    /// The verification tag rules of one chunk; `false` skips the chunk.
    fn tag_ok(
        &self,
        state: &mut SctpState,
        c: &Chunk<'_>,
        tolerated: bool,
    ) -> Result<bool, InvalidReason> {
        let (own, peer) = (state.vtag[self.dir.ix()], state.vtag[self.dir.other().ix()]);
        let wanted = match c.kind {
            chunk::INIT => 0,
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE if c.flags & TAG_REFLECTED != 0 => peer,
            chunk::ABORT | chunk::SHUTDOWN_COMPLETE | chunk::COOKIE_ECHO => own,
            chunk::HEARTBEAT | chunk::HEARTBEAT_ACK => {
                return self.heartbeat(state, c, tolerated);
            }
            _ => return Ok(true),
        };
        if self.tag == wanted {
            Ok(true)
        } else {
            Err(InvalidReason::ChunkTag(self.tag))
        }
    }

    /// Heartbeats tell tags of associations seen from the middle; one wrong tag is let
    /// through, and the other side's answer to it is believed; `tolerated` says that this
    /// packet has had its wrong one.
    fn heartbeat(
        &self,
        state: &mut SctpState,
        c: &Chunk<'_>,
        tolerated: bool,
    ) -> Result<bool, InvalidReason> {
        let own = state.vtag[self.dir.ix()];
        if own == 0 {
            state.vtag[self.dir.ix()] = self.tag;
            return Ok(true);
        }
        if self.tag == own {
            state.tag_failed = false;
            return Ok(true);
        }
        if self.bundled || tolerated {
            return Err(InvalidReason::ChunkTag(self.tag));
        }
        if c.kind == chunk::HEARTBEAT {
            state.tag_failed = true;
            state.last_dir = self.dir;
            return Ok(false);
        }
        if !state.tag_failed || state.last_dir == self.dir {
            return Err(InvalidReason::ChunkTag(self.tag));
        }
        state.tag_failed = false;
        state.vtag[self.dir.ix()] = self.tag;
        state.vtag[self.dir.other().ix()] = 0;
        Ok(true)
    }

    /// INIT and INIT_ACK announce the tag of the other direction.
    fn note_tags(&self, state: &mut SctpState, c: &Chunk<'_>) -> Result<(), InvalidReason> {
        let (dir, other) = (self.dir.ix(), self.dir.other().ix());
        match c.kind {
            chunk::INIT => {
                let tag = c.init_tag().ok_or(InvalidReason::Truncated)?;
                // A repetition is not another attempt.
                if state.vtag[other] == tag {
                    return Ok(());
                }
                if state.init[dir] && state.init[other] {
                    state.init[other] = false;
                }
                state.init[dir] = true;
                state.vtag[other] = tag;
            }
            chunk::INIT_ACK => {
                let tag = c.init_tag().ok_or(InvalidReason::Truncated)?;
                let known = state.vtag[other];
                let unasked = !state.init[other] && known != 0;
                let collision = state.init[dir] && state.init[other];
                if (unasked || collision) && known != tag {
                    return Err(InvalidReason::ChunkTag(tag));
                }
                state.vtag[other] = tag;
            }
            chunk::COOKIE_ACK => state.init = [false; 2],
            _ => {}
        }
        Ok(())
    }
}
