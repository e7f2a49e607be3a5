//! Field values of a packet at a hook: what conditions are evaluated against.

use tidegate_conntrack::{Conntrack, CtInfo, Dir, Entry, EntryId, Time};
use tidegate_ir::{
    Expr, Facts, Field, ReversePath, Shared, Socket, Step, StepId, StepInput, Truth, ctstate,
    pkttype, socket,
};
use tidegate_wire::{Family, Layout, be16, proto, tcp};

use crate::engine::Outside;
use crate::env::{Env, IfIndex, RouteType, Routed, is_link_local6, is_multicast};
use crate::headers6;
use crate::packet::{Packet, Tracking};
use crate::random::Random;
use crate::usual::Usual;

/// A packet and its surroundings while rules look at it.
pub(crate) struct View<'a> {
    pub(crate) packet: &'a Packet,
    /// What has been read of it.
    pub(crate) usual: &'a mut Usual,
    pub(crate) conntrack: &'a mut Conntrack,
    pub(crate) env: &'a Env,
    pub(crate) steps: &'a mut [Box<dyn Step>],
    pub(crate) shared: &'a mut Shared,
    pub(crate) random: &'a mut Random,
    pub(crate) outside: &'a mut Outside,
    pub(crate) now: Time,
    /// Rules that only rehearse leave connections as they are.
    pub(crate) rehearsed: bool,
}

impl Facts for View<'_> {
    #[inline]
    fn load(&mut self, field: Field) -> Option<u128> {
        match self.usual.load(field, self.packet) {
            Some(value) => value,
            None => self.load_other(field),
        }
    }

    fn step(&mut self, id: StepId) -> Truth {
        self.run_step(id, &mut Vec::new())
    }

    fn packet(&self) -> &[u8] {
        &self.packet.bytes
    }

    fn is_own(&self) -> bool {
        self.packet.in_dev.is_none()
    }

    fn sender(&mut self) -> Option<&Socket> {
        let whose = self.packet.whose.as_deref()?;
        whose.socket(self.packet, &mut self.outside.sockets, self.conntrack)
    }

    fn receiver(&mut self) -> Option<&Socket> {
        let whose = self.packet.whose.as_deref()?;
        whose.receiver(self.packet, &mut self.outside.sockets, self.conntrack)
    }

    fn say(&mut self, line: String) {
        if !self.rehearsed {
            self.outside.said.push(line);
        }
    }

    fn connection(&mut self) -> Option<u64> {
        Some(self.packet.tracking.connection()?.id.to_bits())
    }

    fn is_open(&mut self, connection: u64) -> bool {
        let id = EntryId::from_bits(connection);
        id.and_then(|id| self.conntrack.entry(id))
            .is_some_and(|e| e.confirmed() && !e.expired(self.now) && !e.is_closed())
    }

    fn set_label(&mut self, label: u8) -> bool {
        let Some(attached) = self.packet.tracking.connection() else {
            return false;
        };
        if !self.rehearsed {
            let bit = 1u128.checked_shl(label.into()).unwrap_or(0);
            self.conntrack.set_labels(attached.id, bit, bit);
        }
        true
    }
}

/// To whom the link layer sent the packet: what this host sends is its own until it
/// leaves, and a link without addresses has but one receiver.
fn packet_type(p: &Packet) -> u128 {
    match p.link.bytes().first() {
        Some(first) if first & 1 != 0 => {
            let everybody = p.link.bytes().iter().take(6).all(|&b| b == 0xff);
            if everybody {
                pkttype::BROADCAST
            } else {
                pkttype::MULTICAST
            }
        }
        _ if !p.to_host => pkttype::OTHERHOST,
        _ => pkttype::HOST,
    }
}

