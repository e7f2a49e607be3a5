//! Which lenses tell the rules of a set from other packets' rules.

use super::build::{Builder, Path, Row, SAMPLE, fixed};
use super::by_field::Tests;
use super::key::{ALL, BLIND, Bounds, Dim, LENSES, Lens, enclose, width};
use super::leaf::{BLOCK, VIEWS};
use super::reading::{common, hull, known, worth};
use super::tree::{FILTERS, Tree};

/// Bits that a lens of a cell must tell about an average rule.
const LEAST: f64 = 0.3;
/// The bits of wide values that lenses look at, only few sets.
const COARSE: [u128; 5] = [
    u128::MAX,
    u128::MAX << 64,
    u128::MAX << 80,
    u128::MAX << 96,
    u128::MAX << 112,
];

/// What a lens may tell of a set of rules.
pub(super) struct View {
    /// Bits told about an average rule.
    share: f64,
    /// A lens for narrow values, or one that is still to be made.
    lens: Lens,
    /// Of wide values, the bits that most rules fix.
    mask: Option<u128>,
}

impl Tree {
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

    /// The number of a view's lens.
    fn lens_of(&mut self, view: &View) -> u8 {
        let Some(mask) = view.mask else {
            return self.lens(view.lens);
        };
        let mask = self.mask_number(mask);
        mask.map_or(BLIND, |mask| self.lens(Lens::hash(view.lens.dim, mask)))
    }

    /// Where a rule's packets lie when seen through a lens.
    fn bounds(&self, lens: u8, tests: &Tests<'_>) -> Bounds {
        let Lens { dim, .. } = self.lenses[usize::from(lens)];
        let dim = usize::from(dim);
        match tests.get(dim) {
            Some(test) if lens != BLIND => {
                let (lo, hi) = hull(test, self.dims[dim].bits());
                self.lenses[usize::from(lens)].bounds(lo, hi, common(test), &self.masks)
            }
            _ => ALL,
        }
    }

    /// Where they lie when seen through a cell's lenses.
    pub(super) fn bounds_of_cell(
        &self,
        lenses: [u8; FILTERS],
        tests: &Tests<'_>,
    ) -> [u16; 2 * FILTERS] {
        flat(lenses.map(|lens| self.bounds(lens, tests)))
    }

    /// Where they lie when seen as leaves do.
    pub(super) fn bounds_of_entry(&self, tests: &Tests<'_>) -> [Bounds; VIEWS] {
        self.views.map(|lens| self.bounds(lens, tests))
    }
}

