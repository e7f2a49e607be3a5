//! The engine's state and its entry points.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use tidegate_conntrack::snapshot::{Restored, Snapshot};
use tidegate_conntrack::{Conntrack, Time};
use tidegate_ir::{RuleId, Ruleset, Shared, Socket, Step, TableKey, TableKind};
use tidegate_wire::Family;

use crate::classifier::Classifier;
use crate::config::{Config, TrackWhen};
use crate::defrag::Defrag;
use crate::drops::DropCounters;
use crate::env::{Env, IfIndex};
use crate::flow::FlowCache;
use crate::hooks::{Active, active};
use crate::offload::Last;
use crate::origin::{BELOW, Origins, policies};
use crate::outcome::{Outcome, Output};
use crate::packet::LinkHeader;
use crate::queue::Queues;
use crate::random::Random;
use crate::run::Run;
use crate::settled::Basis;
use crate::sockets::{Sockets, Whose};
use crate::staged::Staged;
use crate::stop::Stopper;
use crate::synproxy::SynProxyCounts;
use crate::tables::{Counter, Stack};
use crate::trace::Trace;

/// One family's rules at work.
#[derive(Debug)]
pub(crate) struct Family4Or6 {
    pub(crate) rules: Arc<Ruleset>,
    /// By table, then by chain.
    pub(crate) classifiers: [Vec<Classifier>; 5],
    pub(crate) counters: Vec<Counter>,
    /// Counters of rules that have been taken out.
    pub(crate) unused: Vec<RuleId>,
    pub(crate) steps: Vec<Box<dyn Step>>,
    /// Connection tracking sees this family's packets.
    pub(crate) tracked: bool,
    /// The nat table has been loaded: connections get their (null) bindings.
    pub(crate) nat: bool,
}

impl Family4Or6 {
    fn new(rules: Arc<Ruleset>, track: TrackWhen, seed: u64) -> Self {
        Family4Or6 {
            counters: vec![Counter::default(); rules.rule_ids as usize],
            unused: Vec::new(),
            steps: rules.steps.iter().map(|s| s.fresh()).collect(),
            tracked: match track {
                TrackWhen::Needed => rules.tracks_connections,
                TrackWhen::Always => true,
                TrackWhen::Never => false,
            },
            nat: rules.table(TableKind::Nat).is_some(),
            classifiers: std::array::from_fn(|kind| {
                let chains = rules.tables[kind].iter().flat_map(|t| &t.chains);
                let sorted = chains.map(|c| Classifier::new(&c.rules, rules.family, seed));
                sorted.collect()
            }),
            rules,
        }
    }
}

/// One family's rules made ready to run, which takes its time with many of them and
/// needs no engine.
#[derive(Debug)]
pub struct Ready(Family4Or6);

impl Ready {
    /// Makes `rules` ready for an engine that tracks connections `track`. Nobody who can
    /// choose rules or packets should know `seed`, lest they crowd the classifier's hash
    /// tables.
    #[must_use]
    pub fn new(rules: Arc<Ruleset>, track: TrackWhen, seed: u64) -> Self {
        Ready(Family4Or6::new(rules, track, seed))
    }

    /// The tables that its tests and effects name, and what they name in them.
    pub fn tables(&self) -> impl Iterator<Item = TableKey> {
        self.0.steps.iter().flat_map(|s| s.tables())
    }

    pub(crate) fn into_family(self) -> Family4Or6 {
        self.0
    }

    /// Sets a counter, as when rules are loaded with their counters.
    pub fn set_counter(&mut self, id: RuleId, counter: Counter) {
        if let Some(c) = self.0.counters.get_mut(id.0 as usize) {
            *c = counter;
        }
    }
}

/// A counter that outlives a change of the rules.
#[derive(Clone, Copy, Debug)]
pub struct Survivor {
    /// Its number among the old rules.
    pub old: RuleId,
    /// Its number among the new ones.
    pub new: RuleId,
    /// The value that the new rules' counter was made from: what has been counted
    /// since is added to it.
    pub seen: Counter,
}

/// What new rules take over from those they replace.
#[derive(Clone, Debug, Default)]
pub struct Survivors {
    /// Counters.
    pub counters: Vec<Survivor>,
    /// Stateful tests: the first old and the first new one, and how many.
    pub steps: Vec<(u32, u32, u32)>,
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
    /// Payload bytes of each of the segments that the packet stands for, joined by the
    /// receiving network card or to be cut by the sending one (GRO, GSO); 0 where it
    /// stands for itself, `None` where that is not known.
    pub segment: Option<u16>,
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
            segment: None,
        }
    }
}

