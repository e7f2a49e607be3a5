//! Leaves: a few rules each, with what sorts most of them out at a glance.
//!
//! All leaves lie in one list of words. A leaf is a word with its length and capacity, a
//! word with its four lenses, and entries in the order of rules. An entry is a rule's
//! slot, an interval of what the first lens sees, and shorter ones for the other three.

use tidegate_ir::Rules;

use super::key::{BLIND, Key, LENSES};

/// Lenses of a leaf: one of 32 bits, the others of 16.
pub(super) const VIEWS: usize = 4;
/// Words of an entry.
const ENTRY: usize = 3 + VIEWS - 1;
/// Words before a leaf's entries.
const HEAD: usize = 2;
/// Entries in a block of a pile.
pub(super) const BLOCK: usize = 64;

/// Slot; first interval's ends; each other interval in one word, its high end above.
pub(super) type Entry = [u32; ENTRY];

/// Puts both ends of a 16-bit interval in one word.
pub(super) fn interval(lo: u32, hi: u32) -> u32 {
    lo.min(0xffff) | hi.min(0xffff) << 16
}

/// The smallest entry that encloses both, under the first one's slot.
fn enclose(a: &Entry, b: &Entry) -> Entry {
    let join = |a: u32, b: u32| interval((a & 0xffff).min(b & 0xffff), (a >> 16).max(b >> 16));
    let mut hull = [a[0], a[1].min(b[1]), a[2].max(b[2]), 0, 0, 0];
    for i in 3..ENTRY {
        hull[i] = join(a[i], b[i]);
    }
    hull
}

/// The smallest entry that encloses some; its slot is the first one's.
fn hull_of(entries: &[Entry]) -> Entry {
    let none = [0, u32::MAX, 0, 0xffff, 0xffff, 0xffff];
    let first = entries.first().copied().unwrap_or(none);
    entries.iter().fold(first, |hull, e| enclose(&hull, e))
}

/// What a leaf's lenses see of a packet.
pub(super) struct Seen {
    long: u32,
    short: [u32; VIEWS - 1],
}

impl Seen {
    #[inline]
    pub(super) fn new(lenses: [u8; VIEWS], key: &Key) -> Seen {
        let [long, short @ ..] = lenses.map(|lens| key.seen[usize::from(lens) % LENSES]);
        Seen { long, short }
    }

    #[inline]
    pub(super) fn lies_in(&self, entry: &Entry) -> bool {
        let mut inside = (entry[1] <= self.long) & (self.long <= entry[2]);
        for (interval, seen) in entry[3..].iter().zip(self.short) {
            inside &= (interval & 0xffff <= seen) & (seen <= interval >> 16);
        }
        inside
    }
}

/// One leaf.
#[derive(Clone, Copy)]
pub(super) struct Leaf<'l> {
    lenses: u32,
    entries: &'l [Entry],
}

impl<'l> Leaf<'l> {
    #[inline]
    pub(super) fn entries(&self) -> &'l [Entry] {
        self.entries
    }

    #[inline]
    pub(super) fn lenses(&self) -> [u8; VIEWS] {
        self.lenses.to_le_bytes()
    }
}

/// Many rules that no cut keeps apart: leaves in the order of rules, each under an entry
/// that encloses its own.
#[derive(Debug, Default)]
pub(super) struct Pile {
    blocks: Vec<(Entry, u32)>,
    len: usize,
}

