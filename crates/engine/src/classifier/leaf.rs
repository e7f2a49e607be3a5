//! Leaves: a few rules each, with what sorts most of them out at a glance.
//!
//! All leaves lie in one list. A leaf is a head with its length and its capacity, and
//! entries in the order of rules. An entry is a rule's slot and an interval of what each of
//! the tree's views sees: the same for all leaves, so that a packet is seen only once. It
//! tells, too, whether to lie in the intervals is all that the rule wants.

use tidegate_ir::Rules;

use super::key::{ALL, Bounds, Key, enclose, lies_in};

/// Lenses of all leaves; as many as addresses in two halves, ports and a protocol need.
pub(super) const VIEWS: usize = 7;
/// Numbers of an entry.
const LANES: usize = 2 + 2 * VIEWS;
/// Beside the upper half of a slot, which never reaches so far.
const CERTAIN: u16 = 1 << 15;
/// Those that are compared first, all at once.
const FIRST: usize = 8;
/// Entries in a block of a pile.
pub(super) const BLOCK: usize = 64;

/// A rule's slot and where its packets lie. All numbers can be compared with a packet's at
/// once.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Entry([u16; LANES]);

impl Entry {
    const NONE: Entry = Entry([0; LANES]);

    pub(super) fn new(slot: u32, bounds: [Bounds; VIEWS], certain: bool) -> Entry {
        let mut lanes = [0; LANES];
        lanes[1] = u16::from(certain) * CERTAIN;
        lanes[2..].copy_from_slice(bounds.as_flattened());
        let mut entry = Entry(lanes);
        entry.set_slot(slot);
        entry
    }

    #[inline]
    pub(super) fn slot(&self) -> u32 {
        u32::from(self.0[0]) | u32::from(self.0[1] & !CERTAIN) << 16
    }

    /// Whether the rule applies to every packet in the intervals that no guard drops and
    /// that is no later fragment.
    #[inline]
    pub(super) fn is_certain(&self) -> bool {
        self.0[1] & CERTAIN != 0
    }

    fn set_slot(&mut self, slot: u32) {
        self.0[0] = slot as u16;
        self.0[1] = self.0[1] & CERTAIN | (slot >> 16) as u16;
    }

    /// The smallest entry that encloses both, under this one's slot.
    fn enclose(&self, other: &Entry) -> Entry {
        let mut hull = Entry(enclose(self.0, other.0));
        hull.set_slot(self.slot());
        hull
    }
}

/// The smallest entry that encloses some; its slot is the first one's.
fn hull_of(entries: &[Entry]) -> Entry {
    let none = Entry::new(0, [ALL; VIEWS], false);
    let first = entries.first().copied().unwrap_or(none);
    entries.iter().fold(first, |hull, e| hull.enclose(e))
}

/// What the views see of a packet.
#[derive(Clone, Debug)]
#[repr(align(32))]
pub(super) struct Seen([u16; LANES]);

impl Seen {
    /// Before it has seen anything; later every slot lies in.
    pub(super) const NOTHING: Seen = Seen([0; LANES]);

    /// Sees a packet, unless it has done so already: many look-ups meet no leaf.
    #[inline]
    pub(super) fn look(&mut self, views: &[u8; VIEWS], key: &Key) -> &Seen {
        if self.0[0] == 0 {
            (self.0[0], self.0[1]) = (u16::MAX, u16::MAX);
            let seen = views.map(|lens| key.seen(lens));
            self.0[2..].copy_from_slice(seen.as_flattened());
        }
        self
    }

    /// The most telling intervals stop nearly all packets.
    #[inline]
    fn lies_in(&self, entry: &Entry) -> bool {
        let (seen, more) = self.0.split_at(FIRST);
        let (first, others) = entry.0.split_at(FIRST);
        lies_in(seen, first) && lies_in(more, others)
    }

    /// The first of some entries that the packet may lie in. Not inlined: what is seen
    /// must be in memory for all of an entry to be compared at once.
    #[inline(never)]
    pub(super) fn first(&self, entries: &[Entry]) -> Option<usize> {
        entries.iter().position(|entry| self.lies_in(entry))
    }
}

/// Many rules that no cut keeps apart: leaves in the order of rules, each under an entry
/// that encloses its own.
#[derive(Debug, Default)]
pub(super) struct Pile {
    hulls: Vec<Entry>,
    leaves: Vec<u32>,
    len: usize,
}

