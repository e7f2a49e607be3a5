//! Packets that no connection helps: let in by the last of many rules, by any of them, or by
//! none. Beside a walk over the rules one by one.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use tidegate_wire::{checksum, proto};

use crate::linear::{conditions, walk};
use crate::measure::{Group, Meter, Subject, Took};
use crate::plot::{Line, Picture};
use crate::random::Random;
use crate::receiver::{Loaded, Receiver};
use crate::surroundings::router;
use crate::traffic::SERVER;

const PACKETS: usize = 200_000;
/// Rules of a chain.
const SIZES: [u32; 6] = [1, 10, 100, 1_000, 10_000, 100_000];

/// What rules and packets have to do with each other.
struct Situation {
    title: &'static str,
    short: &'static str,
    /// So many rules.
    rules: fn(u32) -> String,
    /// A packet for so many rules, and the rule that it meets.
    packet: fn(&mut Random, u32) -> (Datagram, Option<u32>),
}

const SITUATIONS: [Situation; 3] = [
    Situation {
        title: "Stateless UDP from random clients, let in by the last rule",
        short: "the last rule",
        rules: strangers,
        packet: |random, rules| (Datagram::new(random, 443), Some(rules - 1)),
    },
    Situation {
        title: "Stateless UDP from random clients, dropped by the policy",
        short: "no rule",
        rules: strangers,
        packet: |random, _| (Datagram::new(random, 9), None),
    },
    Situation {
        title: "Stateless UDP, each packet let in by a rule drawn at random",
        short: "any rule",
        rules: all_met,
        packet: |random, rules| {
            let n = random.below(rules.into()) as u32;
            (meeting(random, n), Some(n))
        },
    },
];

/// What rules look at in a packet to the server.
#[derive(Clone, Copy)]
struct Datagram {
    src: u32,
    sport: u16,
    dport: u16,
}

impl Datagram {
    /// From any client.
    fn new(random: &mut Random, dport: u16) -> Self {
        Datagram {
            src: 0x0a00_0002 + random.below(0xfff0) as u32,
            sport: 30_000 + random.below(30_000) as u16,
            dport,
        }
    }

    fn bytes(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..12].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, proto::UDP, 0, 0]);
        bytes[12..16].copy_from_slice(&self.src.to_be_bytes());
        bytes[16..20].copy_from_slice(&SERVER.to_be_bytes());
        bytes[20..22].copy_from_slice(&self.sport.to_be_bytes());
        bytes[22..24].copy_from_slice(&self.dport.to_be_bytes());
        bytes[25] = 8;
        checksum::fix_ipv4(&mut bytes);
        bytes
    }
}

const OPENING: &str = "*filter\n:FORWARD DROP [0:0]\n";

/// Hosts, networks and ports, none of which the traffic meets; the server's port last.
fn strangers(count: u32) -> String {
    let mut text = OPENING.to_owned();
    for n in 0..count - 1 {
        let (high, low, port) = (n / 200 % 250, n % 200, 10_000 + n % 50_000);
        // Writing to a String cannot fail.
        let _ = match n % 4 {
            0 => writeln!(text, "-A FORWARD -s 172.{high}.{low}.0/24 -j DROP"),
            1 => writeln!(
                text,
                "-A FORWARD -d 10.7.{high}.{low}/32 -p udp -m udp --dport 53 -j ACCEPT"
            ),
            2 => writeln!(
                text,
                "-A FORWARD -i in0 -p udp -m udp --dport {port} -j ACCEPT"
            ),
            _ => writeln!(
                text,
                "-A FORWARD -p udp -m multiport --dports 69,123,{port} -j DROP"
            ),
        };
    }
    text.push_str("-A FORWARD -d 10.9.0.1/32 -p udp -m udp --dport 443 -j ACCEPT\nCOMMIT\n");
    text
}

/// Where the addresses of a kind of rules in [`all_met`] begin.
const NETWORKS: u32 = 0xac10_0000;
const HOSTS: u32 = 0xc612_0000;
const LISTS: u32 = 0xcb00_0000;

/// A network, a host and its port, two ports, a host and a list of ports: each of its own.
fn all_met(count: u32) -> String {
    let mut text = OPENING.to_owned();
    for n in 0..count {
        let addr = |first: u32, step: u32| std::net::Ipv4Addr::from(first + n * step);
        let (port, [from, to]) = (port(n), pair(n));
        let _ = match n % 4 {
            0 => writeln!(text, "-A FORWARD -s {}/28 -j ACCEPT", addr(NETWORKS, 16)),
            1 => writeln!(
                text,
                "-A FORWARD -s {}/32 -p udp -m udp --dport {port} -j ACCEPT",
                addr(HOSTS, 1)
            ),
            2 => writeln!(
                text,
                "-A FORWARD -i eth0 -p udp -m udp --sport {from} --dport {to} -j ACCEPT"
            ),
            _ => writeln!(
                text,
                "-A FORWARD -s {}/32 -p udp -m multiport --dports 69,123,{port} -j ACCEPT",
                addr(LISTS, 1)
            ),
        };
    }
    text.push_str("COMMIT\n");
    text
}

