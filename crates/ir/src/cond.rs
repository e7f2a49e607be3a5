//! Conditions and their evaluation.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use thin_vec::ThinVec;

use crate::{Common, Field, Ranges, Socket, StepId, Test};

/// A condition on a packet. Small, because rules are many and what is evaluated must
/// come from memory first.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cond {
    /// Always this.
    Const(bool),
    /// All hold, tested left to right, stopping at the first that does not.
    All(ThinVec<Cond>),
    /// At least one holds, tested left to right, stopping at the first that does.
    Any(ThinVec<Cond>),
    /// The inner condition does not hold.
    Not(Box<Cond>),
    /// A field is present and has one of some values.
    Test(Test),
    /// A condition that many rules have: one copy serves them all.
    Shared(Arc<Common>),
    /// Drops the packet on the spot when the inner condition holds; true otherwise
    /// (`hotdrop` of a kernel match).
    DropWhen(Box<Cond>),
    /// A test that keeps state (limit, statistic). Never reordered, never repeated.
    Call(StepId),
}

impl Cond {
    /// `field == value`.
    #[must_use]
    pub fn eq(field: Field, value: u128) -> Self {
        Cond::range(field, value, value)
    }

    /// `lo <= field <= hi`.
    #[must_use]
    pub fn range(field: Field, lo: u128, hi: u128) -> Self {
        Cond::Test(Test::range(field, lo, hi))
    }

    /// The field's value is one of `ranges`.
    #[must_use]
    pub fn within(field: Field, ranges: Ranges) -> Self {
        Cond::Test(Test::within(field, ranges))
    }

    /// `field & mask == wanted`.
    #[must_use]
    pub fn bits(field: Field, mask: u128, wanted: u128) -> Self {
        Cond::Test(Test::bits(field, mask, wanted))
    }

    /// Drops the packet when `cond` holds.
    #[must_use]
    pub fn drop_when(cond: Cond) -> Self {
        Cond::DropWhen(Box::new(cond))
    }

    /// The condition, of which clones are the same.
    #[must_use]
    pub fn shared(self) -> Self {
        Cond::Shared(Arc::new(Common::new(self)))
    }

    /// At least one of `conds` holds.
    #[must_use]
    pub fn any(conds: Vec<Cond>) -> Self {
        Cond::Any(conds.into_iter().collect())
    }

    /// The condition, inverted when `invert` is set.
    #[must_use]
    pub fn inverted_if(self, invert: bool) -> Self {
        if invert {
            Cond::Not(Box::new(self))
        } else {
            self
        }
    }

    /// Conjunction; flattens and drops `Const(true)`.
    #[must_use]
    pub fn all(conds: Vec<Cond>) -> Self {
        let mut flat = Vec::with_capacity(conds.len());
        for c in conds {
            match c {
                Cond::Const(true) => {}
                Cond::All(inner) => flat.extend(inner),
                other @ (Cond::Const(false)
                | Cond::Any(_)
                | Cond::Not(_)
                | Cond::Test(_)
                | Cond::Shared(_)
                | Cond::DropWhen(_)
                | Cond::Call(_)) => flat.push(other),
            }
        }
        match flat.len() {
            0 => Cond::Const(true),
            1 => flat.pop().unwrap_or(Cond::Const(true)),
            // The iterator knows its length, so that the list is no longer than needed.
            _ => Cond::All(flat.into_iter().collect()),
        }
    }

    /// Calls `f` for every leaf and inner node, parents first.
    pub fn visit(&self, f: &mut impl FnMut(&Cond)) {
        f(self);
        match self {
            Cond::All(list) | Cond::Any(list) => list.iter().for_each(|c| c.visit(f)),
            Cond::Not(c) => c.visit(f),
            Cond::DropWhen(c) => c.visit(f),
            Cond::Shared(c) => c.visit(f),
            Cond::Const(_) | Cond::Test(_) | Cond::Call(_) => {}
        }
    }
}

/// The outcome of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// Does not hold.
    False,
    /// Holds.
    True,
    /// The packet is to be dropped at once, whatever the rules say.
    Hotdrop,
    /// The same, but the rule holds: it counts and has its effects first (a kernel match
    /// that sets `hotdrop` and yet is true, being inverted).
    HotdropTaken,
}

