//! This host's sockets as rules ask for them: who sent a packet, who waits for one.
//!
//! Whoever runs the engine says whose a packet is ([`crate::Engine::send_as`]), or gives it
//! [`Sockets`], which are asked only about packets that a rule wants to know it of.

use std::cell::OnceCell;
use std::sync::Arc;

use tidegate_conntrack::{Attached, Conntrack, CtInfo, Dir};
use tidegate_ir::Socket;
use tidegate_wire::{Family, be16, parse_embedded, proto};

use crate::env::IfIndex;
use crate::packet::Packet;

/// The ends of what a socket sends or receives, as this host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketEnds {
    /// Family.
    pub family: Family,
    /// Transport protocol.
    pub proto: u8,
    /// This host's address and port; of ICMP the bytes behind the checksum, which are an
    /// echo's identifier; else 0.
    pub local: (u128, u16),
    /// The peer's.
    pub remote: (u128, u16),
    /// Interface that the packet came in by.
    pub dev: Option<IfIndex>,
}

/// Who knows the sockets.
pub trait Sockets: std::fmt::Debug + Send {
    /// The socket that sent a packet.
    fn sender(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>>;

    /// The socket that a received TCP or UDP packet would be given to (`inet_lookup`,
    /// `udp4_lib_lookup`).
    fn receiver(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>>;
}

/// What is known of one packet's sockets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whose {
    /// Of a packet that a socket sent: the ends, before anything was translated.
    sent: Option<SocketEnds>,
    sender: OnceCell<Option<Arc<Socket>>>,
    /// A rule has given it to a socket.
    given: bool,
    /// Where that one waits, if it is not connected with the packet's sender.
    at: Option<(u128, u16)>,
    receiver: OnceCell<Option<Arc<Socket>>>,
}

impl Whose {
    /// Of a packet that a socket of this host sends.
    pub(crate) fn sent(packet: &Packet) -> Self {
        let (src, dst) = ports(
            packet.layout.proto,
            packet.l4(),
            packet.layout.frag_off == 0,
        );
        let local = (packet.src(), src);
        let remote = (packet.dst(), dst);
        Whose {
            sent: Some(ends(packet, local, remote)),
            ..Whose::default()
        }
    }

    /// Of a packet whose sender is known.
    pub(crate) fn of(sender: Option<Arc<Socket>>) -> Self {
        Whose {
            sender: OnceCell::from(sender),
            ..Whose::default()
        }
    }

    /// Of a packet that a rule hands to a socket (`nf_tproxy_assign_sock`).
    pub(crate) fn given_to(socket: Arc<Socket>, at: (u128, u16)) -> Self {
        Whose {
            at: (!socket.connected).then_some(at),
            receiver: OnceCell::from(Some(socket)),
            given: true,
            ..Whose::default()
        }
    }

    /// Whether a rule has handed the packet to a socket.
    pub(crate) const fn is_given(&self) -> bool {
        self.given
    }

    /// Where the socket without a peer waits that a rule has handed the packet to.
    pub(crate) const fn given(&self) -> Option<(u128, u16)> {
        self.at
    }

    /// The socket that goes with the packet (`skb->sk`): its sender's or, on the way to the
    /// sockets, the one connected with its sender (`tcp_v4_early_demux`).
    pub(crate) fn socket(
        &self,
        packet: &Packet,
        known: &mut Option<Box<dyn Sockets>>,
        conntrack: &Conntrack,
    ) -> Option<&Socket> {
        match (packet.in_dev, packet.out_dev) {
            (None, _) => {
                let ask = || known.as_mut()?.sender(self.sent.as_ref()?);
                self.sender.get_or_init(ask).as_deref()
            }
            (Some(_), None) => {
                let found = self.receiver(packet, known, conntrack);
                found.filter(|s| s.connected || self.is_given())
            }
            (Some(_), Some(_)) => None,
        }
    }

