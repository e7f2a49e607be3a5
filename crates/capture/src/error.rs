//! What can be wrong with a capture, and where.

use std::fmt;
use std::io;

/// A capture could not be read further: which file, where, and why.
#[derive(Debug)]
pub struct CaptureError {
    /// Name given to [`Reader::new`](crate::Reader::new).
    pub file: String,
    /// Number of the packet that could not be read, counted from 1.
    pub packet: u64,
    /// Byte offset of the damaged header, record or block.
    pub offset: u64,
    /// What is wrong there.
    pub damage: Damage,
}

/// What is wrong with a capture.
#[derive(Debug)]
pub enum Damage {
    /// The file could not be read.
    Io(io::Error),
    /// Not a single byte.
    Empty,
    /// The first four bytes are those of neither format.
    NotACapture([u8; 4]),
    /// The file ends inside this part.
    CutShort {
        /// What was being read.
        part: &'static str,
        /// Bytes it has.
        needed: u64,
        /// Bytes left in the file.
        left: u64,
    },
    /// A length beyond every sensible limit.
    TooLarge {
        /// What claims it.
        part: &'static str,
        /// Bytes claimed.
        bytes: u32,
        /// Bytes allowed.
        limit: u32,
    },
    /// A pcapng block with a length that no block can have.
    BlockLength(u32),
    /// The two lengths of a pcapng block differ.
    BlockTrailer {
        /// At its start.
        first: u32,
        /// At its end.
        last: u32,
    },
    /// A pcapng section without byte-order magic.
    ByteOrder([u8; 4]),
    /// A pcapng block whose content does not fit its length.
    BlockContent(&'static str),
    /// A pcapng packet of an interface that was not described.
    NoInterface(u32),
    /// More interfaces than [`MAX_INTERFACES`](crate::MAX_INTERFACES).
    TooManyInterfaces,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::Io(e) => write!(f, "{e}"),
            Damage::Empty => f.write_str("the file is empty"),
            Damage::NotACapture(b) => write!(
                f,
                "neither pcap nor pcapng (starts with {:02x} {:02x} {:02x} {:02x})",
                b[0], b[1], b[2], b[3]
            ),
            Damage::CutShort { part, needed, left } => {
                write!(f, "the file ends inside {part} ({left} of {needed} bytes)")
            }
            Damage::TooLarge { part, bytes, limit } => {
                write!(f, "{part} claims {bytes} bytes, more than {limit}")
            }
            Damage::BlockLength(n) => write!(f, "block length {n} is impossible"),
            Damage::BlockTrailer { first, last } => {
                write!(
                    f,
                    "block length is {first} at its start and {last} at its end"
                )
            }
            Damage::ByteOrder(b) => write!(
                f,
                "section header without byte-order magic ({:02x} {:02x} {:02x} {:02x})",
                b[0], b[1], b[2], b[3]
            ),
            Damage::BlockContent(what) => write!(f, "{what} does not fit its block"),
            Damage::NoInterface(id) => write!(f, "interface {id} was not described"),
            Damage::TooManyInterfaces => {
                write!(f, "more than {} interfaces", crate::MAX_INTERFACES)
            }
        }
    }
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: packet {}, byte {}: {}",
            self.file, self.packet, self.offset, self.damage
        )
    }
}

impl std::error::Error for CaptureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.damage {
            Damage::Io(e) => Some(e),
            Damage::Empty
            | Damage::NotACapture(_)
            | Damage::CutShort { .. }
            | Damage::TooLarge { .. }
            | Damage::BlockLength(_)
            | Damage::BlockTrailer { .. }
            | Damage::ByteOrder(_)
            | Damage::BlockContent(_)
            | Damage::NoInterface(_)
            | Damage::TooManyInterfaces => None,
        }
    }
}
