//! The tools of iptables and conntrack, wherever rules and connections are kept.
//!
//! A [`Tool`] reads its command line and what it is fed, works on a [`Store`] and says
//! what it would print. The state file ([`FileStore`]) is one store, the daemon's rules
//! and connections are another. Beside them: settings by their kernel names ([`sysctl`]),
//! helpers as modules ([`modules`]) and the table as operators of eBPF datapaths look at
//! theirs ([`views`]).
#![forbid(unsafe_code)]

pub mod conntrack;
mod file;
mod flags;
pub mod ipset;
mod iptables;
pub mod lists;
pub mod modules;
pub mod names;
pub mod nfacct;
mod replace;
mod restore;
mod save;
pub mod sysctl;
pub mod timeouts;
pub mod views;

use std::ffi::OsStr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_ir::TableKind;
use tidegate_syntax::{Failure, Invocation, Ruleset};
use tidegate_wire::Family;
use tidegate_xt::Names;

pub use conntrack::{Sink, Tracker};
pub use file::{FileStore, rules_and_sets};
pub use ipset::SetStore;
pub use names::HostNames;
pub use replace::{Replacement, replace};

/// One of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    family: Family,
    job: Job,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Edit,
    Save,
    Restore,
    /// `conntrack`, which works on connections of both families.
    Track,
    /// `ipset`, which works on sets.
    Sets,
}

impl Tool {
    /// All tools.
    pub const ALL: [Tool; 8] = [
        Tool::new(Family::V4, Job::Edit),
        Tool::new(Family::V6, Job::Edit),
        Tool::new(Family::V4, Job::Save),
        Tool::new(Family::V6, Job::Save),
        Tool::new(Family::V4, Job::Restore),
        Tool::new(Family::V6, Job::Restore),
        Tool::new(Family::V4, Job::Track),
        Tool::new(Family::V4, Job::Sets),
    ];

    const fn new(family: Family, job: Job) -> Self {
        Tool { family, job }
    }

    /// Name of the tool.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.family, self.job) {
            (Family::V4, Job::Edit) => "iptables",
            (Family::V6, Job::Edit) => "ip6tables",
            (Family::V4, Job::Save) => "iptables-save",
            (Family::V6, Job::Save) => "ip6tables-save",
            (Family::V4, Job::Restore) => "iptables-restore",
            (Family::V6, Job::Restore) => "ip6tables-restore",
            (_, Job::Track) => "conntrack",
            (_, Job::Sets) => "ipset",
        }
    }

    /// The tool whose name ends the path `word`.
    #[must_use]
    pub fn from_name(word: &OsStr) -> Option<Self> {
        let name = Path::new(word).file_name()?.to_str()?;
        Tool::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Whether output may be long or without an end.
    #[must_use]
    pub fn streams(self) -> bool {
        self.job == Job::Track
    }

    /// Whether it works on sets (`ipset`).
    #[must_use]
    pub fn keeps_sets(self) -> bool {
        self.job == Job::Sets
    }

    /// Whether the command goes on until it is told to stop (`conntrack -E`).
    #[must_use]
    pub fn is_endless(self, words: &[&str], names: &dyn Names) -> bool {
        self.job == Job::Track && conntrack::is_endless(words, names)
    }

    /// The family whose rules it works on.
    #[must_use]
    pub const fn family(self) -> Family {
        self.family
    }

    /// What is done where the command was typed, before the rules are asked for: help,
    /// refusals, and reading what is to be restored.
    #[must_use]
    pub fn prepare(self, words: &[&str], names: &dyn Names) -> Prepared {
        let prepared = match self.job {
            Job::Edit => iptables::prepare(self, words, names),
            Job::Save => Ok(save::prepare(self, words)),
            Job::Restore => Ok(restore::prepare(self, words)),
            Job::Track => Ok(conntrack::prepare(words, names)),
            Job::Sets => Ok(ipset::prepare(words)),
        };
        prepared.unwrap_or_else(|failure| Prepared::Done(self.refuse(&failure)))
    }

    /// Does the work on the rules. `input` is what [`Tool::prepare`] read.
    #[must_use]
    pub fn run(self, words: &[&str], input: &str, store: &dyn Store, names: &dyn Names) -> Printed {
        let printed = match self.job {
            Job::Edit => iptables::run(self, words, store, names),
            Job::Save => save::run(self, words, store),
            Job::Restore => restore::run(self, words, input, store, names),
            Job::Sets => ipset::run(words, input, store),
            Job::Track => {
                let mut printed = Printed::default();
                printed.status = self.track(words, input, store, names, &mut printed);
                Ok(printed)
            }
        };
        printed.unwrap_or_else(|failure| self.refuse(&failure))
    }

    /// The same with output as it is made, for what is long (`conntrack -L`) or has no
    /// end (`conntrack -E`); the exit status.
    pub fn run_to(
        self,
        words: &[&str],
        input: &str,
        store: &dyn Store,
        names: &dyn Names,
        sink: &mut dyn Sink,
    ) -> u8 {
        if self.job == Job::Track {
            return self.track(words, input, store, names, sink);
        }
        let printed = self.run(words, input, store, names);
        // Whoever read may have gone; there is nobody to tell then.
        let _ = sink.err(&printed.err).and_then(|()| sink.out(&printed.out));
        printed.status
    }

    fn track(
        self,
        words: &[&str],
        input: &str,
        store: &dyn Store,
        names: &dyn Names,
        sink: &mut dyn Sink,
    ) -> u8 {
        let Some(tracker) = store.tracker() else {
            let why = "conntrack: connections are tracked by a running daemon only";
            let _ = sink.err(&Failure::Resource(why.to_owned()).render(self.name(), None));
            return 1;
        };
        conntrack::run(words, input, tracker, names, sink)
    }

    /// What is done where the command was typed, once the rules have been worked on:
    /// `--file` of the save tools is written.
    #[must_use]
    pub fn finish(self, words: &[&str], printed: Printed) -> Printed {
        match self.job {
            Job::Edit | Job::Restore | Job::Track => printed,
            Job::Save => save::finish(words, printed),
            Job::Sets => ipset::finish(words, printed),
        }
    }

    /// How the tool reports a failure.
    #[must_use]
    pub fn refuse(self, failure: &Failure) -> Printed {
        Printed {
            err: failure.render(self.name(), None),
            status: failure.status(),
            ..Printed::default()
        }
    }
}

