//! Sets of packets through a table's chains.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use tidegate_ir::{
    Chain, ChainId, Cond, Effect, Hook, NatSpec, Policy, RejectKind, Rule, RuleId, Table, Verdict,
};

use crate::bdd::{Set, TooBig};
use crate::cover::Near;
use crate::lens::LensId;
use crate::space::{Case, Space};
use crate::window::{TableAsks, Window};

/// How a packet leaves a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Goes on.
    Accept,
    /// Discarded.
    Drop,
    /// Discarded and answered.
    Reject(RejectKind),
    /// Goes on, translated like this.
    Nat(NatSpec),
}

impl Ending {
    /// Whether the packet goes on.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Ending::Accept | Ending::Nat(_))
    }
}

/// Packets by how they are seen. Sets say what the packets were at the start.
pub type Flow = Vec<(LensId, Set)>;

/// Packets that leave a table.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// How.
    pub ending: Ending,
    /// By which rule or policy.
    pub by: RuleId,
    /// How they are seen then.
    pub seen: LensId,
    /// Which.
    pub set: Set,
}

/// What is known about one rule. Packets are what they were at the start.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Packets that can get to the rule.
    pub comes: Set,
    /// Those for which its condition can hold.
    pub matches: Set,
}

impl Reach {
    const NONE: Reach = Reach {
        comes: Set::EMPTY,
        matches: Set::EMPTY,
    };
}

/// Deepest nesting of jumps that is followed.
const DEEPEST: usize = 200;
/// Chains entered at most, calls of one chain counted each.
const CALLS: usize = 20_000;
/// Ways to see packets at one rule, at most.
const LENSES: usize = 600;

/// Ways to see packets that it takes a step to look at.
const PARTS: u64 = 8;

/// The result of sending packets through a table.
#[derive(Debug, Default)]
pub struct Walk {
    /// By rule; policies have what gets to them in both sets. Rules that nothing gets to, or
    /// that plainly ask for something else, are not here.
    pub reach: BTreeMap<RuleId, Reach>,
    /// Packets that enter each chain.
    pub entered: BTreeMap<ChainId, Set>,
    /// Who decides, and for which packets.
    pub endings: Vec<Exit>,
    /// Rules that may come out either way, and for which packets.
    pub doubts: Vec<(RuleId, Set)>,
    /// What is done to packets beside deciding, translating and writing down; only where
    /// stateful tests have names.
    pub acts: Vec<(Effect, Set)>,
    calls: usize,
}

/// How rules' conditions come out, by rule and how packets are seen.
pub(crate) type Cases = HashMap<(RuleId, LensId), Case>;

/// A table on the way.
struct Run<'a, 's> {
    space: &'s mut Space,
    table: &'a Table,
    cases: &'a mut Cases,
    window: &'a Window,
    /// Rules that may have to do with packets in the window; none: all.
    near: Option<&'a Near>,
    /// What it looks like through each lens.
    windows: HashMap<LensId, Window>,
    asks: &'a TableAsks,
    hook: Hook,
    /// How often rules with stateful tests have been met.
    visits: HashMap<RuleId, u32>,
    walk: Walk,
}

impl Walk {
    /// Sends the packets in `set` through `table` from its base chain `entry`.
    ///
    /// # Errors
    /// The limit is reached, or chains call each other too often.
    pub fn new(space: &mut Space, table: &Table, entry: ChainId, set: Set) -> Result<Self, TooBig> {
        Walk::through(space, table, entry, vec![(LensId::CLEAR, set)])
    }