impl View<'_> {
    /// A field that few rules ask for.
    #[inline(never)]
    fn load_other(&mut self, field: Field) -> Option<u128> {
        let p = self.packet;
        match field {
            // Those of `Usual`.
            Field::Src
            | Field::Dst
            | Field::Proto
            | Field::FragOff
            | Field::InName
            | Field::OutName
            | Field::Mark
            | Field::CtState
            | Field::L4Len
            | Field::Sport
            | Field::Dport
            | Field::TcpFlags => None,
            Field::Tos => Some(u128::from(p.tos())),
            Field::Ttl => Some(u128::from(p.ttl())),
            Field::Length => Some(u128::from(p.layout.len)),
            Field::InGroup => self.group(p.in_dev),
            Field::OutGroup => self.group(p.out_dev),
            Field::Realm => Some(u128::from(p.realm)),
            Field::Cpu => Some(u128::from(self.outside.cpu)),
            Field::Socket | Field::SocketUid | Field::SocketGid | Field::SocketClass => {
                self.of_socket(field)
            }
            Field::Priority => Some(u128::from(p.priority)),
            Field::TcpOption(_) | Field::TcpMss | Field::L4 { .. } | Field::IcmpTypeCode => {
                transport(&p.bytes, &p.layout, field)
            }
            Field::Ext { header, at, len } => headers6::bytes(&p.bytes, header, at, len),
            Field::HasExt(header) => Some(headers6::has(&p.bytes, header)),
            Field::ExtHeaders => headers6::kinds(&p.bytes),
            Field::PktType => Some(packet_type(p)),
            Field::SrcMac => p.link.source().and_then(|mac| number(&mac)),
            Field::ReversePath(how) => Some(u128::from(self.way_back(how))),
            Field::HasCt => Some(u128::from(p.tracking.connection().is_some())),
            Field::SrcType => self.address_type(p.src(), None),
            Field::DstType => self.address_type(p.dst(), None),
            Field::SrcTypeIn => self.address_type(p.src(), p.in_dev),
            Field::DstTypeIn => self.address_type(p.dst(), p.in_dev),
            Field::SrcTypeOut => self.address_type(p.src(), p.out_dev),
            Field::DstTypeOut => self.address_type(p.dst(), p.out_dev),
            Field::CtStatus
            | Field::CtDir
            | Field::CtMark
            | Field::CtLabels
            | Field::CtProto
            | Field::CtOrigSrc
            | Field::CtOrigDst
            | Field::CtReplSrc
            | Field::CtReplDst
            | Field::CtOrigSport
            | Field::CtOrigDport
            | Field::CtReplSport
            | Field::CtReplDport
            | Field::CtExpire
            | Field::CtOrigPackets
            | Field::CtOrigBytes
            | Field::CtReplPackets
            | Field::CtReplBytes
            | Field::CtMasterSrc
            | Field::CtMasterHelper => self.of_connection(field),
        }
    }

    /// Runs a step, which leaves what it wants written in `writes`.
    pub(crate) fn run_step(&mut self, id: StepId, writes: &mut Vec<(Field, Expr)>) -> Truth {
        // The steps are out of the view's hands while one of them looks at the packet.
        let steps = std::mem::take(&mut self.steps);
        let mut shared = std::mem::take(self.shared);
        let truth = steps.get_mut(id.0 as usize).map_or(Truth::False, |step| {
            step.call(&mut StepInput {
                now: self.now,
                random: self.random.next(),
                len: self.packet.layout.len,
                facts: &mut *self,
                shared: &mut shared,
                writes,
            })
        });
        self.steps = steps;
        *self.shared = shared;
        truth
    }

    fn group(&self, dev: Option<IfIndex>) -> Option<u128> {
        Some(u128::from(self.env.interface(dev?)?.group))
    }

    fn of_socket(&mut self, field: Field) -> Option<u128> {
        let sender = self.sender();
        let number = match (field, sender) {
            (Field::Socket, None) => socket::NONE,
            (Field::Socket, Some(s)) if s.owner.is_none() => socket::KERNEL,
            (Field::Socket, Some(_)) => socket::PROGRAM,
            (Field::SocketUid, Some(s)) => s.owner.as_ref()?.uid.into(),
            (Field::SocketGid, Some(s)) => s.owner.as_ref()?.gid.into(),
            (_, Some(s)) => s.class.into(),
            (_, None) => return None,
        };
        Some(number)
    }

    fn address_type(&self, addr: u128, dev: Option<IfIndex>) -> Option<u128> {
        Some(self.env.address_type(self.packet.family(), addr, dev) as u128)
    }

    fn of_connection(&self, field: Field) -> Option<u128> {
        let attached = self.packet.tracking.connection()?;
        if field == Field::CtDir {
            return Some(u128::from(attached.dir == Dir::Reply));
        }
        let entry = self.conntrack.entry(attached.id)?;
        match field {
            Field::CtMasterSrc => Some(match entry.master() {
                Some(master) => master.tuple.src,
                None => entry.tuple(Dir::Original).src,
            }),
            Field::CtMasterHelper => {
                let master = entry.master()?;
                let helper = match self.conntrack.entry(master.id) {
                    Some(living) => living.helper,
                    None => master.helper,
                };
                Some(name_number(helper?.name()))
            }
            _ => entry_field(entry, field, self.now),
        }
    }

    /// The reverse path test of the packet (`rpfilter_mt`).
    fn way_back(&self, how: ReversePath) -> bool {
        let (p, env) = (self.packet, self.env);
        if p.in_dev == Some(env.loopback()) {
            return true;
        }
        match p.family() {
            Family::V4 => self.way_back4(how),
            Family::V6 => self.way_back6(how),
        }
    }

    fn way_back4(&self, how: ReversePath) -> bool {
        let (p, env) = (self.packet, self.env);
        let (src, dst) = (p.src(), p.dst());
        let everybody = dst == 0xffff_ffff || dst >> 8 == 0xe0_0000;
        if src == 0 && everybody {
            return true;
        }
        // Broadcasts and groups are no source to answer from.
        let one = dst != 0 && dst != 0xffff_ffff && !is_multicast(Family::V4, dst);
        let own = if one { dst } else { 0 };
        self.leads_back(env.route(Family::V4, src, own, self.mark(how)), how)
    }

    fn way_back6(&self, how: ReversePath) -> bool {
        let (p, env) = (self.packet, self.env);
        let src = p.src();
        if src == 0 {
            return true;
        }
        if env.is_local(Family::V6, src) {
            return how.local;
        }
        // Such a source is on the link that the packet came from.
        is_link_local6(src)
            || self.leads_back(env.route(Family::V6, src, p.dst(), self.mark(how)), how)
    }

    fn mark(&self, how: ReversePath) -> u32 {
        if how.mark { self.packet.mark } else { 0 }
    }

    fn leads_back(&self, route: Option<Routed>, how: ReversePath) -> bool {
        let Some(route) = route else {
            return false;
        };
        match route.kind {
            RouteType::Unicast => {}
            RouteType::Local if how.local => {}
            _ => return false,
        }
        how.loose || route.dev == self.packet.in_dev
    }
}

