//! The replay itself: packets in, records out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_capture::{Direction, Frame};
use tidegate_engine::conntrack::{EntryId, Tuple};
use tidegate_engine::env::{Env, IfIndex};
use tidegate_engine::{Engine, Outcome, Output, Role, Trace};
use tidegate_ir::RuleId;
use tidegate_wire::{Family, parse};

use super::advice::{Advice, Announced, Met};
use super::brief::Brief;
use super::explain::Explainer;
use super::fate::Fate;
use super::feed::{Entry, Feed, Ready, Skip, complete};
use super::predict::Predictions;
use super::record::Record;
use super::rules::Rules;
use super::totals::Totals;
use super::walk::{State, Walk};
use tidegate_host::Host;

/// Numbers for connections in the order they appear.
#[derive(Default)]
struct Numbers {
    by_id: HashMap<EntryId, u64>,
    last: u64,
}

impl Numbers {
    /// The number of a living connection; dead ones are forgotten now and then.
    fn of(&mut self, id: EntryId, engine: &Engine) -> u64 {
        if let Some(n) = self.by_id.get(&id) {
            return *n;
        }
        if self.by_id.len() > 2 * engine.conntrack().count() as usize + 1024 {
            self.by_id
                .retain(|id, _| engine.conntrack().entry(*id).is_some());
        }
        self.last += 1;
        self.by_id.insert(id, self.last);
        self.last
    }
}

/// A replay under way.
pub(crate) struct Session {
    /// The engine.
    pub(super) engine: Engine,
    /// The rules, for their texts.
    pub(super) rules: Rules,
    /// What the packets added up to.
    pub(super) totals: Totals,
    /// The engine's clock: the largest time seen.
    pub(super) now: u64,
    /// Time of the first packet.
    pub(super) start: Option<u64>,
    feed: Feed,
    predictions: Predictions,
    /// On loopback: bytes sent, and by which packet.
    looped: Option<(u64, Vec<u8>)>,
    numbers: Numbers,
    announced: Announced,
    walk: Walk,
    /// Buffer for the next packet.
    spare: Vec<u8>,
    /// The engine's surroundings; they stay as they are.
    pub(super) env: Arc<Env>,
}

/// What became of a packet, as far as two rulesets can differ in it.
pub(super) struct Treated {
    /// Its family.
    pub(super) family: Family,
    /// Verdict.
    pub(super) fate: Fate,
    /// The rule that let it pass or stopped it.
    pub(super) rule: Option<RuleId>,
    /// Where it came out, and with which ends.
    pub(super) came_out: Option<(Option<IfIndex>, Option<Tuple>)>,
}

/// How closely a packet is watched.
enum Watch<'e> {
    /// Only what becomes of it.
    Outcome,
    /// Enough for a line about it.
    Way,
    /// Every rule.
    Rules(&'e mut Explainer),
}

/// What was found out about a packet, beside its walk.
struct Decided {
    fate: Fate,
    brief: Option<Brief>,
    family: Family,
    dev: Option<IfIndex>,
    direction: Direction,
    missing: usize,
    outputs: Vec<Output>,
}

impl Decided {
    const fn skipped(skip: Skip) -> Self {
        Decided {
            fate: Fate::Skipped(skip),
            brief: None,
            family: Family::V4,
            dev: None,
            direction: Direction::Unknown,
            missing: 0,
            outputs: Vec::new(),
        }
    }
}

impl Session {
    /// A replay of `paths` through `rules` on `host`.
    pub(crate) fn new(host: Host, rules: Rules, paths: &[PathBuf]) -> Self {
        let feed = Feed::new(&host.env, paths);
        let env = Arc::new(host.env);
        let mut engine = Engine::new(host.config, env.clone());
        rules.load(&mut engine);
        engine.set_sockets(host.sockets.map(|s| Box::new(s) as _));
        Session {
            engine,
            rules,
            totals: Totals::default(),
            now: 0,
            start: None,
            feed,
            predictions: Predictions::default(),
            looped: None,
            numbers: Numbers::default(),
            announced: Announced::default(),
            walk: Walk::default(),
            spare: Vec::new(),
            env,
        }
    }

    /// Decides a packet and counts it.
    pub(super) fn quietly(&mut self, source: usize, frame: &Frame<'_>) {
        let decided = self.decide(source, frame, Watch::Outcome);
        self.totals
            .count(decided.fate.heading(), self.walk.state.name());
        self.advise(frame, &decided);
        self.recycle(decided.outputs);
    }

