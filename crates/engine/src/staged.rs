//! Rules beside those in force: they see the same packets at the same places, with the
//! same connections, and do nothing. What they would have decided otherwise is counted.
//!
//! Verdicts of the tables raw, mangle, filter and security are compared. Translation is
//! that of the rules in force, and what staged rules would change in a packet (marks,
//! TOS) their later rules do not see. While rules are staged, every packet walks the
//! tables of both: no flow follows a plan.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use tidegate_conntrack::{Conntrack, Time};
use tidegate_ir::{Chain, Effect, Hook, Rule, RuleId, Shared, Step, TableKind};
use tidegate_wire::Family;

use crate::engine::{Engine, Family4Or6, Outside, Ready, index};
use crate::env::{Env, IfIndex};
use crate::facts::View;
use crate::flow::Recorder;
use crate::packet::Packet;
use crate::random::Random;
use crate::run::Run;
use crate::synproxy::part;
use crate::tables::{self, Continue, Counter, Decision, Host, Stack, counter_of};
use crate::trace::{Trace, Watch};
use crate::usual::Usual;

/// Differences that are told apart.
const MOST: usize = 1024;
/// Bytes of an example that are kept.
const EXAMPLE: usize = 128;

/// What a table does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Judged {
    /// Lets it go on.
    Accept,
    /// Discards it.
    Drop,
    /// Discards it and answers.
    Reject,
}

impl From<Decision> for Judged {
    fn from(decision: Decision) -> Self {
        match decision {
            // Who reads the queue decides.
            Decision::Accept | Decision::Queue(..) => Judged::Accept,
            Decision::Drop(_) | Decision::SynProxy(..) => Judged::Drop,
            Decision::Reject(..) | Decision::Problem(..) => Judged::Reject,
        }
    }
}

/// A decision and the rule or policy behind it; `None` where there is no such table.
pub type ByRule = (Judged, Option<RuleId>);

/// A way in which staged rules differ from those in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Otherwise {
    /// Family.
    pub family: Family,
    /// Table.
    pub table: TableKind,
    /// Where it was met.
    pub hook: Hook,
    /// What the rules in force did.
    pub live: ByRule,
    /// What the staged ones would have done.
    pub staged: ByRule,
}

/// How often that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Packets and bytes.
    pub count: Counter,
    /// The beginning of the first of them, as it came to the table.
    pub example: Vec<u8>,
    /// Where that came in.
    pub input: Option<IfIndex>,
    /// Where it was about to go out.
    pub output: Option<IfIndex>,
    /// When, in the engine's time.
    pub first: Time,
}

/// Rules on stage and what was seen of them.
#[derive(Debug)]
pub struct Staged {
    pub(crate) families: [Family4Or6; 2],
    shared: Shared,
    random: Random,
    stack: Stack,
    recorder: Recorder,
    differing: HashMap<Otherwise, Differing>,
    /// The packet at work would have been stopped: what follows would not have been.
    stopped: bool,
    /// Packets that have met both rulesets.
    pub packets: u64,
    /// Differences beyond those that are told apart.
    pub untold: u64,
}

impl Staged {
    fn new(ready: [Ready; 2], seed: u64) -> Self {
        let mut shared = Shared::default();
        let families = ready.map(Ready::into_family);
        for step in families.iter().flat_map(|f| &f.steps) {
            step.load(&mut shared);
        }
        Staged {
            families,
            shared,
            random: Random::new(seed),
            stack: Stack::default(),
            recorder: Recorder::default(),
            differing: HashMap::new(),
            stopped: false,
            packets: 0,
            untold: 0,
        }
    }

    /// What differs, in no order.
    pub fn differing(&self) -> impl Iterator<Item = (&Otherwise, &Differing)> {
        self.differing.iter()
    }

    /// Packets and bytes that a staged rule or policy has counted.
    #[must_use]
    pub fn counter(&self, family: Family, id: RuleId) -> Counter {
        let counters = &self.families[index(family)].counters;
        counters.get(id.0 as usize).copied().unwrap_or_default()
    }

    /// The next packet comes.
    pub(crate) fn begin(&mut self) {
        self.packets += 1;
        self.stopped = false;
    }

    /// It is no other than one that has waited; they would have stopped it before or not.
    pub(crate) fn go_on(&mut self, stopped: bool) {
        self.packets = self.packets.saturating_sub(1);
        self.stopped = stopped;
    }

    /// Whether they would have stopped the packet.
    pub(crate) const fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// Other rules are in force: counts of differences begin anew.
    pub(crate) fn restart(&mut self) {
        self.differing.clear();
        self.packets = 0;
        self.untold = 0;
    }

