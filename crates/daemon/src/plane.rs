//! What packets pass through, as the rest of the daemon sees it: somebody who owns an
//! engine and runs work on it between packets.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tidegate_engine::Engine;
use tidegate_engine::conntrack::Time;
use tidegate_logs::LogHandle;
use tidegate_syntax::Sockets;
use tidegate_tools::conntrack::Hub;

/// Who hears of what happens to packets; told on the datapath's thread, never waits.
#[derive(Clone, Debug)]
pub struct Ears {
    /// Takes lines and packets for logs.
    pub logs: LogHandle,
    /// Takes events of connections.
    pub events: Arc<Hub>,
}

impl Ears {
    /// Something may have happened to connections.
    pub(crate) fn batch(&self, engine: &mut Engine) {
        crate::bindings::log(engine.conntrack_mut(), &self.logs);
        self.events.publish(engine.conntrack_mut());
    }
}

/// Work on the engine.
pub type Job = Box<dyn FnOnce(&mut Engine, Time) + Send>;

/// Name and value of an environment variable; without a value it is not to be there.
pub type Heirloom = (&'static str, Option<String>);

/// An interface under guard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guarded {
    /// Name.
    pub name: String,
    /// Packets received from the network, or by loopback.
    pub received: u64,
    /// Packets sent to the network.
    pub sent: u64,
    /// Packets stopped by rules or by what every host refuses.
    pub dropped: u64,
    /// Packets lost without a decision; `status --drops` tells the reasons.
    pub lost: u64,
}

/// What a plane says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlaneReport {
    /// Which one it is.
    pub kind: &'static str,
    /// Interfaces whose packets meet the rules.
    pub guarded: Vec<Guarded>,
    /// What is not enforced, a sentence each.
    pub gaps: Vec<String>,
    /// Packets that went no further without a decision: reason, count, explanation.
    #[serde(skip)]
    pub lost: Vec<tidegate_logs::Row>,
    /// What became of received packets at programs in the kernel; empty without them.
    pub fates: Vec<Fate>,
}

/// Packets with which programs in the kernel have done the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// They were dealt with there; the others came up.
    pub done: bool,
    /// Where, or why not.
    pub what: &'static str,
    /// How many.
    pub packets: u64,
}

/// Where packets meet the engine.
pub trait Plane: Send + Sync {
    /// Runs work between two packets; returns before it is done.
    ///
    /// # Errors
    /// The plane has stopped.
    fn submit(&self, job: Job) -> Result<()>;

    /// Lets packets meet the engine, whose rules have been loaded.
    ///
    /// # Errors
    /// No permission, or the kernel refuses.
    fn guard(&self) -> Result<()>;

    /// Whether packets can meet the rules at all.
    fn has_packets(&self) -> bool {
        true
    }

    /// What its engine knows of the sockets of packets.
    fn sockets(&self) -> Sockets {
        Sockets::Unknown
    }

    /// Returns when everybody who is told of the rules in force knows them.
    fn settle(&self) {}

    /// What it guards.
    fn report(&self) -> PlaneReport;

    /// Runs work with which this process ends or becomes another, in a moment when nothing is
    /// on its way. What is known then goes on passing, if anybody can see to that; nothing else does.
    ///
    /// # Errors
    /// The plane has stopped.
    fn leave(&self, last: Job) -> Result<()> {
        self.submit(last)
    }

    /// What the program that this process becomes must find in its environment, so that its plane
    /// knows what else is left of this one.
    fn heirloom(&self) -> Option<Heirloom> {
        None
    }

    /// Lets packets go their own ways again.
    ///
    /// # Errors
    /// Something could not be put back; the text says what.
    fn stop(&self) -> Result<()>;
}

impl dyn Plane + '_ {
    /// Runs work between two packets and waits for its result.
    ///
    /// # Errors
    /// The plane has stopped.
    pub fn with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, Time) -> R + Send + 'static,
    ) -> Result<R> {
        let (done, result) = channel();
        self.submit(Box::new(move |engine, now| {
            // Whoever asked may have gone.
            let _ = done.send(work(engine, now));
        }))?;
        result.recv().map_err(|_| stopped())
    }
}

fn stopped() -> anyhow::Error {
    anyhow!("the datapath has stopped")
}

/// A plane without packets: rules can be worked on, nothing is enforced.
pub struct Idle {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Longest sleep of the idle plane.
const TICK: Duration = Duration::from_secs(1);

impl Idle {
    /// Starts it with this engine.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(engine: Engine, ears: Ears) -> Result<Self> {
        let (jobs, taken) = channel();
        let thread = std::thread::Builder::new().name("idle".to_owned());
        Ok(Idle {
            thread: Mutex::new(Some(thread.spawn(move || idle(engine, &taken, &ears))?)),
            jobs: Mutex::new(Some(jobs)),
        })
    }
}

fn idle(mut engine: Engine, jobs: &Receiver<Job>, ears: &Ears) {
    loop {
        match jobs.recv_timeout(TICK) {
            Ok(job) => job(&mut engine, now()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
        }
        if engine.poll_timeout().is_some_and(|at| at <= now()) {
            engine.handle_timeout(now());
        }
        ears.batch(&mut engine);
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_nanos() as Time)
}

impl Plane for Idle {
    fn submit(&self, job: Job) -> Result<()> {
        let jobs = crate::locked(&self.jobs);
        let jobs = jobs.as_ref().ok_or_else(stopped)?;
        jobs.send(job).map_err(|_| stopped())
    }

    fn guard(&self) -> Result<()> {
        Ok(())
    }

    fn has_packets(&self) -> bool {
        false
    }

    fn report(&self) -> PlaneReport {
        PlaneReport {
            kind: "none",
            guarded: Vec::new(),
            gaps: vec!["no packet meets the rules: the datapath is \"none\"".to_owned()],
            fates: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn stop(&self) -> Result<()> {
        crate::locked(&self.jobs).take();
        if let Some(thread) = crate::locked(&self.thread).take() {
            let _ = thread.join();
        }
        Ok(())
    }
}
