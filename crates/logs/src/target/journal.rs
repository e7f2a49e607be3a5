//! The journal's native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): one datagram of
//! `FIELD=value` lines. Values are printable, so none needs the binary form.

use std::path::Path;

use super::{Target, door::Door};
use crate::line::{Author, Line};
use crate::status::Meter;

#[derive(Debug)]
pub(crate) struct Journal(Door);

impl Journal {
    pub(crate) fn new(path: &Path) -> Self {
        Journal(Door::new(path))
    }
}

impl Target for Journal {
    fn write(&mut self, author: &mut Author, line: &Line, meter: &Meter) {
        let entry = format!(
            "MESSAGE={}\nPRIORITY={}\nSYSLOG_FACILITY={}\nSYSLOG_IDENTIFIER={}\n",
            line.text,
            line.priority() & 7,
            line.priority() >> 3,
            author.tag
        );
        match self.0.send(entry.as_bytes()) {
            Ok(()) => meter.success(1),
            Err(e) => meter.failure(1, &e),
        }
    }
}
