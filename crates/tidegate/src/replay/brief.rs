//! A packet in a few words.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use tidegate_wire::{Family, Layout, be16, proto, tcp};

use tidegate_host::address;

/// Addresses and what the transport header says, for one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    /// Sender.
    pub(crate) src: IpAddr,
    /// Receiver.
    pub(crate) dst: IpAddr,
    /// Transport protocol number.
    pub(crate) proto: u8,
    /// Transport details.
    pub(crate) detail: Detail,
    /// Bytes of the network packet.
    pub(crate) len: u32,
    /// Part of a larger packet: offset in bytes and whether more follows.
    pub(crate) fragment: Option<(u32, bool)>,
}

/// What a transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// TCP ports and flags.
    Tcp(u16, u16, u8),
    /// Ports of UDP, UDPlite, SCTP, DCCP.
    Ports(u16, u16),
    /// ICMP type and code.
    Icmp(u8, u8),
    /// Nothing to tell.
    None,
}

impl Brief {
    /// Describes `packet`.
    pub(crate) fn new(packet: &[u8], layout: &Layout) -> Self {
        let l4 = if layout.has_l4() {
            layout.l4(packet)
        } else {
            &[]
        };
        Brief {
            src: address(layout.family, layout.src(packet)),
            dst: address(layout.family, layout.dst(packet)),
            proto: layout.proto,
            detail: Detail::new(layout.proto, l4),
            len: layout.len,
            fragment: layout
                .is_fragment()
                .then_some((u32::from(layout.frag_off) * 8, layout.more_frags)),
        }
    }

    /// Source and destination port, where there are any.
    pub(crate) const fn ports(&self) -> Option<(u16, u16)> {
        match self.detail {
            Detail::Tcp(s, d, _) | Detail::Ports(s, d) => Some((s, d)),
            Detail::Icmp(..) | Detail::None => None,
        }
    }
}

impl Detail {
    fn new(number: u8, l4: &[u8]) -> Self {
        let ports = || Some((be16(l4, 0)?, be16(l4, 2)?));
        let found = match number {
            proto::TCP => ports().and_then(|(s, d)| Some(Detail::Tcp(s, d, *l4.get(13)?))),
            proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP => {
                ports().map(|(s, d)| Detail::Ports(s, d))
            }
            proto::ICMP | proto::ICMPV6 => l4.first_chunk().map(|&[t, c]| Detail::Icmp(t, c)),
            _ => None,
        };
        found.unwrap_or(Detail::None)
    }
}

/// Name of a protocol, or its number.
pub(crate) struct ProtoName(pub(crate) u8);

impl fmt::Display for ProtoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            proto::ICMP => "icmp",
            2 => "igmp",
            4 => "ipip",
            proto::TCP => "tcp",
            proto::UDP => "udp",
            proto::DCCP => "dccp",
            41 => "ipv6",
            proto::GRE => "gre",
            proto::ESP => "esp",
            proto::AH => "ah",
            proto::ICMPV6 => "icmpv6",
            proto::SCTP => "sctp",
            proto::UDPLITE => "udplite",
            other => return write!(f, "proto-{other}"),
        };
        f.write_str(name)
    }
}

const FLAG_NAMES: [(u8, &str); 8] = [
    (tcp::flags::SYN, "SYN"),
    (tcp::flags::FIN, "FIN"),
    (tcp::flags::RST, "RST"),
    (tcp::flags::PSH, "PSH"),
    (tcp::flags::ACK, "ACK"),
    (tcp::flags::URG, "URG"),
    (tcp::flags::ECE, "ECE"),
    (tcp::flags::CWR, "CWR"),
];

/// TCP flags by name.
pub(crate) struct Flags(pub(crate) u8);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (bit, name) in FLAG_NAMES {
            if self.0 & bit != 0 {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        if separator.is_empty() {
            f.write_str("NONE")?;
        }
        Ok(())
    }
}

/// An ICMP type and code, by name where it is one everybody knows.
pub(crate) struct IcmpName(pub(crate) Family, pub(crate) u8, pub(crate) u8);

impl fmt::Display for IcmpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match (self.0, self.1) {
            (Family::V4, 8) | (Family::V6, 128) => "echo-request",
            (Family::V4, 0) | (Family::V6, 129) => "echo-reply",
            (Family::V4, 3) | (Family::V6, 1) => "unreachable",
            (Family::V4, 11) | (Family::V6, 3) => "time-exceeded",
            (Family::V4, 5) | (Family::V6, 137) => "redirect",
            (Family::V6, 2) => "packet-too-big",
            (Family::V6, 133) => "router-solicitation",
            (Family::V6, 134) => "router-advertisement",
            (Family::V6, 135) => "neighbour-solicitation",
            (Family::V6, 136) => "neighbour-advertisement",
            _ => "type",
        };
        write!(f, "{name} {}/{}", self.1, self.2)
    }
}

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports() {
            Some((sport, dport)) => {
                let (src, dst) = (
                    SocketAddr::new(self.src, sport),
                    SocketAddr::new(self.dst, dport),
                );
                write!(f, "{src} > {dst}")?;
            }
            None => write!(f, "{} > {}", self.src, self.dst)?,
        }
        write!(f, " {}", ProtoName(self.proto))?;
        match self.detail {
            Detail::Tcp(_, _, flags) => write!(f, " {}", Flags(flags))?,
            Detail::Icmp(kind, code) => {
                let family = match self.src {
                    IpAddr::V4(_) => Family::V4,
                    IpAddr::V6(_) => Family::V6,
                };
                write!(f, " {}", IcmpName(family, kind, code))?;
            }
            Detail::Ports(..) | Detail::None => {}
        }
        write!(f, " {}", self.len)?;
        if let Some((offset, more)) = self.fragment {
            write!(f, " frag {offset}{}", if more { "+" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_it_is() {
        let udp: [u8; 29] = [
            0x45, 0, 0, 0x1d, 0, 1, 0, 0, 0x40, 0x11, 0x65, 0xcc, 10, 0, 0, 2, 10, 0, 1, 2, 0x0f,
            0xa0, 0, 0x35, 0, 9, 0x6a, 0x03, 0x71,
        ];
        let layout = tidegate_wire::parse(&udp).unwrap();
        let brief = Brief::new(&udp, &layout);
        assert_eq!(brief.to_string(), "10.0.0.2:4000 > 10.0.1.2:53 udp 29");
        assert_eq!(Flags(0x12).to_string(), "SYN,ACK");
        assert_eq!(Flags(0).to_string(), "NONE");
        assert_eq!(
            IcmpName(Family::V6, 128, 0).to_string(),
            "echo-request 128/0"
        );
        assert_eq!(ProtoName(200).to_string(), "proto-200");
    }
}
