//! The index of flows: a hash table that user space alone writes.
//!
//! It is as dense as it can be, so that the processor's cache has it: of thousands of flows each
//! packet would wait for memory otherwise. A slot has four bytes, a bucket is a line of the cache,
//! and there are as many buckets as the flows need; see [`FLOWS`].

use tidegate_conntrack::Dir;

use super::{FLOWS, KEY};

/// Slots of a bucket.
pub const BUCKET: usize = 16;
/// Words of a hash's secret: one for each four bytes of a key.
pub const HASH: usize = KEY / 4;

/// What the index needs to know of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mix {
    /// Of [`MIX_INDEX`]; its low bits are the bucket's number.
    bucket: u32,
    /// Of [`MIX_TAG`]; its high bits are in the slot, and [`MIX_HOME`] are some of the others.
    tag: u32,
}

/// Where bucket and tag are in a sum.
pub(crate) const MIX_INDEX: i32 = 40;
pub(crate) const MIX_TAG: i32 = 8;
/// And the slot of a bucket that comes first.
pub(crate) const MIX_HOME: i32 = 18;

/// What a sum is multiplied by once its halves are mixed.
pub(crate) const MIX_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// A multilinear hash: without the secret nobody finds keys that share a bucket. The sums of
/// keys that differ in a few bits are as regular as the keys, so they are stirred once more.
#[must_use]
pub fn mix(secret: &[u64; HASH], key: &[u8; KEY]) -> Mix {
    let word = |b: &[u8]| u64::from(u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    let products = key.chunks_exact(4).zip(secret);
    let sum = products.fold(0u64, |sum, (bytes, factor)| {
        sum.wrapping_add(word(bytes).wrapping_mul(*factor))
    });
    let sum = (sum ^ sum >> 32).wrapping_mul(MIX_FACTOR);
    Mix {
        bucket: (sum >> MIX_INDEX) as u32,
        tag: (sum >> MIX_TAG) as u32,
    }
}

/// Most buckets that are in use for the flows of `places` connections, two each.
#[must_use]
pub const fn buckets(places: u32) -> u32 {
    let places = if places < MOST_PLACES {
        places
    } else {
        MOST_PLACES
    };
    let most = places.next_power_of_two() * 2 / CROWDED as u32;
    if most > FEWEST { most } else { FEWEST }
}

/// Entries of [`FLOWS`] then: those buckets, and before them those of the smaller tables.
#[must_use]
pub const fn entries(places: u32) -> u32 {
    2 * buckets(places)
}

/// So many buckets the index begins with.
pub const FEWEST: u32 = 32;
/// With more flows for each bucket, twice as many buckets are taken: of fewer, hardly any finds
/// both of its buckets full.
pub const CROWDED: usize = BUCKET / 2;

/// What [`super::global::LAST_BUCKET`] says beside the number: some flows are in the second of
/// their buckets.
pub const SPILLED: u64 = 1 << 63;

/// Most places that a slot can tell apart, with some bits left for a tag.
pub const MOST_PLACES: u32 = 1 << 24;

/// Bits of a slot that say whose it is. The others are the tag, whose lowest bit is set, so that
/// no slot is 0 but an empty one.
pub(crate) fn whose_bits(places: u32) -> u32 {
    places.min(MOST_PLACES).next_power_of_two().ilog2() + 1
}

/// Bits of a slot that are of the key's tag.
pub(crate) fn tag_mask(places: u32) -> u32 {
    !((2 << whose_bits(places)) - 1)
}

/// One flow in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Place of the connection.
    pub place: u32,
    /// Direction.
    pub dir: Dir,
    /// Of its key.
    pub mix: Mix,
}

impl Slot {
    /// As it is in the table of so many `places`: the tag, the place and the direction.
    #[must_use]
    pub fn word(&self, places: u32) -> u32 {
        self.tag(places) | self.place << 1 | self.dir as u32
    }

    fn tag(&self, places: u32) -> u32 {
        let lowest = 1 << whose_bits(places);
        self.mix.tag & tag_mask(places) | lowest
    }

    /// The two buckets that it may be in while `buckets` are in use, a power of two. They
    /// follow those of fewer.
    #[must_use]
    pub fn buckets(&self, buckets: u32) -> [u32; 2] {
        let first = self.mix.bucket & (buckets - 1) | buckets;
        [first, first ^ 1]
    }

    /// Which slot of either bucket a program looks at first: three flows of four are there, which
    /// the processor foresees, as it does not where among 16 a flow is.
    #[must_use]
    pub fn home(&self) -> usize {
        (self.mix.tag >> (MIX_HOME - MIX_TAG)) as usize % BUCKET
    }

    /// Place and direction of the connection whose flow `word` is.
    #[must_use]
    pub fn whose(word: u32, places: u32) -> (u32, Dir) {
        let whose = word & ((1 << whose_bits(places)) - 1);
        (whose >> 1, Dir::BOTH[(whose & 1) as usize])
    }

    /// Whether `word` is a flow that programs cannot tell from this one by its slot.
    #[must_use]
    pub fn is_like(&self, word: u32, places: u32) -> bool {
        (word ^ self.tag(places)) >> whose_bits(places) == 0
    }
}

const _: () = assert!(FLOWS.value as usize == BUCKET * 4);

// The sum has bits enough for the number of a bucket.
const _: () = assert!(buckets(MOST_PLACES) <= 1 << (64 - MIX_INDEX));
