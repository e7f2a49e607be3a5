//! Makes programs from rules, away from packets.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::Receiver;

use anyhow::{Context, Result, bail};
use aya::EbpfLoader;
use tidegate_ebpf::Map;
use tidegate_ebpf::fast::Front;
use tidegate_ebpf::stop::{
    COUNTS, EARLY_STOPS, LIMITS, MEMBERS, MOST_ADDRESSES, MOST_SLOTS, Made, Making, Member, STOPS,
    Side, program,
};
use tidegate_engine::env::Env;
use tidegate_engine::{Engine, Settled, interface_number};
use tidegate_sys::{FrontKind, FrontProgram};
use tidegate_wire::Family;

use super::{Counts, Ready};
use crate::fast::{map, shared};
use crate::known::descriptor;
use crate::sender::objected;
use crate::wires::Wires;
use crate::worker::Command;

/// Most instructions of a program, and of a packet's way through a hook.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) most: usize,
    pub(super) longest: usize,
}

/// What to try; rules beyond are not looked at. The first has room for 30,000 rules of IPv4, 10,000 of
/// IPv6; the verifier, which looks at a million instructions and no more, takes a second for it.
pub(super) const SIZES: [Size; 5] = [
    Size::new(600_000, 4800),
    Size::new(150_000, 4800),
    // Longer jumps want Linux 6.6.
    Size::new(30_000, 4800),
    Size::new(4800, 1200),
    Size::new(1200, 300),
];

impl Size {
    pub(super) const fn new(most: usize, longest: usize) -> Self {
        Size { most, longest }
    }
}

/// The verifier is asked about programs of up to so many instructions.
const MOST_SAID: usize = 10_000;
/// Bytes that the kernel takes for an instruction while it verifies a program.
const VERIFYING: usize = 600;
/// It may take a quarter of the memory there is for that.
const MEMORY_PARTS: usize = 4;
/// Most bytes of counts.
const MOST_COUNTS: usize = 64 << 20;

/// A host with more interfaces has no programs.
const MOST_INTERFACES: usize = 64;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A table and its name.
pub(super) type Table = (&'static str, OwnedFd);

fn find<'t>(all: &'t [Table], name: &str) -> Option<&'t OwnedFd> {
    all.iter().find(|t| t.0 == name).map(|t| &t.1)
}

/// What programs are linked with.
pub(super) struct Tables {
    pub(super) fds: Vec<Table>,
    /// There is a program for XDP too.
    pub(super) early: bool,
}

/// One family of a job.
struct Packets {
    rules: Settled,
    tracked: bool,
    translated: bool,
    own: Vec<u128>,
}

impl Packets {
    fn side(&self) -> Side<'_> {
        Side {
            rules: self.rules.rules(),
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
            rules: engine.settled(family),
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
            counts: tables.put(&job).map_err(|e| format!("{e:#}")),
        };
        if wires.tell(Command::Stops(ready)).is_err() {
            return;
        }
    }
}

impl Tables {
    /// Makes the programs for a job and puts them in their places; what they count.
    fn put(&self, job: &Job) -> Result<Counts> {
        if job.interfaces.len() > MOST_INTERFACES {
            bail!("there are more than {MOST_INTERFACES} interfaces");
        }
        if job.sides.iter().any(|s| s.own.len() > MOST_ADDRESSES) {
            bail!(
                "this host has more than {MOST_ADDRESSES} addresses, those of its networks and \
                 broadcasts among them"
            );
        }
        let slots = MOST_COUNTS / (Counts::BYTES * processors()?);
        let slots = slots.min(MOST_SLOTS);
        let [sizes @ .., last] = SIZES;
        let memory = available_memory() / MEMORY_PARTS;
        let fits = |size: &Size| size.most * VERIFYING <= memory;
        let sizes = sizes.into_iter().filter(fits);
        let tried = sizes.map(|size| self.try_put(job, size, slots));
        match tried.flatten().next() {
            Some(counts) => Ok(counts),
            None => self.try_put(job, last, slots),
        }
    }