/// A locally sent packet's way out, as the kernel has chosen it: by its own tables,
/// `SO_BINDTODEVICE`, a multicast interface and so on.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing {
    /// Interface.
    pub dev: IfIndex,
    /// Mark.
    pub mark: u32,
    /// As [`Incoming::segment`].
    pub segment: Option<u16>,
}

/// What rules can ask for that is neither the packet's nor a snapshot's.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    pub(crate) sockets: Option<Box<dyn Sockets>>,
    /// Number of the processor that handles the packets.
    pub(crate) cpu: u32,
    /// What conditions want logged about the packet.
    pub(crate) said: Vec<String>,
}

/// Decides packets.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) env: Arc<Env>,
    pub(crate) families: [Family4Or6; 2],
    /// By family: which stages have something to do.
    pub(crate) active: [Active; 2],
    pub(crate) conntrack: Conntrack,
    pub(crate) defrag: Defrag,
    pub(crate) random: Random,
    pub(crate) stack: Stack,
    pub(crate) flows: FlowCache,
    pub(crate) origins: Origins,
    pub(crate) shared: Shared,
    pub(crate) queues: Queues,
    pub(crate) outside: Outside,
    pub(crate) drops: DropCounters,
    pub(crate) synproxy: SynProxyCounts,
    /// The last packet, if it followed a plan.
    pub(crate) last: Option<Last>,
    /// Rules that are only watched.
    pub(crate) staged: Option<Box<Staged>>,
    /// Who drops packets in its stead.
    pub(crate) stopper: Option<Box<dyn Stopper>>,
    /// What whoever follows the rules elsewhere goes by.
    pub(crate) basis: Basis,
    /// Of the surroundings, once it has been asked: whether routing takes all sources.
    pub(crate) all_sources: OnceLock<bool>,
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
        let empty =
            |family| Family4Or6::new(Arc::new(Ruleset::empty(family)), config.track, config.seed);
        let families = [empty(Family::V4), empty(Family::V6)];
        Engine {
            active: families.each_ref().map(|family| active(family, None)),
            families,
            conntrack: Conntrack::new(config.conntrack.clone()),
            defrag: Defrag::default(),
            random: Random::new(config.seed),
            stack: Stack::default(),
            flows: FlowCache::default(),
            origins: Origins::default(),
            shared: Shared::default(),
            queues: Queues::default(),
            outside: Outside::default(),
            drops: DropCounters::default(),
            synproxy: SynProxyCounts::default(),
            last: None,
            staged: None,
            stopper: None,
            basis: Basis::default(),
            all_sources: OnceLock::new(),
            spare: Vec::new(),
            env,
            config,
        }
    }

    /// Replaces the rules of their family; counters and stateful tests start anew,
    /// connections stay.
    pub fn load(&mut self, rules: Arc<Ruleset>) {
        let ready = Ready::new(rules, self.config.track, self.config.seed);
        self.replace(ready, &Survivors::default());
    }

    /// Replaces the rules of their family between two packets, keeping what survives;
    /// connections stay. Returns the old rules, whose destruction takes its time.
    pub fn replace(&mut self, mut ready: Ready, survivors: &Survivors) -> Ready {
        self.recall_all();
        let new = &mut ready.0;
        let family = new.rules.family;
        let slot = &mut self.families[index(family)];
        for s in &survivors.counters {
            let now = slot.counters.get(s.old.0 as usize);
            if let (Some(now), Some(c)) = (now, new.counters.get_mut(s.new.0 as usize)) {
                c.packets += now.packets.saturating_sub(s.seen.packets);
                c.bytes += now.bytes.saturating_sub(s.seen.bytes);
            }
        }
        for &(old, at, count) in &survivors.steps {
            for i in 0..count {
                let old = slot.steps.get_mut((old + i) as usize);
                if let (Some(old), Some(step)) = (old, new.steps.get_mut((at + i) as usize)) {
                    std::mem::swap(old, step);
                }
            }
        }
        // Unlike the kernel, which unhooks at once: a rule taken out and put back in
        // must not cut what is translated.
        if self.origins.has(family) {
            let (was, is) = (policies(&slot.rules), policies(&new.rules));
            let mut moved = vec![None; slot.counters.len()];
            for s in &survivors.counters {
                if let Some(place) = moved.get_mut(s.old.0 as usize) {
                    *place = Some(s.new).filter(|new| was.get(&s.old) == is.get(new));
                }
            }
            let follow = |id: RuleId| moved.get(id.0 as usize).copied().flatten();
            self.origins.follow(family, follow);
        }
        new.tracked |= slot.tracked && self.conntrack.count() > 0;
        new.nat |= slot.nat;
        std::mem::swap(slot, new);
        self.other_rules();
        for step in &self.families[index(family)].steps {
            step.load(&mut self.shared);
        }
        let steps = self.families.iter().flat_map(|f| &f.steps);
        let named: HashSet<TableKey> = steps.flat_map(|s| s.tables()).collect();
        self.shared.retain(|key| named.contains(key));
        ready
    }

    /// Rules or surroundings are others.
    pub(crate) fn begin_epoch(&mut self) {
        let staged = self.staged.as_ref().map(|s| &s.families);
        self.active = std::array::from_fn(|n| active(&self.families[n], staged.map(|s| &s[n])));
        if self.flows.begin_epoch() {
            self.conntrack.mask_tags(!BELOW);
        }
    }

    /// What was learnt about the rules before does not hold any more.
    pub(crate) fn other_rules(&mut self) {
        self.begin_epoch();
        if let Some(staged) = self.staged.as_deref_mut() {
            staged.restart();
        }
    }

    /// Says who knows this host's sockets. Rules that ask for sockets find none without.
    pub fn set_sockets(&mut self, sockets: Option<Box<dyn Sockets>>) {
        self.outside.sockets = sockets;
    }

    /// Whether some rule in force or on stage asks for sockets.
    #[must_use]
    pub fn asks_sockets(&self) -> bool {
        [Family::V4, Family::V6]
            .into_iter()
            .any(|family| self.asks_sockets_of(family))
    }

    /// The same of one family's rules.
    pub(crate) fn asks_sockets_of(&self, family: Family) -> bool {
        let asks = |all: &[Family4Or6; 2]| all[index(family)].rules.asks_sockets;
        asks(&self.families) || self.staged.as_ref().is_some_and(|s| asks(&s.families))
    }

    /// Says which processor handles the packets from now on; the first (0) until then.
    pub fn set_cpu(&mut self, cpu: u32) {
        self.outside.cpu = cpu;
    }

    /// The tables that rules share, such as the lists of `-m recent`.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The same, to be changed between two packets. Until somebody has seen what has, nothing is
    /// dropped elsewhere.
    pub fn shared_mut(&mut self) -> &mut Shared {
        self.count_stopped(true);
        self.basis.touch();
        &mut self.shared
    }

    /// How many tests and effects of the rules name each table of a kind, or what is in it.
    #[must_use]
    pub fn users(&self, kind: &str) -> HashMap<String, usize> {
        let mut users = HashMap::new();
        let steps = self.families.iter().flat_map(|f| &f.steps);
        for key in steps.flat_map(|s| s.tables()).filter(|k| k.kind == kind) {
            *users.entry(key.name).or_default() += 1;
        }
        users
    }

    /// Forgets connections, fragments and what stateful tests remember, as if nothing had
    /// come in yet. Rules and their counters stay, and tables that last.
    pub fn forget(&mut self) {
        self.conntrack.flush();
        self.defrag = Defrag::default();
        self.shared.retain(|_| false);
        for family in &mut self.families {
            for (step, new) in family.steps.iter_mut().zip(&family.rules.steps) {
                *step = new.fresh();
                step.load(&mut self.shared);
            }
        }
        self.begin_epoch();
    }

    /// Replaces the surroundings. Masqueraded connections go with the interface that is
    /// gone, and with the address that theirs has lost.
    pub fn set_env(&mut self, env: Arc<Env>) {
        self.recall_all();
        for (dev, addr) in self.env.lost(&env) {
            self.conntrack.flush_masqueraded(dev.0, addr);
        }
        self.env = env;
        self.all_sources = OnceLock::new();
        self.forsake_interfaces();
        self.begin_epoch();
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

    /// All counters of a family by number.
    #[must_use]
    pub fn counters(&self, family: Family) -> &[Counter] {
        &self.families[index(family)].counters
    }

    /// Sets a counter, as when rules are loaded with their counters.
    pub fn set_counter(&mut self, family: Family, id: RuleId, counter: Counter) {
        if let Some(c) = self.families[index(family)].counters.get_mut(id.0 as usize) {
            *c = counter;
        }
    }

    /// Packets that went no further, and INVALID ones, by reason.
    #[must_use]
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    /// What SYN proxies did.
    #[must_use]
    pub fn synproxy(&self) -> SynProxyCounts {
        self.synproxy
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

    /// Packets that passed the tables as an earlier packet of their flow did, without
    /// walking them.
    #[must_use]
    pub fn followed(&self) -> u64 {
        self.flows.followed
    }

    /// Bytes of fragments that wait for the rest of their packets; at most
    /// [`DefragLimits::max_bytes`](crate::DefragLimits::max_bytes).
    #[must_use]
    pub fn fragment_bytes(&self) -> usize {
        self.defrag.bytes()
    }

    /// Says which packets come next, in this order: what they need is brought near, so that
    /// memory is waited for once for all of them. At most
    /// [`AHEAD`](tidegate_conntrack::AHEAD) are looked at. Nothing else comes of it; others
    /// may come instead.
    pub fn foresee<'p>(&mut self, packets: impl Iterator<Item = &'p [u8]>) {
        if self.families.iter().any(|f| f.tracked) {
            self.conntrack.foresee(packets);
        }
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
        self.receive_any(now, &incoming, packet, trace)
    }

    /// A packet that a local socket sends, carrying `mark`.
    pub fn send<T: Trace>(
        &mut self,
        now: Time,
        packet: Vec<u8>,
        mark: u32,
        trace: &mut T,
    ) -> Outcome {
        self.send_any(now, packet, mark, None, None, trace)
    }

    /// As [`Engine::send`], for a packet whose socket is known; `None` for one of no socket.
    pub fn send_as<T: Trace>(
        &mut self,
        now: Time,
        packet: Vec<u8>,
        mark: u32,
        sender: Option<Arc<Socket>>,
        trace: &mut T,
    ) -> Outcome {
        let whose = Some(Box::new(Whose::of(sender)));
        self.send_any(now, packet, mark, None, whose, trace)
    }

    /// As [`Engine::send`], for a packet that the kernel has routed already. It is routed
    /// again only when a rule changed what routing depends on.
    pub fn send_on<T: Trace>(
        &mut self,
        now: Time,
        way: Outgoing,
        packet: Vec<u8>,
        trace: &mut T,
    ) -> Outcome {
        self.send_any(now, packet, way.mark, Some(way), None, trace)
    }

    /// A packet that was to be transmitted, as it left the engine, finds nobody at its
    /// next hop: what its sender is told (`ipv4_link_failure`, `ndisc_error_report`).
    pub fn unreachable<T: Trace>(
        &mut self,
        now: Time,
        packet: Vec<u8>,
        trace: &mut T,
    ) -> Vec<Output> {
        Run::new(self, now, trace).unreachable(packet)
    }

    /// Takes back the outputs of an outcome, so that the next packet needs no list of
    /// its own; what is returned is the buffer of the last packet among them, to be
    /// filled with the next one. In one piece with the caller, who need not move the list.
    #[inline]
    pub fn recycle(&mut self, mut outputs: Vec<Output>) -> Option<Vec<u8>> {
        // Looked for where they are: what has just been written in pieces is not to be moved.
        let buffer = outputs.iter_mut().rev().find_map(|output| match output {
            Output::Transmit { bytes, .. } | Output::Deliver { bytes, .. } => {
                Some(std::mem::take(bytes))
            }
            Output::Log { .. } | Output::Nflog(_) => None,
        });
        outputs.clear();
        self.spare = outputs;
        buffer
    }

    /// Puts back connections at `now`, which is `wall` nanoseconds after 1970, and goes on
    /// tracking and translating their packets whatever the rules say.
    pub fn restore(&mut self, now: Time, wall: u64, snapshot: &Snapshot<'_>) -> Restored {
        let restored = self.conntrack.restore(now, wall, snapshot);
        let back = restored.families.iter().zip(restored.translated);
        for (family, (&tracked, translated)) in self.families.iter_mut().zip(back) {
            family.tracked |= tracked && self.config.track != TrackWhen::Never;
            family.nat |= translated;
        }
        self.begin_epoch();
        restored
    }

    /// Lets connections and fragments expire.
    pub fn handle_timeout(&mut self, now: Time) {
        self.conntrack.handle_timeout(now);
        self.count_passed();
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
