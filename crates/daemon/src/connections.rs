//! The file in which connections outlive the daemon.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tidegate_engine::Engine;
use tidegate_engine::conntrack::Time;
use tidegate_engine::conntrack::snapshot::{Restored, Snapshot, Writer};
use tidegate_tools::Replacement;

use crate::plane::Plane;

/// Places of the connection table looked at between two packets: about a quarter of a
/// millisecond.
const PIECE: u32 = 512;
/// Longest file that is read: about eight million connections.
const MOST_BYTES: u64 = 1 << 30;
/// Writing takes at most one part in so many of the time.
const SHARE: u32 = 20;

/// Writes connections down every so often and puts them back at a start.
#[derive(Debug)]
pub struct ConnectionFile {
    path: PathBuf,
    every: Duration,
    due: Instant,
}

impl ConnectionFile {
    /// The file in the state directory, to be written at most `every` so often.
    #[must_use]
    pub fn new(directory: &Path, every: Duration) -> Self {
        ConnectionFile {
            path: directory.join("connections"),
            every,
            due: Instant::now() + every,
        }
    }

    /// Puts back what the file holds; `None` when there is none. A damaged file restores
    /// nothing and is put aside as `connections.damaged`.
    ///
    /// # Errors
    /// The file cannot be read or is damaged, or the datapath has stopped.
    pub fn restore(&self, plane: &dyn Plane) -> Result<Option<Restored>> {
        let shown = || self.path.display().to_string();
        let Some(bytes) = read(&self.path).with_context(shown)? else {
            return Ok(None);
        };
        let restored = plane.with(move |engine, now| {
            let snapshot = Snapshot::open(&bytes)?;
            Ok(engine.restore(now, now, &snapshot))
        })?;
        if restored.is_err() {
            let aside = self.path.with_extension("damaged");
            fs::rename(&self.path, &aside).with_context(shown)?;
        }
        let restored: Result<Restored> = restored;
        restored.map(Some).with_context(shown)
    }

    /// Writes all connections; returns how many. Packets pass meanwhile.
    ///
    /// # Errors
    /// The file is as before: the disk is full, say, or the datapath has stopped.
    pub fn write(&mut self, plane: &dyn Plane) -> Result<u32> {
        let begun = Instant::now();
        let written = self.fill(|so_far| plane.with(move |engine, now| so_far.go_on(engine, now)));
        let pause = begun.elapsed().saturating_mul(SHARE).max(self.every);
        self.due = Instant::now() + pause;
        written.with_context(|| self.path.display().to_string())
    }

    /// The same between two packets, none of which passes meanwhile.
    ///
    /// # Errors
    /// As [`ConnectionFile::write`].
    pub(crate) fn write_at_once(&self, engine: &Engine, now: Time) -> Result<u32> {
        self.fill(|so_far| Ok(so_far.go_on(engine, now)))
    }

    /// Writes piece after piece, as `next` makes them.
    fn fill(&self, mut next: impl FnMut(Piece) -> Result<Piece>) -> Result<u32> {
        let mut file = Replacement::begin(&self.path)?;
        let mut piece = Piece::default();
        loop {
            piece = next(piece)?;
            file.write_all(&piece.bytes)?;
            if piece.is_last {
                file.commit()?;
                return Ok(piece.writer.map_or(0, |w| w.connections()));
            }
        }
    }

    /// Writes all connections if it is time again. With many of them it is so less often.
    ///
    /// # Errors
    /// As [`ConnectionFile::write`].
    pub fn write_if_due(&mut self, plane: &dyn Plane) -> Result<()> {
        if Instant::now() >= self.due {
            self.write(plane)?;
        }
        Ok(())
    }
}

/// A part of the file, and who makes the next one.
#[derive(Default)]
struct Piece {
    writer: Option<Writer>,
    bytes: Vec<u8>,
    is_last: bool,
}

impl Piece {
    fn go_on(mut self, engine: &Engine, now: Time) -> Piece {
        self.bytes.clear();
        let writer = self.writer.take();
        let mut writer = writer.unwrap_or_else(|| Writer::new(now, now, &mut self.bytes));
        self.is_last = writer.step(engine.conntrack(), PIECE, &mut self.bytes);
        self.writer = Some(writer);
        self
    }
}

/// The file's bytes, if there is one.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        bail!("larger than {MOST_BYTES} bytes");
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