    fn try_put(&self, job: &Job, size: Size, slots: usize) -> Result<Counts> {
        let made = self.make(job, Front::Tcx, size, slots);
        // The same walk: the same slots, and members in the same order.
        let early = self.early.then(|| self.make(job, Front::Xdp, size, slots));
        let members = early.iter().chain([&made]).map(|m| &m.members[..]);
        let members = members.max_by_key(|m| m.len()).unwrap_or_default();
        let (own, counts) = own_tables(&made, members)?;
        self.place(&made, &own, FrontKind::Classifier, STOPS.name)?;
        if let Some(early) = &early {
            self.place(early, &own, FrontKind::Xdp, EARLY_STOPS.name)?;
        }
        Ok(counts)
    }

    pub(super) fn make(&self, job: &Job, front: Front, size: Size, slots: usize) -> Made {
        let making = Making {
            sides: job.sides.each_ref().map(Packets::side),
            interfaces: &job.interfaces,
            epoch: job.epoch,
            most: size.most,
            longest: size.longest,
            slots,
        };
        program(&making, front)
    }

    /// Loads a program that has tables of its `own`.
    fn load(&self, made: &Made, own: &[Table], kind: FrontKind) -> Result<FrontProgram> {
        let find = |map: &Map| find(own, map.name).or_else(|| find(&self.fds, map.name));
        let find = |map: &Map| find(map).map(AsRawFd::as_raw_fd);
        let code = made.code.clone().link(find).context("a table is missing")?;
        FrontProgram::load(kind, &code).map_err(|e| {
            // What it says of long ones is long, and takes it long.
            let said = match code.len() / 8 > MOST_SAID {
                true => String::new(),
                false => FrontProgram::objection(kind, &code),
            };
            objected("a program for floods", &said, &e)
        })
    }

    pub(super) fn place(
        &self,
        made: &Made,
        own: &[Table],
        kind: FrontKind,
        table: &str,
    ) -> Result<()> {
        let program = self.load(made, own, kind)?;
        let table = find(&self.fds, table).context("a table is missing")?;
        Ok(program.put(table.as_fd())?)
    }
}

/// Bytes; as many as can be where that is not told.
fn available_memory() -> usize {
    let all = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = all.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.map_or(usize::MAX, |k| k.saturating_mul(1024))
}

fn processors() -> Result<usize> {
    aya::util::nr_cpus().map_err(|(_, e)| e.into())
}

/// The tables that are a program's own, one of them with `members`, and what it counts in another.
pub(super) fn own_tables(made: &Made, members: &[Member]) -> Result<(Vec<Table>, Counts)> {
    let (slots, processors) = (made.slots.len(), processors()?);
    let table = table(&COUNTS, LIMITS + slots * processors)?;
    let mut own = vec![(COUNTS.name, descriptor(&table)?)];
    let counts = Counts::new(table, made, processors)?;
    if !members.is_empty() {
        own.push((MEMBERS.name, table_of(members)?));
    }
    Ok((own, counts))
}

/// A table with what a program searches.
fn table_of(members: &[Member]) -> Result<OwnedFd> {
    let table = table(&MEMBERS, members.len())?;
    let fd = descriptor(&table)?;
    let all = members.as_flattened();
    let words = shared(table, all.len())?;
    for (at, word) in all.iter().enumerate() {
        words.store(at, *word);
    }
    Ok(fd)
}

fn table(definition: &'static Map, entries: usize) -> Result<aya::maps::Map> {
    let object = tidegate_ebpf::object(Vec::new(), &[definition]).context("a table")?;
    let entries = u32::try_from(entries).context("a table is too large")?;
    let mut loaded = EbpfLoader::new()
        .map_max_entries(definition.name, entries)
        .load(&object)
        .with_context(|| format!("the kernel does not take the table \"{}\"", definition.name))?;
    map(&mut loaded, definition.name)
}
