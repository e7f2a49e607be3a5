//! Rulesets to measure with, as iptables rules.
//!
//! `acl`, `fw` and `ipc` have the shape that ClassBench describes (Taylor and Turner,
//! INFOCOM 2005) for access lists, firewalls and chains of Linux: a joint distribution
//! of source and destination prefix lengths, addresses that share prefixes with a skew,
//! five classes of port ranges (any, high, low, some range, one port) for source and
//! destination, and protocols. The numbers are ours, chosen after the published
//! description. The other sets are regular ones that people write, and some written to
//! hurt.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::random::Random;

/// Makes so many rules from a seed.
type Make = fn(usize, u64) -> Vec<String>;

/// All sets by name.
pub(crate) const SETS: &[(&str, Make)] = &[
    ("acl", |n, s| classbench(&ACL, n, s)),
    ("fw", |n, s| classbench(&FW, n, s)),
    ("ipc", |n, s| classbench(&IPC, n, s)),
    ("ports", ports),
    ("sources", sources),
    ("blocklist", blocklist),
    ("interfaces", interfaces),
    ("multiport", multiport),
    ("marks", marks),
    ("nested", nested),
    ("diagonal", diagonal),
    ("spans", spans),
    ("opaque", opaque),
];

#[derive(Clone, Copy)]
enum Ports {
    Any,
    High,
    Low,
    Some,
    One,
}
use Ports::{Any, High, Low, One, Some as Part};

/// What rules of a kind look like.
struct Shape {
    protocols: &'static [(u32, &'static str)],
    /// Lengths of source and destination prefixes; 255 stands for a random length.
    lengths: &'static [(u32, (u8, u8))],
    /// Source and destination ports.
    ports: &'static [(u32, (Ports, Ports))],
}

const R: u8 = 255;

const ACL: Shape = Shape {
    protocols: &[(78, "tcp"), (14, "udp"), (3, "icmp"), (1, "47"), (4, "all")],
    lengths: &[
        (16, (32, 32)),
        (14, (0, 32)),
        (12, (24, 32)),
        (9, (24, 24)),
        (8, (16, 32)),
        (7, (0, 24)),
        (6, (R, 32)),
        (6, (32, 24)),
        (5, (32, R)),
        (5, (R, R)),
        (4, (28, 28)),
        (3, (16, 24)),
        (2, (8, 32)),
        (2, (32, 16)),
        (1, (0, 16)),
    ],
    ports: &[
        (62, (Any, One)),
        (18, (Any, Any)),
        (9, (Any, Part)),
        (4, (Any, High)),
        (2, (High, One)),
        (2, (One, Any)),
        (1, (Any, Low)),
        (1, (One, High)),
        (1, (High, High)),
    ],
};

const FW: Shape = Shape {
    protocols: &[(58, "tcp"), (26, "udp"), (6, "icmp"), (3, "50"), (7, "all")],
    lengths: &[
        (18, (0, 32)),
        (12, (32, 0)),
        (12, (32, 32)),
        (9, (0, 24)),
        (8, (24, 0)),
        (8, (24, 32)),
        (7, (R, R)),
        (6, (16, 16)),
        (5, (0, R)),
        (5, (R, 0)),
        (4, (0, 16)),
        (3, (16, 0)),
        (2, (8, 8)),
        (1, (0, 0)),
    ],
    ports: &[
        (22, (Any, One)),
        (18, (Any, Any)),
        (12, (Any, Part)),
        (10, (High, One)),
        (8, (Any, High)),
        (7, (High, High)),
        (6, (One, High)),
        (5, (Part, Any)),
        (5, (Part, Part)),
        (4, (One, Any)),
        (2, (Any, Low)),
        (1, (One, One)),
    ],
};

const IPC: Shape = Shape {
    protocols: &[(60, "tcp"), (22, "udp"), (7, "icmp"), (3, "89"), (8, "all")],
    lengths: &[
        (18, (32, 32)),
        (12, (0, 32)),
        (9, (24, 24)),
        (9, (R, 32)),
        (9, (32, R)),
        (8, (24, 32)),
        (7, (R, R)),
        (6, (32, 24)),
        (6, (32, 0)),
        (4, (16, 24)),
        (4, (20, 32)),
        (3, (8, 24)),
        (3, (0, 24)),
        (2, (16, 16)),
    ],
    ports: &[
        (34, (Any, One)),
        (26, (Any, Any)),
        (10, (Any, Part)),
        (8, (Any, High)),
        (6, (High, One)),
        (5, (One, Any)),
        (4, (Part, Part)),
        (3, (High, High)),
        (2, (One, High)),
        (2, (Any, Low)),
    ],
};

