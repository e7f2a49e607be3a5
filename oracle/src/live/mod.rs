//! A host's datapath under test: packets are put on the wires of a router in a network
//! namespace of its own, and what comes out of its interfaces and sockets is read there.

mod net;
mod seen;
mod wires;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use tidegate_datapath::{Datapath, Fate, Options, Report, Ring};
use tidegate_engine::conntrack::Time;
use tidegate_engine::env::Env;
use tidegate_engine::{Disposition, Engine, Outcome, Output, Role};
use tidegate_wire::Family;

use crate::described::{describe, hex, is_fragment};
use crate::machine::{Machine, noted};
use crate::rules::Rules;
use crate::world;
use net::Net;
use seen::Seen;
use wires::{Arrived, Wires};

/// How long a packet may be on its way.
const PATIENCE: Duration = Duration::from_secs(10);
/// How old a case may be that rules ask the date in.
const FRESH: Duration = Duration::from_secs(300);
/// Routers kept for further cases; a case's topology is mostly one of a few.
const KEPT: usize = 12;

/// The datapath that is asked for by name.
pub(crate) fn options(name: &str) -> Result<Options> {
    let (fast, ring) = match name {
        "userspace" => (false, Ring::Packet),
        "tcx" => (true, Ring::Packet),
        "xdp" => (true, Ring::Xdp),
        _ => bail!("no datapath {name}: userspace, tcx or xdp"),
    };
    Ok(Options {
        fast,
        ring,
        offloaded: 4096,
        ..Options::default()
    })
}

/// Routers by what they look like.
pub(crate) struct Routers {
    options: Options,
    /// The one used last comes last.
    kept: Vec<(String, Live)>,
    /// Packets that cases had.
    packets: u64,
    /// What became of those of them that programs in the kernel dealt with.
    by_programs: [u64; PROGRAMS.len()],
}

impl Routers {
    pub(crate) fn new(options: Options) -> Self {
        Routers {
            options,
            kept: Vec::new(),
            packets: 0,
            by_programs: [0; PROGRAMS.len()],
        }
    }

    /// How many packets there were, and which of them programs dealt with.
    pub(crate) fn summary(&self) -> String {
        let programs = PROGRAMS.iter().zip(self.by_programs);
        let programs = programs.map(|(fate, count)| format!(" {count} {}", fate.words()));
        let programs: Vec<String> = programs.collect();
        format!("{} packets, of them{}", self.packets, programs.join(","))
    }

    /// Does `work` with a router for the case that remembers nothing of earlier ones.
    pub(crate) fn with<R>(
        &mut self,
        case: &Value,
        work: impl FnOnce(&mut Live) -> Result<R>,
    ) -> Result<R> {
        fit(case)?;
        let key = looks(case);
        let mut live = match self.kept.iter().position(|(k, _)| *k == key) {
            Some(at) => self.kept.remove(at).1,
            None => {
                // The one that has not been used for longest goes.
                self.kept
                    .drain(..(self.kept.len() + 1).saturating_sub(KEPT));
                Live::new(case, &self.options)?
            }
        };
        live.net.meet(case)?;
        live.begin()?;
        let before = live.counts;
        let done = work(&mut live);
        self.packets += live.counts.handled() - before.handled();
        let now = live.counts.by_programs.iter().zip(before.by_programs);
        let new = now.map(|(now, before)| now - before);
        self.by_programs
            .iter_mut()
            .zip(new)
            .for_each(|(all, n)| *all += n);
        if done.is_ok() && !is_changed(case) {
            live.forget()?;
            self.kept.push((key, live));
        }
        done
    }
}

/// What a case's router looks like. Once there is a nat table it stays, as in the kernel.
fn looks(case: &Value) -> String {
    let host = ["interfaces", "routes", "ip", "sysctls", "conntrack"].map(|key| case.get(key));
    let nat = ["rules4", "rules6"].map(|key| case.get(key).is_some_and(has_nat));
    format!("{host:?} {nat:?} {}", net::resolves(case))
}

/// Whether rules, or the words of a command, are about the nat table.
fn has_nat(words: &Value) -> bool {
    let words = words.to_string();
    words.contains("*nat\\n") || words.contains("\"nat\"")
}

