//! Commands on a table while packets of its connections pass.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver as Jobs, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use tidegate_syntax::Failure;
use tidegate_tools::conntrack::{Feed, Hub, TrackerWork};
use tidegate_tools::sysctl::TableSettings;
use tidegate_tools::views::{self, View};
use tidegate_tools::{HostNames, Sink, Store, Tool, Tracker, Work, modules, sysctl};
use tidegate_wire::Family;

use crate::stopwatch::{Calls, heads, row};
use crate::traffic::{HANDSHAKE, Traffic};
use crate::{CONNECTIONS, Receiver, hundred_rules};

/// Packets between two looks for work, and how long work may take then: as in the
/// userspace datapath.
const BATCH: usize = 256;
const TURN: Duration = Duration::from_micros(500);

/// What the thread with the packets counts.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    packets: u64,
    jobs: Calls,
}

/// A thread that packets pass through.
struct Plane {
    jobs: Mutex<Sender<TrackerWork>>,
    hub: Arc<Hub>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Plane {
    fn start(receiver: Receiver, traffic: Traffic) -> (Self, JoinHandle<Result<()>>) {
        let (jobs, taken) = channel();
        let plane = Plane {
            jobs: Mutex::new(jobs),
            hub: Arc::default(),
            seen: Arc::default(),
            stop: Arc::default(),
        };
        let (hub, seen, stop) = (plane.hub.clone(), plane.seen.clone(), plane.stop.clone());
        let thread =
            std::thread::spawn(move || pass(receiver, &traffic, &taken, &hub, &seen, &stop));
        (plane, thread)
    }

    fn seen(&self) -> Seen {
        self.seen.lock().map_or_else(|e| *e.into_inner(), |s| *s)
    }

    /// Carries out a command and prints what it did to the packets.
    fn measure(&self, name: &str, command: impl FnOnce(&Plane) -> Result<()>) -> Result<()> {
        if let Ok(mut seen) = self.seen.lock() {
            *seen = Seen::default();
        }
        let start = Instant::now();
        command(self)?;
        let took = start.elapsed();
        let seen = self.seen();
        let rate = seen.packets as f64 / took.as_secs_f64() / 1e6;
        let text = format!("{name}: {:.3} s, {rate:.2} M pkt/s", took.as_secs_f64());
        row(&text, &seen.jobs);
        Ok(())
    }
}

/// Established packets in turn; work in between.
fn pass(
    mut receiver: Receiver,
    traffic: &Traffic,
    jobs: &Jobs<TrackerWork>,
    hub: &Hub,
    seen: &Mutex<Seen>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut packets = traffic.packets(CONNECTIONS * HANDSHAKE);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let packet = match packets.next() {
                Some(packet) => packet,
                None => {
                    packets = traffic.packets(CONNECTIONS * HANDSHAKE);
                    continue;
                }
            };
            receiver.one(packet, 1_000)?;
        }
        let now = receiver.now;
        let turn = Instant::now();
        let mut calls = Calls::default();
        if receiver.engine.poll_timeout().is_some_and(|t| t <= now) {
            receiver.engine.handle_timeout(now);
        }
        while turn.elapsed() < TURN {
            let Ok(job) = jobs.try_recv() else { break };
            let ct = receiver.engine.conntrack_mut();
            calls.time(|| job(ct, now));
        }
        hub.publish(receiver.engine.conntrack_mut());
        let mut seen = seen.lock().map_err(|_| anyhow!("lost"))?;
        seen.packets += BATCH as u64;
        seen.jobs.add(&calls);
    }
    Ok(())
}

impl Tracker for Plane {
    fn submit(&self, work: TrackerWork) -> Result<(), Failure> {
        let gone = || Failure::Plain("the thread has ended".to_owned());
        let jobs = self.jobs.lock().map_err(|_| gone())?;
        jobs.send(work).map_err(|_| gone())
    }

    fn subscribe(&self) -> Result<Feed, Failure> {
        Ok(self.hub.subscribe())
    }
}

impl Store for Plane {
    fn with(&self, _: Family, _: bool, _: &mut Work<'_>) -> Result<(), Failure> {
        Ok(())
    }

