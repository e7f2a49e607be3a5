//! The hash table: every confirmed entry under both of its tuples.

use crate::entry::{Entry, EntryId, Zone};
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
    pub(crate) next: u32,
}

/// Heads of chains, [`SPLIT`] to a bucket; the nodes live beside their entries in the [`Slab`].
#[derive(Debug)]
pub(crate) struct Table {
    hasher: SipHasher13,
    /// First node plus one, 0 when empty.
    heads: Vec<u32>,
    /// What a change of size has not spread yet.
    old: Option<Old>,
}

/// Heads for another number of buckets, without the last ones, whose nodes have been spread.
#[derive(Debug)]
struct Old {
    heads: Vec<u32>,
    /// How many there were.
    places: usize,
}

/// So many old heads' memory is freed in one go: the C library takes over a millisecond for millions.
const FREED: usize = 1 << 17;

impl Old {
    /// The head of a hash's chain.
    fn head(&mut self, hash: u32) -> Option<&mut u32> {
        self.heads.get_mut(place(hash, self.places))
    }
}

/// Chains that the nodes of a bucket are kept in, so that a look-up meets few but its own: each one met
/// lies elsewhere in memory. With as many buckets as connections, which have two nodes each, a chain has
/// half a node on the average.
const SPLIT: usize = 4;

/// Place a hash falls on, of so many (`reciprocal_scale`).
#[inline]
fn place(hash: u32, places: usize) -> usize {
    ((u64::from(hash) * places as u64) >> 32) as usize
}

/// Empty chains for so many buckets.
fn empty(buckets: u32) -> Vec<u32> {
    vec![0; buckets.max(1) as usize * SPLIT]
}

/// A node as a number: entry index times two plus direction.
#[inline]
pub(crate) fn split(link: u32) -> Option<(u32, Dir)> {
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
            heads: empty(buckets),
            old: None,
        }
    }

    /// Begins to spread the nodes over another number of buckets; goes on with
    /// [`Table::spread`].
    pub(crate) fn resize(&mut self, slab: &mut Slab, buckets: u32) {
        self.spread(slab, usize::MAX);
        let heads = core::mem::replace(&mut self.heads, empty(buckets));
        self.old = Some(Old {
            places: heads.len(),
            heads,
        });
    }

    /// Whether there is something to spread.
    pub(crate) fn is_spreading(&self) -> bool {
        self.old.is_some()
    }

    /// Spreads the nodes of so many chains, the last ones first.
    pub(crate) fn spread(&mut self, slab: &mut Slab, chains: usize) {
        let Some(mut old) = self.old.take() else {
            return;
        };
        let left = old.heads.len().saturating_sub(chains);
        for first in old.heads.drain(left..) {
            let mut link = first;
            while let Some((index, dir)) = split(link) {
                let Some(&Node { hash, next }) = slab.node(index, dir) else {
                    break;
                };
                self.link(slab, index, dir, hash);
                link = next;
            }
        }
        if left == 0 {
            return;
        }
        if old.heads.capacity() - left >= FREED {
            old.heads.shrink_to_fit();
        }
        self.old = Some(old);
    }

    /// Keyed hash of a tuple in a zone (`hash_conntrack_raw`).
    #[inline]
    pub(crate) fn hash(&self, t: &Tuple, zone: u16) -> u32 {
        // Whole words: the hash reads them at once, and would wait for what was written in pieces.
        // The family shows in the length, which leaves the last byte to the hash.
        let ids = u64::from(t.src_id) | u64::from(t.dst_id) << 16;
        let rest = (ids | u64::from(zone) << 32 | u64::from(t.proto) << 48).to_le_bytes();
        let long = match t.family {
            Family::V4 => {
                let addresses = u64::from(t.src as u32) << 32 | u64::from(t.dst as u32);
                let mut b = [0u8; 16];
                b[..8].copy_from_slice(&addresses.to_le_bytes());
                b[8..].copy_from_slice(&rest);
                self.hasher.hash(&b[..15])
            }
            Family::V6 => {
                let mut b = [0u8; 40];
                b[..16].copy_from_slice(&{ t.src }.to_le_bytes());
                b[16..32].copy_from_slice(&{ t.dst }.to_le_bytes());
                b[32..].copy_from_slice(&rest);
                self.hasher.hash(&b[..39])
            }
        };
        (long >> 32) as u32
    }

    /// The head of a hash's chain, as [`split`] reads it.
    #[inline]
    pub(crate) fn head_of(&self, hash: u32) -> u32 {
        let at = place(hash, self.heads.len());
        self.heads.get(at).copied().unwrap_or(0)
    }

    /// The same for changing.
    fn head_mut(&mut self, hash: u32) -> Option<&mut u32> {
        let at = place(hash, self.heads.len());
        self.heads.get_mut(at)
    }

    /// The first node that has this hash, as [`split`] reads it; 0 when there is none, or when
    /// a change of size has not come to it yet.
    #[inline]
    pub(crate) fn first(&self, slab: &Slab, hash: u32) -> u32 {
        let mut chain = nodes(slab, self.head_of(hash));
        let first = chain.find(|(.., node)| node.hash == hash);
        first.map_or(0, |(index, dir, _)| link_of(index, dir))
    }

    /// Number of buckets.
    pub(crate) fn buckets(&self) -> usize {
        self.heads.len() / SPLIT
    }

    /// Bucket a hash falls into.
    #[inline]
    pub(crate) fn bucket(&self, hash: u32) -> usize {
        place(hash, self.buckets())
    }

    /// The nodes of a bucket.
    #[inline]
    pub(crate) fn chain<'a>(
        &'a self,
        slab: &'a Slab,
        bucket: usize,
    ) -> impl Iterator<Item = (u32, Dir, &'a Node)> {
        let heads = self.heads.as_chunks::<SPLIT>().0.get(bucket);
        heads
            .into_iter()
            .flatten()
            .flat_map(|&head| nodes(slab, head))
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
        skip: impl FnMut(EntryId) -> bool,
    ) -> Option<(EntryId, Dir)> {
        let found = self.find_entry(slab, tuple, zone, hash, skip);
        found.map(|(id, dir, _)| (id, dir))
    }

    /// The same with the entry itself.
    #[inline]
    pub(crate) fn find_entry<'s>(
        &self,
        slab: &'s Slab,
        tuple: &Tuple,
        zone: Zone,
        hash: u32,
        mut skip: impl FnMut(EntryId) -> bool,
    ) -> Option<(EntryId, Dir, &'s Entry)> {
        let mut search = |first: u32| {
            nodes(slab, first).find_map(|(index, dir, node)| {
                if node.hash != hash {
                    return None;
                }
                let (id, entry) = slab.at(index)?;
                let same = entry.tuple(dir) == tuple && entry.zone.id_for(dir) == zone.id_for(dir);
                (same && !skip(id)).then_some((id, dir, entry))
            })
        };
        let mut first = self.head_of(hash);
        let mut old = self.old.as_ref();
        loop {
            if let Some(found) = search(first) {
                return Some(found);
            }
            let old = old.take()?;
            first = *old.heads.get(place(hash, old.places))?;
        }
    }

    /// Puts the entry at `index` into the chain of `hash` for `dir`.
    pub(crate) fn link(&mut self, slab: &mut Slab, index: u32, dir: Dir, hash: u32) {
        if let (Some(head), Some(node)) = (self.head_mut(hash), slab.node_mut(index, dir)) {
            *node = Node { hash, next: *head };
            *head = link_of(index, dir);
        }
    }

    /// Takes the entry at `index` out of its chain for `dir`; nothing when it is in none.
    pub(crate) fn unlink(&mut self, slab: &mut Slab, index: u32, dir: Dir) {
        let Some(&node) = slab.node(index, dir) else {
            return;
        };
        let wanted = link_of(index, dir);
        let head = self.head_mut(node.hash);
        if head.is_some_and(|head| take_out(slab, head, wanted, node.next)) {
            return;
        }
        if let Some(head) = self.old.as_mut().and_then(|old| old.head(node.hash)) {
            take_out(slab, head, wanted, node.next);
        }
    }
}

