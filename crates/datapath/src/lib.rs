//! The live firewall's datapath: packets of a running host go through the engine.
//!
//! [`Datapath::guard`] diverts the packets of the calling thread's network namespace: what
//! interfaces receive and what local sockets send goes through the [`Engine`], and only
//! what it lets pass goes on. Forwarding is the engine's. When the process dies the
//! interfaces stay closed until [`release`] opens them.
#![forbid(unsafe_code)]

mod alone;
mod divert;
mod fast;
mod guardian;
mod handing;
mod known;
mod neighbour;
mod offload;
mod owners;
mod port;
mod report;
mod sender;
mod stop;
mod watch;
mod wires;
mod worker;
mod xdp;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{EventfdFlags, eventfd};
use tidegate_engine::conntrack::Time;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Engine, Outcome, Output};
use tidegate_host::Host;
use tidegate_sys::Clock;

use alone::Alone;
use fast::{Fast, Kernel, Predecessor, Table, adopt};
use guardian::Guardian;
pub use guardian::watch;
use known::Known;
use owners::Asked;
pub use report::{Fate, Guarded, Lost, Report, Traffic};
use sender::{Heard, Maker};
use watch::Watcher;
use wires::{Wires, wake};
pub use worker::Work;
use worker::{Command, KernelSide, Worker};

/// What becomes of the interfaces when the datapath ends without being told to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Crash {
    /// Everything passes.
    Open,
    /// Nothing passes until [`release`].
    #[default]
    Closed,
}

/// How received frames come to the datapath.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ring {
    /// Packet sockets and their rings.
    #[default]
    Packet,
    /// `AF_XDP` at the interfaces that can have it, packet sockets at the others. Needs
    /// root. With [`Options::fast`], programs forward before the kernel looks at frames,
    /// and what they leave comes by packet sockets.
    Xdp,
}

/// Connections that programs in the kernel have at a time, unless told otherwise.
pub const OFFLOADED: u32 = tidegate_ebpf::layout::PLACES;

/// How the datapath works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names of the interfaces to guard; `None` is all there are and all to come.
    pub interfaces: Option<Vec<String>>,
    /// What happens when the datapath fails.
    pub crash: Crash,
    /// Words with which this program, run again, calls [`watch`]: with [`Crash::Open`]
    /// that other process opens the interfaces when this one is killed. Without any
    /// words they stay closed then.
    pub guardian: Vec<OsString>,
    /// Whether programs in the kernel answer for what the engine has decided.
    pub fast: bool,
    /// Most connections that those programs have at a time, about 600 bytes each.
    pub offloaded: u32,
    /// How frames come up.
    pub ring: Ring,
    /// Whether local senders hear at once of what rules drop.
    pub senders: Senders,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            interfaces: None,
            crash: Crash::default(),
            guardian: Vec::new(),
            fast: false,
            offloaded: OFFLOADED,
            ring: Ring::default(),
            senders: Senders::default(),
        }
    }
}

/// Whether a local sender whose packet rules drop gets an error, as from the kernel's own
/// netfilter, or nothing: that takes root and a cgroup of version 2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Senders {
    /// Processes of the whole machine that are in the guarded network namespace.
    #[default]
    All,
    /// Those of one cgroup and below it.
    Of(PathBuf),
    /// None.
    Nobody,
}

/// What a datapath knows of the host's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knows {
    /// Nothing.
    Nothing,
    /// Who sends local packets and who waits for received ones.
    Users,
    /// That, and packets can be handed to sockets that they are not addressed to.
    Handing,
    /// That, and groups and classes of senders.
    Groups,
}

/// Sees what the datapath does. Called on its thread: must not block.
pub trait Observer: Send {
    /// A line of LOG.
    fn output(&mut self, now: Time, output: &Output);

    /// A packet that came by `dev`, or that a socket sent out of it, was decided.
    fn decided(&mut self, now: Time, dev: IfIndex, outcome: &Outcome) {
        let _ = (now, dev, outcome);
    }

    /// Between two batches of packets.
    fn after_batch(&mut self, engine: &mut Engine, now: Time) {
        let _ = (engine, now);
    }
}

