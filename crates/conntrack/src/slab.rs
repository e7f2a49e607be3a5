//! Entries in fixed chunks, so that growing never moves one.

use crate::entry::{Entry, EntryId};
use crate::table::Node;
use crate::timer::TimerNode;
use crate::tuple::Dir;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::num::NonZeroU32;

/// Entries per chunk.
const CHUNK: usize = 256;

#[derive(Debug)]
struct Slot {
    /// Generation of the entry that is, or will next be, here.
    generation: NonZeroU32,
    nodes: [Node; 2],
    timer: TimerNode,
    entry: Option<Entry>,
}

/// Storage for entries, confirmed or not.
#[derive(Debug, Default)]
pub(crate) struct Slab {
    chunks: Vec<Box<[Slot]>>,
    /// First free place plus one, 0 when there is none; the others follow through `next`
    /// of their first node.
    free: u32,
}

impl Slab {
    fn slot(&self, index: u32) -> Option<&Slot> {
        let at = index as usize;
        self.chunks.get(at / CHUNK)?.get(at % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot> {
        let at = index as usize;
        self.chunks.get_mut(at / CHUNK)?.get_mut(at % CHUNK)
    }

    /// Stores `entry`.
    pub(crate) fn insert(&mut self, entry: Entry) -> EntryId {
        if self.free == 0 {
            self.grow();
        }
        let index = self.free.saturating_sub(1);
        let (mut generation, mut next) = (NonZeroU32::MIN, 0);
        if let Some(slot) = self.slot_mut(index) {
            slot.entry = Some(entry);
            generation = slot.generation;
            next = core::mem::take(&mut slot.nodes[0].next);
        }
        self.free = next;
        EntryId { generation, index }
    }

    fn grow(&mut self) {
        let base = (self.chunks.len() * CHUNK) as u32;
        let chunk = (1..=CHUNK as u32).map(|i| {
            let mut nodes = [Node::default(); 2];
            if i < CHUNK as u32 {
                nodes[0].next = base.wrapping_add(i + 1);
            }
            Slot {
                generation: NonZeroU32::MIN,
                nodes,
                timer: TimerNode::default(),
                entry: None,
            }
        });
        self.chunks.push(chunk.collect());
        self.free = base.wrapping_add(1);
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
        let slot = self.slot_mut(id.index)?;
        if slot.generation != id.generation {
            return None;
        }
        slot.entry.as_mut()
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

    /// Places for entries, used or not.
    pub(crate) fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// All entries, unconfirmed and dying ones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (EntryId, &Entry)> {
        (0..self.slots()).filter_map(|index| self.at(index))
    }
}