    /// The socket that waits for the packet (`nf_sk_lookup_slow_v4`, `nf_sk_lookup_slow_v6`).
    pub(crate) fn receiver(
        &self,
        packet: &Packet,
        known: &mut Option<Box<dyn Sockets>>,
        conntrack: &Conntrack,
    ) -> Option<&Socket> {
        let ask = || {
            let ends = received(packet, conntrack)?;
            known.as_mut()?.receiver(&ends)
        };
        self.receiver.get_or_init(ask).as_deref()
    }
}

/// The transparent socket that is connected with the packet's sender, else the one that
/// listens at `redirected`, whose port is the packet's when it is 0; and where that is.
pub(crate) fn transparent(
    packet: &Packet,
    redirected: (u128, u16),
    known: &mut Option<Box<dyn Sockets>>,
) -> Option<(Arc<Socket>, (u128, u16))> {
    /// All of a UDP header, which is what is looked for.
    const LEAST: usize = 8;
    let l4 = packet.l4();
    if l4.len() < LEAST || (packet.layout.proto == proto::TCP && l4.len() < 20) {
        return None;
    }
    let (sport, dport) = (be16(l4, 0)?, be16(l4, 2)?);
    let remote = (packet.src(), sport);
    let known = known.as_mut()?;
    let mut ask = |local| known.receiver(&ends(packet, local, remote));
    let connected = ask((packet.dst(), dport)).filter(|s| s.connected && !s.wildcard);
    let at = match redirected {
        (addr, 0) => (addr, dport),
        at => at,
    };
    let found = connected.or_else(|| ask(at).filter(|s| !s.connected));
    found.filter(|s| s.transparent).map(|s| (s, at))
}

fn ends(packet: &Packet, local: (u128, u16), remote: (u128, u16)) -> SocketEnds {
    SocketEnds {
        family: packet.family(),
        proto: packet.layout.proto,
        local,
        remote,
        dev: packet.in_dev,
    }
}

/// What a socket is found by beside addresses: sender's and receiver's port.
fn ports(protocol: u8, l4: &[u8], whole: bool) -> (u16, u16) {
    let at = |off| be16(l4, off).unwrap_or(0);
    match protocol {
        _ if !whole => (0, 0),
        proto::TCP | proto::UDP => (at(0), at(2)),
        proto::ICMP | proto::ICMPV6 => (at(4), 0),
        _ => (0, 0),
    }
}

/// The ends by which the receiver of a packet is looked for: those of the packet that an
/// ICMP error is about, and those before this host's source translation of the way there.
fn received(packet: &Packet, conntrack: &Conntrack) -> Option<SocketEnds> {
    let family = packet.family();
    let l4 = packet.l4();
    let mut found = match packet.layout.proto {
        proto::TCP | proto::UDP if packet.layout.frag_off == 0 => {
            let (sport, dport) = (be16(l4, 0)?, be16(l4, 2)?);
            ends(packet, (packet.dst(), dport), (packet.src(), sport))
        }
        protocol if is_error(family, protocol, l4) => {
            let about = l4.get(8..)?;
            let layout = parse_embedded(family, about)?;
            if !matches!(layout.proto, proto::TCP | proto::UDP) {
                return None;
            }
            let inner = layout.l4(about);
            let local = (layout.src(about), be16(inner, 0)?);
            let remote = (layout.dst(about), be16(inner, 2)?);
            SocketEnds {
                proto: layout.proto,
                ..ends(packet, local, remote)
            }
        }
        _ => return None,
    };
    if family == Family::V4
        && let Some(attached) = packet.tracking.connection()
        && let Some(before) = before_translation(attached, packet, conntrack)
    {
        found.local = before;
    }
    Some(found)
}

/// Whether the bytes are an ICMP error (`extract_icmp4_fields`, `extract_icmp6_fields`).
fn is_error(family: Family, protocol: u8, l4: &[u8]) -> bool {
    let Some(&kind) = l4.first() else {
        return false;
    };
    match (family, protocol) {
        (Family::V4, proto::ICMP) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (Family::V6, proto::ICMPV6) => kind < 128,
        _ => false,
    }
}

fn before_translation(
    attached: &Attached,
    packet: &Packet,
    conntrack: &Conntrack,
) -> Option<(u128, u16)> {
    let back = match packet.layout.proto {
        proto::ICMP => CtInfo::RelatedReply,
        _ => CtInfo::EstablishedReply,
    };
    let entry = conntrack.entry(attached.id)?;
    let translated = entry.status.0 & tidegate_ir::ctstatus::SRC_NAT != 0;
    let original = entry.tuple(Dir::Original);
    (attached.info == back && translated).then_some((original.src, original.src_id))
}

/// Sockets that somebody has written down.
#[derive(Clone, Debug, Default)]
pub struct SocketList(Vec<Listed>);

/// One of them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Family; `None` for both (an IPv6 socket that takes IPv4 too).
    pub family: Option<Family>,
    /// Transport protocol.
    pub proto: u8,
    /// Own address, unless bound to none, and port, unless any will do.
    pub local: (Option<u128>, Option<u16>),
    /// Its peer, if it is connected.
    pub remote: Option<(u128, u16)>,
    /// What rules ask for.
    pub socket: Arc<Socket>,
}

impl Listed {
    /// How well the socket fits: the more is bound, the better.
    fn score(&self, ends: &SocketEnds) -> Option<u8> {
        let family = self.family.is_none_or(|f| f == ends.family);
        let address = self.local.0.is_none_or(|a| a == ends.local.0);
        let port = self.local.1.is_none_or(|p| p == ends.local.1);
        let peer = self.remote.is_none_or(|r| r == ends.remote);
        let fits = family && self.proto == ends.proto && address && port && peer;
        fits.then_some(
            u8::from(self.remote.is_some()) * 8
                + u8::from(self.local.0.is_some()) * 4
                + u8::from(self.local.1.is_some()) * 2
                + u8::from(self.family.is_some()),
        )
    }
}

impl SocketList {
    /// A list of sockets.
    #[must_use]
    pub fn new(sockets: Vec<Listed>) -> Self {
        SocketList(sockets)
    }

    fn best(&self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        let scored = self.0.iter().filter_map(|s| Some((s.score(ends)?, s)));
        let best = scored.rev().max_by_key(|(score, _)| *score)?;
        Some(Arc::clone(&best.1.socket))
    }
}

impl Sockets for SocketList {
    fn sender(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        self.best(ends)
    }

    fn receiver(&mut self, ends: &SocketEnds) -> Option<Arc<Socket>> {
        self.best(ends)
    }
}
