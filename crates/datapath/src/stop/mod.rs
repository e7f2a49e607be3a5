//! Floods end in the kernel: packets of no known connection that the rules drop are dropped
//! by programs (`tidegate_ebpf::stop`), and counted for the same rules.
//!
//! Nothing of it exists until the engine has dropped a packet. Then [`maker`], a thread,
//! makes the programs of the rules in force, and the loop tells them where the packet's
//! destination leads. They work as long as the number of the rules in force, which this
//! process writes, is theirs.

mod maker;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::EbpfLoader;
use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use rustix::time::{ClockId, clock_gettime};
use tidegate_ebpf::layout::global;
use tidegate_ebpf::stop::{
    self, COUNT_WORDS, LIMITS, Limit, Made, Slot, TARGET, TARGET_KEY, TARGETS, TRAIL, target_key,
};
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{DropKind, Engine, Stopped, Stopper, Towards};
use tidegate_sys::{Clock, SharedWords};
use tidegate_wire::Family;

use crate::fast::{Shared, map, shared};
use crate::known::{Known, descriptor};
use crate::wires::Wires;
use maker::{Job, Tables};

/// Most destinations that are told within [`TOLD_FOR`].
const MOST_TOLD: usize = 4096;
/// How long one that has been told is not told again.
const TOLD_FOR: Time = SECOND;
/// Programs are asked for no more often: what changes all the time, such as a set that somebody
/// fills, is not read anew each time.
const BETWEEN: Time = SECOND / 10;
/// Nor does reading large sets take more than one in so many parts of the loop's time.
const PART: u32 = 10;
/// Words of [`TRAIL`].
const TRAIL_WORDS: usize = stop::trail::LEN as usize / 8;
/// How long programs are waited for that are about to count.
const PATIENCE: Duration = Duration::from_millis(100);

/// Programs are in place.
#[derive(Debug)]
pub(crate) struct Ready {
    /// The epoch of their rules, as programs have it.
    epoch: u64,
    /// What they count, or why there are none.
    counts: Result<Counts, String>,
}

/// The loop's part.
pub(crate) struct Stops {
    book: Arc<Mutex<Book>>,
    targets: HashMap<MapData, [u8; TARGET_KEY], [u8; TARGET]>,
    jobs: Sender<Job>,
    /// The epoch for which programs have been asked for.
    asked: u64,
    asked_at: Time,
    /// How long programs are not asked for then.
    pause: Time,
    told: Told,
    failed: Option<String>,
    clock: Clock,
}

/// What programs have been told lately.
#[derive(Debug, Default)]
struct Told {
    /// Destinations by the epoch that was told of them.
    all: HashSet<(u64, [u8; TARGET_KEY])>,
    since: Time,
}

impl Told {
    /// Whether a destination is to be told now: a flood over many of them costs no more than
    /// [`MOST_TOLD`] in each [`TOLD_FOR`], whatever becomes of the rules meanwhile.
    fn is_due(&mut self, epoch: u64, key: [u8; TARGET_KEY], now: Time) -> bool {
        if now.saturating_sub(self.since) > TOLD_FOR {
            self.all.clear();
            self.since = now;
        }
        self.all.len() < MOST_TOLD && self.all.insert((epoch, key))
    }
}

/// What has been counted, and told.
struct Book {
    globals: Arc<SharedWords>,
    trail: PerCpuArray<MapData, [u64; TRAIL_WORDS]>,
    /// The epoch of `counts`; 0: there are none.
    epoch: u64,
    counts: Option<Counts>,
}

/// What a program counts.
#[derive(Debug)]
struct Counts {
    words: SharedWords,
    processors: usize,
    slots: Vec<Slot>,
    limits: Vec<Limit>,
    /// Packets and bytes that the engine knows of, for each slot.
    told: Vec<[u64; 2]>,
}

impl Counts {
    /// Bytes of a slot for each processor.
    const BYTES: usize = 8 * COUNT_WORDS;

    /// Of a new table.
    fn new(table: Map, made: &Made, processors: usize) -> Result<Self> {
        let slots = made.slots.clone();
        let entries = LIMITS + slots.len() * processors;
        Ok(Counts {
            limits: made.limits.clone(),
            words: shared(table, COUNT_WORDS * entries)?,
            processors,
            told: vec![[0, 0]; slots.len()],
            slots,
        })
    }

