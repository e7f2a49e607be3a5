//! Link layers: finding the IP packet inside a frame.

use crate::reader::Direction;

/// Link types that carry IP (the registry of tcpdump.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// BSD loopback: address family in the byte order of the capturing host.
    Null,
    /// Ethernet.
    Ethernet,
    /// IPv4 or IPv6 without link header.
    Raw,
    /// OpenBSD loopback: address family in network order.
    Loop,
    /// Linux cooked capture, version 1.
    LinuxSll,
    /// Linux cooked capture, version 2.
    LinuxSll2,
    /// Any other number.
    Other(u16),
}

impl From<u16> for LinkType {
    fn from(number: u16) -> Self {
        match number {
            0 => LinkType::Null,
            1 => LinkType::Ethernet,
            // 12 and 14 are DLT_RAW as some systems wrote it; 228 and 229 name the version.
            12 | 14 | 101 | 228 | 229 => LinkType::Raw,
            108 => LinkType::Loop,
            113 => LinkType::LinuxSll,
            276 => LinkType::LinuxSll2,
            other => LinkType::Other(other),
        }
    }
}

impl LinkType {
    /// The number in the registry.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            LinkType::Null => 0,
            LinkType::Ethernet => 1,
            LinkType::Raw => 101,
            LinkType::Loop => 108,
            LinkType::LinuxSll => 113,
            LinkType::LinuxSll2 => 276,
            LinkType::Other(n) => n,
        }
    }
}

/// To whom the link layer addressed a packet (uapi `PACKET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// To the capturing host.
    Host,
    /// To all.
    Broadcast,
    /// To a group.
    Multicast,
    /// To another host.
    OtherHost,
    /// From the capturing host.
    Outgoing,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// An IP packet, possibly followed by padding or cut by the snap length.
    Ip(&'a [u8]),
    /// Another protocol, by Ethernet type (ARP is 0x0806; 802.3 frames count as 0).
    NotIp(u16),
    /// The capture kept less than the link-layer header.
    Short,
    /// The link type is not one of [`LinkType`]'s.
    UnknownLink,
}

/// A frame without its link layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkPacket<'a> {
    /// The packet.
    pub payload: Payload<'a>,
    /// Which way it went, if the link layer says.
    pub direction: Direction,
    /// Whom it was addressed to, if the link layer says.
    pub packet_type: Option<PacketType>,
    /// The outermost VLAN tag's number.
    pub vlan: Option<u16>,
    /// Sender's hardware address.
    pub mac_source: Option<[u8; 6]>,
    /// Receiver's hardware address.
    pub mac_destination: Option<[u8; 6]>,
    /// Number of the interface in the capturing host.
    pub ifindex: Option<u32>,
}

impl NetworkPacket<'_> {
    const NOTHING: Self = NetworkPacket {
        payload: Payload::Short,
        direction: Direction::Unknown,
        packet_type: None,
        vlan: None,
        mac_source: None,
        mac_destination: None,
        ifindex: None,
    };
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the number used before it.
const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// Below this an Ethernet type is the length of an 802.3 frame.
const FIRST_TYPE: u16 = 0x0600;

/// Takes the link layer off `frame`.
#[inline]
#[must_use]
pub fn network_packet(link: LinkType, frame: &[u8]) -> NetworkPacket<'_> {
    let found = match link {
        LinkType::Ethernet => ethernet(frame),
        LinkType::Raw => Some(NetworkPacket {
            payload: by_version(frame),
            ..NetworkPacket::NOTHING
        }),
        LinkType::Null | LinkType::Loop => loopback(link, frame),
        LinkType::LinuxSll => cooked1(frame),
        LinkType::LinuxSll2 => cooked2(frame),
        LinkType::Other(_) => Some(NetworkPacket {
            payload: Payload::UnknownLink,
            ..NetworkPacket::NOTHING
        }),
    };
    found.unwrap_or(NetworkPacket::NOTHING)
}

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let b = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*b))
}

