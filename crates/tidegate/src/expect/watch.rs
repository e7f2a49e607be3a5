//! Files that are watched for changes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// When a file was changed last, and its length; `None` where there is none.
type Stamp = Option<(SystemTime, u64)>;

/// Files as they were when they were about to be read, so that a change after that is not
/// missed, whatever came of reading them.
#[derive(Debug, Default)]
pub(super) struct Watched(Vec<(PathBuf, Stamp)>);

impl Watched {
    /// A file is about to be read, whether it is there or not.
    pub(super) fn note(&mut self, path: &Path) {
        self.0.push((path.to_owned(), stamp(path)));
    }

    /// Whether one of them is not what it was any more.
    pub(super) fn changed(&self) -> bool {
        self.0.iter().any(|(path, was)| stamp(path) != *was)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}
