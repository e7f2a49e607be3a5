//! Opening the interfaces when the whole process is killed.
//!
//! A guardian is the same program, run again with words that make it call [`watch`]. It
//! waits at the end of a pipe: the pipe closes when the process that holds the other end
//! dies of whatever.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// This program, even when its file has been replaced.
const PROGRAM: &str = "/proc/self/exe";
/// What is said before an orderly end.
const FAREWELL: &[u8] = b"!";

/// A guardian that waits.
#[derive(Debug)]
pub(crate) struct Guardian(Child);

impl Guardian {
    /// Starts one in the calling thread's network namespace.
    pub(crate) fn start(words: &[OsString]) -> io::Result<Self> {
        let name = std::env::args_os().next().unwrap_or_default();
        let child = Command::new(PROGRAM)
            .arg0(name)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A signal to all of a terminal's or supervisor's group is not for it.
            .process_group(0)
            .spawn()?;
        Ok(Guardian(child))
    }

    /// Whether it is there.
    pub(crate) fn waits(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Lets it end without doing anything.
    pub(crate) fn farewell(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            // One that is not there need not be told.
            let _ = pipe.write_all(FAREWELL);
        }
        let _ = self.0.wait();
    }
}

/// Waits for the end of the process that has started this one, at the other end of
/// standard input, and calls [`release`](crate::release) unless that end was orderly.
/// Returns how many interfaces were opened.
///
/// # Errors
/// As `release`.
pub fn watch() -> Result<usize> {
    // A supervisor that ends what a killed daemon has left must not end this first.
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&asked)).context("signals")?;
    }
    let mut said = [0];
    loop {
        match io::stdin().read(&mut said) {
            Ok(0) => return crate::release(),
            Ok(_) => return Ok(0),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("standard input"),
        }
    }
}
