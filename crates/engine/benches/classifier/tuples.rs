//! Tuple space search (Srinivasan, Suri and Varghese, SIGCOMM 1999) with tuples in the
//! order of their first rules, to compare with: rules that fix the same bits of all fields
//! share a hash table.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use tidegate_ir::{Facts, Field, Rule, Test, Truth};

use crate::rivals::{Rival, tests};
use crate::traffic::Header;

const FIELDS: [Field; 8] = [
    Field::Src,
    Field::Dst,
    Field::Proto,
    Field::Sport,
    Field::Dport,
    Field::InName,
    Field::OutName,
    Field::Mark,
];

/// Bits of each field.
type Mask = [u128; FIELDS.len()];

/// Multiplies and folds, as fast as hashing gets here.
#[derive(Default)]
pub(crate) struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }
    fn write_u64(&mut self, v: u64) {
        let product = u128::from(self.0 ^ v) * 0x9e37_79b9_7f4a_7c15_f39c_c060;
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
    fn write_u128(&mut self, v: u128) {
        self.write_u64(v as u64 ^ (v >> 64) as u64);
    }
}

/// Rules of one tuple: their positions by the values they want.
struct Tuple {
    mask: Mask,
    first: usize,
    rules: HashMap<Mask, Vec<usize>, BuildHasherDefault<Fold>>,
}

/// A chain by tuples.
pub(crate) struct Tuples(Vec<Tuple>);

/// Bits that a test fixes, and to what.
fn fixed(test: &Test) -> Option<(usize, u128, u128)> {
    let at = FIELDS.iter().position(|&f| f == test.field())?;
    if let Some((mask, wanted)) = test.mask() {
        return Some((at, mask, wanted));
    }
    let mut list = test.intervals()?;
    let (lo, hi) = list.next().filter(|_| list.next().is_none())?;
    let mask = match lo ^ hi {
        0 => u128::MAX,
        differing => !(u128::MAX >> differing.leading_zeros()),
    };
    Some((at, mask, lo & mask))
}

impl Tuples {
    pub(crate) fn new(rules: &[&Rule]) -> Tuples {
        let mut all: HashMap<Mask, Tuple> = HashMap::new();
        for (at, rule) in rules.iter().enumerate() {
            let (mut mask, mut wanted) = (Mask::default(), Mask::default());
            for (i, m, w) in tests(rule).filter_map(fixed) {
                (mask[i], wanted[i]) = (m, w);
            }
            let tuple = all.entry(mask).or_insert_with(|| Tuple {
                mask,
                first: at,
                rules: HashMap::default(),
            });
            tuple.rules.entry(wanted).or_default().push(at);
        }
        let mut all: Vec<Tuple> = all.into_values().collect();
        all.sort_by_key(|t| t.first);
        Tuples(all)
    }
}

impl Rival for Tuples {
    fn first(&self, rules: &[&Rule], header: &mut Header) -> Option<usize> {
        let values = FIELDS.map(|f| header.load(f).unwrap_or(0));
        let mut best = usize::MAX;
        for tuple in &self.0 {
            if tuple.first > best {
                break;
            }
            let key: Mask = std::array::from_fn(|i| values[i] & tuple.mask[i]);
            for &at in tuple.rules.get(&key).into_iter().flatten() {
                if at >= best {
                    break;
                }
                if rules[at].cond.eval(header, &mut ()) != Truth::False {
                    best = at;
                    break;
                }
            }
        }
        (best != usize::MAX).then_some(best)
    }

    fn bytes(&self) -> usize {
        let table = |t: &Tuple| {
            let lists: usize = t.rules.values().map(|l| l.capacity() * 8).sum();
            lists + t.rules.capacity() * (size_of::<(Mask, Vec<usize>)>() + 1)
        };
        self.0.iter().map(|t| size_of::<Tuple>() + table(t)).sum()
    }
}
