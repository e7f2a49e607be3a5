//! A small seeded generator of random numbers (SplitMix64).

/// Its state.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// From `lo` to `hi`.
    pub(crate) fn between(&mut self, lo: u128, hi: u128) -> u128 {
        let wide = u128::from(self.next()) << 64 | u128::from(self.next());
        match (hi - lo).checked_add(1) {
            Some(n) => lo + wide % n,
            None => wide,
        }
    }

    /// Small numbers more often than large ones, below `n`.
    pub(crate) fn skewed(&mut self, n: u64) -> u64 {
        let a = self.below(n.max(1));
        self.below(a + 1)
    }

    /// One of `choices` by its weight.
    pub(crate) fn weighted<T: Copy>(&mut self, choices: &[(u32, T)]) -> T {
        let total: u32 = choices.iter().map(|c| c.0).sum();
        let mut at = self.below(u64::from(total)) as u32;
        for &(weight, choice) in choices {
            if at < weight {
                return choice;
            }
            at -= weight;
        }
        choices[0].1
    }
}
