//! `--out`: the capture again, with verdicts as packet comments.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context, Result};
use tidegate_capture::{Direction, Frame, LinkType, Writer};

/// Writes packets with comments.
pub(super) struct Export {
    writer: Writer<BufWriter<File>>,
    /// Interfaces described so far, by name and link type.
    interfaces: HashMap<(String, LinkType), u32>,
    path: String,
}

impl Export {
    /// Starts a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::create(path).with_context(|| name.clone())?;
        let application = concat!("tidegate ", env!("CARGO_PKG_VERSION"), " replay");
        let writer = Writer::new(BufWriter::with_capacity(1 << 18, file), application);
        Ok(Export {
            writer: writer.with_context(|| name.clone())?,
            interfaces: HashMap::new(),
            path: name,
        })
    }

    /// Writes one packet as it was captured.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn packet(
        &mut self,
        frame: &Frame<'_>,
        interface: &str,
        direction: Direction,
        comment: &str,
    ) -> Result<()> {
        let key = (interface.to_owned(), frame.interface.link);
        let id = match self.interfaces.get(&key) {
            Some(id) => *id,
            None => {
                let added = self.writer.add_interface(Some(interface), key.1);
                let id = added.with_context(|| self.path.clone())?;
                self.interfaces.insert(key, id);
                id
            }
        };
        self.writer
            .packet(
                id,
                frame.time_ns,
                direction,
                frame.data,
                frame.original_len,
                comment,
            )
            .with_context(|| self.path.clone())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn finish(mut self) -> Result<()> {
        self.writer.flush().with_context(|| self.path)
    }
}
