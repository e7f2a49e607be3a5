//! Making a tree: which cuts keep rules apart, and which lenses sort them out.

use std::cmp::Reverse;
use std::iter;

use tidegate_ir::{Field, Rule, Rules, Test};
use tidegate_wire::Family;

use super::by_field::Tests;
use super::key::{BLIND, DIMS, Dim, LENSES, Lens, WIDE};
use super::leaf::{BLOCK, Entry, Leaves, VIEWS, interval};
use super::reading::{Scope, cells, common, hull, is_cheap, is_void, known, tests, worth};
use super::tree::{CUTS, Cell, Child, Cut, Node, Part, Tree};

/// Rules that a leaf has without ado.
pub(super) const LEAF: usize = 12;
/// Rules that the whole tree has without ado, and that its first node must spare: so many are
/// gone through as fast as a node.
const FEW: usize = 4;
/// Entries that a node must spare a look-up, on average.
const SPARED: f64 = 8.0;
/// Part of what could be told apart that a cut must.
const SHARE: f64 = 0.05;
/// Rules that are looked at to choose a cut.
const SAMPLE: usize = 256;
/// Masks of one field that are tried, the most frequent ones.
const MASKS: usize = 8;
/// Masks of wide fields that one tree can use.
const MOST_MASKS: usize = 1024;
/// Cells per bucket of three in a new node.
const LOAD: f64 = 1.4;
/// Places that rules may have on average beyond their first.
const COPIES: usize = 3;
/// Depth of the tree.
const DEPTH: usize = 24;
/// Bits that a lens must tell about an average rule.
const LEAST: f64 = 0.3;

/// Bits that all rules of a part of the tree share with the packets that get there.
pub(super) type Path = Vec<(u8, u128)>;

/// Adds to a tree.
pub(super) struct Builder<'b> {
    pub(super) tree: &'b mut Tree,
    pub(super) rules: &'b Rules,
    pub(super) scope: Scope,
    /// How many more places rules may have than there are rules.
    pub(super) copies: usize,
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