const WELL_KNOWN: &[u16] = &[
    80, 443, 22, 25, 53, 21, 23, 110, 143, 123, 161, 389, 445, 139, 1433, 1521, 3306, 3389, 8080,
    993, 995, 636, 88, 111, 2049, 514, 1812, 1813, 5060, 8443, 5900, 69, 179, 1723, 5432, 6379,
];
const RANGES: &[(u16, u16)] = &[
    (6000, 6063),
    (137, 139),
    (33434, 33600),
    (20, 21),
    (5060, 5070),
    (3000, 3010),
    (8000, 8100),
    (1024, 5000),
    (49152, 65535),
    (161, 162),
    (6881, 6999),
    (10000, 20000),
    (1, 19),
    (7070, 7170),
];

/// An address in a world where few networks have most of the hosts.
fn address(random: &mut Random, world: u64) -> u32 {
    let mut mix = |parent: u64, choices: u64| {
        let child = random.skewed(choices);
        // Which number the child has depends on nothing but the path to it.
        Random(world ^ parent << 8 ^ child).next()
    };
    let a = mix(1, 24) % 223 + 1;
    let b = mix(a, 60) % 256;
    let c = mix(a << 8 | b, 200) % 256;
    let d = mix(a << 16 | b << 8 | c, 250) % 256;
    (a << 24 | b << 16 | c << 8 | d) as u32
}

fn prefix(random: &mut Random, world: u64, length: u8) -> String {
    let length = match length {
        R => 9 + random.below(23) as u8,
        fixed => fixed,
    };
    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
    let host = address(random, world) & mask;
    format!("{}/{length}", std::net::Ipv4Addr::from(host))
}

fn port_range(random: &mut Random, class: Ports) -> Option<(u16, u16)> {
    Some(match class {
        Any => return None,
        High => (1024, 65535),
        Low => (0, 1023),
        Part if random.below(3) > 0 => RANGES[random.skewed(RANGES.len() as u64) as usize],
        Part => {
            let lo = random.below(60_000) as u16;
            (lo, lo + 1 + random.skewed(5_000) as u16)
        }
        One if random.below(4) > 0 => {
            let port = WELL_KNOWN[random.skewed(WELL_KNOWN.len() as u64) as usize];
            (port, port)
        }
        One => {
            let port = random.below(65_536) as u16;
            (port, port)
        }
    })
}

fn ports_option(name: &str, range: Option<(u16, u16)>) -> String {
    match range {
        None => String::new(),
        Some((lo, hi)) if lo == hi => format!(" --{name} {lo}"),
        Some((lo, hi)) => format!(" --{name} {lo}:{hi}"),
    }
}

fn classbench(shape: &Shape, n: usize, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let (sources, destinations) = (random.next(), random.next());
    let mut seen = HashSet::new();
    let mut rules = Vec::with_capacity(n);
    while rules.len() < n {
        let (src, dst) = random.weighted(shape.lengths);
        let mut rule = String::new();
        if src > 0 {
            write!(rule, " -s {}", prefix(random, sources, src)).ok();
        }
        if dst > 0 {
            write!(rule, " -d {}", prefix(random, destinations, dst)).ok();
        }
        let protocol = random.weighted(shape.protocols);
        if protocol != "all" {
            write!(rule, " -p {protocol}").ok();
        }
        if matches!(protocol, "tcp" | "udp") {
            let (sport, dport) = random.weighted(shape.ports);
            let sport = ports_option("sport", port_range(random, sport));
            let dport = ports_option("dport", port_range(random, dport));
            write!(rule, " -m {protocol}{sport}{dport}").ok();
        }
        // What matches everything would end the chain.
        if !rule.is_empty() && seen.insert(rule.clone()) {
            rules.push(rule);
        }
    }
    rules
}

/// One port each, TCP and UDP in turn.
fn ports(n: usize, _: u64) -> Vec<String> {
    let rule = |i: usize| {
        let protocol = ["tcp", "udp"][i / 65_536 % 2];
        format!(" -p {protocol} -m {protocol} --dport {}", i % 65_536)
    };
    (0..n).map(rule).collect()
}

