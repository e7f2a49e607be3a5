//! Entries in fixed chunks, so that growing never moves one.

use crate::Time;
use crate::entry::{Entry, EntryId};
use crate::table::{Node, split};
use crate::timer::TimerNode;
use crate::tuple::{Dir, Tuple};
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Entries per chunk: two MiB, a large page's worth.
const CHUNK: usize = 8192;

/// An entry and what holds it in place, in the order in which packets need it.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    nodes: [Node; 2],
    timer: TimerNode,
    /// Generation of the entry that is, or will next be, here.
    generation: NonZeroU32,
    entry: Option<Entry>,
}

impl Slot {
    /// Whether the node that a link to this slot names has this hash.
    #[inline]
    pub(crate) fn has_hash(&self, link: u32, hash: u32) -> bool {
        split(link).is_some_and(|(_, dir)| self.nodes[dir.ix()].hash == hash)
    }

    /// The hashes of its nodes.
    #[inline]
    pub(crate) fn hashes(&self) -> [u32; 2] {
        self.nodes.map(|node| node.hash)
    }

    /// Reads the first cache line, to have it near.
    #[inline]
    pub(crate) fn touch_nodes(&self) -> u32 {
        self.nodes[0].hash
    }

    /// Reads the others.
    #[inline]
    pub(crate) fn touch_entry(&self) -> u32 {
        self.entry.as_ref().map_or(0, |e| {
            let [original, reply] = &e.tuples;
            let middle = u32::from(original.src_id) ^ u32::from(reply.src_id);
            e.status.0 ^ middle ^ e.mark ^ u32::from(e.watched)
        })
    }
}

/// Four cache lines; a million connections take 256 MB.
const _: () = assert!(size_of::<Slot>() <= 256);

/// Storage for entries, confirmed or not.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    /// All but the last one are full, and none grows beyond what it was made for.
    chunks: Vec<Vec<Slot>>,
    /// First free place plus one, 0 when there is none; the others follow through `next`
    /// of their first node.
    free: u32,
}

impl Slab {
    #[inline]
    pub(crate) fn slot(&self, index: u32) -> Option<&Slot> {
        let at = index as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    #[inline]
    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot> {
        let at = index as usize;
        self.chunks.get_mut(at / CHUNK)?.get_mut(at % CHUNK)
    }

    /// Stores `entry`, and for as long as it is in no chain the hash of its original tuple. In
    /// one piece with the caller, so that the entry is made where it stays.
    #[inline]
    pub(crate) fn insert(&mut self, entry: Entry, hash: u32) -> EntryId {
        let index = match self.free.checked_sub(1) {
            Some(index) => index,
            None => self.append(),
        };
        let Some(slot) = self.slot_mut(index) else {
            return EntryId::NOBODY;
        };
        slot.entry = Some(entry);
        let generation = slot.generation;
        let free = core::mem::replace(&mut slot.nodes[0], Node { hash, next: 0 });
        self.free = free.next;
        EntryId { generation, index }
    }

    /// Makes a free place where there has never been one.
    fn append(&mut self) -> u32 {
        let index = self.slots();
        if (index as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        if let Some(last) = self.chunks.last_mut() {
            // Made where it stays: pushed, it would be copied there.
            last.resize_with(last.len() + 1, || Slot {
                nodes: [Node::default(); 2],
                timer: TimerNode::default(),
                generation: NonZeroU32::MIN,
                entry: None,
            });
        }
        index
    }

    /// Takes the entry out; its id is stale from now on.
    pub(crate) fn remove(&mut self, id: EntryId) -> Option<Entry> {
        let free = self.free;
        let slot = self.slot_mut(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        slot.nodes[0].next = free;
        self.free = id.index.wrapping_add(1);
        Some(entry)
    }

    #[inline]
    pub(crate) fn get(&self, id: EntryId) -> Option<&Entry> {
        let slot = self.slot(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.entry.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: EntryId) -> Option<&mut Entry> {
        Some(self.get_timed(id)?.0)
    }

    /// The entry, and the deadline that its timer is armed for (0 when it is not).
    #[inline]
    pub(crate) fn get_timed(&mut self, id: EntryId) -> Option<(&mut Entry, Time)> {
        let slot = self.slot_mut(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        Some((slot.entry.as_mut()?, slot.timer.armed))
    }

    /// The entry at `index`, whatever its generation.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<(EntryId, &Entry)> {
        let slot = self.slot(index)?;
        let id = EntryId {
            generation: slot.generation,
            index,
        };
        Some((id, slot.entry.as_ref()?))
    }

    /// The same for changing, with the deadline that its timer is armed for.
    #[inline]
    pub(crate) fn at_mut(&mut self, index: u32) -> Option<(EntryId, &mut Entry, Time)> {
        let slot = self.slot_mut(index)?;
        let id = EntryId {
            generation: slot.generation,
            index,
        };
        Some((id, slot.entry.as_mut()?, slot.timer.armed))
    }

    /// As [`Slab::at_mut`], of the entry that `link` names as [`split`] reads it, and for which
    /// direction, if it has this tuple in no zone.
    #[inline]
    pub(crate) fn having(
        &mut self,
        link: u32,
        tuple: &Tuple,
    ) -> Option<(EntryId, Dir, &mut Entry, Time)> {
        let (index, dir) = split(link)?;
        let (id, entry, armed) = self.at_mut(index)?;
        let same = entry.tuple(dir) == tuple && entry.zone.id_for(dir) == 0;
        same.then_some((id, dir, entry, armed))
    }

    /// The chain node of an entry.
    #[inline]
    pub(crate) fn node(&self, index: u32, dir: Dir) -> Option<&Node> {
        Some(&self.slot(index)?.nodes[dir.ix()])
    }

    /// The chain node of an entry, for changing.
    #[inline]
    pub(crate) fn node_mut(&mut self, index: u32, dir: Dir) -> Option<&mut Node> {
        Some(&mut self.slot_mut(index)?.nodes[dir.ix()])
    }

    /// The timer node of an entry.
    #[inline]
    pub(crate) fn timer_mut(&mut self, index: u32) -> Option<&mut TimerNode> {
        Some(&mut self.slot_mut(index)?.timer)
    }

    /// Whether the entry's deadline moved before what its timer is armed for.
    #[inline]
    pub(crate) fn timer_is_late(&self, index: u32) -> bool {
        self.slot(index).is_some_and(|slot| {
            slot.entry
                .as_ref()
                .is_some_and(|e| e.timeout < slot.timer.armed)
        })
    }

    /// What `link` names, as [`split`] reads it.
    #[inline]
    pub(crate) fn linked(&self, link: u32) -> Option<&Slot> {
        self.slot(split(link)?.0)
    }

    /// Places for entries, used or not.
    pub(crate) fn slots(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        (full + self.chunks.last().map_or(0, Vec::len)) as u32
    }

    /// All entries, unconfirmed and dying ones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        (0..self.slots()).filter_map(|index| self.at(index))
    }
}
