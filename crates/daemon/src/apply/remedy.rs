//! Rules that would let somebody stay.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fmt::Write;

use tidegate_ir::TableKind;
use tidegate_syntax::{Failure, Ruleset};
use tidegate_tools::{HostNames, Store, Tool, Work};
use tidegate_wire::Family;

use super::check::index;

/// A rule to be put into a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remedy {
    pub(super) family: Family,
    pub(super) table: TableKind,
    pub(super) chain: &'static str,
    /// Number of the rule that it goes before; `None`: at the end.
    pub(super) before: Option<usize>,
    /// What is behind the chain's name.
    pub(super) spec: String,
    /// What is needed beside it.
    pub(super) also: Vec<Remedy>,
}

impl Remedy {
    /// Puts it in; whether that could be done.
    pub(super) fn add_to(&self, rules: &mut [Ruleset; 2]) -> bool {
        let name = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let Some(tool) = Tool::from_name(OsStr::new(name)) else {
            return false;
        };
        let at = self.before.map(|n| n.to_string());
        let mut words = vec!["-t", self.table.name()];
        match &at {
            Some(n) => words.extend(["-I", self.chain, n]),
            None => words.extend(["-A", self.chain]),
        }
        words.extend(self.spec.split(' '));
        let slot = &mut rules[index(self.family)];
        let kept = Kept(RefCell::new(slot.clone()));
        let done = tool.run(&words, "", &kept, &HostNames::default());
        *slot = kept.0.into_inner();
        done.status == 0
    }

    /// What to do, for people.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("Add ");
        let mut all = vec![self];
        all.extend(&self.also);
        for (n, remedy) in all.into_iter().enumerate() {
            let and = if n == 0 { "" } else { ", and " };
            let table = match remedy.table {
                TableKind::Filter => String::new(),
                other => format!(" of table {}", other.name()),
            };
            let _ = write!(text, "{and}\"-A {} {}\"", remedy.chain, remedy.spec);
            let _ = match remedy.before {
                Some(rule) => write!(text, " before rule {rule} of {}{table}", remedy.chain),
                None => write!(text, " at the end of {}{table}", remedy.chain),
            };
        }
        text
    }
}

/// Rules in memory.
struct Kept(RefCell<Ruleset>);

impl Store for Kept {
    fn with(&self, _: Family, _: bool, work: &mut Work<'_>) -> Result<(), Failure> {
        let mut rules = self.0.borrow().clone();
        if work(&mut rules)? {
            *self.0.borrow_mut() = rules;
        }
        Ok(())
    }
}
