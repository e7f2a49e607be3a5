//! The tree and how a packet goes through it.

use tidegate_ir::{Facts, Rules};
use tidegate_wire::Family;

use super::key::{DIMS, Dim, Key, LENSES, Lens, WIDE, hash_narrow, hash_wide, lies_in};
use super::leaf::{Entry, Leaves, Seen, VIEWS};

/// Cuts of one node.
pub(super) const CUTS: usize = 4;
/// Cells in one bucket.
const CELLS: usize = 3;

/// Lenses of one cell.
pub(super) const FILTERS: usize = 2;
/// Bits of a lens' number.
const LENS: usize = LENSES.trailing_zeros() as usize;

/// A part of the tree, in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child(u32);

/// What a [`Child`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// A single rule, by its slot.
    Rule(u32),
    /// A single rule, by where its entry is.
    Entry(u32),
    /// A few rules: where their leaf is.
    Leaf(u32),
    /// A node's number.
    Node(u32),
    /// Rules that nothing keeps apart: the number of their pile.
    Pile(u32),
}

impl Child {
    /// No rules.
    pub(super) const NONE: Child = Child(u32::MAX);
    const NUMBER: u32 = u32::MAX >> 3;

    pub(super) fn new(part: Part) -> Child {
        let (kind, number) = match part {
            Part::Rule(n) => (0, n),
            Part::Entry(n) => (1, n),
            Part::Leaf(n) => (2, n),
            Part::Node(n) => (3, n),
            Part::Pile(n) => (4, n),
        };
        debug_assert!(number < Child::NUMBER);
        Child(kind << 29 | number)
    }

    #[inline]
    pub(super) fn part(self) -> Part {
        let number = self.0 & Child::NUMBER;
        match self.0 >> 29 {
            0 => Part::Rule(number),
            1 => Part::Entry(number),
            2 => Part::Leaf(number),
            3 => Part::Node(number),
            _ => Part::Pile(number),
        }
    }
}

/// Rules whose value of a cut's field agrees in the bits of the cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) child: Child,
    /// The slot of its first rule.
    pub(super) first: u32,
    /// Where what the cell's lenses see of a packet lies, or none of the rules applies.
    pub(super) bounds: [u16; 2 * FILTERS],
}

/// As many cells as one cache line holds.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Bucket {
    pub(super) cells: [Cell; CELLS],
    /// Hashes of the cells' cuts and values; 0 where there is no cell. What has the same
    /// hash shares a cell.
    pub(super) tags: [u32; CELLS],
    /// The numbers of the cells' lenses. Above them stands whether cells that belong here
    /// may stand in the next bucket.
    lenses: u32,
}

/// Cells that belong in a bucket may stand in the next one.
const MORE: u32 = 1 << 31;

impl Bucket {
    pub(super) const EMPTY: Bucket = Bucket {
        cells: [Cell {
            child: Child::NONE,
            first: 0,
            bounds: [0; 2 * FILTERS],
        }; CELLS],
        tags: [0; CELLS],
        lenses: 0,
    };

    /// The lenses of a cell.
    #[inline]
    pub(super) fn lenses(&self, cell: usize) -> [u8; FILTERS] {
        let own = self.lenses >> (cell % CELLS * FILTERS * LENS);
        std::array::from_fn(|i| (own >> (i * LENS)) as u8 % LENSES as u8)
    }

    fn set_lenses(&mut self, cell: usize, lenses: [u8; FILTERS]) {
        for (i, lens) in lenses.into_iter().enumerate() {
            let at = (cell * FILTERS + i) * LENS;
            self.lenses &= !((LENSES as u32 - 1) << at);
            self.lenses |= u32::from(lens) << at;
        }
    }

    /// Whether cells that belong here may stand in the next bucket.
    #[inline]
    pub(super) fn runs_over(&self) -> bool {
        self.lenses & MORE != 0
    }

    /// Whether a packet can be one of a cell's.
    #[inline]
    fn admits(&self, cell: usize, key: &Key) -> bool {
        let [a, b] = self.lenses(cell).map(|lens| key.seen(lens));
        lies_in(&[a[0], a[1], b[0], b[1]], &self.cells[cell].bounds)
    }

    /// Where the cell of a hash is.
    #[inline]
    pub(super) fn find(&self, hash: u32) -> Option<usize> {
        let [a, b, c] = self.tags.map(|tag| tag == hash);
        (a | b | c).then_some(usize::from(b) + 2 * usize::from(c))
    }

    /// The cells there are, with their hashes and lenses.
    pub(super) fn used(&self) -> impl Iterator<Item = (u32, [u8; FILTERS], &Cell)> {
        let all = self.tags.iter().zip(&self.cells).enumerate();
        let used = all.filter(|(_, (tag, _))| **tag != 0);
        used.map(|(i, (&tag, cell))| (tag, self.lenses(i), cell))
    }
}

