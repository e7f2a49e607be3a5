//! Field values of a packet at a hook: what conditions are evaluated against.

use tidegate_conntrack::{Conntrack, CtInfo, Dir, Entry, Time};
use tidegate_ir::{Facts, Field, Step, StepId, StepInput, ctstate};
use tidegate_wire::{Family, be16, proto, tcp};

use crate::env::{Env, IfIndex};
use crate::packet::{Packet, Tracking};
use crate::random::Random;

/// A packet and its surroundings while rules look at it.
pub(crate) struct View<'a> {
    pub(crate) packet: &'a Packet,
    pub(crate) conntrack: &'a Conntrack,
    pub(crate) env: &'a Env,
    pub(crate) steps: &'a mut [Box<dyn Step>],
    pub(crate) random: &'a mut Random,
    pub(crate) now: Time,
}

impl Facts for View<'_> {
    #[inline]
    fn load(&mut self, field: Field) -> Option<u128> {
        let p = self.packet;
        match field {
            Field::Src => Some(p.src()),
            Field::Dst => Some(p.dst()),
            Field::Proto if p.layout.broken_chain => None,
            Field::Proto => Some(u128::from(p.layout.proto)),
            Field::Tos => Some(u128::from(p.tos())),
            Field::Ttl => Some(u128::from(p.ttl())),
            Field::Length => Some(u128::from(p.layout.len)),
            Field::FragOff => Some(u128::from(p.layout.frag_off)),
            Field::InName => Some(p.in_name),
            Field::OutName => Some(p.out_name),
            Field::Mark => Some(u128::from(p.mark)),
            Field::L4Len
            | Field::Sport
            | Field::Dport
            | Field::TcpFlags
            | Field::TcpOption(_)
            | Field::IcmpTypeCode => transport(p, field),
            Field::HasCt => Some(u128::from(p.tracking.connection().is_some())),
            Field::CtState => Some(state(&p.tracking)),
            Field::SrcType => self.address_type(p.src(), None),
            Field::DstType => self.address_type(p.dst(), None),
            Field::SrcTypeIn => self.address_type(p.src(), p.in_dev),
            Field::DstTypeIn => self.address_type(p.dst(), p.in_dev),
            Field::SrcTypeOut => self.address_type(p.src(), p.out_dev),
            Field::DstTypeOut => self.address_type(p.dst(), p.out_dev),
            Field::CtStatus
            | Field::CtDir
            | Field::CtMark
            | Field::CtProto
            | Field::CtOrigSrc
            | Field::CtOrigDst
            | Field::CtReplSrc
            | Field::CtReplDst
            | Field::CtOrigSport
            | Field::CtOrigDport
            | Field::CtReplSport
            | Field::CtReplDport
            | Field::CtExpire => self.connection(field),
        }
    }

    fn step(&mut self, id: StepId) -> bool {
        let input = StepInput {
            now: self.now,
            random: self.random.next(),
            len: self.packet.layout.len,
        };
        self.steps
            .get_mut(id.0 as usize)
            .is_some_and(|s| s.call(&input))
    }
}

impl View<'_> {
    fn address_type(&self, addr: u128, dev: Option<IfIndex>) -> Option<u128> {
        Some(self.env.address_type(self.packet.family(), addr, dev) as u128)
    }

    fn connection(&self, field: Field) -> Option<u128> {
        let attached = self.packet.tracking.connection()?;
        if field == Field::CtDir {
            return Some(u128::from(attached.dir == Dir::Reply));
        }
        entry_field(self.conntrack.entry(attached.id)?, field, self.now)
    }
}

fn entry_field(entry: &Entry, field: Field, now: Time) -> Option<u128> {
    let orig = entry.tuple(Dir::Original);
    let reply = entry.tuple(Dir::Reply);
    Some(match field {
        Field::CtStatus => u128::from(entry.status.0),
        Field::CtMark => u128::from(entry.mark),
        Field::CtProto => u128::from(orig.proto),
        Field::CtOrigSrc => orig.src,
        Field::CtOrigDst => orig.dst,
        Field::CtReplSrc => reply.src,
        Field::CtReplDst => reply.dst,
        Field::CtOrigSport => u128::from(orig.src_id),
        Field::CtOrigDport => u128::from(orig.dst_id),
        Field::CtReplSport => u128::from(reply.src_id),
        Field::CtReplDport => u128::from(reply.dst_id),
        // An unconfirmed entry's timeout is no point in time yet.
        Field::CtExpire if !entry.confirmed() => 0,
        Field::CtExpire => u128::from(entry.remaining(now)),
        _ => return None,
    })
}

/// The state a packet is in (`XT_STATE_BIT`, `XT_STATE_INVALID`, `XT_STATE_UNTRACKED`).
pub(crate) fn state(tracking: &Tracking) -> u128 {
    match tracking {
        Tracking::None | Tracking::Template(_) | Tracking::Invalid(_) => ctstate::INVALID,
        Tracking::Untracked => ctstate::UNTRACKED,
        Tracking::Connection(a) => match a.info {
            CtInfo::Established | CtInfo::EstablishedReply => ctstate::ESTABLISHED,
            CtInfo::Related | CtInfo::RelatedReply => ctstate::RELATED,
            CtInfo::New => ctstate::NEW,
        },
    }
}

fn transport(p: &Packet, field: Field) -> Option<u128> {
    if p.layout.frag_off != 0 {
        return None;
    }
    let l4 = p.l4();
    match field {
        Field::L4Len => Some(l4.len() as u128),
        Field::Sport => be16(l4, 0).map(u128::from),
        Field::Dport => be16(l4, 2).map(u128::from),
        Field::TcpFlags => l4.get(13).map(|&b| u128::from(b)),
        Field::TcpOption(kind) => tcp_option(l4, kind),
        Field::IcmpTypeCode => match p.layout.proto {
            proto::ICMP | proto::ICMPV6 => be16(l4, 0).map(u128::from),
            _ => None,
        },
        _ => None,
    }
}

/// Whether the option is there (`tcp_find_option`); bytes that are no valid option list
/// do not stop the search. Absent when the data offset is impossible.
fn tcp_option(l4: &[u8], kind: u8) -> Option<u128> {
    let header = usize::from(l4.get(12)? >> 4) * 4;
    let options = l4.get(20..header)?;
    let mut at = 0;
    while at < options.len() {
        if options[at] == kind {
            return Some(1);
        }
        at += match options[at] {
            tcp::option::EOL | tcp::option::NOP => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(1)).max(1),
        };
    }
    Some(0)
}

/// Whether `family` packets can carry ICMP errors of their own protocol.
pub(crate) fn icmp_of(family: Family) -> u8 {
    match family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    }
}
