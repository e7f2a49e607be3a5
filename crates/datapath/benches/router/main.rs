//! What a router forwards: the kernel alone, the kernel with iptables, and the datapath,
//! with packet rings and with `AF_XDP`, in the same namespaces one after the other. Needs
//! root, `ip` and, for the lines about them, Debian's `iptables-legacy` and `iptables-nft`.
//!
//! `cargo bench -p tidegate-datapath --bench router [-- WHAT]...` with WHAT of `small`,
//! `tcp`, `own`, `loopback`, `connections`, `latency`; all without any. `ONLY` names a firewall.
//! Memory is what this process has resident for the datapath, and for the load.
#![allow(missing_docs, clippy::unwrap_used)]

mod load;
#[allow(dead_code, reason = "shared with the bench `peers`")]
#[path = "../../../engine/benches/packets/memory.rs"]
mod memory;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/live/net.rs"]
mod net;
mod place;

use std::env;

use net::able;
use place::{Firewall, Place};

/// As in the program.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

/// One kind of measurement: a name for the command line, and figures with their units.
struct Measure {
    name: &'static str,
    run: fn(&Place) -> Vec<(&'static str, f64)>,
}

const MEASURES: [Measure; 6] = [
    Measure {
        name: "small",
        run: load::small_packets,
    },
    Measure {
        name: "tcp",
        run: load::tcp,
    },
    Measure {
        name: "own",
        run: load::own,
    },
    Measure {
        name: "loopback",
        run: load::loopback,
    },
    Measure {
        name: "connections",
        run: load::connections,
    },
    Measure {
        name: "latency",
        run: load::latency,
    },
];

fn main() {
    if !able() {
        return;
    }
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    println!("| what | firewall | figure | ratio to the kernel alone | memory, MB |");
    println!("|---|---|---|---|--:|");
    for measure in MEASURES {
        if !wanted.is_empty() && !wanted.iter().any(|w| w == measure.name) {
            continue;
        }
        let mut alone: Vec<f64> = Vec::new();
        for firewall in Firewall::ALL {
            if env::var("ONLY").is_ok_and(|o| o != firewall.name()) {
                continue;
            }
            tidegate_sys::give_back();
            let before = memory::resident().unwrap();
            let place = match Place::new(firewall) {
                Ok(place) => place,
                Err(why) => {
                    net::skipped(&format!("{}: {why}", firewall.name()));
                    continue;
                }
            };
            let figures = (measure.run)(&place);
            let held = memory::resident().unwrap().saturating_sub(before);
            let held = place
                .guard
                .as_ref()
                .map(|_| format!("{:.1}", held as f64 / 1e6));
            let held = held.unwrap_or_default();
            let known = |f: &(&str, f64)| f.1 > 0.0;
            for (i, (what, figure)) in figures.into_iter().filter(known).enumerate() {
                if firewall == Firewall::None {
                    alone.push(figure);
                }
                let base = alone.get(i).copied().filter(|b| *b > 0.0);
                let ratio = base.map_or_else(String::new, |b| format!("{:.2}", figure / b));
                println!(
                    "| {what} | {} | {figure:.1} | {ratio} | {held} |",
                    firewall.name()
                );
            }
            place.end();
        }
    }
}
