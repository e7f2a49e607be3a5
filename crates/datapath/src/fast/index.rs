//! The index of flows, which programs look through and this side alone writes.
//!
//! It is as large as its flows need. While it grows, a pair of buckets at a time, programs go on
//! reading the smaller one, and what changes there changes in what has been copied.

use std::sync::Arc;

use tidegate_ebpf::layout::{
    BUCKET, CROWDED, FEWEST, HASH, KEY, Mix, SPILLED, Slot, buckets, entries, global, mix,
};
use tidegate_engine::conntrack::Dir;
use tidegate_sys::SharedWords;

/// The flows of connections by their keys.
pub(crate) struct Index {
    slots: SharedWords,
    globals: Arc<SharedWords>,
    secret: [u64; HASH],
    places: u32,
    /// What programs look through.
    used: Buckets,
    /// What they will, and how many pairs of buckets have been copied.
    growing: Option<(Buckets, u32)>,
    /// By place and direction, of the key that is in the index.
    mixes: Vec<[Mix; 2]>,
}

/// Buckets that are in use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Buckets {
    /// A power of two.
    count: u32,
    flows: usize,
    /// Flows in the second of their buckets.
    spilled: usize,
}

impl Buckets {
    fn of(count: u32) -> Self {
        Buckets {
            count,
            ..Buckets::default()
        }
    }
}

/// Words of 64 bits that the index of so many places takes.
pub(crate) fn words(places: u32) -> usize {
    entries(places) as usize * BUCKET / 2
}

impl Index {
    /// The index in `slots`, all of which are empty.
    pub(crate) fn new(
        slots: SharedWords,
        globals: Arc<SharedWords>,
        (secret, places): ([u64; HASH], u32),
    ) -> Self {
        let index = Index {
            slots,
            globals,
            secret,
            places,
            used: Buckets::of(FEWEST),
            growing: None,
            mixes: Vec::new(),
        };
        index.tell();
        index
    }

    /// Puts a flow in, instead of one with the same key that is `before`'s. Where there is no
    /// room, its packets go on coming up.
    pub(super) fn add(&mut self, key: &[u8; KEY], whose: (u32, Dir), before: Option<u32>) {
        let slot = self.slot(key, whose);
        let place = whose.0 as usize;
        if self.mixes.len() <= place {
            self.mixes.resize(place + 1, [Mix::default(); 2]);
        }
        self.mixes[place][whose.1 as usize] = slot.mix;
        self.each(&slot, |index, table| index.put(table, &slot, before));
        self.grow();
        self.tell();
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, key: &[u8; KEY], whose: (u32, Dir)) {
        let slot = self.slot(key, whose);
        self.each(&slot, |index, table| index.take(table, &slot));
        self.grow();
        self.tell();
    }

    fn slot(&self, key: &[u8; KEY], (place, dir): (u32, Dir)) -> Slot {
        let mix = mix(&self.secret, key);
        Slot { place, dir, mix }
    }

    /// Changes what programs look through, and the copy if it has the slot's buckets.
    fn each(&mut self, slot: &Slot, change: impl Fn(&Self, &mut Buckets)) {
        let [first, _] = slot.buckets(self.used.count);
        let pair = (first - self.used.count) / 2;
        let mut used = self.used;
        change(self, &mut used);
        self.used = used;
        if let Some((mut copy, done)) = self.growing
            && pair < done
        {
            change(self, &mut copy);
            self.growing = Some((copy, done));
        }
    }

    fn put(&self, buckets: &mut Buckets, slot: &Slot, before: Option<u32>) {
        let ours = slot.buckets(buckets.count).map(bucket);
        let places = self.places;
        let is_before =
            |word: u32| slot.is_like(word, places) && Some(Slot::whose(word, places).0) == before;
        let mut all = ours.clone().into_iter().flatten();
        if let Some(at) = all.find(|at| is_before(self.load(*at))) {
            self.store(at, slot.word(places));
            return;
        }
        for (second, bucket) in ours.into_iter().enumerate() {
            if bucket.clone().any(|at| slot.is_like(self.load(at), places)) {
                continue;
            }
            let home = bucket.start + slot.home();
            let mut all = std::iter::once(home).chain(bucket);
            if let Some(at) = all.find(|at| self.load(*at) == 0) {
                buckets.flows += 1;
                buckets.spilled += second;
                self.store(at, slot.word(places));
                return;
            }
        }
    }

    fn take(&self, buckets: &mut Buckets, slot: &Slot) {
        let ours = slot.buckets(buckets.count).map(bucket);
        for (second, mut bucket) in ours.into_iter().enumerate() {
            // In neither when there was no room.
            if let Some(at) = bucket.find(|at| self.load(*at) == slot.word(self.places)) {
                buckets.flows -= 1;
                buckets.spilled -= second;
                self.store(at, 0);
                return;
            }
        }
    }

    /// Begins to grow where it is crowded, or copies a pair of buckets.
    fn grow(&mut self) {
        let crowded = self.used.flows > CROWDED * self.used.count as usize;
        let Some((mut copy, pair)) = self.growing else {
            if crowded && self.used.count < buckets(self.places) {
                self.growing = Some((Buckets::of(self.used.count * 2), 0));
            }
            return;
        };
        let first = self.used.count + 2 * pair;
        for at in [first, first + 1].map(bucket).into_iter().flatten() {
            let word = self.load(at);
            if word == 0 {
                continue;
            }
            let (place, dir) = Slot::whose(word, self.places);
            let mix = self.mixes[place as usize][dir as usize];
            self.put(&mut copy, &Slot { place, dir, mix }, None);
        }
        self.growing = Some((copy, pair + 1));
        if pair + 1 == self.used.count / 2 {
            self.used = copy;
            self.growing = None;
        }
    }

    /// Tells programs where to look.
    fn tell(&self) {
        let spilled = if self.used.spilled > 0 { SPILLED } else { 0 };
        let said = u64::from(self.used.count - 1) | spilled;
        if self.globals.load(global::LAST_BUCKET) != said {
            self.globals.store(global::LAST_BUCKET, said);
        }
    }

    fn load(&self, at: usize) -> u32 {
        halves(self.slots.load(at / 2))[at % 2]
    }

    fn store(&self, at: usize, word: u32) {
        let mut both = halves(self.slots.load(at / 2));
        both[at % 2] = word;
        let [[a, b, c, d], [e, f, g, h]] = both.map(u32::to_ne_bytes);
        let both = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        self.slots.store(at / 2, both);
    }
}

/// The slots of a bucket.
fn bucket(bucket: u32) -> std::ops::Range<usize> {
    let first = bucket as usize * BUCKET;
    first..first + BUCKET
}

/// Two slots as they follow each other in memory.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests;
