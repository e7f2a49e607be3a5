//! ICMP and ICMPv6: requests, and errors about other connections
//! (`nf_conntrack_proto_icmp`, `nf_conntrack_proto_icmpv6`).

use super::{Packet, Verdict};
use crate::Conntrack;
use crate::conntrack::{Template, Tracked};
use crate::entry::{Attached, CtInfo, Entry};
use crate::helper::pptp::KeyMap;
use crate::reason::InvalidReason;
use crate::tuple::{Dir, Tuple};
use tidegate_wire::{Family, be16, parse_embedded, proto};

/// ICMP types that open an entry: echo, timestamp, information, address mask requests.
const REQUESTS: [u8; 4] = [8, 13, 15, 17];
/// ICMPv6 types that open an entry: echo request, node information query.
const REQUESTS6: [u8; 2] = [128, 139];
/// ICMP types about other packets: unreachable, quench, redirect, time, parameter.
const ERRORS: [u8; 5] = [3, 4, 5, 11, 12];
/// Highest ICMP type Linux knows (`NR_ICMP_TYPES`).
const LAST_TYPE: u8 = 18;
/// ICMPv6 types that are never tracked: multicast listener and router discovery,
/// neighbour discovery.
const UNTRACKED6: [u8; 10] = [130, 131, 132, 133, 134, 135, 136, 143, 151, 152];
/// Neighbour discovery redirect (RFC 4861 section 4.5).
const REDIRECT6: u8 = 137;

/// Requests and their answers: one timeout, no assurance.
pub(super) fn track(entry: &Entry, packet: &Packet<'_>, family: Family, timeout: u32) -> Verdict {
    if packet.layout.family != family {
        return Verdict::Invalid(InvalidReason::WrongFamily);
    }
    if !entry.confirmed() {
        let ty = entry.tuple(Dir::Original).icmp_type();
        let requests: &[u8] = match family {
            Family::V4 => &REQUESTS,
            Family::V6 => &REQUESTS6,
        };
        if !requests.contains(&ty) {
            return Verdict::Invalid(InvalidReason::IcmpNoRequest(ty));
        }
    }
    Verdict::Refresh(timeout)
}

impl Conntrack {
    /// ICMP before the table (`nf_conntrack_handle_icmp`): errors are attached to the
    /// connection they are about; `None` leaves a packet to normal handling.
    pub(crate) fn icmp_first(
        &mut self,
        packet: &Packet<'_>,
        template: &Template,
    ) -> Option<Tracked> {
        let outcome = match (packet.layout.family, packet.layout.proto) {
            (Family::V4, proto::ICMP) => self.icmp_error(packet, template),
            (Family::V6, proto::ICMPV6) => self.icmpv6_error(packet, template),
            _ => return None,
        };
        match outcome {
            Ok(tracked) => tracked,
            Err(reason) => Some(Tracked::Invalid(reason)),
        }
    }

    fn icmp_error(
        &mut self,
        packet: &Packet<'_>,
        template: &Template,
    ) -> Result<Option<Tracked>, InvalidReason> {
        let ty = icmp_type(packet, proto::ICMP)?;
        if ty > LAST_TYPE {
            return Err(InvalidReason::UnknownIcmpType(ty));
        }
        if !ERRORS.contains(&ty) {
            return Ok(None);
        }
        self.about(packet, template, 8).map(Some)
    }

    fn icmpv6_error(
        &mut self,
        packet: &Packet<'_>,
        template: &Template,
    ) -> Result<Option<Tracked>, InvalidReason> {
        let ty = icmp_type(packet, proto::ICMPV6)?;
        match ty {
            t if UNTRACKED6.contains(&t) => Ok(Some(Tracked::Untracked)),
            REDIRECT6 => match redirected_at(packet)? {
                Some(at) => self.about(packet, template, at).map(Some),
                None => Ok(None),
            },
            0..128 => self.about(packet, template, 8).map(Some),
            _ => Ok(None),
        }
    }

    /// The connection that the packet at `at` of the ICMP message belongs to
    /// (`nf_conntrack_inet_error`).
    fn about(
        &self,
        packet: &Packet<'_>,
        template: &Template,
        at: usize,
    ) -> Result<Tracked, InvalidReason> {
        let inner = packet.l4.get(at..).unwrap_or(&[]);
        let tuple = inner_tuple(&self.gre_keys, packet.layout.family, inner)
            .and_then(|t| t.inverse())
            .ok_or(InvalidReason::IcmpErrorInnerBad)?;
        let (id, dir) = self
            .find(&tuple, template.zone)
            .ok_or(InvalidReason::IcmpErrorInnerUnknown)?;
        let outer = packet.layout.dst(packet.pkt);
        if outer != { tuple.dst } {
            return Err(InvalidReason::IcmpErrorOuterDaddr {
                outer,
                inner: tuple.dst,
            });
        }
        let info = match dir {
            Dir::Original => CtInfo::Related,
            Dir::Reply => CtInfo::RelatedReply,
        };
        Ok(Tracked::Ct(Attached { id, dir, info }))
    }
}

/// Type of an ICMP message whose header is whole and whose checksum is right.
fn icmp_type(packet: &Packet<'_>, protocol: u8) -> Result<u8, InvalidReason> {
    let &[ty, _, _, _, _, _, _, _] = packet.l4.first_chunk().ok_or(InvalidReason::ShortHeader)?;
    if packet.checksum_ok(protocol) {
        Ok(ty)
    } else {
        Err(InvalidReason::BadChecksum)
    }
}

/// Where the packet that a redirect is about starts; `None` for other redirects
/// (RFC 4861 sections 4.5 and 8.1).
fn redirected_at(packet: &Packet<'_>) -> Result<Option<usize>, InvalidReason> {
    const OPTION_AT: usize = 8 + 16 + 16;
    const REDIRECTED_HEADER: u8 = 4;
    if packet.l4.len() < OPTION_AT {
        return Err(InvalidReason::ShortRedirect);
    }
    if packet.l4.get(1) != Some(&0) {
        return Ok(None);
    }
    let from_link_local = packet.layout.src(packet.pkt) >> 118 == 0xfe80 >> 6;
    if packet.layout.ttl(packet.pkt) != 255 || !from_link_local {
        return Err(InvalidReason::ForeignRedirect);
    }
    match be16(packet.l4, OPTION_AT).map(u16::to_be_bytes) {
        None | Some([_, 0]) => Err(InvalidReason::BareRedirect),
        Some([kind, _]) => Ok((kind == REDIRECTED_HEADER).then_some(OPTION_AT + 8)),
    }
}

/// Tuple of the packet inside an error, which may be cut short after the part of the
/// transport header that tuples need (`nf_ct_get_tuplepr`).
fn inner_tuple(keys: &KeyMap, family: Family, inner: &[u8]) -> Option<Tuple> {
    let layout = parse_embedded(family, inner)?;
    let l4 = inner.get(usize::from(layout.l4)..)?;
    let (src, dst) = (layout.src(inner), layout.dst(inner));
    let mut tuple = Tuple::from_parts(family, layout.proto, src, dst, l4)?;
    keys.complete(&mut tuple, l4);
    Some(tuple)
}
