//! What packets cost with one rule and with many, in few connections and in many, one at a
//! time and in batches.

use std::path::Path;

use anyhow::{Result, anyhow};
use tidegate_engine::conntrack::AHEAD;

use crate::established::{engine, opening, parse_only};
use crate::measure::{Group, Subject};
use crate::plot::{self, Line};
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

/// Measures by rules, by connections and by processors; pictures go to `plots`.
///
/// # Errors
/// A ruleset cannot be read, a packet is not let through, a picture cannot be written.
pub(crate) fn run(plots: Option<&Path>) -> Result<()> {
    let rules = by_rules()?;
    let connections = by_connections()?;
    if let Some(dir) = plots {
        let path = dir.join("ns-by-rules.svg");
        let title = format!("{CONNECTIONS} connections: ns a packet");
        plot::write(&path, &title, "rules", &rules)?;
        let path = dir.join("ns-by-connections.svg");
        let title = "Random packets of established connections, 100 rules: ns a packet";
        plot::write(&path, title, "connections", &connections)?;
    }
    by_processors()
}

fn by_rules() -> Result<Vec<Line>> {
    let traffic = &Traffic::random(CONNECTIONS, PACKETS);
    let rulesets = SIZES
        .iter()
        .map(|(count, _)| load(&many(*count, Established::Last)));
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
            unit: ("packet", PACKETS),
            rounds: 5,
            subjects: named()
                .map(|(name, rules)| -> (&str, Subject<'_>) {
                    (
                        name,
                        Box::new(move || engine(traffic, handshakes, rules, batch)),
                    )
                })
                .collect(),
        };
        line("established", how, group.run()?);
        let group = Group {
            title: format!(
                "First packets of {CONNECTIONS} connections, let in by the rule before last, {how}"
            ),
            unit: ("packet", CONNECTIONS),
            rounds: 5,
            subjects: named()
                .map(|(name, rules)| -> (&str, Subject<'_>) {
                    (
                        name,
                        Box::new(move || opening(traffic, CONNECTIONS, rules, batch)),
                    )
                })
                .collect(),
        };
        line("first packet", how, group.run()?);
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
    let rules = &load(&many(98, Established::Last))?;
    for (connections, name) in SETS {
        let traffic = &Traffic::random(connections, PACKETS);
        let opening = connections * HANDSHAKE;
        let mut subjects: Vec<(&str, Subject<'_>)> = vec![(
            "copy and parse only",
            Box::new(|| parse_only(traffic, opening)),
        )];
        subjects.extend(WAYS.map(|(name, batch)| -> (&str, Subject<'_>) {
            (
                name,
                Box::new(move || engine(traffic, opening, rules, batch)),
            )
        }));
        let group = Group {
            title: format!("Established TCP, 100 rules, random packets of {name}"),
            unit: ("packet", PACKETS),
            rounds: 5,
            subjects,
        };
        for (line, ns) in lines.iter_mut().zip(group.run()?.into_iter().skip(1)) {
            line.points.push((connections, ns));
        }
    }
    Ok(lines.into())
}

/// Engines with flows of their own, a thread each.
fn by_processors() -> Result<()> {
    const EACH: usize = 10_000;
    let traffic = &Traffic::random(EACH, PACKETS);
    let rules = &load(&many(98, Established::Last))?;
    let run = move || engine(traffic, EACH * HANDSHAKE, rules, AHEAD);
    // What both take together in the time of the slower one.
    let both = move || {
        std::thread::scope(|scope| {
            let other = scope.spawn(run);
            let own = run()?;
            let other = other.join().map_err(|_| anyhow!("a thread failed"))??;
            Ok(own.max(other) / 2)
        })
    };
    Group {
        title: format!("Engines with {EACH} connections each, in batches"),
        unit: ("packet", PACKETS),
        rounds: 5,
        subjects: vec![
            ("one engine", Box::new(run)),
            ("two, on a thread each, packets of both", Box::new(both)),
        ],
    }
    .run()?;
    Ok(())
}
