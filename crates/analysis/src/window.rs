//! What can be said about a rule without a diagram: which values it asks for.

use tidegate_ir::{Cond, Conds, Field, RuleId, Table, Test};

use crate::bdd::{Set, TooBig};
use crate::lens::{Bound, Lens};
use crate::space::{Space, full, prefix};

/// Fields that windows are about.
pub(crate) const FIELDS: [Field; 10] = [
    Field::Proto,
    Field::Dport,
    Field::Sport,
    Field::Src,
    Field::Dst,
    Field::InName,
    Field::OutName,
    Field::CtState,
    Field::L4Len,
    Field::FragOff,
];

/// No restriction of a field.
const OPEN: (u128, u128) = (0, u128::MAX);

/// The first of them are those that windows are cut by.
const CUT: usize = 6;

/// Position of a field among [`FIELDS`].
pub(crate) fn place(field: Field) -> Option<usize> {
    FIELDS.iter().position(|f| *f == field)
}

/// An interval of values for each of some fields: where packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    /// All values also stand for packets that do not have the field.
    spans: [(u128, u128); FIELDS.len()],
    /// Fields, by their bits, that packets do not have.
    without: u16,
}

impl Window {
    /// All packets.
    pub const ALL: Window = Window {
        spans: [OPEN; FIELDS.len()],
        without: 0,
    };

    /// Restricts a field to values that rules can tell from others, at least `lo..=hi`.
    pub fn narrow(&mut self, space: &Space, field: Field, lo: u128, hi: u128) {
        if let Some(at) = place(field) {
            let (lo, hi) = space.widened(field, lo, hi);
            let old = self.spans[at];
            self.spans[at] = (old.0.max(lo), old.1.min(hi));
        }
    }

    /// The interval of one of [`FIELDS`].
    pub(crate) const fn interval(&self, at: usize) -> (u128, u128) {
        self.spans[at]
    }

    /// The packets in it.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn packets(&self, space: &mut Space, of: Set) -> Result<Set, TooBig> {
        let narrow = |f: &(Field, (u128, u128))| f.1 != OPEN;
        let fields = FIELDS.into_iter().zip(self.spans).filter(narrow);
        let fields: Vec<(Field, u128, u128)> = fields.map(|(f, (lo, hi))| (f, lo, hi)).collect();
        if fields.iter().any(|f| f.1 > f.2) {
            return Ok(Set::EMPTY);
        }
        let cube = space.cube(&fields)?;
        let mut set = space.bdd.and(cube, of)?;
        for (at, field) in FIELDS.into_iter().enumerate() {
            if self.lacks(at) {
                let with = space.present(field)?;
                set = space.bdd.minus(set, with)?;
            }
        }
        Ok(set)
    }

    const fn lacks(&self, at: usize) -> bool {
        self.without >> at & 1 == 1
    }

    /// Where packets are that are in both, if there can be any.
    #[must_use]
    pub fn meet(&self, other: &Window) -> Option<Window> {
        let mut both = *self;
        both.without |= other.without;
        for (at, (one, two)) in both.spans.iter_mut().zip(other.spans).enumerate() {
            *one = (one.0.max(two.0), one.1.min(two.1));
            if one.0 > one.1 || *one != OPEN && both.without >> at & 1 == 1 {
                return None;
            }
        }
        Some(both)
    }

    /// How many fields it leaves open, and how many values rules tell apart in the others.
    #[must_use]
    pub fn width(&self, space: &Space) -> (usize, u64) {
        let open = self.spans.iter().filter(|i| **i == OPEN).count();
        let spans = FIELDS.into_iter().zip(self.spans).map(|(field, (lo, hi))| {
            let (first, last) = space.coded(field, lo, hi);
            u64::from(last.saturating_sub(first))
        });
        (open, spans.fold(0, u64::saturating_add))
    }

    /// Cut in two where rules tell the most values apart, and what does not have the field
    /// by itself; `None` where they tell none.
    #[must_use]
    pub fn parts(&self, space: &Space) -> Option<Vec<Window>> {
        let mut widest: Option<(usize, Vec<(u128, u128)>)> = None;
        for (at, field) in FIELDS.into_iter().enumerate().take(CUT) {
            if self.lacks(at) {
                continue;
            }
            let (lo, hi) = self.spans[at];
            let mut classes = space.classes(field);
            classes.retain(|c| c.0 >= lo && c.1 <= hi);
            if classes.len() > widest.as_ref().map_or(1, |w| w.1.len()) {
                widest = Some((at, classes));
            }
        }
        let (at, classes) = widest?;
        let cut = classes[classes.len() / 2].0;
        let (mut low, mut high) = (*self, *self);
        (low.spans[at].1, high.spans[at].0) = (cut - 1, cut);
        let mut parts = vec![low, high];
        if self.spans[at] == OPEN {
            let mut rest = *self;
            rest.without |= 1 << at;
            parts.push(rest);
        }
        Some(parts)
    }

    /// The window through which rules see the packets of a window.
    pub(crate) fn through(&self, lens: &Lens) -> Window {
        let mut seen = Window::ALL;
        for (at, field) in FIELDS.into_iter().enumerate() {
            seen.spans[at] = match lens.get(field) {
                Bound::Const(v) => (v, v),
                Bound::Of { from, keep, xor: 0 } if keep == full(from) => {
                    place(from).map_or(OPEN, |p| self.spans[p])
                }
                Bound::Of { .. } | Bound::Absent | Bound::Unknown => OPEN,
            };
        }
        seen
    }
}

