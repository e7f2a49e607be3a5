//! Makes programs from rules, away from packets.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, bail};
use tidegate_ebpf::fast::{Front, Secrets};
use tidegate_ebpf::stop::{EARLY_STOPS, MOST_ADDRESSES, Made, Making, STOPS, Side, Slot, program};
use tidegate_engine::env::Env;
use tidegate_engine::{Engine, Rules, interface_number};
use tidegate_sys::{FrontKind, FrontProgram};
use tidegate_wire::Family;

use super::Ready;
use crate::sender::objected;
use crate::wires::Wires;
use crate::worker::Command;

/// Longest walks to try; rules beyond are not looked at.
const LENGTHS: [usize; 3] = [4800, 1200, 300];
/// A host with more interfaces has no programs.
const MOST_INTERFACES: usize = 64;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What programs are linked with.
pub(super) struct Tables {
    pub(super) fds: Vec<(&'static str, OwnedFd)>,
    pub(super) secrets: Secrets,
    /// There is a program for XDP too.
    pub(super) early: bool,
}

/// One family of a job.
struct Packets {
    rules: Arc<Rules>,
    tracked: bool,
    translated: bool,
    own: Vec<u128>,
}

impl Packets {
    fn side(&self) -> Side<'_> {
        Side {
            rules: &self.rules,
            tracked: self.tracked,
            translated: self.translated,
            own: &self.own,
        }
    }
}

/// Rules and surroundings to make programs from.
pub(super) struct Job {
    sides: [Packets; 2],
    interfaces: Vec<(u32, u128)>,
    epoch: u64,
}

impl Job {
    pub(super) fn new(engine: &Engine, epoch: u64) -> Self {
        let env = engine.env();
        let side = |family| Packets {
            rules: Arc::clone(engine.rules(family)),
            tracked: engine.is_tracked(family),
            translated: engine.is_translated(family),
            own: own(env, family),
        };
        let interfaces = env.interfaces().iter();
        Job {
            sides: FAMILIES.map(side),
            interfaces: interfaces
                .map(|i| (i.index.0, interface_number(&i.name)))
                .collect(),
            epoch,
        }
    }
}

/// Addresses of this host, and of all hosts on its links.
fn own(env: &Env, family: Family) -> Vec<u128> {
    let all = env.interfaces().iter().flat_map(|i| &i.addresses);
    let all = all.filter(|a| a.family == family);
    let mut own: Vec<u128> = match family {
        Family::V4 => all
            .flat_map(|a| {
                let full = u128::from(u32::MAX);
                [a.addr, a.addr & a.mask(), (a.addr | !a.mask()) & full]
            })
            .collect(),
        Family::V6 => all.map(|a| a.addr).collect(),
    };
    own.sort_unstable();
    own.dedup();
    own
}

/// The thread ends with the sender of its jobs.
pub(super) fn start(tables: Tables, jobs: Receiver<Job>, wires: Wires) -> Result<()> {
    let thread = std::thread::Builder::new().name("tidegate-floods".to_owned());
    thread.spawn(move || work(&tables, &jobs, &wires))?;
    Ok(())
}

fn work(tables: &Tables, jobs: &Receiver<Job>, wires: &Wires) {
    // Programs stay where tail calls find them; nobody else holds them.
    while let Ok(job) = jobs.recv() {
        // Only the last one matters.
        let job = jobs.try_iter().last().unwrap_or(job);
        let ready = Ready {
            epoch: job.epoch,
            slots: tables.put(&job).map_err(|e| format!("{e:#}")),
        };
        if wires.tell(Command::Stops(ready)).is_err() {
            return;
        }
    }
}

impl Tables {
    /// Makes the programs for a job and puts them in their places; what they count.
    pub(super) fn put(&self, job: &Job) -> Result<Vec<Slot>> {
        if job.interfaces.len() > MOST_INTERFACES {
            bail!("there are more than {MOST_INTERFACES} interfaces");
        }
        if job.sides.iter().any(|s| s.own.len() > MOST_ADDRESSES) {
            bail!(
                "this host has more than {MOST_ADDRESSES} addresses, those of its networks and \
                 broadcasts among them"
            );
        }
        let mut last = None;
        for longest in LENGTHS {
            match self.try_put(job, longest) {
                Ok(slots) => return Ok(slots),
                Err(e) => last = Some(e),
            }
        }
        last.map_or_else(|| bail!("no length to try"), Err)
    }

    fn try_put(&self, job: &Job, longest: usize) -> Result<Vec<Slot>> {
        let made = self.make(job, Front::Tcx, longest);
        let slots = made.slots.clone();
        self.place(made, FrontKind::Classifier, STOPS.name)?;
        if self.early {
            // The same walk: the same slots.
            let made = self.make(job, Front::Xdp, longest);
            self.place(made, FrontKind::Xdp, EARLY_STOPS.name)?;
        }
        Ok(slots)
    }

    pub(super) fn make(&self, job: &Job, front: Front, longest: usize) -> Made {
        let making = Making {
            sides: job.sides.each_ref().map(Packets::side),
            interfaces: &job.interfaces,
            secrets: &self.secrets,
            epoch: job.epoch,
            longest,
        };
        program(&making, front)
    }

    fn find(&self, name: &str) -> Option<&OwnedFd> {
        self.fds.iter().find(|f| f.0 == name).map(|f| &f.1)
    }

    pub(super) fn load(&self, made: Made, kind: FrontKind) -> Result<FrontProgram> {
        let code = made
            .code
            .link(|map| self.find(map.name).map(AsRawFd::as_raw_fd));
        let code = code.context("a table is missing")?;
        FrontProgram::load(kind, &code).map_err(|e| {
            let said = FrontProgram::objection(kind, &code);
            objected("a program for floods", &said, &e)
        })
    }

    fn place(&self, made: Made, kind: FrontKind, table: &str) -> Result<()> {
        let program = self.load(made, kind)?;
        let table = self.find(table).context("a table is missing")?;
        Ok(program.put(table.as_fd())?)
    }
}
