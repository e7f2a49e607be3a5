//! Which values rules tell apart, and codes for them.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_ir::{Cond, Effect, Expr, Field, Ruleset, ctstate};

use crate::space::{full, prefix};

/// How a field's values are coded.
#[derive(Clone, Debug)]
pub(crate) enum Code {
    /// The bits of the value.
    Bits,
    /// The number of the interval it lies in; the intervals' first values.
    Intervals(Vec<u128>),
}

/// Place and code of a field.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// First variable: the field is there; then the code, highest bit first.
    pub(crate) first: u16,
    pub(crate) bits: u16,
    pub(crate) code: Code,
}

/// Fields that can take each other's values: those of one packet, of the answer to it, and of
/// their connection.
const MIRRORED: [&[Field]; 5] = [
    &[
        Field::Src,
        Field::Dst,
        Field::CtOrigSrc,
        Field::CtOrigDst,
        Field::CtReplSrc,
        Field::CtReplDst,
        Field::CtMasterSrc,
    ],
    &[
        Field::Sport,
        Field::Dport,
        Field::CtOrigSport,
        Field::CtOrigDport,
        Field::CtReplSport,
        Field::CtReplDport,
    ],
    &[Field::InName, Field::OutName],
    &[Field::Proto, Field::CtProto],
    &[Field::SrcType, Field::DstType],
];

/// Fields in the order of their variables: first what says which of the others matter, then what has
/// few values and many rules test.
const ORDER: [Field; 14] = [
    Field::CtState,
    Field::HasCt,
    Field::CtDir,
    Field::CtStatus,
    Field::InName,
    Field::OutName,
    Field::FragOff,
    Field::Proto,
    Field::L4Len,
    Field::TcpFlags,
    Field::IcmpTypeCode,
    Field::Dport,
    Field::Sport,
    Field::Dst,
];

/// Fields that [`crate::possible`] talks about.
const ALWAYS: [Field; 7] = [
    Field::CtState,
    Field::HasCt,
    Field::InName,
    Field::OutName,
    Field::FragOff,
    Field::Proto,
    Field::L4Len,
];

/// Of a connection: whom its packets go to once they are translated.
const TRANSLATED: [Field; 4] = [
    Field::CtReplSrc,
    Field::CtReplSport,
    Field::CtOrigSrc,
    Field::CtOrigSport,
];

/// What rules look at in one field.
#[derive(Clone, Default)]
pub(crate) struct Looks {
    starts: BTreeSet<u128>,
    /// Some test is no interval, or the field is written.
    bits: bool,
}

impl Looks {
    fn interval(&mut self, lo: u128, hi: u128) {
        self.starts.insert(lo);
        self.starts.extend(hi.checked_add(1));
    }
}

/// Number of the interval that `value` lies in.
pub(crate) fn place(starts: &[u128], value: u128) -> u128 {
    starts.partition_point(|&s| s <= value).saturating_sub(1) as u128
}

/// As [`looks`], where fields that can take each other's values are told apart as finely.
pub(crate) fn mirrored<'r>(
    rulesets: impl IntoIterator<Item = &'r Ruleset> + Clone,
    questions: &[(Field, u128, u128)],
) -> BTreeMap<Field, Looks> {
    let mut looks = looks(rulesets.clone(), questions);
    let mut rules = rulesets.into_iter().flat_map(Ruleset::rules);
    let translates = |e: &Effect| matches!(e, Effect::Nat(_));
    if rules.any(|(_, _, r)| r.effects.iter().any(translates)) {
        // What packets of translated connections become.
        looks.entry(Field::CtDir).or_default().interval(0, 0);
        looks.entry(Field::CtStatus).or_default().bits = true;
        for field in TRANSLATED {
            looks.entry(field).or_default();
        }
    }
    for group in MIRRORED {
        let mut all = Looks::default();
        for field in group {
            if let Some(look) = looks.get(field) {
                all.starts.extend(&look.starts);
                all.bits |= look.bits;
            }
        }
        // Fields that every packet has are told apart even if no rule does.
        let (first, rest) = group.split_at(2);
        for field in first {
            looks.insert(*field, all.clone());
        }
        for field in rest {
            if let Some(look) = looks.get_mut(field) {
                *look = all.clone();
            }
        }
    }
    looks
}