/// One thing that a rule asks, in its order.
#[derive(Clone, Debug)]
enum Ask {
    /// The value is in this interval, else the rule does not hold.
    In(usize, u128, u128),
    /// The value is in this interval, else the packet is dropped.
    Guard(usize, u128, u128),
    /// The value is not in this interval, else the packet is dropped.
    Never(usize, u128, u128),
    /// Anything that may drop the packet.
    Other,
}

/// What a rule asks first of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asks(Vec<Ask>);

impl Asks {
    pub(crate) fn of(conds: &Conds) -> Self {
        let mut asks = Asks::default();
        for cond in conds.iter() {
            asks.add(cond);
        }
        asks
    }

    fn add(&mut self, cond: &Cond) {
        match cond {
            Cond::Shared(inner) => self.add(inner),
            Cond::All(list) => list.iter().for_each(|c| self.add(c)),
            Cond::Test(test) => {
                let of = place(test.field()).zip(hull(test));
                self.0.extend(of.map(|(at, (lo, hi))| Ask::In(at, lo, hi)));
            }
            Cond::DropWhen(inner) => self.0.push(guard(inner)),
            Cond::Const(_) | Cond::Call(_) => {}
            Cond::Any(_) | Cond::Not(_) => {
                let mut drops = false;
                cond.visit(&mut |c| drops |= matches!(c, Cond::DropWhen(_)));
                if drops {
                    self.0.push(Ask::Other);
                }
            }
        }
    }

    /// Whether packets in the window neither fulfil the rule nor are dropped by it.
    #[inline]
    pub(crate) fn misses(&self, window: &Window) -> bool {
        for ask in &self.0 {
            match *ask {
                Ask::In(at, lo, hi) if hi < window.spans[at].0 || window.spans[at].1 < lo => {
                    return true;
                }
                Ask::In(..) => {}
                Ask::Guard(at, lo, hi) if lo <= window.spans[at].0 && window.spans[at].1 <= hi => {}
                Ask::Never(at, lo, hi) if hi < window.spans[at].0 || window.spans[at].1 < lo => {}
                Ask::Guard(..) | Ask::Never(..) | Ask::Other => return false,
            }
        }
        false
    }

    /// The window in which packets that fulfil the rule are.
    pub(crate) fn window(&self, space: &Space) -> Window {
        let mut window = Window::ALL;
        for ask in &self.0 {
            if let Ask::In(at, lo, hi) | Ask::Guard(at, lo, hi) = *ask {
                window.narrow(space, FIELDS[at], lo, hi);
            }
        }
        window
    }
}

