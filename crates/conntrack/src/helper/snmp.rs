//! SNMP through NAT (`nf_nat_snmp_basic`): addresses in messages of versions 1 and 2c.
//!
//! Replies to queries and traps carry addresses of the translated host as values; they are
//! replaced by the one it is known by. Messages are BER (X.690): tags, lengths, contents.

use super::Helped;
use crate::Conntrack;
use crate::reason::DropReason;
use crate::tuple::Dir;
use alloc::vec::Vec;
use core::ops::Range;
use tidegate_wire::{be16, checksum, proto, put};

mod tag {
    pub(super) const INTEGER: u8 = 0x02;
    pub(super) const OCTETS: u8 = 0x04;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const OBJECT: u8 = 0x06;
    pub(super) const SEQUENCE: u8 = 0x30;
    /// `IpAddress` (RFC 1155 section 6).
    pub(super) const ADDRESS: u8 = 0x40;
    pub(super) const TICKS: u8 = 0x43;
    /// The first of the messages, a query for a value (RFC 3416 section 3); the last is a
    /// report.
    pub(super) const FIRST_PDU: u8 = 0xa0;
    pub(super) const LAST_PDU: u8 = 0xa8;
    /// A trap of version 1 (RFC 1157 section 4.1.6).
    pub(super) const TRAP: u8 = 0xa4;
    /// What values may be: numbers, counters, opaque data and the three kinds of none.
    pub(super) const VALUES: [u8; 13] = [
        INTEGER, OCTETS, NULL, OBJECT, ADDRESS, 0x41, 0x42, TICKS, 0x44, 0x46, 0x80, 0x81, 0x82,
    ];
}

/// Ports of servers: of queries and of traps.
const QUERIES: u16 = 161;
const TRAPS: u16 = 162;

/// What is left of some BER bytes.
struct Ber<'a> {
    bytes: &'a [u8],
    /// Where they are in the message.
    at: usize,
}

impl<'a> Ber<'a> {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next element: its tag and contents.
    fn next(&mut self) -> Option<(u8, Ber<'a>)> {
        let (&tag, &first) = (self.bytes.first()?, self.bytes.get(1)?);
        let (mut len, mut header) = (usize::from(first & 0x7f), 2);
        if first & 0x80 != 0 {
            // The long form, of at most four bytes; the indefinite one is not for SNMP.
            let count = len;
            if !(1..=4).contains(&count) {
                return None;
            }
            let bytes = self.bytes.get(2..2 + count)?;
            len = bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b));
            header += count;
        }
        let contents = self.bytes.get(header..header.checked_add(len)?)?;
        let at = self.at + header;
        self.bytes = self.bytes.get(header + len..)?;
        self.at = at + len;
        Some((
            tag,
            Ber {
                bytes: contents,
                at,
            },
        ))
    }

    /// The next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<Ber<'a>> {
        self.next().filter(|e| e.0 == tag).map(|e| e.1)
    }

    fn address(&self) -> Option<Range<usize>> {
        (self.bytes.len() >= 4).then_some(self.at..self.at + 4)
    }
}

/// Where the addresses in a message are; `None` when it is not one of version 1 or 2c.
#[must_use]
pub fn addresses(message: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut outer = Ber {
        bytes: message,
        at: 0,
    };
    let mut message = outer.expect(tag::SEQUENCE)?;
    let version = message.expect(tag::INTEGER)?;
    if *version.bytes.first()? > 1 {
        return None;
    }
    message.expect(tag::OCTETS)?;
    let (kind, mut pdu) = message.next()?;
    if !(tag::FIRST_PDU..=tag::LAST_PDU).contains(&kind) {
        return None;
    }
    if kind == tag::TRAP {
        pdu.expect(tag::OBJECT)?;
        found.push(pdu.expect(tag::ADDRESS)?.address()?);
        pdu.expect(tag::INTEGER)?;
        pdu.expect(tag::INTEGER)?;
        pdu.expect(tag::TICKS)?;
    } else {
        for _ in 0..3 {
            pdu.expect(tag::INTEGER)?;
        }
    }
    let mut bindings = pdu.expect(tag::SEQUENCE)?;
    while !bindings.is_empty() {
        let mut binding = bindings.expect(tag::SEQUENCE)?;
        binding.expect(tag::OBJECT)?;
        let (kind, value) = binding.next()?;
        if !tag::VALUES.contains(&kind) {
            return None;
        }
        if kind == tag::ADDRESS {
            found.push(value.address()?);
        }
    }
    Some(found)
}

