//! What is in [`KNOWN`](super::KNOWN), and how many tuples each of its bits stands for.

use tidegate_conntrack::Tuple;

use super::{PLACES, WORDS, place};

/// A change in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The word that a bit has changed in.
    pub word: usize,
    /// What is in it now.
    pub value: u64,
}

/// The tuples of all connections, by place.
#[derive(Clone, Debug)]
pub struct Census {
    counts: Vec<u32>,
    words: Vec<u64>,
}

impl Default for Census {
    fn default() -> Self {
        Census {
            counts: vec![0; PLACES],
            words: vec![0; WORDS],
        }
    }
}

impl Census {
    /// A connection has this tuple now.
    pub fn enters(&mut self, tuple: &Tuple) -> Option<Change> {
        let at = place(tuple);
        self.counts[at] += 1;
        (self.counts[at] == 1).then(|| self.flip(at))
    }

    /// One has it no more.
    pub fn leaves(&mut self, tuple: &Tuple) -> Option<Change> {
        let at = place(tuple);
        let last = self.counts[at] == 1;
        self.counts[at] = self.counts[at].saturating_sub(1);
        last.then(|| self.flip(at))
    }

    fn flip(&mut self, at: usize) -> Change {
        let word = at / 64;
        self.words[word] ^= 1 << (at % 64);
        let value = self.words[word];
        Change { word, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_wire::{Family, proto};

    fn tuple(port: u16) -> Tuple {
        Tuple {
            src: 0x0a00_0001,
            dst: 0x0a00_0002,
            src_id: port,
            dst_id: 53,
            family: Family::V4,
            proto: proto::UDP,
        }
    }

    #[test]
    fn a_bit_stands_as_long_as_one_tuple_does() {
        let first = tuple(0);
        let other = |near| {
            let others = (1..=u16::MAX).map(tuple);
            let mut fitting = others.filter(|t| (place(t) / 64 == place(&first) / 64) == near);
            fitting.find(|t| place(t) != place(&first)).unwrap()
        };
        let (near, far) = (other(true), other(false));
        let mut census = Census::default();
        let set = census.enters(&first).unwrap();
        assert_eq!(set.value.count_ones(), 1);
        assert_eq!(census.enters(&first), None);
        let both = census.enters(&near).unwrap();
        assert_eq!((both.word, both.value.count_ones()), (set.word, 2));
        assert_ne!(census.enters(&far).unwrap().word, set.word);
        assert_eq!(census.leaves(&first), None);
        let left = census.leaves(&first).unwrap();
        assert_eq!(left.value, both.value & !set.value);
        assert_eq!(census.leaves(&first), None);
    }
}
