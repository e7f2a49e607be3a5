//! Which rules of a chain can apply at all, found without testing each one.
//!
//! Rules are taken in blocks of 64. For every field that a block's rules test, a column
//! says for each interval of values which of them let the value pass, as the bits of one
//! word (the bit vectors of Lakshman and Stiliadis, SIGCOMM 1998). The columns' words
//! together leave a few candidates, which are then evaluated in full: a column may let
//! through too much, never too little.

use tidegate_ir::{Chain, Cond, Facts, Field, Rule};

/// Rules per block: the bits of a word.
const BLOCK: usize = u64::BITS as usize;
/// Rules that are tested one by one before the columns are asked: what most packets
/// meet stands at the top.
const HEAD: usize = 3;
/// Shorter chains have no index.
const WORTHWHILE: usize = 8;

/// Columns of a chain. Empty where testing one by one is no slower.
#[derive(Debug, Default)]
pub(crate) struct Index {
    blocks: Vec<Block>,
}

/// Columns of up to 64 rules.
#[derive(Debug, Default)]
struct Block {
    /// Tests before any guard.
    before: Vec<Column>,
    /// Guards: values that drop the packet.
    guards: Vec<Column>,
    /// Tests that count unless a guard in front of them has dropped the packet.
    after: Vec<Column>,
    /// The rules there are.
    rules: u64,
}

/// What the rules of a block make of one field.
#[derive(Debug)]
struct Column {
    field: Field,
    /// Rules whose test holds when the packet has no such field.
    absent: u64,
    /// Where the intervals after the first one begin.
    starts: Vec<u128>,
    /// Rules whose test holds, by interval.
    words: Vec<u64>,
}

/// A test that a column can represent.
struct Test {
    field: Field,
    /// Values for which it holds, unless inverted.
    intervals: Vec<(u128, u128)>,
    inverted: bool,
}

impl Test {
    fn of(cond: &Cond) -> Option<Test> {
        let (field, intervals) = match cond {
            Cond::In(field, ranges) => (*field, ranges.intervals()),
            Cond::Bits {
                field,
                mask,
                wanted,
            } => (*field, vec![prefix(*field, *mask, *wanted)?]),
            Cond::Not(inner) => {
                let test = Test::of(inner)?;
                return Some(Test {
                    inverted: !test.inverted,
                    ..test
                });
            }
            Cond::Const(_) | Cond::All(_) | Cond::Any(_) | Cond::DropWhen(_) | Cond::Call(_) => {
                return None;
            }
        };
        is_cheap(field).then_some(Test {
            field,
            intervals,
            inverted: false,
        })
    }

    fn holds(&self, value: u128) -> bool {
        let inside = self
            .intervals
            .iter()
            .any(|&(lo, hi)| lo <= value && value <= hi);
        inside != self.inverted
    }
}

/// The interval of values that agree with `wanted` in the bits of `mask`, when those are
/// the field's leading ones.
fn prefix(field: Field, mask: u128, wanted: u128) -> Option<(u128, u128)> {
    let unused = 128 - u32::from(field.row().bits);
    let open = (u128::MAX >> unused) & !mask;
    let leading = open & open.wrapping_add(1) == 0;
    (leading && wanted & open == 0).then_some((wanted, wanted | open))
}

/// Fields that are read off the packet; others cost more than the tests they save.
fn is_cheap(field: Field) -> bool {
    matches!(
        field,
        Field::Src
            | Field::Dst
            | Field::Proto
            | Field::FragOff
            | Field::L4Len
            | Field::Sport
            | Field::Dport
            | Field::IcmpTypeCode
            | Field::InName
            | Field::OutName
            | Field::Mark
            | Field::CtState
    )
}

/// A test with the rule it belongs to, counted within its block.
type Placed = (usize, Test);

impl Block {
    fn new(rules: &[Rule]) -> Block {
        let (mut before, mut guards, mut after) = (Vec::new(), Vec::new(), Vec::new());
        for (at, rule) in rules.iter().enumerate() {
            let parts = match &rule.cond {
                Cond::All(list) => list.as_slice(),
                single => std::slice::from_ref(single),
            };
            let mut guarded = false;
            for part in parts {
                match part {
                    Cond::DropWhen(inner) => match Test::of(inner) {
                        Some(test) => guards.push((at, test)),
                        None => break,
                    },
                    _ if !is_pure(part) => break,
                    _ => {
                        let place = if guarded { &mut after } else { &mut before };
                        place.extend(Test::of(part).map(|test| (at, test)));
                    }
                }
                guarded |= matches!(part, Cond::DropWhen(_));
            }
        }
        Block {
            before: columns(before, true),
            guards: columns(guards, false),
            after: columns(after, true),
            rules: u64::MAX >> (BLOCK - rules.len().clamp(1, BLOCK)),
        }
    }

