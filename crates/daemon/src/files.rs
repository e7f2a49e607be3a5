//! Rules in files: those read at start and saved on demand, and the record of the rules
//! in force that outlives a crash.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jiff::Zoned;
use serde::Serialize;
use similar::{ChangeTag, TextDiff};
use tidegate_engine::conntrack::Policies;
use tidegate_sets::Sets;
use tidegate_syntax::{Failure, Ruleset, parse_rules, save};
use tidegate_tools::{HostNames, Store, replace, timeouts};
use tidegate_wire::Family;
use tidegate_xt::matches::osf_prints::Fingerprints;

use crate::apply::lines;
use crate::config::{AfterCrash, Config};
use crate::rules::{FAMILIES, LiveRules};
use crate::sets;

/// The tool whose messages a family's file gets.
pub(crate) fn tool(family: Family, job: &str) -> String {
    match family {
        Family::V4 => format!("iptables-{job}"),
        Family::V6 => format!("ip6tables-{job}"),
    }
}

/// A family's rules file by the configuration.
pub(crate) fn configured(config: &Config, family: Family) -> &Path {
    match family {
        Family::V4 => &config.rules.v4,
        Family::V6 => &config.rules.v6,
    }
}

/// The record of the rules in force.
fn record(config: &Config, family: Family) -> PathBuf {
    let name = match family {
        Family::V4 => "running.v4",
        Family::V6 => "running.v6",
    };
    config.state.directory.join(name)
}

/// The record of the sets.
fn sets_record(config: &Config) -> PathBuf {
    config.state.directory.join("running.sets")
}

/// The sets to start with.
///
/// # Errors
/// The configured file cannot be read or is refused.
pub(crate) fn sets_at_start(config: &Config) -> Result<Sets> {
    let kept = sets_record(config);
    if config.rules.after_crash == AfterCrash::Running && kept.exists() {
        match sets::read(&kept) {
            Ok(sets) => return Ok(sets),
            Err(e) => tracing::warn!("the record of the sets is left out: {e:#}"),
        }
    }
    sets::read(&config.rules.sets)
}

/// The rules before those on trial.
fn before(config: &Config, family: Family) -> PathBuf {
    let name = match family {
        Family::V4 => "before.v4",
        Family::V6 => "before.v6",
    };
    config.state.directory.join(name)
}

/// Keeps the rules that come back when rules on trial are not confirmed, or the daemon
/// dies meanwhile.
///
/// # Errors
/// A file cannot be written.
pub(crate) fn keep_before(config: &Config, rules: &[Ruleset; 2]) -> Result<()> {
    for rules in rules {
        let path = before(config, rules.family);
        let text = save::plain(rules);
        replace(&path, text.as_bytes()).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// They are not needed any more.
pub(crate) fn forget_before(config: &Config) {
    for family in FAMILIES {
        let _ = fs::remove_file(before(config, family));
    }
}

/// A file's text; `None` when it is missing and not `required`.
fn text_of(path: &Path, required: bool) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound && !required => Ok(None),
        text => Ok(Some(text.with_context(|| path.display().to_string())?)),
    }
}

/// Reads rules as `iptables-save` writes them; `None` when there is no file and none is
/// required.
///
/// # Errors
/// The file cannot be read or says something that `iptables-restore` refuses; file and
/// line are named.
pub(crate) fn read(
    path: &Path,
    family: Family,
    required: bool,
    names: &HostNames,
) -> Result<Option<Ruleset>> {
    let file = path.display();
    let Some(text) = text_of(path, required)? else {
        return Ok(None);
    };
    let rules = parse_rules(&text, family, names).map_err(|e| {
        let why = e.render(&tool(family, "restore"));
        anyhow!("{file}: line {}: {}", e.line, why.trim_end())
    })?;
    Ok(Some(rules))
}

