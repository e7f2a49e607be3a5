//! Sequence number adjustment for connections whose payload a helper resized
//! (`nf_conntrack_seqadj`).

use crate::tuple::Dir;

/// Adjustment of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeqAdjDir {
    /// Sequence number of the last resized segment.
    pub correction_pos: u32,
    /// Offset for what came before it.
    pub offset_before: i32,
    /// Offset for what follows it.
    pub offset_after: i32,
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
            way.offset_after
        } else {
            way.offset_before
        }
    }
}

/// `a` comes after `b` in serial number arithmetic (RFC 1982).
#[inline]
#[must_use]
pub const fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}
