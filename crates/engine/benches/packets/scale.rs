//! What packets cost with one rule and with many, in few connections and in many, one at a
//! time and in batches.

use std::path::Path;

use anyhow::Result;
use tidegate_engine::conntrack::AHEAD;

use crate::established::{Memory, engine, opening, parse_only};
use crate::measure::{Group, Subject};
use crate::plot::{Line, Picture};
use crate::receiver::Loaded;
use crate::surroundings::{Established, many};
use crate::traffic::{HANDSHAKE, Traffic};

/// The working set that caches have to bear.
const CONNECTIONS: usize = 100_000;
const PACKETS: usize = 500_000;

/// Rules beside the two that the traffic meets.
const SIZES: [(u32, &str); 4] = [
    (0, "2 rules"),
    (98, "100 rules"),
    (9_998, "10,000 rules"),
    (99_998, "100,000 rules"),
];

/// Working sets.
const SETS: [(usize, &str); 5] = [
    (1, "1 connection"),
    (100, "100 connections"),
    (10_000, "10,000 connections"),
    (100_000, "100,000 connections"),
    (1_000_000, "1,000,000 connections"),
];

/// Measures by rules and by connections; pictures go to `plots`.
///
/// # Errors
/// A ruleset cannot be read, a packet is not let through, a picture cannot be written.
pub(crate) fn run(plots: Option<&Path>) -> Result<()> {
    let rules = by_rules()?;
    let connections = by_connections()?;
    datagrams()?;
    let Some(dir) = plots else { return Ok(()) };
    if rules.iter().all(|l| !l.points.is_empty()) {
        Picture {
            title: &format!("{CONNECTIONS} connections: ns a packet"),
            across: "rules",
            ..Picture::NANOSECONDS
        }
        .write(&dir.join("ns-by-rules.svg"), &rules)?;
    }
    if connections.iter().all(|l| !l.points.is_empty()) {
        Picture {
            title: "Random packets of established connections, 100 rules: ns a packet",
            across: "connections",
            ..Picture::NANOSECONDS
        }
        .write(&dir.join("ns-by-connections.svg"), &connections)?;
    }
    Ok(())
}

fn by_rules() -> Result<Vec<Line>> {
    let traffic = &Traffic::random(CONNECTIONS, PACKETS);
    let rulesets = SIZES
        .iter()
        .map(|(count, _)| Loaded::new(&many(*count, Established::Last)));
    let rulesets = rulesets.collect::<Result<Vec<_>>>()?;
    let named = || SIZES.iter().map(|s| s.1).zip(&rulesets);
    let handshakes = CONNECTIONS * HANDSHAKE;
    let mut lines = Vec::new();
    let mut line = |name: &str, how: &str, each: Vec<f64>| {
        lines.push(Line {
            name: format!("{name}, {how}"),
            points: SIZES.iter().map(|s| s.0 as usize + 2).zip(each).collect(),
        });
    };
    for (how, batch) in [("one at a time", 1), ("in batches", AHEAD)] {
        let group = Group {
            title: format!(
                "Established TCP, random ones of {CONNECTIONS} connections, the rule for it last, {how}"
            ),
            unit: "packet",
            rounds: 5,
            subjects: named()
                .map(|(name, rules)| {
                    Subject::new(name, move || engine(traffic, handshakes, rules, batch))
                })
                .collect(),
        };
        line("established", how, group.run()?);
        for (memory, where_, name) in [
            (Memory::New, "in new memory", "first packet"),
            (
                Memory::There,
                "where others were",
                "first packet where others were",
            ),
        ] {
            let group = Group {
                title: format!(
                    "First packets of {CONNECTIONS} connections, let in by the rule before last, {how}, {where_}"
                ),
                unit: "packet",
                rounds: 5,
                subjects: named()
                    .map(|(name, rules)| {
                        let work = move || opening(traffic, CONNECTIONS, rules, batch, memory);
                        Subject::new(name, work)
                    })
                    .collect(),
            };
            line(name, how, group.run()?);
        }
    }
    Ok(lines)
}

/// What is measured with each number of connections, and how many packets are announced.
const WAYS: [(&str, usize); 2] = [("one at a time", 1), ("in batches", AHEAD)];

fn by_connections() -> Result<Vec<Line>> {
    let mut lines = WAYS.map(|(name, _)| Line {
        name: name.to_owned(),
        points: Vec::new(),
    });
    let rules = &Loaded::new(&many(98, Established::Last))?;
    for (connections, name) in SETS {
        let traffic = &Traffic::random(connections, PACKETS);
        let opening = connections * HANDSHAKE;
        let parse = Subject::new("parse only", || parse_only(traffic, opening));
        let ways = WAYS.map(|(name, batch)| {
            Subject::new(name, move || engine(traffic, opening, rules, batch))
        });
        let subjects = std::iter::once(parse).chain(ways).collect();
        let group = Group {
            title: format!("Established TCP, 100 rules, random packets of {name}"),
            unit: "packet",
            rounds: 5,
            subjects,
        };
        for (line, ns) in lines.iter_mut().zip(group.run()?.into_iter().skip(1)) {
            line.points.push((connections, ns));
        }
    }
    Ok(lines.into())
}

/// The least that a packet of a connection can ask of an engine.
fn datagrams() -> Result<()> {
    let rules = &Loaded::new(&many(98, Established::Last))?;
    let sets: Vec<_> = SETS
        .iter()
        .map(|&(connections, name)| (connections, name, Traffic::datagrams(connections, PACKETS)))
        .collect();
    let subjects = sets.iter().map(|(connections, name, traffic)| {
        let opening = connections * HANDSHAKE;
        Subject::new(*name, move || engine(traffic, opening, rules, AHEAD))
    });
    Group {
        title: "Established UDP, 46 bytes, 100 rules, random packets, in batches".to_owned(),
        unit: "packet",
        rounds: 5,
        subjects: subjects.collect(),
    }
    .run()?;
    Ok(())
}
