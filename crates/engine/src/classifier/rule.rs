//! What a rule says about one field.
use tidegate_ir::{Cond, Field, Rule, Test};

/// Constraint of a rule on a field.
#[derive(Clone, Copy)]
pub struct Span<'r>(&'r Test);

fn is_pure(cond: &Cond) -> bool {
    let mut pure = true;
    cond.visit(&mut |c| pure &= !matches!(c, Cond::Call(_) | Cond::DropWhen(_)));
    pure
}

pub fn parts(rule: &Rule) -> &[Cond] {
    match &rule.cond {
        Cond::All(list) => list,
        single => std::slice::from_ref(single),
    }
}

/// Tests whose failing means that the rule does nothing.
pub fn tests(rule: &Rule, whole: bool) -> impl Iterator<Item = &Cond> {
    parts(rule)
        .iter()
        .take_while(move |c| match c {
            Cond::Test(_) => true,
            Cond::DropWhen(inner) => whole && is_pure(inner),
            c => is_pure(c),
        })
        .filter(|c| !matches!(c, Cond::DropWhen(_)))
}

pub fn field_of(cond: &Cond) -> Option<Field> {
    match cond {
        Cond::Test(t) => is_cheap(t.field()).then_some(t.field()),
        _ => None,
    }
}

pub fn is_cheap(field: Field) -> bool {
    matches!(
        field,
        Field::Src
            | Field::Dst
            | Field::Proto
            | Field::Sport
            | Field::Dport
            | Field::IcmpTypeCode
            | Field::InName
            | Field::OutName
            | Field::Mark
            | Field::CtState
            | Field::Tos
            | Field::Ttl
            | Field::Length
    )
}

fn span(cond: &Cond) -> Option<Span<'_>> {
    match cond {
        Cond::Test(t) => Some(Span(t)),
        _ => None,
    }
}

pub fn span_on(rule: &Rule, field: Field, whole: bool) -> Option<Span<'_>> {
    tests(rule, whole)
        .find(|c| field_of(c) == Some(field))
        .and_then(span)
}

/// Bits that an interval fixes.
pub fn known(lo: u128, hi: u128) -> u128 {
    let differ = lo ^ hi;
    if differ == 0 {
        u128::MAX
    } else {
        !(u128::MAX >> differ.leading_zeros())
    }
}

impl Span<'_> {
    /// Bits that are the same for all values.
    pub fn known(&self, full: u128) -> u128 {
        full & match self.0.mask() {
            Some((m, _)) => m,
            None => self.0.intervals().into_iter().flatten().fold(u128::MAX, |m, (lo, hi)| m & known(lo, hi)),
        }
    }

    /// Cells under `mask`, if few.
    pub fn cells(&self, mask: u128, spread: usize, out: &mut Vec<u128>) -> bool {
        out.clear();
        match self.0.mask() {
            Some((m, v)) => {
                if m & mask == mask {
                    out.push(v & mask);
                }
            }
            None => {
                let Some(list) = self.0.intervals() else { return false };
                if list.size_hint().0 > 16 {
                    return false;
                }
                for (lo, hi) in list {
                    if !spread_over(lo, hi, mask, spread, out) {
                        out.clear();
                        break;
                    }
                }
            }
        }
        !out.is_empty()
    }

    pub fn hull(&self, full: u128) -> (u128, u128) {
        match self.0.mask() {
            Some((m, v)) => (v, v | (full & !m)),
            None => {
                let mut list = self.0.intervals().into_iter().flatten();
                match list.next() {
                    None => (1, 0),
                    Some((lo, hi)) => (lo, list.last().map_or(hi, |l| l.1)),
                }
            }
        }
    }
}

fn spread_over(lo: u128, hi: u128, mask: u128, spread: usize, out: &mut Vec<u128>) -> bool {
    let low = mask & mask.wrapping_neg();
    if (lo ^ hi) < low {
        let cell = lo & mask;
        if !out.contains(&cell) {
            out.push(cell);
        }
        return true;
    }
    // contiguous masks only
    if spread <= 1 || mask.wrapping_add(low) & mask != 0 {
        return false;
    }
    let (first, last) = (lo & mask, hi & mask);
    if (last - first) / low >= spread as u128 {
        return false;
    }
    let mut cell = first;
    loop {
        if !out.contains(&cell) {
            out.push(cell);
        }
        if cell == last {
            return true;
        }
        cell += low;
    }
}