    /// Decides a packet, counts it and says what is to be compared.
    pub(super) fn treated(&mut self, source: usize, frame: &Frame<'_>) -> Treated {
        let decided = self.decide(source, frame, Watch::Outcome);
        self.totals.packets += 1;
        let accepted = decided.fate == Fate::Accept;
        let treated = Treated {
            family: decided.family,
            rule: match accepted {
                true => self.walk.passed.map(|p| p.1),
                false => decided.fate.rule(),
            },
            came_out: decided
                .outputs
                .iter()
                .find_map(came_out)
                .filter(|_| accepted),
            fate: decided.fate,
        };
        self.recycle(decided.outputs);
        treated
    }

    /// Decides a packet, counts it and hands its record to `report`.
    pub(super) fn reported<R>(
        &mut self,
        source: usize,
        frame: &Frame<'_>,
        report: impl FnOnce(&Record<'_>) -> R,
    ) -> R {
        let decided = self.decide(source, frame, Watch::Way);
        self.totals
            .count(decided.fate.heading(), self.walk.state.name());
        let number = self.totals.packets;
        let env = self.env.clone();
        let advice = self.advise(frame, &decided);
        let record = self.record(&env, number, frame, (&decided, advice));
        report(&record)
    }

    /// Decides a packet, watching every rule; `None` when it never meets the rules.
    pub(super) fn explained(
        &mut self,
        source: usize,
        frame: &Frame<'_>,
        report: impl FnOnce(&Record<'_>),
    ) -> Option<Explainer> {
        let family = frame
            .ip()
            .and_then(|ip| ip.first())
            .map_or(Family::V4, |b| {
                if b >> 4 == 6 { Family::V6 } else { Family::V4 }
            });
        let now = self.now.max(frame.time_ns);
        let mut explainer = Explainer::new(self.env.clone(), family, now);
        let decided = self.decide(source, frame, Watch::Rules(&mut explainer));
        std::mem::swap(&mut self.walk, &mut explainer.walk);
        self.totals
            .count(decided.fate.heading(), self.walk.state.name());
        let number = self.totals.packets;
        let env = self.env.clone();
        let advice = self.advise(frame, &decided);
        report(&self.record(&env, number, frame, (&decided, advice)));
        let met_rules = !matches!(decided.fate, Fate::Skipped(_));
        std::mem::swap(&mut self.walk, &mut explainer.walk);
        met_rules.then_some(explainer)
    }

    fn decide(&mut self, source: usize, frame: &Frame<'_>, watch: Watch<'_>) -> Decided {
        self.walk.clear();
        self.now = self.now.max(frame.time_ns);
        self.start.get_or_insert(frame.time_ns);
        if self.engine.poll_timeout().is_some_and(|t| t <= self.now) {
            self.engine.handle_timeout(self.now);
        }
        let buffer = std::mem::take(&mut self.spare);
        let ready = match self.feed.ready(&self.env, source, frame, buffer) {
            Ok(ready) => ready,
            Err(skip) => return Decided::skipped(skip),
        };
        let number = self.totals.packets + 1;
        let mut decided = Decided {
            brief: match (&ready.layout, &watch) {
                (Some(layout), Watch::Way | Watch::Rules(_)) => {
                    Some(Brief::new(&ready.bytes, layout))
                }
                (None, _) | (_, Watch::Outcome) => None,
            },
            family: ready.layout.map_or(Family::V4, |l| l.family),
            missing: ready.missing,
            ..Decided::skipped(Skip::ArrivalUnseen)
        };
        let (dev, direction) = match ready.entry {
            Entry::Receive(incoming) => (incoming.dev, Direction::In),
            Entry::Send(dev) | Entry::Leaving(dev) => (dev, Direction::Out),
        };
        decided.dev = Some(dev);
        decided.direction = direction;
        if let Some(skip) = self.copy(&ready, dev, number) {
            decided.fate = Fate::Skipped(skip);
            self.spare = ready.bytes;
            return decided;
        }
        let outcome = match watch {
            Watch::Rules(explainer) => run(&mut self.engine, self.now, ready, dev, explainer),
            Watch::Outcome | Watch::Way => {
                run(&mut self.engine, self.now, ready, dev, &mut self.walk)
            }
        };
        self.expect(number, &outcome);
        decided.fate = Fate::of(outcome.disposition);
        decided.outputs = outcome.outputs;
        decided
    }

    /// Whether a packet is a copy of one that has been decided, or leaves unexpectedly.
    fn copy(&mut self, ready: &Ready, dev: IfIndex, number: u64) -> Option<Skip> {
        let loopback = dev == self.env.loopback();
        match ready.entry {
            Entry::Receive(_) if loopback => {
                let (of, sent) = self.looped.take()?;
                if sent == ready.bytes {
                    return Some(Skip::LoopbackCopy(of));
                }
                None
            }
            Entry::Receive(_) => None,
            Entry::Send(_) if loopback => {
                self.looped = Some((number, ready.bytes.clone()));
                None
            }
            Entry::Send(_) | Entry::Leaving(_) => {
                if let Some(seen) = self.predictions.take(self.now, dev, &ready.bytes) {
                    return Some(Skip::Leaving {
                        of: seen.of,
                        differs: seen.differs,
                    });
                }
                matches!(ready.entry, Entry::Leaving(_)).then_some(Skip::ArrivalUnseen)
            }
        }
    }

    /// Remembers what should be seen leaving. A local packet is seen only once.
    fn expect(&mut self, number: u64, outcome: &Outcome) {
        for output in &outcome.outputs {
            if let Output::Transmit {
                dev, bytes, role, ..
            } = output
                && *role != Role::Own
                && *dev != self.env.loopback()
            {
                self.predictions.add(number, self.now, *dev, bytes);
            }
        }
    }

    fn recycle(&mut self, outputs: Vec<Output>) {
        if let Some(buffer) = self.engine.recycle(outputs) {
            self.spare = buffer;
        }
    }

    /// What is to be said about the packet that has just been decided and counted.
    fn advise(&mut self, frame: &Frame<'_>, decided: &Decided) -> Option<Advice> {
        let mut bytes = Cow::Borrowed(frame.ip()?);
        if frame.is_truncated() {
            complete(bytes.to_mut(), true);
        }
        let bytes = &*bytes;
        let number = self.totals.packets;
        let stopped = decided.fate.rule();
        if stopped.is_none() && !matches!(self.walk.state, State::Invalid(_)) {
            if let Ok(layout) = parse(bytes) {
                self.announced.note(number, bytes, &layout);
            }
            return None;
        }
        let met = Met {
            bytes,
            walk: &self.walk,
            fate: &decided.fate,
            origin: stopped.and_then(|id| self.rules.origin(decided.family, id)),
            engine: &self.engine,
        };
        let advice = Advice::of(&met).or_else(|| self.announced.refused(&met))?;
        self.totals.advise(number, &advice);
        Some(advice)
    }

    fn record<'a>(
        &'a mut self,
        env: &'a Env,
        number: u64,
        frame: &'a Frame<'_>,
        (decided, advice): (&Decided, Option<Advice>),
    ) -> Record<'a> {
        let connection = match self.walk.state {
            State::Tracked(a) => self.engine.conntrack().entry(a.id).map(|_| {
                let n = self.numbers.of(a.id, &self.engine);
                (n, a.id)
            }),
            State::None | State::Untracked | State::Invalid(_) => None,
        };
        let rule = match decided.fate {
            Fate::Accept => self.walk.passed.map(|p| p.1),
            _ => decided.fate.rule(),
        };
        let named = frame.interface.name.as_deref();
        let dev = decided.dev.and_then(|d| env.interface(d));
        let logs = decided.outputs.iter().filter_map(|o| match o {
            Output::Log { level, line, .. } => Some((*level, line.clone())),
            Output::Transmit { .. } | Output::Deliver { .. } | Output::Nflog(_) => None,
        });
        Record {
            number,
            time_ns: frame.time_ns,
            since_ns: frame.time_ns.saturating_sub(self.start.unwrap_or(0)),
            interface: dev.map_or(named.unwrap_or("-"), |i| i.name.as_str()),
            direction: match decided.direction {
                Direction::In => "in",
                Direction::Out => "out",
                Direction::Unknown => "-",
            },
            brief: decided.brief,
            notes: notes(env, &self.walk, decided),
            advice,
            logs: logs.collect(),
            walk: &self.walk,
            fate: decided.fate.clone(),
            origin: rule.and_then(|id| self.rules.origin(decided.family, id)),
            connection: connection.and_then(|(n, id)| {
                let entry = self.engine.conntrack().entry(id)?;
                Some((n, entry))
            }),
        }
    }
}

