//! What two rulesets make of all packets.

mod decision;
mod regions;
mod written;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidegate_analysis::{
    Course, Ending, Journey, Origin, Prepared, Set, Space, Surroundings, TooBig, Way, Window,
    possible,
};
use tidegate_host::Host;
use tidegate_ir::{Cond, CtSpec, Effect, Field, Hook, RuleId, Ruleset};
use tidegate_syntax::save;
use tidegate_wire::Family;

use super::example::example;
use crate::course::Runner;
use crate::query::ask;
use crate::replay::rules::Loaded;
use crate::whole::MOST_NODES;
use decision::{Class, Decision, same_nat, same_rest};
use written::{named, other_sets, said, step_names, steps, texts};

/// Differences of one kind that are told one by one.
const TOLD: usize = 20;
/// Regions that are looked at one by one.
const REGIONS: usize = 6_000;
/// Regions up to which nothing else is tried.
const FEW: usize = 60;
/// Nodes after which diagrams are thrown away.
const NODES: usize = 400_000;
/// Steps of work for all packets at once, for one region at first, and for everything: three seconds.
const ALL_STEPS: u64 = 6_000_000;
const STEPS: u64 = 300_000;
const MOST_STEPS: u64 = 40_000_000;

/// The way a packet takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Path {
    Here,
    Through,
    Out,
}

impl Path {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Path::Here => "to this host",
            Path::Through => "through this host",
            Path::Out => "from this host",
        }
    }

    const fn hooks(self) -> &'static [Hook] {
        match self {
            Path::Here => &[Hook::Prerouting, Hook::Input],
            Path::Through => &[Hook::Prerouting, Hook::Forward, Hook::Postrouting],
            Path::Out => &[Hook::Output, Hook::Postrouting],
        }
    }
}

/// A class of packets that are treated differently.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Which way.
    pub(crate) path: &'static str,
    /// What has changed.
    pub(crate) what: &'static str,
    /// Whether it is so however stateful tests come out.
    pub(crate) certain: bool,
    /// A packet in words, or by its fields.
    pub(crate) example: String,
    /// Whether the engine treats it so.
    pub(crate) tried: bool,
    /// The rules that decide.
    pub(crate) rules: [String; 2],
}

/// The outcome of a comparison.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// All differences.
    pub(crate) differences: Vec<Difference>,
    /// Ways and changes of which there are more than are told.
    pub(crate) more: BTreeSet<(&'static str, &'static str)>,
    /// What is not known, a sentence each.
    pub(crate) unknown: BTreeSet<String>,
}

impl Comparison {
    /// Whether it is proved that there is no difference.
    pub(crate) fn is_same(&self) -> bool {
        self.differences.is_empty() && self.unknown.is_empty()
    }
}

/// What has changed, whether two classes are alike in it, and which classes it is about.
type Otherwise = (&'static str, fn(Class, Class) -> bool, fn(Class) -> bool);

/// A ruleset in a comparison.
pub(super) struct Side<'a> {
    pub(super) loaded: &'a Loaded,
    /// As the engine runs them, with sets as they are now.
    pub(super) settled: Arc<Ruleset>,
    /// What rules say, by [`RuleId`]; rules that look into sets which the other side has otherwise
    /// say something of their own.
    pub(super) texts: Vec<Cow<'a, str>>,
    prepared: Prepared,
    /// Names of stateful tests by step.
    names: Arc<Vec<u32>>,
}

