//! The userspace datapath as a plane, with or without programs in the kernel.

use anyhow::{Context, Result};
use tidegate_datapath::{Crash, Datapath, Fate, Knows, Observer, Options, Senders};
use tidegate_engine::conntrack::Time;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Disposition, Engine, Outcome, Output};
use tidegate_syntax::Sockets;

use crate::config::{self, Kind, OnCrash, Ring};
use crate::plane::{self, Ears, Guarded, Heirloom, Job, Plane, PlaneReport};

/// The command of the program that makes it a guardian ([`tidegate_datapath::watch`]).
const GUARDIAN: [&str; 2] = ["release", "--when-orphaned"];

/// Packets of this network namespace come up to this process, but for those that programs
/// in the kernel deal with.
pub struct Userspace {
    datapath: Datapath,
    kind: &'static str,
    /// Why there are no programs.
    slow: Option<String>,
}

impl Observer for Ears {
    fn output(&mut self, now: Time, output: &Output) {
        self.logs.log(now, output);
    }

    fn decided(&mut self, now: Time, _: IfIndex, outcome: &Outcome) {
        if let Disposition::Dropped(reason) = &outcome.disposition {
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
        let mut options = Options {
            fast: config.kind == Kind::Ebpf,
            offloaded: config.offloaded,
            ring: match config.ring {
                Ring::Packet => tidegate_datapath::Ring::Packet,
                Ring::Xdp => tidegate_datapath::Ring::Xdp,
            },
            interfaces: some.then(|| config.interfaces.clone()),
            crash: match config.on_crash {
                OnCrash::Closed => Crash::Closed,
                OnCrash::Open => Crash::Open,
            },
            guardian: GUARDIAN.map(Into::into).to_vec(),
            senders: match config.cgroup.as_str() {
                "" => Senders::All,
                "none" => Senders::Nobody,
                place => Senders::Of(place.into()),
            },
        };
        let start = |options| Datapath::start(options, engine.clone(), Box::new(ears.clone()));
        if !options.fast {
            return Ok(Userspace {
                datapath: start(options)?,
                kind: "userspace",
                slow: None,
            });
        }
        match start(options.clone()) {
            Ok(datapath) => Ok(Userspace {
                datapath,
                kind: "ebpf",
                slow: None,
            }),
            Err(e) if config.fallback => {
                let slow = format!("no eBPF datapath here, all packets come up: {e:#}");
                tracing::warn!("{slow}");
                options.fast = false;
                Ok(Userspace {
                    datapath: start(options)?,
                    kind: "userspace",
                    slow: Some(slow),
                })
            }
            Err(e) => Err(e).context(
                "no eBPF datapath here; \"datapath.fallback = true\" takes the userspace one",
            ),
        }
    }
}

impl Plane for Userspace {
    fn submit(&self, job: Job) -> Result<()> {
        self.datapath.submit(job)
    }

    fn guard(&self) -> Result<()> {
        self.datapath.guard()
    }

    fn report(&self) -> PlaneReport {
        let report = self.datapath.report();
        let lost = report.lost().to_vec();
        let mut gaps = report.notes;
        gaps.extend(self.slow.clone());
        let guarded = report.interfaces.into_iter().map(|i| Guarded {
            name: i.name,
            received: i.traffic.received,
            sent: i.traffic.sent,
            dropped: i.traffic.dropped,
            lost: i.traffic.lost.total(),
        });
        PlaneReport {
            kind: self.kind,
            guarded: guarded.collect(),
            gaps,
            fates: report.fates.into_iter().map(fate).collect(),
            lost,
        }
    }

    fn sockets(&self) -> Sockets {
        match self.datapath.knows() {
            Knows::Nothing => Sockets::Unknown,
            Knows::Users => Sockets::Users,
            Knows::Handing => Sockets::Handing,
            Knows::Groups => Sockets::Groups,
        }
    }

    fn settle(&self) {
        // A datapath that has ended has nothing to settle.
        let _ = self.datapath.settle();
    }

    fn leave(&self, last: Job) -> Result<()> {
        self.datapath.leave(last)
    }

    fn heirloom(&self) -> Option<Heirloom> {
        Some(self.datapath.heirloom())
    }

    fn stop(&self) -> Result<()> {
        self.datapath.stop()
    }
}

fn fate((fate, packets): (Fate, u64)) -> plane::Fate {
    plane::Fate {
        done: matches!(
            fate,
            Fate::Forwarded | Fate::Early | Fate::Passed | Fate::Sent | Fate::Stopped
        ),
        what: fate.words(),
        packets,
    }
}