/// What rules and questions tell apart.
pub(crate) fn looks<'r>(
    rulesets: impl IntoIterator<Item = &'r Ruleset>,
    questions: &[(Field, u128, u128)],
) -> BTreeMap<Field, Looks> {
    let mut looks: BTreeMap<Field, Looks> = BTreeMap::new();
    for field in ALWAYS {
        looks.entry(field).or_default();
    }
    let one = |value| (Field::CtState, value, value);
    let states = [
        one(ctstate::INVALID),
        one(ctstate::ESTABLISHED),
        one(ctstate::RELATED),
        one(ctstate::NEW),
        one(ctstate::UNTRACKED),
    ];
    let names = [Field::InName, Field::OutName, Field::FragOff].map(|f| (f, 0, 0));
    let lengths = [2, 4, 14].map(|edge| (Field::L4Len, 0, edge - 1));
    let protocols = [1, 6, 17, 58].map(|p| (Field::Proto, p, p));
    for &(field, lo, hi) in states
        .iter()
        .chain(&names)
        .chain(&lengths)
        .chain(&protocols)
        .chain(questions)
    {
        looks.entry(field).or_default().interval(lo, hi);
    }
    looks.entry(Field::HasCt).or_default().bits = true;
    let mut written: BTreeMap<Field, BTreeSet<Field>> = BTreeMap::new();
    for (_, _, rule) in rulesets.into_iter().flat_map(Ruleset::rules) {
        rule.cond.visit(&mut |cond| look(cond, &mut looks));
        for effect in &rule.effects {
            if let Effect::Assign(field, expr) = effect {
                let sources = written.entry(*field).or_default();
                if let Expr::Mix { from, .. } = expr {
                    sources.insert(*from);
                }
            }
        }
    }
    // What is written and never tested tells nothing apart.
    let mut todo: Vec<Field> = written.keys().copied().collect();
    todo.retain(|f| looks.contains_key(f));
    while let Some(field) = todo.pop() {
        let look = looks.entry(field).or_default();
        if !std::mem::replace(&mut look.bits, true) {
            todo.extend(written.get(&field).into_iter().flatten());
        }
    }
    looks
}

fn look(cond: &Cond, looks: &mut BTreeMap<Field, Looks>) {
    let Cond::Test(test) = cond else {
        return;
    };
    let look = looks.entry(test.field()).or_default();
    for (lo, hi) in test.intervals().into_iter().flatten() {
        look.interval(lo, hi);
    }
    if let Some((mask, wanted)) = test.mask() {
        match prefix(test.field(), mask, wanted) {
            Some((lo, hi)) => look.interval(lo, hi),
            // What cannot hold distinguishes nothing.
            None if wanted & !mask != 0 => {}
            None => look.bits = true,
        }
    }
}

pub(crate) fn slots(mut looks: BTreeMap<Field, Looks>) -> BTreeMap<Field, Slot> {
    let mut slots = BTreeMap::new();
    let mut next = 0;
    let first = ORDER.into_iter().filter_map(|f| looks.remove_entry(&f));
    let ordered: Vec<(Field, Looks)> = first.collect();
    for (field, look) in ordered.into_iter().chain(looks) {
        let (bits, code) = if look.bits {
            (u16::from(field.row().bits), Code::Bits)
        } else {
            let mut starts = look.starts;
            starts.insert(0);
            let starts: Vec<u128> = starts.into_iter().filter(|s| *s <= full(field)).collect();
            let bits = usize::BITS - (starts.len() - 1).leading_zeros();
            (bits as u16, Code::Intervals(starts))
        };
        let slot = Slot {
            first: next,
            bits,
            code,
        };
        next += 1 + bits;
        slots.insert(field, slot);
    }
    slots
}
