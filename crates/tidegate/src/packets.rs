//! Packets described in words, and their bytes.
//!
//! `tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn` is a TCP SYN received at `eth0`.
//! [`GRAMMAR`] is what people are told about the rest.

mod build;
mod parse;

use std::net::IpAddr;

use tidegate_engine::{Owner, Socket};
use tidegate_wire::{Family, proto, tcp};

pub(crate) use build::{Ends, Segment, bytes};

/// The language in brief, for helps and errors.
pub(crate) const GRAMMAR: &str = "\
A packet in words:
  tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn
  udp [2001:db8::7]:5353 > [2001:db8::1]:53 in eth0
  icmp 192.0.2.7 > 203.0.113.5 echo-request
  icmp 198.51.100.1 > 203.0.113.5 unreachable/4 about tcp 203.0.113.5:80 > 192.0.2.7:40000
Protocol: tcp, udp, udplite, sctp, dccp, icmp, icmp6, gre, esp, ah or a number. The sender's port
may be left out. Then, in any order: `in IFACE` (received), `out IFACE` (leaving; both: forwarded),
TCP flags (syn ack fin rst psh urg, or `none`), `seq N` and `acks N` (their numbers), an ICMP type by name or number with an optional
/CODE, `mark N`, `uid N`, `gid N` and `cgroup PATH` (whose socket sends it), `ttl N`, `tos N`, `bytes N` (payload), `after SECONDS` (since the packet before).";

/// A packet as somebody described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// Protocol number.
    pub(crate) proto: u8,
    /// Sender.
    pub(crate) src: IpAddr,
    /// Receiver.
    pub(crate) dst: IpAddr,
    /// Sender's port, or the identifier of an ICMP echo.
    pub(crate) sport: u16,
    /// Receiver's port.
    pub(crate) dport: u16,
    /// TCP flags; `None` where nothing was said about them.
    pub(crate) flags: Option<u8>,
    /// ICMP type and code.
    pub(crate) icmp: Option<(u8, u8)>,
    /// What an ICMP error is about.
    pub(crate) about: Option<Box<Described>>,
    /// Interface it is received at.
    pub(crate) input: Option<String>,
    /// Interface it leaves by.
    pub(crate) output: Option<String>,
    /// Packet mark, of packets that this host sends.
    pub(crate) mark: u32,
    /// User and group whose socket sends it, and its control group, where they are said.
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) cgroup: Option<String>,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// TOS byte or traffic class.
    pub(crate) tos: u8,
    /// Sequence and acknowledgement number, where something was said about them.
    pub(crate) seq: Option<u32>,
    pub(crate) ack: Option<u32>,
    /// Bytes of payload.
    pub(crate) payload: u16,
    /// Nanoseconds since the packet before.
    pub(crate) after: u64,
}

impl Described {
    /// A packet between two ends of which nothing else is known.
    pub(crate) const fn new(proto: u8, src: IpAddr, dst: IpAddr) -> Self {
        Described {
            proto,
            src,
            dst,
            sport: 0,
            dport: 0,
            flags: None,
            icmp: None,
            about: None,
            input: None,
            output: None,
            mark: 0,
            uid: None,
            gid: None,
            cgroup: None,
            ttl: 64,
            tos: 0,
            seq: None,
            ack: None,
            payload: 0,
            after: 1_000_000,
        }
    }

    /// The socket that sends it, where anything was said about that; root's where it was
    /// not said whose.
    pub(crate) fn sender(&self) -> Option<Socket> {
        let said = self.uid.is_some() || self.gid.is_some() || self.cgroup.is_some();
        let owner = Owner {
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            groups: Vec::new(),
        };
        let mut socket = Socket::of(Some(owner));
        if let Some(path) = &self.cgroup {
            socket.cgroup.clone_from(path);
        }
        said.then_some(socket)
    }

    /// Its address family.
    pub(crate) const fn family(&self) -> Family {
        match self.src {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Whether it is ICMP of its family.
    pub(crate) const fn is_icmp(&self) -> bool {
        matches!(self.proto, proto::ICMP | proto::ICMPV6)
    }

    /// Flags of a TCP packet; a SYN where nothing was said.
    pub(crate) fn tcp_flags(&self) -> u8 {
        self.flags.unwrap_or(tcp::flags::SYN)
    }

    /// Both ends.
    pub(crate) const fn ends(&self) -> Ends {
        Ends {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
        }
    }
}

const fn has_ports(number: u8) -> bool {
    matches!(
        number,
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP
    )
}

#[cfg(test)]
mod tests;
