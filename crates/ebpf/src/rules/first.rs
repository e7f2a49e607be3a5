//! The first of many conditions that holds, in less than a look at each.
//!
//! Each condition belongs to the field that it narrows most. The conditions of one field
//! are a tree: a cut between two values leaves fewer of them on either side, until there
//! are so few that they are tested in turn, as are those that narrow nothing. Of what the
//! trees find the first counts.

use tidegate_ir::{Cond, Field, Test};
use tidegate_wire::Family;

use super::facts::Facts;
use super::test::{address6, branch, compare};
use super::{IP, L4};
use crate::asm::{Asm, Cond as If, Label, Reg, Size};

/// One of many.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'c> {
    /// What [`super::reduce`] has left.
    pub(crate) cond: &'c Cond,
    /// Those before have smaller ones; less than [`NOTHING`].
    pub(crate) number: i32,
}

/// No condition holds.
pub(crate) const NOTHING: i32 = i32::MAX;

/// Where the code of a search finds what it needs.
#[derive(Clone, Copy)]
pub(crate) struct Search<'s> {
    pub(crate) facts: &'s Facts<'s>,
    /// Where in a map the number of the first is left, or [`NOTHING`]. A constant that the
    /// verifier could follow would have it look at each tree once for each result of those
    /// before.
    pub(crate) found: (Reg, i16),
    /// Instructions of the program beyond which conditions are left out, as many of those that
    /// are tested in turn, and where it goes instead.
    pub(crate) most: usize,
    pub(crate) longest: usize,
    pub(crate) open: Label,
}

/// Fields by which conditions are put in order.
const KEYS: [Field; 5] = [
    Field::Src,
    Field::Dst,
    Field::Sport,
    Field::Dport,
    Field::Proto,
];
/// Conditions that are tested in turn.
const FEW: usize = 4;
/// Bits by which a condition must narrow a field to be found by it.
const NARROW: u32 = 3;

/// The values of the field that a cut is at.
const VALUE: Reg = Reg::R4;
const UPPER: Reg = Reg::R5;

/// Leaves the number of the first of `entries` that holds, and goes on. Returns how many
/// instructions the longest way has.
pub(crate) fn first(a: &mut Asm, search: Search<'_>, entries: &[Entry<'_>]) -> usize {
    let family = search.facts.family();
    let (base, off) = search.found;
    a.store(Size::W, base, off, NOTHING);
    let keyed: Vec<Keyed<'_>> = entries.iter().map(Keyed::new).collect();
    let mut groups: [Vec<&Keyed<'_>>; KEYS.len() + 1] = Default::default();
    for entry in &keyed {
        groups[entry.group(family)].push(entry);
    }
    // Where there is not room for all, the largest is what is not whole.
    groups.sort_by_key(Vec::len);
    let mut longest = 1;
    for (i, group) in groups.iter().filter(|g| !g.is_empty()).enumerate() {
        let end = a.label();
        let mut tree = Tree {
            a: &mut *a,
            search,
            family,
            first: i == 0,
            end,
        };
        longest += tree.node(group, Area::whole(family), None);
        a.bind(end);
    }
    longest
}

/// Bits of a field.
fn width(field: Field, family: Family) -> u32 {
    match (field, family) {
        (Field::Src | Field::Dst, Family::V6) => 128,
        (Field::Src | Field::Dst, Family::V4) => 32,
        (Field::Proto, _) => 8,
        _ => 16,
    }
}

/// An entry, and what it asks of each of [`KEYS`].
struct Keyed<'e> {
    entry: &'e Entry<'e>,
    tests: [Option<&'e Test>; KEYS.len()],
}

impl<'e> Keyed<'e> {
    fn new(entry: &'e Entry<'e>) -> Self {
        let mut tests = [None; KEYS.len()];
        let mut note = |cond: &'e Cond| {
            if let Cond::Test(test) = cond
                && test.intervals().is_some()
                && let Some(key) = KEYS.iter().position(|f| *f == test.field())
            {
                tests[key].get_or_insert(test);
            }
        };
        match entry.cond {
            Cond::All(list) => list.iter().for_each(note),
            other => note(other),
        }
        Keyed { entry, tests }
    }

    /// The key that it is found by, or the number of keys.
    fn group(&self, family: Family) -> usize {
        let narrowed = |key: usize| {
            let values = self.intervals(key)?.fold(0_u128, |sum, (lo, hi)| {
                sum.saturating_add((hi - lo).saturating_add(1))
            });
            let bits = u128::BITS - values.saturating_sub(1).leading_zeros();
            let narrowed = width(KEYS[key], family).saturating_sub(bits);
            (narrowed >= NARROW).then_some((narrowed, key))
        };
        let best = (0..KEYS.len()).filter_map(narrowed).max();
        best.map_or(KEYS.len(), |(_, key)| key)
    }

    fn intervals(&self, key: usize) -> Option<impl Iterator<Item = (u128, u128)>> {
        self.tests[key]?.intervals()
    }

    /// Whether it may hold for values of the key from `lo` to `hi`.
    fn reaches(&self, key: usize, lo: u128, hi: u128) -> bool {
        self.intervals(key)
            .is_none_or(|mut all| all.any(|(first, last)| first <= hi && lo <= last))
    }
}

/// Values that the keys may have.
#[derive(Clone, Copy)]
struct Area([(u128, u128); KEYS.len()]);

impl Area {
    fn whole(family: Family) -> Self {
        let all = |field| (0, u128::MAX >> (u128::BITS - width(field, family)));
        Area(KEYS.map(all))
    }

