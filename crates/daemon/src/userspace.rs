//! The userspace datapath as a plane.

use anyhow::Result;
use tidegate_datapath::{Crash, Datapath, Observer, Options};
use tidegate_engine::conntrack::Time;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Disposition, Engine, Output};

use crate::config::{self, OnCrash};
use crate::plane::{Ears, Guarded, Job, Plane, PlaneReport};

/// The command of the program that makes it a guardian ([`tidegate_datapath::watch`]).
const GUARDIAN: [&str; 2] = ["release", "--when-orphaned"];

/// Packets of this network namespace come up to this process.
pub struct Userspace(Datapath);

impl Observer for Ears {
    fn output(&mut self, now: Time, output: &Output) {
        self.logs.log(now, output);
    }

    fn decided(&mut self, now: Time, _: IfIndex, disposition: &Disposition) {
        if let Disposition::Dropped(reason) = disposition {
            self.logs.dropped(now, reason);
        }
    }

    fn after_batch(&mut self, engine: &mut Engine, _: Time) {
        self.batch(engine);
    }
}

impl Userspace {
    /// Makes the engine; packets meet it from [`Plane::guard`] on.
    ///
    /// # Errors
    /// No permission.
    pub fn start(config: &config::Datapath, engine: Config, ears: Ears) -> Result<Self> {
        let some = !config.interfaces.is_empty();
        let options = Options {
            interfaces: some.then(|| config.interfaces.clone()),
            crash: match config.on_crash {
                OnCrash::Closed => Crash::Closed,
                OnCrash::Open => Crash::Open,
            },
            guardian: GUARDIAN.map(Into::into).to_vec(),
        };
        Ok(Userspace(Datapath::start(options, engine, Box::new(ears))?))
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
        let lost = report.lost().to_vec();
        let mut gaps = report.notes;
        gaps.push(
            "a local sender whose packet OUTPUT drops sees no EPERM, only silence".to_owned(),
        );
        let guarded = report.interfaces.into_iter().map(|i| Guarded {
            name: i.name,
            received: i.traffic.received,
            sent: i.traffic.sent,
            dropped: i.traffic.dropped,
            lost: i.traffic.lost.total(),
        });
        PlaneReport {
            kind: "userspace",
            guarded: guarded.collect(),
            gaps,
            lost,
        }
    }

    fn stop(&self) -> Result<()> {
        self.0.stop()
    }
}