    fn tracker(&self) -> Option<&dyn Tracker> {
        Some(self)
    }
}

/// Counts what is printed.
#[derive(Default)]
struct Counter {
    lines: usize,
    err: String,
}

impl Sink for Counter {
    fn out(&mut self, text: &str) -> io::Result<()> {
        self.lines += text.bytes().filter(|&b| b == b'\n').count();
        Ok(())
    }

    fn err(&mut self, text: &str) -> io::Result<()> {
        self.err += text;
        Ok(())
    }

    fn stopped(&self) -> bool {
        false
    }
}

/// A command of conntrack that must print so many lines.
fn conntrack(plane: &Plane, line: &str, lines: usize) -> Result<()> {
    let words: Vec<&str> = line.split(' ').collect();
    let tool = Tool::from_name("conntrack".as_ref()).ok_or_else(|| anyhow!("no tool"))?;
    let mut counter = Counter::default();
    let status = tool.run_to(&words, "", plane, &HostNames::default(), &mut counter);
    let Counter {
        lines: printed,
        err,
    } = counter;
    ensure!(
        status == 0 && printed == lines,
        "{line}: {printed} lines, {err}"
    );
    Ok(())
}

/// Measures.
///
/// # Errors
/// A command does not do what it should.
pub(crate) fn run(traffic: Traffic) -> Result<()> {
    let mut receiver = Receiver::new(&hundred_rules()?);
    receiver.establish(&traffic)?;
    let (plane, thread) = Plane::start(receiver, traffic);
    heads("Commands while packets pass: what one piece of their work costs");
    let one = "-p tcp -s 10.0.0.2 -d 10.9.0.1 --sport 40001 --dport 443";
    plane.measure("nothing", |_| {
        std::thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    plane.measure("conntrack -L", |p| conntrack(p, "-L", CONNECTIONS))?;
    plane.measure("conntrack -L -o xml", |p| {
        conntrack(p, "-L -o xml", CONNECTIONS + 3)
    })?;
    plane.measure("ct list --json", |p| {
        let mut counter = Counter::default();
        let words = ["list", "--json"];
        let local: views::IsLocal = Arc::new(|_, _| false);
        let status = views::run(View::Connections, &words, p, &local, &mut counter);
        ensure!(
            status == 0 && counter.lines > CONNECTIONS,
            "{}",
            counter.err
        );
        Ok(())
    })?;
    plane.measure("conntrack -C", |p| conntrack(p, "-C", 1))?;
    plane.measure("conntrack -S", |p| conntrack(p, "-S", 1))?;
    plane.measure("conntrack -G, one", |p| {
        conntrack(p, &format!("-G {one}"), 1)
    })?;
    plane.measure("conntrack -D, one", |p| {
        conntrack(p, &format!("-D {one}"), 1)
    })?;
    plane.measure("conntrack -I, one", |p| {
        conntrack(
            p,
            // Not the one that was deleted, whose packets may have brought it back.
            "-I -p tcp -s 10.0.0.2 -d 10.9.0.1 --sport 40001 --dport 444 --state ESTABLISHED -u ASSURED -t 432000",
            0,
        )
    })?;
    plane.measure("conntrack -U -m 5, all", |p| {
        conntrack(p, "-U -m 5", CONNECTIONS)
    })?;
    plane.measure("modprobe and modprobe -r", |p| {
        for words in [&["nf_conntrack_ftp"][..], &["-r", "nf_conntrack_ftp"]] {
            let printed = modules::modprobe(p, words, &|_| 0);
            ensure!(printed.status == 0, "{}", printed.err);
        }
        Ok(())
    })?;
    plane.measure("sysctl nf_conntrack_buckets=2000000", |p| {
        let words = ["net.netfilter.nf_conntrack_buckets=2000000"];
        let printed = sysctl::run(&words, "", &TableSettings(p));
        ensure!(printed.status == 0, "{}", printed.err);
        Ok(())
    })?;
    plane.measure("conntrack -F", |p| conntrack(p, "-F", 0))?;
    plane.stop.store(true, Ordering::Relaxed);
    thread.join().map_err(|_| anyhow!("the thread failed"))?
}
