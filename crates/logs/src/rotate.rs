//! Files that make way for new ones when they have grown.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How older files are called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming {
    /// `log`, `log.1`, `log.2`.
    Append,
    /// `a.pcapng`, `a.1.pcapng`, `a.2.pcapng`.
    BeforeExtension,
}

/// How often it is looked whether the file is still the one under its name.
const LOOK: Duration = Duration::from_secs(1);

/// A file that only grows, up to a size, and its predecessors.
///
/// What is appended is there as a whole or not at all, unless the process dies.
#[derive(Debug)]
pub(crate) struct Rotating {
    path: PathBuf,
    size: u64,
    keep: u32,
    naming: Naming,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
    looked: Instant,
}

impl Rotating {
    pub(crate) fn new(path: &Path, size: u64, keep: u32, naming: Naming) -> Self {
        Rotating {
            path: path.to_owned(),
            size,
            keep,
            naming,
            open: None,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file if it is not open, or is another one now: somebody else may have
    /// moved it away. `true` when it was opened just now.
    pub(crate) fn ensure(&mut self) -> io::Result<bool> {
        if let Some(open) = &mut self.open {
            if open.looked.elapsed() < LOOK {
                return Ok(false);
            }
            open.looked = Instant::now();
            if same_file(&self.path, &open.file) {
                return Ok(false);
            }
        }
        self.open = None;
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o640)
            .open(&self.path)?;
        self.open = Some(Open {
            len: file.metadata()?.len(),
            file,
            looked: Instant::now(),
        });
        Ok(true)
    }

    fn opened(&mut self) -> io::Result<&mut Open> {
        self.ensure()?;
        self.open
            .as_mut()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Bytes in the file.
    pub(crate) fn len(&mut self) -> io::Result<u64> {
        Ok(self.opened()?.len)
    }

    /// Whether the file, with the bytes held back for it, stays within its size with so
    /// many more; an empty one has room for anything.
    pub(crate) fn has_room(&mut self, held: usize, more: usize) -> io::Result<bool> {
        let len = self.len()?.saturating_add(held as u64);
        Ok(len == 0 || len.saturating_add(more as u64) <= self.size)
    }

    /// Appends all of `bytes`, or nothing.
    ///
    /// # Errors
    /// Nothing was appended.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let open = self.opened()?;
        if let Err(e) = open.file.write_all(bytes) {
            // Part of it may be there.
            if open.file.set_len(open.len).is_err() {
                self.open = None;
            }
            return Err(e);
        }
        open.len += bytes.len() as u64;
        Ok(())
    }

    /// Makes the file the first of the older ones, and begins a new one.
    ///
    /// # Errors
    /// The file is still the one it was.
    pub(crate) fn rotate(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        }
        for n in (0..self.keep).rev() {
            match fs::rename(self.older(n), self.older(n + 1)) {
                Err(e) if n == 0 || e.kind() != ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        self.open = None;
        self.ensure().map(|_| ())
    }

    /// Path of the `n`th older file; the file itself for 0.
    fn older(&self, n: u32) -> PathBuf {
        if n == 0 {
            return self.path.clone();
        }
        match self.naming {
            Naming::BeforeExtension => {
                let extension = self.path.extension().unwrap_or_default();
                let mut end = OsString::from(format!("{n}."));
                end.push(extension);
                self.path.with_extension(end)
            }
            Naming::Append => {
                let mut name = self.path.clone().into_os_string();
                name.push(format!(".{n}"));
                PathBuf::from(name)
            }
        }
    }
}

fn same_file(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(directory: &Path) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| {
                let name = e.file_name().into_string().unwrap();
                (name, fs::read_to_string(e.path()).unwrap())
            })
            .collect();
        all.sort();
        all
    }

    fn fill(file: &mut Rotating, pieces: &[&str]) {
        for piece in pieces {
            if !file.has_room(0, piece.len()).unwrap() {
                file.rotate().unwrap();
            }
            file.append(piece.as_bytes()).unwrap();
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut file = Rotating::new(&path, 4, 2, Naming::Append);
        fill(&mut file, &["aa", "bb", "cc", "ddddddd", "e", "f", "gggg"]);
        let wanted = [("a.log", "gggg"), ("a.log.1", "ef"), ("a.log.2", "ddddddd")];
        assert_eq!(
            texts(directory.path()),
            wanted.map(|(n, t)| (n.to_owned(), t.to_owned()))
        );
    }

    #[test]
    fn nothing_older_is_kept_if_so_wished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x/a.pcapng");
        let mut file = Rotating::new(&path, 1, 0, Naming::BeforeExtension);
        fill(&mut file, &["a", "b"]);
        let kept = texts(path.parent().unwrap());
        assert_eq!(kept, [("a.pcapng".to_owned(), "b".to_owned())]);
        let mut file = Rotating::new(&path, 1, 1, Naming::BeforeExtension);
        fill(&mut file, &["c"]);
        let kept = texts(path.parent().unwrap());
        assert_eq!(kept[0], ("a.1.pcapng".to_owned(), "b".to_owned()));
    }

    #[test]
    fn a_file_moved_away_by_others_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.log");
        let mut file = Rotating::new(&path, 100, 1, Naming::Append);
        file.append(b"old").unwrap();
        fs::rename(&path, directory.path().join("b")).unwrap();
        std::thread::sleep(LOOK);
        file.append(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    /// A device that takes nothing stands for a full disk.
    #[test]
    fn a_full_disk_is_an_error_and_nothing_more() {
        let mut file = Rotating::new(Path::new("/dev/full"), 100, 1, Naming::Append);
        for _ in 0..3 {
            let error = file.append(b"x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull);
        }
    }
}