impl Conntrack {
    pub(super) fn help_snmp(&mut self, helped: &mut Helped<'_>) -> Result<bool, DropReason> {
        let (layout, dir) = (helped.layout, helped.dir());
        let segment = layout.l4(helped.pkt);
        let (Some(sport), Some(dport), Some(len)) =
            (be16(segment, 0), be16(segment, 2), be16(segment, 4))
        else {
            return Ok(false);
        };
        // Replies, and traps that somebody sends.
        let other_way = sport == QUERIES && dir == Dir::Original;
        if other_way || dport == TRAPS && dir == Dir::Reply || !self.translated(helped) {
            return Ok(false);
        }
        if usize::from(len) != segment.len() {
            return Err(DropReason::Helper("dropping malformed packet"));
        }
        let Some(entry) = self.entry(helped.attached.id) else {
            return Ok(false);
        };
        // Whoever sends: the address of who asked, as the other end knows it.
        let inside = entry.tuple(Dir::Original).src;
        let (from, to) = (inside as u32, entry.tuple(Dir::Reply).dst as u32);
        if from == to {
            return Ok(false);
        }
        let message = segment.get(super::UDP_HEADER..).unwrap_or_default();
        let found = addresses(message).ok_or(DropReason::Helper("parser failed"))?;
        let base = usize::from(layout.l4) + super::UDP_HEADER;
        let mut changed = false;
        for range in found {
            let place = base + range.start;
            if helped.pkt.get(place..place + 4) == Some(from.to_be_bytes().as_slice()) {
                put(helped.pkt, place, &to.to_be_bytes());
                changed = true;
            }
        }
        if changed {
            fix_checksum(helped);
        }
        Ok(changed)
    }
}

/// A checksum that was there is computed again.
fn fix_checksum(helped: &mut Helped<'_>) {
    let layout = helped.layout;
    let at = usize::from(layout.l4) + 6;
    if be16(helped.pkt, at) == Some(0) {
        return;
    }
    put(helped.pkt, at, &[0; 2]);
    let segment = layout.l4(helped.pkt);
    let (src, dst) = (layout.src(helped.pkt), layout.dst(helped.pkt));
    let pseudo = checksum::pseudo(layout.family, src, dst, proto::UDP, segment.len() as u32);
    let check = match checksum::finish(pseudo, segment) {
        0 => 0xffff,
        check => check,
    };
    put(helped.pkt, at, &check.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
        [&[tag, contents.len() as u8], contents].concat()
    }

    /// A message of version 2c with one binding of this value.
    fn response(value: &[u8]) -> Vec<u8> {
        let name = element(tag::OBJECT, &[0x2b, 6, 1]);
        let binding = element(tag::SEQUENCE, &[&name, value].concat());
        let number = element(tag::INTEGER, &[5]);
        let bindings = element(tag::SEQUENCE, &binding);
        let pdu = element(0xa2, &[&number[..], &number, &number, &bindings].concat());
        let community = element(tag::OCTETS, b"public");
        element(
            tag::SEQUENCE,
            &[&element(tag::INTEGER, &[1]), &community[..], &pdu].concat(),
        )
    }

    #[test]
    fn an_address_as_value() {
        let message = response(&element(tag::ADDRESS, &[10, 0, 0, 2]));
        let found = addresses(&message).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(message[found[0].clone()], [10, 0, 0, 2]);
        // The same bytes as anything else are no address.
        let octets = response(&element(tag::OCTETS, &[10, 0, 0, 2]));
        assert_eq!(addresses(&octets), Some(Vec::new()));
    }

    #[test]
    fn lengths_that_lie() {
        let whole = response(&element(tag::ADDRESS, &[10, 0, 0, 2]));
        for cut in 0..whole.len() {
            assert_eq!(addresses(&whole[..cut]), None, "{cut}");
        }
        for length in [
            &[0x80][..],
            &[0x81],
            &[0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            let message = [&[tag::SEQUENCE], length, &whole[2..]].concat();
            assert_eq!(addresses(&message), None, "{length:x?}");
        }
        assert_eq!(addresses(&response(&element(tag::ADDRESS, &[10]))), None);
    }
}