/// The timeout policies of the configured file; none when it is missing.
///
/// # Errors
/// The file cannot be read, or a line is none of a policy; file and line are named.
pub(crate) fn read_timeouts(config: &Config) -> Result<Policies> {
    let path = &config.rules.timeouts;
    let text = text_of(path, false)?.unwrap_or_default();
    timeouts::read(&text).map_err(|e| anyhow!("{}: {e}", path.display()))
}

/// The fingerprints of the configured file; none when it is missing.
///
/// # Errors
/// The file cannot be read, or a line is no fingerprint; file and line are named.
pub(crate) fn read_fingerprints(config: &Config) -> Result<Fingerprints> {
    let path = &config.rules.fingerprints;
    let text = text_of(path, false)?.unwrap_or_default();
    let mut all = Fingerprints::default();
    let read = all.change(&text, false);
    read.map_err(|e| anyhow!("{}: {e}", path.display()))?;
    Ok(all)
}

/// Writes the policies to the configured file.
///
/// # Errors
/// It cannot be written; it is as before.
pub(crate) fn write_timeouts(config: &Config, policies: &Policies) -> Result<()> {
    let path = &config.rules.timeouts;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let text = timeouts::file_text(policies);
    replace(path, text.as_bytes()).with_context(|| path.display().to_string())
}

/// The host's names, with the policies of the configured file.
fn names(config: &Config) -> Result<HostNames> {
    let known = timeouts::known(read_timeouts(config)?.iter());
    Ok(HostNames::with_timeouts(known))
}

/// The rules to start with, and where each family's come from.
///
/// # Errors
/// As [`read`].
pub(crate) fn at_start(config: &Config) -> Result<[(Ruleset, Option<PathBuf>); 2]> {
    let names = names(config)?;
    let crashed = config.rules.after_crash == AfterCrash::Running;
    let find = |family| -> Result<_> {
        // Rules on trial when the daemon died were never confirmed.
        for kept in [before(config, family), record(config, family)] {
            match read(&kept, family, false, &names) {
                _ if !crashed => {}
                Ok(Some(rules)) => return Ok((rules, Some(kept))),
                Ok(None) => {}
                Err(e) => tracing::warn!("the record of the rules in force is left out: {e:#}"),
            }
        }
        from_file(config, family, &names)
    };
    let [v4, v6] = FAMILIES;
    Ok([find(v4)?, find(v6)?])
}

/// A family's rules by its configured file.
///
/// # Errors
/// As [`read`].
pub(crate) fn from_file(
    config: &Config,
    family: Family,
    names: &HostNames,
) -> Result<(Ruleset, Option<PathBuf>)> {
    let path = configured(config, family);
    Ok(match read(path, family, config.rules.required, names)? {
        Some(rules) => (rules, Some(path.to_owned())),
        None => (Ruleset::empty(family), None),
    })
}

/// Writes the rules in force to the configured files, as `iptables-save -c` prints them.
///
/// # Errors
/// A file cannot be written; it is as before.
pub(crate) fn save_all(config: &Config, rules: &LiveRules) -> Result<Vec<PathBuf>> {
    let mut saved = Vec::new();
    for family in FAMILIES {
        let mut text = String::new();
        let date = Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string();
        let name = tool(family, "save");
        let print = rules.with(family, false, &mut |r| {
            text = save::ruleset(r.tables.iter(), family, &name, &date, true);
            Ok(false)
        });
        print.map_err(plain)?;
        let path = configured(config, family);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        replace(path, text.as_bytes()).with_context(|| path.display().to_string())?;
        saved.push(path.to_owned());
    }
    let (sets, path) = (rules.sets_text()?, &config.rules.sets);
    // Who has no sets gets no file of them.
    if !sets.is_empty() || path.exists() {
        replace(path, sets.as_bytes()).with_context(|| path.display().to_string())?;
        saved.push(path.clone());
    }
    Ok(saved)
}

/// How the rules in force differ from those in a family's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Drift {
    /// Always the same.
    pub(crate) code: &'static str,
    /// The file.
    pub(crate) file: PathBuf,
    /// Rules, chains and policies that only the rules in force have.
    pub(crate) only_running: usize,
    /// Those that only the file has.
    pub(crate) only_saved: usize,
    /// How many of the former are in chains of Docker, which makes them itself.
    pub(crate) docker: usize,
}

