//! The tools of iptables, wherever the rules are kept.
//!
//! A [`Tool`] reads its command line and what it is fed, works on a [`Store`] and says
//! what it would print. The state file ([`FileStore`]) is one store, the daemon's rules
//! are another.
#![forbid(unsafe_code)]

mod file;
mod flags;
mod iptables;
pub mod names;
mod restore;
mod save;

use std::ffi::OsStr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_syntax::{Failure, Ruleset};
use tidegate_wire::Family;
use tidegate_xt::Names;

pub use file::{FileStore, replace};
pub use names::HostNames;

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
}

impl Tool {
    /// All tools.
    pub const ALL: [Tool; 6] = [
        Tool::new(Family::V4, Job::Edit),
        Tool::new(Family::V6, Job::Edit),
        Tool::new(Family::V4, Job::Save),
        Tool::new(Family::V6, Job::Save),
        Tool::new(Family::V4, Job::Restore),
        Tool::new(Family::V6, Job::Restore),
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
        }
    }

    /// The tool whose name ends the path `word`.
    #[must_use]
    pub fn from_name(word: &OsStr) -> Option<Self> {
        let name = Path::new(word).file_name()?.to_str()?;
        Tool::ALL.into_iter().find(|t| t.name() == name)
    }

    /// The family it works on.
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
        };
        printed.unwrap_or_else(|failure| self.refuse(&failure))
    }

    /// What is done where the command was typed, once the rules have been worked on:
    /// `--file` of the save tools is written.
    #[must_use]
    pub fn finish(self, words: &[&str], printed: Printed) -> Printed {
        match self.job {
            Job::Edit | Job::Restore => printed,
            Job::Save => save::finish(words, printed),
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
