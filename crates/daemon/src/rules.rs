//! The rules in force: the source that tools print and edit, and its counters in the
//! engine.

mod edit;
mod past;

use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use anyhow::Result;
use tidegate_engine::conntrack::Policies;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{
    Counter, Differing, Otherwise, Passage, Ready, Survivor, Survivors, TrackWhen,
};
use tidegate_ir::{RuleId, TableKind};
use tidegate_syntax::{
    Counters, Failure, Invocation, Ruleset, Slot, Table, WholeChains, check_table, lower_knowing,
    lower_unnamed, save,
};
use tidegate_tools::{Store, Work, timeouts};
use tidegate_wire::Family;
use tidegate_xt::TimeoutPolicy;

use crate::plane::Plane;
use crate::{locked, sets, unforeseen};
use past::Past;
pub use past::{Named, PassedBy};

/// A family's rules as they were loaded.
struct Side {
    source: Ruleset,
    /// The stateful tests of each table.
    steps: [Range<u32>; 5],
    /// Chains of each table that can be changed in place.
    whole: [WholeChains; 5],
}

/// Rules that are ready to be put in force.
struct Load {
    side: Side,
    ready: Ready,
    survivors: Survivors,
}

/// What was seen of rules on stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnStage {
    /// Packets that have met both rulesets.
    pub(crate) packets: u64,
    /// Differences beyond those that are told.
    pub(crate) untold: u64,
    /// What differed.
    pub(crate) told: Vec<(Otherwise, Differing)>,
}

/// The rules of both families.
pub struct LiveRules {
    plane: Arc<dyn Plane>,
    track: TrackWhen,
    sides: [Mutex<Side>; 2],
    past: Mutex<Past>,
    /// Called after each change with the family.
    changed: Box<dyn Fn(Family) + Send + Sync>,
}

/// The rules while they do not change.
pub(crate) struct Unchanging<'r> {
    sides: [MutexGuard<'r, Side>; 2],
    past: &'r Mutex<Past>,
}

impl Unchanging<'_> {
    /// The rules and policies by which a connection's first packet passed.
    pub(crate) fn passed(&self, family: Family, passages: &[Passage]) -> Vec<PassedBy> {
        locked(self.past).told(passages, &self.sides[index(family)].source)
    }
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