/// Bits of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Which bits of a narrow field, or the number of the mask of a wide one.
    pub(super) mask: u32,
    pub(super) dim: u8,
    /// Where the key has the value of a wide field.
    pub(super) wide: Option<u8>,
}

impl Cut {
    pub(super) const NONE: Cut = Cut {
        mask: 0,
        dim: 0,
        wide: None,
    };
}

/// Rules sorted by up to four cuts. A rule belongs to the first cut whose bits it fixes,
/// and there to the cell (sometimes cells) of its value.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Node {
    /// A hash table of the cells of all cuts.
    pub(super) buckets: Box<[Bucket]>,
    pub(super) cuts: [Cut; CUTS],
    /// How many cuts there are.
    pub(super) count: u8,
    /// Rules that fix no cut's bits, and the slot of their first.
    pub(super) rest: Child,
    pub(super) rest_first: u32,
    /// Cells in use.
    pub(super) used: u32,
}

impl Node {
    pub(super) fn new(cuts: &[Cut], buckets: usize) -> Node {
        Node {
            buckets: vec![Bucket::EMPTY; buckets.max(1)].into(),
            cuts: std::array::from_fn(|i| cuts.get(i).copied().unwrap_or(Cut::NONE)),
            count: cuts.len().min(CUTS) as u8,
            rest: Child::NONE,
            rest_first: 0,
            used: 0,
        }
    }

    #[inline]
    pub(super) fn cuts(&self) -> &[Cut] {
        &self.cuts[..usize::from(self.count).min(CUTS)]
    }

    /// Where the cell of a hash belongs.
    #[inline]
    pub(super) fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    pub(super) fn after(&self, bucket: usize) -> usize {
        let next = bucket + 1;
        if next == self.buckets.len() { 0 } else { next }
    }

    /// Where the cell of a hash is, if there is one: bucket and place. Cells may have been
    /// taken out since the buckets ran over, so that every bucket may point to the next.
    #[inline]
    pub(super) fn find(&self, hash: u32) -> Option<(usize, usize)> {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            if let Some(i) = bucket.find(hash) {
                return Some((at, i));
            }
            if !bucket.runs_over() {
                return None;
            }
            at = self.after(at);
        }
        None
    }

    /// Puts a cell where it belongs or as near behind as there is room.
    pub(super) fn place(&mut self, hash: u32, lenses: [u8; FILTERS], cell: Cell) {
        if self.used as usize >= self.buckets.len() * CELLS {
            self.resize(self.buckets.len() * 2);
        }
        let mut at = self.home(hash);
        loop {
            let bucket = &mut self.buckets[at];
            if let Some(i) = bucket.tags.iter().position(|&t| t == 0) {
                (bucket.tags[i], bucket.cells[i]) = (hash, cell);
                bucket.set_lenses(i, lenses);
                self.used += 1;
                return;
            }
            bucket.lenses |= MORE;
            at = self.after(at);
        }
    }

    /// Gives the node another number of buckets, which must have room for all cells.
    pub(super) fn resize(&mut self, buckets: usize) {
        let new = vec![Bucket::EMPTY; buckets.max(1)].into();
        let old = std::mem::replace(&mut self.buckets, new);
        self.used = 0;
        for (hash, lenses, cell) in old.iter().flat_map(Bucket::used) {
            self.place(hash, lenses, *cell);
        }
    }
}

/// A decision tree over rules, in which every rule has its own place.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) dims: Vec<Dim>,
    pub(super) lenses: Vec<Lens>,
    /// The numbers of those that serve all leaves, the most telling first.
    pub(super) views: [u8; VIEWS],
    /// Bits of cuts through wide fields, and of what lenses see of them.
    pub(super) masks: Vec<u128>,
    pub(super) nodes: Vec<Node>,
    pub(super) unused_nodes: Vec<u32>,
    pub(super) leaves: Leaves,
    pub(super) root: Child,
    pub(super) family: Family,
    /// Makes the places of cells hard to foretell.
    pub(super) seed: u64,
}

/// A rule that may apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: u32,
    pub(super) slot: u32,
    /// It does apply, unless a guard drops the packet or it is a later fragment.
    pub(super) certain: bool,
}

impl Found {
    const NOTHING: Found = Found {
        key: u32::MAX,
        slot: u32::MAX,
        certain: false,
    };
}

/// One look-up.
struct Search<'s> {
    key: &'s Key,
    /// What leaves' lenses see.
    seen: Seen,
    rules: &'s Rules,
    /// The least key of a rule that is wanted.
    from: u32,
    /// The first rule found so far.
    best: Found,
}