    /// Sends packets through that are not seen as they were at the start.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn through(
        space: &mut Space,
        table: &Table,
        entry: ChainId,
        flow: Flow,
    ) -> Result<Self, TooBig> {
        let asks = TableAsks::of(table);
        Walk::in_window(space, table, entry, flow, (&Window::ALL, &asks))
    }

    /// The same for packets that were all in a window at the start. Rules that ask for
    /// nothing in it are passed over: they have no place in [`reach`](Self::reach).
    pub(crate) fn in_window(
        space: &mut Space,
        table: &Table,
        entry: ChainId,
        flow: Flow,
        (window, asks): (&Window, &TableAsks),
    ) -> Result<Self, TooBig> {
        let mut cases = Cases::new();
        Walk::with(space, table, entry, flow, (window, None, asks, &mut cases))
    }

    /// The same with cases that are known from before, and past all rules that are not `near`.
    pub(crate) fn with(
        space: &mut Space,
        table: &Table,
        entry: ChainId,
        flow: Flow,
        (window, near, asks, cases): (&Window, Option<&Near>, &TableAsks, &mut Cases),
    ) -> Result<Self, TooBig> {
        let mut run = Run {
            space,
            table,
            cases,
            windows: HashMap::new(),
            window,
            near,
            asks,
            hook: base_hook(table, entry),
            visits: HashMap::new(),
            walk: Walk::default(),
        };
        let left = run.chain(entry, flow, 0)?;
        if let Some(base) = table.chain(entry).and_then(|c| c.base) {
            let ending = match base.policy {
                Policy::Accept => Ending::Accept,
                Policy::Drop => Ending::Drop,
            };
            run.walk.reach.entry(base.policy_id).or_insert(Reach::NONE);
            for part in left {
                run.note(base.policy_id, part.1, part.1)?;
                run.end(ending, base.policy_id, part);
            }
        }
        Ok(run.walk)
    }

    /// Packets that can end like this.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn ending(
        &self,
        space: &mut Space,
        wanted: impl Fn(Ending) -> bool,
    ) -> Result<Set, TooBig> {
        let mut all = Set::EMPTY;
        for exit in self.endings.iter().filter(|e| wanted(e.ending)) {
            all = space.bdd.or(all, exit.set)?;
        }
        Ok(all)
    }

    /// Packets that go on.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn passed(&self, space: &mut Space) -> Result<Flow, TooBig> {
        let mut flow = Flow::new();
        for exit in self.endings.iter().filter(|e| e.ending.passes()) {
            join(space, &mut flow, (exit.seen, exit.set))?;
        }
        Ok(flow)
    }
}

fn base_hook(table: &Table, entry: ChainId) -> Hook {
    let base = table.chain(entry).and_then(|c| c.base);
    base.map_or(Hook::Input, |b| b.hook)
}

fn keeps_state(rule: &Rule) -> bool {
    let mut found = false;
    rule.cond
        .visit(&mut |c| found |= matches!(c, Cond::Call(_)));
    found
}

/// Whether an effect does more than decide, translate or write down.
const fn acts(effect: &Effect) -> bool {
    !matches!(
        effect,
        Effect::Log(_) | Effect::Nflog(_) | Effect::Audit | Effect::Trace | Effect::Nat(_)
    )
}

/// Adds packets to others.
///
/// # Errors
/// The limit is reached, or packets are seen in too many ways.
pub(crate) fn join(space: &mut Space, flow: &mut Flow, part: (LensId, Set)) -> Result<(), TooBig> {
    if part.1.is_empty() {
        return Ok(());
    }
    match flow.iter().position(|p| p.0 == part.0) {
        Some(at) => flow[at].1 = space.bdd.or(flow[at].1, part.1)?,
        None if flow.len() >= LENSES => return Err(TooBig),
        None => flow.push(part),
    }
    Ok(())
}