impl Pile {
    /// What encloses each leaf.
    #[inline]
    pub(super) fn hulls(&self) -> &[Entry] {
        &self.hulls
    }

    #[inline]
    pub(super) fn leaves(&self) -> &[u32] {
        &self.leaves
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// All leaves of a tree.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    entries: Vec<Entry>,
    /// Leaves that are not used any more, by capacity.
    unused: Vec<Vec<u32>>,
    /// Places of single entries that are not used any more.
    unused_alone: Vec<u32>,
    piles: Vec<Pile>,
    unused_piles: Vec<u32>,
}

impl Leaves {
    #[inline]
    pub(super) fn get(&self, at: u32) -> &[Entry] {
        let at = at as usize;
        &self.entries[at + 1..][..usize::from(self.entries[at].0[0])]
    }

    /// A new leaf; `room` for more entries than it has.
    pub(super) fn add(&mut self, entries: &[Entry], room: usize) -> u32 {
        let capacity = entries.len() + room;
        let reused = self.unused.get_mut(capacity).and_then(Vec::pop);
        let at = reused.unwrap_or_else(|| {
            let at = self.entries.len();
            self.entries.resize(at + 1 + capacity, Entry::NONE);
            at as u32
        });
        let from = at as usize;
        let head = &mut self.entries[from].0;
        (head[0], head[1]) = (entries.len() as u16, capacity as u16);
        self.entries[from + 1..][..entries.len()].copy_from_slice(entries);
        at
    }

    /// An entry that stands alone.
    #[inline]
    pub(super) fn alone(&self, at: u32) -> &[Entry] {
        std::slice::from_ref(&self.entries[at as usize])
    }

