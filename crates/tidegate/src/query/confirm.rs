//! Examples, tried on the engine before anybody is told of them.

use std::net::IpAddr;
use std::ops::ControlFlow;

use tidegate_analysis::{Bound, Example, Fate, Set, TooBig};
use tidegate_engine::env::{
    Env, IfIndex, Interface, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_engine::{Config, Trace, TraceEvent, interface_number};
use tidegate_host::{Host, LOOPBACK, address};
use tidegate_ir::{Field, RuleId, Truth};
use tidegate_wire::{Family, proto};

use super::ask::{Asked, Open, echo, has_ports, icmp};
use crate::course::{Place, Runner, ends_of, steps};
use crate::packets::Described;
use crate::replay::brief::ProtoName;

/// How many examples are tried until one does what is said of it.
const TRIES: usize = 6;

/// An example that has been tried.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    /// In words that `tidegate explain` knows.
    pub(super) words: String,
    /// Rules and policies that its first packet met and that applied, in order.
    pub(super) hits: Vec<RuleId>,
    /// Those of any packet of the connection.
    pub(super) all: Vec<RuleId>,
    /// Where the server was and what it was addressed as.
    pub(super) server: Option<(IpAddr, u16)>,
    /// Whether the whole connection got through, to where it was said to.
    pub(super) complete: bool,
}

/// Rules that apply to packets.
#[derive(Default)]
struct Hits {
    rules: Vec<RuleId>,
    answering: bool,
}

impl Trace for Hits {
    const ACTIVE: bool = true;
    const TESTS: bool = false;

    fn event(&mut self, event: TraceEvent<'_>) {
        match event {
            TraceEvent::Packet { role, .. } => {
                let own = [tidegate_engine::Role::Emitted, tidegate_engine::Role::Copy];
                self.answering = own.contains(&role);
            }
            TraceEvent::Rule {
                rule,
                truth: Truth::True,
                ..
            } if !self.answering => self.rules.push(rule.id),
            TraceEvent::Policy { id, .. } if !self.answering => self.rules.push(id),
            _ => {}
        }
    }
}

/// Values that examples have if they can.
pub(crate) fn wanted(family: Family, protocol: u8) -> Vec<(Field, u128)> {
    let mut all = vec![(Field::Proto, u128::from(protocol))];
    let l4 = match protocol {
        proto::TCP => 24,
        _ => 8,
    };
    let header = if family == Family::V4 { 20 } else { 40 };
    all.extend([
        (Field::TcpFlags, 2),
        (Field::IcmpTypeCode, echo(family)),
        (Field::L4Len, l4),
        (Field::Length, header + l4),
        (Field::Tos, 0),
        (Field::Ttl, 64),
        (Field::Mark, 0),
        (Field::Sport, 40_000),
        (Field::Sport, 1_024),
    ]);
    let (far, near, own, elsewhere) = match family {
        Family::V4 => (
            0xc633_6407u128,
            0xc0a8_0107u128,
            0xcb00_7105u128,
            0xc000_0201,
        ),
        Family::V6 => {
            let net = 0x2001_0db8u128 << 96;
            (net | 7, net | 1 << 64 | 7, net | 5, net | 2 << 64 | 1)
        }
    };
    all.extend([
        (Field::Src, far),
        (Field::Src, near),
        (Field::Src, elsewhere + 76),
        (Field::Dst, own),
        (Field::Dst, near + 2),
        (Field::Dst, elsewhere),
    ]);
    all
}