/// What a command line needs next.
#[derive(Debug)]
pub enum Prepared {
    /// Nothing: this is all there is to it.
    Done(Printed),
    /// The rules, and this text as [`Tool::run`]'s input.
    Rules(String),
}

/// Work on a ruleset; says whether it changed it.
pub type Work<'w> = dyn FnMut(&mut Ruleset) -> Result<bool, Failure> + 'w;

/// Where rules are kept.
pub trait Store {
    /// Hands a family's rules with their counters to `work`. What it changed takes
    /// effect as a whole if it returns `Ok(true)`, and not at all otherwise. With
    /// `change` nobody else changes the rules meanwhile.
    ///
    /// # Errors
    /// Those of `work`; the rules cannot be read or stored.
    fn with(&self, family: Family, change: bool, work: &mut Work<'_>) -> Result<(), Failure>;

    /// As [`Store::with`] for work that begins by emptying these tables: their rules and
    /// chains need not be handed out.
    ///
    /// # Errors
    /// As [`Store::with`].
    fn with_emptied(
        &self,
        family: Family,
        change: bool,
        _tables: &[TableKind],
        work: &mut Work<'_>,
    ) -> Result<(), Failure> {
        self.with(family, change, work)
    }

    /// Carries out a command line that changes or looks for one rule and prints nothing,
    /// if that can be done without handing out all rules; otherwise nothing has happened,
    /// and [`Store::with`] is to be asked.
    ///
    /// # Errors
    /// The rules cannot be read or stored.
    fn edit(&self, _: Family, _: &Invocation) -> Result<bool, Failure> {
        Ok(false)
    }

    /// The connections that these rules see, where there are any.
    fn tracker(&self) -> Option<&dyn Tracker> {
        None
    }

    /// The sets that these rules look into, where there are any.
    fn sets(&self) -> Option<&dyn SetStore> {
        None
    }
}

/// What a tool prints and how it exits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Printed {
    /// To standard output.
    pub out: String,
    /// To standard error, first.
    pub err: String,
    /// Exit status.
    pub status: u8,
}
