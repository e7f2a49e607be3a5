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

/// Diagrams that share their nodes.
pub struct Bdd {
    nodes: Vec<Node>,
    unique: HashMap<Node, Set>,
    done: HashMap<(Op, Set, Set), Set>,
    limit: usize,
    /// Steps of operations left.
    steps: u64,
}

/// Remembered results of operations; forgotten when there are this many.
const REMEMBERED: usize = 1 << 21;

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
            unique: HashMap::new(),
            done: HashMap::new(),
            limit,
            steps: limit as u64 * 50,
        }
    }

    fn node(&self, set: Set) -> Node {
        self.nodes[set.0 as usize]
    }

    fn make(&mut self, var: u16, low: Set, high: Set) -> Result<Set, TooBig> {
        if low == high {
            return Ok(low);
        }
        let node = Node { var, low, high };
        if let Some(set) = self.unique.get(&node) {
            return Ok(*set);
        }
        if self.nodes.len() >= self.limit {
            return Err(TooBig);
        }
        let set = Set(self.nodes.len() as u32);
        self.nodes.push(node);
        self.unique.insert(node, set);
        Ok(set)
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

    /// Strings whose bits from `first` on, the highest first, are a number in `lo..=hi`.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn range(&mut self, first: u16, bits: u16, lo: u128, hi: u128) -> Result<Set, TooBig> {
        if lo > hi {
            return Ok(Set::EMPTY);
        }
        let at_least = self.bound(first, bits, lo, true)?;
        let at_most = self.bound(first, bits, hi, false)?;
        self.and(at_least, at_most)
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
        let key = match op {
            Op::Minus => (op, a, b),
            Op::And | Op::Or => (op, a.min(b), a.max(b)),
        };
        if let Some(set) = self.done.get(&key) {
            return Ok(*set);
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
        if self.done.len() >= REMEMBERED {
            self.done.clear();
        }
        self.done.insert(key, set);
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
