//! The client's side.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{Frame, Request};

/// Longest piece of an answer.
const MAX_PIECE: usize = 1 << 20;

/// Why there is no answer.
#[derive(Debug)]
pub enum Unreachable {
    /// Nobody listens there.
    NotRunning(io::Error),
    /// The caller has no right to ask (`EPERM`, `EACCES`).
    Forbidden,
    /// The connection broke.
    Broken(io::Error),
}

impl Unreachable {
    /// Whether an exit status says that the caller has no right to ask.
    ///
    /// # Errors
    /// It does.
    pub(crate) fn check(status: u8) -> Result<(), Self> {
        match status {
            FORBIDDEN => Err(Unreachable::Forbidden),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreachable::NotRunning(_) => f.write_str("no tidegate daemon is running here"),
            Unreachable::Forbidden => f.write_str("Operation not permitted"),
            Unreachable::Broken(e) => write!(f, "the tidegate daemon did not answer: {e}"),
        }
    }
}

impl std::error::Error for Unreachable {}

/// What the server says to those who have no right to ask.
pub(super) const FORBIDDEN: u8 = 255;

/// Sends a request and hands the pieces of the answer to `take`; returns the exit
/// status.
///
/// # Errors
/// There is no answer, or `take` cannot write it.
pub fn call(
    socket: &Path,
    request: &Request,
    take: &mut dyn FnMut(&Frame) -> io::Result<()>,
) -> Result<u8, Unreachable> {
    Call::new(socket, request)?.answer(take)
}

/// A request that has been sent.
#[derive(Debug)]
pub struct Call {
    stream: UnixStream,
    sent: io::Result<()>,
}

impl Call {
    /// Sends a request.
    ///
    /// # Errors
    /// There is nobody to send it to.
    pub fn new(socket: &Path, request: &Request) -> Result<Self, Unreachable> {
        let mut stream = UnixStream::connect(socket).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => Unreachable::Forbidden,
            _ => Unreachable::NotRunning(e),
        })?;
        let sent = request.write(&mut stream);
        Ok(Call { stream, sent })
    }

    /// The connection, for an exchange of another kind.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// What asks for the end of an answer that has none of its own; the rest of it still
    /// comes.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn enough(&self) -> io::Result<Enough> {
        self.stream.try_clone().map(Enough)
    }

    /// Hands the pieces of the answer to `take`; returns the exit status.
    ///
    /// # Errors
    /// There is no answer, or `take` cannot write it.
    pub fn answer(
        mut self,
        take: &mut dyn FnMut(&Frame) -> io::Result<()>,
    ) -> Result<u8, Unreachable> {
        loop {
            match Frame::read(&mut self.stream, MAX_PIECE) {
                Ok(Frame::Exit(FORBIDDEN)) => return Err(Unreachable::Forbidden),
                Ok(Frame::Exit(status)) => return Ok(status),
                Ok(frame) => take(&frame).map_err(Unreachable::Broken)?,
                // A refusal may come before the request has been read: only without
                // one does it matter that it could not be sent.
                Err(e) => return Err(Unreachable::Broken(self.sent.err().unwrap_or(e))),
            }
        }
    }
}

/// Asks for the end of an answer.
#[derive(Debug)]
pub struct Enough(UnixStream);

impl Enough {
    /// Asks now.
    pub fn say(&self) {
        // When that fails there is nobody who could go on.
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }
}