impl Search<'_> {
    #[inline]
    fn offer(&mut self, slot: u32) {
        let key = self.rules.key(slot);
        if key >= self.from && key < self.best.key {
            self.best = Found {
                key,
                slot,
                certain: false,
            };
        }
    }
}

impl Tree {
    /// The first rule with key `from` or more that may do something.
    #[inline]
    pub(super) fn find(&self, rules: &Rules, from: u32, facts: &mut impl Facts) -> Option<Found> {
        if self.root == Child::NONE {
            return None;
        }
        let mut key = Key::EMPTY;
        key.fill(&self.dims, &self.lenses, &self.masks, facts);
        let mut search = Search {
            key: &key,
            seen: Seen::NOTHING,
            rules,
            from,
            best: Found::NOTHING,
        };
        self.visit(self.root, &mut search);
        (search.best != Found::NOTHING).then_some(search.best)
    }

    #[inline]
    fn visit(&self, child: Child, search: &mut Search<'_>) {
        match child.part() {
            Part::Rule(slot) => search.offer(slot),
            Part::Entry(at) => self.entries(self.leaves.alone(at), search),
            Part::Leaf(at) => self.entries(self.leaves.get(at), search),
            Part::Node(number) => self.node(number, search),
            Part::Pile(number) => self.pile(number, search),
        }
    }

    #[inline]
    pub(super) fn hash(&self, cut: &Cut, narrow: u32, wide: u128) -> u32 {
        let salt = u64::from(cut.dim).wrapping_mul(0xa076_1d64_78bd_642f) ^ self.seed;
        if cut.wide.is_none() {
            return hash_narrow(narrow, cut.mask, salt);
        }
        let mask = self.masks.get(cut.mask as usize).copied().unwrap_or(0);
        let salt = salt ^ u64::from(cut.mask).wrapping_mul(0xe703_7ed1_a0b4_28db);
        hash_wide(wide & mask, salt)
    }

    /// Looks all cuts up before it follows any, so that memory is asked for all cells at
    /// once; then takes the ones found by their first rules, until these come too late.
    fn node(&self, number: u32, search: &mut Search<'_>) {
        const ROOM: usize = 8;
        let node = &self.nodes[number as usize];
        let key = search.key;
        let mut found = [(0, Child::NONE); ROOM];
        found[0] = (node.rest_first, node.rest);
        let mut count = usize::from(node.rest != Child::NONE);
        for cut in node.cuts() {
            let narrow = key.narrow[usize::from(cut.dim) % DIMS];
            let wide = key.wide[usize::from(cut.wide.unwrap_or(0)) % WIDE];
            let hash = self.hash(cut, narrow, wide);
            if let Some((at, i)) = node.find(hash) {
                let bucket = &node.buckets[at];
                let Cell { first, child, .. } = bucket.cells[i];
                found[count % ROOM] = (first, child);
                count += usize::from(bucket.admits(i, key));
            }
        }
        for found in &mut found[..count] {
            found.0 = search.rules.key(found.0);
        }
        while count > 0 {
            let mut least = 0;
            for i in 1..count {
                least = if found[i].0 < found[least].0 {
                    i
                } else {
                    least
                };
            }
            let (first, child) = found[least];
            if first >= search.best.key {
                return;
            }
            self.visit(child, search);
            count -= 1;
            found[least] = found[count];
        }
    }

    #[inline]
    fn entries(&self, mut entries: &[Entry], search: &mut Search<'_>) {
        let seen = search.seen.look(&self.views, search.key);
        while let Some(i) = seen.first(entries) {
            let slot = entries[i].slot();
            let key = search.rules.key(slot);
            if key >= search.from {
                if key < search.best.key {
                    let certain = entries[i].is_certain();
                    search.best = Found { key, slot, certain };
                }
                return;
            }
            entries = &entries[i + 1..];
        }
    }

    /// Goes through a pile block by block.
    fn pile(&self, number: u32, search: &mut Search<'_>) {
        let Some(pile) = self.leaves.pile(number) else {
            return;
        };
        let rules = search.rules;
        let before = |from| {
            pile.hulls()
                .partition_point(|h| rules.key(h.slot()) <= from)
        };
        let mut at = before(search.from).saturating_sub(1);
        loop {
            let seen = search.seen.look(&self.views, search.key);
            let Some(i) = seen.first(&pile.hulls()[at..]) else {
                return;
            };
            at += i;
            if rules.key(pile.hulls()[at].slot()) >= search.best.key {
                return;
            }
            self.entries(self.leaves.get(pile.leaves()[at]), search);
            at += 1;
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        let buckets: usize = self.nodes.iter().map(|n| n.buckets.len()).sum();
        self.leaves.bytes()
            + self.nodes.capacity() * size_of::<Node>()
            + buckets * size_of::<Bucket>()
    }
}