    fn count(&self, slot: usize) -> [u64; 2] {
        let slots = self.slots.len();
        let entry = |cpu: usize| COUNT_WORDS * (LIMITS + cpu * slots + slot);
        let entries = (0..self.processors).map(entry);
        entries.fold([0, 0], |[packets, bytes], at| {
            let word = |at| self.words.load(at);
            [packets + word(at), bytes + word(at + 1)]
        })
    }

    /// Programs know until when limits match no packet.
    fn follow(&self, engine: &Engine, clock: Clock) {
        for limit in &self.limits {
            let until = engine.quiet_until(limit.family, limit.step);
            let boot = until.saturating_sub(clock.at(0));
            self.words.store(COUNT_WORDS * limit.number, boot);
        }
    }

    /// What has been counted since the last time.
    fn take(&mut self) -> Vec<Stopped> {
        let mut stopped = Vec::new();
        for at in 0..self.slots.len() {
            let now = self.count(at);
            let before = std::mem::replace(&mut self.told[at], now);
            let slot = &self.slots[at];
            let packets = now[0].wrapping_sub(before[0]);
            if packets > 0 {
                stopped.push(Stopped {
                    family: slot.family,
                    rule: slot.rule,
                    kind: slot.end.map(|end| match end {
                        stop::End::Rule => DropKind::Rule,
                        stop::End::Policy => DropKind::Policy,
                    }),
                    packets,
                    bytes: now[1].wrapping_sub(before[1]),
                });
            }
        }
        stopped
    }
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book")
            .field("epoch", &self.epoch)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

/// The engine's part.
#[derive(Debug)]
struct Counting(Arc<Mutex<Book>>);

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time that this thread has had on a processor.
fn own_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime)
        .try_into()
        .unwrap_or_default()
}

/// How long programs are not asked for after reading what they are made from took so long.
fn pause_after(took: Duration) -> Time {
    let pause = Time::try_from((took * PART).as_nanos());
    pause.unwrap_or(Time::MAX).max(BETWEEN)
}

/// The number of what programs are made from.
fn epoch_of(engine: &Engine) -> u64 {
    engine.basis()
}

impl Book {
    fn is_at_work(&self) -> bool {
        self.globals.load(global::STOP) != 0
    }

    fn set(&self, epoch: u64) {
        self.globals.store(global::STOP, epoch);
    }

    /// No program works any more, and all that did have counted.
    fn end(&self) {
        self.set(0);
        fence(Ordering::SeqCst);
        let until = Instant::now() + PATIENCE;
        let inside = || {
            let all = self.trail.get(&0, 0);
            all.is_ok_and(|cpus| cpus.iter().any(|cpu| cpu[0] != 0))
        };
        while inside() && Instant::now() < until {
            std::thread::yield_now();
        }
        // Counts are not read before.
        fence(Ordering::SeqCst);
    }

    fn begin(&mut self, epoch: u64, counts: Counts) {
        self.counts = Some(counts);
        self.epoch = epoch;
    }
}

impl Stopper for Counting {
    fn stopped(&mut self, end: bool) -> Vec<Stopped> {
        let mut book = lock(&self.0);
        if end && book.epoch != 0 {
            book.end();
        }
        book.counts.as_mut().map_or_else(Vec::new, Counts::take)
    }
}

/// Makes the tables and starts a maker.
///
/// # Errors
/// The kernel is too old, or a right is missing.
pub(crate) fn start(
    engine: &mut Engine,
    shared: Shared,
    known: &Known,
    (wires, clock): (Wires, Clock),
) -> Result<Stops> {
    let (stops, tables, jobs) = prepare(engine, shared, known, clock)?;
    maker::start(tables, jobs, wires)?;
    Ok(stops)
}