/// Whether a case can be put on wires.
fn fit(case: &Value) -> Result<()> {
    for key in ["sockets", "cgroups", "neighs", "nft", "cpu"] {
        ensure!(case.get(key).is_none(), "skipped: a host with {key}");
    }
    let made = case.get("epoch").and_then(Value::as_u64);
    let made = made.map(|at| UNIX_EPOCH + Duration::from_secs(at));
    let fresh = made.is_none_or(|at| at.elapsed().is_ok_and(|age| age < FRESH));
    ensure!(fresh, "skipped: a host with another date");
    for rules in ["rules4", "rules6"] {
        let rules = case.get(rules).and_then(Value::as_str).unwrap_or_default();
        // The oracle's packets come without.
        ensure!(!rules.contains("-m mac "), "skipped: Ethernet addresses");
    }
    let packets = case.get("packets").and_then(Value::as_array);
    for packet in packets.into_iter().flatten() {
        ensure!(
            packet.get("as").is_none(),
            "skipped: senders who are not root"
        );
        let text = |key, at| packet.get(key).or(packet.get(at)).and_then(Value::as_str);
        let (from, hex) = (text("in", 1usize), text("hex", 2usize));
        let fits = from == Some("local") || hex.is_none_or(|hex| hex.len() <= 2 * wires::LONGEST);
        ensure!(fits, "skipped: a packet that is longer than a frame");
    }
    Ok(())
}

/// Whether a case changes the router that it meets.
fn is_changed(case: &Value) -> bool {
    let packets = case.get("packets").and_then(Value::as_array);
    let steps = packets.into_iter().flatten();
    let nat = ["rules4", "rules6"]
        .iter()
        .any(|key| case.get(key).is_some_and(has_nat));
    steps
        .filter(|step| step.get("op").is_some())
        .any(|step| has_nat(step) && !nat || step["op"] == "sysctl")
}

/// Fates of packets that nobody else deals with: forwarded, of this host's sockets, dropped.
const PROGRAMS: [Fate; 5] = [
    Fate::Forwarded,
    Fate::Early,
    Fate::Sent,
    Fate::Passed,
    Fate::Stopped,
];

/// Packets since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Decided by the engine.
    decided: u64,
    by_programs: [u64; PROGRAMS.len()],
    /// That should have come out of interfaces, and into sockets.
    out: u64,
    local: u64,
}

impl Counts {
    fn of(report: &Report, decided: u64) -> Self {
        let fate = |which: Fate| {
            let found = report.fates.iter().find(|(fate, _)| *fate == which);
            found.map_or(0, |(_, count)| *count)
        };
        let by_programs = PROGRAMS.map(fate);
        let [forwarded, early, let_out, let_in, _] = by_programs;
        let traffic = report.interfaces.iter().map(|i| i.traffic);
        Counts {
            decided,
            by_programs,
            out: forwarded + early + let_out + traffic.clone().map(|t| t.sent).sum::<u64>(),
            local: let_in + traffic.map(|t| t.to_sockets).sum::<u64>(),
        }
    }

    fn handled(&self) -> u64 {
        self.decided + self.by_programs.iter().sum::<u64>()
    }
}

/// A guarded router.
pub(crate) struct Live {
    datapath: Datapath,
    wires: Wires,
    seen: Seen,
    env: Arc<Env>,
    counts: Counts,
    // Last: it goes when nobody is in it any more.
    net: Net,
}

impl Live {
    fn new(case: &Value, options: &Options) -> Result<Self> {
        let net = Net::new(case, options.ring == Ring::Xdp)?;
        let config = world::config(case)?;
        let seen = Seen::default();
        let observer = Box::new(seen.clone());
        let datapath = net.run(|| {
            let datapath = Datapath::start(options.clone(), config, observer)?;
            datapath.guard()?;
            Ok(datapath)
        })?;
        let wires = Wires::open(&net)?;
        let report = datapath.report();
        let without = report.notes.iter().find(|note| note.contains("XDP"));
        ensure!(without.is_none(), "{}", without.map_or("", String::as_str));
        let env = datapath.with(|engine, _| Arc::clone(engine.env()))?;
        let counts = Counts::of(&report, 0);
        Ok(Live {
            datapath,
            wires,
            seen,
            env,
            counts,
            net,
        })
    }

    /// What the host itself has sent meanwhile is no matter of the next case.
    fn begin(&mut self) -> Result<()> {
        self.seen.wait()?;
        self.seen.outcomes();
        self.wires.read(&mut Arrived::default())?;
        self.counts = self.counts();
        Ok(())
    }

    /// Forgets rules, connections and fragments.
    fn forget(&mut self) -> Result<()> {
        self.with(|engine, _| {
            // First, for rules that are gone go on as long as connections need them.
            engine.forget();
            for family in [Family::V4, Family::V6] {
                Rules::empty(family).load(engine)?;
            }
            anyhow::Ok(())
        })??;
        self.events()?;
        Ok(())
    }

    fn counts(&self) -> Counts {
        let report = self.datapath.report();
        Counts::of(&report, self.seen.decided())
    }