/// A running datapath. Dropping it stops it.
pub struct Datapath {
    worker: Wires,
    notes: Arc<Mutex<Vec<String>>>,
    /// What could not be taken over from a predecessor.
    lost: Mutex<Vec<String>>,
    stop_watcher: Arc<OwnedFd>,
    /// What [`Datapath::guard`] sets to work.
    waiting: Mutex<Option<Watcher>>,
    threads: Mutex<Threads>,
    guardian: Mutex<Option<Guardian>>,
    /// Who lets local senders hear, or why nobody does.
    senders: Result<Maker, String>,
    knows: Knows,
}

#[derive(Debug, Default)]
struct Threads {
    worker: Option<JoinHandle<Result<()>>>,
    watcher: Option<JoinHandle<Result<()>>>,
}

impl Datapath {
    /// Makes an engine for the calling thread's network namespace; no packet meets it
    /// before [`Datapath::guard`].
    ///
    /// # Errors
    /// No permission (`CAP_NET_ADMIN`, `CAP_NET_RAW` and `CAP_SYS_ADMIN` over the
    /// namespace).
    pub fn start(
        options: Options,
        engine_config: Config,
        observer: Box<dyn Observer>,
    ) -> Result<Self> {
        let (host, _) = Host::running()?;
        let mut engine = Engine::new(engine_config, Arc::new(host.env));
        let clock = Clock::new();
        let (commands, orders) = mpsc::channel();
        let worker = Wires {
            commands,
            wake: Arc::new(event()?),
        };
        let wanted = options.fast || options.senders != Senders::Nobody;
        let known = match wanted {
            true => Known::start(&mut engine),
            false => Err(anyhow!("as configured")),
        };
        let (kernel, fast, stops) = if options.fast {
            let (kernel, tables, shared) = Kernel::load(divert::secret()?, &options)?;
            let fast = Fast::new(Table::new(tables, clock), &mut engine);
            let known = known.as_ref().map_err(|e| anyhow!("{e:#}"))?;
            let stops = stop::start(&mut engine, shared, known, (worker.clone(), clock))?;
            (Some(kernel), Some(fast), Some(stops))
        } else {
            (None, None, None)
        };
        // Before the program that drops: both see a packet, in the order they came.
        let owners = start_owners(&options.senders, &mut engine);
        let groups = owners.as_ref().is_ok_and(|(_, groups)| *groups);
        let handing = match &owners {
            Ok(_) => handing::start(),
            Err(_) => Err(anyhow!("sockets are not known")),
        };
        let knows = match (&owners, &handing) {
            (Err(_), _) => Knows::Nothing,
            (Ok(_), Err(_)) => Knows::Users,
            (Ok(_), Ok(_)) if !groups => Knows::Handing,
            (Ok(_), Ok(_)) => Knows::Groups,
        };
        let (giver, gifts) = handing.ok().unzip();
        let senders = known.and_then(|k| start_senders(&options.senders, &mut engine, &k));
        let (heard, senders) = match senders {
            Ok((heard, maker)) => (Some(heard), Ok(maker)),
            Err(e) => (None, Err(format!("{e:#}"))),
        };
        let partial = options.interfaces.is_some();
        let wake = Arc::clone(&worker.wake);
        let asked = owners.ok().map(|(asked, _)| asked);
        let kernel_side = KernelSide {
            fast,
            stops,
            heard,
            asked,
            gifts,
        };
        let run = Worker::new(engine, clock, observer, orders, wake, partial, kernel_side)?;
        let crash = options.crash;
        let notes = Arc::default();
        let watcher = Watcher::new(options, worker.clone(), Arc::clone(&notes), (kernel, giver))?;
        let thread = spawn("datapath", move || {
            let mut fuse = Fuse(Some(crash));
            let done = run.run();
            if done.is_ok() {
                fuse.0 = None;
            }
            done
        })?;
        Ok(Datapath {
            worker,
            notes,
            lost: Mutex::default(),
            stop_watcher: Arc::new(event()?),
            waiting: Mutex::new(Some(watcher)),
            threads: Mutex::new(Threads {
                worker: Some(thread),
                watcher: None,
            }),
            guardian: Mutex::default(),
            senders,
            knows,
        })
    }

