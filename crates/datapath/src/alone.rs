//! One at a time: nobody opens interfaces while somebody guards them.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::divert::list;

/// An abstract socket's name, of which each network namespace has its own.
const NAME: &str = "tidegate-diverting";
/// Longest wait for the name. Anybody may hold it: it keeps us waiting, not away.
const TURN: Duration = Duration::from_secs(3);
/// Longest wait for the devices of somebody killed to vanish. The kernel takes
/// namespaces down in its own time.
const VANISH: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(5);

/// The right to change the diversion of the calling thread's namespace.
#[derive(Debug)]
pub(crate) struct Alone {
    _held: Option<UnixDatagram>,
}

impl Alone {
    /// Waits for others that are changing it.
    ///
    /// # Errors
    /// A datapath is at work here: its devices stay.
    pub(crate) fn new() -> Result<Self> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        let mut socket = None;
        wait(TURN, || {
            socket = UnixDatagram::bind_addr(&address).ok();
            Ok(socket.is_some())
        })?;
        let alone = Alone { _held: socket };
        if wait(VANISH, || Ok(!list()?.iter().any(|d| d.ours())))? {
            return Ok(alone);
        }
        bail!("a datapath is at work in this network namespace");
    }
}

/// Waits until something holds; `false` when it takes too long.
fn wait(longest: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begun = Instant::now();
    loop {
        if holds()? {
            return Ok(true);
        }
        if begun.elapsed() >= longest {
            return Ok(false);
        }
        sleep(STEP);
    }
}
