//! Rules on trial: in force until they are confirmed, or their time is up and the rules
//! before them come back.
//!
//! The rules before are kept in the state directory meanwhile, so that a daemon that dies
//! comes back with them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tidegate_syntax::{CounterMode, RestoreOptions, Ruleset, restore};
use tidegate_tools::{HostNames, Printed, Store};
use tidegate_wire::Family;

use super::stage::{Seen, Stage, Step};
use crate::config::Config;
use crate::files::Recorder;
use crate::rules::{FAMILIES, LiveRules};
use crate::{files, locked};

/// Rules files for both families, as `iptables-restore` and `ip6tables-restore` take them;
/// `None` leaves a family alone.
pub(crate) type Texts = [Option<String>; 2];

/// The rules before, and until when they may be wanted back.
struct Before {
    number: u64,
    rules: [Ruleset; 2],
    changed: [bool; 2],
    until: Instant,
}

/// One trial at a time.
pub(crate) struct Trials {
    config: Config,
    rules: Arc<LiveRules>,
    changed: Arc<[AtomicBool; 2]>,
    running: Mutex<(u64, Option<Before>)>,
    recorder: Mutex<Recorder>,
    pub(super) stage: Stage,
}

impl Trials {
    pub(crate) fn new(
        config: Config,
        rules: Arc<LiveRules>,
        changed: Arc<[AtomicBool; 2]>,
    ) -> Self {
        Trials {
            config,
            stage: Stage::new(rules.clone()),
            rules,
            changed,
            running: Mutex::new((0, None)),
            recorder: Mutex::new(Recorder::new()),
        }
    }

    /// How long until the rules before come back, when rules are on trial.
    pub(crate) fn left(&self) -> Option<Duration> {
        let running = locked(&self.running);
        let before = running.1.as_ref()?;
        Some(before.until.saturating_duration_since(Instant::now()))
    }

    /// What is on stage.
    pub(crate) fn seen(&self) -> Result<Option<Seen>> {
        self.stage.seen()
    }

    /// Carries out a step about rules on stage.
    ///
    /// # Errors
    /// A text is refused; there are no rules on stage.
    pub(super) fn staging(&self, step: Step, texts: Texts, json: bool) -> Result<Printed> {
        match step {
            Step::Put => {
                let [_, next] = self.candidate(&texts)?;
                self.stage.put(texts, &next)
            }
            Step::Discard => self.stage.clear().map(|()| Printed::default()),
            Step::Show | Step::Promote => {
                let [now, next] = self.candidate(&self.stage.texts()?)?;
                self.stage.show([&now, &next], json)
            }
        }
    }

    /// That nothing is on trial.
    ///
    /// # Errors
    /// Something is; the text says for how long and what can be done.
    pub(crate) fn none_running(&self) -> Result<()> {
        match self.left() {
            None => Ok(()),
            Some(left) => bail!(
                "rules are on trial for another {} s: `tidegate confirm` or `tidegate rollback` first",
                left.as_secs_f64().ceil()
            ),
        }
    }

    /// Records the rules in force if they have changed since the last time.
    ///
    /// # Errors
    /// The record cannot be written; it is as before.
    pub(crate) fn record(&self) -> Result<()> {
        locked(&self.recorder).write(&self.config, &self.rules)
    }

    /// The rules in force, and those that `texts` would make of them.
    ///
    /// # Errors
    /// A text is refused; the message is that of the tool, with the line.
    pub(crate) fn candidate(&self, texts: &Texts) -> Result<[[Ruleset; 2]; 2]> {
        let [v4, v6] = FAMILIES;
        let now = [self.in_force(v4)?, self.in_force(v6)?];
        let mut next = now.clone();
        for (rules, text) in next.iter_mut().zip(texts) {
            if let Some(text) = text {
                restored(rules, text)?;
            }
        }
        Ok([now, next])
    }

