//! The pcap format (draft-ietf-opsawg-pcap).

use std::io::Read;
use std::rc::Rc;

use pcap_parser::{
    LegacyPcapBlock, PcapError, PcapHeader, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header,
};

use crate::input::Input;
use crate::link::LinkType;
use crate::reader::{Direction, Interface, Record};
use crate::{Damage, MAX_PACKET};

type Parse =
    for<'a> fn(
        &'a [u8],
    )
        -> pcap_parser::nom::IResult<&'a [u8], LegacyPcapBlock<'a>, PcapError<&'a [u8]>>;

const FILE_HEADER: usize = 24;

/// What the file header says.
pub(crate) struct Legacy {
    parse: Parse,
    big_endian: bool,
    /// Nanoseconds per unit of a record's time fraction.
    unit: u64,
    /// Bytes of a record header: 16, or 24 in Kuznetzov's variant.
    header: usize,
    pub(crate) interface: Rc<Interface>,
}

impl Legacy {
    pub(crate) fn open<R: Read>(input: &mut Input<R>, magic: [u8; 4]) -> Result<Self, Damage> {
        const MAGICS: [u32; 5] = [
            0xa1b2_c3d4,
            0xa1b2_3c4d,
            0xa1b2_cd34,
            0xd4c3_b2a1,
            0x4d3c_b2a1,
        ];
        if !MAGICS.contains(&u32::from_le_bytes(magic)) {
            return Err(Damage::NotACapture(magic));
        }
        input.need(FILE_HEADER, "the file header")?;
        let Ok((_, header)) = parse_pcap_header(input.bytes()) else {
            return Err(Damage::NotACapture(magic));
        };
        input.consume(FILE_HEADER);
        Ok(Self::new(&header))
    }

    fn new(header: &PcapHeader) -> Self {
        let modified = header.is_modified_format();
        let big_endian = header.is_bigendian();
        Legacy {
            parse: match (modified, big_endian) {
                (true, _) => parse_pcap_frame_modified,
                (false, true) => parse_pcap_frame_be,
                (false, false) => parse_pcap_frame,
            },
            big_endian,
            unit: if header.is_nanosecond_precision() {
                1
            } else {
                1000
            },
            header: if modified { 24 } else { 16 },
            interface: Rc::new(Interface {
                id: 0,
                name: None,
                // The upper half holds the length of a frame check sequence.
                link: LinkType::from(header.network.0 as u16),
                snaplen: header.snaplen,
                addresses: Vec::new(),
                mac: None,
            }),
        }
    }

    #[inline]
    pub(crate) fn next_record<R: Read>(
        &mut self,
        input: &mut Input<R>,
    ) -> Result<Option<Record>, Damage> {
        const PART: &str = "a packet header";
        input.begin();
        if input.fill(self.header)? == 0 {
            return Ok(None);
        }
        input.need(self.header, PART)?;
        let captured = self.captured_len(input.bytes());
        if captured > MAX_PACKET {
            return Err(Damage::TooLarge {
                part: "a packet",
                bytes: captured,
                limit: MAX_PACKET,
            });
        }
        let len = self.header + captured as usize;
        input.need(len, "a packet")?;
        let Ok((_, block)) = (self.parse)(input.bytes()) else {
            return Err(Damage::BlockContent("a packet"));
        };
        let fraction = u64::from(block.ts_usec) * self.unit;
        Ok(Some(Record {
            time_ns: u64::from(block.ts_sec) * 1_000_000_000 + fraction,
            interface: 0,
            flagged: Direction::Unknown,
            data: self.header..len,
            original_len: block.origlen,
            len,
        }))
    }

    #[inline]
    fn captured_len(&self, record: &[u8]) -> u32 {
        let field = record
            .get(8..12)
            .and_then(|b| b.first_chunk())
            .copied()
            .unwrap_or_default();
        if self.big_endian {
            u32::from_be_bytes(field)
        } else {
            u32::from_le_bytes(field)
        }
    }
}