impl Pile {
    #[inline]
    pub(super) fn blocks(&self) -> &[(Entry, u32)] {
        &self.blocks
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// All leaves of a tree.
#[derive(Debug, Default)]
pub(super) struct Leaves {
    words: Vec<u32>,
    /// Leaves that are not used any more, by capacity.
    unused: Vec<Vec<u32>>,
    piles: Vec<Pile>,
    unused_piles: Vec<u32>,
}

impl Leaves {
    #[inline]
    pub(super) fn get(&self, at: u32) -> Leaf<'_> {
        let at = at as usize;
        let len = self.words[at] as usize & 0xffff;
        let entries = &self.words[at + HEAD..][..len * ENTRY];
        Leaf {
            lenses: self.words[at + 1],
            entries: entries.as_chunks().0,
        }
    }

    /// A new leaf; `room` for more entries than it has.
    pub(super) fn add(&mut self, lenses: [u8; VIEWS], entries: &[Entry], room: usize) -> u32 {
        let capacity = entries.len() + room;
        let reused = self.unused.get_mut(capacity).and_then(Vec::pop);
        let at = reused.unwrap_or_else(|| {
            let at = self.words.len();
            self.words.resize(at + HEAD + capacity * ENTRY, 0);
            at as u32
        });
        let from = at as usize;
        self.words[from] = entries.len() as u32 | (capacity as u32) << 16;
        self.words[from + 1] = u32::from_le_bytes(lenses);
        self.words[from + HEAD..][..entries.len() * ENTRY].copy_from_slice(entries.as_flattened());
        at
    }

    /// Gives a leaf's words back.
    pub(super) fn free(&mut self, at: u32) {
        let capacity = (self.words[at as usize] >> 16) as usize;
        if self.unused.len() <= capacity {
            self.unused.resize_with(capacity + 1, Vec::new);
        }
        self.unused[capacity].push(at);
    }

    /// Puts an entry in its place; returns where the leaf is now.
    pub(super) fn insert(&mut self, at: u32, entry: Entry, rules: &Rules) -> u32 {
        let leaf = self.get(at);
        let key = rules.key(entry[0]);
        let before = leaf.entries().partition_point(|e| rules.key(e[0]) < key);
        if leaf.entries().get(before).is_some_and(|e| e[0] == entry[0]) {
            return at;
        }
        let from = at as usize;
        let (len, capacity) = (self.words[from] & 0xffff, self.words[from] >> 16);
        if len < capacity {
            self.words[from] += 1;
            let start = from + HEAD + before * ENTRY;
            let end = from + HEAD + len as usize * ENTRY;
            self.words.copy_within(start..end, start + ENTRY);
            self.words[start..start + ENTRY].copy_from_slice(&entry);
            return at;
        }
        let (lenses, mut entries) = (leaf.lenses(), leaf.entries().to_vec());
        entries.insert(before, entry);
        self.free(at);
        // Capacities of few kinds, so that what is freed can be used again.
        let room = entries.len().next_multiple_of(8) - entries.len();
        self.add(lenses, &entries, room)
    }

    /// Takes out the entry of a slot; whether there was one.
    pub(super) fn remove(&mut self, at: u32, slot: u32) -> bool {
        let Some(i) = self.get(at).entries().iter().position(|e| e[0] == slot) else {
            return false;
        };
        let from = at as usize;
        let len = self.words[from] as usize & 0xffff;
        let start = from + HEAD + i * ENTRY;
        self.words
            .copy_within(start + ENTRY..from + HEAD + len * ENTRY, start);
        self.words[from] -= 1;
        true
    }

    /// Gives a slot's entry another slot; whether there was one.
    pub(super) fn renumber(&mut self, at: u32, old: u32, new: u32) -> bool {
        let Some(i) = self.get(at).entries().iter().position(|e| e[0] == old) else {
            return false;
        };
        self.words[at as usize + HEAD + i * ENTRY] = new;
        true
    }

    #[inline]
    pub(super) fn pile(&self, number: u32) -> Option<&Pile> {
        self.piles.get(number as usize)
    }

    /// A new pile.
    pub(super) fn add_pile(&mut self, lenses: [u8; VIEWS], entries: &[Entry]) -> u32 {
        let mut pile = Pile {
            blocks: Vec::new(),
            len: entries.len(),
        };
        for block in entries.chunks(BLOCK) {
            pile.blocks
                .push((hull_of(block), self.add(lenses, block, 0)));
        }
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
        for (_, at) in pile.blocks {
            self.free(at);
        }
        self.unused_piles.push(number);
    }

    /// The lenses of all leaves of a pile.
    pub(super) fn lenses_of_pile(&self, number: u32) -> [u8; VIEWS] {
        let blocks = &self.piles[number as usize].blocks;
        blocks
            .first()
            .map_or([BLIND; VIEWS], |&(_, at)| self.get(at).lenses())
    }

    /// The block of a pile where a rule's entry is or belongs.
    fn block_of(&self, number: u32, slot: u32, rules: &Rules) -> usize {
        let key = rules.key(slot);
        let blocks = &self.piles[number as usize].blocks;
        let after = blocks.partition_point(|(hull, _)| rules.key(hull[0]) <= key);
        after.saturating_sub(1)
    }

    /// Puts an entry in its place in a pile.
    pub(super) fn insert_in_pile(&mut self, number: u32, entry: Entry, rules: &Rules) {
        let block = self.block_of(number, entry[0], rules);
        let (hull, at) = self.piles[number as usize].blocks[block];
        let mut blocks = vec![(enclose(&hull, &entry), self.insert(at, entry, rules))];
        let leaf = self.get(blocks[0].1);
        if leaf.entries().len() > BLOCK {
            let (lenses, entries) = (leaf.lenses(), leaf.entries().to_vec());
            self.free(blocks[0].1);
            let half = |half: &[Entry]| (hull_of(half), self.add(lenses, half, BLOCK - half.len()));
            blocks = entries.chunks(BLOCK / 2 + 1).map(half).collect();
        }
        let pile = &mut self.piles[number as usize];
        pile.blocks.splice(block..=block, blocks);
        pile.len += 1;
        self.first_of_block(number, block);
    }

    /// Brings the slot of a block's hull up to date, or forgets an empty block.
    fn first_of_block(&mut self, number: u32, block: usize) {
        let at = self.piles[number as usize].blocks[block].1;
        let first = self.get(at).entries().first().map(|e| e[0]);
        let blocks = &mut self.piles[number as usize].blocks;
        if let Some(first) = first {
            blocks[block].0[0] = first;
        } else {
            blocks.remove(block);
            self.free(at);
        }
    }

    /// Takes an entry out of a pile; whether it was there.
    pub(super) fn remove_from_pile(&mut self, number: u32, slot: u32, rules: &Rules) -> bool {
        let block = self.block_of(number, slot, rules);
        let Some(&(_, at)) = self.piles[number as usize].blocks.get(block) else {
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
        let Some(&(_, at)) = self.piles[number as usize].blocks.get(block) else {
            return false;
        };
        let found = self.renumber(at, old, new);
        self.first_of_block(number, block);
        found
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let blocks: usize = self.piles.iter().map(|p| p.blocks.capacity()).sum();
        let unused: usize = self.unused.iter().map(Vec::capacity).sum();
        (self.words.capacity() + unused) * size_of::<u32>() + blocks * size_of::<(Entry, u32)>()
    }
}