/// The nodes of a chain from the one that `link` names.
#[inline]
fn nodes(slab: &Slab, mut link: u32) -> impl Iterator<Item = (u32, Dir, &Node)> {
    core::iter::from_fn(move || {
        let (index, dir) = split(link)?;
        let node = slab.node(index, dir)?;
        link = node.next;
        Some((index, dir, node))
    })
}

/// Takes the node `wanted`, before `next`, out of a chain; `false` when it is not there.
fn take_out(slab: &mut Slab, head: &mut u32, wanted: u32, next: u32) -> bool {
    if *head == wanted {
        *head = next;
        return true;
    }
    let mut link = *head;
    while let Some((at, way)) = split(link) {
        let Some(node) = slab.node_mut(at, way) else {
            return false;
        };
        if node.next == wanted {
            node.next = next;
            return true;
        }
        link = node.next;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses and ports that one key puts into one bucket are nothing special to another.
    #[test]
    fn tuples_chosen_for_one_key_spread_under_another() {
        const BUCKETS: u32 = 2048;
        let (theirs, ours) = (Table::new(&[1; 16], BUCKETS), Table::new(&[2; 16], BUCKETS));
        let tuple = |n: u32| Tuple {
            src: u128::from(n),
            dst: 1,
            src_id: n as u16,
            dst_id: 80,
            family: Family::V4,
            proto: 6,
        };
        let chosen: Vec<Tuple> = (0..)
            .map(tuple)
            .filter(|t| theirs.bucket(theirs.hash(t, 0)) == 7)
            .take(100)
            .collect();
        let mut chains = vec![0; BUCKETS as usize];
        for t in &chosen {
            chains[ours.bucket(ours.hash(t, 0))] += 1;
        }
        // A hundred balls thrown into 2,048 urns: six in one is a matter of 1 in 10 million.
        assert!(chains.iter().all(|&n| n < 6));
    }
}
