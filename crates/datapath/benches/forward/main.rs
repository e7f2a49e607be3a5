//! What it costs to forward a packet of an established flow, from its source to its sink on one
//! core: the kernel alone, with iptables, and the fast path at both places, as ratios to the
//! kernel alone, measured in turn. The cases `flood` are packets each from a source of its own,
//! which the firewall drops and the kernel alone forwards; of the cases `fresh` every packet opens
//! a connection. Needs root, `ip`, `ethtool`, and Debian's
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
use std::path::Path;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, Timespec, clock_gettime};

use net::able;
use place::{Case, Firewall, Place};

/// Where everything happens.
const CORE: usize = 1;
/// Packets of one measurement.
const PACKETS: u32 = 1 << 20;

const CASES: [Case; 10] = [
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
    Case {
        fresh: true,
        ..Case::new("fresh", 1 << 24, 1)
    },
    Case {
        fresh: true,
        ..Case::new("fresh-10000", 1 << 24, 10_000)
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

/// Nanoseconds that the tasks below `place` have run whose names begin so.
fn has_run(place: &str, name: &str) -> u64 {
    let ours =
        |task: &Path| fs::read_to_string(task.join("comm")).is_ok_and(|c| c.starts_with(name));
    let time = |task: &Path| {
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let all = fs::read_dir(place).unwrap().flatten().map(|p| p.path());
    all.filter(|t| ours(t)).filter_map(|t| time(&t)).sum()
}

/// Nanoseconds that the core's `ksoftirqd` has run, for what softirqs leave over.
fn deferred() -> u64 {
    has_run("/proc", &format!("ksoftirqd/{CORE}\n"))
}

/// As [`measure`], where every packet opens a connection: all that this process and the
/// kernel's softirqs have run, on whatever core. The third is the datapath's thread alone.
fn measure_fresh(place: &mut Place) -> (f64, f64, f64) {
    let time = || {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ProcessCPUTime);
        let own = tv_sec as u64 * 1_000_000_000 + tv_nsec as u64 + has_run("/proc", "ksoftirqd/");
        [own, has_run("/proc/self/task", "tidegate-datapa")]
    };
    let (count, before, began) = (PACKETS / 8, place.done(), time());
    place.open_fresh(count);
    let ended = time();
    let arrived = (place.done() - before) as f64;
    let each = |i: usize| (ended[i] - began[i]) as f64 / arrived;
    (each(0), arrived / f64::from(count), each(1))
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
    let mut thread = Vec::new();
    for _ in 0..rounds {
        let (base, took, arrived) = if case.fresh {
            let base = measure_fresh(plain).0;
            let (took, arrived, own) = measure_fresh(place);
            thread.push(own);
            (base, took, arrived)
        } else {
            let base = measure(plain).0;
            let (took, arrived) = measure(place);
            (base, took, arrived)
        };
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
    if thread.first().is_some_and(|t| *t > 0.0) {
        println!(
            "of that the datapath's thread: {:.0} ns",
            median(&mut thread)
        );
    }
    place.explain();
}
