//! A program that reads a queue.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use tidegate_engine::{Answer, QueueVerdict};

use super::{Binding, MAX_FRAME, Order, Packet};
use crate::control::{Call, Frame, Request, Unreachable};

/// Reads a queue of the running firewall and says what becomes of its packets.
///
/// ```no_run
/// use tidegate_daemon::control::socket_path;
/// use tidegate_daemon::queue::{Binding, Reader, Verdict};
///
/// let mut reader = Reader::bind(&socket_path(), &Binding::new(3))?;
/// while let Some(packet) = reader.next()? {
///     let verdict = match packet.bytes.len() {
///         ..1000 => Verdict::Accept,
///         _ => Verdict::Drop,
///     };
///     reader.answer(packet.about.id, verdict)?;
/// }
/// # Ok::<(), anyhow::Error>(())
/// ```
#[derive(Debug)]
pub struct Reader {
    stream: UnixStream,
    refused: Vec<String>,
}

impl Reader {
    /// Asks for a queue.
    ///
    /// # Errors
    /// No daemon answers, the caller has no right, or the queue has a reader already.
    pub fn bind(socket: &Path, binding: &Binding) -> anyhow::Result<Self> {
        let request = Request {
            name: "queue".to_owned(),
            words: binding.words(),
            input: String::new(),
        };
        let mut stream = Call::new(socket, &request)?.into_stream();
        let mut why = String::new();
        loop {
            match Frame::read(&mut stream, MAX_FRAME).map_err(Unreachable::Broken)? {
                Frame::Out(_) => break,
                Frame::Err(text) => why += String::from_utf8_lossy(&text).trim_end(),
                Frame::Exit(status) => {
                    Unreachable::check(status)?;
                    anyhow::bail!("{}", why.trim_start_matches("tidegate: "));
                }
                _ => {}
            }
        }
        Ok(Reader {
            stream,
            refused: Vec::new(),
        })
    }

    /// Waits for the next packet; `None` when the firewall has ended.
    ///
    /// # Errors
    /// The connection broke.
    #[allow(clippy::should_implement_trait, reason = "it fails")]
    pub fn next(&mut self) -> io::Result<Option<Packet>> {
        loop {
            match Frame::read(&mut self.stream, MAX_FRAME) {
                Ok(Frame::Packet(payload)) => return Packet::decode(&payload).map(Some),
                Ok(Frame::Err(text)) => {
                    let text = String::from_utf8_lossy(&text);
                    self.refused.push(text.trim_end().to_owned());
                }
                Ok(Frame::Exit(_)) => return Ok(None),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }

    /// Says what becomes of a packet.
    ///
    /// # Errors
    /// The connection broke.
    pub fn answer(&mut self, id: u32, answer: impl Into<Answer>) -> io::Result<()> {
        self.order(&Order {
            id,
            up_to: false,
            answer: answer.into(),
        })
    }

    /// Says what becomes of all packets that wait, up to and with the one of that number.
    ///
    /// # Errors
    /// The connection broke.
    pub fn answer_up_to(&mut self, id: u32, verdict: QueueVerdict) -> io::Result<()> {
        self.order(&Order {
            id,
            up_to: true,
            answer: verdict.into(),
        })
    }

    /// Gives an order.
    ///
    /// # Errors
    /// The connection broke.
    pub fn order(&mut self, order: &Order) -> io::Result<()> {
        Frame::Verdict(order.encode()?).write(&mut self.stream)
    }

    /// Orders that were refused since the last call, in words.
    pub fn take_refused(&mut self) -> Vec<String> {
        std::mem::take(&mut self.refused)
    }

    /// Another handle on the same queue, for a second thread: one reads, the other answers.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Reader {
            stream: self.stream.try_clone()?,
            refused: Vec::new(),
        })
    }

    /// Says that no more orders come: the firewall ends the queue once it has carried out
    /// those given, and [`Reader::next`] returns `None` then.
    ///
    /// # Errors
    /// The connection broke.
    pub fn done(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Leaves the queue; who waits in [`Reader::next`] gets `None`.
    pub fn leave(&self) {
        // Then there is nobody to leave.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