const fn port(n: u32) -> u16 {
    (10_000 + n % 50_000) as u16
}

/// Ports that no other rule with two ports has, and no other packet.
const fn pair(n: u32) -> [u16; 2] {
    [1_024 + (n / 500) as u16, 1 + (n % 500) as u16]
}

/// A packet that the `n`th of those rules is the only one to let in.
fn meeting(random: &mut Random, n: u32) -> Datagram {
    let any = Datagram::new(random, 443);
    match n % 4 {
        0 => Datagram {
            src: NETWORKS + n * 16 + random.below(16) as u32,
            ..any
        },
        1 => Datagram {
            src: HOSTS + n,
            dport: port(n),
            ..any
        },
        2 => Datagram {
            sport: pair(n)[0],
            dport: pair(n)[1],
            ..any
        },
        _ => Datagram {
            src: LISTS + n,
            dport: [69, 123, port(n)][random.below(3) as usize],
            ..any
        },
    }
}

/// Rules, packets, and the rule that each of them meets.
struct Load {
    rules: Loaded,
    packets: Vec<[u8; 28]>,
    expected: Vec<Option<u32>>,
}

impl Load {
    fn new(situation: &Situation, size: u32) -> Result<Self> {
        let random = &mut Random(u64::from(size));
        let made = (0..PACKETS).map(|_| (situation.packet)(random, size));
        let (packets, expected) = made.map(|(packet, rule)| (packet.bytes(), rule)).unzip();
        Ok(Load {
            rules: Loaded::new(&(situation.rules)(size))?,
            packets,
            expected,
        })
    }

    fn linear(&self) -> Result<Took> {
        let packets = self.packets.iter().map(<[u8; 28]>::as_slice);
        let expected = |n: usize| self.expected[n].map(|rule| rule as usize);
        walk(&self.rules.rules, packets, |n, hit| hit == expected(n))
    }

    fn engine(&self) -> Result<Took> {
        let meter = Meter::new()?;
        let mut receiver = Receiver::new(&self.rules, router(), 0, 1);
        if self.expected.contains(&None) {
            receiver = receiver.dropping();
        }
        let packets = self.packets.iter().map(|p| (p.as_slice(), true));
        let took = meter.took(receiver.all(packets)?, PACKETS)?;
        self.check(&receiver)?;
        Ok(took.and(self.rules.bytes))
    }

    /// That each rule has counted the packets that are meant for it.
    fn check(&self, receiver: &Receiver) -> Result<()> {
        let mut wanted = vec![0; conditions(&self.rules.rules).len()];
        for rule in self.expected.iter().flatten() {
            wanted[*rule as usize] += 1;
        }
        receiver.has_counted(&self.rules, &wanted)
    }
}

/// Measures all; a picture goes to `plots`.
///
/// # Errors
/// A ruleset cannot be read, or a packet does not go where it should.
pub(crate) fn run(plots: Option<&Path>) -> Result<()> {
    let mut lines = Vec::new();
    for situation in &SITUATIONS {
        let loads = SIZES.map(|size| Load::new(situation, size));
        let loads = loads.into_iter().collect::<Result<Vec<_>>>()?;
        let mut subjects = Vec::new();
        for (size, load) in SIZES.iter().zip(&loads) {
            let rules = if *size == 1 { "rule" } else { "rules" };
            let name = |how: &str| format!("{size} {rules}, {how}");
            subjects.push(Subject::new(name("one by one"), || load.linear()).base());
            subjects.push(Subject::new(name("engine"), || load.engine()));
        }
        let group = Group {
            title: situation.title.to_owned(),
            unit: "packet",
            rounds: 5,
            subjects,
        };
        let ns = group.run()?;
        for (n, how) in ["one by one", "engine"].into_iter().enumerate() {
            let each = ns.chunks_exact(2).map(|pair| pair[n]);
            lines.push(Line {
                name: format!("{how}, {}", situation.short),
                points: SIZES.iter().map(|&s| s as usize).zip(each).collect(),
            });
        }
    }
    let measured = lines.iter().all(|l| !l.points.is_empty());
    let Some(dir) = plots.filter(|_| measured) else {
        return Ok(());
    };
    Picture {
        title: "Stateless UDP: ns a packet, by the rule that lets it in",
        across: "rules",
        ..Picture::NANOSECONDS
    }
    .write_logarithmic(&dir.join("ns-stateless.svg"), &lines)
    .context("picture")
}
