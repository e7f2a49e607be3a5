//! Bit vectors over blocks of 64 rules (Lakshman and Stiliadis, SIGCOMM 1998), to compare
//! with: for every field that a block's rules test, a column says for each interval of
//! values which of them let the value pass.

use std::iter::once;

use tidegate_ir::{Facts, Field, Rule, Test, Truth};

use crate::rivals::{Rival, tests};
use crate::traffic::Header;

const BLOCK: usize = u64::BITS as usize;

/// A chain in blocks.
pub(crate) struct Bits(Vec<Vec<Column>>);

/// What the rules of a block make of one field.
struct Column {
    field: Field,
    /// Rules that do not test the field.
    absent: u64,
    /// Where the intervals after the first one begin.
    starts: Vec<u128>,
    /// Rules whose test holds, by interval.
    words: Vec<u64>,
}

type Intervals = Vec<(u128, u128)>;

/// The intervals of a test, if they are known: bits below a prefix are one interval.
fn intervals(test: &Test) -> Option<Intervals> {
    let Some((mask, wanted)) = test.mask() else {
        return Some(test.intervals()?.collect());
    };
    let open = (u128::MAX >> (128 - u32::from(test.field().row().bits))) & !mask;
    (open & (open + 1) == 0).then(|| vec![(wanted, wanted | open)])
}

impl Column {
    fn new(field: Field, rules: &[(usize, Intervals)]) -> Column {
        let ends = rules.iter().flat_map(|(_, list)| list);
        let mut starts: Vec<u128> = ends.flat_map(|&(lo, hi)| [lo, hi + 1]).collect();
        starts.retain(|&s| s > 0);
        starts.sort_unstable();
        starts.dedup();
        let absent = rules.iter().fold(u64::MAX, |w, (at, _)| w & !(1 << at));
        let word = |v: u128| {
            let failing = rules
                .iter()
                .filter(|(_, list)| !list.iter().any(|&(lo, hi)| lo <= v && v <= hi));
            failing.fold(u64::MAX, |w, (at, _)| w & !(1 << at))
        };
        let words = once(0).chain(starts.iter().copied()).map(word).collect();
        Column {
            field,
            absent,
            starts,
            words,
        }
    }

    #[inline]
    fn word(&self, header: &mut Header) -> u64 {
        match header.load(self.field) {
            Some(v) => self.words[self.starts.partition_point(|&s| s <= v)],
            None => self.absent,
        }
    }
}

impl Bits {
    pub(crate) fn new(rules: &[&Rule]) -> Bits {
        let block = |rules: &[&Rule]| {
            let mut told: Vec<(Field, usize, Intervals)> = Vec::new();
            for (at, rule) in rules.iter().enumerate() {
                let known = tests(rule).filter_map(|t| Some((t.field(), at, intervals(t)?)));
                told.extend(known);
            }
            told.sort_by_key(|t| t.0);
            let columns = told.chunk_by(|a, b| a.0 == b.0).map(|same| {
                let rules: Vec<_> = same.iter().map(|t| (t.1, t.2.clone())).collect();
                Column::new(same[0].0, &rules)
            });
            columns.collect()
        };
        Bits(rules.chunks(BLOCK).map(block).collect())
    }
}

impl Rival for Bits {
    fn first(&self, rules: &[&Rule], header: &mut Header) -> Option<usize> {
        for (number, (columns, block)) in self.0.iter().zip(rules.chunks(BLOCK)).enumerate() {
            let mut left = u64::MAX >> (BLOCK - block.len());
            for column in columns {
                left &= column.word(header);
            }
            while left != 0 {
                let at = left.trailing_zeros() as usize;
                if block[at].cond.eval(header, &mut ()) != Truth::False {
                    return Some(number * BLOCK + at);
                }
                left &= left - 1;
            }
        }
        None
    }

    fn bytes(&self) -> usize {
        let columns = self.0.iter().flatten();
        columns
            .map(|c| size_of::<Column>() + c.starts.len() * 16 + c.words.len() * 8)
            .sum()
    }
}
