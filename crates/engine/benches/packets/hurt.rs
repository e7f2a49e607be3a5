//! Rulesets written to hurt this classifier, through the whole engine.

use anyhow::{Context, Result};
use tidegate_wire::{checksum, proto};

use crate::headers::{Header, like, mixture};
use crate::linear::{forward, hits, walk};
use crate::measure::{Group, Meter, Subject, Took};
use crate::random::Random;
use crate::receiver::{Loaded, Receiver};
use crate::sets::SETS;
use crate::surroundings::router_to_all;

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const NO_RULES: &str = "*filter\nCOMMIT\n";
/// Packets that are compared with the walk.
const CHECKED: usize = 500;
/// How many packets each has the patience of, and what it is meant to hurt by.
const HURTING: [(&str, usize, &str); 4] = [
    (
        "nested",
        50_000,
        "prefixes of all pairs of lengths around few points",
    ),
    (
        "diagonal",
        50_000,
        "ranges of which half hold in each field, none in both",
    ),
    (
        "spans",
        50_000,
        "port ranges over every power of two, on one host",
    ),
    ("opaque", 2_000, "nothing that a look-up could use"),
];

/// TCP, UDP or something else.
fn bytes(h: &Header) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..12].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, h.ttl, h.proto, 0, 0]);
    bytes[12..16].copy_from_slice(&(h.src as u32).to_be_bytes());
    bytes[16..20].copy_from_slice(&(h.dst as u32).to_be_bytes());
    bytes[20..22].copy_from_slice(&h.sport.to_be_bytes());
    bytes[22..24].copy_from_slice(&h.dport.to_be_bytes());
    match h.proto {
        proto::TCP => bytes[32] = 5 << 4,
        proto::UDP => bytes[25] = 20,
        _ => {}
    }
    checksum::fix_ipv4(&mut bytes);
    bytes
}

/// Rules and packets for them.
struct Load {
    rules: Loaded,
    packets: Vec<[u8; 40]>,
}

impl Load {
    /// Packets like a rule, or with each field from another rule, that a router without rules
    /// lets through.
    fn new(lines: &[String], mixed: bool, count: usize) -> Result<Self> {
        let lines: String = lines
            .iter()
            .map(|line| format!("-A FORWARD{line} -j ACCEPT\n"))
            .collect();
        let rules = Loaded::new(&format!("*filter\n:FORWARD ACCEPT [0:0]\n{lines}COMMIT\n"))?;
        let chain = forward(&rules.rules).context("no chain")?;
        let random = &mut Random(3);
        let mut open = Receiver::new(&Loaded::new(NO_RULES)?, router_to_all(), 0, 1);
        let mut packets = Vec::with_capacity(count);
        while packets.len() < count {
            let at = random.below(chain.rules.len() as u64) as usize;
            let header = match mixed {
                true => mixture(random, &chain.rules, false),
                false => like(random, &chain.rules[at], false),
            };
            let packet = bytes(&header);
            packets.extend(open.one(&packet, true).map(|_| packet));
        }
        Ok(Load { rules, packets })
    }

    fn linear(&self) -> Result<Took> {
        walk(
            &self.rules.rules,
            self.packets.iter().map(<[u8; 40]>::as_slice),
            |_, _| true,
        )
    }

    fn engine(&self, rules: &Loaded) -> Result<Took> {
        let meter = Meter::new()?;
        let mut receiver = Receiver::new(rules, router_to_all(), 0, 1);
        let packets = self.packets.iter().map(|p| (p.as_slice(), true));
        let time = receiver.all(packets)?;
        Ok(meter.took(time, self.packets.len())?.and(rules.bytes))
    }

    /// That the engine counts some packets as the walk says.
    fn check(&self) -> Result<()> {
        let some = || self.packets.iter().take(CHECKED).map(<[u8; 40]>::as_slice);
        let mut receiver = Receiver::new(&self.rules, router_to_all(), 0, 1);
        receiver.all(some().map(|p| (p, true)))?;
        let mut wanted = vec![0; self.rules.rules.rules().count()];
        for hit in hits(&self.rules.rules, some()).into_iter().flatten() {
            wanted[hit] += 1;
        }
        receiver.has_counted(&self.rules, &wanted)
    }
}

/// Measures all.
///
/// # Errors
/// A ruleset cannot be read, or the engine does not decide as the walk does.
pub(crate) fn run() -> Result<()> {
    let none = &Loaded::new(NO_RULES)?;
    for (set, packets, how) in HURTING {
        let make = SETS.iter().find(|s| s.0 == set).context("no such set")?.1;
        let mut loads = Vec::new();
        for size in SIZES {
            for (traffic, mixed) in [("like a rule", false), ("mixed", true)] {
                let load = Load::new(&make(size, 7), mixed, packets)?;
                load.check()?;
                loads.push((format!("{size} rules, packets {traffic}"), load));
            }
        }
        let mut subjects = Vec::new();
        for (name, load) in &loads {
            let one_by_one = Subject::new(format!("{name}, one by one"), || load.linear());
            let engine = Subject::new("… engine", || load.engine(&load.rules));
            let without = Subject::new("… engine without rules", || load.engine(none));
            subjects.extend([one_by_one.base(), engine, without]);
        }
        Group {
            title: format!("Rules written to hurt, \"{set}\": {how}"),
            unit: "packet",
            rounds: 3,
            subjects,
        }
        .run()?;
    }
    Ok(())
}
