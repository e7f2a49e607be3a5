//! What firewalls themselves cost a packet, the more rules the more: the kernel's three and
//! Tidegate's engine, with the same rules and the same kind of packets, in one run on one core.
//! The kernel's is what forwarding takes with rules less what it takes without, measured in
//! turn; the engine's is the engine alone. Needs root, `ip`, `ethtool`, `nft`, and Debian's
//! `iptables-legacy` and `iptables-nft`; bpfilter is measured where `scripts/install-bpfilter` has
//! put it. Memory is what the process has resident for the engine, its rules and the packets it is
//! given, and what the kernel holds that it cannot get back (`SUnreclaim`, `VmallocUsed` and
//! `Percpu` of /proc/meminfo), before the rules and once flows are open.
//!
//! `cargo bench -p tidegate-datapath --bench peers [-- [--plots=DIR] WHAT]...` with WHAT of
//! `established`, `last` and `dropped`; all without any. `ROUNDS` says how often each is
//! measured (5).
#![allow(missing_docs, clippy::unwrap_used)]

mod alone;
#[allow(dead_code, reason = "shared with the bench `forward`")]
#[path = "../forward/frames.rs"]
mod frames;
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
#[allow(dead_code, reason = "shared with the engine's bench `packets`")]
#[path = "../../../engine/benches/packets/plot.rs"]
mod plot;

use std::env;
use std::path::{Path, PathBuf};

use alone::Alone;
use measure::{measure, median};
use place::{Case, Firewall, Place};
use plot::{Line, Picture};

/// As in the program.
#[global_allocator]
static MEMORY: tidegate_sys::LargePages = tidegate_sys::LargePages;

/// Packets of one measurement, where rules do not make it longer.
const PACKETS: u32 = 1 << 18;
/// Rules that a measurement may look at one by one.
const PATIENCE: u32 = 1 << 25;
/// Flows that packets belong to.
const FLOWS: u32 = 4096;

const LEGACY: Firewall = Firewall::Iptables("iptables-legacy-restore");
const NFT: Firewall = Firewall::Iptables("iptables-nft-restore");
/// Who is asked where there are connections, and where there are none.
const STATEFUL: [Firewall; 4] = [LEGACY, NFT, Firewall::Nft, Firewall::FlowTable];
const STATELESS: [Firewall; 4] = [LEGACY, NFT, Firewall::Nft, Firewall::Bpfilter];

/// A question: what rules and packets have in common.
struct Question {
    name: &'static str,
    title: &'static str,
    sizes: &'static [usize],
    peers: [Firewall; 4],
    case: fn(usize) -> Case,
}

const QUESTIONS: [Question; 3] = [
    Question {
        name: "established",
        title: "UDP of 4,096 established flows, the rule for them first",
        sizes: &[1, 100, 1_000, 10_000],
        peers: STATEFUL,
        case: |rules| Case {
            one_server: true,
            ..Case::new("established", FLOWS, rules)
        },
    },
    Question {
        name: "last",
        title: "UDP without connections, let in by the last rule",
        sizes: &[1, 10, 100, 1_000, 10_000],
        peers: STATELESS,
        case: |rules| Case {
            stateless: true,
            one_server: true,
            ..Case::new("last", FLOWS, rules)
        },
    },
    Question {
        name: "dropped",
        title: "UDP, each packet of a source of its own, dropped by the last rule",
        sizes: &[1, 10, 100, 1_000, 10_000],
        peers: STATELESS,
        case: |rules| Case {
            stateless: true,
            one_server: true,
            flood: true,
            ..Case::new("dropped", 1 << 24, rules)
        },
    },
];

fn main() {
    if !net::able() {
        return;
    }
    let words = env::args().skip(1);
    let wanted: Vec<String> = words.filter(|a| !a.starts_with('-')).collect();
    let plots = env::args().find_map(|a| Some(PathBuf::from(a.strip_prefix("--plots=")?)));
    if let Some(dir) = &plots {
        std::fs::create_dir_all(dir).unwrap();
    }
    let rounds = env::var("ROUNDS").ok().and_then(|r| r.parse().ok());
    for question in QUESTIONS {
        if wanted.is_empty() || wanted.iter().any(|w| w == question.name) {
            ask(&question, rounds.unwrap_or(5), plots.as_deref());
        }
    }
}

/// Measures all firewalls with all numbers of rules.
fn ask(question: &Question, rounds: usize, plots: Option<&Path>) {
    println!("\n{}\n", question.title);
    println!(
        "| rules | firewall | ns a packet, of the firewall alone | first, last round | ratio to the engine | memory, MB |"
    );
    println!("|--:|---|--:|---|--:|--:|");
    let mut lines: Vec<Line> = Vec::new();
    let mut line =
        |name: &str, rules: usize, ns: f64| match lines.iter_mut().find(|l| l.name == name) {
            Some(line) => line.points.push((rules, ns)),
            None => lines.push(Line {
                name: name.to_owned(),
                points: vec![(rules, ns)],
            }),
        };
    for &rules in question.sizes {
        let case = (question.case)(rules);
        tidegate_sys::give_back();
        let before = memory::resident().unwrap();
        let mut engine = Alone::new(&case);
        let mut each: Vec<f64> = (0..rounds).map(|_| engine.measure(PACKETS)).collect();
        let spread = (each[0], each[rounds - 1]);
        let own = median(&mut each);
        line("Tidegate's engine", rules, own);
        let held = memory::resident().unwrap().saturating_sub(before);
        println!(
            "| {rules} | Tidegate's engine | {own:.0} | {:.0}, {:.0} | 1 | {:.1} |",
            spread.0,
            spread.1,
            held as f64 / 1e6
        );
        drop(engine);
        for firewall in question.peers {
            match kernel(&case, firewall, rounds) {
                Ok((mut each, held)) => {
                    let spread = (each[0], each[rounds - 1]);
                    let ns = median(&mut each);
                    line(firewall.name(), rules, ns);
                    println!(
                        "| {rules} | {} | {ns:.0} | {:.0}, {:.0} | {:.1} | {:.1} |",
                        firewall.name(),
                        spread.0,
                        spread.1,
                        ns / own,
                        held as f64 / 1e6
                    );
                }
                Err(why) => net::skipped(&format!("{}: {why}", firewall.name())),
            }
        }
    }
    // What dropping saves has no place on a logarithmic scale.
    let costs = lines.iter().flat_map(|l| &l.points).all(|p| p.1 > 0.0);
    if let Some(dir) = plots.filter(|_| costs) {
        let file = dir.join(format!("peers-{}.svg", question.name));
        let title = format!("{}: ns of the firewall", question.title);
        let picture = Picture {
            title: &title,
            across: "rules",
            ..Picture::NANOSECONDS
        };
        picture.write_logarithmic(&file, &lines).unwrap();
    }
}

/// What each round says of a kernel's firewall: its time less that of the kernel alone. And the
/// bytes that the kernel holds for its rules and connections.
fn kernel(case: &Case, firewall: Firewall, rounds: usize) -> Result<(Vec<f64>, usize), String> {
    let mut plain = Place::new(case, Firewall::None)?;
    let mut place = Place::new(case, firewall)?;
    let looked_at = if case.stateless { case.rules as u32 } else { 1 };
    let packets = PACKETS.min(PATIENCE / looked_at.max(1));
    let mut round = || measure(&mut place, packets).0 - measure(&mut plain, PACKETS).0;
    let each = (0..rounds).map(|_| round()).collect();
    let held = place.kernel;
    place.end();
    plain.end();
    Ok((each, held))
}