/// Where a packet itself came out: an interface or this host, and with which ends.
fn came_out(output: &Output) -> Option<(Option<IfIndex>, Option<Tuple>)> {
    let ends = |bytes: &[u8]| Tuple::from_packet(bytes, &parse(bytes).ok()?);
    match output {
        Output::Transmit {
            dev, bytes, role, ..
        } if *role != Role::Emitted => Some((Some(*dev), ends(bytes))),
        Output::Deliver { bytes, .. } => Some((None, ends(bytes))),
        Output::Transmit { .. } | Output::Log { .. } | Output::Nflog(_) => None,
    }
}

fn run<T: Trace>(
    engine: &mut Engine,
    now: u64,
    ready: Ready,
    dev: IfIndex,
    trace: &mut T,
) -> Outcome {
    match ready.entry {
        Entry::Receive(_) if dev == engine.env().loopback() => {
            engine.send(now, ready.bytes, 0, trace)
        }
        Entry::Receive(incoming) => engine.receive(now, incoming, ready.bytes, trace),
        Entry::Send(_) | Entry::Leaving(_) => engine.send(now, ready.bytes, 0, trace),
    }
}

/// What a line says beyond its columns.
fn notes(env: &Env, walk: &Walk, decided: &Decided) -> Vec<String> {
    let mut notes = Vec::new();
    if let State::Invalid(reason) = walk.state {
        notes.push(format!("INVALID: {reason}"));
    }
    notes.extend(walk.note.map(|n| n.to_string()));
    notes.extend(decided.fate.why());
    if decided.missing > 0 {
        notes.push(format!("{} bytes not captured", decided.missing));
    }
    for output in &decided.outputs {
        let (bytes, role, dev) = match output {
            Output::Transmit {
                bytes, role, dev, ..
            } => (bytes, *role, Some(*dev)),
            Output::Deliver { bytes, .. } => (bytes, Role::Own, None),
            Output::Log { .. } | Output::Nflog(_) => continue,
        };
        let Some(brief) = parse(bytes).ok().map(|l| Brief::new(bytes, &l)) else {
            continue;
        };
        if matches!(role, Role::Emitted | Role::Copy) {
            notes.push(format!("answers {brief}"));
            continue;
        }
        if role == Role::Forwarded
            && let Some(dev) = dev.and_then(|d| env.interface(d))
        {
            notes.push(format!("to {}", dev.name));
        }
        let ends = |b: &Brief| (b.src, b.dst, b.detail);
        if decided
            .brief
            .is_some_and(|b| ends(&b) != ends(&brief) && b.fragment.is_none())
        {
            notes.push(format!("as {brief}"));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::replay::source::Sources;
    use crate::replay::{Paint, infer};

    fn scenario(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../scenarios")
            .join(name)
    }

    /// Replays a capture every way there is; returns how many packets it has.
    fn all_ways(capture: PathBuf) -> u64 {
        let rules = || Rules::read(Some(&scenario("rules/b6-masq.rules")), None).unwrap();
        let paths = [capture];
        let host = || infer::infer(&paths, &rules()).unwrap().host;
        let mut lines = Session::new(host(), rules(), &paths);
        let mut explained = Session::new(host(), rules(), &paths);
        let mut sources = Sources::open(&paths).unwrap();
        while let Some((source, frame)) = sources.next_frame() {
            lines.reported(source, &frame, |record| {
                let mut text = String::new();
                record.line(&mut text, Paint::for_stdout()).unwrap();
                assert!(record.json().unwrap().starts_with('{'));
            });
            explained.explained(source, &frame, |_| {});
        }
        assert_eq!(lines.totals.packets, explained.totals.packets);
        lines.totals.packets
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn damaged_captures_never_stop_the_replay(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..200),
            which in 0usize..3,
        ) {
            let names = ["fragments.pcap", "ftp-masq-sll2.pcap", "states.pcap"];
            let mut bytes = std::fs::read(scenario("captures").join(names[which])).unwrap();
            for (at, value) in damage {
                let at = 24 + at.index(bytes.len() - 24);
                bytes[at] = value;
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            prop_assert!(all_ways(file.path().to_owned()) <= bytes.len() as u64 / 16);
        }
    }
}