impl Builder<'_> {
    /// Chooses the lenses of all leaves.
    pub(super) fn choose_views(&mut self, rows: &[Row<'_>]) {
        let views = self.views(rows, &Path::new(), 0.0);
        self.tree.views = [BLIND; VIEWS];
        for (at, view) in views.iter().take(VIEWS).enumerate() {
            self.tree.views[at] = self.tree.lens_of(view);
        }
        self.views = views;
    }

    /// The lenses of a cell, and the intervals that all its rules lie in.
    pub(super) fn filter(
        &mut self,
        rows: &[Row<'_>],
        path: &Path,
    ) -> ([u8; FILTERS], [u16; 2 * FILTERS]) {
        let (mut lenses, mut bounds) = ([BLIND; FILTERS], [ALL; FILTERS]);
        if rows.len() <= BLOCK {
            let views = self.views(rows, path, LEAST);
            let narrow = views.iter().filter_map(|view| self.narrowed(view, rows));
            let places = lenses.iter_mut().zip(&mut bounds);
            for ((lens, bounds), found) in places.zip(narrow) {
                (*lens, *bounds) = found;
            }
            self.views = views;
        }
        (lenses, flat(bounds))
    }

    /// The lens of a view, and the interval that all the rules lie in, if it is a narrow one.
    fn narrowed(&mut self, view: &View, rows: &[Row<'_>]) -> Option<(u8, Bounds)> {
        let lens = self.tree.lens_of(view);
        let all = rows.iter().map(|row| self.tree.bounds(lens, &row.tests));
        let bounds = all.reduce(enclose)?;
        let dim = &self.tree.dims[usize::from(view.lens.dim)];
        // Hashes of different values have nothing between them.
        let most = match view.mask {
            Some(_) => 0,
            None => dim.bits().min(u16::MAX.into()) as u16 / 4,
        };
        let narrow = width(bounds).is_some_and(|width| width <= most);
        (lens != BLIND && narrow).then_some((lens, bounds))
    }

    /// What the fields tell of a set of rules beyond its path, the most telling first.
    fn views(&mut self, rows: &[Row<'_>], path: &Path, least: f64) -> Vec<View> {
        let mut views = std::mem::take(&mut self.views);
        views.clear();
        let step = rows.len().div_ceil(SAMPLE);
        for (dim, field) in self.tree.dims.iter().enumerate() {
            let sample = rows.iter().step_by(step);
            if sample.clone().all(|row| row.tests.get(dim).is_none()) {
                continue;
            }
            let (number, fixed) = (dim as u8, fixed(path, dim));
            if field.wide.is_some() {
                let view = |mask| self.wide_view(number, mask, sample.clone(), fixed);
                views.extend(COARSE.map(view));
                continue;
            }
            views.push(self.narrow_view(Lens::low(number), sample.clone(), fixed));
            if field.bits() > 0xffff {
                views.push(self.narrow_view(Lens::high(number), sample, fixed >> 16));
            }
        }
        views.retain(|view| view.share > least);
        views.sort_by(|a, b| b.share.total_cmp(&a.share));
        views
    }

    /// What a lens tells of narrow values beyond bits that are `fixed`.
    fn narrow_view<'s>(
        &self,
        lens: Lens,
        sample: impl ExactSizeIterator<Item = &'s Row<'s>>,
        fixed: u128,
    ) -> View {
        let dim = usize::from(lens.dim);
        let field = &self.tree.dims[dim];
        let most = u16::BITS.min(field.bits().count_ones());
        let fixed = (fixed as u16).count_ones();
        let count = sample.len() as f64;
        let told = sample.filter_map(|row| row.tests.get(dim)).map(|test| {
            let (lo, hi) = hull(test, field.bits());
            let open = width(lens.bounds(lo, hi, 0, &[])).and_then(u16::checked_ilog2);
            let told = most.saturating_sub(open.map_or(0, |b| b + 1) + fixed);
            worth(field.field, told)
        });
        View {
            share: told.sum::<f64>() / count,
            lens,
            mask: None,
        }
    }

    /// What a hash of the bits `mask` tells of wide values beyond bits that are `fixed`, if
    /// no hash of more bits tells it.
    fn wide_view<'s>(
        &self,
        dim: u8,
        mask: u128,
        sample: impl ExactSizeIterator<Item = &'s Row<'s>>,
        fixed: u128,
    ) -> View {
        let field = &self.tree.dims[usize::from(dim)];
        let mask = mask & field.bits();
        let fresh = worth(field.field, (mask & !fixed).count_ones());
        let count = sample.len() as f64;
        let tests = sample.filter_map(|row| row.tests.get(usize::from(dim)));
        let own = tests.filter(|test| coarse(known(test) & field.bits(), field) == mask);
        View {
            share: own.count() as f64 * fresh / count,
            lens: Lens::low(dim),
            mask: Some(mask),
        }
    }
}

/// The largest of these sets within some bits of a field, or none.
fn coarse(known: u128, dim: &Dim) -> u128 {
    let sets = COARSE.map(|set| set & dim.bits());
    let fits = |set: &u128| set & known == *set;
    sets.into_iter().find(fits).unwrap_or(0)
}

/// The intervals of a cell in a row.
fn flat([[a, b], [c, d]]: [Bounds; FILTERS]) -> [u16; 2 * FILTERS] {
    [a, b, c, d]
}