/// What a field tells of a set of rules, for choosing lenses.
pub(super) struct View {
    /// Bits told about an average rule.
    share: f64,
    dim: u8,
    /// Bits that most rules fix.
    mask: u128,
    /// Bits that the path has fixed.
    fixed: u128,
}

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
        let root = builder.part(&rows, &mut Path::new());
        tree.root = root;
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
        if self.dims.len() < DIMS && wide.is_none_or(|w| usize::from(w) < WIDE) {
            self.dims.push(Dim { field, wide });
        }
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

    /// The number of a lens, which is made if there is room.
    fn lens(&mut self, lens: Lens) -> u8 {
        if let Some(at) = self.lenses.iter().position(|l| *l == lens) {
            return at as u8;
        }
        if self.lenses.len() == LENSES {
            return BLIND;
        }
        self.lenses.push(lens);
        (self.lenses.len() - 1) as u8
    }

    /// A lens of 32 bits, or of 16 bits, which are others than those that the path has
    /// fixed.
    fn lens_of(&mut self, view: &View, short: bool) -> u8 {
        let dim = &self.dims[usize::from(view.dim)];
        let long_field = dim.field.row().bits > 16;
        if dim.wide.is_some() {
            let mask = self.mask_number(view.mask);
            return mask.map_or(BLIND, |mask| self.lens(Lens::hash(view.dim, mask, short)));
        }
        let high = short && long_field && view.fixed >> 16 != 0xffff;
        self.lens(match high {
            true => Lens::high(view.dim),
            false => Lens::whole(view.dim, short || !long_field),
        })
    }

    /// The number of a mask, which is made if there is room.
    fn mask_number(&mut self, mask: u128) -> Option<u16> {
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

fn fixed(path: &Path, dim: usize) -> u128 {
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
            Scope::Prelude => 4 * LEAF,
        }
    }

    /// The part of a tree with these rules, which are in order.
    pub(super) fn part(&mut self, rows: &[Row<'b>], path: &mut Path) -> Child {
        match rows {
            [] => return Child::NONE,
            [row] => return Child::new(Part::Rule(row.slot)),
            _ => {}
        }
        if rows.len() > self.roomy()
            && let Some(node) = self.node(rows, path)
        {
            return node;
        }
        self.leaf(rows, path)
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
        let mut node = Node::new(&only, (count as f64 / LOAD).ceil() as usize);
        self.depth += 1;
        // In the order of their first rules, as rules stand in memory.
        let mut cells: Vec<(u32, &[Member])> = Vec::with_capacity(count);
        let all = members.chunk_by(|a, b| a.0 == b.0);
        cells.extend(all.map(|cell| (cell[0].2, cell)));
        cells.sort_unstable_by_key(|cell| cell.0);
        for (_, cell) in cells {
            let (cut, mask) = cuts[usize::from(cell[0].1)];
            path.push((cut.dim, mask));
            let (lens, made) = match cell {
                [(.., only)] => self.cell(&[rows[*only as usize]], path),
                _ => self.cell(&members_of(cell, rows), path),
            };
            node.place(cell[0].0, lens, made);
            path.pop();
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

    /// A cell of some rules with the lens that sorts most packets out.
    pub(super) fn cell(&mut self, rows: &[Row<'b>], path: &mut Path) -> (u8, Cell) {
        let (lens, lo, hi) = self.filter(rows, path);
        let cell = Cell {
            child: self.part(rows, path),
            first: rows.first().map_or(0, |row| row.slot),
            lo,
            hi,
        };
        (lens, cell)
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

    /// What the fields tell of a set of rules beyond its path, the most telling first.
    fn views(&mut self, rows: &[Row<'_>], path: &Path) -> Vec<View> {
        let mut views = std::mem::take(&mut self.views);
        views.clear();
        let step = rows.len().div_ceil(SAMPLE);
        let count = rows.len().div_ceil(step) as f64;
        for (dim, field) in self.tree.dims.iter().enumerate() {
            let mut tests = rows
                .iter()
                .step_by(step)
                .filter_map(|row| row.tests.get(dim));
            let Some(first) = tests.next() else { continue };
            let (bits, fixed) = (field.bits(), fixed(path, dim));
            let mut view = View {
                share: 0.0,
                dim: dim as u8,
                mask: bits,
                fixed,
            };
            for test in iter::once(first).chain(tests) {
                let known = known(test) & bits;
                let (lo, hi) = hull(test, bits);
                let open = hi.saturating_sub(lo).checked_ilog2().map_or(0, |b| b + 1);
                let narrowed = bits.count_ones().saturating_sub(open + fixed.count_ones());
                let fresh = (known & !fixed).count_ones();
                view.share += worth(field.field, fresh.max(narrowed)) / count;
                if fresh > 0 && known < view.mask {
                    view.mask = known;
                }
            }
            view.mask = coarse(view.mask, field);
            if view.share >= LEAST && view.mask != 0 {
                views.push(view);
            }
        }
        views.sort_by(|a, b| b.share.total_cmp(&a.share));
        views
    }

    /// The lens of a cell, and the interval that all its rules lie in.
    fn filter(&mut self, rows: &[Row<'_>], path: &Path) -> (u8, u32, u32) {
        let none = (BLIND, 0, u32::MAX);
        if rows.len() > BLOCK {
            return none;
        }
        let views = self.views(rows, path);
        let found = views.iter().find_map(|view| self.narrowed(view, rows));
        self.views = views;
        found.unwrap_or(none)
    }

    /// The lens of a view, and the interval that all the rules lie in, if it is a narrow one.
    fn narrowed(&mut self, view: &View, rows: &[Row<'_>]) -> Option<(u8, u32, u32)> {
        let lens = self.tree.lens_of(view, false);
        let (mut lo, mut hi) = (u32::MAX, 0);
        for row in rows {
            let own = self.tree.interval(lens, &row.tests);
            (lo, hi) = (lo.min(own.0), hi.max(own.1));
        }
        // Hashes of different values have nothing between them.
        let dim = &self.tree.dims[usize::from(view.dim)];
        let hashed = dim.wide.is_some();
        let all = dim.bits().min(u32::MAX.into()) as u32;
        let narrow = hi.checked_sub(lo).is_some_and(|width| width <= all / 4);
        (lens != BLIND && narrow && (!hashed || lo == hi)).then_some((lens, lo, hi))
    }

    /// A leaf, or a pile when there are too many rules for one.
    pub(super) fn leaf(&mut self, rows: &[Row<'_>], path: &Path) -> Child {
        let mut views = self.views(rows, path);
        views.truncate(VIEWS);
        let needs_long = |v: &View| self.tree.dims[usize::from(v.dim)].bits() > 0xffff;
        let long = views.iter().position(needs_long).map(|i| views.remove(i));
        let long = long.map_or(BLIND, |v| self.tree.lens_of(&v, false));
        let mut next = views.iter().map(|v| self.tree.lens_of(v, true));
        let mut short = || next.next().unwrap_or(BLIND);
        let lenses = [long, short(), short(), short()];
        let entry = |row: &Row<'_>| self.tree.entry(lenses, row);
        let entries: Vec<Entry> = rows.iter().map(entry).collect();
        self.views = views;
        Child::new(if rows.len() > BLOCK {
            Part::Pile(self.tree.leaves.add_pile(lenses, &entries))
        } else {
            Part::Leaf(self.tree.leaves.add(lenses, &entries, 0))
        })
    }
}

impl Tree {
    /// Where a rule's packets lie when seen through a lens.
    pub(super) fn interval(&self, lens: u8, tests: &Tests<'_>) -> (u32, u32) {
        let lens = &self.lenses[usize::from(lens)];
        let dim = usize::from(lens.dim);
        match tests.get(dim) {
            Some(test) if *lens != Lens::BLIND => {
                let (lo, hi) = hull(test, self.dims[dim].bits());
                lens.interval(lo, hi, common(test), &self.masks)
            }
            _ => (0, lens.absent),
        }
    }

    /// A rule's entry in a leaf.
    pub(super) fn entry(&self, lenses: [u8; VIEWS], row: &Row<'_>) -> Entry {
        let [long, short @ ..] = lenses.map(|lens| self.interval(lens, &row.tests));
        let [b, c, d] = short.map(|(lo, hi)| interval(lo, hi));
        [row.slot, long.0, long.1, b, c, d]
    }
}

/// The rules of a cell in order.
fn members_of<'r>(cell: &[Member], rows: &[Row<'r>]) -> Vec<Row<'r>> {
    let mut own: Vec<u32> = cell.iter().map(|m| m.2).collect();
    own.sort_unstable();
    own.dedup();
    own.iter().map(|&i| rows[i as usize]).collect()
}

/// The bits a lens looks at: of wide values only some sets, so that there are few lenses.
fn coarse(mask: u128, dim: &Dim) -> u128 {
    if dim.wide.is_none() {
        return mask;
    }
    let masks = [0, 32, 48, 64].map(|open| u128::MAX << (64 - open) << 64);
    let fits = |m: &u128| m & mask == *m;
    let all = [u128::MAX].into_iter().chain(masks.into_iter().rev());
    all.into_iter().find(fits).unwrap_or(mask)
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
