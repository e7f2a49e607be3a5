//! How packets end, as far as rulesets are compared.

use tidegate_analysis::{Bound, Ending, Fate, Journey, Set, TooBig};
use tidegate_ir::{Field, Hook, NatSpec, RuleId, TableKind, ctstate};

use super::{Compared, Path};

/// How a packet ends.
#[expect(clippy::large_enum_variant, reason = "most packets pass")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Passes {
        nat: [Option<NatSpec>; 2],
        untracked: bool,
        written: [Bound; 5],
    },
    Stopped(Ending),
    Lost,
    /// It goes another way.
    Elsewhere,
}

/// What rules write, as it is in the end.
const WRITTEN: [Field; 5] = [
    Field::Mark,
    Field::CtMark,
    Field::Tos,
    Field::Ttl,
    Field::Priority,
];

impl Class {
    pub(super) const fn passes(self) -> bool {
        matches!(self, Class::Passes { .. })
    }

    pub(super) fn drops(self) -> bool {
        self == Class::Stopped(Ending::Drop)
    }

    pub(super) const fn rejects(self) -> bool {
        matches!(self, Class::Stopped(Ending::Reject(_)))
    }
}

/// Some packets that end alike by the same rule.
pub(super) struct Decision {
    pub(super) class: Class,
    pub(super) by: Option<RuleId>,
    /// Before they were routed.
    pub(super) early: bool,
    pub(super) set: Set,
}

impl Compared<'_> {
    pub(super) fn union(
        &mut self,
        list: &[Decision],
        of: impl Fn(Class) -> bool,
    ) -> Result<Set, TooBig> {
        self.sum(list, |d| of(d.class))
    }

    pub(super) fn sum(
        &mut self,
        list: &[Decision],
        of: impl Fn(&Decision) -> bool,
    ) -> Result<Set, TooBig> {
        let mut set = Set::EMPTY;
        for decision in list.iter().filter(|d| of(d)) {
            set = self.space.bdd.or(set, decision.set)?;
        }
        Ok(set)
    }

    pub(super) fn decisions(
        &mut self,
        path: Path,
        journey: &Journey,
    ) -> Result<Vec<Decision>, TooBig> {
        let mut all = Vec::new();
        for end in &journey.ends {
            let class = match (end.fate, path) {
                (Fate::Here, Path::Here) | (Fate::Leaves, Path::Through | Path::Out) => {
                    let lens = self.space.lens(end.seen);
                    Class::Passes {
                        nat: [lens.dnat, lens.snat].map(|n| n.map(|n| n.1)),
                        untracked: lens.value(Field::CtState) == Some(ctstate::UNTRACKED),
                        written: WRITTEN.map(|f| lens.get(f)),
                    }
                }
                (Fate::Stopped(..), _) if !path.hooks().contains(&end.hook) => continue,
                (Fate::Stopped(_, ending), _) => Class::Stopped(ending),
                (Fate::Nowhere, Path::Through) => Class::Lost,
                (Fate::Here | Fate::Leaves | Fate::Nowhere, _) => continue,
            };
            if let Fate::Stopped(by, _) = end.fate {
                all.push(Decision {
                    class,
                    by: Some(by),
                    early: end.hook == Hook::Prerouting,
                    set: end.set,
                });
                continue;
            }
            let mut left = end.set;
            let filters = journey
                .visits
                .iter()
                .filter(|v| v.table == TableKind::Filter && path.hooks().contains(&v.hook));
            for exit in filters.flat_map(|v| &v.walk.endings) {
                let set = self.space.bdd.and(left, exit.set)?;
                if exit.ending.passes() && !set.is_empty() {
                    left = self.space.bdd.minus(left, exit.set)?;
                    all.push(Decision {
                        class,
                        by: Some(exit.by),
                        early: false,
                        set,
                    });
                }
            }
            if !left.is_empty() {
                all.push(Decision {
                    class,
                    by: None,
                    early: false,
                    set: left,
                });
            }
        }
        Ok(all)
    }
}

pub(super) fn same_nat(a: Class, b: Class) -> bool {
    match (a, b) {
        (Class::Passes { nat: a, .. }, Class::Passes { nat: b, .. }) => a == b,
        _ => false,
    }
}

pub(super) fn same_rest(a: Class, b: Class) -> bool {
    let rest = |c| match c {
        Class::Passes {
            untracked, written, ..
        } => Some((untracked, written)),
        Class::Stopped(_) | Class::Lost | Class::Elsewhere => None,
    };
    rest(a) == rest(b)
}
