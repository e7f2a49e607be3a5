//! Carrying out commands on a ruleset.

use std::fmt::Write;
use std::sync::Arc;

use tidegate_ir::Policy;

use crate::change::Change;
use crate::check::Added;
use crate::command::{Action, Command, Invocation, View};
use crate::error::reply;
use crate::list::Only;
use crate::parse::CHAIN_MAX;
use crate::{Chain, Counters, Failure, Printer, Ruleset, Spec, Table, Target, check, is_verdict};

/// Carries out one command line and returns what it prints.
///
/// # Errors
/// The tool's or the kernel's answer; the ruleset may then be half changed and must
/// be thrown away.
pub fn run(
    rules: &mut Ruleset,
    call: Invocation,
    printer: &Printer<'_>,
) -> Result<String, Failure> {
    let (kind, changes) = (call.table, call.command.changes());
    let added = call.command.adds();
    let out = edit(rules, call, printer)?;
    match added {
        Some((chain, place)) if rules.has_conntrack => check::added(rules, kind, &chain, place)?,
        _ if changes => check::table(rules, kind)?,
        _ => {}
    }
    Ok(out)
}

impl Command {
    /// Chain and place of the rules that the command adds, if it does nothing else and none
    /// of them calls a chain: all others are then as right or wrong as before.
    fn adds(&self) -> Option<(String, Added)> {
        let Command::Rules {
            action,
            chain,
            rules,
            ..
        } = self
        else {
            return None;
        };
        let calls = |s: &Arc<Spec>| matches!(s.target, Target::Chain { .. });
        let count = rules.len();
        let place = match action {
            Action::Append => Added { from: None, count },
            Action::Insert(n) => Added {
                from: Some(index(*n)),
                count,
            },
            Action::Replace(_) | Action::Delete | Action::Check => return None,
        };
        (!rules.iter().any(calls)).then(|| (chain.clone(), place))
    }

    /// Whether the command can change anything.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Command::Print(_) => false,
            Command::Rules { action, .. } => *action != Action::Check,
            Command::Show { zero, .. } => *zero,
            Command::DeleteNumber { .. }
            | Command::Flush(_)
            | Command::Zero { .. }
            | Command::NewChain(_)
            | Command::DeleteChain(_)
            | Command::Rename { .. }
            | Command::Policy { .. } => true,
        }
    }
}

/// Carries out one command without the kernel's checks of the outcome; a restore makes
/// them once per table.
///
/// # Errors
/// As [`run`].
pub(crate) fn edit(
    rules: &mut Ruleset,
    call: Invocation,
    printer: &Printer<'_>,
) -> Result<String, Failure> {
    if let Command::Print(text) = call.command {
        return Ok(text);
    }
    check::exists(rules, call.table)?;
    let mut edit = Edit {
        table: rules.table_mut(call.table),
        view: call.view,
        printer,
        out: String::new(),
    };
    edit.command(call.command)?;
    Ok(edit.out)
}

struct Edit<'a> {
    table: &'a mut Table,
    view: View,
    printer: &'a Printer<'a>,
    out: String,
}

