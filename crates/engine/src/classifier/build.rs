//! Making a tree: which cuts keep rules apart, and which lenses sort them out.

use std::cmp::Reverse;

use tidegate_ir::{Field, Rule, Rules, Test};
use tidegate_wire::Family;

use super::by_field::Tests;
use super::key::{BLIND, DIMS, Dim, LENSES, Lens, WIDE};
use super::leaf::{BLOCK, Entry, Leaves, VIEWS};
use super::reading::{Scope, cells, hull, is_cheap, is_void, known, tests};
use super::tree::{CUTS, Cell, Child, Cut, FILTERS, Node, Part, Tree};
use super::views::View;

/// Rules that a leaf has without ado.
pub(super) const LEAF: usize = 32;
/// Rules that the whole tree has without ado, and that its first node must spare: so many are
/// gone through as fast as a node.
const FEW: usize = 4;
/// Entries that a node must spare a look-up, on average.
const SPARED: f64 = 16.0;
/// Part of what could be told apart that a cut must.
const SHARE: f64 = 0.05;
/// Rules that are looked at to choose a cut.
pub(super) const SAMPLE: usize = 256;
/// Masks of one field that are tried, the most frequent ones.
const MASKS: usize = 8;
/// Masks of wide fields that one tree can use.
const MOST_MASKS: usize = 1024;
/// Cells per bucket of three in a new node, and in a large one with many entries that stand
/// alone, which take memory elsewhere.
const LOAD: (f64, f64) = (1.4, 1.8);
/// Cells of a large node.
const LARGE: usize = 4096;
/// The part of its cells for which entries that stand alone are many.
const MANY: usize = 4;
/// Places that rules may have on average beyond their first.
const COPIES: usize = 3;
/// Of these many rules, so many may have an entry that stands alone in a cell.
const ALONE: (usize, usize) = (5, 2);
/// Depth of the tree.
const DEPTH: usize = 24;

/// Bits that all rules of a part of the tree share with the packets that get there.
pub(super) type Path = Vec<(u8, u128)>;

/// Adds to a tree.
pub(super) struct Builder<'b> {
    pub(super) tree: &'b mut Tree,
    pub(super) rules: &'b Rules,
    pub(super) scope: Scope,
    /// How many more places rules may have than there are rules.
    pub(super) copies: usize,
    /// How many more rules that stand alone may have an entry.
    pub(super) alone: usize,
    /// How deep in the tree the next part will be.
    pub(super) depth: usize,
    /// Where views are put together.
    pub(super) views: Vec<View>,
}

/// A rule in the making of a tree.
#[derive(Clone, Copy)]
pub(super) struct Row<'r> {
    pub(super) slot: u32,
    pub(super) tests: Tests<'r>,
}

/// Where the cells of a test are put together.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<u128>,
    hashes: Vec<u32>,
}

/// A cell in the making: hash, cut, number of a rule.
type Member = (u32, u8, u32);

impl Tree {
    /// A tree of rules that tells of nothing outside `scope`; `rules` in order of their
    /// keys.
    pub(super) fn build(
        rules: &Rules,
        slots: Vec<u32>,
        scope: Scope,
        family: Family,
        seed: u64,
    ) -> Tree {
        let mut tree = Tree {
            dims: Vec::new(),
            lenses: vec![Lens::BLIND],
            views: [BLIND; VIEWS],
            masks: Vec::new(),
            nodes: Vec::new(),
            unused_nodes: Vec::new(),
            leaves: Leaves::default(),
            root: Child::NONE,
            family,
            seed,
        };
        let mut builder = Builder {
            copies: slots.len() * COPIES,
            alone: slots.len() / ALONE.0 * ALONE.1,
            tree: &mut tree,
            rules,
            scope,
            depth: 0,
            views: Vec::new(),
        };
        let mut rows = Vec::with_capacity(slots.len());
        rows.extend(slots.into_iter().map(|slot| {
            builder.tree.learn_fields(rules, slot, scope);
            builder.row(slot)
        }));
        builder.choose_views(&rows);
        let root = builder.part(&rows, &mut Path::new());
        tree.root = root;
        tree.leaves.trim();
        tree
    }

    /// Makes the fields that a rule tests known.
    pub(super) fn learn_fields(&mut self, rules: &Rules, slot: u32, scope: Scope) {
        let Some(rule) = rules.at_slot(slot) else {
            return;
        };
        for test in tests(rule, scope) {
            let field = test.field();
            if is_cheap(field) && self.dim(field).is_none() {
                self.learn_field(field);
            }
        }
    }