    /// Rules that may apply or drop the packet.
    #[inline]
    fn candidates(&self, facts: &mut impl Facts) -> u64 {
        let mut left = self.rules;
        for column in &self.before {
            left &= column.word(facts);
        }
        if left == 0 {
            return 0;
        }
        let fires = self.guards.iter().fold(0, |w, c| w | c.word(facts));
        for column in &self.after {
            left &= column.word(facts) | fires;
        }
        left
    }
}

/// Whether a condition neither keeps state nor drops packets.
fn is_pure(cond: &Cond) -> bool {
    let mut pure = true;
    cond.visit(&mut |c| pure &= !matches!(c, Cond::Call(_) | Cond::DropWhen(_)));
    pure
}

/// One column for each field. A rule's tests must all hold (`all`), or one of them.
fn columns(mut tests: Vec<Placed>, all: bool) -> Vec<Column> {
    tests.sort_by_key(|(at, test)| (test.field, *at));
    tests
        .chunk_by(|a, b| a.1.field == b.1.field)
        .filter_map(|tests| Column::new(tests, all))
        .collect()
}

impl Column {
    fn new(tests: &[Placed], all: bool) -> Option<Column> {
        let mut starts: Vec<u128> = tests
            .iter()
            .flat_map(|(_, test)| &test.intervals)
            .flat_map(|&(lo, hi)| [Some(lo), hi.checked_add(1)])
            .flatten()
            .filter(|&start| start > 0)
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let word = |holds: &dyn Fn(&Test) -> bool| {
            tests
                .iter()
                .filter(|(_, test)| holds(test) != all)
                .fold(0, |word, (at, _)| word | 1 << at)
                ^ if all { u64::MAX } else { 0 }
        };
        let firsts = std::iter::once(&0).chain(&starts);
        let words = firsts.map(|&v| word(&|test| test.holds(v))).collect();
        Some(Column {
            field: tests.first()?.1.field,
            absent: word(&|test| test.inverted),
            starts,
            words,
        })
    }

    #[inline]
    fn word(&self, facts: &mut impl Facts) -> u64 {
        let Some(value) = facts.load(self.field) else {
            return self.absent;
        };
        let interval = self.starts.partition_point(|&start| start <= value);
        self.words.get(interval).copied().unwrap_or(u64::MAX)
    }
}

impl Index {
    pub(crate) fn new(chain: &Chain) -> Index {
        let worthwhile = chain.rules.len() >= WORTHWHILE;
        let rules = if worthwhile { &chain.rules[..] } else { &[] };
        Index {
            blocks: rules.chunks(BLOCK).map(Block::new).collect(),
        }
    }

    /// The rules from `from` on that may apply, of `len` there are; `every` skips none.
    #[inline]
    pub(crate) fn candidates(&self, from: usize, len: usize, every: bool) -> Candidates<'_> {
        let one_by_one = if every || self.blocks.is_empty() {
            len
        } else {
            len.min(from + HEAD)
        };
        Candidates {
            index: self,
            next: from,
            one_by_one,
            len,
            block: one_by_one / BLOCK,
            left: None,
        }
    }
}

/// Positions of rules that may apply, in order.
pub(crate) struct Candidates<'i> {
    index: &'i Index,
    next: usize,
    /// Up to here no rule is skipped.
    one_by_one: usize,
    len: usize,
    block: usize,
    /// Candidates of `block` that are still to come.
    left: Option<u64>,
}

