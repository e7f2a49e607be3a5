//! The tools of iptables, as this program plays them.
//!
//! They work on a state file, named by `--offline FILE` anywhere on the command line
//! or by `TIDEGATE_STATE`; see [`state`].

mod flags;
mod iptables;
mod restore;
mod save;
mod state;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tidegate_syntax::Failure;
use tidegate_wire::Family;

use crate::names::HostNames;
use state::Store;

/// What `tidegate --help` says about the tools.
pub(crate) const HELP: &str = "\
Tools: iptables, ip6tables, iptables-save, ip6tables-save, iptables-restore and
ip6tables-restore, as the first argument or by links with these names:
  tidegate --offline rules.state iptables -A INPUT -p tcp --dport 22 -j ACCEPT
They keep the ruleset in the file named by --offline FILE or TIDEGATE_STATE.

Examples:
  tidegate replay --rules web.rules eth0.pcap
  tidegate replay --rules web.rules --explain 30 eth0.pcap
  tidegate host --out HOST.toml
  tidegate link ~/bin

Exit status: 0 done; 1 files are unreadable, damaged or refused; 2 the command line is
wrong. The tools exit as those of iptables do.";

/// One of the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tool {
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
    pub(crate) const ALL: [Tool; 6] = [
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
    pub(crate) const fn name(self) -> &'static str {
        match (self.family, self.job) {
            (Family::V4, Job::Edit) => "iptables",
            (Family::V6, Job::Edit) => "ip6tables",
            (Family::V4, Job::Save) => "iptables-save",
            (Family::V6, Job::Save) => "ip6tables-save",
            (Family::V4, Job::Restore) => "iptables-restore",
            (Family::V6, Job::Restore) => "ip6tables-restore",
        }
    }

    fn from_name(word: &OsString) -> Option<Self> {
        let name = Path::new(word).file_name()?.to_str()?;
        Tool::ALL.into_iter().find(|t| t.name() == name)
    }
}

/// A tool and its command line.
#[derive(Debug)]
pub(crate) struct Call {
    tool: Tool,
    words: Vec<OsString>,
    state: Option<PathBuf>,
}

impl Call {
    /// The tool that `words`, the program's name first, ask for.
    pub(crate) fn recognize(words: &[OsString]) -> Option<Self> {
        let (words, offline) = without_offline(words);
        let mut words = words.into_iter();
        let by_name = words.next().as_ref().and_then(Tool::from_name);
        let tool = match by_name {
            Some(tool) => tool,
            None => Tool::from_name(&words.next()?)?,
        };
        let state = offline.or_else(|| std::env::var_os("TIDEGATE_STATE"));
        Some(Call {
            tool,
            words: words.collect(),
            state: state.filter(|s| !s.is_empty()).map(PathBuf::from),
        })
    }

    /// Plays the tool.
    pub(crate) fn run(&self) -> ExitCode {
        let outcome = self.words().and_then(|words| match self.tool.job {
            Job::Edit => iptables::run(self, &words),
            Job::Save => save::run(self, &words),
            Job::Restore => restore::run(self, &words),
        });
        let printed = outcome.unwrap_or_else(|failure| Printed {
            err: failure.render(self.tool.name(), None),
            status: failure.status(),
            ..Printed::default()
        });
        printed.finish()
    }

    fn words(&self) -> Result<Vec<&str>, Failure> {
        let texts = self.words.iter().map(|w| {
            w.to_str().ok_or_else(|| {
                Failure::Usage(format!("argument `{}' is not UTF-8", w.to_string_lossy()))
            })
        });
        texts.collect()
    }

    /// Where the ruleset is.
    fn store(&self) -> Result<Store, Failure> {
        let path = self.state.as_ref().ok_or_else(|| {
            Failure::Resource(format!(
                "{}: no tidegate daemon is running here.\n\
                 Name a state file to work on: --offline FILE, or TIDEGATE_STATE=FILE.",
                self.tool.name()
            ))
        })?;
        Ok(Store::new(path, self.tool.family))
    }

    fn names() -> HostNames {
        HostNames::default()
    }
}

/// Takes `--offline FILE` or `--offline=FILE` out.
fn without_offline(words: &[OsString]) -> (Vec<OsString>, Option<OsString>) {
    let mut kept = Vec::with_capacity(words.len());
    let mut file = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let attached = word.to_str().and_then(|w| w.strip_prefix("--offline="));
        if let Some(name) = attached {
            file = Some(OsString::from(name));
        } else if word == "--offline" {
            file = words.next().cloned();
        } else {
            kept.push(word.clone());
        }
    }
    (kept, file)
}

/// What a tool prints and how it exits.
#[derive(Debug, Default)]
struct Printed {
    out: String,
    err: String,
    status: u8,
}

impl Printed {
    fn finish(&self) -> ExitCode {
        let err = std::io::stderr().write_all(self.err.as_bytes());
        let mut stdout = std::io::stdout().lock();
        let out = stdout
            .write_all(self.out.as_bytes())
            .and_then(|()| stdout.flush());
        match (err, out) {
            (Ok(()), Ok(())) => ExitCode::from(self.status),
            // Whoever reads has gone.
            _ => ExitCode::FAILURE,
        }
    }
}