/// Both families.
pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl LiveRules {
    /// No rules; `changed` hears of every change and its family.
    pub fn new(
        plane: Arc<dyn Plane>,
        track: TrackWhen,
        changed: Box<dyn Fn(Family) + Send + Sync>,
    ) -> Self {
        let empty = |family| {
            Mutex::new(Side {
                source: Ruleset {
                    has_conntrack: track != TrackWhen::Never,
                    ..Ruleset::empty(family)
                },
                steps: [0; 5].map(|_| 0..0),
                whole: Default::default(),
            })
        };
        LiveRules {
            plane,
            track,
            sides: FAMILIES.map(empty),
            past: Mutex::default(),
            changed,
        }
    }

    /// Puts whole rulesets, IPv4's first, in the place of those in force: both between the
    /// same two packets, or none.
    ///
    /// # Errors
    /// Rules loop, or need connection tracking where there is none; the datapath has
    /// stopped. Nothing has changed then.
    pub fn install(&self, rulesets: [Ruleset; 2]) -> Result<(), Failure> {
        let [v4, v6] = &self.sides;
        let mut sides = [locked(v4), locked(v6)];
        let mut loads = Vec::new();
        for (mut rules, side) in rulesets.into_iter().zip(&mut sides) {
            rules.has_conntrack = self.track != TrackWhen::Never;
            if !rules.has_conntrack {
                for kind in rules.tables.iter().map(|t| t.kind) {
                    check_table(&rules, kind)?;
                }
            }
            let load = self.prepare(side, rules, &[])?;
            loads.push((&mut **side, load));
        }
        self.load(loads, true)
    }

    /// The rules as a save file with counters.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub fn text(&self, family: Family) -> Result<String, Failure> {
        let mut text = String::new();
        self.with(family, false, &mut |rules| {
            text = save::plain(rules);
            Ok(false)
        })?;
        Ok(text)
    }

    /// A number that grows when sets change.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(crate) fn sets_changes(&self) -> Result<u64> {
        sets::changes(&*self.plane)
    }

    /// All sets as lines for `ipset restore`.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(crate) fn sets_text(&self) -> Result<String> {
        sets::text(&*self.plane)
    }

    /// How many rules a family has.
    pub fn count(&self, family: Family) -> usize {
        let side = locked(&self.sides[index(family)]);
        let chains = side.source.tables.iter().flat_map(|t| t.chains());
        chains.map(|c| c.rules.len()).sum()
    }

    /// Puts rules beside those in force.
    ///
    /// # Errors
    /// Rules loop or need what there is not; the datapath has stopped.
    pub(crate) fn stage(&self, rulesets: &[Ruleset; 2]) -> Result<(), Failure> {
        let ready = |rules: &Ruleset| -> Result<Ready, Failure> {
            let seed = unforeseen().map_err(|e| stopped(e.into()))?;
            Ok(Ready::new(
                Arc::new(lower_knowing(rules, self.plane.sockets())?.ruleset),
                self.track,
                seed,
            ))
        };
        let [v4, v6] = rulesets;
        let ready = [ready(v4)?, ready(v6)?];
        let before = self.plane.with(move |engine, _| {
            let before = engine.unstage();
            engine.stage(ready);
            before
        });
        drop(before.map_err(stopped)?);
        Ok(())
    }

    /// Takes away rules on stage.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(crate) fn unstage(&self) -> Result<(), Failure> {
        drop(
            self.plane
                .with(|engine, _| engine.unstage())
                .map_err(stopped)?,
        );
        Ok(())
    }

    /// What was seen of rules on stage; nothing where there are none.
    ///
    /// # Errors
    /// The datapath has stopped.
    pub(crate) fn staged(&self) -> Result<OnStage, Failure> {
        let look = self.plane.with(|engine, _| {
            let staged = engine.staged()?;
            let told = staged.differing().map(|(w, d)| (*w, d.clone()));
            Some(OnStage {
                packets: staged.packets,
                untold: staged.untold,
                told: told.collect(),
            })
        });
        Ok(look.map_err(stopped)?.unwrap_or_default())
    }

    /// Keeps all rules as they are.
    pub(crate) fn unchanging(&self) -> Unchanging<'_> {
        let [v4, v6] = &self.sides;
        Unchanging {
            sides: [locked(v4), locked(v6)],
            past: &self.past,
        }
    }

    /// Name of an interface.
    pub(crate) fn interface(&self, dev: IfIndex) -> Result<Option<String>, Failure> {
        let look = self.plane.with(move |engine, _| {
            let found = engine.env().interface(dev);
            found.map(|i| i.name.clone())
        });
        look.map_err(stopped)
    }

    /// The number of the engine's counter among the rules as they are listed
    /// ([`Ruleset::slots_mut`]): rules changed in place have got other ones.
    pub(crate) fn listed(&self, family: Family, id: RuleId) -> Option<RuleId> {
        let mut side = locked(&self.sides[index(family)]);
        let slots = side.source.slots_mut();
        let at = slots.iter().position(|s| *s.was == Some(id.0))?;
        Some(RuleId(at as u32))
    }

    fn counters(&self, family: Family) -> Result<Vec<Counter>, Failure> {
        let all = self.plane.with(move |e, _| e.counters(family).to_vec());
        all.map_err(stopped)
    }

    /// The timeout policies that rules can name now.
    fn timeouts(&self) -> Result<Vec<TimeoutPolicy>, Failure> {
        let known = |policies: &Policies| timeouts::known(policies.iter());
        let all = self
            .plane
            .with(move |e, _| known(&e.conntrack().config().policies));
        all.map_err(stopped)
    }

    /// Makes `rules` ready to be put in force. `seen` are the counters that they were made
    /// from.
    fn prepare(
        &self,
        side: &mut Side,
        mut rules: Ruleset,
        seen: &[Counter],
    ) -> Result<Load, Failure> {
        let lowered = lower_unnamed(&rules, self.plane.has_packets(), self.plane.sockets())?;
        let seed = unforeseen().map_err(|e| stopped(e.into()))?;
        let mut ready = Ready::new(Arc::new(lowered.ruleset), self.track, seed);
        let survivors = Survivors {
            steps: kept_steps(&mut side.source, &mut rules, &side.steps, &lowered.steps),
            counters: number(&mut rules, seen, &mut ready),
        };
        let side = Side {
            source: rules,
            steps: lowered.steps,
            whole: lowered.whole,
        };
        Ok(Load {
            side,
            ready,
            survivors,
        })
    }

    /// Puts what is ready in force, all of it between the same two packets. Whole rulesets
    /// find the counters of nfacct that they name, since nobody else could make them.
    fn load(&self, loads: Vec<(&mut Side, Load)>, whole: bool) -> Result<(), Failure> {
        let (sides, engines): (Vec<_>, Vec<_>) = loads
            .into_iter()
            .map(|(side, load)| ((side, load.side), (load.ready, load.survivors)))
            .unzip();
        let families: Vec<Family> = sides.iter().map(|(_, made)| made.source.family).collect();
        let met = self.plane.has_packets();
        let replaced = self.plane.with(move |engine, _| {
            if whole {
                engines
                    .iter()
                    .for_each(|(ready, _)| sets::make_counters(engine, ready));
            }
            let mut all = families.iter().zip(&engines);
            let missing = |(family, (ready, _)): (&Family, &(Ready, Survivors))| {
                sets::missing(engine, *family, ready)
            };
            if let Some(why) = all.find_map(missing).filter(|_| met) {
                return Err(why);
            }
            let replace = |(ready, survivors)| engine.replace(ready, &survivors);
            let old: Vec<_> = engines.into_iter().map(replace).collect();
            Ok((old, engine.take_gone()))
        });
        let (old, gone) = replaced.map_err(stopped)??;
        self.plane.settle();
        for (side, made) in sides {
            locked(&self.past).keep(&gone, &side.source);
            let before = mem::replace(side, made);
            (self.changed)(side.source.family);
            discard(before);
        }
        discard(old);
        Ok(())
    }
}