    /// Puts an entry somewhere alone.
    pub(super) fn add_alone(&mut self, entry: Entry) -> u32 {
        if let Some(at) = self.unused_alone.pop() {
            self.entries[at as usize] = entry;
            return at;
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    /// Gives the place of an entry back that stood alone.
    pub(super) fn free_alone(&mut self, at: u32) {
        self.unused_alone.push(at);
    }

    /// Gives an entry that stands alone another slot.
    pub(super) fn renumber_alone(&mut self, at: u32, new: u32) {
        self.entries[at as usize].set_slot(new);
    }

    /// Gives memory back that is not used, but for some that edits will use.
    pub(super) fn trim(&mut self) {
        let len = self.entries.len();
        self.entries.shrink_to(len + len / 64);
    }

    /// Gives a leaf's entries back.
    pub(super) fn free(&mut self, at: u32) {
        let capacity = usize::from(self.entries[at as usize].0[1]);
        if self.unused.len() <= capacity {
            self.unused.resize_with(capacity + 1, Vec::new);
        }
        self.unused[capacity].push(at);
    }

    /// Puts an entry in its place; returns where the leaf is now.
    pub(super) fn insert(&mut self, at: u32, entry: Entry, rules: &Rules) -> u32 {
        let leaf = self.get(at);
        let slot = entry.slot();
        let key = rules.key(slot);
        let before = leaf.partition_point(|e| rules.key(e.slot()) < key);
        if leaf.get(before).is_some_and(|e| e.slot() == slot) {
            return at;
        }
        let from = at as usize;
        let [len, capacity, ..] = self.entries[from].0;
        if len < capacity {
            self.entries[from].0[0] += 1;
            let start = from + 1 + before;
            let end = from + 1 + usize::from(len);
            self.entries.copy_within(start..end, start + 1);
            self.entries[start] = entry;
            return at;
        }
        let mut entries = leaf.to_vec();
        entries.insert(before, entry);
        self.free(at);
        // Capacities of few kinds, so that what is freed can be used again.
        let room = entries.len().next_multiple_of(8) - entries.len();
        self.add(&entries, room)
    }

    /// Takes out the entry of a slot; whether there was one.
    pub(super) fn remove(&mut self, at: u32, slot: u32) -> bool {
        let Some(i) = self.get(at).iter().position(|e| e.slot() == slot) else {
            return false;
        };
        let from = at as usize;
        let len = usize::from(self.entries[from].0[0]);
        let start = from + 1 + i;
        self.entries.copy_within(start + 1..=from + len, start);
        self.entries[from].0[0] -= 1;
        true
    }

    /// Gives a slot's entry another slot; whether there was one.
    pub(super) fn renumber(&mut self, at: u32, old: u32, new: u32) -> bool {
        let Some(i) = self.get(at).iter().position(|e| e.slot() == old) else {
            return false;
        };
        self.entries[at as usize + 1 + i].set_slot(new);
        true
    }

    #[inline]
    pub(super) fn pile(&self, number: u32) -> Option<&Pile> {
        self.piles.get(number as usize)
    }

    /// A new pile.
    pub(super) fn add_pile(&mut self, entries: &[Entry]) -> u32 {
        let blocks = entries.chunks(BLOCK);
        let pile = Pile {
            hulls: blocks.clone().map(hull_of).collect(),
            leaves: blocks.map(|block| self.add(block, 0)).collect(),
            len: entries.len(),
        };
        match self.unused_piles.pop() {
            Some(number) => {
                self.piles[number as usize] = pile;
                number
            }
            None => {
                self.piles.push(pile);
                (self.piles.len() - 1) as u32
            }
        }
    }

    /// Gives a pile back with its leaves.
    pub(super) fn free_pile(&mut self, number: u32) {
        let pile = std::mem::take(&mut self.piles[number as usize]);
        for at in pile.leaves {
            self.free(at);
        }
        self.unused_piles.push(number);
    }

    /// The block of a pile where a rule's entry is or belongs.
    fn block_of(&self, number: u32, slot: u32, rules: &Rules) -> usize {
        let key = rules.key(slot);
        let hulls = &self.piles[number as usize].hulls;
        let after = hulls.partition_point(|hull| rules.key(hull.slot()) <= key);
        after.saturating_sub(1)
    }

    /// Puts an entry in its place in a pile.
    pub(super) fn insert_in_pile(&mut self, number: u32, entry: Entry, rules: &Rules) {
        let block = self.block_of(number, entry.slot(), rules);
        let pile = &self.piles[number as usize];
        let (hull, at) = (pile.hulls[block].enclose(&entry), pile.leaves[block]);
        let at = self.insert(at, entry, rules);
        let (mut hulls, mut leaves) = (vec![hull], vec![at]);
        if self.get(at).len() > BLOCK {
            let entries = self.get(at).to_vec();
            self.free(at);
            let halves = entries.chunks(BLOCK / 2 + 1);
            hulls = halves.clone().map(hull_of).collect();
            leaves = halves.map(|h| self.add(h, BLOCK - h.len())).collect();
        }
        let pile = &mut self.piles[number as usize];
        pile.hulls.splice(block..=block, hulls);
        pile.leaves.splice(block..=block, leaves);
        pile.len += 1;
        self.first_of_block(number, block);
    }

    /// Brings the slot of a block's hull up to date, or forgets an empty block.
    fn first_of_block(&mut self, number: u32, block: usize) {
        let at = self.piles[number as usize].leaves[block];
        let first = self.get(at).first().map(Entry::slot);
        let pile = &mut self.piles[number as usize];
        if let Some(first) = first {
            pile.hulls[block].set_slot(first);
        } else {
            pile.hulls.remove(block);
            pile.leaves.remove(block);
            self.free(at);
        }
    }

    /// Takes an entry out of a pile; whether it was there.
    pub(super) fn remove_from_pile(&mut self, number: u32, slot: u32, rules: &Rules) -> bool {
        let block = self.block_of(number, slot, rules);
        let Some(&at) = self.piles[number as usize].leaves.get(block) else {
            return false;
        };
        let removed = self.remove(at, slot);
        self.piles[number as usize].len -= usize::from(removed);
        self.first_of_block(number, block);
        removed
    }

    /// Gives an entry in a pile another slot; whether it was there.
    pub(super) fn renumber_in_pile(
        &mut self,
        number: u32,
        (old, new): (u32, u32),
        rules: &Rules,
    ) -> bool {
        let block = self.block_of(number, old, rules);
        let Some(&at) = self.piles[number as usize].leaves.get(block) else {
            return false;
        };
        let found = self.renumber(at, old, new);
        self.first_of_block(number, block);
        found
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let hulls: usize = self.piles.iter().map(|p| p.hulls.capacity()).sum();
        let leaves: usize = self.piles.iter().map(|p| p.leaves.capacity()).sum();
        let unused: usize = self.unused.iter().map(Vec::capacity).sum();
        let unused = unused + self.unused_alone.capacity();
        (self.entries.capacity() + hulls) * size_of::<Entry>()
            + (leaves + unused) * size_of::<u32>()
    }
}
