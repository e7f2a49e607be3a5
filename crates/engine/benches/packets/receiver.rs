//! An engine and what feeds it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use tidegate_engine::env::Env;
use tidegate_engine::{Config, Disposition, Engine, Incoming, Output};
use tidegate_ir::Ruleset;
use tidegate_wire::Family;

use crate::buffers::Buffers;
use crate::measure::Meter;
use crate::surroundings::{INSIDE, OUTSIDE, load};

/// Between two packets, in nanoseconds of the engine's clock.
const PACE: u64 = 1_000;

/// Rules, and what they hold in memory.
pub(crate) struct Loaded {
    pub(crate) rules: Arc<Ruleset>,
    pub(crate) bytes: usize,
}

impl Loaded {
    /// # Errors
    /// The text is no rules file.
    pub(crate) fn new(text: &str) -> Result<Self> {
        let meter = Meter::new()?;
        Ok(Loaded {
            rules: load(text)?,
            bytes: meter.held()?,
        })
    }
}

pub(crate) struct Receiver {
    pub(crate) engine: Engine,
    now: u64,
    /// Packets that the engine is told of before it gets them; 1 is none.
    batch: usize,
    /// Whether packets are let through.
    sent: bool,
    buffers: Buffers,
}

impl Receiver {
    /// A router that gets so many packets at a time.
    pub(crate) fn new(rules: &Loaded, env: Arc<Env>, connections: usize, batch: usize) -> Self {
        let mut config = Config::default();
        config.conntrack.max = 0;
        // As the kernel does: as many as connections that are allowed.
        config.conntrack.buckets = connections.max(config.conntrack.buckets as usize) as u32;
        let mut engine = Engine::new(config, env);
        engine.load(rules.rules.clone());
        Receiver {
            engine,
            now: 1_700_000_000_000_000_000,
            batch,
            sent: true,
            buffers: Buffers::default(),
        }
    }

    /// None of the packets is let through.
    pub(crate) fn dropping(self) -> Self {
        Receiver {
            sent: false,
            ..self
        }
    }

    /// Packets, each with whether it comes from inside; returns what deciding them took.
    pub(crate) fn all<'p>(
        &mut self,
        packets: impl Iterator<Item = (&'p [u8], bool)>,
    ) -> Result<Duration> {
        let mut buffers = std::mem::take(&mut self.buffers);
        let decided = buffers.each(packets, |lot| {
            lot.chunks_mut(self.batch)
                .try_for_each(|batch| self.decide(batch))
        });
        self.buffers = buffers;
        decided
    }

    /// As the datapath does with the frames of a batch.
    fn decide(&mut self, batch: &mut [(Vec<u8>, bool)]) -> Result<()> {
        if self.batch > 1 {
            let packets = batch.iter().map(|(bytes, _)| bytes.as_slice());
            self.engine.foresee(packets);
        }
        for (buffer, client) in batch {
            self.now += PACE;
            let bytes = std::mem::take(buffer);
            let incoming = from(*client);
            let outcome = self.engine.receive(self.now, incoming, bytes, &mut ());
            let sent = matches!(outcome.disposition, Disposition::Sent);
            ensure!(sent == self.sent, "{:?}", outcome.disposition);
            *buffer = self.engine.recycle(outcome.outputs).unwrap_or_default();
        }
        Ok(())
    }

    /// What leaves when this packet comes: none where it is dropped.
    pub(crate) fn one(&mut self, packet: &[u8], client: bool) -> Option<Vec<u8>> {
        self.now += PACE;
        let outcome = self
            .engine
            .receive(self.now, from(client), packet.to_vec(), &mut ());
        let sent = outcome.outputs.into_iter().find_map(|output| match output {
            Output::Transmit { bytes, .. } => Some(bytes),
            _ => None,
        });
        sent.filter(|_| outcome.disposition == Disposition::Sent)
    }

    /// That the engine's rules, which are these, have counted so many packets each.
    ///
    /// # Errors
    /// One has not.
    pub(crate) fn has_counted(&self, rules: &Loaded, wanted: &[u64]) -> Result<()> {
        for (wanted, (_, _, rule)) in wanted.iter().zip(rules.rules.rules()) {
            let counted = self.engine.counter(Family::V4, rule.id).packets;
            ensure!(
                counted == *wanted,
                "{counted} packets, not {wanted}: {rule:?}"
            );
        }
        Ok(())
    }
}

fn from(client: bool) -> Incoming {
    Incoming::on(if client { INSIDE } else { OUTSIDE })
}
