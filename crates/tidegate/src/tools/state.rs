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
//! ```
//!
//! A section is a rules file with counters; either may be missing, and text before the
//! first heading belongs to IPv4, so that an `iptables-save` file is a state file too.
//! A missing file is an empty ruleset. `FILE.lock` is locked around every use; changes
//! are written beside the file and moved over it, so that readers, crashes and full
//! disks never see half a ruleset.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tidegate_syntax::{Failure, Ruleset, parse_rules, save};
use tidegate_wire::Family;
use tidegate_xt::Names;

/// The file and the family worked on.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    family: Family,
}

/// A loaded ruleset; the lock is held until it is dropped.
#[derive(Debug)]
pub(super) struct Loaded<'s> {
    store: &'s Store,
    /// The family's rules.
    pub(super) rules: Ruleset,
    /// The other family's section as it is.
    other: String,
    _lock: File,
}

const HEADINGS: [(Family, &str); 2] = [
    (Family::V4, "# tidegate-state ipv4\n"),
    (Family::V6, "# tidegate-state ipv6\n"),
];

impl Store {
    pub(super) fn new(path: &Path, family: Family) -> Self {
        // A link is followed: it is the file that gets replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Store { path, family }
    }

    /// Reads the ruleset; `change` says whether [`Loaded::store`] may follow.
    pub(super) fn load(&self, change: bool, names: &dyn Names) -> Result<Loaded<'_>, Failure> {
        let failed = |e: &io::Error| self.failed(e);
        let lock = self.lock(change).map_err(|e| failed(&e))?;
        let text = match fs::read_to_string(&self.path) {
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            text => text.map_err(|e| failed(&e))?,
        };
        let mut own = String::new();
        let mut other = String::new();
        for (family, section) in sections(&text) {
            let to = if family == self.family {
                &mut own
            } else {
                &mut other
            };
            to.push_str(section);
        }
        let rules = parse_rules(&own, self.family, names).map_err(|refused| {
            Failure::Resource(format!(
                "{} cannot be read as a state file: {}",
                self.path.display(),
                refused.to_string().replace('\n', "; ")
            ))
        })?;
        Ok(Loaded {
            store: self,
            rules,
            other,
            _lock: lock,
        })
    }

    fn failed(&self, e: &io::Error) -> Failure {
        Failure::Resource(format!("{}: {e}", self.path.display()))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(ending);
        PathBuf::from(name)
    }

    fn lock(&self, change: bool) -> io::Result<File> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.beside(".lock"))?;
        if change {
            file.lock()?;
        } else {
            file.lock_shared()?;
        }
        Ok(file)
    }

    /// Writes `text` so that the file is either as before or as now.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.beside(".new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        if let Ok(old) = fs::metadata(&self.path) {
            file.set_permissions(old.permissions())?;
        }
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, &self.path));
        if let Err(e) = written {
            let _ = fs::remove_file(&new);
            return Err(e);
        }
        let directory = match self.path.parent() {
            Some(d) if !d.as_os_str().is_empty() => d,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }
}

impl Loaded<'_> {
    /// Writes the ruleset back.
    pub(super) fn store(&self) -> Result<(), Failure> {
        let own = save::plain(&self.rules);
        let mut text = String::with_capacity(own.len() + self.other.len() + 64);
        for (family, heading) in HEADINGS {
            text += heading;
            text += if family == self.store.family {
                &own
            } else {
                &self.other
            };
        }
        self.store.replace(&text).map_err(|e| self.store.failed(&e))
    }
}

/// The file cut at its headings.
fn sections(text: &str) -> Vec<(Family, &str)> {
    let mut out = Vec::new();
    let (mut family, mut start, mut at) = (Family::V4, 0, 0);
    for line in text.split_inclusive('\n') {
        let heading = HEADINGS.iter().find(|h| h.1 == line);
        if let Some(&(next, _)) = heading {
            out.push((family, &text[start..at]));
            family = next;
            start = at + line.len();
        }
        at += line.len();
    }
    out.push((family, &text[start..]));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_at_its_headings() {
        let plain = "*filter\nCOMMIT\n";
        assert_eq!(sections(plain), [(Family::V4, plain)]);
        let both = "# tidegate-state ipv4\na\n# tidegate-state ipv6\nb\nc\n";
        assert_eq!(
            sections(both),
            [
                (Family::V4, ""),
                (Family::V4, "a\n"),
                (Family::V6, "b\nc\n")
            ]
        );
    }
}
