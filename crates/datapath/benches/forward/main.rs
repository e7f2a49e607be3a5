//! What it costs to forward a packet of an established flow, from its source to its sink on one
//! core: the kernel alone, with iptables, and the fast path at both places, as ratios to the
//! kernel alone, measured in turn. The cases `flood` are packets each from a source of its own,
//! which the firewall drops and the kernel alone forwards. Needs root, `ip`, `ethtool`, and Debian's
//! `iptables-legacy` and `iptables-nft` for the lines about them.
//!
//! `cargo bench -p tidegate-datapath --bench forward [-- WHAT]...` with WHAT of the names in
//! [`CASES`]; all without any. `ROUNDS` says how often each is measured (7), `ONLY` names one
//! firewall.
#![allow(missing_docs, clippy::unwrap_used)]

mod frames;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/live/net.rs"]
mod net;
mod place;

use std::env;
use std::fs;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};

use net::able;
use place::{Case, Firewall, Place};

/// Where everything happens.
const CORE: usize = 1;
/// Packets of one measurement.
const PACKETS: u32 = 1 << 20;

const CASES: [Case; 8] = [
    Case::new("4096", 4096, 1),
    Case::new("4096-1000", 4096, 1000),
    Case::new("4096-100000", 4096, 100_000),
    Case::new("240000", 240_000, 1),
    Case::new("240000-100000", 240_000, 100_000),
    Case {
        snat: true,
        ..Case::new("snat", 4096, 1)
    },
    Case {
        flood: true,
        ..Case::new("flood", 1 << 24, 1)
    },
    Case {
        flood: true,
        ..Case::new("flood-100", 1 << 24, 100)
    },
];

fn pin(core: Option<usize>) {
    let mut set = CpuSet::new();
    for cpu in 0..CpuSet::MAX_CPU.min(64) {
        if core.is_none_or(|c| c == cpu) {
            set.set(cpu);
        }
    }
    sched_setaffinity(None, &set).unwrap();
}

/// Nanoseconds that the core's `ksoftirqd` has run, for what softirqs leave over.
fn deferred() -> u64 {
    let name = format!("ksoftirqd/{CORE}\n");
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut found =
        all.filter(|p| fs::read_to_string(p.path().join("comm")).is_ok_and(|c| c == name));
    let Some(process) = found.next() else {
        return 0;
    };
    let text = fs::read_to_string(process.path().join("schedstat")).unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Nanoseconds a packet, and the share that arrived, or was dropped where it should be.
fn measure(place: &mut Place) -> (f64, f64) {
    let before = place.done();
    pin(Some(CORE));
    let before_deferred = deferred();
    let took = place.send(PACKETS) + Duration::from_nanos(deferred() - before_deferred);
    pin(None);
    std::thread::sleep(Duration::from_millis(20));
    let arrived = (place.done() - before) as f64;
    (
        took.as_nanos() as f64 / arrived,
        arrived / f64::from(PACKETS),
    )
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

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
    for _ in 0..rounds {
        let (base, _) = measure(plain);
        let (took, arrived) = measure(place);
        each.push(took);
        ratios.push(took / base);
        share = share.min(arrived);
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
    place.explain();
}