impl<'a> Run<'a, '_> {
    /// Sends packets through a chain; what comes out at its end or by RETURN.
    fn chain(&mut self, id: ChainId, flow: Flow, depth: usize) -> Result<Flow, TooBig> {
        self.walk.calls += 1;
        if depth > DEEPEST || self.walk.calls > CALLS {
            return Err(TooBig);
        }
        let Some(chain): Option<&'a Chain> = self.table.chain(id) else {
            return Ok(Flow::new());
        };
        for (_, set) in &flow {
            let known = self.walk.entered.get(&id).copied().unwrap_or(Set::EMPTY);
            let all = self.space.bdd.or(known, *set)?;
            self.walk.entered.insert(id, all);
        }
        let (mut left, mut returned) = (flow, Flow::new());
        let near = self.near.and_then(|n| n.get(id.0 as usize));
        let all = near.map_or(chain.rules.len(), Vec::len);
        for at in 0..all {
            let at = near.map_or(at, |n| n[at] as usize);
            let Some(rule) = chain.rules.get(at) else {
                break;
            };
            self.space.bdd.spend(1 + left.len() as u64 / PARTS)?;
            if self.misses(rule, &left) {
                continue;
            }
            let mut hit = Flow::new();
            let mut on = Flow::with_capacity(left.len());
            for (seen, set) in left {
                let case = self.case(rule, seen)?;
                let holds = self.space.bdd.and(case.holds, set)?;
                self.note(rule.id, set, holds)?;
                if !case.drops.is_empty() {
                    let dropped = self.space.bdd.and(case.drops, set)?;
                    self.end(Ending::Drop, rule.id, (seen, dropped));
                }
                if !case.doubt.is_empty() {
                    let doubt = self.space.bdd.and(case.doubt, set)?;
                    self.walk.doubts.push((rule.id, doubt));
                }
                let fails = match holds.is_empty() && case.drops.is_empty() {
                    true => set,
                    false => self.space.fails(case, set)?,
                };
                if !fails.is_empty() {
                    on.push((seen, fails));
                }
                if !holds.is_empty() {
                    hit.push((seen, holds));
                }
            }
            left = on;
            if hit.is_empty() {
                continue;
            }
            let hit = self.effects(rule, hit)?;
            let back = self.verdict(rule, hit, &mut returned, depth)?;
            for part in back {
                join(self.space, &mut left, part)?;
            }
        }
        for part in returned {
            join(self.space, &mut left, part)?;
        }
        Ok(left)
    }

    /// Whether it is plain that a rule neither holds for packets nor drops them.
    #[inline]
    fn misses(&mut self, rule: &Rule, flow: &Flow) -> bool {
        let Some(asks) = self.asks.get(rule.id) else {
            return false;
        };
        flow.iter().all(|(seen, _)| {
            if *seen == LensId::CLEAR {
                return asks.misses(self.window);
            }
            let window = self
                .windows
                .entry(*seen)
                .or_insert_with(|| self.window.through(&self.space.lens(*seen)));
            asks.misses(window)
        })
    }

    /// Packets that a rule's effects leave in the table.
    fn effects(&mut self, rule: &Rule, mut hit: Flow) -> Result<Flow, TooBig> {
        for effect in rule.effects.iter() {
            if self.space.has_names() && acts(effect) {
                let done = hit.iter().map(|part| (effect.clone(), part.1));
                self.walk.acts.extend(done);
            }
            let mut next = Flow::new();
            for part in hit {
                match effect {
                    // Whoever reads the queue decides; sockets come and go.
                    Effect::Queue(_) | Effect::Tproxy(_) => {
                        self.walk.doubts.push((rule.id, part.1));
                        self.end(Ending::Accept, rule.id, part);
                        self.end(Ending::Drop, rule.id, part);
                    }
                    // It may answer, refuse, open the connection or let pass.
                    Effect::SynProxy(_) => {
                        self.walk.doubts.push((rule.id, part.1));
                        self.end(Ending::Accept, rule.id, part);
                        self.end(Ending::Drop, rule.id, part);
                        join(self.space, &mut next, part)?;
                    }
                    Effect::Nat(spec) => self.end(Ending::Nat(*spec), rule.id, part),
                    _ => {
                        for part in self.space.after(part.1, part.0, effect)? {
                            join(self.space, &mut next, part)?;
                        }
                    }
                }
            }
            hit = next;
        }
        Ok(hit)
    }

    /// What a verdict does to packets; those that stay in this chain.
    fn verdict(
        &mut self,
        rule: &Rule,
        hit: Flow,
        returned: &mut Flow,
        depth: usize,
    ) -> Result<Flow, TooBig> {
        let ending = match rule.verdict {
            Verdict::Continue => return Ok(hit),
            Verdict::Return => {
                for part in hit {
                    join(self.space, returned, part)?;
                }
                return Ok(Flow::new());
            }
            Verdict::Jump(_) | Verdict::Goto(_) if hit.is_empty() => return Ok(hit),
            Verdict::Jump(to) => return self.chain(to, hit, depth + 1),
            Verdict::Goto(to) => {
                for part in self.chain(to, hit, depth + 1)? {
                    join(self.space, returned, part)?;
                }
                return Ok(Flow::new());
            }
            Verdict::Accept => Ending::Accept,
            Verdict::Drop => Ending::Drop,
            Verdict::Reject(kind) => Ending::Reject(kind),
        };
        for part in hit {
            self.end(ending, rule.id, part);
        }
        Ok(Flow::new())
    }

    fn case(&mut self, rule: &Rule, seen: LensId) -> Result<Case, TooBig> {
        if self.space.has_names() && keeps_state(rule) {
            // Every visit is another test.
            let visits = self.visits.entry(rule.id).or_default();
            *visits += 1;
            self.space.at((self.hook as u32) << 24 | *visits);
            let lens = self.space.lens(seen);
            return self.space.rule_through(&rule.cond, &lens);
        }
        match self.cases.entry((rule.id, seen)) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(place) => {
                let lens = self.space.lens(seen);
                let case = self.space.rule_through(&rule.cond, &lens)?;
                Ok(*place.insert(case))
            }
        }
    }

    fn note(&mut self, id: RuleId, comes: Set, matches: Set) -> Result<(), TooBig> {
        let known = self.walk.reach.get(&id).copied().unwrap_or(Reach::NONE);
        let reach = Reach {
            comes: self.space.bdd.or(known.comes, comes)?,
            matches: self.space.bdd.or(known.matches, matches)?,
        };
        self.walk.reach.insert(id, reach);
        Ok(())
    }

    /// Packets that leave the table.
    fn end(&mut self, ending: Ending, by: RuleId, (seen, set): (LensId, Set)) {
        if !set.is_empty() {
            self.walk.endings.push(Exit {
                ending,
                by,
                seen,
                set,
            });
        }
    }
}
