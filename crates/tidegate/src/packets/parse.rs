//! From words to packets.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use tidegate_wire::{Family, proto, tcp};

use super::{Described, GRAMMAR, has_ports};

/// Port of a sender about whose port nothing was said.
const ANY_PORT: u16 = 40_000;
/// Longest payload that can be asked for.
const MOST_BYTES: u16 = 9_000;

const PROTOCOLS: [(&str, u8); 13] = [
    ("tcp", proto::TCP),
    ("udp", proto::UDP),
    ("icmp", proto::ICMP),
    ("icmp6", proto::ICMPV6),
    ("icmpv6", proto::ICMPV6),
    ("ipv6-icmp", proto::ICMPV6),
    ("udplite", proto::UDPLITE),
    ("sctp", proto::SCTP),
    ("dccp", proto::DCCP),
    ("gre", proto::GRE),
    ("esp", proto::ESP),
    ("ah", proto::AH),
    ("igmp", 2),
];

const FLAGS: [(&str, u8); 9] = [
    ("syn", tcp::flags::SYN),
    ("ack", tcp::flags::ACK),
    ("fin", tcp::flags::FIN),
    ("rst", tcp::flags::RST),
    ("psh", tcp::flags::PSH),
    ("urg", tcp::flags::URG),
    ("ece", tcp::flags::ECE),
    ("cwr", tcp::flags::CWR),
    ("none", 0),
];

/// Names of ICMP types: in IPv4, in IPv6.
const TYPES: [(&str, Option<u8>, Option<u8>); 17] = [
    ("echo-request", Some(8), Some(128)),
    ("ping", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("pong", Some(0), Some(129)),
    ("unreachable", Some(3), Some(1)),
    ("destination-unreachable", Some(3), Some(1)),
    ("source-quench", Some(4), None),
    ("redirect", Some(5), Some(137)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
    ("packet-too-big", None, Some(2)),
    ("router-solicitation", Some(10), Some(133)),
    ("router-advertisement", Some(9), Some(134)),
    ("neighbour-solicitation", None, Some(135)),
    ("neighbour-advertisement", None, Some(136)),
];

impl FromStr for Described {
    type Err = anyhow::Error;

    /// Reads a description.
    ///
    /// # Errors
    /// It cannot be understood; the word is named.
    fn from_str(text: &str) -> Result<Self> {
        let spaced = text.replace("->", " > ").replace('>', " > ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        read(&words).with_context(|| format!("`{}`", text.trim()))
    }
}

fn read(words: &[&str]) -> Result<Described> {
    let [name, src, arrow, dst, rest @ ..] = words else {
        bail!("a packet needs protocol, sender, `>` and receiver\n{GRAMMAR}");
    };
    if *arrow != ">" {
        bail!("`{arrow}` where `>` should stand between sender and receiver");
    }
    let number = protocol(name)?;
    let ports = has_ports(number);
    let (src, sport) = end(src, ports)?;
    let (dst, dport) = end(dst, ports)?;
    if src.is_ipv4() != dst.is_ipv4() {
        bail!("{src} and {dst} are of different families");
    }
    let number = match (number, src.is_ipv4()) {
        (proto::ICMP, false) => proto::ICMPV6,
        (proto::ICMPV6, true) => proto::ICMP,
        (number, _) => number,
    };
    let mut packet = Described::new(number, src, dst);
    if ports {
        packet.sport = sport.unwrap_or(ANY_PORT);
        packet.dport = dport
            .ok_or_else(|| anyhow!("{name} goes to a port: write {}", SocketAddr::new(dst, 22)))?;
    }
    options(&mut packet, rest)?;
    complete(&mut packet)?;
    Ok(packet)
}

/// What follows from what was said.
fn complete(packet: &mut Described) -> Result<()> {
    if packet.is_icmp() && packet.icmp.is_none() {
        packet.icmp = Some(icmp_type("echo-request", packet.family())?);
    }
    if packet.is_icmp() && packet.sport == 0 {
        packet.sport = 1;
    }
    if let Some(about) = &packet.about
        && about.family() != packet.family()
    {
        bail!("an ICMP error is about a packet of its own family");
    }
    Ok(())
}

fn options(packet: &mut Described, words: &[&str]) -> Result<()> {
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut argument = || {
            let next = words.next().copied();
            next.ok_or_else(|| anyhow!("`{word}` needs a word after it"))
        };
        match word.to_ascii_lowercase().as_str() {
            "in" => packet.input = Some(interface(argument()?)?),
            "out" => packet.output = Some(interface(argument()?)?),
            "mark" => packet.mark = number(argument()?)?,
            "uid" => packet.uid = Some(number(argument()?)?),
            "gid" => packet.gid = Some(number(argument()?)?),
            "cgroup" => packet.cgroup = Some(argument()?.to_owned()),
            "ttl" => packet.ttl = number(argument()?)?,
            "tos" => packet.tos = number(argument()?)?,
            "seq" => packet.seq = Some(number(argument()?)?),
            "acks" => packet.ack = Some(number(argument()?)?),
            "id" => packet.sport = number(argument()?)?,
            "type" => packet.icmp = Some(icmp_type(argument()?, packet.family())?),
            "bytes" => packet.payload = number::<u16>(argument()?)?.min(MOST_BYTES),
            "after" => packet.after = seconds(argument()?)?,
            "about" => {
                let rest: Vec<&str> = words.by_ref().copied().collect();
                packet.about = Some(Box::new(read(&rest).context("after `about`")?));
            }
            other if packet.proto == proto::TCP => {
                let more = flags(other)?;
                packet.flags = Some(packet.flags.unwrap_or(0) | more);
            }
            other if packet.is_icmp() => packet.icmp = Some(icmp_type(other, packet.family())?),
            other => bail!("`{other}` says nothing about a packet\n{GRAMMAR}"),
        }
    }
    Ok(())
}

fn protocol(name: &str) -> Result<u8> {
    let lower = name.to_ascii_lowercase();
    let known = PROTOCOLS.iter().find(|p| p.0 == lower).map(|p| p.1);
    known
        .or_else(|| lower.parse().ok())
        .ok_or_else(|| anyhow!("`{name}` is no protocol\n{GRAMMAR}"))
}

/// An address, with a port where the protocol has ports.
fn end(text: &str, ports: bool) -> Result<(IpAddr, Option<u16>)> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(addr) = bare.parse() {
        return Ok((addr, None));
    }
    match text.parse::<SocketAddr>() {
        Ok(_) if !ports => bail!("`{text}`: this protocol has no ports"),
        Ok(socket) => Ok((socket.ip(), Some(socket.port()))),
        Err(_) => {
            bail!("`{text}` is no address (names are not looked up; IPv6 with a port: [::1]:22)")
        }
    }
}

fn interface(name: &str) -> Result<String> {
    if name.is_empty() || name.len() > 15 || name.contains('/') {
        bail!("`{name}` is no interface name (1 to 15 bytes)");
    }
    Ok(name.to_owned())
}

fn number<T: TryFrom<u64>>(text: &str) -> Result<T> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let fits = parsed.ok().and_then(|n| T::try_from(n).ok());
    fits.ok_or_else(|| anyhow!("`{text}` is no number that fits there"))
}

