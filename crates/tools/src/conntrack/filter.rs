//! Which connections a command is about.

use tidegate_conntrack::by_hand::GivenState;
use tidegate_conntrack::{Dir, Entry, EntryId, ProtoState, Status, Zone};
use tidegate_wire::proto;

use super::options::Command;
use super::parse::{Ends, NatTo, Request};
use super::protocols::Part;

impl Request {
    /// Whether the command is about this connection.
    pub(super) fn wants(&self, id: EntryId, entry: &Entry) -> bool {
        let original = entry.tuple(Dir::Original);
        self.family.is_none_or(|f| f == original.family)
            && self.proto.is_none_or(|p| p == original.proto)
            && self.id.is_none_or(|n| n == id.number())
            && self.has_addresses(entry)
            && self.has_parts(entry)
            && self.has_zones(entry.zone)
            && self.has_labels(entry)
            && self.has_values(entry)
            && self.is_translated(entry)
    }

    fn has_addresses(&self, entry: &Entry) -> bool {
        let fits = |wanted: &Ends, dir: Dir, mask: &Ends| {
            let tuple = entry.tuple(dir);
            let pairs = [
                (wanted.src, { tuple.src }, mask.src),
                (wanted.dst, { tuple.dst }, mask.dst),
            ];
            pairs.into_iter().all(|(wanted, addr, mask)| {
                wanted.is_none_or(|w| (w ^ addr) & mask.unwrap_or(u128::MAX) == 0)
            })
        };
        fits(&self.orig, Dir::Original, &self.mask)
            && fits(&self.reply, Dir::Reply, &Ends::default())
    }

    /// What the protocol's options ask for.
    fn has_parts(&self, entry: &Entry) -> bool {
        let [original, reply] = entry.tuples;
        let port = |part, id: u16| self.parts.port(part).is_none_or(|p| p == id);
        let byte = |part, b: u8| self.parts.get(part).is_none_or(|n| n == u32::from(b));
        let icmp = matches!(original.proto, proto::ICMP | proto::ICMPV6);
        if icmp {
            return byte(Part::IcmpType, original.icmp_type())
                && byte(Part::IcmpCode, original.icmp_code())
                && port(Part::IcmpId, original.src_id);
        }
        port(Part::OrigSrc, original.src_id)
            && port(Part::OrigDst, original.dst_id)
            && port(Part::ReplySrc, reply.src_id)
            && port(Part::ReplyDst, reply.dst_id)
    }

    fn has_zones(&self, zone: Zone) -> bool {
        [
            (self.zone, Zone::BOTH),
            (self.orig_zone, Zone::ORIG),
            (self.reply_zone, Zone::REPLY),
        ]
        .into_iter()
        .all(|(wanted, dirs)| {
            let id = if zone.dirs == dirs { zone.id } else { 0 };
            wanted.is_none_or(|w| w == id)
        })
    }

    fn has_labels(&self, entry: &Entry) -> bool {
        let set = |&n: &u32| entry.labels().checked_shr(n).is_some_and(|l| l & 1 == 1);
        self.labels.iter().all(set)
    }

    /// What selects unless it is to be set.
    fn has_values(&self, entry: &Entry) -> bool {
        if self.command == Command::Update {
            return true;
        }
        let set = self.status.unwrap_or(0);
        entry.status.0 & (set | self.clear) == set
            && self
                .mark
                .is_none_or(|(mark, mask)| entry.mark & mask == mark)
            && self.parts.state.is_none_or(|s| is_in(entry, s))
    }

    /// What the options about translation ask for.
    fn is_translated(&self, entry: &Entry) -> bool {
        if let Some(any) = &self.any_nat {
            return source_moved(entry, any.as_ref()) || destination_moved(entry, any.as_ref());
        }
        // For a change they say nothing about the new translation: there is none.
        self.src_nat
            .as_ref()
            .is_none_or(|to| source_moved(entry, to.as_ref()))
            && self
                .dst_nat
                .as_ref()
                .is_none_or(|to| destination_moved(entry, to.as_ref()))
    }
}

fn is_in(entry: &Entry, state: GivenState) -> bool {
    match (&entry.proto, state) {
        (ProtoState::Tcp(tcp), GivenState::Tcp(state)) => tcp.state == state,
        (ProtoState::Sctp(sctp), GivenState::Sctp(state, _)) => sctp.state == state,
        _ => true,
    }
}

/// Whether the source is translated, and to `to`.
fn source_moved(entry: &Entry, to: Option<&NatTo>) -> bool {
    let [original, reply] = entry.tuples;
    moved(
        entry.status.has(Status::SRC_NAT_DONE),
        (original.src, reply.dst),
        (original.src_id, reply.dst_id),
        to,
    )
}

/// Whether the destination is translated, and to `to`.
fn destination_moved(entry: &Entry, to: Option<&NatTo>) -> bool {
    let [original, reply] = entry.tuples;
    moved(
        entry.status.has(Status::DST_NAT_DONE),
        (original.dst, reply.src),
        (original.dst_id, reply.src_id),
        to,
    )
}

/// Compares what was with what is. An ICMP identifier is compared with the type and code
/// that stand in its place in the other direction, so that nearly every ICMP connection
/// counts as translated once NAT has looked at it; so does the tool's library.
fn moved(done: bool, addr: (u128, u128), id: (u16, u16), to: Option<&NatTo>) -> bool {
    let (new_addr, new_id) = (done && addr.0 != addr.1, done && id.0 != id.1);
    match to {
        None => new_addr || new_id,
        Some(to) => {
            new_addr && to.addr == addr.1 && to.port.is_none_or(|port| new_id && port == id.1)
        }
    }
}