/// A name as the number conditions compare: its first 16 bytes, NUL padded.
fn name_number(name: &str) -> u128 {
    let mut bytes = [0u8; 16];
    bytes
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, b)| *to = b);
    u128::from_be_bytes(bytes)
}

/// A field of a connection.
pub(crate) fn entry_field(entry: &Entry, field: Field, now: Time) -> Option<u128> {
    let orig = entry.tuple(Dir::Original);
    let reply = entry.tuple(Dir::Reply);
    let counted = |dir: Dir| entry.counters.as_ref().map(|c| c[dir.ix()]);
    Some(match field {
        Field::CtOrigPackets => u128::from(counted(Dir::Original)?.packets),
        Field::CtOrigBytes => u128::from(counted(Dir::Original)?.bytes),
        Field::CtReplPackets => u128::from(counted(Dir::Reply)?.packets),
        Field::CtReplBytes => u128::from(counted(Dir::Reply)?.bytes),
        Field::CtStatus => u128::from(entry.status.0),
        Field::CtMark => u128::from(entry.mark),
        Field::CtLabels => entry.labels(),
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
#[inline]
pub(crate) fn state(tracking: &Tracking) -> u128 {
    // Small numbers: of these the compiler makes a list, where it would jump otherwise.
    const fn small(state: u128) -> u8 {
        state as u8
    }
    let state = match tracking {
        Tracking::None | Tracking::Template(_) | Tracking::Invalid(_) => small(ctstate::INVALID),
        Tracking::Untracked => small(ctstate::UNTRACKED),
        Tracking::Connection(a) => match a.info {
            CtInfo::Established | CtInfo::EstablishedReply => small(ctstate::ESTABLISHED),
            CtInfo::Related | CtInfo::RelatedReply => small(ctstate::RELATED),
            CtInfo::New => small(ctstate::NEW),
        },
    };
    u128::from(state)
}

/// A field of a packet's transport header.
#[inline]
pub(crate) fn transport(bytes: &[u8], layout: &Layout, field: Field) -> Option<u128> {
    if layout.frag_off != 0 {
        return None;
    }
    let l4 = layout.l4(bytes);
    match field {
        Field::L4Len => Some(l4.len() as u128),
        Field::Sport => be16(l4, 0).map(u128::from),
        Field::Dport => be16(l4, 2).map(u128::from),
        Field::TcpFlags => l4.get(13).map(|&b| u128::from(b)),
        Field::TcpOption(kind) => tcp_option(l4, kind),
        Field::TcpMss => tcp_mss(l4),
        Field::L4 { at, len } => number(l4.get(at.into()..usize::from(at) + usize::from(len))?),
        Field::IcmpTypeCode => match layout.proto {
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

/// The MSS that a TCP header's options announce (`tcpmss_mt`).
fn tcp_mss(l4: &[u8]) -> Option<u128> {
    let header = usize::from(l4.get(12)? >> 4) * 4;
    let options = l4.get(20..header)?;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        if kind == tcp::option::MSS && options.get(at + 1) == Some(&4) {
            return be16(options, at + 2).map(u128::from);
        }
        at += match kind {
            tcp::option::EOL | tcp::option::NOP => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(1)).max(1),
        };
    }
    None
}

/// Bytes as one big-endian number, of which there are at most 16.
pub(crate) fn number(bytes: &[u8]) -> Option<u128> {
    (bytes.len() <= 16).then(|| bytes.iter().fold(0, |n, &b| n << 8 | u128::from(b)))
}

/// Whether `family` packets can carry ICMP errors of their own protocol.
pub(crate) fn icmp_of(family: Family) -> u8 {
    match family {
        Family::V4 => proto::ICMP,
        Family::V6 => proto::ICMPV6,
    }
}
