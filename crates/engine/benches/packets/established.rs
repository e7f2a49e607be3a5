//! Established traffic through the engine.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_engine::{Config, Disposition, Engine, Incoming};
use tidegate_ir::{Facts, Field, Ruleset, StepId, TableKind, Truth, ctstate};
use tidegate_wire::{Layout, be16, parse};

use crate::measure::{Group, timed};
use crate::surroundings::{Established, INSIDE, OUTSIDE, load, router_of, rules};
use crate::traffic::{HANDSHAKE, Traffic};

const CONNECTIONS: usize = 10_000;
const PACKETS: usize = 600_000;
/// Between two packets, in nanoseconds of the engine's clock.
const PACE: u64 = 1_000;

/// Measures with small and with full packets.
///
/// # Errors
/// A ruleset cannot be read, or a packet is not let through.
pub(crate) fn run() -> Result<()> {
    group(&Traffic::new(CONNECTIONS, PACKETS, 0), 7)?;
    group(&Traffic::new(CONNECTIONS, PACKETS / 2, 840), 5)
}

fn group(traffic: &Traffic, rounds: usize) -> Result<()> {
    let first = load(&rules(Established::First))?;
    let last = load(&rules(Established::Last))?;
    let opening = CONNECTIONS * HANDSHAKE;
    let measured = traffic.packets(opening).count();
    let bytes: usize = traffic
        .packets(opening)
        .map(|(packet, _)| packet.len())
        .sum();
    Group {
        title: format!(
            "Established TCP, {CONNECTIONS} connections in turn, {:.0} bytes a packet on average",
            bytes as f64 / measured as f64
        ),
        unit: ("packet", measured),
        rounds,
        subjects: vec![
            (
                "copy and parse only",
                Box::new(|| parse_only(traffic, opening)),
            ),
            (
                "the same and 100 rules, nothing tracked",
                Box::new(|| scan(traffic, opening, &last)),
            ),
            (
                "engine, 100 rules, ESTABLISHED first",
                Box::new(|| engine(traffic, opening, &first, 1)),
            ),
            (
                "engine, 100 rules, ESTABLISHED last",
                Box::new(|| engine(traffic, opening, &last, 1)),
            ),
        ],
    }
    .run()?;
    Ok(())
}

pub(crate) fn parse_only(traffic: &Traffic, from: usize) -> Result<Duration> {
    let mut buffer = Vec::new();
    let run = || {
        for (packet, _) in traffic.packets(from) {
            buffer.clear();
            buffer.extend_from_slice(packet);
            black_box(parse(&buffer)).ok();
        }
        Ok(())
    };
    Ok(timed(run)?.0)
}

/// A packet without connection tracking, as little as rules need to be evaluated.
struct Bare<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl Facts for Bare<'_> {
    #[inline]
    fn load(&mut self, field: Field) -> Option<u128> {
        let l4 = self.layout.l4(self.bytes);
        match field {
            Field::Src => Some(self.layout.src(self.bytes)),
            Field::Dst => Some(self.layout.dst(self.bytes)),
            Field::Proto => Some(u128::from(self.layout.proto)),
            Field::FragOff => Some(u128::from(self.layout.frag_off)),
            Field::L4Len => Some(l4.len() as u128),
            Field::Sport => be16(l4, 0).map(u128::from),
            Field::Dport => be16(l4, 2).map(u128::from),
            Field::CtState => Some(ctstate::ESTABLISHED),
            _ => None,
        }
    }

    fn step(&mut self, _: StepId) -> Truth {
        Truth::False
    }
}

fn scan(traffic: &Traffic, from: usize, rules: &Ruleset) -> Result<Duration> {
    let filter = rules.table(TableKind::Filter);
    let chain = filter.and_then(|t| t.chains.iter().find(|c| c.name == "FORWARD"));
    let conds: Vec<_> = chain
        .into_iter()
        .flat_map(|c| c.rules.iter())
        .map(|r| &r.cond)
        .collect();
    let mut buffer = Vec::new();
    let run = || {
        for (packet, _) in traffic.packets(from) {
            buffer.clear();
            buffer.extend_from_slice(packet);
            let Ok(layout) = parse(&buffer) else { continue };
            let mut bare = Bare {
                bytes: &buffer,
                layout,
            };
            let hit = conds
                .iter()
                .position(|c| c.eval(&mut bare, &mut ()) == Truth::True);
            ensure!(hit == Some(conds.len() - 1), "decided by rule {hit:?}");
        }
        Ok(())
    };
    Ok(timed(run)?.0)
}

/// An engine that has seen the handshakes takes the rest, so many at a time.
pub(crate) fn engine(
    traffic: &Traffic,
    opening: usize,
    rules: &Arc<Ruleset>,
    batch: usize,
) -> Result<Duration> {
    let mut receiver = Receiver::new(rules, opening / HANDSHAKE, batch);
    receiver.all(traffic.packets(0).take(opening))?;
    let run = || receiver.all(traffic.packets(opening));
    Ok(timed(run)?.0)
}

/// A new engine takes the first packets of as many connections.
pub(crate) fn opening(
    traffic: &Traffic,
    connections: usize,
    rules: &Arc<Ruleset>,
    batch: usize,
) -> Result<Duration> {
    let mut receiver = Receiver::new(rules, connections, batch);
    let run = || receiver.all(traffic.packets(0).take(connections));
    Ok(timed(run)?.0)
}

/// An engine and what feeds it.
struct Receiver {
    engine: Engine,
    now: u64,
    /// Packets that the engine is told of before it gets them; 1 is none.
    batch: usize,
    waiting: Vec<(Incoming, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
}

impl Receiver {
    fn new(rules: &Arc<Ruleset>, connections: usize, batch: usize) -> Self {
        let mut config = Config::default();
        config.conntrack.max = 0;
        // As the kernel does: as many as connections that are allowed.
        config.conntrack.buckets = connections.max(config.conntrack.buckets as usize) as u32;
        let mut engine = Engine::new(config, router_of(8));
        engine.load(rules.clone());
        Receiver {
            engine,
            now: 1_700_000_000_000_000_000,
            batch,
            waiting: Vec::new(),
            spare: Vec::new(),
        }
    }

    fn all<'p>(&mut self, packets: impl Iterator<Item = (&'p [u8], bool)>) -> Result<()> {
        for (packet, client) in packets {
            let mut bytes = self.spare.pop().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(packet);
            let incoming = Incoming::on(if client { INSIDE } else { OUTSIDE });
            self.waiting.push((incoming, bytes));
            if self.waiting.len() == self.batch {
                self.decide()?;
            }
        }
        self.decide()
    }

    /// As the datapath does with the frames of a batch.
    fn decide(&mut self) -> Result<()> {
        if self.batch > 1 {
            let packets = self.waiting.iter().map(|(_, bytes)| bytes.as_slice());
            self.engine.foresee(packets);
        }
        for (incoming, bytes) in self.waiting.drain(..) {
            self.now += PACE;
            let outcome = self.engine.receive(self.now, incoming, bytes, &mut ());
            ensure!(
                outcome.disposition == Disposition::Sent,
                "{:?}",
                outcome.disposition
            );
            self.spare.extend(self.engine.recycle(outcome.outputs));
        }
        Ok(())
    }
}
