//! Playing a scenario, step by step.

use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::filter::Filter;
use crate::host::Host;
use crate::outcome::Outcome;
use crate::report::Event;
use crate::rules::{self, Rules};
use crate::scenario::{Count, Scenario, Server, Step};
use crate::shell::{self, Run};
use crate::tap::Tap;
use crate::topology::{Hosts, Topology};
use crate::{Options, Who, firewall, programs, world};

/// Seconds a command may take.
const LIMIT: u64 = 20;
/// The wires are silent when nothing was seen for this long.
const QUIET: Duration = Duration::from_millis(80);
/// Without the rights to load programs Tidegate leaves local senders in silence about what
/// OUTPUT drops.
fn told_or_not(expected: &str, who: Who) -> &str {
    match expected {
        "EPERM" if who == Who::Tidegate && !may_tell() => "EPERM or times out",
        other => other,
    }
}

/// Root of the machine, not of a user namespace, and a cgroup of version 2 to attach to.
fn may_tell() -> bool {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let users = read("/proc/self/uid_map");
    users.split_whitespace().eq(["0", "0", "4294967295"])
        && read("/proc/self/mountinfo").contains(" - cgroup2 ")
}

/// How long to wait for silence: someone may send again and again.
const NOISY: Duration = Duration::from_millis(700);
/// How often to look at counters that do not agree: packets may be on their way.
const TRIES: usize = 4;

/// A lab that is up.
pub(crate) struct Lab {
    pub(crate) topology: Topology,
    pub(crate) hosts: Hosts,
    pub(crate) who: Who,
    servers: Vec<Child>,
    tap: Tap,
    /// Packets before this one came before the counters were zeroed.
    mark: usize,
}

impl Lab {
    /// Makes the network, its programs and its firewall.
    ///
    /// # Errors
    /// Something of it cannot be had.
    pub(crate) fn new(topology: &str, servers: &[Server], options: &Options) -> Result<Self> {
        let topology = Topology::named(topology)?;
        programs::install(options.programs)?;
        let hosts = topology.build()?;
        let names = Path::new(world::HOME).join("hosts");
        std::fs::write(&names, topology.names())?;
        world::cover(&names, "/etc/hosts");
        let tap = Tap::start(&hosts, &topology)?;
        firewall::start(options.firewall, hosts.host(&topology.firewall)?)?;
        let mut lab = Lab {
            topology,
            hosts,
            who: options.firewall,
            servers: Vec::new(),
            tap,
            mark: 0,
        };
        for server in servers {
            lab.serve(server)?;
        }
        Ok(lab)
    }

    /// The guarded host.
    pub(crate) fn guarded(&self) -> Result<&Host> {
        self.hosts.host(&self.topology.firewall)
    }

