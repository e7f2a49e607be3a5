//! What the datapath's thread says about packets.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use serde_json::Value;
use tidegate_datapath::Observer;
use tidegate_engine::conntrack::Time;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Engine, Outcome, Output};

use super::PATIENCE;
use crate::machine::noted;

/// What it has said; all clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Inner>);

#[derive(Default)]
struct Inner {
    noted: Mutex<Noted>,
    ended: Condvar,
}

#[derive(Default)]
struct Noted {
    /// Something has been decided or done in a batch that has not ended yet.
    busy: bool,
    decided: u64,
    outcomes: Vec<Outcome>,
    events: Vec<Value>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the datapath's thread: more is to come in this batch.
    pub(crate) fn begin(&self) {
        self.lock().busy = true;
    }

    /// Waits for the end of the batch.
    pub(crate) fn wait(&self) -> Result<()> {
        let (_noted, waited) = self
            .0
            .ended
            .wait_timeout_while(self.lock(), PATIENCE, |noted| noted.busy)
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(!waited.timed_out(), "the datapath does not answer");
        Ok(())
    }

    pub(crate) fn decided(&self) -> u64 {
        self.lock().decided
    }

    pub(crate) fn outcomes(&self) -> Vec<Outcome> {
        std::mem::take(&mut self.lock().outcomes)
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        std::mem::take(&mut self.lock().events)
    }
}

impl Observer for Seen {
    fn output(&mut self, _: Time, _: &Output) {}

    fn decided(&mut self, _: Time, _: IfIndex, outcome: &Outcome) {
        let mut noted = self.lock();
        noted.busy = true;
        noted.decided += 1;
        noted.outcomes.push(outcome.clone());
    }

    fn after_batch(&mut self, engine: &mut Engine, _: Time) {
        let mut all = self.lock();
        all.events.extend(noted(engine));
        all.busy = false;
        drop(all);
        self.0.ended.notify_all();
    }
}
