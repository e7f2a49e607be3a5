//! Opening the interfaces when the whole process is killed.
//!
//! A guardian is the same program, run again with words that make it call [`watch`]. It
//! waits for the end of the process that has started it, of whatever that dies; and goes on
//! waiting where that process becomes another program, until that one has a guardian of its own.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, kill_process, pidfd_open, waitpid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// This program, even when its file has been replaced.
const PROGRAM: &str = "/proc/self/exe";
/// What tells a program whose predecessor it has become: the guardian of that one.
pub(crate) const INHERITED: &str = "TIDEGATE_GUARDIAN";

/// A guardian that waits.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    /// Starts one in the calling thread's network namespace.
    pub(crate) fn start(words: &[OsString]) -> io::Result<Self> {
        let name = env::args_os().next().unwrap_or_default();
        let child = Command::new(PROGRAM)
            .arg0(name)
            .args(words)
            // What it waits for: this process.
            .stdin(Stdio::from(pidfd_open(getpid(), PidfdFlags::empty())?))
            .stdout(Stdio::null())
            // A signal to all of a terminal's or supervisor's group is not for it.
            .process_group(0)
            .spawn()?;
        Ok(Guardian(child))
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it is there.
    pub(crate) fn waits(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Ends it, without its doing anything.
    pub(crate) fn dismiss(&mut self) {
        // One that is not there need not be told.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends the guardian that this process has from the program that it was before, if there is one.
pub(crate) fn dismiss_inherited() {
    let named = env::var(INHERITED).ok().and_then(|pid| pid.parse().ok());
    if let Some(pid) = named.and_then(Pid::from_raw)
        // Nobody's but our own child.
        && let Ok(None) = waitpid(Some(pid), WaitOptions::NOHANG)
    {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitpid(Some(pid), WaitOptions::empty());
    }
}

/// Waits for the end of the process that has started this one, which is standard input, and
/// calls [`release`](crate::release). Returns how many interfaces were opened.
///
/// # Errors
/// As `release`.
pub fn watch() -> Result<usize> {
    // A supervisor that ends what a killed daemon has left must not end this first.
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked)).context("signals")?;
    }
    let daemon = io::stdin();
    loop {
        match poll(&mut [PollFd::new(&daemon, PollFlags::IN)], None) {
            Ok(_) => return crate::release(),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e).context("standard input"),
        }
    }
}