impl Edit<'_> {
    fn command(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Print(_) => Ok(()),
            Command::Rules {
                action,
                chain,
                rules,
                counters,
            } => self.rules(action, &chain, rules, counters),
            Command::DeleteNumber { chain, number } => self.delete_number(&chain, number),
            Command::Show {
                as_rules,
                chain,
                number,
                zero,
            } => {
                self.show(as_rules, chain.as_deref(), number)?;
                // The number is the listing's alone.
                if zero {
                    self.zero(chain.as_deref(), None)?;
                }
                Ok(())
            }
            Command::Flush(chain) => self.each(chain.as_deref(), "Flushing", |c| c.rules.clear()),
            Command::Zero { chain, number } => self.zero(chain.as_deref(), number),
            Command::NewChain(name) => self.new_chain(&name),
            Command::DeleteChain(chain) => self.delete_chains(chain.as_deref()),
            Command::Rename { old, new } => self.rename(&old, &new),
            Command::Policy {
                chain,
                policy,
                counters,
            } => self.policy(&chain, &policy, counters),
        }
    }

    fn chain(&mut self, name: &str) -> Result<&mut Chain, Failure> {
        self.table.chain_mut(name).ok_or(reply::NO_CHAIN)
    }

    fn rules(
        &mut self,
        action: Action,
        chain: &str,
        specs: Vec<Arc<Spec>>,
        counters: Counters,
    ) -> Result<(), Failure> {
        for spec in &specs {
            self.check_target(&spec.target)?;
        }
        if self.view.verbose {
            self.out.extend(specs.iter().map(|s| self.printer.echo(s)));
        }
        let missing = match action {
            Action::Delete | Action::Check => reply::BAD_RULE,
            Action::Append | Action::Insert(_) | Action::Replace(_) => reply::NO_CHAIN,
        };
        let chain = self.table.chain_mut(chain).ok_or(missing)?;
        for spec in specs {
            Change::find(chain, action, spec, counters)?.make(chain);
        }
        Ok(())
    }

    /// A chain that is jumped to must exist.
    fn check_target(&self, target: &Target) -> Result<(), Failure> {
        match target {
            Target::Chain { name, .. } if self.table.has(name) => Ok(()),
            Target::Chain { name, goto: true } => {
                Err(Failure::Usage(format!("goto '{name}' is not a chain")))
            }
            Target::Chain { name, goto: false } => Err(Failure::Usage(format!(
                "Couldn't load target `{name}':No such file or directory\n"
            ))),
            Target::None | Target::Extension(_) => Ok(()),
        }
    }

    fn delete_number(&mut self, chain: &str, number: u32) -> Result<(), Failure> {
        let chain = self.chain(chain)?;
        Change::by_number(chain, number)?.make(chain);
        Ok(())
    }

    /// Does something with one chain or all, saying so if asked to.
    fn each(
        &mut self,
        only: Option<&str>,
        verb: &str,
        mut act: impl FnMut(&mut Chain),
    ) -> Result<(), Failure> {
        if let Some(name) = only {
            act(self.chain(name)?);
            self.tell(verb, name);
            return Ok(());
        }
        for chain in self.table.chains_mut() {
            if self.view.verbose {
                let _ = writeln!(self.out, "{verb} chain `{}'", chain.name);
            }
            act(chain);
        }
        Ok(())
    }

    /// What is done with a chain, where that is to be said.
    fn tell(&mut self, verb: &str, chain: &str) {
        if self.view.verbose {
            let _ = writeln!(self.out, "{verb} chain `{chain}'");
        }
    }

    fn zero(&mut self, chain: Option<&str>, number: Option<u32>) -> Result<(), Failure> {
        if let (Some(name), Some(number)) = (chain, number) {
            let rule = self.chain(name)?.rules.get_mut(index(number));
            rule.ok_or(reply::ZERO_INDEX)?.counters = Counters::default();
            return Ok(());
        }
        self.each(chain, "Zeroing", |c| {
            for rule in &mut c.rules {
                rule.counters = Counters::default();
            }
            if let Some(base) = &mut c.base {
                base.counters = Counters::default();
            }
        })
    }

    fn new_chain(&mut self, name: &str) -> Result<(), Failure> {
        if self.table.has(name) {
            return Err(reply::CHAIN_EXISTS);
        }
        self.table.insert(Chain::new(name));
        Ok(())
    }

    fn delete_chains(&mut self, only: Option<&str>) -> Result<(), Failure> {
        if let Some(name) = only {
            let references = self.table.references().contains_key(name);
            self.delete_chain(name, references)?;
            self.tell("Deleting", name);
            return Ok(());
        }
        let users = self.table.chains().filter(|c| c.base.is_none());
        let names: Vec<String> = users.map(|c| c.name.clone()).collect();
        let called = self.table.references();
        let called: Vec<bool> = names
            .iter()
            .map(|n| called.contains_key(n.as_str()))
            .collect();
        let mut outcome = Ok(());
        for (name, called) in names.iter().zip(called) {
            self.tell("Deleting", name);
            outcome = self.delete_chain(name, called).and(outcome);
        }
        outcome
    }

    fn delete_chain(&mut self, name: &str, called: bool) -> Result<(), Failure> {
        let chain = self.table.chain(name).ok_or(reply::NO_CHAIN)?;
        if chain.base.is_some() {
            return Err(reply::INVALID);
        }
        if called {
            return Err(reply::REFERENCED);
        }
        if !chain.rules.is_empty() {
            return Err(reply::NOT_EMPTY);
        }
        self.table.remove(name);
        Ok(())
    }

    fn rename(&mut self, old: &str, new: &str) -> Result<(), Failure> {
        if self.table.has(new) || is_verdict(new) {
            return Err(reply::FILE_EXISTS);
        }
        let mut chain = self.table.remove(old).ok_or(reply::NO_CHAIN)?;
        if new.len() > CHAIN_MAX || crate::parse::check_chain_name(new).is_err() {
            return Err(reply::INVALID);
        }
        new.clone_into(&mut chain.name);
        self.table.insert(chain);
        for rule in self.table.chains_mut().flat_map(|c| &mut c.rules) {
            let calls = matches!(&rule.spec.target, Target::Chain { name, .. } if name == old);
            if calls && let Target::Chain { name, .. } = &mut Arc::make_mut(&mut rule.spec).target {
                new.clone_into(name);
            }
        }
        Ok(())
    }

    fn policy(
        &mut self,
        chain: &str,
        policy: &str,
        counters: Option<Counters>,
    ) -> Result<(), Failure> {
        let base = self.table.chain_mut(chain).and_then(|c| c.base.as_mut());
        let base = base.ok_or(reply::BAD_BUILTIN)?;
        base.policy = parse_policy(policy).ok_or(reply::BAD_POLICY)?;
        base.counters = counters.unwrap_or_default();
        Ok(())
    }

    fn show(
        &mut self,
        as_rules: bool,
        chain: Option<&str>,
        number: Option<u32>,
    ) -> Result<(), Failure> {
        if chain.is_some_and(|c| !self.table.has(c)) {
            return Err(reply::NO_CHAIN);
        }
        let only = Only {
            chain,
            rule: number.map(index),
        };
        self.out += &if as_rules {
            self.printer.rules(self.table, only, self.view.verbose)
        } else {
            self.printer.list(self.table, only, self.view)
        };
        Ok(())
    }
}

/// Rule numbers count from 1.
pub(crate) fn index(number: u32) -> usize {
    number.saturating_sub(1) as usize
}

/// The policy of that name.
pub(crate) fn parse_policy(name: &str) -> Option<Policy> {
    [Policy::Accept, Policy::Drop]
        .into_iter()
        .find(|&p| crate::save::policy_name(p) == name)
}
