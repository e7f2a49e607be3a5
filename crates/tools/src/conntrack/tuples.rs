//! Connections and expectations as a command line names them.

use tidegate_conntrack::by_hand::{ByHandError, GivenState, NewEntry, NewExpectation};
use tidegate_conntrack::{Family, NatRange, Tuple, Zone};
use tidegate_wire::proto;

use super::parse::{Ends, NatTo, Request};
use super::protocols::Part;

/// Source and destination port, key, or what ICMP has instead.
type Ids = (u16, u16);

impl Request {
    fn tuple(&self, addrs: (u128, u128), ids: Ids) -> Tuple {
        Tuple {
            src: addrs.0,
            dst: addrs.1,
            src_id: ids.0,
            dst_id: ids.1,
            family: self.family.unwrap_or(Family::V4),
            proto: self.proto.unwrap_or(0),
        }
    }

    fn ids(&self, src: Part, dst: Part) -> Option<Ids> {
        Some((self.parts.port(src)?, self.parts.port(dst)?))
    }

    /// Whether connections of the protocol are told apart by ports or keys.
    fn has_ids(&self) -> bool {
        self.tuple((0, 0), (0, 0)).has_ports() || self.proto == Some(proto::GRE)
    }

    /// The identifiers of the original direction, as far as they are given.
    fn original_ids(&self) -> Option<Ids> {
        match self.proto {
            Some(proto::ICMP | proto::ICMPV6) => {
                let byte = |part| self.parts.get(part).map(|b| b as u8);
                let (ty, code) = (byte(Part::IcmpType)?, byte(Part::IcmpCode).unwrap_or(0));
                let id = self.parts.port(Part::IcmpId).unwrap_or(0);
                Some((id, u16::from_be_bytes([ty, code])))
            }
            _ if self.has_ids() => self.ids(Part::OrigSrc, Part::OrigDst),
            _ => Some((0, 0)),
        }
    }

    /// The tuple that names one connection: the original one, or else the reply's.
    pub(super) fn name(&self) -> Result<Tuple, ByHandError> {
        let [original, reply] = self.both()?;
        Ok(if self.orig.whole() { original } else { reply })
    }

    /// Both tuples; what is not given mirrors the other direction.
    fn both(&self) -> Result<[Tuple; 2], ByHandError> {
        let given = |ends: &Ends| Some((ends.src?, ends.dst?));
        let mirror = |(src, dst): (u128, u128)| (dst, src);
        let original = given(&self.orig).or_else(|| given(&self.reply).map(mirror));
        let original = original.ok_or(ByHandError::Invalid)?;
        let named = self.reply.src.is_some() || self.reply.dst.is_some();
        // Translation gives the end of the reply that it changes.
        let reply_src = self.reply.src.or(self.dst_nat.map(|_| original.1));
        let reply_dst = self.reply.dst.or(self.src_nat.map(|_| original.0));
        let reply = match (reply_src, reply_dst) {
            (Some(src), Some(dst)) => (src, dst),
            _ if named => return Err(ByHandError::Invalid),
            _ => mirror(original),
        };
        let back = if self.has_ids() {
            self.ids(Part::ReplySrc, Part::ReplyDst)
        } else {
            None
        };
        let ids = self.original_ids().or(back.map(|(s, d)| (d, s)));
        let first = self.tuple(original, ids.ok_or(ByHandError::Invalid)?);
        let inverse = first.inverse().ok_or(ByHandError::Invalid)?;
        let started = [Part::ReplySrc, Part::ReplyDst].map(|p| self.parts.port(p).is_some());
        let incomplete = back.is_none() && self.has_ids();
        if incomplete && (started != [false; 2] || named && self.orig.whole()) {
            return Err(ByHandError::Invalid);
        }
        let ids = back.unwrap_or(({ inverse.src_id }, { inverse.dst_id }));
        Ok([first, self.tuple(reply, ids)])
    }

    /// The connection to be made.
    pub(super) fn new_entry(&self) -> Result<NewEntry, ByHandError> {
        let range = |to: &Option<Option<NatTo>>| {
            to.flatten().map(|to| NatRange {
                ports: to.port.map(|p| (p, p)),
                ..NatRange::address(to.addr)
            })
        };
        Ok(NewEntry {
            tuples: self.both()?,
            zone: self.new_zone()?,
            timeout: self.timeout.unwrap_or(0),
            status: self.status.unwrap_or(0),
            mark: self.mark.map_or(0, |(mark, _)| mark),
            state: self.given_state(),
            nat: [range(&self.src_nat), range(&self.dst_nat)],
            helper: None,
            labels: self.label_add.unwrap_or(0),
        })
    }

    fn new_zone(&self) -> Result<Zone, ByHandError> {
        let zone = |id: Option<u16>, dirs| id.map(|id| Zone { id, dirs });
        let given = [
            zone(self.zone, Zone::BOTH),
            zone(self.orig_zone, Zone::ORIG),
            zone(self.reply_zone, Zone::REPLY),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (_, Some(_)) => Err(ByHandError::Invalid),
            (zone, None) => Ok(zone.unwrap_or_default()),
        }
    }

    /// The state that was given, with SCTP's verification tags.
    pub(super) fn given_state(&self) -> Option<GivenState> {
        let tag = |part| self.parts.get(part).unwrap_or(0);
        Some(match self.parts.state? {
            GivenState::Sctp(state, _) => {
                GivenState::Sctp(state, [tag(Part::OrigTag), tag(Part::ReplyTag)])
            }
            tcp @ (GivenState::Tcp(_) | GivenState::TcpOnce(_)) => tcp,
        })
    }

    /// The expectation that `-G` and `-D` name by its own tuple.
    pub(super) fn expected(&self) -> Result<Tuple, ByHandError> {
        self.of_ends(&self.orig, self.original_ids())
    }

    fn of_ends(&self, ends: &Ends, ids: Option<Ids>) -> Result<Tuple, ByHandError> {
        let (Some(src), Some(dst)) = (ends.src, ends.dst) else {
            return Err(ByHandError::Invalid);
        };
        Ok(self.tuple((src, dst), ids.unwrap_or_default()))
    }

    /// The expectation to be made.
    pub(super) fn new_expectation(&self) -> Result<NewExpectation, ByHandError> {
        let ids = self.ids(Part::TupleSrc, Part::TupleDst);
        Ok(NewExpectation {
            master: self.of_ends(&self.orig, self.original_ids())?,
            tuple: self.of_ends(&self.tuple, ids)?,
            mask_src: self.mask.src.unwrap_or(u128::MAX),
            mask_src_id: self.parts.port(Part::MaskSrc).unwrap_or(0),
            zone: Zone::default(),
            timeout: self.timeout.unwrap_or(0),
        })
    }
}