    fn serve(&mut self, server: &Server) -> Result<()> {
        let host = self.hosts.host(&server.on)?;
        let mut child = shell::start(host, &format!("exec {}", server.run))?;
        let end = Instant::now() + Duration::from_secs(30);
        while !listens(host, &server.port)? {
            let gone = child.try_wait()?.is_some();
            if gone || Instant::now() > end {
                let log = std::fs::read_to_string("/run/lab/servers.log").unwrap_or_default();
                bail!(
                    "{} does not listen on {}: {}",
                    server.run,
                    server.port,
                    log.trim()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.servers.push(child);
        Ok(())
    }

    fn play(&mut self, step: &Step, tell: &mut dyn FnMut(Event)) -> Result<()> {
        tell(Event::Step {
            say: step.say.clone(),
        });
        let on = if step.on.is_empty() {
            self.topology.firewall.clone()
        } else {
            step.on.clone()
        };
        let limit = Duration::from_secs(step.limit.unwrap_or(LIMIT));
        let asides = step
            .meanwhile
            .iter()
            .map(|aside| shell::begin(self.hosts.host(&aside.on)?, &aside.line, limit))
            .collect::<Result<Vec<_>>>()?;
        for line in step.lines.lines().map(str::trim) {
            if !line.is_empty() && !line.starts_with('#') {
                let run = shell::run(self.hosts.host(&on)?, line, limit)?;
                if line.contains("tables ") && line.contains(" -Z") {
                    self.tap.settle(QUIET, NOISY);
                    self.mark = self.tap.mark();
                }
                let expected = step.expect.as_ref().map_or("works", |e| e.of(self.who));
                let expected = told_or_not(expected, self.who);
                let wanted = step.prints.as_ref().map(|all| all.of(self.who).as_slice());
                tell(self.judge(&on, line, &run, expected, wanted.unwrap_or_default()));
            }
        }
        for (aside, running) in step.meanwhile.iter().zip(asides) {
            let run = running.end()?;
            tell(self.judge(&aside.on, &aside.line, &run, &aside.expect, &[]));
        }
        if self.who == Who::None {
            return Ok(());
        }
        if !step.counters.is_empty() {
            self.counters(step, tell)?;
        }
        self.connections(step, tell)
    }

    /// Compares what came of a command with what should have.
    fn judge(&self, on: &str, line: &str, run: &Run, expected: &str, wanted: &[String]) -> Event {
        let printed = format!("{}{}", run.out, run.err);
        let outcome = Outcome::of(run.status, &printed);
        let has = |words: &String| printed.lines().any(|l| rules::has_words(l, words));
        let missing = wanted.iter().find(|words| !has(words));
        let judged = self.who != Who::None;
        let good = !judged || (outcome.is(expected) && missing.is_none());
        let mut shown = if good { String::new() } else { printed.clone() };
        if let Some(missing) = missing.filter(|_| !good) {
            shown = format!("not printed: {missing}\n{shown}");
        }
        Event::Command {
            host: on.to_owned(),
            line: line.to_owned(),
            outcome: outcome.to_string(),
            expected: expected.to_owned(),
            printed: shown,
            took: run.took.as_secs_f64(),
            good,
        }
    }

    fn counters(&self, step: &Step, tell: &mut dyn FnMut(Event)) -> Result<()> {
        let mut events = Vec::new();
        for _ in 0..TRIES {
            self.tap.settle(QUIET, NOISY);
            let rules = Rules::of(self.guarded()?)?;
            events = step
                .counters
                .iter()
                .map(|(place, count)| self.counter(&rules, place, count))
                .collect::<Result<Vec<_>>>()?;
            if events.iter().all(|e| e.good() == Some(true)) {
                break;
            }
        }
        events.into_iter().for_each(tell);
        Ok(())
    }

    fn counter(&self, rules: &Rules, place: &str, count: &Count) -> Result<Event> {
        let rule = rules.at(place)?;
        let (expected, good) = match count {
            Count::Exactly(n) => (format!("{n} packets"), rule.packets == *n),
            Count::Selected(text) if text == "some" => {
                ("one packet or more".to_owned(), rule.packets > 0)
            }
            Count::Selected(text) => {
                let packets = self.tap.since(self.mark);
                let (packets, bytes) = Filter::parse(text)?.count(&packets);
                (
                    format!("{packets} packets, {bytes} bytes by the capture ({text})"),
                    (rule.packets, rule.bytes) == (packets, bytes) && self.tap.whole(),
                )
            }
        };
        Ok(Event::Counter {
            rule: place.to_owned(),
            text: rule.text.clone(),
            packets: rule.packets,
            bytes: rule.bytes,
            expected,
            good,
        })
    }

    fn connections(&self, step: &Step, tell: &mut dyn FnMut(Event)) -> Result<()> {
        let wanted = step.connections.iter().map(|pattern| (pattern, true));
        let unwanted = step.no_connections.iter().map(|pattern| (pattern, false));
        let patterns: Vec<_> = wanted.chain(unwanted).collect();
        if patterns.is_empty() {
            return Ok(());
        }
        self.tap.settle(QUIET, NOISY);
        let lines = rules::connections(self.guarded()?)?;
        for (pattern, wanted) in patterns {
            let found = lines.iter().any(|l| rules::has_words(l, pattern));
            tell(Event::Connection {
                pattern: pattern.clone(),
                wanted,
                good: found == wanted,
            });
        }
        Ok(())
    }

    fn state(&self, step: usize, incomparable: bool) -> Result<Event> {
        if self.who == Who::None {
            return Ok(Event::State {
                step,
                incomparable,
                rules: Vec::new(),
                connections: Vec::new(),
            });
        }
        // Ends of connections may be on their way.
        self.tap.settle(QUIET, NOISY);
        let host = self.guarded()?;
        Ok(Event::State {
            step,
            incomparable,
            rules: Rules::of(host)?.counted,
            connections: rules::connections(host)?,
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(host) = self.hosts.host(&self.topology.firewall) {
            firewall::stop(self.who, host);
        }
        for child in &mut self.servers {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Plays a scenario and tells what happens.
pub(crate) fn play(name: &str, options: &Options, tell: &mut dyn FnMut(Event)) {
    let mut capture = None;
    let error = try_play(name, options, &mut capture, tell).err();
    tell(Event::End {
        capture,
        error: error.map(|e| format!("{e:#}")),
    });
}

fn try_play(
    name: &str,
    options: &Options,
    capture: &mut Option<String>,
    tell: &mut dyn FnMut(Event),
) -> Result<()> {
    let scenario = Scenario::named(name)?;
    let mut lab = Lab::new(&scenario.topology, &scenario.servers, options)?;
    tell(Event::Begin {
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        network: lab.topology.about.clone(),
        firewall: lab.who,
    });
    let mut outcome = Ok(());
    for (number, step) in scenario.steps.iter().enumerate() {
        if step.only.is_none_or(|only| only == lab.who) {
            outcome = lab.play(step, tell);
            match lab.state(number, step.incomparable) {
                Ok(state) => tell(state),
                // Perhaps nobody is in charge now.
                Err(_) if step.incomparable => {}
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        if outcome.is_err() {
            break;
        }
    }
    if let Some(dir) = &options.capture {
        *capture = Some(keep(&lab, &scenario.name, dir)?);
    }
    outcome
}

/// Keeps what `tidegate replay` needs to decide the packets once more: the capture, the
/// guarded host's description, its rules. Returns the files' name without extension.
fn keep(lab: &Lab, name: &str, dir: &Path) -> Result<String> {
    let stem = dir
        .join(format!("{name}-{}", lab.who))
        .display()
        .to_string();
    lab.tap
        .write(Path::new(&format!("{stem}.pcapng")), &lab.topology)?;
    let host = lab.guarded()?;
    let limit = Duration::from_secs(LIMIT);
    shell::run(host, &format!("tidegate host --out '{stem}.toml'"), limit)?;
    for (save, extension) in [("iptables-save", "rules"), ("ip6tables-save", "rules6")] {
        let file = format!("{stem}.{extension}");
        if lab.who == Who::None {
            // No firewall is one without rules.
            std::fs::write(&file, "")?;
        } else {
            shell::run(host, &format!("{save} >'{file}'"), limit)?;
        }
    }
    Ok(stem)
}

/// Whether something in `host` listens on `port`, which is written `22/tcp`, or is the path
/// of a socket.
fn listens(host: &Host, port: &str) -> Result<bool> {
    if port.starts_with('/') {
        return Ok(Path::new(port).exists());
    }
    let (number, proto) = port.split_once('/').context("a port is written 22/tcp")?;
    let number: u16 = number.parse()?;
    // TCP_LISTEN, and TCP_CLOSE as UDP has it (net/tcp_states.h).
    let state = if proto == "tcp" { "0A" } else { "07" };
    let tables = host.inside(|| {
        let read = |name: String| std::fs::read_to_string(name).unwrap_or_default();
        Ok(read(format!("/proc/thread-self/net/{proto}"))
            + &read(format!("/proc/thread-self/net/{proto}6")))
    })?;
    Ok(tables.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let local = words.next().and_then(|w| w.rsplit_once(':'));
        let found = local.and_then(|(_, p)| u16::from_str_radix(p, 16).ok());
        found == Some(number) && words.nth(1) == Some(state)
    }))
}