impl Candidates<'_> {
    #[inline]
    pub(crate) fn next(&mut self, facts: &mut impl Facts) -> Option<usize> {
        if self.next < self.one_by_one {
            self.next += 1;
            return Some(self.next - 1);
        }
        if self.one_by_one == self.len {
            return None;
        }
        loop {
            let left = match self.left {
                Some(left) => left,
                None => {
                    let seen = (self.one_by_one.saturating_sub(self.block * BLOCK)).min(BLOCK - 1);
                    self.index.blocks.get(self.block)?.candidates(facts) & (u64::MAX << seen)
                }
            };
            if left != 0 {
                self.left = Some(left & (left - 1));
                return Some(self.block * BLOCK + left.trailing_zeros() as usize);
            }
            self.left = None;
            self.block += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidegate_ir::{Ranges, RuleId, StepId, Truth, Verdict, eval};

    use super::*;

    const FIELDS: [Field; 5] = [
        Field::Src,
        Field::Dport,
        Field::L4Len,
        Field::InName,
        // Never in a column.
        Field::CtExpire,
    ];

    /// Field values, and the stateful tests that were run.
    #[derive(Clone, Debug)]
    struct Packet {
        values: [Option<u128>; FIELDS.len()],
        calls: Vec<u32>,
    }

    impl Facts for Packet {
        fn load(&mut self, field: Field) -> Option<u128> {
            let at = FIELDS.iter().position(|&f| f == field)?;
            let unused = 128 - u32::from(field.row().bits);
            Some(self.values[at]? & u128::MAX >> unused)
        }
        fn step(&mut self, id: StepId) -> Truth {
            self.calls.push(id.0);
            id.0.is_multiple_of(2).into()
        }
    }

    fn value() -> impl Strategy<Value = u128> {
        prop_oneof![0..8u128, Just(u128::MAX), Just(0x6574_6830 << 96)]
    }

    fn leaf() -> impl Strategy<Value = Cond> {
        let field = prop::sample::select(&FIELDS[..]);
        let ranges = prop::collection::vec((value(), value()), 0..3);
        let masks = prop::sample::select(vec![0, 1, 6, !0, !1, !3, !0 << 96, 0xffff, 0xfff8]);
        prop_oneof![
            (field.clone(), ranges).prop_map(|(f, r)| Cond::In(f, Ranges::new(r))),
            (field, masks, value()).prop_map(|(f, m, v)| Cond::bits(f, m, v)),
        ]
    }

    fn cond() -> impl Strategy<Value = Cond> {
        let part = prop_oneof![
            4 => leaf(),
            2 => leaf().prop_map(|c| c.inverted_if(true)),
            2 => leaf().prop_map(|c| Cond::DropWhen(Box::new(c))),
            1 => leaf().prop_map(|c| Cond::DropWhen(Box::new(c.inverted_if(true)))),
            1 => (leaf(), leaf()).prop_map(|(a, b)| Cond::Any(vec![a, b])),
            1 => (0..4u32).prop_map(|n| Cond::Call(StepId(n))),
            1 => any::<bool>().prop_map(Cond::Const),
        ];
        prop::collection::vec(part, 0..5).prop_map(Cond::all)
    }

    fn chain(conds: Vec<Cond>) -> Chain {
        let rules = conds.into_iter().enumerate().map(|(i, cond)| Rule {
            id: RuleId(i as u32),
            cond,
            effects: Box::default(),
            verdict: Verdict::Accept,
        });
        Chain {
            name: String::new(),
            base: None,
            rules: rules.collect(),
        }
    }

    /// All rules that apply, with the stateful tests run on the way.
    fn hits(
        chain: &Chain,
        packet: &Packet,
        from: usize,
        every: bool,
    ) -> (Vec<(usize, Truth)>, Vec<u32>) {
        let index = Index::new(chain);
        let mut packet = packet.clone();
        let mut candidates = index.candidates(from, chain.rules.len(), every);
        let mut hits = Vec::new();
        while let Some(at) = candidates.next(&mut packet) {
            match eval(&chain.rules[at].cond, &mut packet, &mut ()) {
                Truth::False => {}
                truth => hits.push((at, truth)),
            }
        }
        (hits, packet.calls)
    }

    proptest! {
        #[test]
        fn skips_only_rules_that_do_nothing(
            conds in prop::collection::vec(cond(), 0..150),
            values in prop::array::uniform5(prop::option::weighted(0.8, value())),
            from in 0..150usize,
        ) {
            let packet = Packet { values, calls: Vec::new() };
            let chain = chain(conds);
            prop_assert_eq!(hits(&chain, &packet, from, false), hits(&chain, &packet, from, true));
        }
    }

    #[test]
    fn looks_at_few_rules() {
        let port = |n: u128| Cond::all(vec![Cond::eq(Field::Src, 1), Cond::eq(Field::Dport, n)]);
        let chain = chain((0..1000).map(port).collect());
        let mut packet = Packet {
            values: [Some(1), Some(777), None, None, None],
            calls: Vec::new(),
        };
        let index = Index::new(&chain);
        let mut candidates = index.candidates(0, 1000, false);
        let seen: Vec<_> = std::iter::from_fn(|| candidates.next(&mut packet)).collect();
        assert_eq!(seen, [0, 1, 2, 777]);
    }
}
