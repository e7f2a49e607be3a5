//! The state file: both families' rulesets as text.
//!
//! ```text
//! # tidegate-state ipv4
//! *filter
//! :INPUT ACCEPT [0:0]
//! …
//! COMMIT
//! # tidegate-state ipv6
//! …
//! # tidegate-state ipset 1700000000
//! create …
//! ```
//!
//! A section is a rules file with counters, or what `ipset save` printed at that time (in
//! seconds since 1970); any may be missing, and text before the first heading belongs to IPv4, so that an `iptables-save` file is a state file too.
//! A missing file is an empty ruleset. `FILE.lock` is locked around every use; changes
//! are written beside the file and moved over it, so that readers, crashes and full
//! disks never see half a ruleset.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_sets::SECOND;
use tidegate_syntax::{Failure, Ruleset, Sockets, lower_unnamed, parse_rules, save};
use tidegate_wire::Family;

use crate::ipset::{SetWork, Users, read_all, save_all};
use crate::replace::{beside, replace};
use crate::{HostNames, Printed, SetStore, Store, Work};

/// The file and the family worked on.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
}

const HEADINGS: [(Family, &str); 2] = [
    (Family::V4, "# tidegate-state ipv4\n"),
    (Family::V6, "# tidegate-state ipv6\n"),
];

/// What the heading of sets begins with; the time follows.
const SETS: &str = "# tidegate-state ipset ";

impl FileStore {
    /// The state file `path`; it need not exist yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        // A link is followed: it is the file that gets replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        FileStore { path }
    }

    fn failed(&self, e: &io::Error) -> Failure {
        Failure::Resource(format!("{}: {e}", self.path.display()))
    }

    fn lock(&self, change: bool) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(beside(&self.path, ".lock"))?;
        if change {
            file.lock()?;
        } else {
            file.lock_shared()?;
        }
        Ok(file)
    }
}

/// The file's parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Rules of each family, in the order of [`HEADINGS`].
    rules: [String; 2],
    /// Sets, and when they were written, in seconds since 1970.
    sets: String,
    written: u64,
}

impl State {
    /// Cuts a text at its headings.
    fn read(text: &str) -> Self {
        let mut state = State::default();
        let mut at = Some(0);
        for line in text.split_inclusive('\n') {
            if let Some(family) = HEADINGS.iter().position(|h| h.1 == line) {
                at = Some(family);
            } else if let Some(when) = line.strip_prefix(SETS) {
                state.written = when.trim().parse().unwrap_or(0);
                at = None;
            } else {
                match at {
                    Some(family) => state.rules[family].push_str(line),
                    None => state.sets.push_str(line),
                }
            }
        }
        state
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for ((_, heading), rules) in HEADINGS.iter().zip(&self.rules) {
            text += heading;
            text += rules;
        }
        if !self.sets.is_empty() {
            text += &format!("{SETS}{}\n{}", self.written, self.sets);
        }
        text
    }
}

/// The rules of a family and the sets that a text holds, which is a state file or what
/// `iptables-save` printed.
#[must_use]
pub fn rules_and_sets(text: &str, family: Family) -> (String, String) {
    let mut state = State::read(text);
    // Without a heading there are rules of one family only, whichever it is.
    let plain = !text
        .lines()
        .any(|line| HEADINGS.iter().any(|h| h.1.trim_end() == line));
    let at = if plain { 0 } else { place(family) };
    (std::mem::take(&mut state.rules[at]), state.sets)
}

impl FileStore {
    fn read(&self) -> io::Result<State> {
        match fs::read_to_string(&self.path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(State::default()),
            text => text.map(|text| State::read(&text)),
        }
    }

    fn unreadable(&self, why: &str) -> Failure {
        Failure::Resource(format!(
            "{} cannot be read as a state file: {}",
            self.path.display(),
            why.replace('\n', "; ")
        ))
    }

    fn rules(&self, state: &State, family: Family) -> Result<Ruleset, Failure> {
        let own = &state.rules[place(family)];
        parse_rules(own, family, &HostNames::default())
            .map_err(|refused| self.unreadable(&refused.to_string()))
    }

    /// How many rules name each set.
    fn users(&self, state: &State) -> Result<Users, Failure> {
        let mut users = Users::new();
        for (family, _) in HEADINGS {
            let lowered = lower_unnamed(&self.rules(state, family)?, false, Sockets::Unknown)?;
            let keys = lowered.ruleset.steps.iter().flat_map(|s| s.tables());
            for key in keys.filter(|key| key.kind == tidegate_xt::sets::KIND) {
                *users.entry(key.name).or_default() += 1;
            }
        }
        Ok(users)
    }
}

fn place(family: Family) -> usize {
    HEADINGS.iter().position(|h| h.0 == family).unwrap_or(0)
}

impl Store for FileStore {
    fn with(&self, family: Family, change: bool, work: &mut Work<'_>) -> Result<(), Failure> {
        let failed = |e: io::Error| self.failed(&e);
        let _lock = self.lock(change).map_err(failed)?;
        let mut state = self.read().map_err(failed)?;
        let mut rules = self.rules(&state, family)?;
        if !work(&mut rules)? {
            return Ok(());
        }
        state.rules[place(family)] = save::plain(&rules);
        replace(&self.path, state.text().as_bytes()).map_err(failed)
    }

    fn sets(&self) -> Option<&dyn SetStore> {
        Some(self)
    }
}

impl SetStore for FileStore {
    fn with_sets(&self, change: bool, work: SetWork) -> Result<Printed, Failure> {
        let failed = |e: io::Error| self.failed(&e);
        let _lock = self.lock(change).map_err(failed)?;
        let mut state = self.read().map_err(failed)?;
        let users = self.users(&state)?;
        let sets = read_all(&state.sets, state.written * SECOND);
        let mut sets = sets.map_err(|why| self.unreadable(&why))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |d| d.as_nanos() as u64);
        let printed = work(&mut sets, &users, now);
        if change {
            state.sets = save_all(&sets, now);
            state.written = now / SECOND;
            replace(&self.path, state.text().as_bytes()).map_err(failed)?;
        }
        Ok(printed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_at_its_headings() {
        let plain = "*filter\nCOMMIT\n";
        assert_eq!(State::read(plain).rules, [plain, ""]);
        let all = "# tidegate-state ipv4\na\n# tidegate-state ipv6\nb\nc\n\
                   # tidegate-state ipset 17\ncreate s hash:ip\n";
        let state = State::read(all);
        assert_eq!(state.rules, ["a\n", "b\nc\n"]);
        assert_eq!(
            (state.sets.as_str(), state.written),
            ("create s hash:ip\n", 17)
        );
        assert_eq!(state.text(), all);
    }
}
