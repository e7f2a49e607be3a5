//! Where the engine's log outputs go.
//!
//! LOG lines go, in the kernel's layout and with facility `kern`, to the local syslog, to
//! the journal, to other hosts and to a file; packets of NFLOG go to one capture file per
//! group. [`Logs::start`] starts the thread that writes; a [`LogHandle`] hands over to it
//! and never waits: what comes too fast is suppressed and counted, what does not fit in
//! the queue is lost and counted.
//!
//! A target that is stalled, absent or full loses lines of its own only; each keeps count
//! and its last error ([`Logs::status`]).
#![forbid(unsafe_code)]

pub mod config;

mod captures;
mod drops;
mod handle;
mod limit;
mod line;
mod rotate;
mod status;
mod target;
mod writer;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

pub use config::Config;
pub use drops::{Row, drops_json, drops_text};
pub use handle::LogHandle;
pub use status::{LogStatus, TargetStatus};

use captures::Captures;
use handle::{Item, Shared};
use line::Author;
use status::Meter;
use writer::Writer;

/// The thread that writes, until it is dropped: then what is queued is written first.
#[derive(Debug)]
pub struct Logs {
    handle: LogHandle,
    thread: Option<JoinHandle<()>>,
}

impl Logs {
    /// Starts the thread. Targets that cannot be opened now are tried again with every
    /// line; [`Logs::status`] says so.
    ///
    /// # Errors
    /// No thread could be started.
    pub fn start(config: Config) -> io::Result<Logs> {
        let (sender, receiver) = sync_channel(config.queue.messages.max(1));
        let (names, targets): (Vec<_>, Vec<_>) = target::all(&config).into_iter().unzip();
        let meters = names.into_iter().map(Meter::new).collect();
        let shared = Arc::new(Shared::new(&config, meters));
        let handle = LogHandle {
            sender,
            shared: shared.clone(),
        };
        let author = Author::new(&config.tag, &config.hostname);
        let captures = Captures::new(config.nflog);
        let writer = Writer::new(author, targets, captures, shared);
        let thread = std::thread::Builder::new().name("logs".to_owned());
        Ok(Logs {
            handle,
            thread: Some(thread.spawn(move || writer.run(&receiver))?),
        })
    }

    /// What the datapath gives its outputs to.
    #[must_use]
    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    /// What was written and what was not.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        self.handle.shared.status()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.handle.shared.stop();
        // A full queue wakes the writer as well.
        let _ = self.handle.sender.try_send(Item::Wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
