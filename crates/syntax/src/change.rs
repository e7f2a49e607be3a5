//! Changes of single rules.

use std::sync::Arc;

use crate::apply::index;
use crate::error::reply;
use crate::{Action, Chain, Command, Counters, Failure, Invocation, Rule, Spec, Target};

/// What becomes of one place in a chain: the rule there is taken out, one is put there,
/// both, or nothing.
#[derive(Clone, Debug)]
pub struct Change {
    /// Position from 0.
    pub at: usize,
    /// The rule there goes.
    pub gone: bool,
    /// The rule that comes.
    pub new: Option<Rule>,
}

impl Change {
    /// What a command line does to its chain, where it does it to one rule and prints
    /// nothing; `None` also where it cannot be carried out ([`crate::run`] says why then).
    /// No rule that comes or goes calls a chain.
    #[must_use]
    pub fn of(call: &Invocation, chain: &Chain) -> Option<Self> {
        let change = match &call.command {
            Command::Rules {
                action,
                rules,
                counters,
                ..
            } => match rules.as_slice() {
                [spec] if !call.view.verbose => {
                    Change::find(chain, *action, spec.clone(), *counters).ok()?
                }
                _ => return None,
            },
            Command::DeleteNumber { number, .. } => Change::by_number(chain, *number).ok()?,
            _ => return None,
        };
        let calls = |rule: &Rule| matches!(rule.spec.target, Target::Chain { .. });
        let gone = chain.rules.get(change.at).filter(|_| change.gone);
        let mut both = change.new.iter().chain(gone);
        (!both.any(calls)).then_some(change)
    }

    /// The place that a command line means.
    ///
    /// # Errors
    /// There is none: what the tool says.
    pub(crate) fn find(
        chain: &Chain,
        action: Action,
        spec: Arc<Spec>,
        counters: Counters,
    ) -> Result<Self, Failure> {
        let len = chain.rules.len();
        let (at, gone) = match action {
            Action::Append => (len, false),
            Action::Insert(n) if index(n) > len => return Err(reply::INSERT_INDEX),
            Action::Insert(n) => (index(n), false),
            Action::Replace(n) if index(n) >= len => return Err(reply::REPLACE_INDEX),
            Action::Replace(n) => (index(n), true),
            Action::Delete | Action::Check => {
                let at = chain.rules.iter().position(|r| r.spec == spec);
                return Ok(Change {
                    at: at.ok_or(reply::BAD_RULE)?,
                    gone: action == Action::Delete,
                    new: None,
                });
            }
        };
        let new = Rule {
            spec,
            counters,
            was: None,
        };
        Ok(Change {
            at,
            gone,
            new: Some(new),
        })
    }

    /// The rule of that number goes.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn by_number(chain: &Chain, number: u32) -> Result<Self, Failure> {
        let at = index(number);
        if at >= chain.rules.len() {
            return Err(reply::DELETE_INDEX);
        }
        Ok(Change {
            at,
            gone: true,
            new: None,
        })
    }

    /// Changes the chain.
    pub fn make(self, chain: &mut Chain) {
        match (self.gone, self.new) {
            (true, Some(rule)) => chain.rules[self.at] = rule,
            (false, Some(rule)) => chain.rules.insert(self.at, rule),
            (true, None) => drop(chain.rules.remove(self.at)),
            (false, None) => {}
        }
    }

    /// Whether packets reach all rules of the chain after the change, where they reached
    /// all before.
    #[must_use]
    pub fn leaves_whole(&self, chain: &Chain) -> bool {
        let Some(new) = &self.new else { return true };
        let last = self.at + usize::from(self.gone) >= chain.rules.len();
        let after_end =
            !self.gone && last && chain.rules.last().is_some_and(|r| r.spec.ends_chain());
        !after_end && (last || !new.spec.ends_chain())
    }
}

impl Command {
    /// The chain whose rules it changes one by one.
    #[must_use]
    pub fn chain(&self) -> Option<&str> {
        match self {
            Command::Rules { chain, .. } | Command::DeleteNumber { chain, .. } => Some(chain),
            _ => None,
        }
    }
}
