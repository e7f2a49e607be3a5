//! What it costs to forward a packet of an established flow, from its source to its sink on one
//! core: the kernel alone, with iptables, and the fast path at both places, as ratios to the
//! kernel alone, measured in turn. Flows go to as many addresses as they have ports, so that the kernel
//! looks a route up for each packet; the case `4096-one` has one address, of which the kernel looks
//! one up for a batch of packets. The cases `flood` are packets each from a source of its own,
//! which the firewall drops and the kernel alone forwards, in `flood-set` half of them because their
//! sources are in a set; of the cases `fresh` every packet opens a connection. Needs root, `ip`,
//! `ethtool`, and Debian's `iptables-legacy`, `iptables-nft` and `ipset` for the lines about them.
//!
//! `cargo bench -p tidegate-datapath --bench forward [-- WHAT]...` with WHAT of the names in
//! [`CASES`]; all without any. `ROUNDS` says how often each is measured (7), `ONLY` names one
//! firewall.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, reason = "shared with the bench `peers`")]
mod frames;
#[allow(dead_code, reason = "shared with the bench `userspace`")]
mod measure;
#[allow(dead_code, reason = "shared with other benches")]
#[path = "../../../engine/benches/packets/memory.rs"]
mod memory;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/live/net.rs"]
mod net;
#[allow(dead_code, reason = "shared with the bench `peers`")]
mod place;

use std::env;

use measure::{measure, measure_fresh, median};
use net::able;
use place::{Case, Firewall, Place};

/// Packets of one measurement.
const PACKETS: u32 = 1 << 20;

const CASES: [Case; 14] = [
    Case::new("4096", 4096, 1),
    Case {
        one_server: true,
        ..Case::new("4096-one", 4096, 1)
    },
    Case::new("4096-1000", 4096, 1000),
    Case::new("4096-100000", 4096, 100_000),
    Case::new("240000", 240_000, 1),
    Case::new("240000-100000", 240_000, 100_000),
    Case {
        snat: true,
        ..Case::new("snat", 4096, 1)
    },
    Case::flood("flood", 1),
    Case::flood("flood-100", 100),
    Case::flood("flood-10000", 10_000),
    Case::flood("flood-50000", 50_000),
    Case {
        members: 65_536,
        ..Case::flood("flood-set", 1)
    },
    Case::fresh("fresh", 1),
    Case::fresh("fresh-10000", 10_000),
];

fn main() {
    if !able() {
        return;
    }
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let rounds: usize = env::var("ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(7);
    println!(
        "| flows, rules | firewall | ns a packet | ratio to the kernel alone | from, to | arrived, or dropped |"
    );
    println!("|---|---|--:|--:|---|--:|");
    for case in CASES {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == case.name) {
            continue;
        }
        let mut plain = Place::new(&case, Firewall::None).unwrap();
        for firewall in Firewall::ALL {
            if env::var("ONLY").is_ok_and(|o| o != firewall.name()) {
                continue;
            }
            match Place::new(&case, firewall) {
                Ok(mut place) => {
                    compare(&case, firewall, &mut plain, &mut place, rounds);
                    place.end();
                }
                Err(why) => net::skipped(&format!("{}: {why}", firewall.name())),
            }
        }
    }
}

fn compare(case: &Case, firewall: Firewall, plain: &mut Place, place: &mut Place, rounds: usize) {
    let (mut each, mut ratios, mut share) = (Vec::new(), Vec::new(), 1f64);
    let mut thread = Vec::new();
    for _ in 0..rounds {
        let ((base, all), (took, arrived)) = if case.fresh {
            let (base, all, _) = measure_fresh(plain, PACKETS / 8);
            let (took, arrived, own) = measure_fresh(place, PACKETS / 8);
            thread.push(own);
            ((base, all), (took, arrived))
        } else {
            (measure(plain, PACKETS), measure(place, PACKETS))
        };
        each.push(took);
        ratios.push(took / base);
        share = share.min(arrived).min(all);
    }
    let ratio = median(&mut ratios);
    println!(
        "| {} | {} | {:.0} | {ratio:.2} | {:.2}, {:.2} | {:.1} % |",
        case.name,
        firewall.name(),
        median(&mut each),
        ratios[0],
        ratios[rounds - 1],
        share * 100.0
    );
    if thread.first().is_some_and(|t| *t > 0.0) {
        println!(
            "of that the datapath's thread: {:.0} ns",
            median(&mut thread)
        );
    }
    place.explain();
}
