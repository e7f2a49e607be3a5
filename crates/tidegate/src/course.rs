//! Described packets and whole connections through the engine.
//!
//! What answers a packet is made from what the engine let out, so that translation is
//! followed: a server answers the addresses it saw.

use std::ops::ControlFlow;
use std::sync::Arc;

use tidegate_engine::env::{Env, IfIndex};
use tidegate_engine::{Engine, Incoming, Output, Role, Socket, Trace};
use tidegate_host::{Host, address};
use tidegate_wire::{Family, be16, parse, proto, tcp};

use crate::packets::{Described, Ends, Segment, bytes};
use crate::replay::fate::Fate;
use crate::replay::rules::Rules;

/// Sequence number of a client's SYN.
pub(crate) const FIRST_SEQ: u32 = 1_000;
/// Sequence number of a server's SYN.
const SERVER_SEQ: u32 = 5_000;
/// When the first packet is sent: 2026-01-01, so that timestamps look like some.
pub(crate) const START: u64 = 1_767_225_600_000_000_000;
/// Nanoseconds between the packets of a connection.
const STEP: u64 = 1_000_000;
/// Payload of a data packet.
const DATA: u16 = 16;

/// Where packets of one end come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This host.
    Here,
    /// Behind an interface.
    At(IfIndex),
}

/// A packet that went through.
#[derive(Debug)]
pub(crate) struct Passed {
    /// What became of it.
    pub(crate) fate: Fate,
    /// What came out.
    pub(crate) outputs: Vec<Output>,
    /// Bytes that went in.
    pub(crate) bytes: Vec<u8>,
    /// Where it went in.
    pub(crate) from: Place,
}

impl Passed {
    /// Whether it arrived somewhere.
    pub(crate) fn arrived(&self) -> bool {
        matches!(self.fate, Fate::Accept)
    }
}

/// An engine with a clock.
pub(crate) struct Runner {
    /// The engine.
    pub(crate) engine: Engine,
    /// Its surroundings.
    pub(crate) env: Arc<Env>,
    /// Nanoseconds since 1970.
    pub(crate) now: u64,
    /// Nothing has been sent yet.
    fresh: bool,
    /// Whose the next packet is, if somebody said so.
    sender: Option<Arc<Socket>>,
}

/// A packet that was driven.
pub(crate) struct Sent<'d> {
    /// As it was described, or the one that opens the connection.
    pub(crate) packet: &'d Described,
    /// What it is in a connection's course.
    pub(crate) step: Option<&'static Step>,
    /// Where an answer to it would go past this host.
    pub(crate) hairpin: Option<Hairpin>,
}

impl Runner {
    /// An engine on `host` with these rules and no connections.
    pub(crate) fn new(host: &Host, rules: &Rules) -> Self {
        let env = Arc::new(host.env.clone());
        let mut engine = Engine::new(host.config.clone(), env.clone());
        rules.load(&mut engine);
        engine.set_sockets(host.sockets.clone().map(|s| Box::new(s) as _));
        Runner {
            engine,
            env,
            now: START,
            fresh: true,
            sender: None,
        }
    }

    /// Forgets connections and all else that packets leave behind.
    pub(crate) fn forget(&mut self) {
        self.engine.forget();
        self.fresh = true;
    }