/// How long files are compared for the least difference; after that for any.
const LONGEST: Duration = Duration::from_secs(1);

/// Compares rules in force with their file; `None` where they agree, or the file cannot be
/// read.
pub(crate) fn drift(config: &Config, rules: &LiveRules, family: Family) -> Option<Drift> {
    let (saved, _) = from_file(config, family, &names(config).ok()?).ok()?;
    let mut running = Vec::new();
    let look = rules.with(family, false, &mut |r| {
        running = significant(r);
        Ok(false)
    });
    look.ok()?;
    let saved = significant(&saved);
    let (mut only_running, mut only_saved, mut docker) = (0, 0, 0);
    let (saved, running) = (to_str(&saved), to_str(&running));
    let compared = TextDiff::configure()
        .timeout(LONGEST)
        .diff_slices(&saved, &running);
    for change in compared.iter_all_changes() {
        match change.tag() {
            ChangeTag::Insert => {
                only_running += 1;
                docker += usize::from(change.value().starts_with("-A DOCKER"));
            }
            ChangeTag::Delete => only_saved += 1,
            ChangeTag::Equal => {}
        }
    }
    (only_running + only_saved > 0).then(|| Drift {
        code: "TG100",
        file: configured(config, family).to_owned(),
        only_running,
        only_saved,
        docker,
    })
}

fn to_str(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).collect()
}

/// Lines of rules that decide something: no tables as such, no policies that accept.
fn significant(rules: &Ruleset) -> Vec<String> {
    let lines = lines(rules);
    let lines = lines.lines();
    let decides =
        |l: &&str| !(l.starts_with('*') || l.starts_with("-P ") && l.ends_with(" ACCEPT"));
    lines.filter(decides).map(str::to_owned).collect()
}

impl Drift {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let docker = match self.docker {
            0 => String::new(),
            n => format!(" ({n} in chains of Docker, which makes them itself)"),
        };
        format!(
            "running is not {}: +{} -{} lines{docker}\n            \
             Do: tidegate save to keep what runs, or tidegate reload to have the file again",
            self.file.display(),
            self.only_running,
            self.only_saved
        )
    }
}

pub(crate) fn plain(failure: Failure) -> anyhow::Error {
    anyhow!("{}", failure.render("tidegate", None).trim_end().to_owned())
}

/// Keeps the record of the rules in force.
pub(crate) struct Recorder {
    written: [Option<String>; 2],
    /// [`LiveRules::sets_changes`] of the sets that were written.
    sets: Option<u64>,
}

impl Recorder {
    pub(crate) const fn new() -> Self {
        Recorder {
            written: [None, None],
            sets: None,
        }
    }

    /// Writes what has changed since the last time.
    ///
    /// # Errors
    /// A file cannot be written; it is as before.
    pub(crate) fn write(&mut self, config: &Config, rules: &LiveRules) -> Result<()> {
        for (family, written) in FAMILIES.into_iter().zip(&mut self.written) {
            let text = rules.text(family).map_err(plain)?;
            if written.as_ref() != Some(&text) {
                let path = record(config, family);
                replace(&path, text.as_bytes()).with_context(|| path.display().to_string())?;
                *written = Some(text);
            }
        }
        let changes = rules.sets_changes()?;
        if self.sets != Some(changes) {
            let path = sets_record(config);
            let sets = rules.sets_text()?;
            replace(&path, sets.as_bytes()).with_context(|| path.display().to_string())?;
            self.sets = Some(changes);
        }
        Ok(())
    }
}

/// Removes the record: the daemon ends in order.
pub(crate) fn forget_record(config: &Config) {
    forget_before(config);
    let _ = fs::remove_file(sets_record(config));
    for family in FAMILIES {
        let _ = fs::remove_file(record(config, family));
    }
}
