//! What one rule says of another without a diagram: whose packets it takes, and whether they
//! can meet at all.

use std::collections::{BTreeSet, HashSet};

use tidegate_ir::{Cond, Conds, Effect, Field, Rule, Table, Test, Verdict};

use crate::space::Space;
use crate::window::{Asks, FIELDS, TableAsks, place};

/// Whether an effect may change what later rules of the table see of a field.
fn writes(effect: &Effect, field: Field) -> bool {
    let tracking = field == Field::CtState || field.is_connection();
    effect.changes(field) || tracking && matches!(effect, Effect::Ct(_))
}

/// Tells whether fields hold what they held at the table's start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Steady {
    /// Those that do not.
    changed: BTreeSet<Field>,
}

impl Steady {
    pub(crate) fn of(table: &Table) -> Self {
        let rules = || table.chains.iter().flat_map(|c| c.rules.iter());
        let effects: HashSet<&Effect> = rules().flat_map(|r| r.effects.iter()).collect();
        if effects.is_empty() {
            return Steady::default();
        }
        let mut fields: BTreeSet<Field> = FIELDS.into_iter().collect();
        for rule in rules() {
            rule.cond.visit(&mut |c| {
                if let Cond::Test(test) = c {
                    fields.insert(test.field());
                }
            });
        }
        fields.retain(|f| effects.iter().any(|e| writes(e, *f)));
        Steady { changed: fields }
    }

    pub(crate) fn has(&self, field: Field) -> bool {
        // Tests may set labels.
        field != Field::CtLabels && !self.changed.contains(&field)
    }

    /// Whether conditions come out the same for a packet wherever they stand in the table.
    pub(crate) fn covers(&self, conds: &Conds) -> bool {
        conds.iter().all(|c| pure(c, self))
    }
}

/// Whether packets that match the rule do not get to the next one of the chain.
pub(crate) fn takes(rule: &Rule) -> bool {
    let ends = |e: &Effect| matches!(e, Effect::Nat(_) | Effect::Queue(_));
    !matches!(rule.verdict, Verdict::Continue | Verdict::Jump(_)) || rule.effects.iter().any(ends)
}

/// How a rule takes another one's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cover {
    /// Its own guards may drop some of them.
    pub(crate) drops: bool,
}

/// Whether every packet that fulfils `inner` fulfils `outer` or is dropped by it.
pub(crate) fn cover(outer: &Conds, inner: &Conds, steady: &Steady) -> Option<Cover> {
    let given = flat(inner);
    let mut drops = false;
    for leaf in flat(outer) {
        if given.contains(&leaf) && pure(leaf, steady) {
            continue;
        }
        match leaf {
            // Dropped or not, packets do not get past the rule.
            Cond::DropWhen(_) => drops = true,
            _ if implied(leaf, &given, steady) => {}
            _ => return None,
        }
    }
    Some(Cover { drops })
}

fn flat(conds: &Conds) -> Vec<&Cond> {
    fn add<'c>(cond: &'c Cond, all: &mut Vec<&'c Cond>) {
        match cond {
            Cond::All(list) => list.iter().for_each(|c| add(c, all)),
            Cond::Shared(inner) => add(inner, all),
            other => all.push(other),
        }
    }
    let mut all = Vec::new();
    conds.iter().for_each(|c| add(c, &mut all));
    all
}

fn pure(cond: &Cond, steady: &Steady) -> bool {
    let mut pure = true;
    cond.visit(&mut |c| {
        pure &= match c {
            Cond::Test(test) => steady.has(test.field()),
            Cond::Call(_) => false,
            _ => true,
        }
    });
    pure
}

/// Whether a condition without guards holds where all of `given` do.
fn implied(leaf: &Cond, given: &[&Cond], steady: &Steady) -> bool {
    match leaf {
        Cond::Const(holds) => *holds,
        Cond::Test(test) => steady.has(test.field()) && given.iter().any(|g| narrower(g, test)),
        Cond::Shared(inner) => implied(inner, given, steady),
        Cond::All(list) => list.iter().all(|c| implied(c, given, steady)),
        Cond::Any(list) => {
            let guards = list.iter().any(has_guard);
            !guards && list.iter().any(|c| implied(c, given, steady))
        }
        Cond::Not(inner) => match &**inner {
            Cond::Test(test) => steady.has(test.field()) && given.iter().any(|g| apart(g, test)),
            _ => false,
        },
        Cond::DropWhen(_) | Cond::Call(_) => false,
    }
}

