//! The way to the loop's thread.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::{Result, anyhow};

use crate::worker::Command;

/// Hands commands to the loop and wakes it.
#[derive(Clone, Debug)]
pub(crate) struct Wires {
    pub(crate) commands: Sender<Command>,
    pub(crate) wake: Arc<OwnedFd>,
}

impl Wires {
    /// # Errors
    /// The loop has ended.
    pub(crate) fn tell(&self, command: Command) -> Result<()> {
        let gone = |_| anyhow!("the datapath has ended");
        self.commands.send(command).map_err(gone)?;
        wake(&self.wake)
    }
}

/// Makes an eventfd readable.
pub(crate) fn wake(fd: &OwnedFd) -> Result<()> {
    rustix::io::write(fd, &1u64.to_ne_bytes())?;
    Ok(())
}
