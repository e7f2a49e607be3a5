//! Where lines go.

mod door;
mod file;
mod journal;
mod remote;
mod syslog;

use std::fmt::Debug;
use std::path::Path;

use crate::config::Config;
use crate::line::{Author, Line};
use crate::status::Meter;

/// Something that takes lines and keeps its meter.
pub(crate) trait Target: Debug + Send {
    /// Takes a line. Waits a bounded time at most once while the target is stalled.
    fn write(&mut self, author: &mut Author, line: &Line, meter: &Meter);

    /// Writes out what is held back.
    fn flush(&mut self, _: &Meter) {}
}

/// The targets of a configuration, with their names.
pub(crate) fn all(config: &Config) -> Vec<(String, Box<dyn Target>)> {
    let mut all: Vec<(String, Box<dyn Target>)> = Vec::new();
    let given = |path: &Path| !path.as_os_str().is_empty();
    let shown = |path: &Path| path.display().to_string();
    if given(&config.syslog) {
        let target = syslog::Syslog::new(&config.syslog);
        all.push((shown(&config.syslog), Box::new(target)));
    }
    if given(&config.journal) {
        let target = journal::Journal::new(&config.journal);
        all.push((shown(&config.journal), Box::new(target)));
    }
    for remote in &config.remote {
        let target = remote::Udp::new(remote);
        all.push((format!("{} (UDP)", remote.address), Box::new(target)));
    }
    if given(&config.file.path) {
        let target = file::LogFile::new(&config.file);
        all.push((shown(&config.file.path), Box::new(target)));
    }
    all
}
