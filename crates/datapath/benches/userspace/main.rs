//! What the userspace datapath takes for a packet, situation by situation: the processor's time,
//! on all cores, of the whole way from the packets' source to their sink, beside the kernel
//! without and with iptables-legacy, each measured in turn with the kernel alone. Packets are of
//! flows drawn at random. Needs root, `ip`, `ethtool`, and Debian's `iptables-legacy` for the lines
//! about it.
//!
//! `cargo bench -p tidegate-datapath --bench userspace [-- WHAT]...` with WHAT of the names in
//! [`CASES`], or `ftp`; all without any. `ROUNDS` says how often each is measured (5), `ONLY` names
//! one firewall. Memory is what this process has resident for the datapath, and what the kernel
//! holds for iptables.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, reason = "shared with the bench `forward`")]
#[path = "../forward/frames.rs"]
mod frames;
mod ftp;
#[allow(dead_code, reason = "shared with the bench `forward`")]
#[path = "../forward/measure.rs"]
mod measure;
#[path = "../../../engine/benches/packets/memory.rs"]
mod memory;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/live/net.rs"]
mod net;
#[allow(dead_code, reason = "shared with the bench `forward`")]
#[path = "../forward/place.rs"]
mod place;

use std::env;

use measure::{measure_fresh, measure_paced, median};
use place::{Case, Firewall, Place};
use tidegate_datapath::Ring;

/// As in the program.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

/// Packets of one measurement, where rules do not make it longer.
const PACKETS: u32 = 1 << 16;
/// Rules that the kernel may look at one by one in a measurement.
const PATIENCE: u32 = 1 << 25;

pub(crate) const FIREWALLS: [Firewall; 3] = [
    Firewall::Userspace(Ring::Packet),
    Firewall::Userspace(Ring::Xdp),
    Firewall::Iptables("iptables-legacy-restore"),
];

const fn established(name: &'static str, flows: u32) -> Case {
    Case {
        random: true,
        ..Case::new(name, flows, 100)
    }
}

/// No rule asks for connections.
const fn stateless(name: &'static str, flows: u32, rules: usize) -> Case {
    Case {
        stateless: true,
        random: true,
        ..Case::new(name, flows, rules)
    }
}

const CASES: [Case; 16] = [
    established("established-1", 1),
    established("established-100", 100),
    established("established-10000", 10_000),
    established("established-100000", 100_000),
    established("established-1000000", 1_000_000),
    Case {
        snat: true,
        ..established("snat-10000", 10_000)
    },
    Case {
        fresh: true,
        ..Case::new("new", 1 << 24, 100)
    },
    Case {
        fresh: true,
        ..Case::new("new-10000", 1 << 24, 10_000)
    },
    Case {
        flood: true,
        ..stateless("dropped-100", 1 << 24, 100)
    },
    Case {
        flood: true,
        ..stateless("dropped-10000", 1 << 24, 10_000)
    },
    stateless("last-10", 4096, 10),
    stateless("last-1000", 4096, 1_000),
    stateless("last-100000", 4096, 100_000),
    Case {
        uniform: true,
        ..stateless("uniform-10", 10, 1)
    },
    Case {
        uniform: true,
        ..stateless("uniform-1000", 1_000, 1)
    },
    Case {
        uniform: true,
        ..stateless("uniform-100000", 100_000, 1)
    },
];

fn main() {
    if !net::able() {
        return;
    }
    let words = env::args().skip(1);
    let wanted: Vec<String> = words.filter(|a| !a.starts_with('-')).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let rounds = env::var("ROUNDS").ok().and_then(|r| r.parse().ok());
    let rounds = rounds.unwrap_or(5);
    println!(
        "| packets | firewall | ns a packet | of that the datapath's thread | ratio to the kernel alone | from, to | arrived, or dropped | memory, MB |"
    );
    println!("|---|---|--:|--:|--:|---|--:|--:|");
    for case in CASES.iter().filter(|c| asked(c.name)) {
        let mut plain = Place::new(case, Firewall::None).unwrap();
        for firewall in firewalls() {
            if let Err(why) = compare(case, &mut plain, firewall, rounds) {
                net::skipped(&format!("{}, {}: {why}", case.name, firewall.name()));
            }
        }
        plain.end();
    }
    if asked("ftp") {
        ftp::run(rounds);
    }
}

/// Those that are asked for.
pub(crate) fn firewalls() -> impl Iterator<Item = Firewall> {
    let only = env::var("ONLY").ok();
    let chosen = move |f: &Firewall| only.as_ref().is_none_or(|o| o == f.name());
    FIREWALLS.into_iter().filter(chosen)
}

/// What a place takes once.
fn once(case: &Case, place: &mut Place, packets: u32) -> (f64, f64, f64) {
    if case.fresh {
        measure_fresh(place, packets)
    } else {
        measure_paced(place, packets)
    }
}

/// How many rules are looked at one by one for a packet.
fn looked_at(case: &Case, firewall: Firewall) -> u32 {
    match (firewall, case.uniform) {
        (Firewall::Iptables(_), true) => case.flows,
        (Firewall::Iptables(_), false) if case.stateless || case.fresh => case.rules as u32,
        _ => 1,
    }
}

fn compare(
    case: &Case,
    plain: &mut Place,
    firewall: Firewall,
    rounds: usize,
) -> Result<(), String> {
    let (mut place, before) = measured_place(case, firewall)?;
    let packets = PACKETS.min(PATIENCE / looked_at(case, firewall));
    let (mut figures, mut share) = (Figures::default(), 1f64);
    for _ in 0..rounds {
        let base = once(case, plain, PACKETS).0;
        let (took, arrived, own) = once(case, &mut place, packets);
        figures.add(took, own, base);
        share = share.min(arrived);
    }
    println!(
        "| {} | {} | {} | {:.1} % | {:.1} |",
        case.name,
        firewall.name(),
        figures.cells(),
        share * 100.0,
        held(firewall, &place, before)
    );
    place.end();
    Ok(())
}

/// A place, and what the process had resident before there was one.
pub(crate) fn measured_place(case: &Case, firewall: Firewall) -> Result<(Place, usize), String> {
    tidegate_sys::give_back();
    let before = memory::resident().unwrap_or_default();
    Ok((Place::new(case, firewall)?, before))
}

/// Megabytes that the place has for itself.
pub(crate) fn held(firewall: Firewall, place: &Place, before: usize) -> f64 {
    let bytes = match firewall {
        Firewall::Userspace(_) => memory::resident()
            .unwrap_or_default()
            .saturating_sub(before),
        _ => place.kernel,
    };
    bytes as f64 / 1e6
}

/// What something has taken, round by round.
#[derive(Default)]
pub(crate) struct Figures {
    each: Vec<f64>,
    thread: Vec<f64>,
    ratios: Vec<f64>,
}

impl Figures {
    /// Of one round: with a firewall, of that the datapath's thread, and the kernel alone.
    pub(crate) fn add(&mut self, took: f64, own: f64, alone: f64) {
        self.each.push(took);
        self.thread.push(own);
        self.ratios.push(took / alone);
    }

    /// Medians, and the ratio's smallest and largest.
    pub(crate) fn cells(&mut self) -> String {
        let ratio = median(&mut self.ratios);
        let last = self.ratios.len() - 1;
        format!(
            "{:.0} | {:.0} | {ratio:.2} | {:.2}, {:.2}",
            median(&mut self.each),
            median(&mut self.thread),
            self.ratios[0],
            self.ratios[last]
        )
    }
}
