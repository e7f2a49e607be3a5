//! Rewriting addresses, ports and ids in packets (`nf_nat_manip_pkt`).

use crate::tuple::Tuple;
use core::ops::Range;
use tidegate_wire::checksum::{self, update, update16};
use tidegate_wire::{Family, Layout, be16, crc32c, proto, put};

/// Which end of a packet or connection is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manip {
    /// The source.
    Src,
    /// The destination.
    Dst,
}

impl Manip {
    /// The other end.
    #[must_use]
    pub const fn other(self) -> Manip {
        match self {
            Manip::Src => Manip::Dst,
            Manip::Dst => Manip::Src,
        }
    }
}

/// The packet does not hold the header that has to be rewritten; it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotRewrite;

/// ICMP types with an id: echo, timestamp, information, address mask, both ways.
const ICMP_WITH_ID: [u8; 8] = [0, 8, 13, 14, 15, 16, 17, 18];
/// ICMPv6 types whose id is rewritten: echo request and reply.
const ICMPV6_WITH_ID: [u8; 2] = [128, 129];

/// One change of an address: where it stands and its old and new bytes.
struct Change {
    at: usize,
    old: [u8; 16],
    new: [u8; 16],
    len: usize,
}

impl Change {
    fn new(packet: &[u8], layout: &Layout, target: &Tuple, manip: Manip) -> Option<Change> {
        let new = match manip {
            Manip::Src => { target.src }.to_be_bytes(),
            Manip::Dst => { target.dst }.to_be_bytes(),
        };
        let range = address_at(layout.family, manip);
        let (at, len) = (range.start, range.len());
        let mut change = Change {
            at,
            old: [0; 16],
            new: [0; 16],
            len,
        };
        change.old[..len].copy_from_slice(packet.get(range)?);
        change.new[..len].copy_from_slice(&new[16 - len..]);
        Some(change)
    }

    /// The checksum `check` of something that covers the address.
    fn carry(&self, check: u16) -> u16 {
        update(check, &self.old[..self.len], &self.new[..self.len])
    }
}

fn address_at(family: Family, manip: Manip) -> Range<usize> {
    match (family, manip) {
        (Family::V4, Manip::Src) => 12..16,
        (Family::V4, Manip::Dst) => 16..20,
        (Family::V6, Manip::Src) => 8..24,
        (Family::V6, Manip::Dst) => 24..40,
    }
}

/// Makes the `manip` end of `packet` look like that of `target`, checksums included.
///
/// `packet` may be the start of a packet, as inside an ICMP error; then checksums that
/// are not there are left out. In later fragments only the address changes.
///
/// # Errors
/// [`CannotRewrite`] when the transport header is shorter than the part to change.
pub fn rewrite(
    packet: &mut [u8],
    layout: &Layout,
    target: &Tuple,
    manip: Manip,
) -> Result<(), CannotRewrite> {
    let change = Change::new(packet, layout, target, manip).ok_or(CannotRewrite)?;
    if layout.has_l4() {
        let l4 = packet
            .get_mut(usize::from(layout.l4)..)
            .ok_or(CannotRewrite)?;
        rewrite_transport(l4, target, manip, &change).ok_or(CannotRewrite)?;
    }
    if layout.family == Family::V4 {
        let check = be16(packet, 10).ok_or(CannotRewrite)?;
        put(packet, 10, &change.carry(check).to_be_bytes());
    }
    put(packet, change.at, &change.new[..change.len]);
    Ok(())
}

/// `l4proto_manip_pkt`; the protocol is that of the target, which for the outside of an
/// ICMP error differs from the connection's.
fn rewrite_transport(l4: &mut [u8], target: &Tuple, manip: Manip, change: &Change) -> Option<()> {
    match target.proto {
        proto::TCP => ports(l4, target, manip, 20).map(|word| {
            word.fix(l4, 16, change);
        }),
        proto::UDP => {
            let word = ports(l4, target, manip, 8)?;
            if be16(l4, 6)? != 0 {
                word.fix(l4, 6, change);
                fill_zero(l4);
            }
            Some(())
        }
        proto::UDPLITE => {
            ports(l4, target, manip, 8)?.fix(l4, 6, change);
            fill_zero(l4);
            Some(())
        }
        proto::SCTP => {
            ports(l4, target, manip, 12)?;
            if let Some(crc) = crc32c::sctp(l4) {
                put(l4, 8, &crc.to_le_bytes());
            }
            Some(())
        }
        proto::ICMP => icmp(l4, target, &ICMP_WITH_ID, None),
        proto::ICMPV6 => icmp(l4, target, &ICMPV6_WITH_ID, Some(change)),
        proto::GRE => gre(l4, target, manip),
        _ => Some(()),
    }
}

