//! An office's router for a while: what its people, their servers and strangers say to each
//! other goes through an engine, in batches, as a program that has one for a library hands them
//! over.
//!
//! `cargo run --release -p tidegate-engine --example office -- [PACKETS]`
//!
//! The same without rules that translate, so that both kinds of router are seen. Release builds
//! are optimised for what this does (`scripts/guided`); no bench measures it.

#[allow(dead_code, reason = "shared with the benches")]
#[path = "../../benches/classifier/random.rs"]
mod random;
mod speech;
mod talk;

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, ensure};
use tidegate_engine::conntrack::AHEAD;
use tidegate_engine::env::{
    Env, IfIndex, Interface, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_engine::{Config, Disposition, Engine, Incoming, Output};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

use random::Random;
use talk::Talk;

const LAN: IfIndex = IfIndex(2);
const WAN: IfIndex = IfIndex(3);

const FILTER4: &str = include_str!("filter.rules");
const FILTER6: &str = include_str!("filter-v6.rules");
const NAT4: &str = include_str!("nat.rules");

/// Conversations at a time, and how many packets one may say at once.
const TALKS: usize = 20_000;
const BURST: u64 = 6;
/// Between two batches, in nanoseconds.
const PACE: u64 = 50_000;

fn main() -> Result<()> {
    let packets = std::env::args().nth(1).map_or(Ok(4_000_000), |n| n.parse());
    let packets: usize = packets.context("PACKETS is a number")?;
    for (name, nat) in [("translated", Some(NAT4)), ("as they are", None)] {
        let mut office = Office::new(nat, TALKS)?;
        office.work(packets / 2)?;
        println!("{name}: {}", office.summary());
    }
    Ok(())
}

/// A packet on its way: whose it is, and whether the one inside says it.
struct Said {
    talk: usize,
    inside: bool,
    bytes: Vec<u8>,
}

/// The router and everybody who talks through it.
struct Office {
    engine: Engine,
    now: u64,
    random: Random,
    translated: bool,
    talks: Vec<Talk>,
    begun: usize,
    passed: usize,
    refused: usize,
}

impl Office {
    fn new(nat: Option<&str>, talks: usize) -> Result<Self> {
        let mut engine = Engine::new(Config::default(), Arc::new(surroundings()));
        let rules4 = FILTER4.to_owned() + nat.unwrap_or_default();
        for (text, family) in [(rules4.as_str(), Family::V4), (FILTER6, Family::V6)] {
            let rules = parse_rules(text, family, &NoNames).map_err(|e| anyhow!("{e:?}"))?;
            let lowered = lower(&rules).map_err(|e| anyhow!("{e:?}"))?;
            engine.load(Arc::new(lowered.ruleset));
        }
        let mut random = Random(7);
        let translated = nat.is_some();
        Ok(Office {
            engine,
            now: 1_700_000_000_000_000_000,
            talks: (0..talks)
                .map(|n| Talk::new(n, translated, &mut random))
                .collect(),
            random,
            translated,
            begun: talks,
            passed: 0,
            refused: 0,
        })
    }

    /// At least so many packets.
    fn work(&mut self, packets: usize) -> Result<()> {
        let until = self.passed + self.refused + packets;
        while self.passed + self.refused < until {
            let batch = self.batch();
            self.decide(batch)?;
        }
        Ok(())
    }

    /// What comes in until somebody looks: some talk much, and each is heard before it is
    /// answered.
    fn batch(&mut self) -> Vec<Said> {
        let mut batch = Vec::with_capacity(AHEAD);
        let mut spoken = Vec::new();
        while batch.len() + (BURST as usize) < AHEAD {
            if self.random.below(16) == 0 {
                let bytes = talk::stranger(&mut self.random);
                batch.push(Said {
                    talk: usize::MAX,
                    inside: false,
                    bytes,
                });
            }
            let talk = self.random.skewed(self.talks.len() as u64) as usize;
            if spoken.contains(&talk) {
                continue;
            }
            spoken.push(talk);
            let burst = 1 + self.random.skewed(BURST);
            for (inside, bytes) in self.talks[talk].says(burst) {
                batch.push(Said {
                    talk,
                    inside,
                    bytes,
                });
            }
        }
        batch
    }

    fn decide(&mut self, batch: Vec<Said>) -> Result<()> {
        self.now += PACE;
        self.engine
            .foresee(batch.iter().map(|said| said.bytes.as_slice()));
        for said in batch {
            let incoming = Incoming::on(if said.inside { LAN } else { WAN });
            let outcome = self.engine.receive(self.now, incoming, said.bytes, &mut ());
            let fate = outcome.disposition;
            match self.talks.get_mut(said.talk) {
                None => {
                    ensure!(
                        matches!(fate, Disposition::Dropped(_)),
                        "a stranger: {fate:?}"
                    );
                    self.refused += 1;
                }
                Some(talk) => {
                    ensure!(fate == Disposition::Sent, "{fate:?}: {talk:?}");
                    self.passed += 1;
                    let out = outcome.outputs.iter().find_map(|output| match output {
                        Output::Transmit { bytes, .. } => Some(bytes),
                        _ => None,
                    });
                    let heard = out.and_then(|bytes| talk.hears(said.inside, bytes));
                    heard.context("nothing came out that anybody understands")?;
                    if talk.is_over() {
                        *talk = Talk::new(self.begun, self.translated, &mut self.random);
                        self.begun += 1;
                    }
                }
            }
            self.engine.recycle(outcome.outputs);
        }
        Ok(())
    }

    fn summary(&self) -> String {
        format!(
            "{} packets passed, {} refused, {} conversations begun, {} known",
            self.passed,
            self.refused,
            self.begun,
            self.engine.conntrack().count()
        )
    }
}

/// Two interfaces, and everything else behind the outer one.
fn surroundings() -> Env {
    let prefix = |text: &str, len| {
        let addr: std::net::IpAddr = text.parse().expect("an address");
        let (family, addr) = match addr {
            std::net::IpAddr::V4(a) => (Family::V4, u128::from(u32::from(a))),
            std::net::IpAddr::V6(a) => (Family::V6, u128::from(a)),
        };
        Prefix { family, addr, len }
    };
    let interface = |index, name: &str, addresses| Interface {
        index,
        name: name.to_owned(),
        addresses,
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    };
    let default = |to: Prefix, via: Prefix| Route {
        to,
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        dev: Some(WAN),
        via: Some(via.addr),
        src: None,
        realm: 0,
        metric: 0,
    };
    let lan = vec![prefix("192.168.0.1", 16), prefix("2001:db8:1::1", 64)];
    let wan = vec![prefix("198.51.100.2", 24), prefix("2001:db8:2::2", 64)];
    let routes = [
        default(prefix("0.0.0.0", 0), prefix("198.51.100.1", 32)),
        default(prefix("::", 0), prefix("2001:db8:2::1", 128)),
    ];
    let settings = Settings {
        forward4: true,
        forward6: true,
        ..Settings::default()
    };
    let interfaces = vec![interface(LAN, "lan0", lan), interface(WAN, "wan0", wan)];
    Env::new(interfaces, &routes, &[], settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_heard_and_strangers_are_not() {
        for nat in [Some(NAT4), None] {
            let mut office = Office::new(nat, 300).unwrap();
            office.work(30_000).unwrap();
            assert!(
                office.refused > 500 && office.begun > 400,
                "{}",
                office.summary()
            );
        }
    }
}
