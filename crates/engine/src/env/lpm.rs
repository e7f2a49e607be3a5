//! Longest prefix match by one binary search.

use super::{Prefix, mask};

/// Intervals of addresses, each with the longest of the prefixes that cover it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lpm {
    /// Where intervals begin; addresses before the first have no prefix.
    starts: Vec<u128>,
    /// Position of the prefix, by interval.
    best: Vec<Option<u32>>,
}

impl Lpm {
    /// For prefixes of one family. Of equal ones the first counts.
    pub(super) fn new(prefixes: impl Iterator<Item = Prefix>) -> Self {
        let bounds = |p: Prefix| {
            let first = p.addr & p.mask();
            let host = mask(p.family, u8::MAX) & !p.mask();
            (first, first | host)
        };
        let mut all: Vec<_> = (0u32..).zip(prefixes.map(|p| (bounds(p), p.len))).collect();
        // Prefixes nest: whoever begins first and is shortest holds the others.
        all.sort_by_key(|&(at, ((first, _), len))| (first, len, at));
        all.dedup_by_key(|&mut (_, ((first, _), len))| (first, len));
        let mut made = Lpm::default();
        let mut open: Vec<(u128, u32)> = Vec::new();
        for (at, ((first, last), _)) in all {
            made.close(&mut open, Some(first));
            made.begin(first, Some(at));
            open.push((last, at));
        }
        made.close(&mut open, None);
        made
    }

    /// What holds from each of some addresses on, which ascend.
    pub(super) fn of(answers: impl Iterator<Item = (u128, Option<u32>)>) -> Self {
        let mut made = Lpm::default();
        for (start, best) in answers {
            if made.best.last() != Some(&best) {
                made.begin(start, best);
            }
        }
        made
    }

    /// Ends the prefixes that do not reach `next`.
    fn close(&mut self, open: &mut Vec<(u128, u32)>, next: Option<u128>) {
        while let Some(&(last, _)) = open.last() {
            if next.is_some_and(|next| last >= next) {
                break;
            }
            open.pop();
            if let Some(after) = last.checked_add(1) {
                self.begin(after, open.last().map(|o| o.1));
            }
        }
    }

    fn begin(&mut self, start: u128, best: Option<u32>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.best.pop();
        }
        self.starts.push(start);
        self.best.push(best);
    }

    /// Position of the longest prefix that `addr` lies in.
    #[inline]
    pub(super) fn find(&self, addr: u128) -> Option<usize> {
        let after = self.starts.partition_point(|&start| start <= addr);
        let best = *self.best.get(after.checked_sub(1)?)?;
        best.map(|at| at as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_wire::Family;

    use super::*;

    proptest! {
        #[test]
        fn finds_what_asking_each_prefix_finds(
            list in prop::collection::vec((0..64u32, 24..=32u8), 0..20),
            v6 in any::<bool>(),
        ) {
            let prefix = |&(addr, len): &(u32, u8)| if v6 {
                Prefix { family: Family::V6, addr: u128::from(addr) << 64, len: len + 32 }
            } else {
                Prefix { family: Family::V4, addr: u128::from(addr), len }
            };
            let mut prefixes: Vec<Prefix> = list.iter().map(prefix).collect();
            prefixes.sort_by_key(|p| u8::MAX - p.len);
            let lpm = Lpm::new(prefixes.iter().copied());
            let probes = (0..70u128).map(|a| if v6 { a << 64 | 5 } else { a });
            for addr in probes.chain([0, u128::from(u32::MAX), u128::MAX]) {
                if v6 || addr <= u128::from(u32::MAX) {
                    let asked = prefixes.iter().position(|p| p.contains(addr));
                    let found = lpm.find(addr);
                    prop_assert_eq!(found, asked);
                }
            }
        }

        #[test]
        fn covers_all_addresses(len in 0..=128u8) {
            let all = Prefix { family: Family::V6, addr: 0, len: 0 };
            let last = Prefix { family: Family::V6, addr: u128::MAX, len };
            let lpm = Lpm::new([last, all].into_iter());
            prop_assert_eq!(lpm.find(u128::MAX), Some(0));
            prop_assert_eq!(lpm.find(0), Some(usize::from(len > 0)));
        }
    }
}
