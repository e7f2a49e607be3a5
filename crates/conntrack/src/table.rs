//! The hash table: every confirmed entry under both of its tuples.

use crate::entry::{EntryId, Zone};
use crate::slab::Slab;
use crate::tuple::{Dir, Tuple};
use alloc::vec;
use alloc::vec::Vec;
use siphasher::sip::SipHasher13;
use tidegate_wire::Family;

/// Place of one entry in the chains, once per direction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node {
    pub(crate) hash: u32,
    /// Next node of the chain plus one, 0 at its end.
    next: u32,
}

/// Bucket heads; the nodes live beside their entries in the [`Slab`].
#[derive(Debug)]
pub(crate) struct Table {
    hasher: SipHasher13,
    /// First node plus one, 0 when empty.
    heads: Vec<u32>,
}

/// A node as a number: entry index times two plus direction.
#[inline]
fn split(link: u32) -> Option<(u32, Dir)> {
    let node = link.checked_sub(1)?;
    let dir = if node & 1 == 0 {
        Dir::Original
    } else {
        Dir::Reply
    };
    Some((node >> 1, dir))
}

#[inline]
fn link_of(index: u32, dir: Dir) -> u32 {
    (index << 1 | dir as u32) + 1
}

impl Table {
    pub(crate) fn new(key: &[u8; 16], buckets: u32) -> Table {
        Table {
            hasher: SipHasher13::new_with_key(key),
            heads: vec![0; buckets.max(1) as usize],
        }
    }

    /// Spreads the nodes over another number of buckets.
    pub(crate) fn resize(&mut self, slab: &mut Slab, buckets: u32) {
        let old = core::mem::replace(&mut self.heads, vec![0; buckets.max(1) as usize]);
        for mut link in old {
            while let Some((index, dir)) = split(link) {
                let Some(&Node { hash, next }) = slab.node(index, dir) else {
                    break;
                };
                self.link(slab, index, dir, hash);
                link = next;
            }
        }
    }

    /// Keyed hash of a tuple in a zone (`hash_conntrack_raw`).
    #[inline]
    pub(crate) fn hash(&self, t: &Tuple, zone: u16) -> u32 {
        let [zh, zl] = zone.to_be_bytes();
        let [s0, s1] = { t.src_id }.to_be_bytes();
        let [d0, d1] = { t.dst_id }.to_be_bytes();
        let tail = [s0, s1, d0, d1, zh, zl, t.proto, 0];
        let long = match t.family {
            Family::V4 => {
                let mut b = [0u8; 16];
                b[..4].copy_from_slice(&(t.src as u32).to_be_bytes());
                b[4..8].copy_from_slice(&(t.dst as u32).to_be_bytes());
                b[8..].copy_from_slice(&tail);
                self.hasher.hash(&b)
            }
            Family::V6 => {
                let mut b = [0u8; 40];
                b[..16].copy_from_slice(&{ t.src }.to_be_bytes());
                b[16..32].copy_from_slice(&{ t.dst }.to_be_bytes());
                b[32..].copy_from_slice(&tail);
                self.hasher.hash(&b)
            }
        };
        (long >> 32) as u32
    }

    /// Number of buckets.
    pub(crate) fn buckets(&self) -> usize {
        self.heads.len()
    }

    /// Bucket a hash falls into (`reciprocal_scale`).
    #[inline]
    pub(crate) fn bucket(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.heads.len() as u64) >> 32) as usize
    }

    /// The nodes of a bucket.
    #[inline]
    pub(crate) fn chain<'a>(
        &'a self,
        slab: &'a Slab,
        bucket: usize,
    ) -> impl Iterator<Item = (u32, Dir, &'a Node)> {
        let mut link = self.heads.get(bucket).copied().unwrap_or(0);
        core::iter::from_fn(move || {
            let (index, dir) = split(link)?;
            let node = slab.node(index, dir)?;
            link = node.next;
            Some((index, dir, node))
        })
    }

    /// The confirmed entry that has `tuple`, where the ids of `zone` agree for the
    /// direction found (`nf_ct_key_equal`); `hash` must be that of tuple and zone id.
    #[inline]
    pub(crate) fn find(
        &self,
        slab: &Slab,
        tuple: &Tuple,
        zone: Zone,
        hash: u32,
        mut skip: impl FnMut(EntryId) -> bool,
    ) -> Option<(EntryId, Dir)> {
        for (index, dir, node) in self.chain(slab, self.bucket(hash)) {
            if node.hash != hash {
                continue;
            }
            let Some((id, entry)) = slab.at(index) else {
                continue;
            };
            if entry.tuple(dir) == tuple && entry.zone.id_for(dir) == zone.id_for(dir) && !skip(id)
            {
                return Some((id, dir));
            }
        }
        None
    }

    /// Puts the entry at `index` into the chain of `hash` for `dir`.
    pub(crate) fn link(&mut self, slab: &mut Slab, index: u32, dir: Dir, hash: u32) {
        let bucket = self.bucket(hash);
        if let (Some(head), Some(node)) = (self.heads.get_mut(bucket), slab.node_mut(index, dir)) {
            *node = Node { hash, next: *head };
            *head = link_of(index, dir);
        }
    }

    /// Takes the entry at `index` out of its chain for `dir`; nothing when it is in none.
    pub(crate) fn unlink(&mut self, slab: &mut Slab, index: u32, dir: Dir) {
        let Some(&Node { hash, next }) = slab.node(index, dir) else {
            return;
        };
        let wanted = link_of(index, dir);
        let bucket = self.bucket(hash);
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        if *head == wanted {
            *head = next;
            return;
        }
        let mut link = *head;
        while let Some((at, way)) = split(link) {
            let Some(node) = slab.node_mut(at, way) else {
                return;
            };
            if node.next == wanted {
                node.next = next;
                return;
            }
            link = node.next;
        }
    }
}