#[inline]
fn mac(bytes: &[u8], at: usize) -> Option<[u8; 6]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[inline]
fn ethernet(frame: &[u8]) -> Option<NetworkPacket<'_>> {
    let destination = mac(frame, 0)?;
    let (payload, vlan) = typed(word(frame, 12)?, frame.get(14..)?);
    let packet_type = match destination {
        [0xff, 0xff, 0xff, 0xff, 0xff, 0xff] => Some(PacketType::Broadcast),
        [first, ..] if first & 1 != 0 => Some(PacketType::Multicast),
        _ => None,
    };
    Some(NetworkPacket {
        payload,
        packet_type,
        vlan,
        mac_source: mac(frame, 6),
        mac_destination: Some(destination),
        ..NetworkPacket::NOTHING
    })
}

/// Follows VLAN tags from an Ethernet type on; each tag moves forward by four bytes.
#[inline]
fn typed(mut kind: u16, mut rest: &[u8]) -> (Payload<'_>, Option<u16>) {
    let mut vlan = None;
    while VLAN.contains(&kind) {
        let (Some(tag), Some(next), Some(after)) = (word(rest, 0), word(rest, 2), rest.get(4..))
        else {
            return (Payload::Short, vlan);
        };
        vlan = vlan.or(Some(tag & 0x0fff));
        (kind, rest) = (next, after);
    }
    let payload = match kind {
        IPV4 | IPV6 => Payload::Ip(rest),
        0..FIRST_TYPE => Payload::NotIp(0),
        other => Payload::NotIp(other),
    };
    (payload, vlan)
}

fn by_version(bytes: &[u8]) -> Payload<'_> {
    match bytes.first().map(|b| b >> 4) {
        Some(4 | 6) => Payload::Ip(bytes),
        Some(_) => Payload::NotIp(0),
        None => Payload::Short,
    }
}

fn loopback(link: LinkType, frame: &[u8]) -> Option<NetworkPacket<'_>> {
    let field = *frame.first_chunk::<4>()?;
    let mut family = u32::from_be_bytes(field);
    if link == LinkType::Null && family > 0xffff {
        family = u32::from_le_bytes(field);
    }
    // AF_INET is 2 everywhere; AF_INET6 is 10 in Linux, 24, 28 or 30 in the BSDs.
    let payload = match family {
        2 | 10 | 24 | 28 | 30 => Payload::Ip(frame.get(4..)?),
        _ => Payload::NotIp(0),
    };
    Some(NetworkPacket {
        payload,
        ..NetworkPacket::NOTHING
    })
}

fn packet_type(number: u16) -> Option<PacketType> {
    Some(match number {
        0 => PacketType::Host,
        1 => PacketType::Broadcast,
        2 => PacketType::Multicast,
        3 => PacketType::OtherHost,
        4 => PacketType::Outgoing,
        _ => return None,
    })
}

fn cooked(
    kind: u16,
    packet_number: u16,
    address: (usize, Option<[u8; 6]>),
    rest: &[u8],
) -> NetworkPacket<'_> {
    let (payload, vlan) = typed(kind, rest);
    let packet_type = packet_type(packet_number);
    NetworkPacket {
        payload,
        direction: match packet_type {
            Some(PacketType::Outgoing) => Direction::Out,
            Some(
                PacketType::Host
                | PacketType::Broadcast
                | PacketType::Multicast
                | PacketType::OtherHost,
            ) => Direction::In,
            None => Direction::Unknown,
        },
        packet_type,
        vlan,
        mac_source: address.1.filter(|_| address.0 == 6),
        ..NetworkPacket::NOTHING
    }
}

fn cooked1(frame: &[u8]) -> Option<NetworkPacket<'_>> {
    let address = (usize::from(word(frame, 4)?), mac(frame, 6));
    let kind = word(frame, 14)?;
    Some(cooked(kind, word(frame, 0)?, address, frame.get(16..)?))
}

