//! Sequence number adjustment for connections whose payload a helper resized
//! (`nf_conntrack_seqadj`).

use crate::tuple::Dir;
use tidegate_wire::tcp::{Tcp, flags, option};
use tidegate_wire::{be32, checksum, put};

/// Corrections remembered before the last one. The kernel remembers none.
pub const OLDER: usize = 7;

/// Adjustment of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqAdjDir {
    /// Sequence number of the last resized segment.
    pub correction_pos: u32,
    /// Offset for what came before it.
    pub offset_before: i32,
    /// Offset for what follows it.
    pub offset_after: i32,
    older: [Older; OLDER],
    /// How many of them there are.
    known: u8,
}

/// A correction before the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Older {
    /// Sequence number of the resized segment.
    pub pos: u32,
    /// Offset for what came before it.
    pub before: i32,
}

/// Adjustments of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqAdj {
    /// Per direction of the sender.
    pub dirs: [SeqAdjDir; 2],
}

impl SeqAdj {
    /// Offset in force at `seq` in `dir` (`nf_ct_seq_offset`).
    #[must_use]
    pub fn offset(&self, dir: Dir, seq: u32) -> i32 {
        let way = &self.dirs[dir.ix()];
        if after(seq, way.correction_pos) {
            return way.offset_after;
        }
        let mut offset = way.offset_before;
        for older in way.older() {
            if after(seq, older.pos) {
                break;
            }
            offset = older.before;
        }
        offset
    }

    /// Records that the segment at `seq` of `dir` changed its length by `diff` bytes
    /// (`nf_ct_seqadj_set`). What is older than [`OLDER`] corrections before the last one
    /// is forgotten; a segment not beyond the last correction is a retransmission and
    /// changes nothing.
    pub fn register(&mut self, dir: Dir, seq: u32, diff: i32) {
        let way = &mut self.dirs[dir.ix()];
        if way.offset_before == way.offset_after || after(seq, way.correction_pos) {
            way.age();
            way.correction_pos = seq;
            way.offset_before = way.offset_after;
            way.offset_after = way.offset_after.wrapping_add(diff);
        }
    }

    /// Has `offset` added to all numbers of `dir` (`nf_ct_seqadj_init`).
    pub fn shift(&mut self, dir: Dir, offset: i32) {
        let way = &mut self.dirs[dir.ix()];
        *way = SeqAdjDir::of(way.correction_pos, offset, offset);
    }

    /// Adjusts sequence number, acknowledgement and SACK edges of a TCP segment that
    /// travels in `dir`, and its checksum (`nf_ct_seq_adjust`).
    ///
    /// # Errors
    /// [`BadSegment`] when the header or its options cannot be read; the kernel drops
    /// such a packet.
    pub fn adjust(&self, dir: Dir, l4: &mut [u8]) -> Result<bool, BadSegment> {
        let view = Tcp::new(l4).ok_or(BadSegment)?;
        let (seq, ack, has_ack) = (view.seq(), view.ack(), view.flags() & flags::ACK != 0);
        let header = view.header_len();
        let mut changed = replace(l4, 4, seq.wrapping_add_signed(self.offset(dir, seq)));
        if has_ack {
            let back = &self.dirs[dir.other().ix()];
            changed |= replace(l4, 8, back.undo(ack));
            changed |= back.undo_sack(l4, header)?;
        }
        Ok(changed)
    }
}

/// A TCP header or option list that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSegment;

impl SeqAdjDir {
    /// A direction of which one correction is known: at `pos`, and the offsets before and
    /// after it.
    #[must_use]
    pub fn of(pos: u32, before: i32, after: i32) -> SeqAdjDir {
        SeqAdjDir {
            correction_pos: pos,
            offset_before: before,
            offset_after: after,
            ..SeqAdjDir::default()
        }
    }

    /// Corrections before the last one, the latest first.
    #[must_use]
    pub fn older(&self) -> &[Older] {
        self.older.get(..usize::from(self.known)).unwrap_or(&[])
    }

    /// Puts one more behind [`SeqAdjDir::older`]; `false` when there are too many.
    pub(crate) fn remember(&mut self, older: Older) -> bool {
        let place = self.older.get_mut(usize::from(self.known));
        self.known += u8::from(place.is_some());
        place.map(|place| *place = older).is_some()
    }

    /// Makes the last correction, if there is one, the first of the older ones.
    fn age(&mut self) {
        if self.offset_before == self.offset_after {
            return;
        }
        self.older.rotate_right(1);
        self.older[0] = Older {
            pos: self.correction_pos,
            before: self.offset_before,
        };
        self.known = (self.known + 1).min(OLDER as u8);
    }

    /// The number the sender of this direction used for what the peer calls `seq`.
    fn undo(&self, seq: u32) -> u32 {
        let mut early = seq.wrapping_sub(self.offset_before as u32);
        if after(early, self.correction_pos) {
            return seq.wrapping_sub(self.offset_after as u32);
        }
        for older in self.older() {
            let earlier = seq.wrapping_sub(older.before as u32);
            if after(earlier, older.pos) {
                break;
            }
            early = earlier;
        }
        early
    }

    /// Undoes the offset in every edge of every SACK block (`nf_ct_sack_adjust`).
    fn undo_sack(&self, l4: &mut [u8], end: usize) -> Result<bool, BadSegment> {
        let (mut at, mut changed) = (20, false);
        while at < end {
            let kind = *l4.get(at).ok_or(BadSegment)?;
            match kind {
                option::EOL => break,
                option::NOP => at += 1,
                _ => {
                    let len = usize::from(*l4.get(at + 1).ok_or(BadSegment)?);
                    if at + 1 == end || len < 2 || at + len > end {
                        return Err(BadSegment);
                    }
                    if kind == option::SACK && len >= 10 && (len - 2).is_multiple_of(8) {
                        for edge in (at + 2..at + len).step_by(4) {
                            let value = be32(l4, edge).ok_or(BadSegment)?;
                            changed |= replace(l4, edge, self.undo(value));
                        }
                    }
                    at += len;
                }
            }
        }
        Ok(changed)
    }
}

/// Writes a 32-bit value into a TCP header and repairs the checksum; `false` when it
/// was there already.
pub(crate) fn replace(l4: &mut [u8], at: usize, new: u32) -> bool {
    let (Some(old), Some(&[c0, c1])) = (be32(l4, at), l4.get(16..18).and_then(|c| c.first_chunk()))
    else {
        return false;
    };
    if old == new {
        return false;
    }
    let (from, to) = (old.to_be_bytes(), new.to_be_bytes());
    let check = u16::from_be_bytes([c0, c1]);
    let sum = if at.is_multiple_of(2) {
        checksum::update(check, &from, &to)
    } else {
        // An option at an odd offset straddles three checksum words.
        checksum::update(
            check,
            &[0, from[0], from[1], from[2], from[3], 0],
            &[0, to[0], to[1], to[2], to[3], 0],
        )
    };
    put(l4, at, &to) && put(l4, 16, &sum.to_be_bytes())
}

/// `a` comes after `b` in serial number arithmetic (RFC 1982).
#[inline]
#[must_use]
pub const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

#[cfg(test)]
mod tests;