pub(super) struct Compared<'a> {
    pub(super) sides: [Side<'a>; 2],
    pub(super) host: Option<&'a Host>,
    surroundings: Option<Surroundings>,
    pub(super) space: Space,
    /// Interfaces with names.
    pub(super) links: Vec<String>,
    found: Comparison,
    seen: BTreeSet<(Path, &'static str, [Option<RuleId>; 2])>,
    /// How many differences have been told, by way and change.
    told: BTreeMap<(&'static str, &'static str), usize>,
    starts: [Option<Set>; 2],
    /// Engines with the rules of the two sides, once some example has been tried.
    pub(super) runners: [Option<Runner>; 2],
}

/// Compares two rulesets of one family.
pub(crate) fn compare(before: &Loaded, after: &Loaded, host: Option<&Host>) -> Comparison {
    let text = |l: &Loaded| save::ruleset(l.source.tables.iter(), l.source.family, "", "", false);
    let sets = other_sets([before, after]);
    if text(before) == text(after) && sets.is_empty() {
        return Comparison::default();
    }
    let mut compared = Compared::new([before, after], &sets, host);
    compared.run();
    compared.found
}

impl<'a> Compared<'a> {
    fn new(loaded: [&'a Loaded; 2], sets: &BTreeSet<String>, host: Option<&'a Host>) -> Self {
        let family = loaded[0].source.family;
        let surroundings = host.map(|h| ask::surroundings(h, family));
        let mut links: BTreeSet<String> = BTreeSet::new();
        for side in loaded {
            links.extend(ask::names(side, host));
        }
        let mut questions: Vec<_> = surroundings
            .iter()
            .flat_map(Surroundings::questions)
            .collect();
        questions.extend(ask::questions(family, links.iter()));
        let mut sides = [0, 1].map(|at| {
            let settled = loaded[at].settled();
            Side {
                loaded: loaded[at],
                texts: texts(loaded[at], sets, at),
                prepared: Prepared::new(&settled),
                settled,
                names: Arc::default(),
            }
        });
        let names = step_names(&sides);
        for (side, names) in sides.iter_mut().zip(names) {
            side.names = Arc::new(names);
        }
        Compared {
            space: Space::mirrored(
                sides.each_ref().map(|s| &*s.settled),
                &questions,
                MOST_NODES,
            ),
            sides,
            host,
            surroundings,
            links: links.into_iter().collect(),
            found: Comparison::default(),
            seen: BTreeSet::new(),
            told: BTreeMap::new(),
            starts: [None; 2],
            runners: [None, None],
        }
    }

    pub(super) fn family(&self) -> Family {
        self.sides[0].loaded.source.family
    }

    fn run(&mut self) {
        let regions = self.regions();
        let mut left = MOST_STEPS;
        if regions.len() > FEW {
            if self.within(&Window::ALL, ALL_STEPS, &mut left).is_ok() {
                return;
            }
            self.found = Comparison::default();
            self.seen.clear();
            self.told.clear();
        }
        // The narrowest first; what is too much comes again in parts and with more steps.
        let mut todo: VecDeque<(Window, u64)> = regions.into_iter().map(|w| (w, STEPS)).collect();
        todo.make_contiguous()
            .sort_by_key(|w| w.0.width(&self.space));
        let (mut missed, mut looked) = (0, 0);
        while let Some((window, steps)) = todo.pop_front() {
            looked += 1;
            let share = left / (todo.len() as u64 + 4);
            if left == 0 || looked > REGIONS {
                missed += 1;
            } else if self.within(&window, steps.max(share), &mut left).is_err() {
                let steps = steps.saturating_mul(4);
                match window.parts(&self.space) {
                    Some(parts) => todo.extend(parts.into_iter().map(|part| (part, steps))),
                    None => missed += 1,
                }
            }
        }
        if missed > 0 {
            self.found.unknown.insert(format!(
                "{missed} of {looked} places where the rules differ have not been looked at: they tell too many \
                 combinations of packets apart"
            ));
        }
    }

    /// Compares in a window with so many steps, out of those that are left.
    fn within(&mut self, window: &Window, steps: u64, left: &mut u64) -> Result<(), TooBig> {
        if self.space.bdd.size() > NODES {
            self.space.clear();
            self.starts = [None; 2];
        }
        let steps = steps.min(*left);
        self.space.bdd.allow(steps);
        let done = self.region(window);
        *left -= steps - self.space.bdd.allowed().min(steps);
        done
    }

    /// Compares what happens to packets in a window.
    fn region(&mut self, window: &Window) -> Result<(), TooBig> {
        for origin in [Origin::Received, Origin::Sent] {
            let start = self.start(origin)?;
            let set = window.packets(&mut self.space, start)?;
            if set.is_empty() {
                continue;
            }
            let mut journeys = Vec::new();
            for side in &self.sides {
                let way = Way {
                    rules: &side.settled,
                    prepared: &side.prepared,
                    host: self.surroundings.as_ref(),
                    window: *window,
                };
                self.space.name_steps(Some(side.names.clone()));
                journeys.push(way.send(&mut self.space, Course::Any, origin, set, &[])?);
            }
            self.doubts(&journeys);
            self.arrivals(&journeys)?;
            let paths: &[Path] = match origin {
                Origin::Received => &[Path::Here, Path::Through],
                Origin::Sent => &[Path::Out],
            };
            for path in paths {
                self.path(*path, &journeys)?;
            }
        }
        Ok(())
    }

    /// All packets that there can be.
    fn start(&mut self, origin: Origin) -> Result<Set, TooBig> {
        let place = usize::from(origin == Origin::Sent);
        if let Some(set) = self.starts[place] {
            return Ok(set);
        }
        let family = self.family();
        let mut set = possible(&mut self.space, family, None)?;
        let (link, none) = match origin {
            Origin::Received => (Field::InName, Field::OutName),
            Origin::Sent => (Field::OutName, Field::InName),
        };
        let away = self.space.within(link, 0, 0)?;
        set = self.space.bdd.minus(set, away)?;
        let nowhere = self.space.within(none, 0, 0)?;
        set = match origin {
            Origin::Received => self.space.bdd.minus(set, nowhere)?,
            Origin::Sent => self.space.bdd.and(set, nowhere)?,
        };
        if let Some(known) = &self.surroundings {
            let types = known.typed(&mut self.space)?;
            set = self.space.bdd.and(set, types)?;
        }
        self.starts[place] = Some(set);
        Ok(set)
    }

    /// Says of which rules it is not known what they do.
    fn doubts(&mut self, journeys: &[Journey]) {
        for (side, journey) in self.sides.iter().zip(journeys) {
            for (rule, _) in journey.visits.iter().flat_map(|v| &v.walk.doubts) {
                let text = match side.loaded.origin.get(rule.0 as usize) {
                    Some(o) => format!("{} {}: {}", o.table.name(), o.chain, o.text),
                    None => continue,
                };
                self.found.unknown.insert(format!(
                    "what this rule does depends on what cannot be followed: {text}"
                ));
            }
        }
    }

    /// A stateful test is the same only if the same packets come to it.
    fn arrivals(&mut self, journeys: &[Journey]) -> Result<(), TooBig> {
        let mut met: [BTreeMap<(u32, Hook), (Set, RuleId)>; 2] = [BTreeMap::new(), BTreeMap::new()];
        for ((side, journey), met) in self.sides.iter().zip(journeys).zip(&mut met) {
            let keeping = side.settled.rules().map(|r| r.2);
            for rule in keeping.filter(|r| !steps(r).is_empty()) {
                for visit in &journey.visits {
                    let Some(reach) = visit.walk.reach.get(&rule.id) else {
                        continue;
                    };
                    // Only packets that fulfil what stands before it meet a test.
                    let last = rule.cond.iter().last();
                    let only = steps(rule).len() == 1 && matches!(last, Some(Cond::Call(_)));
                    let meets = match only {
                        true => self.space.perhaps(reach.matches)?,
                        false => reach.comes,
                    };
                    for step in steps(rule) {
                        let name = side.names.get(step).copied().unwrap_or(0);
                        let known = met
                            .entry((name, visit.hook))
                            .or_insert((Set::EMPTY, rule.id));
                        known.0 = self.space.bdd.or(known.0, meets)?;
                    }
                }
            }
        }
        let shared = |name: u32| self.sides.iter().all(|s| s.names.contains(&name));
        for (here, there, side) in [(&met[0], &met[1], 0), (&met[1], &met[0], 1)] {
            for (key, (set, rule)) in here.iter().filter(|m| shared(m.0.0)) {
                let other = there.get(key).map_or(Set::EMPTY, |m| m.0);
                if let (true, Some((table, text))) = (other != *set, said(&self.sides[side], *rule))
                {
                    self.found.unknown.insert(format!(
                        "this rule keeps state, and other packets come to it than before: {} {text}",
                        table.name()
                    ));
                }
            }
        }
        Ok(())
    }

    fn path(&mut self, path: Path, journeys: &[Journey]) -> Result<(), TooBig> {
        let mut both = Vec::new();
        for journey in journeys {
            both.push(self.decisions(path, journey)?);
        }
        // What one side sends another way is not among its decisions on this one. What the
        // other stops before routing goes no way at all there.
        let mut away = Vec::new();
        for (side, other) in [(0, 1), (1, 0)] {
            let own = self.sum(&both[side], |_| true)?;
            let there = self.sum(&both[other], |d| !d.early)?;
            away.push(self.space.bdd.minus(there, own)?);
        }
        for (list, set) in both.iter_mut().zip(away) {
            list.push(Decision {
                class: Class::Elsewhere,
                by: None,
                early: false,
                set,
            });
        }
        let (before, after) = (&both[0], &both[1]);
        type Of = fn(Class) -> bool;
        let kinds: [(&'static str, Of); 4] = [
            ("newly accepted", Class::passes),
            ("newly dropped", Class::drops),
            ("newly rejected", Class::rejects),
            ("newly without a way", |c| c == Class::Lost),
        ];
        for (what, of) in kinds {
            let was = self.union(before, of)?;
            let is = self.union(after, of)?;
            let new = self.space.bdd.minus(is, was)?;
            self.tell(path, what, new, &both)?;
        }
        self.otherwise(path, &both)?;
        self.acts(path, journeys, &both)
    }

    /// Packets that are rejected, translated or marked as others than before.
    fn otherwise(&mut self, path: Path, both: &[Vec<Decision>]) -> Result<(), TooBig> {
        let mut classes: Vec<Class> = Vec::new();
        for class in both[1].iter().map(|d| d.class) {
            if !classes.contains(&class) {
                classes.push(class);
            }
        }
        for class in classes {
            let questions: &[Otherwise] = match class {
                Class::Passes { .. } => &[
                    ("translated differently", same_nat, Class::passes),
                    (
                        "tracked, marked or rewritten differently",
                        same_rest,
                        Class::passes,
                    ),
                ],
                Class::Stopped(Ending::Reject(_)) => {
                    &[("rejected differently", |a, b| a == b, Class::rejects)]
                }
                Class::Stopped(_) | Class::Lost | Class::Elsewhere => &[],
            };
            for (what, like, of) in questions {
                let was = self.union(&both[0], |c| of(c) && !like(c, class))?;
                let is = self.union(&both[1], |c| of(c) && like(c, class))?;
                let new = self.space.bdd.and(is, was)?;
                self.tell(path, what, new, both)?;
            }
        }
        Ok(())
    }

    /// What is done to packets that pass, beside what has been compared.
    fn acts(
        &mut self,
        path: Path,
        journeys: &[Journey],
        both: &[Vec<Decision>],
    ) -> Result<(), TooBig> {
        let mut done: [Vec<(Hook, Effect, Set)>; 2] = [Vec::new(), Vec::new()];
        let mut pass = Set::ALL;
        for (side, (journey, done)) in journeys.iter().zip(&mut done).enumerate() {
            let passes = self.union(&both[side], Class::passes)?;
            pass = self.space.bdd.and(pass, passes)?;
            for visit in journey
                .visits
                .iter()
                .filter(|v| path.hooks().contains(&v.hook))
            {
                let acts = visit.walk.acts.iter();
                let acts: Vec<&(Effect, Set)> =
                    acts.filter(|a| !is_compared(&self.space, &a.0)).collect();
                for (effect, set) in acts {
                    let effect = &named(&self.sides[side].names, effect);
                    let same = done
                        .iter_mut()
                        .find(|d| d.0 == visit.hook && d.1 == *effect);
                    match same {
                        Some(known) => known.2 = self.space.bdd.or(known.2, *set)?,
                        None => done.push((visit.hook, effect.clone(), *set)),
                    }
                }
            }
        }
        let effects: Vec<(Hook, Effect)> =
            done.iter().flatten().map(|d| (d.0, d.1.clone())).collect();
        for (hook, effect) in effects {
            let of = |list: &[(Hook, Effect, Set)]| {
                let found = list.iter().find(|d| d.0 == hook && d.1 == effect);
                found.map_or(Set::EMPTY, |d| d.2)
            };
            let (was, is) = (of(&done[0]), of(&done[1]));
            let gone = self.space.bdd.minus(was, is)?;
            let come = self.space.bdd.minus(is, was)?;
            let differ = self.space.bdd.or(gone, come)?;
            let differ = self.space.bdd.and(differ, pass)?;
            self.tell(
                path,
                "changed, copied, queued or tracked differently",
                differ,
                both,
            )?;
        }
        Ok(())
    }

    /// Tells of packets, by the rules that decide on them.
    fn tell(
        &mut self,
        path: Path,
        what: &'static str,
        set: Set,
        both: &[Vec<Decision>],
    ) -> Result<(), TooBig> {
        if set.is_empty() {
            return Ok(());
        }
        let key = (path.name(), what);
        for was in &both[0] {
            if self.found.more.contains(&key) {
                break;
            }
            let part = self.space.bdd.and(set, was.set)?;
            if part.is_empty() {
                continue;
            }
            for is in &both[1] {
                let part = self.space.bdd.and(part, is.set)?;
                if part.is_empty() || !self.seen.insert((path, what, [was.by, is.by])) {
                    continue;
                }
                let told = self.told.entry(key).or_default();
                if *told == TOLD {
                    self.found.more.insert(key);
                    break;
                }
                *told += 1;
                let certain = self.space.certain(part)?;
                let certain = self.space.bdd.and(certain, part)?;
                let shown = if certain.is_empty() { part } else { certain };
                let example = example(self, path, shown)?;
                let rules = [was.by, is.by];
                let sides = self.sides.iter().zip(rules);
                let rules: Vec<String> = sides.map(|(s, by)| decider(s.loaded, by)).collect();
                self.found.differences.push(Difference {
                    path: path.name(),
                    what,
                    certain: !certain.is_empty(),
                    example: example.0,
                    tried: example.1,
                    rules: [rules[0].clone(), rules[1].clone()],
                });
            }
        }
        Ok(())
    }
}

fn decider(loaded: &Loaded, by: Option<RuleId>) -> String {
    let origin = by.and_then(|id| loaded.origin.get(id.0 as usize));
    origin.map_or_else(
        || "no rule of table filter".to_owned(),
        |o| match o.number {
            0 => format!("{} {}", o.table.name(), o.text),
            n => format!("{} {} {n}: {}", o.table.name(), o.chain, o.text),
        },
    )
}

/// Whether what an effect leaves is compared in the end anyway.
fn is_compared(space: &Space, effect: &Effect) -> bool {
    match effect {
        Effect::Ct(CtSpec::Untracked) => true,
        Effect::Assign(field, expr) => {
            // What nobody tests is not followed.
            space.has(*field)
                && matches!(field, Field::Mark | Field::CtMark | Field::Priority)
                && !matches!(expr, tidegate_ir::Expr::AddClamped(_))
        }
        _ => false,
    }
}
