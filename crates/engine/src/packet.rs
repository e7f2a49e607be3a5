//! One packet on its way through the hooks.

use tidegate_conntrack::{Attached, InvalidReason, Template};
use tidegate_wire::{Family, Layout, Malformed, parse, proto};

use crate::env::IfIndex;
use crate::flow::Follow;
use crate::options4;
use crate::sockets::Whose;

/// What connection tracking has attached to a packet.
#[derive(Clone, Debug, Default)]
pub enum Tracking {
    /// Nothing yet: the packet has not met connection tracking.
    #[default]
    None,
    /// The raw table asked for properties of the connection to be made.
    Template(Template),
    /// Exempted.
    Untracked,
    /// Looked at and refused.
    Invalid(InvalidReason),
    /// Part of a connection.
    Connection(Attached),
}

impl Tracking {
    /// The connection, if there is one.
    #[must_use]
    pub fn connection(&self) -> Option<&Attached> {
        match self {
            Tracking::Connection(a) => Some(a),
            Tracking::None | Tracking::Template(_) | Tracking::Untracked | Tracking::Invalid(_) => {
                None
            }
        }
    }
}

/// The shape of the fragments a packet was put together from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fragments {
    /// Payload bytes of each fragment, in order.
    pub(crate) sizes: Vec<u16>,
    /// Network-layer bytes of the largest fragment.
    pub(crate) largest: u32,
    /// The largest one must not be cut (`IPSKB_FRAG_PMTU`).
    pub(crate) dont_frag: bool,
    /// They were put together for a local socket, so that nobody has said that they may be
    /// cut again (`skb->ignore_df`).
    pub(crate) delivered: bool,
}

/// An output interface and the next hop on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WayOut {
    pub(crate) dev: IfIndex,
    pub(crate) via: Option<u128>,
    /// To everybody on the link, or to a group.
    pub(crate) broadcast: bool,
}

/// A packet with everything the hooks know about it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) layout: Layout,
    pub(crate) mark: u32,
    /// Priority that a rule gave it; else 0.
    pub(crate) priority: u32,
    /// Label of a security module, by number; 0 for none.
    pub(crate) secmark: u32,
    /// Rules it meets are logged.
    pub(crate) traced: bool,
    /// A copy that TEE made.
    pub(crate) is_copy: bool,
    pub(crate) tracking: Tracking,
    pub(crate) in_dev: Option<IfIndex>,
    pub(crate) out_dev: Option<IfIndex>,
    /// Interface names as numbers, as conditions compare them.
    pub(crate) in_name: u128,
    pub(crate) out_name: u128,
    pub(crate) fragments: Option<Fragments>,
    /// IPv4: what the options ask for, once they have been read.
    pub(crate) options: options4::Options,
    /// Link-layer header of a received frame, for LOG.
    pub(crate) link: LinkHeader,
    /// Next hop of the route, when it is not the destination itself.
    pub(crate) next_hop: Option<u128>,
    /// Sent by this host to everybody on the link, or to a group it may be in itself.
    pub(crate) broadcast: bool,
    /// A new way out, decided while the packet was at OUTPUT.
    pub(crate) rerouted: Option<WayOut>,
    /// The connection belongs to the packet this one is about.
    pub(crate) borrows_connection: bool,
    /// Went out through loopback and is coming back in.
    pub(crate) looped: bool,
    /// The link layer delivered it to this host alone (`PACKET_HOST`).
    pub(crate) to_host: bool,
    /// How many generated packets led to this one.
    pub(crate) depth: u8,
    /// What an earlier packet of its flow met, where this one is to meet the same.
    pub(crate) follow: Option<Follow>,
    /// Leaves by the way the caller of [`crate::Engine::send_on`] named.
    pub(crate) as_sent: bool,
    /// As [`crate::Incoming::segment`].
    pub(crate) segment: Option<u16>,
    /// Realms of its route, where routes have any ([`tidegate_ir::Field::Realm`]).
    pub(crate) realm: u32,
    /// Whose it is, where rules ask for that; else there is no socket.
    pub(crate) whose: Option<Box<Whose>>,
}

/// The link-layer header of a received frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkHeader {
    bytes: [u8; 14],
    len: u8,
}

