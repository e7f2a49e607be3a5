//! The answer on its way to a client, which may be slow, or gone.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_tools::Sink;

use super::slots::Slots;
use super::{Frame, PIECE, auth};

/// How long a client that takes nothing is waited for when others wait for its place.
/// Otherwise it may take its time: a listing may be on its way to a pager.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a writer looks up.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Where an answer goes.
pub struct Reply<'s> {
    stream: &'s UnixStream,
    /// The daemon ends.
    stop: &'s AtomicBool,
    slots: &'s Slots,
    /// Part of a frame was not written: nothing after it would be understood.
    broken: bool,
}

/// Output as it is made; what has no end ends with client or daemon.
impl Sink for Reply<'_> {
    fn out(&mut self, text: &str) -> io::Result<()> {
        self.pieces(text, Frame::Out)
    }

    fn err(&mut self, text: &str) -> io::Result<()> {
        self.pieces(text, Frame::Err)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) || self.is_gone()
    }
}

impl<'s> Reply<'s> {
    pub(super) fn new(stream: &'s UnixStream, stop: &'s AtomicBool, slots: &'s Slots) -> Self {
        Reply {
            stream,
            stop,
            slots,
            broken: false,
        }
    }

    /// The process at the other end.
    #[must_use]
    pub fn caller(&self) -> Option<u32> {
        auth::process(self.stream)
    }

    /// What the client sends beside its request; reading gives up every `often`.
    pub(crate) fn input(&self, often: Duration) -> io::Result<UnixStream> {
        let input = self.stream.try_clone()?;
        input.set_read_timeout(Some(often))?;
        Ok(input)
    }

    /// Whether the daemon ends, or the client cannot be told anything any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.broken || self.stop.load(Ordering::Acquire)
    }

    fn pieces(&mut self, text: &str, frame: fn(Vec<u8>) -> Frame) -> io::Result<()> {
        for piece in text.as_bytes().chunks(PIECE) {
            frame(piece.to_vec()).write(self)?;
        }
        Ok(())
    }

    /// Whether the client has hung up or had enough, as far as can be seen without
    /// waiting.
    fn is_gone(&self) -> bool {
        let mut byte = [0];
        if self.stream.set_nonblocking(true).is_err() {
            return true;
        }
        let seen = io::Read::read(&mut &*self.stream, &mut byte);
        let restored = self.stream.set_nonblocking(false);
        restored.is_err() || !matches!(seen, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }
}

/// Bytes of frames; the stream gives up every `LOOK`.
impl Write for Reply<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let began = Instant::now();
        while !self.broken {
            match (&mut &*self.stream).write(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                written => return written,
            }
            let in_the_way = began.elapsed() >= PATIENCE && self.slots.are_wanted();
            self.broken = in_the_way || self.stop.load(Ordering::Acquire);
        }
        Err(ErrorKind::TimedOut.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