fn cooked2(frame: &[u8]) -> Option<NetworkPacket<'_>> {
    let ifindex = u32::from_be_bytes(*frame.get(4..)?.first_chunk()?);
    let address = (usize::from(*frame.get(11)?), mac(frame, 12));
    let number = u16::from(*frame.get(10)?);
    let mut packet = cooked(word(frame, 0)?, number, address, frame.get(20..)?);
    packet.ifindex = Some(ifindex);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP: [u8; 4] = [0x45, 0, 0, 20];

    fn frame(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn ethernet_with_and_without_tags() {
        let addresses = [2u8, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let plain = frame(&[&addresses, &[8, 0], &IP]);
        let p = network_packet(LinkType::Ethernet, &plain);
        assert_eq!(p.payload, Payload::Ip(&IP));
        assert_eq!(p.mac_source, Some([2, 0, 0, 0, 0, 2]));
        assert_eq!((p.vlan, p.packet_type), (None, None));

        // IEEE 802.1ad: service tag 100, then customer tag 7 (priority 5).
        let tags = [0x88, 0xa8, 0, 100, 0x81, 0, 0xa0, 7, 0x86, 0xdd];
        let tagged = frame(&[&addresses, &tags, &[0x60]]);
        let p = network_packet(LinkType::Ethernet, &tagged);
        assert_eq!((p.payload, p.vlan), (Payload::Ip(&[0x60]), Some(100)));

        for cut in 0..plain.len() - IP.len() {
            let p = network_packet(LinkType::Ethernet, &plain[..cut]);
            assert_eq!(p.payload, Payload::Short, "{cut}");
        }
        let p = network_packet(LinkType::Ethernet, &tagged[..16]);
        assert_eq!(p.payload, Payload::Short);
    }

    #[test]
    fn what_is_not_ip_is_named() {
        let arp = frame(&[&[0xff; 6], &[2; 6], &[8, 6, 0, 1]]);
        let p = network_packet(LinkType::Ethernet, &arp);
        assert_eq!(p.payload, Payload::NotIp(0x0806));
        assert_eq!(p.packet_type, Some(PacketType::Broadcast));
        let llc = frame(&[&[1, 0x80, 0xc2, 0, 0, 0], &[2; 6], &[0, 38, 0x42, 0x42]]);
        let p = network_packet(LinkType::Ethernet, &llc);
        assert_eq!(p.payload, Payload::NotIp(0));
        assert_eq!(p.packet_type, Some(PacketType::Multicast));
        let p = network_packet(LinkType::Other(147), &arp);
        assert_eq!(p.payload, Payload::UnknownLink);
    }

    // LINKTYPE_LINUX_SLL: packet type, ARPHRD, address length, address (8), protocol.
    #[test]
    fn cooked_version_1() {
        let header = [0, 4, 0, 1, 0, 6, 2, 0, 0, 0, 0, 9, 0, 0, 8, 0];
        let f = frame(&[&header, &IP]);
        let p = network_packet(LinkType::LinuxSll, &f);
        assert_eq!(p.payload, Payload::Ip(&IP));
        assert_eq!(p.direction, Direction::Out);
        assert_eq!(p.mac_source, Some([2, 0, 0, 0, 0, 9]));
    }

    // LINKTYPE_LINUX_SLL2: protocol, reserved, interface, ARPHRD, packet type,
    // address length, address (8).
    #[test]
    fn cooked_version_2() {
        let header = [
            0x86, 0xdd, 0, 0, 0, 0, 0, 3, 3, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let f = frame(&[&header, &[0x60, 1]]);
        let p = network_packet(LinkType::LinuxSll2, &f);
        assert_eq!(p.payload, Payload::Ip(&[0x60, 1]));
        assert_eq!((p.ifindex, p.direction), (Some(3), Direction::In));
        assert_eq!(p.packet_type, Some(PacketType::Broadcast));
        assert_eq!(p.mac_source, None);
    }

    #[test]
    fn loopback_in_either_byte_order() {
        for (link, family) in [
            (LinkType::Null, [2, 0, 0, 0]),
            (LinkType::Null, [0, 0, 0, 30]),
            (LinkType::Loop, [0, 0, 0, 24]),
        ] {
            let f = frame(&[&family, &IP]);
            assert_eq!(network_packet(link, &f).payload, Payload::Ip(&IP));
        }
        let f = frame(&[&[0, 0, 0, 7], &IP]);
        let p = network_packet(LinkType::Loop, &f);
        assert_eq!(p.payload, Payload::NotIp(0));
    }
}
