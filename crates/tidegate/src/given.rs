//! What questions are asked about: rules from files or the running firewall, and a host.

mod guess;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use tidegate_daemon::control::Unreachable;
use tidegate_host::Host;
use tidegate_wire::Family;

use crate::orders::{explain, output_of};
use crate::packets::Described;
use crate::replay::rules::{Loaded, Rules};

/// Rules and host on a command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Given {
    /// IPv4 rules as iptables-save writes them; without any rules, those in force.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,
    /// IPv6 rules as ip6tables-save writes them.
    #[arg(long, value_name = "FILE")]
    pub(crate) rules6: Option<PathBuf>,
    /// The host that the rules are for, as `tidegate host` describes it; `live` is the
    /// running one, and what rules in force are for. Else packets and rules must tell.
    #[arg(long, value_name = "FILE")]
    pub(crate) host: Option<PathBuf>,
}

impl Given {
    /// Whether the question is about the rules in force.
    pub(crate) const fn is_live(&self) -> bool {
        self.rules.is_none() && self.rules6.is_none()
    }

    /// The rules.
    ///
    /// # Errors
    /// A file cannot be read or is refused; a set is missing; no daemon answers.
    pub(crate) fn rules(&self) -> Result<Rules> {
        self.written()?.complete()
    }

    /// The rules; sets that they look into may be missing.
    ///
    /// # Errors
    /// A file cannot be read or is refused; no daemon answers.
    pub(crate) fn written(&self) -> Result<Rules> {
        match self.is_live() {
            true => in_force(),
            false => Rules::written(self.rules.as_deref(), self.rules6.as_deref()),
        }
    }

    /// The host for these packets, and what was guessed about it, a sentence each.
    ///
    /// # Errors
    /// The description cannot be read, or says something impossible.
    pub(crate) fn host(&self, rules: &Rules, packets: &[Described]) -> Result<(Host, Vec<String>)> {
        match &self.host {
            Some(path) => Ok((Host::read(path)?, Vec::new())),
            None if self.is_live() => Ok((Host::read(Path::new("live"))?, Vec::new())),
            None => Ok(guess::guess(rules, packets)),
        }
    }
}

/// The rules that the running firewall enforces.
fn in_force() -> Result<Rules> {
    let both = [
        (Family::V4, "iptables-save"),
        (Family::V6, "ip6tables-save"),
    ];
    let mut loaded = Vec::new();
    for (family, tool) in both {
        let text = output_of(tool, &[]).map_err(or_name_rules)?;
        let mut rules = Loaded::parse(&text, "the rules in force", family)?;
        rules.set(&output_of("ipset", &["save"])?, "the sets")?;
        loaded.push(rules);
    }
    Ok(Rules(loaded))
}

/// What can be done when nobody answers.
fn or_name_rules(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Unreachable>() {
        Ok(e) => anyhow!(
            "{}\nOr name rules to ask about: --rules FILE (iptables-save > FILE).",
            explain(&e)
        ),
        Err(other) => other,
    }
}
