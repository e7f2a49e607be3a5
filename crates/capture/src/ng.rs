//! The pcapng format (draft-ietf-opsawg-pcapng).

use std::io::Read;
use std::net::IpAddr;
use std::rc::Rc;

use pcap_parser::{
    Block, EPB_MAGIC, IDB_MAGIC, InterfaceDescriptionBlock, OptionCode, PcapNGOption, SHB_MAGIC,
    SPB_MAGIC, parse_block_be, parse_block_le,
};

use crate::input::Input;
use crate::link::LinkType;
use crate::reader::{Direction, Interface, Record};
use crate::{Damage, MAX_BLOCK, MAX_INTERFACES, MAX_PACKET};

/// The Packet Block that the Enhanced Packet Block replaced.
const OLD_PACKET: u32 = 2;
const MAX_NAME: usize = 255;
/// What a packet block is called in errors.
const WHAT: &str = "a packet";
/// Bytes before the packet in an Enhanced Packet Block.
const ENHANCED: usize = 28;
const EPB_FLAGS: OptionCode = OptionCode(2);
const IF_IPV6_ADDR: OptionCode = OptionCode(5);

/// The state of a section.
#[derive(Default)]
pub(crate) struct Ng {
    big_endian: bool,
    interfaces: Vec<Described>,
    /// Interfaces described in all sections so far.
    next_id: u32,
}

struct Described {
    interface: Rc<Interface>,
    clock: Clock,
}

/// How an interface's time stamps become nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Clock {
    /// `if_tsresol`: 10^-n seconds, or 2^-n with the top bit set.
    resolution: u8,
    /// `if_tsoffset` in seconds.
    offset: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Clock {
            resolution: 6,
            offset: 0,
        }
    }
}

impl Clock {
    fn nanoseconds(self, stamp: u64) -> u64 {
        let n = u32::from(self.resolution & 0x7f);
        let stamp = i128::from(stamp);
        let ns = match (self.resolution & 0x80 != 0, n) {
            (false, 0..=9) => stamp * 10i128.pow(9 - n),
            (false, _) => stamp / 10i128.checked_pow(n.saturating_sub(9)).unwrap_or(i128::MAX),
            (true, _) => (stamp * 1_000_000_000) >> n.min(127),
        };
        let ns = ns.saturating_add(i128::from(self.offset) * 1_000_000_000);
        u64::try_from(ns.max(0)).unwrap_or(u64::MAX)
    }
}

/// A block's type and length, checked.
struct Head {
    kind: u32,
    len: u32,
}

impl Ng {
    pub(crate) fn interface(&self, index: usize) -> Option<&Rc<Interface>> {
        self.interfaces.get(index).map(|d| &d.interface)
    }

    pub(crate) fn next_record<R: Read>(
        &mut self,
        input: &mut Input<R>,
    ) -> Result<Option<Record>, Damage> {
        loop {
            input.begin();
            if input.fill(12)? == 0 {
                return Ok(None);
            }
            input.need(12, "a block header")?;
            let head = self.head(input.bytes())?;
            let len = head.len as usize;
            match head.kind {
                SHB_MAGIC | IDB_MAGIC => {
                    self.whole(input, &head)?;
                    self.learn(input.bytes().get(..len).unwrap_or(&[]))?;
                    input.consume(len);
                }
                EPB_MAGIC | SPB_MAGIC | OLD_PACKET => {
                    self.whole(input, &head)?;
                    let block = input.bytes().get(..len).unwrap_or(&[]);
                    return self.packet(block).map(Some);
                }
                _ => self.skip(input, &head)?,
            }
        }
    }

    /// Reads type and length; a section header sets the byte order first.
    fn head(&mut self, bytes: &[u8]) -> Result<Head, Damage> {
        let word = |at: usize| -> [u8; 4] {
            bytes
                .get(at..)
                .and_then(|b| b.first_chunk())
                .copied()
                .unwrap_or_default()
        };
        if u32::from_le_bytes(word(0)) == SHB_MAGIC {
            self.big_endian = match word(8) {
                [0x1a, 0x2b, 0x3c, 0x4d] => true,
                [0x4d, 0x3c, 0x2b, 0x1a] => false,
                other => return Err(Damage::ByteOrder(other)),
            };
        }
        let head = Head {
            kind: self.number(word(0)),
            len: self.number(word(4)),
        };
        if head.len < 12 || !head.len.is_multiple_of(4) {
            return Err(Damage::BlockLength(head.len));
        }
        Ok(head)
    }