    /// Guards the interfaces: when this returns, the packets of those that are there meet
    /// the engine. What a predecessor that was killed has left closed stays so until
    /// then. Called from a thread in the namespace of [`Datapath::start`].
    ///
    /// # Errors
    /// Another datapath is at work here. The kernel does not tell, or refuses to open
    /// what is not to be guarded any more.
    pub fn guard(&self) -> Result<()> {
        let Some(mut watcher) = lock(&self.waiting).take() else {
            return Ok(());
        };
        let alone = Alone::new()?;
        let predecessor = self.take_over(&watcher)?;
        if let Some(words) = watcher.guardian() {
            let guardian = Guardian::start(words).context("starting a guardian")?;
            *lock(&self.guardian) = Some(guardian);
        }
        if let Err(e) = watcher.look().and_then(|()| watcher.open_others()) {
            let _ = watcher.close();
            return Err(e);
        }
        // Once the loop has all interfaces.
        self.with(|_, _| ())?;
        if let Some(kernel) = watcher.kernel() {
            kernel.wait(false);
        }
        predecessor.map_or(Ok(()), Predecessor::remove)?;
        guardian::dismiss_inherited();
        drop(alone);
        self.settle()?;
        let stop = Arc::clone(&self.stop_watcher);
        let thread = spawn("watcher", move || watcher.run(&stop))?;
        lock(&self.threads).watcher = Some(thread);
        Ok(())
    }

    /// Takes over the connections that the programs of a killed predecessor go on forwarding.
    /// They do so until ours, which wait meanwhile, begin; without any of ours they end here,
    /// for they know nothing of what begins, and its filters keep closed what they leave.
    fn take_over(&self, watcher: &Watcher) -> Result<Option<Predecessor>> {
        let own = watcher.kernel().and_then(Kernel::own_pins);
        let Some(predecessor) = Predecessor::find(own)? else {
            return Ok(None);
        };
        let Some(kernel) = watcher.kernel() else {
            predecessor.remove()?;
            return Ok(None);
        };
        let legacy = predecessor.connections();
        let clock = Clock::new();
        self.with(move |engine, now| adopt(engine, now, clock, &legacy.connections))?;
        // One of another version may have tables that cannot be read.
        lock(&self.lost).extend(
            legacy.lost.into_iter().map(|why| {
                format!("connections of a killed predecessor were not taken over ({why})")
            }),
        );
        kernel.wait(true);
        Ok(Some(predecessor))
    }