    /// Sends packets one after the other, or with `course` the connections that they open,
    /// each until a packet of it is stopped. `make` makes what watches a packet; `seen`
    /// hears of each, and may end it.
    pub(crate) fn drive<'d, T: Trace>(
        &mut self,
        packets: impl IntoIterator<Item = &'d Described>,
        course: bool,
        make: impl Fn(&Runner, &Described) -> T,
        mut seen: impl FnMut(&mut Runner, Sent<'d>, Passed, T) -> ControlFlow<()>,
    ) {
        for packet in packets {
            if !self.fresh {
                self.wait(packet.after);
            }
            self.fresh = false;
            let mut course = course.then(|| Course::new(packet, self));
            let next = |course: &mut Option<Course<'d>>, runner: &Runner| match course {
                Some(course) => course.next().map(|(step, from, b)| (Some(step), from, b)),
                None => Some((None, runner.place(packet), alone(packet))),
            };
            while let Some((step, from, bytes)) = next(&mut course, self) {
                let mut trace = make(self, packet);
                if step.is_none_or(|s| !s.reply) {
                    self.sender = packet.sender().map(Arc::new);
                }
                let passed = self.pass(from, bytes, packet.mark, &mut trace);
                let arrived = passed.arrived();
                let mut hairpin = None;
                if let Some(course) = course.as_mut().filter(|_| step.is_some_and(|s| !s.reply)) {
                    hairpin = course.arrived(self, &passed);
                }
                let sent = Sent {
                    packet,
                    step,
                    hairpin,
                };
                if seen(self, sent, passed, trace).is_break() {
                    return;
                }
                if step.is_none() || !arrived {
                    break;
                }
                self.wait(STEP);
            }
        }
    }

    /// Where a described packet goes in: at its interface, else where it must come from.
    pub(crate) fn place(&self, packet: &Described) -> Place {
        let (family, src) = tidegate_host::number(packet.src);
        let named = |name: &Option<String>| {
            let found = self.env.interface_named(name.as_deref()?);
            found.map(|i| i.index)
        };
        match named(&packet.input) {
            Some(dev) if dev == self.env.loopback() => Place::Here,
            Some(dev) => Place::At(dev),
            None if self.env.is_local(family, src) || packet.output.is_some() => Place::Here,
            None => match self.env.route(family, src, 0, 0).and_then(|r| r.dev) {
                Some(dev) if dev != self.env.loopback() => Place::At(dev),
                _ => Place::Here,
            },
        }
    }

    /// Sends a packet in at `from`.
    pub(crate) fn pass<T: Trace>(
        &mut self,
        from: Place,
        packet: Vec<u8>,
        mark: u32,
        trace: &mut T,
    ) -> Passed {
        let bytes = packet.clone();
        let outcome = match from {
            Place::Here => match self.sender.take() {
                None => self.engine.send(self.now, packet, mark, trace),
                known => self.engine.send_as(self.now, packet, mark, known, trace),
            },
            Place::At(dev) => {
                let incoming = Incoming::on(dev);
                self.engine.receive(self.now, incoming, packet, trace)
            }
        };
        Passed {
            fate: Fate::of(outcome.disposition),
            outputs: outcome.outputs,
            bytes,
            from,
        }
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, nanoseconds: u64) {
        self.now = self.now.saturating_add(nanoseconds);
        if self.engine.poll_timeout().is_some_and(|t| t <= self.now) {
            self.engine.handle_timeout(self.now);
        }
    }

    /// Where a packet came out, and as what.
    pub(crate) fn arrival<'p>(&self, passed: &'p Passed) -> Option<(Place, &'p [u8])> {
        passed.outputs.iter().find_map(|o| match o {
            Output::Transmit {
                dev, bytes, role, ..
            } if *role != Role::Emitted => {
                let place = match *dev == self.env.loopback() {
                    true => Place::Here,
                    false => Place::At(*dev),
                };
                Some((place, bytes.as_slice()))
            }
            Output::Deliver { bytes, .. } => Some((Place::Here, bytes.as_slice())),
            Output::Transmit { .. } | Output::Log { .. } | Output::Nflog(_) => None,
        })
    }
}

/// One packet of a connection's course.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Sent by the server.
    pub(crate) reply: bool,
    /// What it is, in a few words.
    pub(crate) what: &'static str,
    segment: Segment,
    payload: u16,
}

const fn step(reply: bool, what: &'static str, flags: u8, at: (u32, u32), payload: u16) -> Step {
    let (seq, ack) = at;
    Step {
        reply,
        what,
        segment: Segment { flags, seq, ack },
        payload,
    }
}

const SYN: u8 = tcp::flags::SYN;
const ACK: u8 = tcp::flags::ACK;
const PSH: u8 = tcp::flags::PSH;
const FIN: u8 = tcp::flags::FIN;
const C: u32 = FIRST_SEQ + 1;
const S: u32 = SERVER_SEQ + 1;
const D: u32 = DATA as u32;

/// A TCP connection: handshake, a request and its answer, the end.
const TCP: [Step; 9] = [
    step(false, "opens", SYN, (FIRST_SEQ, 0), 0),
    step(true, "accepts", SYN | ACK, (SERVER_SEQ, C), 0),
    step(false, "confirms", ACK, (C, S), 0),
    step(false, "request", PSH | ACK, (C, S), DATA),
    step(true, "answer", PSH | ACK, (S, C + D), DATA),
    step(false, "has it", ACK, (C + D, S + D), 0),
    step(false, "closes", FIN | ACK, (C + D, S + D), 0),
    step(true, "closes too", FIN | ACK, (S + D, C + D + 1), 0),
    step(false, "the end", ACK, (C + D + 1, S + D + 1), 0),
];

/// Everything else: question, answer, question.
const OTHER: [Step; 3] = [
    step(false, "request", 0, (0, 0), DATA),
    step(true, "answer", 0, (0, 0), DATA),
    step(false, "another request", 0, (0, 0), DATA),
];

/// The packets of the connection that `packet` opens.
pub(crate) fn steps(packet: &Described) -> &'static [Step] {
    match packet.proto {
        proto::TCP => &TCP,
        _ if packet.is_icmp() && !is_echo(packet) => &OTHER[..1],
        _ => &OTHER,
    }
}

