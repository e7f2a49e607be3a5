//! What packets cost with one rule and with many, in few connections and in many, one at a
//! time and in batches.

use anyhow::Result;
use tidegate_engine::conntrack::AHEAD;

use crate::established::{engine, opening, parse_only};
use crate::measure::Group;
use crate::surroundings::{Established, load, many};
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

/// Measures by rules, then by connections.
///
/// # Errors
/// A ruleset cannot be read, or a packet is not let through.
pub(crate) fn run() -> Result<()> {
    by_rules()?;
    for (connections, name) in SETS {
        by_connections(connections, name)?;
    }
    Ok(())
}

fn by_rules() -> Result<()> {
    let traffic = &Traffic::random(CONNECTIONS, PACKETS);
    let rulesets = SIZES
        .iter()
        .map(|(count, _)| load(&many(*count, Established::Last)));
    let rulesets = rulesets.collect::<Result<Vec<_>>>()?;
    let named = || SIZES.iter().map(|s| s.1).zip(&rulesets);
    let handshakes = CONNECTIONS * HANDSHAKE;
    for (how, batch) in [("one at a time", 1), ("in batches", AHEAD)] {
        Group {
            title: format!(
                "Established TCP, random ones of {CONNECTIONS} connections, the rule for it last, {how}"
            ),
            unit: ("packet", PACKETS),
            rounds: 5,
            subjects: named()
                .map(|(name, rules)| -> (&str, crate::measure::Subject<'_>) {
                    (name, Box::new(move || engine(traffic, handshakes, rules, batch)))
                })
                .collect(),
        }
        .run()?;
        Group {
            title: format!(
                "First packets of {CONNECTIONS} connections, let in by the rule before last, {how}"
            ),
            unit: ("packet", CONNECTIONS),
            rounds: 5,
            subjects: named()
                .map(|(name, rules)| -> (&str, crate::measure::Subject<'_>) {
                    (
                        name,
                        Box::new(move || opening(traffic, CONNECTIONS, rules, batch)),
                    )
                })
                .collect(),
        }
        .run()?;
    }
    Ok(())
}

fn by_connections(connections: usize, name: &str) -> Result<()> {
    let traffic = &Traffic::random(connections, PACKETS);
    let rules = &load(&many(98, Established::Last))?;
    let opening = connections * HANDSHAKE;
    Group {
        title: format!("Established TCP, 100 rules, random packets of {name}"),
        unit: ("packet", PACKETS),
        rounds: 5,
        subjects: vec![
            (
                "connections: copy and parse only",
                Box::new(|| parse_only(traffic, opening)),
            ),
            (
                "connections: one at a time",
                Box::new(|| engine(traffic, opening, rules, 1)),
            ),
            (
                "connections: in batches",
                Box::new(|| engine(traffic, opening, rules, AHEAD)),
            ),
        ],
    }
    .run()
}
