//! A table of a million connections: what single calls cost the thread that packets wait
//! for, what commands do to packets that pass meanwhile, and the same commands beside the
//! kernel's conntrack.
//!
//! `cargo bench -p tidegate --bench connections`; the last part needs root and conntrack.

mod calls;
mod commands;
mod programs;
mod stopwatch;
#[path = "../../../engine/benches/packets/surroundings.rs"]
#[allow(dead_code, reason = "shared with other figures")]
mod surroundings;
#[path = "../../../engine/benches/packets/traffic.rs"]
#[allow(dead_code, reason = "shared with other figures")]
mod traffic;

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use tidegate_engine::{Config, Disposition, Engine, Incoming};
use tidegate_ir::Ruleset;
use traffic::{HANDSHAKE, Traffic};

use surroundings::{Established, INSIDE, OUTSIDE, load, router_of, rules};

/// Connections in the table.
const CONNECTIONS: usize = 1_000_000;

fn main() -> Result<()> {
    let traffic = Traffic::new(CONNECTIONS, CONNECTIONS * (HANDSHAKE + 1), 0);
    calls::run(&traffic)?;
    commands::run(traffic)?;
    programs::run()
}

/// An engine and what feeds it.
struct Receiver {
    engine: Engine,
    now: u64,
    buffer: Vec<u8>,
}

impl Receiver {
    /// An engine with a hundred rules and room for a million connections.
    fn new(rules: &Arc<Ruleset>) -> Self {
        let mut config = Config::default();
        config.conntrack.max = CONNECTIONS as u32;
        config.conntrack.buckets = CONNECTIONS as u32;
        // As the daemon has it.
        config.conntrack.at_once = 256;
        let mut engine = Engine::new(config, router_of(8));
        engine.load(rules.clone());
        Receiver {
            engine,
            now: 1_700_000_000_000_000_000,
            buffer: Vec::new(),
        }
    }

    /// One packet, so many nanoseconds after the last one.
    fn one(&mut self, (packet, client): (&[u8], bool), pace: u64) -> Result<Disposition> {
        self.now += pace;
        self.buffer.clear();
        self.buffer.extend_from_slice(packet);
        let incoming = Incoming::on(if client { INSIDE } else { OUTSIDE });
        let bytes = std::mem::take(&mut self.buffer);
        let outcome = self.engine.receive(self.now, incoming, bytes, &mut ());
        self.buffer = self.engine.recycle(outcome.outputs).unwrap_or_default();
        Ok(outcome.disposition)
    }

    /// The handshakes of all connections.
    fn establish(&mut self, traffic: &Traffic) -> Result<()> {
        for packet in traffic.packets(0).take(CONNECTIONS * HANDSHAKE) {
            let disposition = self.one(packet, 1_000)?;
            if disposition != Disposition::Sent {
                bail!("{disposition:?}");
            }
        }
        let count = self.engine.conntrack().count();
        ensure!(count as usize == CONNECTIONS, "{count} connections");
        Ok(())
    }
}

fn hundred_rules() -> Result<Arc<Ruleset>> {
    load(&rules(Established::First))
}
