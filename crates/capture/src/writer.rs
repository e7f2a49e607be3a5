//! Writing pcapng: one section, nanosecond stamps, comments on packets.

use std::fmt;
use std::io::{self, Write};

use crate::{Direction, LinkType, MAX_PACKET};

/// Why a packet could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// The output refused.
    Io(io::Error),
    /// An interface number that [`Writer::add_interface`] did not give.
    NoInterface(u32),
    /// Longer than [`MAX_PACKET`].
    TooLong(usize),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Io(e) => write!(f, "{e}"),
            WriteError::NoInterface(n) => write!(f, "interface {n} was not added"),
            WriteError::TooLong(n) => write!(f, "packet of {n} bytes, more than {MAX_PACKET}"),
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WriteError::Io(e) => Some(e),
            WriteError::NoInterface(_) | WriteError::TooLong(_) => None,
        }
    }
}

impl From<io::Error> for WriteError {
    fn from(e: io::Error) -> Self {
        WriteError::Io(e)
    }
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;

const COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;

/// Writes a pcapng capture (little-endian).
pub struct Writer<W> {
    out: W,
    interfaces: u32,
    /// The block being put together; used again for the next one.
    block: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Starts a capture; `application` says which program made it.
    ///
    /// # Errors
    /// The output refuses.
    pub fn new(out: W, application: &str) -> Result<Self, WriteError> {
        let mut writer = Writer {
            out,
            interfaces: 0,
            block: Vec::with_capacity(4096),
        };
        writer.begin(SECTION);
        writer.word(0x1a2b_3c4d);
        writer.halves(1, 0);
        // Section length: not known.
        writer.block.extend_from_slice(&[0xff; 8]);
        writer.option(SHB_USERAPPL, application.as_bytes());
        writer.finish(true)?;
        Ok(writer)
    }

    /// Describes an interface and returns its number.
    ///
    /// # Errors
    /// The output refuses.
    pub fn add_interface(&mut self, name: Option<&str>, link: LinkType) -> Result<u32, WriteError> {
        self.begin(INTERFACE);
        self.halves(link.number(), 0);
        self.word(0);
        if let Some(name) = name {
            self.option(IF_NAME, name.as_bytes());
        }
        self.option(IF_TSRESOL, &[9]);
        self.finish(true)?;
        let id = self.interfaces;
        self.interfaces += 1;
        Ok(id)
    }

    /// Writes a packet with its link-layer header. An empty comment is left out.
    ///
    /// # Errors
    /// The interface is unknown, the packet too long, or the output refuses.
    pub fn packet(
        &mut self,
        interface: u32,
        time_ns: u64,
        direction: Direction,
        data: &[u8],
        original_len: u32,
        comment: &str,
    ) -> Result<(), WriteError> {
        if interface >= self.interfaces {
            return Err(WriteError::NoInterface(interface));
        }
        let captured = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if captured > MAX_PACKET {
            return Err(WriteError::TooLong(data.len()));
        }
        self.begin(PACKET);
        self.word(interface);
        self.word((time_ns >> 32) as u32);
        self.word(time_ns as u32);
        self.word(captured);
        self.word(original_len);
        self.block.extend_from_slice(data);
        self.pad();
        let flags: u32 = match direction {
            Direction::Unknown => 0,
            Direction::In => 1,
            Direction::Out => 2,
        };
        if flags != 0 {
            self.option(EPB_FLAGS, &flags.to_le_bytes());
        }
        if !comment.is_empty() {
            self.option(COMMENT, comment.as_bytes());
        }
        self.finish(flags != 0 || !comment.is_empty())
    }

    /// The output; what was written so far may be taken out of it.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes out what is still buffered.
    ///
    /// # Errors
    /// The output refuses.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        Ok(self.out.flush()?)
    }

    fn begin(&mut self, kind: u32) {
        self.block.clear();
        self.word(kind);
        self.word(0);
    }

    fn word(&mut self, value: u32) {
        self.block.extend_from_slice(&value.to_le_bytes());
    }

    fn halves(&mut self, first: u16, second: u16) {
        self.block.extend_from_slice(&first.to_le_bytes());
        self.block.extend_from_slice(&second.to_le_bytes());
    }

    fn pad(&mut self) {
        self.block.resize(self.block.len().next_multiple_of(4), 0);
    }

    /// An option, cut to the longest value its length field can name.
    fn option(&mut self, code: u16, value: &[u8]) {
        let value = match value.get(..usize::from(u16::MAX)) {
            Some(longest) => match std::str::from_utf8(longest) {
                Err(e) => longest.get(..e.valid_up_to()).unwrap_or(longest),
                Ok(_) => longest,
            },
            None => value,
        };
        self.halves(code, value.len() as u16);
        self.block.extend_from_slice(value);
        self.pad();
    }

    /// Ends the option list, if there is one, and the block.
    fn finish(&mut self, options: bool) -> Result<(), WriteError> {
        if options {
            self.halves(0, 0);
        }
        let len = (self.block.len() + 4) as u32;
        self.word(len);
        if let Some(field) = self.block.get_mut(4..8) {
            field.copy_from_slice(&len.to_le_bytes());
        }
        self.out.write_all(&self.block)?;
        Ok(())
    }
}