/// Where packets are that fulfil these conditions or are dropped by them; of fields that are
/// not `trusted` nothing is said.
#[must_use]
pub fn regions(conds: &Conds, space: &Space, trusted: impl Fn(Field) -> bool) -> Vec<Window> {
    let mut all = Vec::new();
    let mut here = Window::ALL;
    for ask in Asks::of(conds).0 {
        let (Ask::In(at, lo, hi) | Ask::Guard(at, lo, hi) | Ask::Never(at, lo, hi)) = ask else {
            // Whoever has come so far may be dropped.
            all.push(here);
            return all;
        };
        let field = FIELDS[at];
        match (trusted(field), &ask) {
            (true, Ask::In(..)) => here.narrow(space, field, lo, hi),
            (false, Ask::In(..)) => {}
            (true, Ask::Guard(..)) if lo > 0 => {
                let mut dropped = here;
                dropped.narrow(space, field, 0, lo - 1);
                all.push(dropped);
            }
            (true, Ask::Never(..)) => {
                let mut dropped = here;
                dropped.narrow(space, field, lo, hi);
                all.push(dropped);
            }
            _ => {
                all.push(here);
                return all;
            }
        }
    }
    all.push(here);
    all
}

/// The smallest interval that a test's values lie in.
fn hull(test: &Test) -> Option<(u128, u128)> {
    if let Some((mask, wanted)) = test.mask() {
        return prefix(test.field(), mask, wanted);
    }
    let mut all = test.intervals()?;
    let (lo, first) = all.next()?;
    Some((lo, all.last().map_or(first, |l| l.1)))
}

fn guard(inner: &Cond) -> Ask {
    let single = |test: &Test| {
        let mut all = test.intervals()?;
        let one = all.next()?;
        let at = place(test.field())?;
        all.next().is_none().then_some((at, one.0, one.1))
    };
    match inner {
        Cond::Test(test) => single(test).map_or(Ask::Other, |(at, lo, hi)| Ask::Never(at, lo, hi)),
        Cond::Not(inner) => match &**inner {
            Cond::Test(test) => {
                single(test).map_or(Ask::Other, |(at, lo, hi)| Ask::Guard(at, lo, hi))
            }
            _ => Ask::Other,
        },
        _ => Ask::Other,
    }
}

/// What all rules of a table ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableAsks {
    /// The smallest rule id.
    first: u32,
    by_id: Vec<Asks>,
}

impl TableAsks {
    pub(crate) fn of(table: &Table) -> Self {
        let rules = || table.chains.iter().flat_map(|c| c.rules.iter());
        let first = rules().map(|r| r.id.0).min().unwrap_or(0);
        let last = rules().map(|r| r.id.0).max().unwrap_or(0);
        let mut by_id = vec![Asks::default(); (last - first) as usize + 1];
        for rule in rules() {
            by_id[(rule.id.0 - first) as usize] = Asks::of(&rule.cond);
        }
        TableAsks { first, by_id }
    }

    #[inline]
    pub(crate) fn get(&self, id: RuleId) -> Option<&Asks> {
        self.by_id.get(id.0.checked_sub(self.first)? as usize)
    }
}

/// Intervals of which a rule asks for one, by field, for packets to try.
pub(crate) fn choices(conds: &Conds) -> Vec<(Field, Vec<(u128, u128)>)> {
    let mut all = Vec::new();
    for cond in conds.iter() {
        choices_of(cond, &mut all);
    }
    all
}

fn choices_of(cond: &Cond, all: &mut Vec<(Field, Vec<(u128, u128)>)>) {
    match cond {
        Cond::Shared(inner) => choices_of(inner, all),
        Cond::All(list) => list.iter().for_each(|c| choices_of(c, all)),
        // One way will do.
        Cond::Any(list) => list.first().into_iter().for_each(|c| choices_of(c, all)),
        Cond::Test(test) => {
            let intervals = test.intervals().map(Iterator::collect);
            let one = || Some(vec![prefix(test.field(), test.mask()?.0, test.mask()?.1)?]);
            let list: Option<Vec<(u128, u128)>> = intervals.or_else(one);
            all.extend(list.filter(|l| !l.is_empty()).map(|l| (test.field(), l)));
        }
        Cond::Not(_) | Cond::DropWhen(_) | Cond::Const(_) | Cond::Call(_) => {}
    }
}