/// One neighbouring source each.
fn sources(n: usize, _: u64) -> Vec<String> {
    let rule = |i: usize| {
        let addr = std::net::Ipv4Addr::from(0x0a00_0000 + i as u32);
        format!(" -s {addr}/32 -p tcp -m tcp --dport 22")
    };
    (0..n).map(rule).collect()
}

/// Random single addresses and a few networks, as in a downloaded block list.
fn blocklist(n: usize, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let mut rule = |_| {
        let addr = random.next() as u32;
        let length = random.weighted(&[(90, 32), (6, 24), (2, 22), (1, 20), (1, 16)]);
        let addr = std::net::Ipv4Addr::from(addr & u32::MAX << (32 - length));
        format!(" -s {addr}/{length}")
    };
    (0..n).map(&mut rule).collect()
}

/// An interface pair each, as with one chain for many customers.
fn interfaces(n: usize, _: u64) -> Vec<String> {
    let rule = |i: usize| match i % 2 {
        0 => format!(" -i vlan{}", i / 2),
        _ => format!(" -i uplink+ -o vlan{}", i / 2),
    };
    (0..n).map(rule).collect()
}

/// Several ports each on one of many hosts, new connections only.
fn multiport(n: usize, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let mut rule = |i: usize| {
        let addr = std::net::Ipv4Addr::from(0xc0a8_0000 + (i / 8) as u32);
        let ports: Vec<String> = (0..5).map(|_| random.below(65_536).to_string()).collect();
        format!(
            " -d {addr}/32 -p tcp -m multiport --dports {} -m conntrack --ctstate NEW",
            ports.join(",")
        )
    };
    (0..n).map(&mut rule).collect()
}

/// A mark each, in part under a mask.
fn marks(n: usize, _: u64) -> Vec<String> {
    let rule = |i: usize| format!(" -m mark --mark {:#x}/0xfffff", i);
    (0..n).map(rule).collect()
}

/// Prefixes of every pair of lengths around few points, with a port each: as many
/// tuples as there can be, and much overlap.
fn nested(n: usize, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let mut points = [0; 16].map(|_| (random.next() as u32, random.next() as u32));
    points[0] = (0x0a01_0203, 0xc0a8_0405);
    let mut rule = |i: usize| {
        let (src, dst) = points[i % points.len()];
        let (s, d) = (random.below(33) as u32, random.below(33) as u32);
        let net = |addr: u32, len: u32| {
            let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
            format!("{}/{len}", std::net::Ipv4Addr::from(addr & mask))
        };
        let port = random.below(65_536);
        format!(
            " -s {} -d {} -p tcp -m tcp --dport {port}",
            net(src, s),
            net(dst, d)
        )
    };
    (0..n).map(&mut rule).collect()
}

/// Wide ranges along a diagonal: half of them hold in each field, none in both.
fn diagonal(n: usize, _: u64) -> Vec<String> {
    let step = 0x4000_0000 / n as u32;
    let rule = |i: usize| {
        let at = i as u32 * step;
        let range = |lo: u32| {
            let (lo, hi) = (lo.into(), (lo + 0x4000_0000).into());
            let (lo, hi): (std::net::Ipv4Addr, std::net::Ipv4Addr) = (lo, hi);
            format!("{lo}-{hi}")
        };
        format!(
            " -m iprange --src-range {} --dst-range {}",
            range(0x1000_0000 + at),
            range(0x8000_0000 - at)
        )
    };
    (0..n).map(rule).collect()
}

/// Port ranges that straddle every power of two, on one host.
fn spans(n: usize, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let mut rule = |_| {
        let middle = 1u64 << (4 + random.below(12));
        let at = middle * (1 + random.below((65_536 / middle).max(2) - 1));
        let width = 1 + random.below(middle / 4);
        let (lo, hi) = (at.saturating_sub(width), (at + width).min(65_535));
        let (from, to) = (random.below(30_000), random.below(30_000));
        format!(
            " -d 192.0.2.1/32 -p udp -m udp --sport {from}:{} --dport {lo}:{hi}",
            from + to
        )
    };
    (0..n).map(&mut rule).collect()
}

/// Nothing that a look-up could use.
fn opaque(n: usize, seed: u64) -> Vec<String> {
    let random = &mut Random(seed);
    let mut rule = |_| {
        let host = std::net::Ipv4Addr::from(random.next() as u32);
        let port = random.below(65_536);
        format!(
            " ! -s {host}/32 -p tcp -m multiport --ports {port},{} -m ttl --ttl-gt 250",
            port / 2
        )
    };
    (0..n).map(&mut rule).collect()
}
