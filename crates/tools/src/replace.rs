//! Files that are replaced as a whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file of that name with an ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// A file being written beside the one it will replace: to a temporary file, synced,
/// moved over the old one. Permissions stay; a new file is its owner's alone. Until
/// [`Replacement::commit`] the old file is as it was, whatever happens; what is not
/// committed is removed.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    new: PathBuf,
    file: File,
    committed: bool,
}

impl Replacement {
    /// Begins to replace `path`, which need not exist yet.
    ///
    /// # Errors
    /// The temporary file cannot be made.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let new = beside(path, ".new");
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        let replacement = Replacement {
            path: path.to_owned(),
            new,
            file,
            committed: false,
        };
        if let Ok(old) = fs::metadata(path) {
            replacement.file.set_permissions(old.permissions())?;
        }
        Ok(replacement)
    }

    /// Puts the new file in the old one's place.
    ///
    /// # Errors
    /// The old file is still there; or it is not known whether the new one would outlive
    /// a failure of power.
    pub fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.new, &self.path)?;
        self.committed = true;
        let directory = match self.path.parent() {
            Some(d) if !d.as_os_str().is_empty() => d,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.new);
        }
    }
}

/// Writes a file so that it is either as before or as now, whatever happens
/// ([`Replacement`]).
///
/// # Errors
/// Nothing was changed.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Replacement::begin(path)?;
    file.write_all(bytes)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_committed_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, b"old").unwrap();
        let mut file = Replacement::begin(&path).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let mut file = Replacement::begin(&path).unwrap();
        file.write_all(b"in ").unwrap();
        file.write_all(b"pieces").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"in pieces");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