impl Asked<'_> {
    /// A connection out of `open` that does what is said of it, and that `fits`, as tried on
    /// the engine.
    ///
    /// # Errors
    /// The limit is reached.
    pub(super) fn confirmed(
        &mut self,
        protocol: u8,
        open: &Open,
        fits: impl Fn(&Tried) -> bool,
    ) -> Result<Option<Tried>, TooBig> {
        let mut left = open.set;
        let wanted = wanted(self.family(), protocol);
        let mut names: Vec<u128> = self.outside().iter().map(|n| interface_number(n)).collect();
        names.extend(self.names.iter().map(|n| interface_number(n)));
        for _ in 0..TRIES {
            let mut near: Vec<(Field, u128)> = Vec::new();
            near.extend(names.iter().map(|n| (Field::InName, *n)));
            // Not the way it came from, if there is another.
            let first = names.first().copied();
            let others = names
                .iter()
                .filter(|n| Some(**n) != first)
                .chain(names.first());
            near.extend(others.map(|n| (Field::OutName, *n)));
            near.extend(&wanted);
            let Some(example) = self.space.example_near(left, &near)? else {
                return Ok(None);
            };
            if let Some(tried) = self.tried(protocol, open, &example).filter(&fits) {
                return Ok(Some(tried));
            }
            let of = [
                Field::Src,
                Field::Dst,
                Field::Sport,
                Field::Dport,
                Field::InName,
                Field::OutName,
            ];
            let like = self.space.like(&example, &of)?;
            left = self.space.bdd.minus(left, like)?;
            if left == Set::EMPTY {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Sends a connection through the engine, as far as it gets; `None` when words cannot
    /// describe it.
    fn tried(&self, protocol: u8, open: &Open, example: &Example) -> Option<Tried> {
        let lens = self.space.lens(open.seen);
        let shape = Shape {
            sent: lens.value(Field::InName) == Some(0),
            leaves: open.fate == Fate::Leaves,
            translated: lens.dnat.is_some(),
            to: lens.get(Field::Dst),
        };
        let stage = Stage {
            family: self.family(),
            names: &self.names,
            host: self.host,
        };
        let packet = stage.described(protocol, shape, example)?;
        let made;
        let host = match self.host {
            Some(host) => host,
            None => {
                made = stage.made(shape, example, &packet);
                &made
            }
        };
        let mut runner = Runner::new(host, self.rules);
        let mut tried = Tried {
            words: words(&packet),
            hits: Vec::new(),
            all: Vec::new(),
            server: None,
            complete: false,
        };
        let mut left = steps(&packet).len();
        let watch = |_: &Runner, _: &Described| Hits::default();
        runner.drive([&packet], true, watch, |runner, sent, passed, hits| {
            if tried.hits.is_empty() {
                tried.hits.clone_from(&hits.rules);
            }
            tried.all.extend(&hits.rules);
            if !passed.arrived() {
                return ControlFlow::Break(());
            }
            if sent.step.is_some_and(|s| !s.reply) {
                let arrival = runner.arrival(&passed);
                let here = arrival.map(|(place, _)| place == Place::Here);
                if here != Some(open.fate == Fate::Here) {
                    return ControlFlow::Break(());
                }
                let ends = arrival.and_then(|(_, bytes)| ends_of(bytes));
                let ends = ends.map(|ends| ends.reversed(packet.is_icmp()));
                tried.server = tried.server.or(ends.map(|e| (e.src, e.sport)));
            }
            left -= 1;
            ControlFlow::Continue(())
        });
        tried.complete = left == 0;
        tried.server = tried.server.filter(|_| tried.complete);
        Some(tried)
    }
}

/// What is known of a packet's way before it is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// This host sends it.
    pub(crate) sent: bool,
    /// It leaves this host.
    pub(crate) leaves: bool,
    /// Its destination has been translated.
    pub(crate) translated: bool,
    /// To what.
    pub(crate) to: Bound,
}

/// Interfaces and host that examples are made for.
#[derive(Clone, Copy)]
pub(crate) struct Stage<'a> {
    /// Family.
    pub(crate) family: Family,
    /// Names of interfaces.
    pub(crate) names: &'a [String],
    /// The host, where it is known.
    pub(crate) host: Option<&'a Host>,
}

