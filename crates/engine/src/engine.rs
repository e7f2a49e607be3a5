//! The engine's state and its entry points.

use std::sync::Arc;

use tidegate_conntrack::{self as ct, Conntrack, Time};
use tidegate_ir::{RuleId, Ruleset, Step, TableKind};
use tidegate_wire::Family;

use crate::defrag::{Defrag, DefragLimits};
use crate::env::{Env, IfIndex};
use crate::index::Index;
use crate::outcome::{Outcome, Output};
use crate::packet::LinkHeader;
use crate::random::Random;
use crate::run::Run;
use crate::tables::{Counter, Stack};
use crate::trace::Trace;

/// When connections are tracked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrackWhen {
    /// As soon as a rule of the family needs it, as the kernel does per namespace.
    #[default]
    Needed,
    /// Always.
    Always,
}

/// What the engine is made with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Connection-tracking settings.
    pub conntrack: ct::Config,
    /// When connections are tracked.
    pub track: TrackWhen,
    /// Limits of reassembly.
    pub defrag: DefragLimits,
    /// Seed of everything random (`-m statistic`, IPv6 fragment ids).
    pub seed: u64,
}

/// One family's rules at work.
#[derive(Debug)]
pub(crate) struct Family4Or6 {
    pub(crate) rules: Arc<Ruleset>,
    /// By table, then by chain.
    pub(crate) indexes: [Vec<Index>; 5],
    pub(crate) counters: Vec<Counter>,
    pub(crate) steps: Vec<Box<dyn Step>>,
    /// Connection tracking sees this family's packets.
    pub(crate) tracked: bool,
    /// The nat table has been loaded: connections get their (null) bindings.
    pub(crate) nat: bool,
}

impl Family4Or6 {
    fn new(rules: Arc<Ruleset>, track: TrackWhen) -> Self {
        Family4Or6 {
            counters: vec![Counter::default(); rules.rule_ids as usize],
            steps: rules.steps.iter().map(|s| s.fresh()).collect(),
            tracked: track == TrackWhen::Always || rules.tracks_connections,
            nat: rules.table(TableKind::Nat).is_some(),
            indexes: std::array::from_fn(|kind| {
                let chains = rules.tables[kind].iter().flat_map(|t| &t.chains);
                chains.map(Index::new).collect()
            }),
            rules,
        }
    }
}

/// A received frame's way in.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Interface.
    pub dev: IfIndex,
    /// Link-layer header, for LOG.
    pub link: LinkHeader,
    /// The network protocol that the link layer named; `None` where the packet's own
    /// version is all there is.
    pub family: Option<Family>,
    /// Whether the link layer addressed the frame to this host (`PACKET_HOST`).
    pub to_host: bool,
}

impl Incoming {
    /// A frame without link header that is meant for this host.
    #[must_use]
    pub fn on(dev: IfIndex) -> Self {
        Incoming {
            dev,
            link: LinkHeader::default(),
            family: None,
            to_host: true,
        }
    }
}

/// Decides packets.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) env: Arc<Env>,
    pub(crate) families: [Family4Or6; 2],
    pub(crate) conntrack: Conntrack,
    pub(crate) defrag: Defrag,
    pub(crate) random: Random,
    pub(crate) stack: Stack,
    /// An empty list for the outputs of the next packet.
    pub(crate) spare: Vec<Output>,
}

pub(crate) fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Engine {
    /// An engine without rules: everything passes.
    #[must_use]
    pub fn new(config: Config, env: Arc<Env>) -> Self {
        let empty = |family| Family4Or6::new(Arc::new(Ruleset::empty(family)), config.track);
        Engine {
            families: [empty(Family::V4), empty(Family::V6)],
            conntrack: Conntrack::new(config.conntrack.clone()),
            defrag: Defrag::default(),
            random: Random::new(config.seed),
            stack: Stack::default(),
            spare: Vec::new(),
            env,
            config,
        }
    }

    /// Replaces the rules of their family; counters and stateful tests start anew,
    /// connections stay.
    pub fn load(&mut self, rules: Arc<Ruleset>) {
        let slot = &mut self.families[index(rules.family)];
        let (tracked, nat) = (slot.tracked, slot.nat);
        *slot = Family4Or6::new(rules, self.config.track);
        // The kernel keeps its hooks while connections need them.
        slot.tracked |= tracked && self.conntrack.count() > 0;
        slot.nat |= nat;
    }

    /// Replaces the surroundings.
    pub fn set_env(&mut self, env: Arc<Env>) {
        self.env = env;
    }

    /// The surroundings.
    #[must_use]
    pub fn env(&self) -> &Arc<Env> {
        &self.env
    }

    /// The rules of a family.
    #[must_use]
    pub fn rules(&self, family: Family) -> &Arc<Ruleset> {
        &self.families[index(family)].rules
    }

    /// Packets and bytes that a rule or a policy has counted.
    #[must_use]
    pub fn counter(&self, family: Family, id: RuleId) -> Counter {
        self.families[index(family)]
            .counters
            .get(id.0 as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Sets a counter, as when rules are loaded with their counters.
    pub fn set_counter(&mut self, family: Family, id: RuleId, counter: Counter) {
        if let Some(c) = self.families[index(family)].counters.get_mut(id.0 as usize) {
            *c = counter;
        }
    }

    /// Connections.
    #[must_use]
    pub fn conntrack(&self) -> &Conntrack {
        &self.conntrack
    }

    /// Connections, for changing.
    pub fn conntrack_mut(&mut self) -> &mut Conntrack {
        &mut self.conntrack
    }

    /// Bytes of fragments that wait for the rest of their packets; at most
    /// [`DefragLimits::max_bytes`].
    #[must_use]
    pub fn fragment_bytes(&self) -> usize {
        self.defrag.bytes()
    }

    /// A packet received at an interface. `now` is in nanoseconds and never goes back;
    /// where it counts from 1970, timestamp options get the time of day.
    pub fn receive<T: Trace>(
        &mut self,
        now: Time,
        incoming: Incoming,
        packet: Vec<u8>,
        trace: &mut T,
    ) -> Outcome {
        Run::new(self, now, trace).receive(incoming, packet)
    }

    /// A packet that a local socket sends, carrying `mark`.
    pub fn send<T: Trace>(
        &mut self,
        now: Time,
        packet: Vec<u8>,
        mark: u32,
        trace: &mut T,
    ) -> Outcome {
        Run::new(self, now, trace).send(packet, mark)
    }

    /// Takes back the outputs of an outcome, so that the next packet needs no list of
    /// its own; what is returned is the buffer of the last packet among them, to be
    /// filled with the next one.
    pub fn recycle(&mut self, mut outputs: Vec<Output>) -> Option<Vec<u8>> {
        let buffer = outputs.drain(..).rev().find_map(|output| match output {
            Output::Transmit { bytes, .. } | Output::Deliver { bytes, .. } => Some(bytes),
            Output::Log { .. } => None,
        });
        self.spare = outputs;
        buffer
    }

    /// Lets connections and fragments expire.
    pub fn handle_timeout(&mut self, now: Time) {
        self.conntrack.handle_timeout(now);
        self.defrag.handle_timeout(now);
    }

    /// When [`Engine::handle_timeout`] next has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.conntrack.poll_timeout(), self.defrag.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }
}
