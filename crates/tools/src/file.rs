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

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tidegate_syntax::{Failure, parse_rules, save};
use tidegate_wire::Family;

use crate::replace::{beside, replace};
use crate::{HostNames, Store, Work};

/// The file and the family worked on.
#[derive(Debug)]
pub struct FileStore {
    path: PathBuf,
}

const HEADINGS: [(Family, &str); 2] = [
    (Family::V4, "# tidegate-state ipv4\n"),
    (Family::V6, "# tidegate-state ipv6\n"),
];

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

impl Store for FileStore {
    fn with(&self, family: Family, change: bool, work: &mut Work<'_>) -> Result<(), Failure> {
        let failed = |e: io::Error| self.failed(&e);
        let _lock = self.lock(change).map_err(failed)?;
        let text = match fs::read_to_string(&self.path) {
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            text => text.map_err(failed)?,
        };
        let (mut own, mut other) = (String::new(), String::new());
        for (of, section) in sections(&text) {
            let to = if of == family { &mut own } else { &mut other };
            to.push_str(section);
        }
        let mut rules = parse_rules(&own, family, &HostNames::default()).map_err(|refused| {
            Failure::Resource(format!(
                "{} cannot be read as a state file: {}",
                self.path.display(),
                refused.to_string().replace('\n', "; ")
            ))
        })?;
        if !work(&mut rules)? {
            return Ok(());
        }
        let own = save::plain(&rules);
        let mut text = String::with_capacity(own.len() + other.len() + 64);
        for (of, heading) in HEADINGS {
            text += heading;
            text += if of == family { &own } else { &other };
        }
        replace(&self.path, text.as_bytes()).map_err(failed)
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