    fn learn_field(&mut self, field: Field) {
        let taken = self.dims.iter().filter(|d| d.wide.is_some()).count();
        let wide = Dim::needs_wide(field, self.family).then_some(taken as u8);
        let (number, lens) = (self.dims.len() as u8, self.lenses.len());
        let room = match wide {
            Some(wide) => usize::from(wide) < WIDE,
            None => lens + 2 <= LENSES,
        };
        if self.dims.len() == DIMS || !room {
            return;
        }
        let lens = lens as u8;
        let dim = Dim { field, wide, lens };
        if wide.is_none() {
            self.lenses.extend([Lens::low(number), Lens::high(number)]);
            // Leaves that there are have no interval for them, and let all pass.
            let halves = if dim.bits() > 0xffff { 2 } else { 1 };
            let free = self.views.iter_mut().filter(|view| **view == BLIND);
            free.zip(lens..lens + halves)
                .for_each(|(view, lens)| *view = lens);
        }
        self.dims.push(dim);
    }

    #[inline]
    fn dim(&self, field: Field) -> Option<usize> {
        self.dims.iter().position(|d| d.field == field)
    }

    /// The tests of a rule that the tree can use.
    pub(super) fn tests<'r>(&self, rule: &'r Rule, scope: Scope) -> Tests<'r> {
        let mut all = Tests::NONE;
        for test in tests(rule, scope) {
            let Some(dim) = self.dim(test.field()) else {
                continue;
            };
            let bits = self.dims[dim].bits();
            let width = |test: &Test| {
                let (lo, hi) = hull(test, bits);
                hi.saturating_sub(lo)
            };
            all.put(dim, test, |old| width(test) < width(old));
        }
        all
    }

    /// The number of a mask, which is made if there is room.
    pub(super) fn mask_number(&mut self, mask: u128) -> Option<u16> {
        if let Some(at) = self.masks.iter().position(|&m| m == mask) {
            return Some(at as u16);
        }
        if self.masks.len() == MOST_MASKS {
            return None;
        }
        self.masks.push(mask);
        Some((self.masks.len() - 1) as u16)
    }

    fn cut(&mut self, dim: usize, mask: u128) -> Option<Cut> {
        let Dim { wide, .. } = self.dims[dim];
        let mask = match wide {
            Some(_) => u32::from(self.mask_number(mask)?),
            None => mask as u32,
        };
        Some(Cut {
            mask,
            dim: dim as u8,
            wide,
        })
    }

    /// The bits of a cut.
    pub(super) fn mask(&self, cut: &Cut) -> u128 {
        match cut.wide {
            Some(_) => self.masks[cut.mask as usize],
            None => u128::from(cut.mask),
        }
    }

    /// The cells of a cut that a test needs, by hash; none if it needs too many.
    pub(super) fn cells_of<'s>(
        &self,
        cut: &Cut,
        test: &Test,
        scratch: &'s mut Scratch,
    ) -> &'s [u32] {
        let Scratch { values, hashes } = scratch;
        hashes.clear();
        let narrow = cut.wide.is_none();
        let all = self.dims[usize::from(cut.dim)].bits();
        if narrow && hull(test, all).1 > all {
            return hashes;
        }
        cells(test, self.mask(cut), all, values);
        hashes.extend(values.iter().map(|&c| self.hash(cut, c as u32, c)));
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }
}

pub(super) fn fixed(path: &Path, dim: usize) -> u128 {
    let own = path.iter().filter(|p| usize::from(p.0) == dim);
    own.fold(0, |mask, p| mask | p.1)
}