/// The loop's part, and what a maker needs.
fn prepare(
    engine: &mut Engine,
    shared: Shared,
    known: &Known,
    clock: Clock,
) -> Result<(Stops, Tables, Receiver<Job>)> {
    let trail = shared.tables.iter().find(|t| t.0 == TRAIL.name);
    let trail = trail.context("a table is missing")?.1.try_clone()?;
    let trail = MapData::from_fd(trail)?;
    let object = tidegate_ebpf::object(Vec::new(), &[&TARGETS]);
    let mut loaded = EbpfLoader::new()
        .load(&object.context("tables for floods")?)
        .context("the kernel does not take the tables for floods")?;
    let mut fds = shared.tables;
    fds.push((
        tidegate_ebpf::sender::KNOWN.name,
        known.table.try_clone().context("a table")?,
    ));
    let targets = map(&mut loaded, TARGETS.name)?;
    fds.push((TARGETS.name, descriptor(&targets)?));
    let book = Arc::new(Mutex::new(Book {
        globals: shared.globals,
        trail: PerCpuArray::try_from(Map::PerCpuArray(trail))?,
        epoch: 0,
        counts: None,
    }));
    let tables = Tables {
        fds,
        early: shared.early,
    };
    engine.set_stopper(Box::new(Counting(Arc::clone(&book))));
    let (jobs, taken) = channel();
    let stops = Stops {
        book,
        targets: HashMap::try_from(targets)?,
        jobs,
        asked: 0,
        asked_at: 0,
        pause: 0,
        told: Told::default(),
        failed: None,
        clock,
    };
    Ok((stops, tables, taken))
}

/// Nobody counts any more what programs drop.
impl Drop for Stops {
    fn drop(&mut self) {
        lock(&self.book).set(0);
    }
}

impl Stops {
    /// The rules have dropped a packet to `dst`, which came by `dev` to the Ethernet address
    /// `own`: others like it can end in the kernel.
    pub(crate) fn offer(
        &mut self,
        engine: &Engine,
        (dev, own): (IfIndex, [u8; 6]),
        (family, dst): (Family, u128),
        now: Time,
    ) {
        let epoch = epoch_of(engine);
        if self.asked != epoch && now.saturating_sub(self.asked_at) >= self.pause {
            (self.asked, self.asked_at) = (epoch, now);
            self.failed = None;
            let begun = own_time();
            // A maker that has ended makes none.
            let _ = self.jobs.send(Job::new(engine, epoch));
            self.pause = pause_after(own_time().saturating_sub(begun));
        }
        let key = target_key(dev.0, family, dst);
        if self.asked != epoch || self.failed.is_some() || !self.told.is_due(epoch, key, now) {
            return;
        }
        let Some(towards) = engine.towards(family, dev, dst) else {
            return;
        };
        let towards = match towards {
            Towards::Here => stop::Towards::Here,
            Towards::Out { dev, mtu } => stop::Towards::Out(dev.0, mtu),
        };
        let value = stop::target(epoch, towards, own);
        // Where that is refused packets go on coming up.
        let _ = self.targets.insert(key, value, 0);
    }

    /// Programs have been made, or could not be.
    pub(crate) fn ready(&mut self, engine: &Engine, ready: Ready) {
        if ready.epoch != epoch_of(engine) {
            return;
        }
        match ready.counts {
            Ok(counts) => lock(&self.book).begin(ready.epoch, counts),
            Err(why) => self.failed = Some(why),
        }
    }

    /// A packet has been decided, and nothing has come of it yet.
    pub(crate) fn decided(&self, engine: &Engine) {
        let book = lock(&self.book);
        if book.is_at_work() && !engine.may_be_stopped() {
            book.set(0);
        }
    }

    /// Everything that has been decided was sent.
    pub(crate) fn follow(&self, engine: &Engine) {
        let book = lock(&self.book);
        let epoch = epoch_of(engine);
        if book.epoch == epoch
            && let Some(counts) = &book.counts
        {
            counts.follow(engine, self.clock);
        }
        if !book.is_at_work() && book.epoch == epoch && engine.may_be_stopped() {
            book.set(epoch);
        }
    }

    /// Why no packets are dropped in the kernel.
    pub(crate) fn note(&self) -> Option<String> {
        let why = self.failed.as_ref()?;
        Some(format!(
            "floods are dropped by the daemon, not in the kernel: {why}"
        ))
    }
}