/// A 16-bit word that changed.
struct Word {
    old: u16,
    new: u16,
    /// The checksum is in the packet.
    checked: bool,
}

impl Word {
    /// Repairs the checksum at `at` for this word and the address.
    fn fix(&self, l4: &mut [u8], at: usize, change: &Change) {
        if let Some(check) = be16(l4, at).filter(|_| self.checked) {
            let check = update16(change.carry(check), self.old, self.new);
            put(l4, at, &check.to_be_bytes());
        }
    }
}

/// Writes a port; eight bytes of transport header must be there, the checksum counts
/// only when the whole header of `header` bytes is.
fn ports(l4: &mut [u8], target: &Tuple, manip: Manip, header: usize) -> Option<Word> {
    l4.get(..8)?;
    let (at, new) = match manip {
        Manip::Src => (0, target.src_id),
        Manip::Dst => (2, target.dst_id),
    };
    let old = be16(l4, at)?;
    put(l4, at, &new.to_be_bytes());
    Some(Word {
        old,
        new,
        checked: l4.len() >= header,
    })
}

/// A UDP checksum that came out as 0 is sent as 0xffff; 0 would mean there is none.
fn fill_zero(l4: &mut [u8]) {
    if be16(l4, 6) == Some(0) {
        put(l4, 6, &[0xff; 2]);
    }
}

fn icmp(l4: &mut [u8], target: &Tuple, with_id: &[u8], change: Option<&Change>) -> Option<()> {
    l4.get(..8)?;
    let mut check = be16(l4, 2)?;
    if let Some(change) = change {
        check = change.carry(check);
    }
    if with_id.contains(l4.first()?) {
        check = update16(check, be16(l4, 4)?, target.src_id);
        put(l4, 4, &{ target.src_id }.to_be_bytes());
    }
    put(l4, 2, &check.to_be_bytes());
    Some(())
}

/// GRE: only version 1 has a key, and only the destination's is in the packet.
fn gre(l4: &mut [u8], target: &Tuple, manip: Manip) -> Option<()> {
    l4.get(..8)?;
    match (manip, be16(l4, 0)? & 7) {
        (Manip::Src, _) | (_, 0) => Some(()),
        (Manip::Dst, 1) => put(l4, 6, &{ target.dst_id }.to_be_bytes()).then_some(()),
        (Manip::Dst, _) => None,
    }
}

/// Length of the ICMP and ICMPv6 header in front of an embedded packet.
const ICMP_HEADER: usize = 8;

/// Translates the packet embedded in an ICMP error: the opposite end, so that its
/// receiver recognises what it sent. `tuple` is that of the connection's other
/// direction. The ICMP checksum is computed anew.
///
/// # Errors
/// [`CannotRewrite`] when the embedded headers are too short.
pub fn rewrite_embedded(
    packet: &mut [u8],
    layout: &Layout,
    tuple: &Tuple,
    manip: Manip,
) -> Result<(), CannotRewrite> {
    let l4 = usize::from(layout.l4);
    let inner = packet.get_mut(l4 + ICMP_HEADER..).ok_or(CannotRewrite)?;
    let inside = tidegate_wire::parse_embedded(layout.family, inner).ok_or(CannotRewrite)?;
    rewrite(inner, &inside, tuple, manip.other())?;
    put(packet, l4 + 2, &[0; 2]);
    let check = icmp_sum(packet, layout);
    put(packet, l4 + 2, &(!check).to_be_bytes());
    Ok(())
}

/// Whether the checksum of an ICMP or ICMPv6 packet is right.
#[must_use]
pub fn icmp_checksum_ok(packet: &[u8], layout: &Layout) -> bool {
    icmp_sum(packet, layout) == 0xffff
}

/// Folded sum over an ICMP packet; ICMPv6 covers a pseudo-header.
fn icmp_sum(packet: &[u8], layout: &Layout) -> u16 {
    let l4 = layout.l4(packet);
    let extra = match layout.family {
        Family::V4 => 0,
        Family::V6 => checksum::pseudo(
            Family::V6,
            layout.src(packet),
            layout.dst(packet),
            proto::ICMPV6,
            l4.len() as u32,
        ),
    };
    checksum::fold(extra + checksum::sum(l4))
}

#[cfg(test)]
mod tests;
