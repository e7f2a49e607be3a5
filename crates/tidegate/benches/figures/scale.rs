//! What established packets and new connections cost with one rule and with many.

use anyhow::Result;

use crate::measure::Group;
use crate::packets::{engine, opening};
use crate::surroundings::{Established, load, many};
use crate::traffic::{HANDSHAKE, Traffic};

/// Connections in turn: the working set that caches have to bear.
const CONNECTIONS: usize = 100_000;
const PACKETS: usize = 800_000;

/// Rules beside the two that the traffic meets.
const SIZES: [(u32, &str); 4] = [
    (0, "2 rules"),
    (98, "100 rules"),
    (9_998, "10,000 rules"),
    (99_998, "100,000 rules"),
];

/// Measures established packets, then first packets.
///
/// # Errors
/// A ruleset cannot be read, or a packet is not let through.
pub(crate) fn run() -> Result<()> {
    let traffic = &Traffic::new(CONNECTIONS, PACKETS, 0);
    let rulesets = SIZES
        .iter()
        .map(|(count, _)| load(&many(*count, Established::Last)));
    let rulesets = rulesets.collect::<Result<Vec<_>>>()?;
    let named = || SIZES.iter().map(|s| s.1).zip(&rulesets);
    let handshakes = CONNECTIONS * HANDSHAKE;
    Group {
        title: format!("Established TCP, {CONNECTIONS} connections in turn, the rule for it last"),
        unit: ("packet", PACKETS - handshakes),
        rounds: 5,
        subjects: named()
            .map(|(name, rules)| -> (&str, crate::measure::Subject<'_>) {
                (name, Box::new(move || engine(traffic, handshakes, rules)))
            })
            .collect(),
    }
    .run()?;
    Group {
        title: format!(
            "First packets of {CONNECTIONS} connections, let in by the rule before last"
        ),
        unit: ("packet", CONNECTIONS),
        rounds: 5,
        subjects: named()
            .map(|(name, rules)| -> (&str, crate::measure::Subject<'_>) {
                (name, Box::new(move || opening(traffic, CONNECTIONS, rules)))
            })
            .collect(),
    }
    .run()
}
