//! Other ways to find the first rule, to compare with.

use tidegate_ir::{Cond, Rule, Test, Truth};

use crate::traffic::Header;

/// Finds the position of the first rule that applies. Guards are left out of account:
/// the packets measured with have all their headers.
pub(crate) trait Rival {
    fn first(&self, rules: &[&Rule], header: &mut Header) -> Option<usize>;
    /// Bytes of memory.
    fn bytes(&self) -> usize;
}

/// One after the other.
pub(crate) struct Linear;

impl Rival for Linear {
    fn first(&self, rules: &[&Rule], header: &mut Header) -> Option<usize> {
        let applies = |r: &&Rule| r.cond.eval(header, &mut ()) != Truth::False;
        rules.iter().position(applies)
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// The tests that must all hold for a rule to apply.
pub(crate) fn tests(rule: &Rule) -> impl Iterator<Item = &Test> {
    let parts = rule.cond.iter().flat_map(|cond| {
        let own = match cond {
            Cond::Shared(shared) => &***shared,
            own => own,
        };
        match own {
            Cond::All(list) => list.as_slice(),
            single => std::slice::from_ref(single),
        }
    });
    parts.filter_map(|part| match part {
        Cond::Test(test) => Some(test),
        _ => None,
    })
}