impl Stage<'_> {
    /// The first packet in words; `None` where words cannot say it.
    pub(crate) fn described(
        &self,
        protocol: u8,
        shape: Shape,
        example: &Example,
    ) -> Option<Described> {
        let family = self.family;
        let value = |field| example.values.get(&field).copied();
        let of = |field| value(field).map(|v| address(family, v));
        let mut packet = Described::new(protocol, of(Field::Src)?, of(Field::Dst)?);
        if has_ports(protocol) {
            packet.sport = value(Field::Sport).unwrap_or(40_000) as u16;
            packet.dport = value(Field::Dport).unwrap_or(9) as u16;
        }
        if protocol == icmp(family) {
            let kind = value(Field::IcmpTypeCode).unwrap_or(echo(family));
            packet.icmp = Some(((kind >> 8) as u8, kind as u8));
            packet.sport = 1;
        }
        packet.ttl = value(Field::Ttl).unwrap_or(64).max(1) as u8;
        packet.tos = value(Field::Tos).unwrap_or(0) as u8;
        if let Some(length) = value(Field::Length) {
            let header = if family == Family::V4 { 20 } else { 40 };
            let l4 = if protocol == proto::TCP { 24 } else { 8 };
            packet.payload = length.saturating_sub(header + l4).min(9_000) as u16;
        }
        let name = |field| match value(field) {
            None | Some(0) => None,
            Some(v) => {
                let mut names = self.names.iter();
                names.find(|n| interface_number(n) == v).cloned()
            }
        };
        match shape.sent {
            true => packet.output = Some(name(Field::OutName)?),
            false => {
                packet.input = Some(name(Field::InName)?);
                if shape.leaves && self.host.is_none() {
                    packet.output = Some(name(Field::OutName)?);
                }
            }
        }
        Some(packet)
    }

    /// A host where the packet goes as it is said to.
    pub(crate) fn made(&self, shape: Shape, example: &Example, packet: &Described) -> Host {
        let family = self.family;
        let get = |field| example.values.get(&field).copied().unwrap_or(0);
        let to = match shape.to {
            Bound::Const(a) => a,
            Bound::Of { keep, xor, .. } => get(Field::Dst) & keep ^ xor,
            Bound::Absent | Bound::Unknown => get(Field::Dst),
        };
        let bits = match family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        let one = |addr| Prefix {
            family,
            addr,
            len: bits,
        };
        let local = get(Field::DstType) == RouteType::Local as u128;
        let mut links: Vec<Interface> = (0u32..)
            .zip(self.names)
            .map(|(at, name)| link(at, name, family))
            .collect();
        let named = |name: &Option<String>, links: &[Interface]| {
            let at = name.as_ref();
            at.and_then(|n| links.iter().position(|i| i.name == *n))
        };
        let (input, output) = (named(&packet.input, &links), named(&packet.output, &links));
        if let Some(at) = input {
            let here = !shape.leaves && !shape.translated;
            if here || local {
                links[at].addresses.push(one(get(Field::Dst)));
            }
        }
        let mut routes = Vec::new();
        let mut lead = |to: Prefix, at: Option<usize>, links: &[Interface]| {
            routes.extend(at.map(|at| route(to, links[at].index)));
        };
        match input {
            Some(_) => lead(one(get(Field::Src)), input, &links),
            None => {
                if let Some(at) = output {
                    links[at].addresses.push(one(get(Field::Src)));
                }
            }
        }
        if shape.leaves {
            lead(one(to), output, &links);
        }
        let everything = Prefix {
            family,
            addr: 0,
            len: 0,
        };
        lead(everything, input.or(output), &links);
        let settings = Settings {
            forward4: true,
            forward6: true,
            ..Settings::default()
        };
        links.push(loopback());
        Host {
            sockets: None,
            env: Env::new(links, &routes, &[], settings),
            config: Config::default(),
        }
    }
}

fn link(at: u32, name: &str, family: Family) -> Interface {
    // Addresses of networks for tests (RFC 2544, RFC 5180).
    let (addr, len) = match family {
        Family::V4 => (u128::from(0xc612_0001 + (at << 8)), 24),
        Family::V6 => (0x2001_0002u128 << 96 | u128::from(at) << 64 | 1, 64),
    };
    Interface {
        index: IfIndex(LOOPBACK.0 + 1 + at),
        name: name.to_owned(),
        addresses: vec![Prefix { family, addr, len }],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    }
}

fn loopback() -> Interface {
    let own = |family, addr, len| Prefix { family, addr, len };
    Interface {
        index: LOOPBACK,
        name: "lo".to_owned(),
        addresses: vec![own(Family::V4, 0x7f00_0001, 8), own(Family::V6, 1, 128)],
        group: 0,
        mtu: 65_536,
        mac: None,
        loopback: true,
    }
}

const fn route(to: Prefix, dev: IfIndex) -> Route {
    Route {
        to,
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        dev: Some(dev),
        via: None,
        src: None,
        realm: 0,
        metric: 0,
    }
}

/// The packet as `tidegate explain` reads it.
pub(crate) fn words(packet: &Described) -> String {
    let end = |addr: IpAddr, port: u16| match (has_ports(packet.proto), addr) {
        (false, addr) => addr.to_string(),
        (true, IpAddr::V4(addr)) => format!("{addr}:{port}"),
        (true, IpAddr::V6(addr)) => format!("[{addr}]:{port}"),
    };
    let mut text = format!(
        "{} {} > {}",
        ProtoName(packet.proto),
        end(packet.src, packet.sport),
        end(packet.dst, packet.dport)
    );
    for (word, name) in [("in", &packet.input), ("out", &packet.output)] {
        if let Some(name) = name {
            text += &format!(" {word} {name}");
        }
    }
    for (word, value, usual) in [
        ("ttl", u16::from(packet.ttl), 64),
        ("tos", u16::from(packet.tos), 0),
        ("bytes", packet.payload, 0),
    ] {
        if value != usual {
            text += &format!(" {word} {value}");
        }
    }
    if packet.proto == proto::TCP {
        text += &format!(" {}", flags(packet.tcp_flags()));
    }
    text
}

/// TCP flags as `tidegate explain` reads them.
fn flags(bits: u8) -> String {
    use tidegate_wire::tcp::flags::{ACK, FIN, PSH, RST, SYN, URG};
    let names = [
        (SYN, "syn"),
        (ACK, "ack"),
        (FIN, "fin"),
        (RST, "rst"),
        (PSH, "psh"),
        (URG, "urg"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|f| bits & f.0 != 0)
        .map(|f| f.1)
        .collect();
    match set.is_empty() {
        true => "none".to_owned(),
        false => set.join(","),
    }
}