fn has_guard(cond: &Cond) -> bool {
    let mut found = false;
    cond.visit(&mut |c| found |= matches!(c, Cond::DropWhen(_)));
    found
}

/// Whether `given` holds for nothing for which `test` does not.
fn narrower(given: &Cond, test: &Test) -> bool {
    match given {
        Cond::Test(own) => own.field() == test.field() && within(own, test),
        Cond::Any(list) => !list.is_empty() && list.iter().all(|c| narrower(c, test)),
        Cond::All(list) => list.iter().any(|c| narrower(c, test)),
        Cond::Shared(inner) => narrower(inner, test),
        _ => false,
    }
}

/// Whether `given` and `test` hold for no packet both.
fn apart(given: &Cond, test: &Test) -> bool {
    match given {
        Cond::Test(own) if own.field() == test.field() => match (ranges(own), ranges(test)) {
            (Some(a), Some(b)) => {
                let meet = |x: &(u128, u128)| b.iter().any(|y| x.0 <= y.1 && y.0 <= x.1);
                !a.iter().any(meet)
            }
            _ => false,
        },
        Cond::Not(inner) => match &**inner {
            Cond::Test(own) => own.field() == test.field() && within(test, own),
            _ => false,
        },
        Cond::Any(list) => !list.is_empty() && list.iter().all(|c| apart(c, test)),
        Cond::All(list) => list.iter().any(|c| apart(c, test)),
        Cond::Shared(inner) => apart(inner, test),
        _ => false,
    }
}

/// Whether all values of one test are values of the other.
fn within(a: &Test, b: &Test) -> bool {
    if let (Some((x, wanted)), Some((y, other))) = (a.mask(), b.mask()) {
        // What cannot hold is within everything, but nobody asks for that.
        return y & !x == 0 && wanted & y == other;
    }
    match (ranges(a), ranges(b)) {
        (Some(a), Some(b)) => a.iter().all(|x| b.iter().any(|y| y.0 <= x.0 && x.1 <= y.1)),
        _ => false,
    }
}

fn ranges(test: &Test) -> Option<Vec<(u128, u128)>> {
    match test.mask() {
        Some((mask, wanted)) => Some(vec![crate::space::prefix(test.field(), mask, wanted)?]),
        None => Some(test.intervals()?.collect()),
    }
}

/// The smallest box around a rule's packets, in codes: rules in different places have nothing
/// to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row([(u32, u32); FIELDS.len()]);

impl Row {
    fn of(asks: &Asks, space: &Space, steady: &[bool; FIELDS.len()]) -> Self {
        let window = asks.window(space);
        let mut row = Row([(0, u32::MAX); FIELDS.len()]);
        for (at, field) in FIELDS.into_iter().enumerate() {
            let (lo, hi) = window.interval(at);
            if steady[at] {
                row.0[at] = space.coded(field, lo, hi);
            }
        }
        row
    }

    #[inline]
    pub(crate) fn meets(&self, other: &Row) -> bool {
        let apart = |(a, b): (&(u32, u32), &(u32, u32))| a.1 < b.0 || b.1 < a.0;
        !self.0.iter().zip(&other.0).any(apart)
    }
}

impl Rows {
    /// Whether one rule's box is within another's, of one chain; what guards ask of lengths counts
    /// not, since they take what they drop.
    #[inline]
    pub(crate) fn around(&self, chain: usize, outer: usize, inner: usize) -> bool {
        let (outer, inner) = (&self.0[chain][outer].0, &self.0[chain][inner].0);
        let length = place(Field::L4Len);
        (0..FIELDS.len()).all(|at| {
            let (o, i) = (outer[at], inner[at]);
            Some(at) == length || o.0 <= i.0 && i.1 <= o.1
        })
    }
}

/// Boxes of all rules of a table, by chain.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(Vec<Vec<Row>>);

/// Rules that may have to do with some packets, by chain and in order.
pub(crate) type Near = Vec<Vec<u32>>;

