//! The reader: one driver over both formats.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::ops::Range;
use std::rc::Rc;

use crate::input::Input;
use crate::legacy::Legacy;
use crate::link::{LinkType, NetworkPacket, Payload, network_packet};
use crate::ng::Ng;
use crate::{CaptureError, Damage};

/// Which way a packet went, as far as the capture says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
    /// The capture does not say.
    Unknown,
}

/// An interface that a capture names (pcapng), or the one a pcap file is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Number, counted over all sections of the file.
    pub id: u32,
    /// `if_name`.
    pub name: Option<String>,
    /// Link type of its packets.
    pub link: LinkType,
    /// Most bytes kept of a packet; 0 when unlimited or unknown.
    pub snaplen: u32,
    /// `if_IPv4addr` and `if_IPv6addr` with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// `if_MACaddr`.
    pub mac: Option<[u8; 6]>,
}

/// One captured packet, borrowed from the reader.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// Number in the capture, counted from 1.
    pub number: u64,
    /// Nanoseconds since 1970 (UTC).
    pub time_ns: u64,
    /// The interface.
    pub interface: &'a Rc<Interface>,
    /// Way as the container says; [`Frame::direction`] asks the link header too.
    pub flagged: Direction,
    /// Captured bytes, from the link-layer header on.
    pub data: &'a [u8],
    /// Bytes the packet had on the wire.
    pub original_len: u32,
}

impl<'a> Frame<'a> {
    /// The network packet inside, its addresses at the link layer, and so on.
    #[must_use]
    pub fn network_packet(&self) -> NetworkPacket<'a> {
        let mut packet = network_packet(self.interface.link, self.data);
        if self.flagged != Direction::Unknown {
            packet.direction = self.flagged;
        }
        packet
    }

    /// Which way the packet went.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.network_packet().direction
    }

    /// Whether the capture kept less than the whole packet.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        (self.data.len() as u64) < u64::from(self.original_len)
    }

    /// The IP packet, if that is what the frame carries.
    #[must_use]
    pub fn ip(&self) -> Option<&'a [u8]> {
        match self.network_packet().payload {
            Payload::Ip(bytes) => Some(bytes),
            Payload::NotIp(_) | Payload::Short | Payload::UnknownLink => None,
        }
    }
}

impl fmt::Debug for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("number", &self.number)
            .field("time_ns", &self.time_ns)
            .field("interface", &self.interface.id)
            .field("flagged", &self.flagged)
            .field("captured", &self.data.len())
            .field("original_len", &self.original_len)
            .finish()
    }
}

/// Where a record's packet lies in the window, before it is borrowed.
pub(crate) struct Record {
    pub(crate) time_ns: u64,
    /// Index into the format's interfaces.
    pub(crate) interface: usize,
    pub(crate) flagged: Direction,
    pub(crate) data: Range<usize>,
    pub(crate) original_len: u32,
    /// Bytes of the whole record.
    pub(crate) len: usize,
}

enum Format {
    Unread,
    Legacy(Legacy),
    Ng(Ng),
    /// Ended, well or not.
    Done,
}

/// Reads a capture packet by packet.
pub struct Reader<R> {
    name: String,
    input: Input<R>,
    format: Format,
    /// The record at the start of the window.
    record: Option<Record>,
    packets: u64,
}

impl<R: Read> Reader<R> {
    /// A reader of `input`; `name` is for error messages. The input needs no buffer
    /// of its own.
    #[must_use]
    pub fn new(name: impl Into<String>, input: R) -> Self {
        Reader {
            name: name.into(),
            input: Input::new(input),
            format: Format::Unread,
            record: None,
            packets: 0,
        }
    }

    /// Bytes of the input that were dealt with, for progress.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// The next packet, or `None` at the end of the capture and after an error.
    ///
    /// # Errors
    /// The input cannot be read or is damaged at this point.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        self.advance()?;
        Ok(self.frame())
    }

    /// Goes on to the next packet, which [`Reader::frame`] then lends; `false` at the
    /// end of the capture and after an error.
    ///
    /// # Errors
    /// The input cannot be read or is damaged at this point.
    pub fn advance(&mut self) -> Result<bool, CaptureError> {
        let done = self.record.take().map_or(0, |r| r.len);
        self.input.consume(done);
        match self.next_record() {
            Ok(Some(record)) => {
                self.record = Some(record);
                self.packets += 1;
                Ok(true)
            }
            Ok(None) => {
                self.format = Format::Done;
                Ok(false)
            }
            Err(damage) => {
                self.format = Format::Done;
                Err(CaptureError {
                    file: self.name.clone(),
                    packet: self.packets + 1,
                    offset: self.input.mark(),
                    damage,
                })
            }
        }
    }

    /// The packet that [`Reader::advance`] found.
    #[must_use]
    pub fn frame(&self) -> Option<Frame<'_>> {
        let record = self.record.as_ref()?;
        let interface = match &self.format {
            Format::Legacy(l) => &l.interface,
            Format::Ng(ng) => ng.interface(record.interface)?,
            Format::Unread | Format::Done => return None,
        };
        Some(Frame {
            number: self.packets,
            time_ns: record.time_ns,
            interface,
            flagged: record.flagged,
            data: self.input.bytes().get(record.data.clone())?,
            original_len: record.original_len,
        })
    }

    #[inline]
    fn next_record(&mut self) -> Result<Option<Record>, Damage> {
        if matches!(self.format, Format::Unread) {
            self.format = open(&mut self.input)?;
        }
        match &mut self.format {
            Format::Legacy(l) => l.next_record(&mut self.input),
            Format::Ng(ng) => ng.next_record(&mut self.input),
            Format::Unread | Format::Done => Ok(None),
        }
    }
}

fn open<R: Read>(input: &mut Input<R>) -> Result<Format, Damage> {
    if input.fill(4)? == 0 {
        return Err(Damage::Empty);
    }
    input.need(4, "the file header")?;
    let Some(&magic) = input.bytes().first_chunk::<4>() else {
        return Err(Damage::Empty);
    };
    if u32::from_le_bytes(magic) == pcap_parser::SHB_MAGIC {
        return Ok(Format::Ng(Ng::default()));
    }
    Legacy::open(input, magic).map(Format::Legacy)
}