impl<'b> Builder<'b> {
    /// The rule in a slot.
    pub(super) fn row(&self, slot: u32) -> Row<'b> {
        let rules: &'b Rules = self.rules;
        let tests = rules
            .at_slot(slot)
            .map(|rule| self.tree.tests(rule, self.scope));
        Row {
            slot,
            tests: tests.unwrap_or(Tests::NONE),
        }
    }

    pub(super) fn rows(&self, slots: impl IntoIterator<Item = u32>) -> Vec<Row<'b>> {
        slots.into_iter().map(|slot| self.row(slot)).collect()
    }

    /// Rules that a leaf has without ado. The tree that is rarely asked is kept small.
    fn roomy(&self) -> usize {
        match self.scope {
            Scope::Whole if self.depth == 0 => FEW,
            Scope::Whole => LEAF,
            Scope::Prelude => BLOCK,
        }
    }

    /// The part of a tree with these rules, which are in order.
    pub(super) fn part(&mut self, rows: &[Row<'b>], path: &mut Path) -> Child {
        match rows {
            [] => return Child::NONE,
            [row] => return self.single(row),
            _ => {}
        }
        if rows.len() > self.roomy()
            && let Some(node) = self.node(rows, path)
        {
            return node;
        }
        self.leaf(rows)
    }

    /// The part with only one rule: its entry where that is certain and there is memory left
    /// for it.
    pub(super) fn single(&mut self, row: &Row<'_>) -> Child {
        if self.alone > 0 {
            let entry = self.entry(row);
            if entry.is_certain() {
                self.alone -= 1;
                return Child::new(Part::Entry(self.tree.leaves.add_alone(entry)));
            }
        }
        Child::new(Part::Rule(row.slot))
    }

    /// A node that is worth its while.
    pub(super) fn node(&mut self, rows: &[Row<'b>], path: &mut Path) -> Option<Child> {
        if self.depth >= DEPTH {
            return None;
        }
        let mut rest: Vec<u32> = (0..rows.len() as u32).collect();
        let mut cuts: Vec<(Cut, u128)> = Vec::new();
        let mut members: Vec<Member> = Vec::new();
        while rest.len() > self.roomy() && cuts.len() < CUTS {
            let chosen = self.choose(rows, &rest, path);
            let Some((dim, mask)) = chosen else { break };
            let Some(cut) = self.tree.cut(dim, mask) else {
                break;
            };
            let before = members.len();
            self.distribute((&cut, cuts.len() as u8), rows, &mut rest, &mut members);
            if members.len() == before {
                break;
            }
            cuts.push((cut, mask));
        }
        members.sort_unstable();
        let count = members.chunk_by(|a, b| a.0 == b.0).count();
        if count <= usize::from(rest.is_empty()) {
            return None;
        }
        let only: Vec<Cut> = cuts.iter().map(|c| c.0).collect();
        self.depth += 1;
        let (mut made, before) = (Vec::with_capacity(count), self.alone);
        // In the order of their first rules, as rules stand in memory.
        let mut cells: Vec<(u32, &[Member])> = Vec::with_capacity(count);
        let all = members.chunk_by(|a, b| a.0 == b.0);
        cells.extend(all.map(|cell| (cell[0].2, cell)));
        cells.sort_unstable_by_key(|cell| cell.0);
        for (_, cell) in cells {
            let (cut, mask) = cuts[usize::from(cell[0].1)];
            path.push((cut.dim, mask));
            let (lenses, own) = match cell {
                [(.., only)] => self.cell(&[rows[*only as usize]], path),
                _ => self.cell(&members_of(cell, rows), path),
            };
            made.push((cell[0].0, lenses, own));
            path.pop();
        }
        let buckets = buckets_for(count, before - self.alone);
        let mut node = Node::new(&only, buckets);
        for (hash, lenses, cell) in made {
            node.place(hash, lenses, cell);
        }
        let rest: Vec<Row<'b>> = rest.iter().map(|&i| rows[i as usize]).collect();
        node.rest_first = rest.first().map_or(0, |row| row.slot);
        node.rest = self.part(&rest, path);
        self.depth -= 1;
        Some(self.tree.add_node(node))
    }

    /// Sorts the rules of `left` into the cells of a cut; those that belong to none stay.
    fn distribute(
        &mut self,
        (cut, number): (&Cut, u8),
        rows: &[Row<'_>],
        left: &mut Vec<u32>,
        members: &mut Vec<Member>,
    ) {
        let mut scratch = Scratch::default();
        members.reserve(left.len());
        left.retain(|&i| {
            let Some(test) = rows[i as usize].tests.get(usize::from(cut.dim)) else {
                return true;
            };
            let cells = self.tree.cells_of(cut, test, &mut scratch);
            if cells.is_empty() || cells.len() - 1 > self.copies {
                return true;
            }
            self.copies -= cells.len() - 1;
            members.extend(cells.iter().map(|&hash| (hash, number, i)));
            false
        });
    }

    /// A cell of some rules with the lenses that sort most packets out.
    pub(super) fn cell(&mut self, rows: &[Row<'b>], path: &mut Path) -> ([u8; FILTERS], Cell) {
        let (lenses, bounds) = self.filter(rows, path);
        let cell = Cell {
            child: self.part(rows, path),
            first: rows.first().map_or(0, |row| row.slot),
            bounds,
        };
        (lenses, cell)
    }

    /// The field and the bits that keep most of the rules `left` apart, if it is worth a
    /// node.
    fn choose(&self, rows: &[Row<'_>], left: &[u32], path: &Path) -> Option<(usize, u128)> {
        let step = left.len().div_ceil(SAMPLE);
        let count = left.len().div_ceil(step);
        let leaf = (self.roomy() as f64 / step as f64).max(1.0);
        let mut best: Option<(f64, usize, u128)> = None;
        for (dim, field) in self.tree.dims.iter().enumerate() {
            let bits = field.bits();
            let sample = left
                .iter()
                .step_by(step)
                .filter_map(|&i| rows[i as usize].tests.get(dim));
            let told: Vec<_> = sample.map(|t| (known(t) & bits, hull(t, bits).0)).collect();
            for mask in frequent_masks(&told, fixed(path, dim)) {
                let gain = gain(&told, mask, count, leaf);
                if best.is_none_or(|b| gain > b.0) {
                    best = Some((gain, dim, mask));
                }
            }
        }
        let (gain, dim, mask) = best?;
        let possible = (count as f64 / leaf).log2().max(0.01);
        let spared = left.len() as f64 * (1.0 - (-gain).exp2());
        let worthwhile = if self.depth == 0 { FEW as f64 } else { SPARED };
        (gain >= SHARE * possible && spared >= worthwhile).then_some((dim, mask))
    }

    /// A leaf, or a pile when there are too many rules for one.
    pub(super) fn leaf(&mut self, rows: &[Row<'_>]) -> Child {
        let entries: Vec<Entry> = rows.iter().map(|row| self.entry(row)).collect();
        Child::new(if rows.len() > BLOCK {
            Part::Pile(self.tree.leaves.add_pile(&entries))
        } else {
            Part::Leaf(self.tree.leaves.add(&entries, 0))
        })
    }
}

/// How many buckets a new node has, with so many cells and so many entries that stand alone.
fn buckets_for(cells: usize, alone: usize) -> usize {
    let full = cells >= LARGE && alone >= cells / MANY;
    let load = if full { LOAD.1 } else { LOAD.0 };
    (cells as f64 / load).ceil() as usize
}

/// The rules of a cell in order.
fn members_of<'r>(cell: &[Member], rows: &[Row<'r>]) -> Vec<Row<'r>> {
    let mut own: Vec<u32> = cell.iter().map(|m| m.2).collect();
    own.sort_unstable();
    own.dedup();
    own.iter().map(|&i| rows[i as usize]).collect()
}

/// The masks that most tests fix, beyond what the path has fixed.
fn frequent_masks(told: &[(u128, u128)], fixed: u128) -> Vec<u128> {
    let mut masks: Vec<(usize, u128)> = Vec::new();
    for &(known, _) in told.iter().filter(|t| t.0 & !fixed != 0) {
        match masks.iter_mut().find(|m| m.1 == known) {
            Some(mask) => mask.0 += 1,
            None => masks.push((1, known)),
        }
    }
    masks.sort_unstable_by_key(|&m| Reverse(m));
    masks.truncate(MASKS);
    masks.into_iter().map(|m| m.1).collect()
}

/// Bits that a cut tells about an average rule of `count`, not counting what tells rules
/// of one leaf apart. `told` are the known bits of the tests and a value of each.
fn gain(told: &[(u128, u128)], mask: u128, count: usize, leaf: f64) -> f64 {
    let cut = told.iter().filter(|t| t.0 & mask == mask);
    let mut values: Vec<u128> = cut.map(|t| t.1 & mask).collect();
    values.sort_unstable();
    let count = count as f64;
    let alone = (count / leaf).log2();
    let told = values.chunk_by(|a, b| a == b).map(|cell| {
        let cell = cell.len() as f64;
        cell * if cell <= leaf {
            alone
        } else {
            (count / cell).log2()
        }
    });
    told.sum::<f64>() / count
}

/// The slots of rules that do something to some packets, in order.
pub(super) fn active(rules: &Rules, wanted: impl Fn(&Rule) -> bool) -> Vec<u32> {
    let all = rules.slots().zip(rules.iter());
    let active = all.filter(|(_, rule)| !is_void(rule) && wanted(rule));
    active.map(|(slot, _)| slot).collect()
}
