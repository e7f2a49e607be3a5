//! A datagram socket of a program that may be absent, restarted or stalled.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the receiver may keep us waiting, once.
const PATIENCE: Duration = Duration::from_millis(200);
/// Shortest time between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Door {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// It made us wait too long: until it takes something again, nothing waits.
    stalled: bool,
    /// Not before then is it tried again.
    retry_at: Option<Instant>,
}

impl Door {
    pub(crate) fn new(path: &Path) -> Self {
        Door {
            path: path.to_owned(),
            socket: None,
            stalled: false,
            retry_at: None,
        }
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// It is lost.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.socket.is_some() {
            match self.try_send(bytes) {
                Err(e) if reopen(&e) => self.socket = None,
                outcome => return outcome,
            }
        }
        self.open()?;
        self.try_send(bytes)
    }

    fn open(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| now < at) {
            return Err(io::Error::new(ErrorKind::NotConnected, "not there"));
        }
        self.retry_at = Some(now + RETRY);
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        self.socket = Some(socket);
        self.stalled = false;
        Ok(())
    }

    fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return Err(ErrorKind::NotConnected.into());
        };
        let sent = socket.send(bytes);
        let stalled = matches!(&sent, Err(e) if e.kind() == ErrorKind::WouldBlock);
        if stalled != self.stalled {
            socket.set_nonblocking(stalled)?;
            self.stalled = stalled;
        }
        match sent {
            Ok(_) => Ok(()),
            Err(_) if stalled => Err(io::Error::new(ErrorKind::WouldBlock, "takes nothing")),
            Err(e) => Err(e),
        }
    }
}

/// Whether the other end has gone, and another may be there under the same name.
fn reopen(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::NotConnected
            | ErrorKind::BrokenPipe
            | ErrorKind::NotFound
    )
}