    fn count(&mut self, what: Otherwise, packet: &Packet, now: Time) {
        let full = self.differing.len() >= MOST;
        let differing = match self.differing.entry(what) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => {
                self.untold += 1;
                return;
            }
            Entry::Vacant(place) => place.insert(Differing {
                count: Counter::default(),
                example: packet.bytes[..packet.bytes.len().min(EXAMPLE)].to_vec(),
                input: packet.in_dev,
                output: packet.out_dev,
                first: now,
            }),
        };
        differing.count.count(packet.layout.len);
    }
}

impl Engine {
    /// Puts rules of both families, IPv4's first, beside those in force, in the place of
    /// any that were there. If they need connection tracking, connections are tracked from
    /// now on.
    pub fn stage(&mut self, ready: [Ready; 2]) {
        self.recall_all();
        let staged = Staged::new(ready, self.config.seed);
        for (live, staged) in self.families.iter_mut().zip(&staged.families) {
            live.tracked |= staged.tracked;
        }
        self.staged = Some(Box::new(staged));
        self.begin_epoch();
    }

    /// The rules on stage.
    #[must_use]
    pub fn staged(&self) -> Option<&Staged> {
        self.staged.as_deref()
    }

    /// Takes them away; the caller destroys them.
    pub fn unstage(&mut self) -> Option<Box<Staged>> {
        let staged = self.staged.take();
        self.begin_epoch();
        staged
    }
}

impl<T: Trace> Run<'_, T> {
    /// What the staged rules would do here.
    pub(crate) fn rehearse(
        &mut self,
        packet: &Packet,
        kind: TableKind,
        hook: Hook,
    ) -> Option<ByRule> {
        let Engine {
            staged,
            conntrack,
            env,
            outside,
            ..
        } = &mut *self.engine;
        let staged = staged
            .as_deref_mut()
            .filter(|s| kind != TableKind::Nat && !s.stopped)?;
        let Family4Or6 {
            rules,
            classifiers,
            counters,
            steps,
            ..
        } = &mut staged.families[index(packet.family())];
        let Some(table) = rules.table(kind) else {
            return Some((Judged::Accept, None));
        };
        let mut rehearsal = Rehearsal {
            packet,
            usual: Usual::unread(),
            conntrack,
            env,
            counters,
            steps,
            shared: &mut staged.shared,
            random: &mut staged.random,
            outside,
            recorder: &mut staged.recorder,
            last: None,
            now: self.now,
            trace: (),
        };
        let classifiers = &classifiers[kind as usize];
        let decision = tables::walk(&mut rehearsal, table, classifiers, hook, &mut staged.stack);
        let last = rehearsal.last;
        staged.stopped = decision != Decision::Accept;
        Some((decision.into(), last))
    }

    /// Compares what both rulesets decided.
    pub(crate) fn compare(&mut self, packet: &Packet, what: Otherwise) {
        if what.live.0 != what.staged.0
            && let Some(staged) = self.engine.staged.as_deref_mut()
        {
            staged.count(what, packet, self.now);
        }
    }
}

/// A table that is walked without effect.
struct Rehearsal<'r> {
    packet: &'r Packet,
    usual: Usual,
    conntrack: &'r mut Conntrack,
    env: &'r Env,
    counters: &'r mut Vec<Counter>,
    steps: &'r mut Vec<Box<dyn Step>>,
    shared: &'r mut Shared,
    random: &'r mut Random,
    outside: &'r mut Outside,
    recorder: &'r mut Recorder,
    /// The rule or policy that counted last: the one that decides.
    last: Option<RuleId>,
    now: Time,
    trace: (),
}

impl Host for Rehearsal<'_> {
    type Trace = ();

    fn view(&mut self) -> (View<'_>, Watch<'_, ()>) {
        let view = View {
            packet: self.packet,
            usual: &mut self.usual,
            conntrack: self.conntrack,
            env: self.env,
            steps: self.steps,
            shared: self.shared,
            random: self.random,
            outside: self.outside,
            now: self.now,
            rehearsed: true,
        };
        let recorder = &mut *self.recorder;
        let trace = &mut self.trace;
        (view, Watch { trace, recorder })
    }

    fn counter(&mut self, id: RuleId) -> &mut Counter {
        self.last = Some(id);
        counter_of(self.counters, id)
    }

    fn packet_len(&self) -> u32 {
        self.packet.layout.len
    }

    fn is_traced(&self) -> bool {
        false
    }

    fn log_rule(&mut self, _: TableKind, _: &Chain, _: &str, _: usize) {}

    /// A queue is taken to accept, a socket to be there.
    fn run_effects(&mut self, rule: &Rule) -> Continue {
        let decided = rule.effects.iter().find_map(|e| match e {
            Effect::Queue(_) | Effect::Tproxy(_) => Some(Decision::Accept),
            Effect::SynProxy(spec) => part(self.packet).map(|_| Decision::SynProxy(*spec, rule.id)),
            _ => None,
        });
        decided.map_or(Continue::Verdict, Continue::Decided)
    }
}