    fn with(mut self, key: usize, values: (u128, u128)) -> Self {
        self.0[key] = values;
        self
    }
}

/// A way to divide entries.
struct Cut<'k, 'e> {
    key: usize,
    /// The first value of the upper part.
    at: u128,
    below: Vec<&'k Keyed<'e>>,
    above: Vec<&'k Keyed<'e>>,
}

/// The best cut, if one is worth it: a quarter fewer on either side, and not much more in
/// all.
fn cut<'k, 'e>(entries: &[&'k Keyed<'e>], area: &Area) -> Option<Cut<'k, 'e>> {
    let worth = |c: &Cut<'_, '_>| {
        let (below, above, all) = (c.below.len(), c.above.len(), entries.len());
        below.max(above) * 4 <= all * 3 && (below + above - all) * 8 <= all
    };
    let cuts = (0..KEYS.len()).filter_map(|key| middle(entries, area, key));
    let cuts = cuts.filter(worth);
    cuts.min_by_key(|c| c.below.len().max(c.above.len()))
}

/// The cut in the middle of all values at which some entry begins or ends.
fn middle<'k, 'e>(entries: &[&'k Keyed<'e>], area: &Area, key: usize) -> Option<Cut<'k, 'e>> {
    let (lo, hi) = area.0[key];
    let intervals = entries.iter().filter_map(|e| e.intervals(key)).flatten();
    let edges = intervals.flat_map(|(first, last)| [Some(first), last.checked_add(1)]);
    let inside = |edge: &u128| lo < *edge && *edge <= hi;
    let mut edges: Vec<u128> = edges.flatten().filter(inside).collect();
    let half = edges.len() / 2;
    if edges.is_empty() {
        return None;
    }
    let at = *edges.select_nth_unstable(half).1;
    let side = |lo, hi| {
        let reached = entries.iter().filter(|e| e.reaches(key, lo, hi));
        reached.copied().collect()
    };
    Some(Cut {
        key,
        at,
        below: side(lo, at - 1),
        above: side(at, hi),
    })
}

struct Tree<'t, 's> {
    a: &'t mut Asm,
    search: Search<'s>,
    family: Family,
    /// Nothing has been found yet.
    first: bool,
    end: Label,
}

impl Tree<'_, '_> {
    /// Code for packets of an area, of which the key `loaded` is where cuts want it. Returns
    /// how many instructions its longest way has.
    fn node(&mut self, entries: &[&Keyed<'_>], area: Area, loaded: Option<usize>) -> usize {
        if self.a.len() >= self.search.most {
            self.a.jump(self.search.open);
            return 1;
        }
        let cut = match entries.len() > FEW {
            true => cut(entries, &area),
            false => None,
        };
        let Some(cut) = cut else {
            return self.leaf(entries);
        };
        let begun = self.a.len();
        if loaded != Some(cut.key) {
            self.load(KEYS[cut.key]);
        }
        let above = self.a.label();
        self.divide(KEYS[cut.key], cut.at, above);
        let way = self.a.len() - begun;
        let (lo, hi) = area.0[cut.key];
        let below = area.with(cut.key, (lo, cut.at - 1));
        let one = self.node(&cut.below, below, Some(cut.key));
        self.a.bind(above);
        let other = self.node(&cut.above, area.with(cut.key, (cut.at, hi)), Some(cut.key));
        way + one.max(other)
    }

    fn load(&mut self, field: Field) {
        let v4 = self.family == Family::V4;
        let (size, at, bits) = match field {
            Field::Src | Field::Dst if !v4 => return self.address(field),
            Field::Src => (Size::W, IP + 12, 32),
            Field::Dst => (Size::W, IP + 16, 32),
            Field::Sport => (Size::H, L4, 16),
            Field::Dport => (Size::H, L4 + 2, 16),
            // The protocol.
            _ => (Size::B, if v4 { IP + 9 } else { IP + 6 }, 0),
        };
        self.search.facts.headers.load(self.a, size, VALUE, at);
        if bits > 0 {
            self.a.swap(VALUE, bits);
        }
    }

    fn address(&mut self, field: Field) {
        address6(self.a, self.search.facts.headers, field, (UPPER, VALUE));
    }

    /// Goes to `above` with values from `at` on.
    fn divide(&mut self, field: Field, at: u128, above: Label) {
        let a = &mut *self.a;
        if width(field, self.family) <= 32 {
            return a.jump_if32(If::Ge, VALUE, at as u32 as i32, above);
        }
        let (upper, lower) = ((at >> 64) as u64, at as u64);
        let below = a.label();
        compare(a, If::Gt, UPPER, upper, above);
        compare(a, If::Lt, UPPER, upper, below);
        compare(a, If::Ge, VALUE, lower, above);
        a.bind(below);
    }

    fn leaf(&mut self, entries: &[&Keyed<'_>]) -> usize {
        let begun = self.a.len();
        let (base, off) = self.search.found;
        for Keyed { entry, .. } in entries {
            let len = self.a.len();
            if len >= self.search.most || len - begun >= self.search.longest {
                self.a.jump(self.search.open);
                return len + 1 - begun;
            }
            let a = &mut *self.a;
            let (holds, next) = (a.label(), a.label());
            branch(a, self.search.facts, entry.cond, holds, next);
            a.bind(holds);
            if !self.first {
                a.load(Size::W, Reg::R1, base, off);
                a.jump_if32(If::Lt, Reg::R1, entry.number, self.end);
            }
            a.store(Size::W, base, off, entry.number);
            a.jump(self.end);
            a.bind(next);
        }
        self.a.jump(self.end);
        self.a.len() - begun
    }
}