    fn in_force(&self, family: Family) -> Result<Ruleset> {
        let mut copy = Ruleset::empty(family);
        let look = self.rules.with(family, false, &mut |rules| {
            copy = rules.clone();
            Ok(false)
        });
        look.map_err(files::plain)?;
        Ok(copy)
    }

    /// Puts rules in force for as long as `time`.
    ///
    /// # Errors
    /// Others are on trial; the rules before cannot be kept; a text is refused. The rules
    /// are then as before.
    pub(crate) fn begin(self: &Arc<Self>, texts: &Texts, time: Duration) -> Result<()> {
        self.none_running()?;
        let mut running = locked(&self.running);
        let [rules, _] = self.candidate(texts)?;
        files::keep_before(&self.config, &rules)?;
        let number = running.0 + 1;
        let before = Before {
            number,
            rules,
            changed: [0, 1].map(|at| self.changed[at].load(Ordering::Relaxed)),
            until: Instant::now() + time,
        };
        // The clock first: without it nobody would take the rules off.
        let trials = self.clone();
        let timer = std::thread::Builder::new().name("trial".to_owned());
        timer.spawn(move || {
            std::thread::sleep(time);
            trials.time_is_up(number);
        })?;
        if let Err(e) = self.install(texts) {
            self.put_back(before)?;
            return Err(e);
        }
        *running = (number, Some(before));
        tracing::info!("new rules are on trial for {} s", time.as_secs());
        Ok(())
    }

    fn install(&self, texts: &Texts) -> Result<()> {
        for (family, text) in FAMILIES.into_iter().zip(texts) {
            let Some(text) = text else { continue };
            let mut refused = Ok(());
            let done = self.rules.with(family, true, &mut |rules| {
                refused = restored(rules, text);
                Ok(refused.is_ok())
            });
            refused?;
            done.map_err(files::plain)?;
        }
        Ok(())
    }

    fn time_is_up(&self, number: u64) {
        let mut running = locked(&self.running);
        if let Some(before) = running.1.take_if(|b| b.number == number) {
            match self.put_back(before) {
                Ok(()) => {
                    tracing::warn!("rules on trial were not confirmed: the rules before are back")
                }
                Err(e) => tracing::error!("rules on trial were not confirmed, but stay: {e:#}"),
            }
        }
    }

    /// The rules on trial stay.
    ///
    /// # Errors
    /// None are; or they cannot be recorded, and are still on trial.
    pub(crate) fn confirm(&self) -> Result<()> {
        let mut running = locked(&self.running);
        if running.1.is_none() {
            bail!("no rules are on trial");
        }
        self.record()?;
        files::forget_before(&self.config);
        running.1 = None;
        tracing::info!("the rules on trial are confirmed");
        Ok(())
    }

    /// The rules before come back.
    ///
    /// # Errors
    /// None are on trial.
    pub(crate) fn rollback(&self) -> Result<()> {
        let before = locked(&self.running).1.take();
        self.put_back(before.context("no rules are on trial")?)?;
        tracing::info!("rolled back: the rules before are back");
        Ok(())
    }

    fn put_back(&self, before: Before) -> Result<()> {
        let mut rules = before.rules;
        // Numbers of counters that are long gone.
        let slots = rules.iter_mut().flat_map(Ruleset::slots_mut);
        slots.for_each(|s| *s.was = None);
        self.rules.install(rules).map_err(files::plain)?;
        for (changed, was) in self.changed.iter().zip(before.changed) {
            changed.store(was, Ordering::Relaxed);
        }
        self.record()?;
        files::forget_before(&self.config);
        Ok(())
    }
}

fn restored(rules: &mut Ruleset, text: &str) -> Result<()> {
    let options = RestoreOptions {
        counters: CounterMode::TakeIfAny,
        ..RestoreOptions::default()
    };
    let tool = files::tool(rules.family, "restore");
    match restore(rules, text, &options, &tool, &HostNames::default()) {
        Ok(_) => Ok(()),
        Err(refused) => Err(anyhow!(
            "line {}: {}",
            refused.line,
            refused.render(&tool).trim_end()
        )),
    }
}