/// Seconds, possibly with a point and an `s` behind, as nanoseconds.
fn seconds(text: &str) -> Result<u64> {
    let value: f64 = text
        .trim_end_matches('s')
        .parse()
        .map_err(|_| anyhow!("`{text}` are no seconds"))?;
    if !(0.0..=1e8).contains(&value) {
        bail!("`{text}`: 0 to 100000000 seconds");
    }
    Ok((value * 1e9) as u64)
}

fn flags(word: &str) -> Result<u8> {
    let mut all = 0;
    for part in word.split([',', '+']) {
        let known = FLAGS.iter().find(|f| f.0 == part);
        let (_, bit) = known.ok_or_else(|| anyhow!("`{part}` is no TCP flag\n{GRAMMAR}"))?;
        all |= bit;
    }
    Ok(all)
}

fn icmp_type(word: &str, family: Family) -> Result<(u8, u8)> {
    let (name, code) = word.split_once('/').unwrap_or((word, "0"));
    let known = TYPES.iter().find(|t| t.0 == name);
    let kind = match (known, family) {
        (Some((_, kind, _)), Family::V4) | (Some((_, _, kind)), Family::V6) => *kind,
        (None, _) => name.parse().ok(),
    };
    let kind = kind.ok_or_else(|| anyhow!("`{name}` is no ICMP type of this family\n{GRAMMAR}"))?;
    Ok((kind, number(code)?))
}
