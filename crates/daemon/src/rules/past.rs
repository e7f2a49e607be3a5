//! Rules that are not in force any more, but let connections in that may still be there.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidegate_engine::{By, Gone, Passage};
use tidegate_ir::{RuleId, TableKind};
use tidegate_syntax::{RuleOrigin, Ruleset, save};

/// Most rules that are kept. Beyond, all of them are forgotten.
const MOST: usize = 1 << 14;

/// A table that a connection's first packet passed, in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedBy {
    /// The hook, by the name of its chain.
    pub hook: String,
    /// The table.
    pub table: String,
    /// The rule or policy that let it pass; `None` where nobody knows any more.
    pub rule: Option<Named>,
    /// When that rule was changed or taken out, if it was.
    pub gone: Option<Timestamp>,
    /// Where a rule with the same words stands now, when it is gone.
    pub again: Option<u32>,
}

/// A rule or policy by its place, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Chain.
    pub chain: String,
    /// Number from 1; 0 for the policy.
    pub number: u32,
    /// The rule as `-S` prints it.
    pub text: String,
}

/// Rules that have gone, by the number the engine gave them.
#[derive(Debug, Default)]
pub(super) struct Past(HashMap<u32, (Named, Timestamp)>);

impl Past {
    /// Keeps those of `gone` that `rules`, as they were until now, have.
    pub(super) fn keep(&mut self, gone: &[Gone], rules: &Ruleset) {
        let own = gone.iter().filter(|g| g.family == rules.family);
        let wanted: HashMap<u32, u32> = own.map(|g| (g.id.0, g.number)).collect();
        if wanted.is_empty() {
            return;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        let now = Timestamp::now();
        each(rules, |was, _, origin| {
            if let Some(number) = was.and_then(|was| wanted.get(&was)) {
                self.0.insert(*number, (named(&origin()), now));
            }
        });
    }

    /// What a connection passed, now that `rules` are in force.
    pub(super) fn told(&self, passages: &[Passage], rules: &Ruleset) -> Vec<PassedBy> {
        let mut told: Vec<PassedBy> = passages.iter().map(|p| self.remembered(p)).collect();
        each(rules, |was, (table, chain), origin| {
            let by = was.map(|was| By::Rule(RuleId(was)));
            let is_it = |passage: &Passage| Some(passage.by) == by;
            let seeks = |told: &PassedBy| {
                let there = |r: &Named| told.table == table.name() && r.chain == chain;
                told.gone.is_some() && told.again.is_none() && told.rule.as_ref().is_some_and(there)
            };
            if !passages.iter().any(is_it) && !told.iter().any(seeks) {
                return;
            }
            let origin = origin();
            for (passage, told) in passages.iter().zip(&mut told) {
                if is_it(passage) {
                    told.rule = Some(named(&origin));
                } else if seeks(told) {
                    let same = told.rule.as_ref().is_some_and(|r| r.text == origin.text);
                    told.again = same.then_some(origin.number);
                }
            }
        });
        told
    }

    fn remembered(&self, passage: &Passage) -> PassedBy {
        let known = match passage.by {
            By::Gone(number) => self.0.get(&number).cloned(),
            By::Rule(_) => None,
        };
        let (rule, gone) = known.unzip();
        PassedBy {
            hook: passage.hook.chain_name().to_owned(),
            table: passage.table.name().to_owned(),
            rule,
            gone,
            again: None,
        }
    }
}

fn named(origin: &RuleOrigin) -> Named {
    Named {
        chain: origin.chain.clone(),
        number: origin.number,
        text: origin.text.clone(),
    }
}

/// Calls `seen` with the counter of every rule and policy, its table and chain, and what
/// makes its words.
fn each(
    rules: &Ruleset,
    mut seen: impl FnMut(Option<u32>, (TableKind, &str), &dyn Fn() -> RuleOrigin),
) {
    for table in &rules.tables {
        for chain in table.chains() {
            let place = (table.kind, chain.name.as_str());
            let origin = |number, text| RuleOrigin {
                table: table.kind,
                chain: chain.name.clone(),
                number,
                text,
            };
            for (rule, number) in chain.rules.iter().zip(1..) {
                let text = || save::rule(&chain.name, &rule.spec, rules.family, None);
                seen(rule.was, place, &|| origin(number, text()));
            }
            if let Some(base) = &chain.base {
                seen(base.was, place, &|| {
                    origin(0, save::chain_line(chain, false))
                });
            }
        }
    }
}
