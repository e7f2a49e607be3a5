//! The connection table as tools see it while packets pass through it.

use std::sync::Arc;

use tidegate_ir::TableKind;
use tidegate_syntax::{Failure, Invocation, Ruleset};
use tidegate_tools::conntrack::{Feed, Hub, TrackerWork};
use tidegate_tools::{SetStore, Store, Tracker, Work};
use tidegate_wire::Family;

use crate::plane::Plane;
use crate::rules::LiveRules;
use crate::sets::LiveSets;

/// Reaches the table through the plane.
#[derive(Clone)]
pub(crate) struct LiveTracker {
    plane: Arc<dyn Plane>,
    events: Arc<Hub>,
    /// Process that asks.
    caller: Option<u32>,
}

impl LiveTracker {
    pub(crate) fn new(plane: Arc<dyn Plane>, events: Arc<Hub>) -> Self {
        LiveTracker {
            plane,
            events,
            caller: None,
        }
    }

    /// The same for a client.
    pub(crate) fn of(&self, caller: Option<u32>) -> Self {
        LiveTracker {
            caller,
            ..self.clone()
        }
    }
}

impl Tracker for LiveTracker {
    fn submit(&self, work: TrackerWork) -> Result<(), Failure> {
        let job = self.plane.submit(Box::new(move |engine, now| {
            work(engine.conntrack_mut(), now)
        }));
        job.map_err(|e| Failure::Resource(format!("tidegate: {e}")))
    }

    fn subscribe(&self) -> Result<Feed, Failure> {
        let feed = self.events.subscribe();
        // The hub tells the table that somebody listens when it next publishes.
        let events = self.events.clone();
        self.submit(Box::new(move |ct, _| events.publish(ct)))?;
        Ok(feed)
    }

    fn caller(&self) -> Option<u32> {
        self.caller
    }
}

/// Rules and connections for one client.
pub(crate) struct ForClient<'c> {
    pub(crate) rules: &'c LiveRules,
    pub(crate) tracker: LiveTracker,
    pub(crate) sets: LiveSets,
}

impl Store for ForClient<'_> {
    fn with(&self, family: Family, change: bool, work: &mut Work<'_>) -> Result<(), Failure> {
        self.rules.with(family, change, work)
    }

    fn with_emptied(
        &self,
        family: Family,
        change: bool,
        tables: &[TableKind],
        work: &mut Work<'_>,
    ) -> Result<(), Failure> {
        self.rules.with_emptied(family, change, tables, work)
    }

    fn edit(&self, family: Family, call: &Invocation) -> Result<bool, Failure> {
        self.rules.edit(family, call)
    }

    fn tracker(&self) -> Option<&dyn Tracker> {
        Some(&self.tracker)
    }

    fn sets(&self) -> Option<&dyn SetStore> {
        Some(&self.sets)
    }
}

/// Rules that give connections what `-j CT` calls `option` of that name.
pub(crate) fn users_of(rules: &Ruleset, option: &str, name: &str) -> usize {
    let option = format!("--{option} {name}");
    let chains = rules.tables.iter().flat_map(|t| t.chains());
    let specs = chains.flat_map(|c| &c.rules).map(|r| &r.spec);
    specs
        .filter(|s| s.target.name() == "CT")
        .filter(|s| {
            let text = tidegate_syntax::save::rule("x", s, rules.family, None);
            text.split_once(&option)
                .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(' '))
        })
        .count()
}
