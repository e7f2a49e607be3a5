//! The index of flows: a hash table that user space alone writes.

use tidegate_conntrack::Dir;

use super::{FLOWS, KEY};

/// Words of a bucket, each a [`Slot`].
pub const BUCKET: usize = 8;
/// Words of a hash's secret: one for each four bytes of a key.
pub const HASH: usize = KEY / 4;

/// What the index needs to know of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Of [`MIX_INDEX`]; its low bits are the bucket's number.
    bucket: u32,
    /// What is in the slot. Not 0, which empty ones have.
    tag: u32,
}

/// Where bucket and tag are in a sum.
pub(crate) const MIX_INDEX: i32 = 40;
pub(crate) const MIX_TAG: i32 = 8;

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
        tag: (sum >> MIX_TAG) as u32 | 1,
    }
}

/// So many buckets hold the flows of `places` connections: two each, so that of a full table
/// hardly any flow finds its bucket full.
#[must_use]
pub fn buckets(places: u32) -> u32 {
    places.next_power_of_two().min(1 << (64 - MIX_INDEX))
}

/// Bytes of a slot.
pub(crate) mod slot {
    /// The place, doubled, and the direction.
    pub(crate) const WHOSE: i16 = 0;
    pub(crate) const TAG: i16 = 4;
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
    /// As it is in the table.
    #[must_use]
    pub fn word(&self) -> u64 {
        let [a, b, c, d] = (self.place << 1 | self.dir as u32).to_ne_bytes();
        let [e, f, g, h] = self.mix.tag.to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// The words of [`FLOWS`] that it may be in.
    #[must_use]
    pub fn bucket(&self, buckets: u32) -> std::ops::Range<usize> {
        let first = (self.mix.bucket & (buckets - 1)) as usize * BUCKET;
        first..first + BUCKET
    }

    /// Place of the connection whose flow `word` is.
    #[must_use]
    pub fn place_of(word: u64) -> u32 {
        let [a, b, c, d, ..] = word.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d]) >> 1
    }

    /// Whether `word` is a flow that programs cannot tell from this one by its slot.
    #[must_use]
    pub fn is_like(&self, word: u64) -> bool {
        word.to_ne_bytes()[slot::TAG as usize..] == self.mix.tag.to_ne_bytes()
    }
}

const _: () = assert!(FLOWS.value as usize == BUCKET * 8);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Hook, key};
    use tidegate_conntrack::Tuple;
    use tidegate_wire::{Family, proto};

    /// Numbers without a pattern (SplitMix64).
    fn secret(state: &mut u64) -> [u64; HASH] {
        std::array::from_fn(|_| {
            *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ z >> 31) | 1
        })
    }

    /// One client's ports in a row, with any secret: hardly any flow finds its bucket full.
    #[test]
    fn flows_that_differ_little_do_not_crowd() {
        const PLACES: u32 = 8192;
        let keys: Vec<_> = (0x4000..0x5000u16)
            .flat_map(|port| {
                let there = Tuple {
                    src: 0x0a40_0001,
                    dst: 0x0a01_0003,
                    src_id: port,
                    dst_id: 7000,
                    family: Family::V4,
                    proto: proto::UDP,
                };
                let back = there.inverse().unwrap();
                [(2, there), (3, back)].map(|(dev, tuple)| key(dev, Hook::Ingress, &tuple))
            })
            .collect();
        let mut state = 0;
        for _ in 0..500 {
            let secret = secret(&mut state);
            let mut full = vec![0; buckets(PLACES) as usize];
            for key in &keys {
                let slot = Slot {
                    place: 0,
                    dir: Dir::Original,
                    mix: mix(&secret, key),
                };
                full[slot.bucket(buckets(PLACES)).start / BUCKET] += 1;
            }
            let crowded: usize = full.iter().map(|n: &usize| n.saturating_sub(BUCKET)).sum();
            assert!(crowded < 8, "{crowded} with {secret:x?}");
        }
    }
}