    /// Waits until `packets` more have met their end, and what came of them has arrived.
    fn settle(&mut self, packets: u64) -> Result<Arrived> {
        let goal = self.counts.handled() + packets;
        let until = Instant::now() + PATIENCE;
        let before = self.counts;
        let mut arrived = Arrived::default();
        loop {
            let counts = self.counts();
            if counts.handled() >= goal {
                self.seen.wait()?;
                let counts = self.counts();
                self.wires.read(&mut arrived)?;
                let (out, local) = (counts.out - before.out, counts.local - before.local);
                if arrived.out.len() as u64 >= out && arrived.local.len() as u64 >= local {
                    self.counts = counts;
                    return Ok(arrived);
                }
            }
            if Instant::now() > until {
                let report = self.datapath.report();
                bail!("where is it? {before:?}, {counts:?}, {arrived:?}, {report:?}");
            }
            std::thread::yield_now();
        }
    }

    /// What became of the packet that was sent last, with the bytes that were seen. What the
    /// engine knows nothing of has `role`.
    fn outcome(&self, mut arrived: Arrived, role: Role) -> Outcome {
        let mut outcomes = self.seen.outcomes().into_iter();
        let mut all = outcomes.next().unwrap_or(Outcome {
            disposition: Disposition::Held,
            outputs: Vec::new(),
            looped: false,
        });
        all.outputs.extend(outcomes.flat_map(|o| o.outputs));
        // What has not arrived was not there.
        all.outputs.retain_mut(|output| match output {
            Output::Transmit { dev, bytes, .. } => arrived.replace_out(*dev, bytes),
            Output::Deliver { dev, bytes, .. } => arrived.replace_local(*dev, bytes),
            Output::Log { .. } | Output::Nflog(_) => true,
        });
        all.outputs.extend(
            arrived
                .out
                .into_iter()
                .map(|(dev, bytes)| Output::Transmit {
                    dev,
                    next_hop: 0,
                    bytes,
                    role,
                    mark: 0,
                    priority: 0,
                    as_sent: false,
                }),
        );
        let local = arrived.local.into_iter();
        all.outputs
            .extend(local.map(|(dev, bytes)| Output::Deliver {
                dev,
                bytes,
                mark: 0,
                given: None,
            }));
        all
    }
}

impl Machine for Live {
    fn with<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Engine, Time) -> R + Send + 'static,
    ) -> Result<R> {
        let seen = self.seen.clone();
        let done = self.datapath.with(move |engine, now| {
            seen.begin();
            work(engine, now)
        })?;
        self.seen.wait()?;
        Ok(done)
    }

    fn packet(&mut self, step: &Value) -> Result<Value> {
        let text = |key| step.get(key).and_then(Value::as_str).context(key);
        let (input, bytes) = (text("in")?, hex(text("hex")?)?);
        let fragment = is_fragment(&bytes);
        let ethertype = step.get("ethertype").and_then(Value::as_u64);
        let mut errno = None;
        let goes = if input == "local" {
            let sent = self.wires.send_local(&bytes);
            errno = sent.err().map(|e| errno_name(&e));
            errno.as_deref().is_none_or(|e| e == "EPERM")
        } else {
            let dev = self.env.interface_named(input).context("interface")?.index;
            self.wires.put(dev, ethertype, bytes)?;
            true
        };
        let arrived = self
            .settle(u64::from(goes))
            .map_err(|e| anyhow!("step {step}: {e:#}"))?;
        let role = if input == "local" {
            Role::Own
        } else {
            Role::Forwarded
        };
        let outcome = self.outcome(arrived, role);
        let mut r = describe(&self.env, input, &outcome, fragment);
        if let Some(object) = r.as_object_mut() {
            object.remove("errno");
        }
        if let Some(errno) = errno {
            r["errno"] = errno.into();
        }
        let events = self.seen.events();
        if !events.is_empty() {
            r["events"] = events.into();
        }
        Ok(r)
    }

    fn events(&mut self) -> Result<Vec<Value>> {
        let mut events = self.seen.events();
        events.extend(self.with(|engine, _| noted(engine))?);
        Ok(events)
    }

    fn sleep(&mut self, milliseconds: u64) -> Result<()> {
        std::thread::sleep(Duration::from_millis(milliseconds));
        Ok(())
    }
}

/// As the oracle names what a socket answers.
fn errno_name(e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::PermissionDenied if e.raw_os_error() == Some(1) => "EPERM".to_owned(),
        ErrorKind::PermissionDenied => "EACCES".to_owned(),
        ErrorKind::NetworkUnreachable => "ENETUNREACH".to_owned(),
        ErrorKind::HostUnreachable => "EHOSTUNREACH".to_owned(),
        ErrorKind::InvalidInput => "EINVAL".to_owned(),
        _ if e.raw_os_error() == Some(90) => "EMSGSIZE".to_owned(),
        _ => e.to_string(),
    }
}
