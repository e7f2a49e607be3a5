//! Local senders hear at once of what rules drop (`EPERM`), as with the kernel's own
//! netfilter: a program (`tidegate_ebpf::sender`) refuses, within the sender's call, what the
//! rules drop for certain, and the loop gets a copy and decides it like any other packet.
//!
//! Three parts: [`Heard`] is the loop's, which takes the copies; the engine tells a register
//! ([`Known`]) which connections there are, and which epoch it is, before anything comes of either; and
//! [`Maker`], a thread, makes a new program from each change of the rules.

mod maker;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::{fs, io};

use anyhow::{Context, Result, anyhow, bail};
use aya::EbpfLoader;
use aya::maps::{MapData, RingBuf};
use tidegate_ebpf::sender::{DROPPED, NOW, now, record};
use tidegate_engine::{Engine, Follower};
use tidegate_sys::SharedWords;

use crate::fast::{map, shared};
use crate::known::Known;
use maker::Job;
pub(crate) use maker::Maker;

/// Most copies taken in one turn of the loop.
const BUDGET: usize = 256;

/// The loop's part.
pub(crate) struct Heard {
    copies: RingBuf<MapData>,
    now: Arc<SharedWords>,
    expecting: bool,
    /// The epoch that the maker knows.
    told: Option<u64>,
    /// Jobs it has been given.
    given: u64,
    jobs: Sender<Job>,
}

/// What the engine tells, where programs read it.
#[derive(Clone, Debug)]
struct Notice {
    now: Arc<SharedWords>,
}

impl Follower for Notice {
    fn begins(&mut self, epoch: u64) {
        self.now.store(now::EPOCH, epoch);
    }
}

/// Makes the tables, connects them with the engine and starts a maker for the processes of
/// `cgroup`, of which those in the calling thread's network namespace count.
///
/// # Errors
/// No such cgroup, the kernel is too old, or a right is missing.
pub(crate) fn start(
    cgroup: Option<PathBuf>,
    engine: &mut Engine,
    known: &Known,
) -> Result<(Heard, Maker)> {
    let cgroup = cgroup.map_or_else(root, Ok)?;
    let group = fs::File::open(&cgroup).with_context(|| cgroup.display().to_string())?;
    let object =
        tidegate_ebpf::object(Vec::new(), &[&NOW, &DROPPED]).context("tables for local senders")?;
    let mut loaded = EbpfLoader::new()
        .load(&object)
        .context("the kernel does not take the tables for local senders")?;
    let now = map(&mut loaded, NOW.name)?;
    let copies = map(&mut loaded, DROPPED.name)?;
    let fds = maker::Tables::new(&known.table, &now, &copies)?;
    let notice = Notice {
        now: Arc::new(shared(now, now::WORDS)?),
    };
    let (maker, jobs) = Maker::start(group, fds)?;
    engine.set_follower(Box::new(notice.clone()));
    let heard = Heard {
        copies: RingBuf::try_from(copies)?,
        now: notice.now,
        expecting: false,
        told: None,
        given: 0,
        jobs,
    };
    Ok((heard, maker))
}

/// The root of cgroup version 2.
pub(crate) fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    for line in mounts.lines() {
        let Some((own, rest)) = line.split_once(" - ") else {
            continue;
        };
        if rest.starts_with("cgroup2 ")
            && let Some(place) = own.split(' ').nth(4)
        {
            return Ok(place.into());
        }
    }
    bail!("there is no cgroup version 2 mounted")
}

/// Nobody decides about copies any more.
impl Drop for Heard {
    fn drop(&mut self) {
        self.now.store(now::EPOCH, u64::MAX);
    }
}

impl AsFd for Heard {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.copies.as_fd()
    }
}

impl Heard {
    /// The copies of refused packets that wait, with their interfaces; `true`: perhaps there
    /// are more.
    pub(crate) fn take(&mut self) -> (Vec<(u32, Vec<u8>)>, bool) {
        let mut taken = Vec::new();
        while taken.len() < BUDGET {
            let Some(item) = self.copies.next() else {
                return (taken, false);
            };
            taken.extend(record(&item).map(|(dev, packet)| (dev, packet.to_vec())));
        }
        (taken, true)
    }

    /// A packet has been decided, and nothing has come of it yet.
    pub(crate) fn decided(&mut self, engine: &Engine) {
        let expecting = engine.conntrack().is_expecting();
        if std::mem::replace(&mut self.expecting, expecting) != expecting {
            self.now.store(now::EXPECTED, u64::from(expecting));
        }
    }

    /// Guarded interfaces have come or gone.
    pub(crate) fn changed(&mut self) {
        self.told = None;
    }

    /// Has a program made if rules, surroundings or interfaces are not those of the last;
    /// how many jobs that have been.
    pub(crate) fn follow(
        &mut self,
        engine: &Engine,
        interfaces: impl FnOnce() -> Vec<(u32, String)>,
    ) -> u64 {
        let epoch = engine.epoch();
        if self.told.replace(epoch) != Some(epoch) {
            self.given += 1;
            // A maker that has ended has said why.
            let _ = self.jobs.send(Job::new(engine, interfaces(), self.given));
        }
        self.given
    }
}

/// Why the kernel does not take a program, of which its verifier has `said` something.
pub(crate) fn objected(what: &str, said: &str, e: &io::Error) -> anyhow::Error {
    match said.lines().last() {
        Some(last) => refused(&format!("{what} ({last})"), e),
        None => refused(what, e),
    }
}

/// An error of the operating system in few words.
pub(crate) fn refused(what: &str, e: &io::Error) -> anyhow::Error {
    match e.raw_os_error() {
        Some(libc_errno::EPERM) => anyhow!("{what}: only root may"),
        _ => anyhow!("{what}: {e}"),
    }
}

mod libc_errno {
    pub(super) const EPERM: i32 = 1;
}
