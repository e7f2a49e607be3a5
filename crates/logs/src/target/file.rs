//! A file of lines.

use super::Target;
use crate::config;
use crate::line::{Author, Line};
use crate::rotate::{Naming, Rotating};
use crate::status::Meter;

/// Bytes held back at most.
const HELD: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct LogFile {
    file: Rotating,
    held: String,
    lines: u64,
}

impl LogFile {
    pub(crate) fn new(config: &config::LogFile) -> Self {
        LogFile {
            file: Rotating::new(&config.path, config.size, config.keep, Naming::Append),
            held: String::new(),
            lines: 0,
        }
    }

    /// Sees to a file that so many bytes more fit in.
    fn make_room(&mut self, bytes: usize, meter: &Meter) -> std::io::Result<()> {
        if !self.file.has_room(self.held.len(), bytes)? {
            self.flush(meter);
            if !self.file.has_room(0, bytes)? {
                self.file.rotate()?;
            }
        }
        Ok(())
    }
}

impl Target for LogFile {
    fn write(&mut self, author: &mut Author, line: &Line, meter: &Meter) {
        let text = author.filed(line);
        if let Err(e) = self.make_room(text.len() + 1, meter) {
            return meter.failure(1, &e);
        }
        self.held += &text;
        self.held.push('\n');
        self.lines += 1;
        if self.held.len() >= HELD {
            self.flush(meter);
        }
    }

    fn flush(&mut self, meter: &Meter) {
        if self.lines == 0 {
            return;
        }
        match self.file.append(self.held.as_bytes()) {
            Ok(()) => meter.success(self.lines),
            Err(e) => meter.failure(self.lines, &e),
        }
        self.held.clear();
        self.lines = 0;
    }
}
