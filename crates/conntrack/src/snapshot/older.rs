//! Corrections of sequence numbers before the last one, which the connection's own record has:
//! a record for each direction that has any. Its body is the direction (1: 0 the opener's, 1 the
//! other), then for each correction, the latest first, where it is and the offset before it (4
//! each).

use alloc::vec::Vec;

use super::bytes::{In, put};
use super::record::Absurd;
use crate::seqadj::{self, Older};
use crate::tuple::Dir;

/// What one record says.
#[derive(Debug)]
pub(super) struct OlderOf {
    pub(super) dir: Dir,
    pub(super) corrections: Vec<Older>,
}

pub(super) fn write(out: &mut Vec<u8>, dir: Dir, corrections: &[Older]) {
    out.push(dir.ix() as u8);
    for c in corrections {
        put::u32(out, c.pos);
        put::u32(out, c.before as u32);
    }
}

pub(super) fn read(body: &[u8]) -> Result<OlderOf, Absurd> {
    let mut fields = In::new(body);
    let dir = match fields.u8() {
        Some(0) => Dir::Original,
        Some(1) => Dir::Reply,
        _ => return Err("direction"),
    };
    let mut corrections = Vec::new();
    while !fields.rest().is_empty() {
        let mut number = || fields.u32().ok_or("length");
        corrections.push(Older {
            pos: number()?,
            before: number()? as i32,
        });
    }
    match corrections.len() {
        1..=seqadj::OLDER => Ok(OlderOf { dir, corrections }),
        _ => Err("number of corrections"),
    }
}
