//! Makes programs from rules, away from packets.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use aya::maps::Map;
use tidegate_ebpf::sender::{DROPPED, KNOWN, Making, NOW, Side, program};
use tidegate_engine::env::Env;
use tidegate_engine::{Engine, Rules, interface_number};
use tidegate_sys::{SenderHook, SenderLink, SenderProgram, namespace_cookie};
use tidegate_wire::Family;

use super::{objected, refused};
use crate::known::descriptor;

/// Longest programs to try; rules beyond are not looked at.
const LENGTHS: [usize; 3] = [24_000, 6000, 1500];
/// Interfaces beyond these have no program.
const MOST_INTERFACES: usize = 64;
/// How long a change of rules waits for its program.
const PATIENCE: Duration = Duration::from_secs(5);

/// File descriptors of the tables.
pub(super) struct Tables([(&'static str, OwnedFd); 3]);

impl Tables {
    pub(super) fn new(known: &OwnedFd, now: &Map, copies: &Map) -> Result<Self> {
        Ok(Tables([
            (KNOWN.name, known.try_clone()?),
            (NOW.name, descriptor(now)?),
            (DROPPED.name, descriptor(copies)?),
        ]))
    }

    fn find(&self, name: &str) -> Option<i32> {
        let found = self.0.iter().find(|(n, _)| *n == name);
        found.map(|(_, fd)| fd.as_raw_fd())
    }
}

/// Rules and surroundings to make a program from.
pub(super) struct Job {
    sides: [(Arc<Rules>, bool, bool); 2],
    interfaces: Vec<(u32, u128)>,
    broadcast: Vec<u32>,
    epoch: u64,
    number: u64,
}

impl Job {
    pub(super) fn new(engine: &Engine, interfaces: Vec<(u32, String)>, number: u64) -> Self {
        let side = |family| {
            (
                Arc::clone(engine.rules(family)),
                engine.is_tracked(family),
                engine.is_translated(family),
            )
        };
        let numbered = |(index, name): (u32, String)| (index, interface_number(&name));
        let interfaces = interfaces.into_iter().map(numbered);
        Job {
            sides: [Family::V4, Family::V6].map(side),
            interfaces: interfaces.take(MOST_INTERFACES).collect(),
            broadcast: broadcast(engine.env()),
            epoch: engine.epoch(),
            number,
        }
    }
}

/// Addresses with which a packet goes to everybody on a link.
fn broadcast(env: &Env) -> Vec<u32> {
    let networks = env.interfaces().iter().flat_map(|i| &i.addresses);
    networks
        .filter(|a| a.family == Family::V4 && a.len < 31)
        .map(|a| (a.addr | !a.mask()) as u32)
        .collect()
}

/// What the thread has come to.
#[derive(Debug, Default)]
struct State {
    /// The last job that was dealt with.
    done: u64,
    /// Why senders hear nothing.
    failed: Option<String>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, note: impl FnOnce(&mut State)) {
        note(&mut self.state());
        self.changed.notify_all();
    }
}

/// The thread that makes programs. It ends, and its program with it, when the loop does.
pub(crate) struct Maker {
    desk: Arc<Desk>,
    work: Mutex<Option<(Sender<Job>, JoinHandle<()>)>>,
}

impl Maker {
    /// For the calling thread's network namespace.
    pub(super) fn start(cgroup: File, tables: Tables) -> Result<(Self, Sender<Job>)> {
        let cookie = namespace_cookie()?;
        let (jobs, taken) = channel();
        let desk = Arc::<Desk>::default();
        let mut bench = Bench {
            cgroup,
            tables,
            cookie,
            link: None,
        };
        // What the kernel refuses it should refuse now.
        bench.put(&Job {
            sides: [Family::V4, Family::V6].map(|f| (Arc::new(Rules::empty(f)), false, false)),
            interfaces: Vec::new(),
            broadcast: Vec::new(),
            epoch: 0,
            number: 0,
        })?;
        let done = Arc::clone(&desk);
        let thread = std::thread::Builder::new().name("tidegate-senders".to_owned());
        let thread = thread.spawn(move || {
            work(&mut bench, &taken, &done);
            done.note(|s| s.ended = true);
        })?;
        let work = Mutex::new(Some((jobs.clone(), thread)));
        Ok((Maker { desk, work }, jobs))
    }

    /// Takes the program away; the loop has ended.
    pub(crate) fn stop(&self) {
        let work = self
            .work
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((jobs, thread)) = work {
            drop(jobs);
            // One that has panicked has no program any more.
            let _ = thread.join();
        }
    }

    /// Waits until what a job asked for is at work, or cannot be had.
    pub(crate) fn settle(&self, job: u64) {
        let wait = |s: &mut State| s.done < job && !s.ended;
        // A late program is no harm: senders hear nothing meanwhile.
        let _ = self
            .desk
            .changed
            .wait_timeout_while(self.desk.state(), PATIENCE, wait);
    }

    /// Why senders hear nothing.
    pub(crate) fn failed(&self) -> Option<String> {
        self.desk.state().failed.clone()
    }
}

fn work(bench: &mut Bench, jobs: &Receiver<Job>, desk: &Desk) {
    while let Ok(job) = jobs.recv() {
        // Only the last one matters.
        let job = jobs.try_iter().last().unwrap_or(job);
        let failed = bench.put(&job).err().map(|e| format!("{e:#}"));
        desk.note(|s| {
            s.done = job.number;
            s.failed = failed;
        });
    }
}

struct Bench {
    cgroup: File,
    tables: Tables,
    cookie: u64,
    link: Option<SenderLink>,
}

impl Bench {
    /// Makes the program for a job and puts it to work.
    fn put(&mut self, job: &Job) -> Result<()> {
        let program = self.load(job)?;
        match &self.link {
            Some(link) => link.replace(&program),
            None => SenderLink::attach(&program, self.cgroup.as_fd()).map(|link| {
                self.link = Some(link);
            }),
        }
        .map_err(|e| refused("attaching a program to the cgroup", &e))
    }

    fn load(&self, job: &Job) -> Result<SenderProgram> {
        let mut last = None;
        for longest in LENGTHS {
            let making = Making {
                sides: job
                    .sides
                    .each_ref()
                    .map(|(rules, tracked, translated)| Side {
                        rules: rules.as_ref(),
                        tracked: *tracked,
                        translated: *translated,
                    }),
                interfaces: &job.interfaces,
                broadcast: &job.broadcast,
                cookie: self.cookie,
                epoch: job.epoch,
                longest,
            };
            let code = program(&making).link(|map| self.tables.find(map.name));
            let Some(code) = code else {
                bail!("a table is missing");
            };
            match SenderProgram::load(SenderHook::Egress, &code) {
                Ok(program) => return Ok(program),
                Err(e) => last = Some((e, code)),
            }
        }
        let Some((e, code)) = last else {
            bail!("no length to try");
        };
        let said = SenderProgram::objection(SenderHook::Egress, &code);
        Err(objected("a program for local senders", &said, &e))
    }
}