fn is_echo(packet: &Described) -> bool {
    let echo = match packet.family() {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    packet.is_icmp() && packet.icmp.is_some_and(|t| t.0 == echo)
}

/// The bytes of a step of the connection that `packet` opens, sent between `ends`.
pub(crate) fn step_bytes(packet: &Described, ends: Ends, step: &Step) -> Vec<u8> {
    let mut sent = Described {
        payload: step.payload.max(match step.what {
            "opens" | "request" => packet.payload,
            _ => 0,
        }),
        ..packet.clone()
    };
    if step.reply && is_echo(packet) {
        sent.icmp = match packet.family() {
            Family::V4 => Some((0, 0)),
            Family::V6 => Some((129, 0)),
        };
    }
    bytes(&sent, ends, step.segment)
}

/// The bytes of a packet described on its own.
pub(crate) fn alone(packet: &Described) -> Vec<u8> {
    let flags = packet.tcp_flags();
    let mut segment = Segment {
        flags,
        seq: FIRST_SEQ,
        ack: 0,
    };
    let said = |segment: Segment| Segment {
        seq: packet.seq.unwrap_or(segment.seq),
        ack: packet.ack.unwrap_or(segment.ack),
        ..segment
    };
    // Continues the course above, if that is what it follows.
    if flags & ACK != 0 {
        segment = match flags & SYN != 0 {
            true => TCP[1].segment,
            false => TCP[2].segment,
        };
        segment.flags = flags;
    }
    bytes(packet, packet.ends(), said(segment))
}

/// Both ends of a packet by its bytes.
pub(crate) fn ends_of(packet: &[u8]) -> Option<Ends> {
    let layout = parse(packet).ok()?;
    let l4 = layout.l4(packet);
    let icmp = matches!(layout.proto, proto::ICMP | proto::ICMPV6);
    let (sport, dport) = match icmp {
        true => (be16(l4, 4)?, 0),
        false => (be16(l4, 0).unwrap_or(0), be16(l4, 2).unwrap_or(0)),
    };
    Some(Ends {
        src: address(layout.family, layout.src(packet)),
        dst: address(layout.family, layout.dst(packet)),
        sport,
        dport,
    })
}

/// The two sides of a connection under way.
pub(crate) struct Course<'d> {
    packet: &'d Described,
    client: (Place, Ends),
    /// Where the server is and what it answers, once a packet has reached it.
    server: Option<(Place, Ends)>,
    at: usize,
}

impl<'d> Course<'d> {
    /// The connection that `packet` opens.
    pub(crate) fn new(packet: &'d Described, runner: &Runner) -> Self {
        Course {
            packet,
            client: (runner.place(packet), packet.ends()),
            server: None,
            at: 0,
        }
    }

    /// The next packet: its step, where it goes in and its bytes.
    pub(crate) fn next(&mut self) -> Option<(&'static Step, Place, Vec<u8>)> {
        let step = steps(self.packet).get(self.at)?;
        let (place, ends) = match step.reply {
            false => self.client,
            true => self.server?,
        };
        self.at += 1;
        Some((step, place, step_bytes(self.packet, ends, step)))
    }

    /// Learns from the first client's packet that arrived where the server is, and whether
    /// it would answer past this host.
    pub(crate) fn arrived(&mut self, runner: &Runner, passed: &Passed) -> Option<Hairpin> {
        if self.server.is_some() || !passed.arrived() {
            return None;
        }
        let (place, bytes) = runner.arrival(passed)?;
        let ends = ends_of(bytes)?.reversed(self.packet.is_icmp());
        self.server = Some((place, ends));
        self.hairpin(runner)
    }

    /// Whether the server would answer the client past this host: both are on one link,
    /// the server sees the client's own address, and the client expects another one.
    fn hairpin(&self, runner: &Runner) -> Option<Hairpin> {
        let (Place::At(dev), Some((Place::At(to), ends))) = (self.client.0, self.server) else {
            return None;
        };
        let translated = ends.src != self.packet.dst;
        let own = ends.dst == self.packet.src;
        let (family, client) = tidegate_host::number(self.packet.src);
        let server = tidegate_host::number(ends.src).1;
        let link = runner.env.interface(dev)?;
        let shared = link
            .addresses
            .iter()
            .find(|a| a.family == family && a.contains(client) && a.contains(server))?;
        (dev == to && translated && own).then(|| Hairpin {
            server: ends.src,
            network: format!(
                "{}/{}",
                address(family, shared.addr & shared.mask()),
                shared.len
            ),
            port: ends.sport,
        })
    }
}

/// A translation whose answers go past the firewall.
#[derive(Debug)]
pub(crate) struct Hairpin {
    /// The server's own address.
    pub(crate) server: std::net::IpAddr,
    /// The network that client and server share.
    pub(crate) network: String,
    /// The server's port.
    pub(crate) port: u16,
}
