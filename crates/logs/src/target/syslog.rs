//! The local syslog: datagrams to `/dev/log`.

use std::path::Path;

use super::{Target, door::Door};
use crate::line::{Author, Line};
use crate::status::Meter;

#[derive(Debug)]
pub(crate) struct Syslog(Door);

impl Syslog {
    pub(crate) fn new(path: &Path) -> Self {
        Syslog(Door::new(path))
    }
}

impl Target for Syslog {
    fn write(&mut self, author: &mut Author, line: &Line, meter: &Meter) {
        match self.0.send(author.local(line).as_bytes()) {
            Ok(()) => meter.success(1),
            Err(e) => meter.failure(1, &e),
        }
    }
}