/// Takes large rules apart while nobody waits: neither packets nor who changed the rules.
fn discard<T: Send + 'static>(old: T) {
    // Without a thread it takes longer.
    let _ = thread::Builder::new().spawn(move || drop(old));
}

fn stopped(e: anyhow::Error) -> Failure {
    Failure::Resource(format!("tidegate: {e}"))
}

/// Gives rules and policies what their counters said.
fn count(rules: &mut Ruleset, seen: &[Counter]) {
    for slot in rules.slots_mut() {
        let counted = slot.was.and_then(|was| seen.get(was as usize));
        *slot.counters = counted.map_or_else(Counters::default, |c| Counters {
            packets: c.packets,
            bytes: c.bytes,
        });
    }
}

/// Gives the counters their new numbers and `ready` their values; tells which go on.
fn number(rules: &mut Ruleset, seen: &[Counter], ready: &mut Ready) -> Vec<Survivor> {
    let mut survivors = Vec::new();
    for (new, slot) in rules.slots_mut().into_iter().enumerate() {
        let new = RuleId(new as u32);
        let Counters { packets, bytes } = *slot.counters;
        ready.set_counter(new, Counter { packets, bytes });
        let old = slot.was.replace(new.0);
        survivors.extend(old.and_then(|old| {
            Some(Survivor {
                old: RuleId(old),
                new,
                seen: *seen.get(old as usize)?,
            })
        }));
    }
    survivors
}

/// The stateful tests of tables that stay as they are go on; others start anew, as with
/// every change of a table in the kernel.
fn kept_steps(
    old: &mut Ruleset,
    new: &mut Ruleset,
    old_steps: &[Range<u32>; 5],
    new_steps: &[Range<u32>; 5],
) -> Vec<(u32, u32, u32)> {
    let numbers = |slots: Vec<Slot<'_>>, kind| -> Vec<Option<u32>> {
        let own = slots.into_iter().filter(|s| s.table == kind);
        own.map(|s| *s.was).collect()
    };
    let mut kept = Vec::new();
    for kind in TableKind::ALL {
        let (was, is) = (&old_steps[kind as usize], &new_steps[kind as usize]);
        if was.len() == is.len() && !was.is_empty() {
            let before = numbers(old.slots_mut(), kind);
            if before.iter().all(Option::is_some) && before == numbers(new.slots_mut(), kind) {
                kept.push((was.start, is.start, was.len() as u32));
            }
        }
    }
    kept
}

impl Store for LiveRules {
    fn with(&self, family: Family, change: bool, work: &mut Work<'_>) -> Result<(), Failure> {
        self.with_emptied(family, change, &[], work)
    }

    fn with_emptied(
        &self,
        family: Family,
        change: bool,
        tables: &[TableKind],
        work: &mut Work<'_>,
    ) -> Result<(), Failure> {
        let side = locked(&self.sides[index(family)]);
        let seen = self.counters(family)?;
        let copy = |table: &Table| match tables.contains(&table.kind) {
            true => table.emptied(),
            false => table.clone(),
        };
        let mut rules = Ruleset {
            family,
            tables: side.source.tables.iter().map(copy).collect(),
            has_conntrack: side.source.has_conntrack,
            timeouts: self.timeouts()?,
        };
        // Who only looks keeps nobody from changing.
        let side = change.then_some(side);
        count(&mut rules, &seen);
        if work(&mut rules)?
            && let Some(mut side) = side
        {
            let load = self.prepare(&mut side, rules, &seen)?;
            self.load(vec![(&mut side, load)], false)?;
        }
        Ok(())
    }

    fn edit(&self, family: Family, call: &Invocation) -> Result<bool, Failure> {
        self.edit_in_place(&mut locked(&self.sides[index(family)]), call)
    }
}

#[cfg(test)]
mod tests;
