//! Reduced ordered binary decision diagrams, hash-consed and bounded.

use hashbrown::HashMap;

/// A set of bit strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Set(u32);

/// The limit on diagram nodes was reached: the answer is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig;

impl std::fmt::Display for TooBig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("unknown: the rules distinguish too many combinations to be followed")
    }
}

impl std::error::Error for TooBig {}

impl Set {
    /// Nothing.
    pub const EMPTY: Set = Set(0);
    /// Everything.
    pub const ALL: Set = Set(1);

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Set::EMPTY
    }
}

/// Where diagrams have come to ([`Bdd::mark`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(usize);

impl Mark {
    /// How many nodes there were.
    #[must_use]
    pub const fn size(self) -> usize {
        self.0
    }
}

/// Variable of the two leaves: behind all others.
const LEAF: u16 = u16::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Node {
    var: u16,
    low: Set,
    high: Set,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Op {
    And,
    /// Left without right.
    Minus,
    Or,
}

/// The result of an operation.
#[derive(Clone, Copy)]
struct Done {
    op: Op,
    a: Set,
    b: Set,
    set: Set,
}

/// Diagrams that share their nodes.
pub struct Bdd {
    nodes: Vec<Node>,
    /// Places of nodes by their hash, open addressing; 0 is free, because leaves are not here.
    unique: Vec<u32>,
    /// Results by their hash; a new one takes the place of an old one.
    done: Vec<Done>,
    limit: usize,
    /// Steps of operations left.
    steps: u64,
}

/// The smallest tables, in bits.
const SMALLEST: u32 = 12;
/// The most results that are remembered, in bits.
const REMEMBERED: u32 = 20;

/// No operation has this result: its operands are always known.
const NOTHING: Done = Done {
    op: Op::And,
    a: Set::EMPTY,
    b: Set::EMPTY,
    set: Set::EMPTY,
};

/// Mixes three numbers.
const fn hash(a: u32, b: u32, c: u32) -> usize {
    let mixed = (a as u64 | (b as u64) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (c as u64).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) as usize >> 20
}

impl std::fmt::Debug for Bdd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bdd")
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

impl Bdd {
    /// At most `limit` nodes, and fifty steps of work for each.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let leaf = |s| Node {
            var: LEAF,
            low: s,
            high: s,
        };
        Bdd {
            nodes: vec![leaf(Set::EMPTY), leaf(Set::ALL)],
            unique: vec![0; 1 << SMALLEST],
            done: vec![NOTHING; 1 << SMALLEST],
            limit,
            steps: limit as u64 * 50,
        }
    }

    /// Forgets all sets but the two that every diagram ends in.
    pub(crate) fn clear(&mut self) {
        self.nodes.truncate(2);
        self.unique.fill(0);
        self.done.fill(NOTHING);
        self.steps = self.limit as u64 * 50;
    }

    /// A place in the history of diagrams.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.nodes.len())
    }

    /// Forgets all sets that were made since `mark`. Those from before stay.
    pub fn back(&mut self, mark: Mark) {
        self.nodes.truncate(mark.0.max(2));
        self.index();
        self.done.fill(NOTHING);
    }

    /// How many nodes there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// From here on at most so many steps.
    pub fn allow(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Steps that are left.
    #[must_use]
    pub fn allowed(&self) -> u64 {
        self.steps
    }

    /// Takes steps for work that is done elsewhere.
    ///
    /// # Errors
    /// There are not so many left.
    pub(crate) fn spend(&mut self, steps: u64) -> Result<(), TooBig> {
        let left = self.steps.checked_sub(steps);
        self.steps = left.unwrap_or(0);
        left.map(drop).ok_or(TooBig)
    }

    fn node(&self, set: Set) -> Node {
        self.nodes[set.0 as usize]
    }

    fn make(&mut self, var: u16, low: Set, high: Set) -> Result<Set, TooBig> {
        if low == high {
            return Ok(low);
        }
        let node = Node { var, low, high };
        let mut at = self.slot(node);
        loop {
            match self.unique[at] {
                0 => break,
                known if self.nodes[known as usize] == node => return Ok(Set(known)),
                _ => at = (at + 1) & (self.unique.len() - 1),
            }
        }
        if self.nodes.len() >= self.limit {
            return Err(TooBig);
        }
        let set = Set(self.nodes.len() as u32);
        self.nodes.push(node);
        self.unique[at] = set.0;
        if self.nodes.len() * 2 > self.unique.len() {
            self.grow();
        }
        Ok(set)
    }

    fn slot(&self, node: Node) -> usize {
        hash(node.low.0, node.high.0, node.var.into()) & (self.unique.len() - 1)
    }

    /// Makes the tables as large as the number of nodes asks for.
    fn grow(&mut self) {
        let len = self.unique.len() * 2;
        self.unique = vec![0; len];
        self.index();
        if len <= 1 << REMEMBERED {
            self.done = vec![NOTHING; len];
        }
    }

    /// Finds a place for each node anew.
    fn index(&mut self) {
        self.unique.fill(0);
        let len = self.unique.len();
        for index in 2..self.nodes.len() {
            let mut at = self.slot(self.nodes[index]);
            while self.unique[at] != 0 {
                at = (at + 1) & (len - 1);
            }
            self.unique[at] = index as u32;
        }
    }

    /// Strings whose bit `var` is `value`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn bit(&mut self, var: u16, value: bool) -> Result<Set, TooBig> {
        match value {
            true => self.make(var, Set::EMPTY, Set::ALL),
            false => self.make(var, Set::ALL, Set::EMPTY),
        }
    }

    /// Strings in `of`, which is about later bits alone, whose bit `var` is set.
    pub(crate) fn above(&mut self, var: u16, of: Set) -> Result<Set, TooBig> {
        self.make(var, Set::EMPTY, of)
    }

    /// Strings whose bits from `first` on, the highest first, are a number in `lo..=hi`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn range(&mut self, first: u16, bits: u16, lo: u128, hi: u128) -> Result<Set, TooBig> {
        if lo > hi {
            return Ok(Set::EMPTY);
        }
        if lo == hi {
            return self.value(first, bits, lo, Set::ALL);
        }
        let at_least = self.bound(first, bits, lo, true)?;
        let at_most = self.bound(first, bits, hi, false)?;
        self.and(at_least, at_most)
    }

    /// Strings in `of`, which is about later bits alone, with this number.
    pub(crate) fn value(
        &mut self,
        first: u16,
        bits: u16,
        value: u128,
        of: Set,
    ) -> Result<Set, TooBig> {
        let mut set = of;
        for i in 0..bits {
            let var = first + bits - 1 - i;
            set = match value >> i & 1 == 1 {
                true => self.make(var, Set::EMPTY, set)?,
                false => self.make(var, set, Set::EMPTY)?,
            };
        }
        Ok(set)
    }

    /// Numbers of at least (`below` false: at most) `bound`, built from the lowest bit up.
    fn bound(&mut self, first: u16, bits: u16, bound: u128, least: bool) -> Result<Set, TooBig> {
        let mut set = Set::ALL;
        for i in 0..bits {
            let one = bound >> i & 1 == 1;
            let var = first + bits - 1 - i;
            set = match (least, one) {
                (true, true) => self.make(var, Set::EMPTY, set)?,
                (true, false) => self.make(var, set, Set::ALL)?,
                (false, true) => self.make(var, Set::ALL, set)?,
                (false, false) => self.make(var, set, Set::EMPTY)?,
            };
        }
        Ok(set)
    }

    /// What is in both.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn and(&mut self, a: Set, b: Set) -> Result<Set, TooBig> {
        self.apply(Op::And, a, b)
    }

    /// What is in either.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn or(&mut self, a: Set, b: Set) -> Result<Set, TooBig> {
        self.apply(Op::Or, a, b)
    }

    /// What is in `a` and not in `b`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn minus(&mut self, a: Set, b: Set) -> Result<Set, TooBig> {
        self.apply(Op::Minus, a, b)
    }

    /// What is not in `a`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn not(&mut self, a: Set) -> Result<Set, TooBig> {
        self.minus(Set::ALL, a)
    }

    fn apply(&mut self, op: Op, a: Set, b: Set) -> Result<Set, TooBig> {
        let known = match op {
            _ if a == b => Some(if op == Op::Minus { Set::EMPTY } else { a }),
            Op::And if a.is_empty() || b.is_empty() => Some(Set::EMPTY),
            Op::And if a == Set::ALL => Some(b),
            Op::And if b == Set::ALL => Some(a),
            Op::Or if a == Set::ALL || b == Set::ALL => Some(Set::ALL),
            Op::Or if a.is_empty() => Some(b),
            Op::Or if b.is_empty() => Some(a),
            Op::Minus if a.is_empty() || b == Set::ALL => Some(Set::EMPTY),
            Op::Minus if b.is_empty() => Some(a),
            _ => None,
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let (a, b) = match op {
            Op::Minus => (a, b),
            Op::And | Op::Or => (a.min(b), a.max(b)),
        };
        let place = hash(a.0, b.0, op as u32);
        let done = self.done[place & (self.done.len() - 1)];
        if (done.op, done.a, done.b) == (op, a, b) {
            return Ok(done.set);
        }
        self.steps = self.steps.checked_sub(1).ok_or(TooBig)?;
        let (x, y) = (self.node(a), self.node(b));
        let var = x.var.min(y.var);
        let cut = |n: Node, whole: Set| match n.var == var {
            true => (n.low, n.high),
            false => (whole, whole),
        };
        let ((al, ah), (bl, bh)) = (cut(x, a), cut(y, b));
        let low = self.apply(op, al, bl)?;
        let high = self.apply(op, ah, bh)?;
        let set = self.make(var, low, high)?;
        let at = place & (self.done.len() - 1);
        self.done[at] = Done { op, a, b, set };
        Ok(set)
    }

    /// `a` with the bits from `first` on free to be anything.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn forget(&mut self, a: Set, first: u16, bits: u16) -> Result<Set, TooBig> {
        let mut done = HashMap::new();
        self.forget_in(a, first, first + bits, &mut done)
    }

    fn forget_in(
        &mut self,
        a: Set,
        first: u16,
        end: u16,
        done: &mut HashMap<Set, Set>,
    ) -> Result<Set, TooBig> {
        let n = self.node(a);
        if n.var >= end {
            return Ok(a);
        }
        if let Some(set) = done.get(&a) {
            return Ok(*set);
        }
        let low = self.forget_in(n.low, first, end, done)?;
        let high = self.forget_in(n.high, first, end, done)?;
        let set = match n.var < first {
            true => self.make(n.var, low, high)?,
            false => self.or(low, high)?,
        };
        done.insert(a, set);
        Ok(set)
    }

    /// `a` with all bits but those from `first` on free to be anything.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn only(&mut self, a: Set, first: u16, bits: u16) -> Result<Set, TooBig> {
        let a = self.open_from(a, first + bits, &mut HashMap::new())?;
        self.forget(a, 0, first)
    }

    /// `a` with all bits from `end` on free to be anything.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn without_rest(&mut self, a: Set, end: u16) -> Result<Set, TooBig> {
        self.open_from(a, end, &mut HashMap::new())
    }

    /// Frees all bits from `end` on.
    fn open_from(&mut self, a: Set, end: u16, done: &mut HashMap<Set, Set>) -> Result<Set, TooBig> {
        let n = self.node(a);
        if n.var >= end {
            return Ok(if a.is_empty() { Set::EMPTY } else { Set::ALL });
        }
        if let Some(set) = done.get(&a) {
            return Ok(*set);
        }
        let low = self.open_from(n.low, end, done)?;
        let high = self.open_from(n.high, end, done)?;
        let set = self.make(n.var, low, high)?;
        done.insert(a, set);
        Ok(set)
    }

    /// The numbers of `bits` bits from `first` on that a set of nothing else holds, as
    /// ascending intervals, at most `most` of them, and whether these are all.
    pub fn numbers(&self, a: Set, first: u16, bits: u16, most: usize) -> (Vec<(u128, u128)>, bool) {
        let mut found: Vec<(u128, u128)> = Vec::new();
        let mut todo = vec![(a, first, 0u128)];
        while let Some((set, var, so_far)) = todo.pop() {
            if set.is_empty() {
                continue;
            }
            if set == Set::ALL {
                let left = u32::from(first + bits - var);
                let lo = so_far.checked_shl(left).unwrap_or(0);
                let span = 1u128.checked_shl(left).unwrap_or(0);
                let hi = lo | span.wrapping_sub(1);
                let follows = found.last().is_some_and(|l| l.1.checked_add(1) == Some(lo));
                if let Some(last) = found.last_mut().filter(|_| follows) {
                    last.1 = hi;
                } else if found.len() == most {
                    return (found, false);
                } else {
                    found.push((lo, hi));
                }
                continue;
            }
            let n = self.node(set);
            let (low, high) = match n.var == var {
                true => (n.low, n.high),
                false => (set, set),
            };
            todo.push((high, var + 1, so_far << 1 | 1));
            todo.push((low, var + 1, so_far << 1));
        }
        (found, true)
    }

    /// Whether a string is in `a`; `bit` tells its bits.
    pub fn contains(&self, mut a: Set, bit: impl Fn(u16) -> bool) -> bool {
        loop {
            let n = self.node(a);
            match n.var {
                LEAF => return a == Set::ALL,
                var if bit(var) => a = n.high,
                _ => a = n.low,
            }
        }
    }

    /// Bits that put a string into `a`, the others do not matter; `None` for the empty
    /// set. Where both will do, `prefer` says which is tried first.
    pub fn pick(&self, mut a: Set, prefer: impl Fn(u16) -> bool) -> Option<Vec<(u16, bool)>> {
        let mut bits = Vec::new();
        while a != Set::ALL {
            let n = self.node(a);
            if n.var == LEAF {
                return None;
            }
            let high = match prefer(n.var) {
                true => !n.high.is_empty(),
                false => n.low.is_empty(),
            };
            bits.push((n.var, high));
            a = if high { n.high } else { n.low };
        }
        Some(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_their_numbers() {
        let mut b = Bdd::new(10_000);
        for (lo, hi) in [(0, 255), (3, 3), (10, 200), (128, 255), (7, 6)] {
            let set = b.range(0, 8, lo, hi).unwrap();
            for v in 0..256u128 {
                let held = b.contains(set, |var| v >> (7 - var) & 1 == 1);
                assert_eq!(held, lo <= v && v <= hi, "{v} in {lo}..={hi}");
            }
        }
    }

    #[test]
    fn going_back_keeps_what_was_before() {
        let mut b = Bdd::new(10_000);
        let kept = b.range(0, 8, 10, 200).unwrap();
        let mark = b.mark();
        let lost = b.range(0, 8, 3, 77).unwrap();
        assert!(b.and(kept, lost).is_ok() && b.mark() != mark);
        b.back(mark);
        assert_eq!((b.mark(), b.range(0, 8, 10, 200)), (mark, Ok(kept)));
        let again = b.range(0, 8, 100, 255).unwrap();
        let both = b.and(kept, again).unwrap();
        assert_eq!(b.numbers(both, 0, 8, 9), (vec![(100, 200)], true));
    }

    #[test]
    fn operations_are_those_of_sets() {
        let mut b = Bdd::new(100_000);
        let x = b.range(0, 6, 10, 40).unwrap();
        let y = b.range(0, 6, 30, 50).unwrap();
        let (and, or, minus, not) = (
            b.and(x, y).unwrap(),
            b.or(x, y).unwrap(),
            b.minus(x, y).unwrap(),
            b.not(x).unwrap(),
        );
        for v in 0..64u128 {
            let has = |set| b.contains(set, |var| v >> (5 - var) & 1 == 1);
            let (in_x, in_y) = ((10..=40).contains(&v), (30..=50).contains(&v));
            assert_eq!(has(and), in_x && in_y);
            assert_eq!(has(or), in_x || in_y);
            assert_eq!(has(minus), in_x && !in_y);
            assert_eq!(has(not), !in_x);
        }
        assert_eq!(b.forget(x, 0, 6), Ok(Set::ALL));
        assert!(b.pick(Set::EMPTY, |_| false).is_none());
    }

    #[test]
    fn the_limit_ends_it() {
        let mut b = Bdd::new(64);
        let many = (0..100u128).try_fold(Set::EMPTY, |all, v| {
            let one = b.range(0, 32, v * 7919, v * 7919)?;
            b.or(all, one)
        });
        assert_eq!(many, Err(TooBig));
    }
}