    fn number(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    /// Brings the whole block into the window.
    fn whole<R: Read>(&self, input: &mut Input<R>, head: &Head) -> Result<(), Damage> {
        if head.len > MAX_BLOCK {
            return Err(Damage::TooLarge {
                part: "a block",
                bytes: head.len,
                limit: MAX_BLOCK,
            });
        }
        let len = head.len as usize;
        input.need(len, "a block")?;
        self.check_trailer(head, input.bytes().get(len - 4..).unwrap_or(&[]))
    }

    fn skip<R: Read>(&self, input: &mut Input<R>, head: &Head) -> Result<(), Damage> {
        input.skip(u64::from(head.len) - 4, "a block")?;
        input.need(4, "the end of a block")?;
        self.check_trailer(head, input.bytes())?;
        input.consume(4);
        Ok(())
    }

    fn check_trailer(&self, head: &Head, at_trailer: &[u8]) -> Result<(), Damage> {
        let last = self.number(at_trailer.first_chunk().copied().unwrap_or_default());
        if last == head.len {
            return Ok(());
        }
        Err(Damage::BlockTrailer {
            first: head.len,
            last,
        })
    }

    fn parse<'a>(&self, block: &'a [u8], what: &'static str) -> Result<Block<'a>, Damage> {
        let parsed = if self.big_endian {
            parse_block_be(block)
        } else {
            parse_block_le(block)
        };
        parsed
            .map(|(_, b)| b)
            .map_err(|_| Damage::BlockContent(what))
    }

    /// Takes in a section header or an interface description.
    fn learn(&mut self, block: &[u8]) -> Result<(), Damage> {
        if let Block::InterfaceDescription(idb) = self.parse(block, "a description")? {
            if self.interfaces.len() >= MAX_INTERFACES {
                return Err(Damage::TooManyInterfaces);
            }
            let described = self.describe(&idb);
            self.interfaces.push(described);
            self.next_id = self.next_id.saturating_add(1);
        } else {
            self.interfaces.clear();
        }
        Ok(())
    }

    fn describe(&self, idb: &InterfaceDescriptionBlock<'_>) -> Described {
        let mut clock = Clock::default();
        let mut interface = Interface {
            id: self.next_id,
            name: None,
            // Only 16 bits wide in the block.
            link: LinkType::from(idb.linktype.0 as u16),
            snaplen: idb.snaplen,
            addresses: Vec::new(),
            mac: None,
        };
        for option in &idb.options {
            let value = value(option);
            match option.code {
                OptionCode::EndOfOpt => break,
                OptionCode::IfName => interface.name = text(value),
                OptionCode::IfIpv4Addr => interface.addresses.extend(address4(value)),
                IF_IPV6_ADDR => interface.addresses.extend(address6(value)),
                OptionCode::IfMacAddr => interface.mac = value.first_chunk().copied(),
                OptionCode::IfTsresol => clock.resolution = value.first().copied().unwrap_or(6),
                OptionCode::IfTsoffset => {
                    clock.offset = value.first_chunk().map_or(0, |b| self.signed(*b));
                }
                _ => {}
            }
        }
        Described {
            interface: Rc::new(interface),
            clock,
        }
    }

    fn signed(&self, bytes: [u8; 8]) -> i64 {
        if self.big_endian {
            i64::from_be_bytes(bytes)
        } else {
            i64::from_le_bytes(bytes)
        }
    }

    fn packet(&self, block: &[u8]) -> Result<Record, Damage> {
        if block.first_chunk().map(|b| self.number(*b)) == Some(EPB_MAGIC) {
            return self.enhanced(block);
        }
        match self.parse(block, WHAT)? {
            Block::SimplePacket(p) => {
                let snaplen = match self.interface(0).map_or(0, |i| i.snaplen) {
                    0 => u32::MAX,
                    n => n,
                };
                // No stored length: bounded by the wire, the snap length, the block.
                let captured = p
                    .origlen
                    .min(snaplen)
                    .min(u32::try_from(p.data.len()).unwrap_or(u32::MAX));
                self.record(block, 12, [0, captured, p.origlen], 0, WHAT)
            }
            Block::Unknown(p) => {
                let word = |at: usize| -> u32 {
                    let bytes = p.data.get(at..).and_then(|b| b.first_chunk()).copied();
                    self.number(bytes.unwrap_or_default())
                };
                let interface = self.half(p.data.first_chunk().copied().unwrap_or_default());
                let stamp = stamp(word(4), word(8));
                let lens = [u32::from(interface), word(12), word(16)];
                self.record(block, 28, lens, stamp, WHAT)
            }
            Block::SectionHeader(_)
            | Block::EnhancedPacket(_)
            | Block::InterfaceDescription(_)
            | Block::NameResolution(_)
            | Block::InterfaceStatistics(_)
            | Block::SystemdJournalExport(_)
            | Block::DecryptionSecrets(_)
            | Block::ProcessInformation(_)
            | Block::Custom(_) => Err(Damage::BlockContent(WHAT)),
        }
    }

    /// `numbers`: interface, captured and original length.
    fn record(
        &self,
        block: &[u8],
        header: usize,
        [interface, captured, original_len]: [u32; 3],
        stamp: u64,
        what: &'static str,
    ) -> Result<Record, Damage> {
        if captured > MAX_PACKET {
            return Err(Damage::TooLarge {
                part: what,
                bytes: captured,
                limit: MAX_PACKET,
            });
        }
        let end = header + captured as usize;
        if end + 4 > block.len() {
            return Err(Damage::BlockContent(what));
        }
        let index = interface as usize;
        let Some(described) = self.interfaces.get(index) else {
            return Err(Damage::NoInterface(interface));
        };
        Ok(Record {
            time_ns: described.clock.nanoseconds(stamp),
            interface: index,
            flagged: Direction::Unknown,
            data: header..end,
            original_len,
            len: block.len(),
        })
    }

    /// The block that nearly all packets are in; read in place, because a list of its
    /// options would have to be allocated.
    fn enhanced(&self, block: &[u8]) -> Result<Record, Damage> {
        let word = |at: usize| {
            let bytes = block.get(at..).and_then(|b| b.first_chunk());
            self.number(bytes.copied().unwrap_or_default())
        };
        let captured = word(20);
        let options = (captured as usize)
            .checked_next_multiple_of(4)
            .and_then(|padded| padded.checked_add(ENHANCED))
            .zip(block.len().checked_sub(4))
            .and_then(|(from, to)| block.get(from..to))
            .ok_or(Damage::BlockContent(WHAT))?;
        let numbers = [word(8), captured, word(24)];
        let stamp = stamp(word(12), word(16));
        let mut record = self.record(block, ENHANCED, numbers, stamp, WHAT)?;
        record.flagged = self.direction(options);
        Ok(record)
    }

    /// The two low bits of `epb_flags`. What is no option ends the list.
    fn direction(&self, mut options: &[u8]) -> Direction {
        while let Some((&[c0, c1, l0, l1], rest)) = options.split_first_chunk() {
            let code = self.half([c0, c1]);
            let len = usize::from(self.half([l0, l1]));
            let Some((value, next)) = rest.split_at_checked(len.next_multiple_of(4)) else {
                break;
            };
            if OptionCode(code) == EPB_FLAGS {
                let value = value.get(..len).and_then(|v| v.first_chunk());
                return match self.number(value.copied().unwrap_or_default()) & 3 {
                    1 => Direction::In,
                    2 => Direction::Out,
                    _ => Direction::Unknown,
                };
            }
            options = next;
        }
        Direction::Unknown
    }

    fn half(&self, bytes: [u8; 2]) -> u16 {
        if self.big_endian {
            u16::from_be_bytes(bytes)
        } else {
            u16::from_le_bytes(bytes)
        }
    }
}

fn stamp(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// An option's value without its padding.
fn value<'a>(option: &'a PcapNGOption<'_>) -> &'a [u8] {
    option
        .value
        .get(..usize::from(option.len))
        .unwrap_or(&option.value)
}

/// Address and mask, four bytes each, in network order.
fn address4(value: &[u8]) -> Option<(IpAddr, u8)> {
    let address: [u8; 4] = *value.first_chunk()?;
    let mask: [u8; 4] = *value.get(4..)?.first_chunk()?;
    let len = u32::from_be_bytes(mask).leading_ones() as u8;
    Some((IpAddr::from(address), len))
}

/// Address and prefix length.
fn address6(value: &[u8]) -> Option<(IpAddr, u8)> {
    let address: [u8; 16] = *value.first_chunk()?;
    Some((IpAddr::from(address), (*value.get(16)?).min(128)))
}

fn text(value: &[u8]) -> Option<String> {
    let kept = value.get(..MAX_NAME).unwrap_or(value);
    let end = kept.iter().position(|&b| b == 0).unwrap_or(kept.len());
    let name = String::from_utf8_lossy(&kept[..end]).into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Draft section 4.2, if_tsresol: "a value of 6 means microseconds"; a set top bit
    // means a negative power of two. if_tsoffset is in seconds.
    #[test]
    fn clocks() {
        let ns = |resolution, offset, stamp| Clock { resolution, offset }.nanoseconds(stamp);
        assert_eq!(ns(6, 0, 1_340_954_905_298_858), 1_340_954_905_298_858_000);
        assert_eq!(ns(9, 0, 17), 17);
        assert_eq!(ns(0, 0, 5), 5_000_000_000);
        assert_eq!(ns(12, 0, 5_999), 5);
        assert_eq!(ns(0x80 | 10, 0, 1536), 1_500_000_000);
        assert_eq!(ns(6, 100, 1), 100_000_001_000);
        assert_eq!(ns(6, -100, 1), 0);
        assert_eq!(ns(0x7f, 0, u64::MAX), 0);
        assert_eq!(ns(0xff, 0, u64::MAX), 0);
        assert_eq!(ns(0, i64::MAX, u64::MAX), u64::MAX);
    }
}