impl Truth {
    /// What this, which holds, comes to with the next condition of a conjunction.
    #[inline]
    pub(crate) const fn and(self, next: Truth) -> Truth {
        match (self, next) {
            (Truth::HotdropTaken, Truth::True) => Truth::HotdropTaken,
            (Truth::HotdropTaken, Truth::False) => Truth::Hotdrop,
            _ => next,
        }
    }
}

impl From<bool> for Truth {
    fn from(b: bool) -> Self {
        if b { Truth::True } else { Truth::False }
    }
}

/// Where conditions get their values.
pub trait Facts {
    /// The value of `field`, or `None` when the packet has no such thing.
    fn load(&mut self, field: Field) -> Option<u128>;
    /// Runs a stateful test.
    fn step(&mut self, id: StepId) -> Truth;
    /// Bytes of the network packet.
    fn packet(&self) -> &[u8] {
        &[]
    }
    /// Whether this host sent the packet.
    fn is_own(&self) -> bool {
        false
    }
    /// The socket that sent the packet.
    fn sender(&mut self) -> Option<&Socket> {
        None
    }
    /// The socket that waits for the packet.
    fn receiver(&mut self) -> Option<&Socket> {
        None
    }
    /// Writes a line about the packet to the log (`nf_log_packet`).
    fn say(&mut self, _line: alloc::string::String) {}
    /// A number for the packet's connection; no other one ever has the same.
    fn connection(&mut self) -> Option<u64> {
        None
    }
    /// Whether the connection of that number is in the table, and not closing (TCP in
    /// TIME_WAIT or CLOSE).
    fn is_open(&mut self, _connection: u64) -> bool {
        false
    }
    /// Sets a label, a number below 128, on the packet's connection; `false` when it has none.
    fn set_label(&mut self, _label: u8) -> bool {
        false
    }
}

/// One test as an observer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// The test.
    pub cond: &'a Cond,
    /// The value it looked at, if the field is present.
    pub value: Option<u128>,
    /// Whether it held, before any inversion around it.
    pub held: bool,
    /// Whether an odd number of `Not`s surrounds it.
    pub inverted: bool,
}

