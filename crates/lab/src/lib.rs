//! Small networks to try a firewall in.
//!
//! A lab is a few hosts, each a network namespace, wired with veth pairs: clients, a
//! guarded host, the outside. In it real programs, or small ones built in, try what a
//! [scenario](Options) says, while the guarded host's firewall is Tidegate or the
//! kernel's own. Labs need neither root nor anything installed, and leave nothing behind.
#![forbid(unsafe_code)]

mod compare;
mod filter;
mod firewall;
mod host;
mod outcome;
mod programs;
mod prompt;
mod report;
mod rtnl;
mod rules;
mod runner;
mod scenario;
mod shell;
mod tap;
mod topology;
mod world;

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use report::{Counted, Event, state_text};
pub use world::hidden;

/// Who guards the guarded host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// This program.
    #[default]
    Tidegate,
    /// The kernel's netfilter with Debian's iptables.
    Kernel,
    /// Nobody: to see what the programs do without a firewall; nothing is judged.
    None,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::Tidegate => "tidegate",
            Who::Kernel => "kernel",
            Who::None => "none",
        })
    }
}

/// Which programs are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Programs {
    /// Those of the system where they are installed, else built-in ones.
    #[default]
    Auto,
    /// Those of the system; an error where one is not installed.
    Real,
    /// The built-in ones.
    Builtin,
}

/// How a lab is made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    /// Who guards.
    pub firewall: Who,
    /// Which programs are tried.
    pub programs: Programs,
    /// Directory for the packets, as an absolute path.
    pub capture: Option<PathBuf>,
}

/// What the processes inside have to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Play a scenario, tell what happens.
    Scenario {
        /// Its id.
        name: String,
        /// How.
        options: Options,
    },
    /// Let the user type.
    Shell {
        /// A scenario whose network and servers are there; its commands are not typed.
        name: Option<String>,
        /// The host to type on, if not the guarded one.
        on: Option<String>,
        /// How.
        options: Options,
    },
}

/// Id and title of every scenario.
///
/// # Errors
/// A scenario's text is damaged.
pub fn list() -> Result<Vec<(String, String)>> {
    scenario::Scenario::names()
        .map(|name| Ok((name.to_uppercase(), scenario::Scenario::named(name)?.title)))
        .collect()
}

/// Plays the scenario `name` and hands what happens to `tell`. Says whether everything
/// was as it must be.
///
/// # Errors
/// No lab can be made here.
pub fn play(name: &str, options: &Options, tell: &mut dyn FnMut(&Event)) -> Result<bool> {
    scenario::Scenario::named(name)?;
    let job = Job::Scenario {
        name: name.to_owned(),
        options: options.clone(),
    };
    let mut command = world::command(&job)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the lab")?;
    let out = child.stdout.take().context("no output of the lab")?;
    let (mut good, mut ended) = (true, false);
    for line in BufReader::new(out).lines() {
        let event: Event = serde_json::from_str(&line?)?;
        good &= event.good() != Some(false);
        ended |= matches!(event, Event::End { .. });
        tell(&event);
    }
    child.wait()?;
    Ok(good && ended)
}

/// What differs between two runs of the scenario `name`, a line each: the first with the
/// kernel's firewall, the second with Tidegate. Both have the same rules, hit the same
/// ones, and know the same connections, or it is told.
///
/// # Errors
/// There is no such scenario.
pub fn differences(name: &str, kernel: &[Event], tidegate: &[Event]) -> Result<Vec<String>> {
    let ports = scenario::Scenario::named(name)?.ports();
    Ok(compare::differences(kernel, tidegate, &ports))
}

/// Opens a shell in a lab: with the network and the servers of the scenario `name`, or
/// of a host that is to be guarded. Says how the shell ended.
///
/// # Errors
/// No lab can be made here.
pub fn shell(name: Option<&str>, on: Option<&str>, options: &Options) -> Result<ExitCode> {
    let job = Job::Shell {
        name: name.map(str::to_owned),
        on: on.map(str::to_owned),
        options: options.clone(),
    };
    let status = world::command(&job)?.status()?;
    Ok(world::exit_code(status))
}

/// What the first process of a lab does.
pub(crate) fn run_inside(job: &Job) -> Result<ExitCode> {
    match job {
        Job::Scenario { name, options } => {
            let mut out = std::io::stdout();
            runner::play(name, options, &mut |event| {
                // Whoever reads has gone: so will this be, soon.
                let _ = serde_json::to_string(&event).map(|text| writeln!(out, "{text}"));
            });
            Ok(ExitCode::SUCCESS)
        }
        Job::Shell { name, on, options } => {
            prompt::open(name.as_deref(), on.as_deref(), options).map(world::exit_code)
        }
    }
}