    /// Does `work` between two batches and returns what it does.
    ///
    /// # Errors
    /// The datapath has ended.
    pub fn with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Engine, Time) -> R + Send + 'static,
    ) -> Result<R> {
        let (answer, wait) = mpsc::sync_channel(1);
        self.worker.tell(Command::Run(Box::new(move |engine, now| {
            let before = engine.epoch();
            let done = work(engine, now);
            // Whoever asked may be gone.
            let _ = answer.send((done, engine.epoch() != before));
        })))?;
        let answered = wait.recv().map_err(|_| anyhow!("the datapath has ended"));
        let (done, changed) = answered?;
        if changed {
            self.settle()?;
        }
        Ok(done)
    }

    /// Waits until local senders hear of what the rules in force drop.
    ///
    /// # Errors
    /// The datapath has ended.
    pub fn settle(&self) -> Result<()> {
        if let Ok(maker) = &self.senders {
            let (answer, wait) = mpsc::sync_channel(1);
            self.worker.tell(Command::Settle(answer))?;
            let job = wait.recv().map_err(|_| anyhow!("the datapath has ended"))?;
            maker.settle(job);
        }
        Ok(())
    }

    /// What rules may ask of sockets.
    #[must_use]
    pub const fn knows(&self) -> Knows {
        self.knows
    }

    /// As [`Datapath::with`], without waiting for an answer.
    ///
    /// # Errors
    /// The datapath has ended.
    pub fn submit(&self, work: Work) -> Result<()> {
        self.worker.tell(Command::Run(work))
    }

    /// What is guarded, what passed, and what is not enforced. Empty when the datapath
    /// has ended.
    #[must_use]
    pub fn report(&self) -> Report {
        let (answer, wait) = mpsc::sync_channel(1);
        let asked = self.worker.tell(Command::Report(answer));
        let mut report = asked
            .ok()
            .and_then(|()| wait.recv().ok())
            .unwrap_or_default();
        report.notes.extend_from_slice(&lock(&self.notes));
        report.notes.extend_from_slice(&lock(&self.lost));
        if lock(&self.guardian).as_mut().is_some_and(|g| !g.waits()) {
            let note = "nobody will open the interfaces if the daemon is killed: the guardian \
                        process has ended";
            report.notes.push(note.to_owned());
        }
        let silent = match &self.senders {
            Ok(maker) => maker.failed(),
            Err(why) => Some(why.clone()),
        };
        report.notes.extend(silent.map(|why| {
            format!("a local sender whose packet OUTPUT drops sees no EPERM, only silence ({why})")
        }));
        report
    }

    /// Does `last` when programs in the kernel have all connections that they may have (at the
    /// latest after half a second), with which this process is to end or to become another: without
    /// [`Datapath::stop`], so that programs go on forwarding, everything else stays closed, and the
    /// next datapath takes over. A guardian goes on waiting for the end of the process
    /// ([`Datapath::heirloom`]). Where `last` returns, packets go on being decided.
    ///
    /// # Errors
    /// The datapath has ended.
    pub fn leave(&self, last: Work) -> Result<()> {
        self.worker.tell(Command::Leave(last))
    }

    /// Name and value that the environment of a program must have which this process becomes:
    /// by them its datapath knows this one's guardian, and ends it when it has its own.
    #[must_use]
    pub fn heirloom(&self) -> (&'static str, Option<String>) {
        let guardian = lock(&self.guardian);
        let named = guardian.as_ref().map(|guardian| guardian.id().to_string());
        (guardian::INHERITED, named)
    }

    /// Opens all interfaces again and ends.
    ///
    /// # Errors
    /// The datapath had failed, or something could not be removed.
    pub fn stop(&self) -> Result<()> {
        let threads = std::mem::take(&mut *lock(&self.threads));
        let mut opened = Ok(());
        if let Some(watcher) = threads.watcher {
            wake(&self.stop_watcher)?;
            opened = join(watcher);
        }
        if let Some(worker) = threads.worker {
            // A loop that has failed is not there to be told.
            let _ = self.worker.tell(Command::Stop);
            let ended = join(worker);
            if let Ok(maker) = &self.senders {
                maker.stop();
            }
            ended?;
        }
        opened?;
        // One that is not told tries once more what has failed here.
        if let Some(mut guardian) = lock(&self.guardian).take() {
            guardian.dismiss();
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Datapath {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Opens the interfaces when a thread fails and that is wished.
struct Fuse(Option<Crash>);

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.0 == Some(Crash::Open) {
            let _ = divert::remove_all();
        }
    }
}

/// Has it noted whose packets local sockets send, once rules ask.
/// The second says whether groups and classes are noted, too.
fn start_owners(which: &Senders, engine: &mut Engine) -> Result<(Asked, bool)> {
    let root = sender::root()?;
    let group = match which {
        Senders::All => root.clone(),
        Senders::Of(group) => group.clone(),
        Senders::Nobody => bail!("as configured"),
    };
    let (known, asked) = owners::start(root, &group)?;
    let groups = known.knows_groups();
    engine.set_sockets(Some(Box::new(known)));
    Ok((asked, groups))
}

fn start_senders(which: &Senders, engine: &mut Engine, known: &Known) -> Result<(Heard, Maker)> {
    match which {
        Senders::All => sender::start(None, engine, known),
        Senders::Of(cgroup) => sender::start(Some(cgroup.clone()), engine, known),
        Senders::Nobody => bail!("as configured"),
    }
}

fn event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")
}

fn spawn(
    name: &str,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let builder = std::thread::Builder::new().name(format!("tidegate-{name}"));
    builder.spawn(work).context("a thread")
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread of the datapath has panicked")))
}

/// Removes every diversion from the calling thread's network namespace, whoever made it:
/// for a guardian process, and after a crash. Returns how many interfaces had one.
///
/// # Errors
/// A datapath is at work here, no permission, or the kernel refuses.
pub fn release() -> Result<usize> {
    let _alone = Alone::new()?;
    divert::remove_all()
}