/// Told of every test that is evaluated. `()` observes nothing and costs nothing.
pub trait Observer {
    /// Whether it wants to be told. It is asked once for all the conditions of a rule.
    #[inline]
    fn listens(&self) -> bool {
        true
    }
    /// Called once per evaluated leaf.
    #[inline]
    fn leaf(&mut self, _leaf: Leaf<'_>) {}
}

impl Observer for () {
    #[inline]
    fn listens(&self) -> bool {
        false
    }
}

/// Evaluates `cond` left to right, stopping as soon as the outcome is known.
#[inline]
pub fn eval<F: Facts, O: Observer>(cond: &Cond, facts: &mut F, observer: &mut O) -> Truth {
    look(cond, facts, observer, false)
}

/// As [`walk`]; nothing is called for most conditions, which are tests, nor for what nearly all
/// packets meet.
#[inline]
fn look<F: Facts, O: Observer>(cond: &Cond, facts: &mut F, obs: &mut O, inverted: bool) -> Truth {
    let test = match cond {
        Cond::Test(test) => test,
        Cond::Shared(common) if !obs.listens() && common.holds_at_once(facts) => {
            return Truth::True;
        }
        _ => return walk(cond, facts, obs, inverted),
    };
    let value = facts.load(test.field());
    let held = value.is_some_and(|v| test.holds(v));
    obs.leaf(Leaf {
        cond,
        value,
        held,
        inverted,
    });
    held.into()
}

/// Whether all of `conds` hold.
#[inline]
pub(crate) fn all<F: Facts, O: Observer>(
    conds: &[Cond],
    facts: &mut F,
    obs: &mut O,
    inverted: bool,
) -> Truth {
    let mut held = Truth::True;
    for cond in conds {
        let truth = look(cond, facts, obs, inverted);
        // What holds leaves the others to decide.
        if truth == Truth::True {
            continue;
        }
        held = held.and(truth);
        if held != Truth::HotdropTaken {
            return held;
        }
    }
    held
}

fn walk<F: Facts, O: Observer>(cond: &Cond, facts: &mut F, obs: &mut O, inverted: bool) -> Truth {
    match cond {
        Cond::Test(_) => look(cond, facts, obs, inverted),
        Cond::All(list) => all(list, facts, obs, inverted),
        Cond::Any(list) => {
            for c in list {
                match look(c, facts, obs, inverted) {
                    Truth::False => {}
                    stop @ (Truth::True | Truth::Hotdrop | Truth::HotdropTaken) => return stop,
                }
            }
            Truth::False
        }
        Cond::Not(c) => match look(c, facts, obs, !inverted) {
            Truth::True => Truth::False,
            Truth::False => Truth::True,
            drop @ (Truth::Hotdrop | Truth::HotdropTaken) => drop,
        },
        Cond::DropWhen(c) => match look(c, facts, obs, !inverted) {
            Truth::False => Truth::True,
            Truth::True | Truth::Hotdrop | Truth::HotdropTaken => Truth::Hotdrop,
        },
        Cond::Shared(c) => walk(c, facts, obs, inverted),
        Cond::Const(b) => {
            obs.leaf(Leaf {
                cond,
                value: None,
                held: *b,
                inverted,
            });
            (*b).into()
        }
        Cond::Call(id) => {
            let truth = facts.step(*id);
            obs.leaf(Leaf {
                cond,
                value: None,
                held: truth == Truth::True,
                inverted,
            });
            truth
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    struct Packet {
        dport: Option<u128>,
        calls: usize,
    }

    impl Facts for Packet {
        fn load(&mut self, field: Field) -> Option<u128> {
            (field == Field::Dport).then_some(self.dport).flatten()
        }
        fn step(&mut self, _: StepId) -> Truth {
            self.calls += 1;
            Truth::True
        }
    }

    fn check(cond: &Cond, dport: Option<u128>) -> Truth {
        eval(cond, &mut Packet { dport, calls: 0 }, &mut ())
    }

    #[test]
    fn a_test_on_an_absent_field_is_false_and_its_inversion_true() {
        let c = Cond::eq(Field::Dport, 22);
        assert_eq!(check(&c, None), Truth::False);
        assert_eq!(check(&c.clone().inverted_if(true), None), Truth::True);
        assert_eq!(check(&c, Some(22)), Truth::True);
    }

    #[test]
    fn hotdrop_wins_over_inversion_and_is_not_reached_after_a_false() {
        let drop22 = Cond::drop_when(Cond::eq(Field::Dport, 22));
        assert_eq!(
            check(&Cond::Not(Box::new(drop22.clone())), Some(22)),
            Truth::Hotdrop
        );
        assert_eq!(check(&drop22, Some(23)), Truth::True);
        let guarded = Cond::all(vec![Cond::Const(false), drop22]);
        assert_eq!(check(&guarded, Some(22)), Truth::False);
    }

    #[test]
    fn a_condition_takes_two_words_and_a_rule_two_lines() {
        assert_eq!(size_of::<Cond>(), 16);
        assert_eq!(size_of::<crate::Rule>(), 128);
    }

    #[test]
    fn a_shared_condition_is_the_one_it_shares() {
        let drop22 = Cond::drop_when(Cond::eq(Field::Dport, 22));
        let shared = Cond::all(vec![Cond::eq(Field::Dport, 22), drop22]).shared();
        for dport in [None, Some(21), Some(22)] {
            for invert in [false, true] {
                let Cond::Shared(inner) = &shared else {
                    panic!("not shared");
                };
                let plain = (***inner).clone().inverted_if(invert);
                let shared = shared.clone().inverted_if(invert);
                assert_eq!(check(&shared, dport), check(&plain, dport));
            }
        }
    }

    #[test]
    fn a_step_runs_only_when_everything_before_it_held() {
        let rule = Cond::all(vec![Cond::eq(Field::Dport, 22), Cond::Call(StepId(0))]);
        for (dport, calls) in [(22, 1), (23, 0)] {
            let mut p = Packet {
                dport: Some(dport),
                calls: 0,
            };
            eval(&rule, &mut p, &mut ());
            assert_eq!(p.calls, calls);
        }
    }
}
