//! Established traffic through the engine.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::hint::black_box;

use anyhow::Result;
use tidegate_engine::conntrack::{Conntrack, EntryId};
use tidegate_wire::parse;

use crate::buffers::Buffers;
use crate::linear::{conditions, walk};
use crate::measure::{Group, Meter, Subject, Took};
use crate::receiver::{Loaded, Receiver};
use crate::surroundings::{Established, router_of, rules};
use crate::traffic::{HANDSHAKE, Traffic};

const CONNECTIONS: usize = 10_000;
const PACKETS: usize = 600_000;

/// Measures with small and with full packets.
///
/// # Errors
/// A ruleset cannot be read, or a packet is not let through.
pub(crate) fn run() -> Result<()> {
    group(&Traffic::new(CONNECTIONS, PACKETS, 0), 7)?;
    group(&Traffic::new(CONNECTIONS, PACKETS / 2, 840), 5)
}

fn group(traffic: &Traffic, rounds: usize) -> Result<()> {
    let first = Loaded::new(&rules(Established::First))?;
    let last = Loaded::new(&rules(Established::Last))?;
    let last_rule = conditions(&last.rules).len() - 1;
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
        unit: "packet",
        rounds,
        subjects: vec![
            Subject::new("parse only", || parse_only(traffic, opening)),
            Subject::new("the same and 100 rules one by one, nothing tracked", || {
                let packets = traffic.packets(opening).map(|p| p.0);
                walk(&last.rules, packets, |_, hit| hit == Some(last_rule))
            }),
            Subject::new("engine, 100 rules, ESTABLISHED first", || {
                engine(traffic, opening, &first, 1)
            }),
            Subject::new("engine, 100 rules, ESTABLISHED last", || {
                engine(traffic, opening, &last, 1)
            }),
        ],
    }
    .run()?;
    Ok(())
}

pub(crate) fn parse_only(traffic: &Traffic, from: usize) -> Result<Took> {
    let meter = Meter::new()?;
    let time = Buffers::default().each(traffic.packets(from), |lot| {
        for (packet, _) in lot {
            black_box(parse(packet)).ok();
        }
        Ok(())
    })?;
    meter.took(time, traffic.packets(from).count())
}

/// An engine that has seen the handshakes takes the rest, so many at a time.
pub(crate) fn engine(
    traffic: &Traffic,
    opening: usize,
    rules: &Loaded,
    batch: usize,
) -> Result<Took> {
    let meter = Meter::new()?;
    let mut receiver = Receiver::new(rules, router_of(8), opening / HANDSHAKE, batch);
    receiver.all(traffic.packets(0).take(opening))?;
    let time = receiver.all(traffic.packets(opening))?;
    let took = meter.took(time, traffic.packets(opening).count())?;
    Ok(took.and(rules.bytes))
}

/// Where new entries come to lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// In what the system has to give first.
    New,
    /// Where others were, which are gone, in no order that the processor could guess.
    There,
}

/// An engine takes the first packets of as many connections.
pub(crate) fn opening(
    traffic: &Traffic,
    connections: usize,
    rules: &Loaded,
    batch: usize,
    memory: Memory,
) -> Result<Took> {
    let meter = Meter::new()?;
    let mut receiver = Receiver::new(rules, router_of(8), connections, batch);
    let packets = || traffic.packets(0).take(connections);
    if memory == Memory::There {
        receiver.all(packets())?;
        empty(receiver.engine.conntrack_mut());
    }
    let time = receiver.all(packets())?;
    Ok(meter.took(time, connections)?.and(rules.bytes))
}

/// Deletes all connections, by their hash.
fn empty(conntrack: &mut Conntrack) {
    let hash = |id: &EntryId| BuildHasherDefault::<DefaultHasher>::default().hash_one(id);
    let mut all: Vec<EntryId> = conntrack.iter().map(|(id, _)| id).collect();
    all.sort_by_cached_key(hash);
    for id in all {
        conntrack.delete(id);
    }
}
