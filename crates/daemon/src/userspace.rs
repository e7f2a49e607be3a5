//! The userspace datapath as a plane.

use anyhow::Result;
use tidegate_datapath::{Crash, Datapath, Observer, Options};
use tidegate_engine::conntrack::Time;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Disposition, Engine, Output};

use crate::config::{self, OnCrash};
use crate::plane::{Guarded, Job, Plane, PlaneReport};

/// Packets of this network namespace come up to this process.
pub struct Userspace(Datapath);

/// Hears of what the datapath does.
struct Ear;

impl Observer for Ear {
    fn output(&mut self, _now: Time, output: &Output) {
        if let Output::Log { line, .. } = output {
            tracing::info!("{line}");
        }
    }

    fn decided(&mut self, _: Time, _: IfIndex, _: &Disposition) {}

    fn after_batch(&mut self, _: &mut Engine, _: Time) {}
}

impl Userspace {
    /// Makes the engine; packets meet it from [`Plane::guard`] on.
    ///
    /// # Errors
    /// No permission.
    pub fn start(config: &config::Datapath, engine: Config) -> Result<Self> {
        let some = !config.interfaces.is_empty();
        let options = Options {
            interfaces: some.then(|| config.interfaces.clone()),
            crash: match config.on_crash {
                OnCrash::Closed => Crash::Closed,
                OnCrash::Open => Crash::Open,
            },
        };
        Ok(Userspace(Datapath::start(options, engine, Box::new(Ear))?))
    }
}

impl Plane for Userspace {
    fn submit(&self, job: Job) -> Result<()> {
        self.0.submit(job)
    }

    fn guard(&self) -> Result<()> {
        self.0.guard()
    }

    fn report(&self) -> PlaneReport {
        let report = self.0.report();
        let mut gaps = report.notes;
        gaps.push(
            "a local sender whose packet OUTPUT drops sees no EPERM, only silence".to_owned(),
        );
        let guarded = report.interfaces.into_iter().map(|i| Guarded {
            name: i.name,
            received: i.traffic.received,
            sent: i.traffic.sent,
            dropped: i.traffic.dropped,
            lost: i.traffic.lost + i.traffic.unsent,
        });
        PlaneReport {
            kind: "userspace",
            guarded: guarded.collect(),
            gaps,
        }
    }

    fn stop(&self) -> Result<()> {
        self.0.stop()
    }
}