impl Rows {
    pub(crate) fn of(table: &Table, asks: &TableAsks, space: &Space, steady: &Steady) -> Self {
        let steady = FIELDS.map(|f| steady.has(f));
        let row = |rule: &Rule| match asks.get(rule.id) {
            Some(asks) => Row::of(asks, space, &steady),
            None => Row([(0, u32::MAX); FIELDS.len()]),
        };
        let chain = |c: &tidegate_ir::Chain| c.rules.iter().map(row).collect();
        Rows(table.chains.iter().map(chain).collect())
    }

    /// Rules whose boxes meet that of a rule; of its own chain, if that is entered once, only
    /// those before it and itself.
    pub(crate) fn near(&self, (chain, index): (usize, usize), once: bool) -> Near {
        let own = self.0[chain][index];
        let of = |(at, rows): (usize, &Vec<Row>)| {
            let end = if at == chain && once {
                index + 1
            } else {
                rows.len()
            };
            let near = rows[..end].iter().enumerate().filter(|r| own.meets(r.1));
            near.map(|r| r.0 as u32).collect()
        };
        self.0.iter().enumerate().map(of).collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// How much of the space a rule's box takes, as a logarithm.
    pub(crate) fn volume(&self, (chain, index): (usize, usize)) -> u32 {
        let wide = |(lo, hi): &(u32, u32)| 32 - hi.saturating_sub(*lo).leading_zeros();
        self.0[chain][index].0.iter().map(wide).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_ir::Ranges;

    fn conds(list: Vec<Cond>) -> Conds {
        Cond::all(list).into()
    }

    fn covered(outer: Vec<Cond>, inner: Vec<Cond>) -> Option<Cover> {
        cover(&conds(outer), &conds(inner), &Steady::default())
    }

    #[test]
    fn wider_rules_cover_narrower_ones() {
        let port = |lo, hi| Cond::range(Field::Dport, lo, hi);
        let from = |mask, addr| Cond::bits(Field::Src, mask, addr);
        let plain = Some(Cover { drops: false });
        assert_eq!(covered(vec![], vec![port(22, 22)]), plain);
        assert_eq!(covered(vec![port(20, 30)], vec![port(22, 22)]), plain);
        assert_eq!(covered(vec![port(22, 22)], vec![port(20, 30)]), None);
        let (wide, narrow) = (
            from(0xff00_0000, 0x0a00_0000),
            from(0xffff_ff00, 0x0a01_0200),
        );
        assert_eq!(covered(vec![wide.clone()], vec![narrow.clone()]), plain);
        assert_eq!(covered(vec![narrow], vec![wide.clone()]), None);
        // One more condition than the other has.
        assert_eq!(covered(vec![wide, port(0, 65535)], vec![port(1, 1)]), None);
        let list = Cond::within(Field::Dport, Ranges::new(vec![(22, 22), (80, 90)]));
        assert_eq!(covered(vec![list.clone()], vec![port(81, 82)]), plain);
        assert_eq!(covered(vec![port(0, 85)], vec![list]), None);
    }

    #[test]
    fn what_keeps_state_covers_nothing_and_guards_take_what_they_drop() {
        let call = Cond::Call(tidegate_ir::StepId(0));
        assert_eq!(covered(vec![call.clone()], vec![call]), None);
        let guard = Cond::drop_when(Cond::range(Field::L4Len, 0, 19));
        let tcp = Cond::eq(Field::Proto, 6);
        let outer = vec![tcp.clone(), guard.clone()];
        assert_eq!(
            covered(outer.clone(), vec![tcp.clone()]),
            Some(Cover { drops: true })
        );
        assert_eq!(
            covered(outer, vec![tcp, guard]),
            Some(Cover { drops: false })
        );
    }

    #[test]
    fn exclusions_need_something_else() {
        let not = |c: Cond| c.inverted_if(true);
        let port = |v| Cond::eq(Field::Dport, v);
        let plain = Some(Cover { drops: false });
        assert_eq!(covered(vec![not(port(22))], vec![port(23)]), plain);
        assert_eq!(covered(vec![not(port(22))], vec![port(22)]), None);
        assert_eq!(covered(vec![not(port(22))], vec![]), None);
        let range = Cond::range(Field::Dport, 20, 30);
        assert_eq!(covered(vec![not(port(22))], vec![not(range)]), plain);
    }
}