impl LinkHeader {
    /// Keeps the first 14 bytes of `header`.
    #[must_use]
    pub fn new(header: &[u8]) -> Self {
        let len = header.len().min(14);
        let mut bytes = [0; 14];
        bytes[..len].copy_from_slice(&header[..len]);
        LinkHeader {
            bytes,
            len: len as u8,
        }
    }

    /// The bytes, empty when there is no link header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The source address of an Ethernet header.
    pub(crate) fn source(&self) -> Option<[u8; 6]> {
        let whole = usize::from(self.len) == self.bytes.len();
        whole.then(|| self.bytes[6..12].try_into().ok()).flatten()
    }
}

impl Packet {
    /// Parses `bytes` and trims link-layer padding.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let layout = parse(&bytes)?;
        Ok(Packet::of(bytes, layout))
    }

    /// A packet that has been parsed.
    #[inline]
    pub(crate) fn of(mut bytes: Vec<u8>, layout: Layout) -> Self {
        bytes.truncate(layout.len as usize);
        Packet {
            bytes,
            layout,
            mark: 0,
            priority: 0,
            secmark: 0,
            traced: false,
            is_copy: false,
            tracking: Tracking::None,
            in_dev: None,
            out_dev: None,
            in_name: 0,
            out_name: 0,
            fragments: None,
            options: options4::Options::default(),
            link: LinkHeader::default(),
            next_hop: None,
            broadcast: false,
            rerouted: None,
            borrows_connection: false,
            looped: false,
            to_host: true,
            depth: 0,
            follow: None,
            as_sent: false,
            segment: None,
            realm: 0,
            whose: None,
        }
    }

    /// Length of the longest packet that comes of it when it is cut into its segments.
    pub(crate) fn longest(&self) -> u32 {
        match self.segment {
            Some(payload @ 1..) if self.layout.proto == proto::TCP => {
                let l4 = u32::from(self.layout.l4);
                let tcp = self.l4().get(12).map_or(0, |b| u32::from(b >> 4) * 4);
                self.layout.len.min(l4 + tcp + u32::from(payload))
            }
            _ => self.layout.len,
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.layout.family
    }

    pub(crate) fn src(&self) -> u128 {
        self.layout.src(&self.bytes)
    }

    pub(crate) fn dst(&self) -> u128 {
        self.layout.dst(&self.bytes)
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.layout.ttl(&self.bytes)
    }

    pub(crate) fn l4(&self) -> &[u8] {
        self.layout.l4(&self.bytes)
    }

    /// Takes other bytes for the packet; false when they are none of its family.
    pub(crate) fn replace(&mut self, mut bytes: Vec<u8>) -> bool {
        let layout = parse(&bytes).ok().filter(|l| l.family == self.family());
        let Some(layout) = layout else { return false };
        bytes.truncate(layout.len as usize);
        (self.bytes, self.layout) = (bytes, layout);
        true
    }

    /// Parses again after the packet's length changed.
    pub(crate) fn reparse(&mut self) {
        if let Ok(layout) = parse(&self.bytes) {
            self.layout = layout;
        }
    }

    /// IPv4 TOS or IPv6 traffic class.
    pub(crate) fn tos(&self) -> u8 {
        self.layout.tos(&self.bytes)
    }

    /// Writes the TOS byte or traffic class and repairs the IPv4 checksum.
    pub(crate) fn set_tos(&mut self, tos: u8) {
        match self.family() {
            Family::V4 => {
                let word = u16::from_be_bytes([self.bytes[0], tos]);
                tidegate_wire::checksum::replace_ipv4_word(&mut self.bytes, 0, word);
            }
            Family::V6 => {
                self.bytes[0] = 0x60 | tos >> 4;
                self.bytes[1] = (self.bytes[1] & 0x0f) | tos << 4;
            }
        }
    }

    /// Takes one from the TTL or hop limit, which is not 0, and repairs the IPv4 checksum.
    pub(crate) fn decrease_ttl(&mut self) {
        self.layout.decrease_ttl(&mut self.bytes);
    }

    /// Writes the TTL or hop limit and repairs the IPv4 checksum.
    pub(crate) fn set_ttl(&mut self, ttl: u8) {
        self.layout.set_ttl(&mut self.bytes, ttl);
    }
}

/// An interface name as the number conditions compare: its bytes, NUL padded to 16.
#[must_use]
pub fn interface_number(name: &str) -> u128 {
    let mut bytes = [0u8; 16];
    let len = name.len().min(15);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    u128::from_be_bytes(bytes)
}
