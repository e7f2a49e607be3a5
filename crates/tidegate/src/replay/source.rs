//! Several captures as one stream in the order of time.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tidegate_capture::{CaptureError, Frame, Reader};

/// An open capture, standing at its next packet.
struct Source {
    reader: Reader<Box<dyn Read>>,
    /// Time of the packet it stands at; `None` at its end.
    time: Option<u64>,
}

/// The captures of a replay.
pub(super) struct Sources {
    sources: Vec<Source>,
    /// The source whose packet was given out last.
    current: Option<usize>,
    /// Captures that turned out to be damaged.
    errors: Vec<CaptureError>,
}

impl Sources {
    /// Opens all captures; `-` is the standard input.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn open(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Sources {
            sources: Vec::with_capacity(paths.len()),
            current: None,
            errors: Vec::new(),
        };
        for path in paths {
            let name = path.display().to_string();
            let input: Box<dyn Read> = if path == Path::new("-") {
                Box::new(std::io::stdin())
            } else {
                Box::new(File::open(path).with_context(|| name.clone())?)
            };
            all.sources.push(Source {
                reader: Reader::new(name, input),
                time: None,
            });
        }
        for at in 0..all.sources.len() {
            all.advance(at);
        }
        Ok(all)
    }

    fn advance(&mut self, at: usize) {
        let Some(source) = self.sources.get_mut(at) else {
            return;
        };
        if let Err(error) = source.reader.advance() {
            self.errors.push(error);
        }
        source.time = source.reader.frame().map(|f| f.time_ns);
    }

    /// The next packet and which capture it is from. Packets of one capture keep
    /// their order whatever their time stamps say.
    pub(super) fn next_frame(&mut self) -> Option<(usize, Frame<'_>)> {
        if let Some(last) = self.current.take() {
            self.advance(last);
        }
        let timed = self.sources.iter().enumerate();
        let (_, at) = timed.filter_map(|(i, s)| Some((s.time?, i))).min()?;
        self.current = Some(at);
        Some((at, self.sources.get(at)?.reader.frame()?))
    }

    /// Damage met since the last call.
    pub(super) fn take_errors(&mut self) -> Vec<CaptureError> {
        std::mem::take(&mut self.errors)
    }

    /// Bytes read from all captures.
    pub(super) fn offset(&self) -> u64 {
        self.sources.iter().map(|s| s.reader.offset()).sum()
    }
}
