//! A router between an inside and an outside, flows through it, and who guards it.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tidegate_datapath::{Fate, Options, Ring};
use tidegate_engine::Engine;
use tidegate_sets::{Change, KINDS, Key, Options as SetOptions, Set};
use tidegate_wire::Family;

use crate::frames::{FIRST_PORT, Floor, PORTS, Sink, Source, Stream};
use crate::memory;
use crate::net::{Guard, Host, filter, nat};

#[path = "bpfilter.rs"]
mod bpfilter;
use bpfilter::Bpfilter;

/// What is measured.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) flows: u32,
    pub(crate) rules: usize,
    pub(crate) snat: bool,
    /// All flows go to one address.
    pub(crate) one_server: bool,
    /// Nothing is let through.
    pub(crate) flood: bool,
    /// Every packet opens a connection.
    pub(crate) fresh: bool,
    /// No rule asks for connections.
    pub(crate) stateless: bool,
    /// Packets are of flows drawn at random, once those are established.
    pub(crate) random: bool,
    /// Each flow has a rule of its own that lets it in.
    pub(crate) uniform: bool,
    /// How many sources a set has, every other one, whose packets a rule drops.
    pub(crate) members: u32,
    /// More tables.
    pub(crate) more: &'static str,
}

impl Case {
    pub(crate) const fn new(name: &'static str, flows: u32, rules: usize) -> Self {
        Case {
            name,
            flows,
            rules,
            snat: false,
            one_server: false,
            flood: false,
            fresh: false,
            stateless: false,
            random: false,
            uniform: false,
            members: 0,
            more: "",
        }
    }

    /// Each packet is from a source of its own, all go to one address, and none is let through.
    pub(crate) const fn flood(name: &'static str, rules: usize) -> Self {
        Case {
            flood: true,
            one_server: true,
            ..Case::new(name, 1 << 24, rules)
        }
    }

    /// Each packet opens a connection, all of them to one address.
    pub(crate) const fn fresh(name: &'static str, rules: usize) -> Self {
        Case {
            fresh: true,
            one_server: true,
            ..Case::new(name, 1 << 24, rules)
        }
    }

    /// Its flows become established.
    const fn settles(&self) -> bool {
        !self.flood && !self.fresh && !self.stateless
    }

    /// Sources and ports that rules drop, none of which the traffic has.
    fn strangers(&self) -> impl Iterator<Item = (String, usize)> {
        (1..self.rules).map(|n| {
            let (a, b) = (n / 250 % 250, n % 250);
            (format!("198.18.{a}.{b}"), n % 60_000)
        })
    }

    /// Known packets first, then rules that no packet matches, then who may begin.
    pub(crate) fn rules(&self) -> String {
        let known = "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT".to_owned();
        let mut rules: Vec<String> = (!self.stateless).then_some(known).into_iter().collect();
        let strangers = self.strangers();
        rules.extend(strangers.map(|(source, port)| {
            format!("-A FORWARD -s {source}/32 -p udp --dport {port} -j DROP")
        }));
        if self.members > 0 {
            rules.push("-A FORWARD -m set --match-set listed src -j DROP".to_owned());
        }
        let last = if self.flood { "DROP" } else { "ACCEPT" };
        if self.uniform {
            rules.extend((0..self.flows).map(own_rule));
        } else {
            rules.push(format!("-A FORWARD -i eth0 -j {last}"));
        }
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let mut text = filter(&rules);
        if self.snat {
            let _ = write!(
                text,
                "{}",
                nat(&["-A POSTROUTING -o eth1 -j SNAT --to-source 10.1.0.1"])
            );
        }
        text + self.more
    }

    /// The addresses that are listed.
    fn listed(&self) -> impl Iterator<Item = u32> + use<> {
        (0..self.members).map(|n| u32::from_be_bytes(INSIDE) + 2 * n)
    }

    /// The same as people write it for nft: a verdict map instead of many rules, and a flow
    /// table if there shall be one.
    fn table(&self, flow_table: bool) -> String {
        let known = match (self.stateless, flow_table) {
            (true, _) => "",
            (false, false) => "ct state established accept;",
            (false, true) => "ct state established flow add @ft; ct state established accept;",
        };
        let flow_table = match flow_table {
            true => "flowtable ft { hook ingress priority 0; devices = { eth0, eth1 }; }",
            false => "",
        };
        let strangers = self.strangers();
        let elements = strangers.map(|(source, port)| format!("{source} . {port} : drop"));
        let elements: Vec<String> = elements.collect();
        let elements = match elements.as_slice() {
            [] => String::new(),
            some => format!("elements = {{ {} }};", some.join(", ")),
        };
        let last = if self.flood { "counter drop" } else { "accept" };
        format!(
            "table ip t {{
                {flow_table}
                map m {{ type ipv4_addr . inet_service : verdict; {elements} }}
                chain f {{
                    type filter hook forward priority 0; policy accept; {known}
                    meta l4proto udp ip saddr . udp dport vmap @m
                    iifname \"eth0\" {last}
                }}
            }}"
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Firewall {
    None,
    /// One of Debian's two, by the name of its restore.
    Iptables(&'static str),
    /// nft's own language.
    Nft,
    /// The same with a flow table.
    FlowTable,
    /// Rules as a program at netfilter's hook.
    Bpfilter,
    /// The userspace datapath alone.
    Userspace(Ring),
    /// The fast path, in traffic control or before the kernel.
    Fast(Ring),
    /// None: a program of four instructions at the same place sends everything on.
    Floor(Ring),
}

impl Firewall {
    pub(crate) const ALL: [Firewall; 6] = [
        Firewall::Fast(Ring::Xdp),
        Firewall::Floor(Ring::Xdp),
        Firewall::Fast(Ring::Packet),
        Firewall::Floor(Ring::Packet),
        Firewall::Iptables("iptables-legacy-restore"),
        Firewall::Iptables("iptables-nft-restore"),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Firewall::None => "kernel alone",
            Firewall::Iptables(restore) => restore.trim_end_matches("-restore"),
            Firewall::Nft => "nft, verdict map",
            Firewall::FlowTable => "nft, flow table",
            Firewall::Bpfilter => "bpfilter",
            Firewall::Userspace(Ring::Packet) => "tidegate, packet rings",
            Firewall::Userspace(Ring::Xdp) => "tidegate, AF_XDP",
            Firewall::Fast(Ring::Packet) => "tidegate, TCX",
            Firewall::Fast(Ring::Xdp) => "tidegate, XDP",
            Firewall::Floor(Ring::Packet) => "TCX redirect alone",
            Firewall::Floor(Ring::Xdp) => "XDP redirect alone",
        }
    }
}

/// The router's addresses on both links.
const ROUTER_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 1, 1]];
/// Where flows come from, and where they go: nobody is there.
const INSIDE: [u8; 4] = [10, 64, 0, 1];
const OUTSIDE: [u8; 4] = [10, 2, 0, 1];
const ROUTER: [u8; 4] = [10, 1, 0, 1];
const PORT: u16 = 7000;
/// Packets at a time while flows are opened, and how long others then have time.
const STEP: u32 = 2048;

pub(crate) struct Place {
    pub(crate) inside: Host,
    router: Host,
    pub(crate) outside: Host,
    guard: Option<Guard>,
    forth: Source,
    sink: Sink,
    #[allow(dead_code, reason = "at work until the place ends")]
    floor: Option<Floor>,
    bpfilter: Option<Bpfilter>,
    /// Bytes that the kernel holds for rules and connections.
    pub(crate) kernel: usize,
    /// Packets of flows that the programs should have.
    fast: bool,
    /// The firewall drops all.
    drops: bool,
}

impl Place {
    pub(crate) fn new(case: &Case, firewall: Firewall) -> Result<Self, String> {
        let (inside, router, outside) = (Host::new(), Host::new(), Host::new());
        inside.link("eth0", &router, "eth0");
        outside.link("eth0", &router, "eth1");
        router.sh("
            sysctl -qw net.ipv4.ip_forward=1
            ip link set eth0 address 02:00:00:00:00:01
            ip link set eth1 address 02:00:00:00:01:01
            ip addr add 10.0.0.1/24 dev eth0; ip addr add 10.1.0.1/24 dev eth1
            ip route add 10.64.0.0/16 via 10.0.0.3
            ip route add 10.2.0.0/16 via 10.1.0.3
            ip neigh add 10.1.0.3 lladdr 02:00:00:00:01:99 dev eth1 nud permanent
            ip neigh add 10.0.0.3 lladdr 02:00:00:00:00:99 dev eth0 nud permanent
            ethtool -K eth0 gro on; ethtool -K eth1 gro on
        ");
        // Takes what is redirected to it, as a card does.
        inside.sh("ethtool -K eth0 gro on");
        let sink = Sink::new(&outside);
        let before = memory::kernel().unwrap_or_default();
        let mut bpfilter = None;
        match firewall {
            Firewall::Iptables(restore) => {
                list(&router, case)?;
                load(&router, restore, &case.rules())?;
            }
            Firewall::Nft => load(&router, "nft -f", &case.table(false))?,
            Firewall::FlowTable => load(&router, "nft -f", &case.table(true)).map_err(|why| {
                let why = why.lines().find(|l| l.contains("Error")).unwrap_or(&why);
                format!("does the kernel have CONFIG_NF_FLOW_TABLE? {why}")
            })?,
            Firewall::Bpfilter => bpfilter = Some(Bpfilter::new(&router, case)?),
            Firewall::None | Firewall::Fast(_) | Firewall::Floor(_) | Firewall::Userspace(_) => {}
        }
        let guard = match firewall {
            Firewall::Fast(ring) => Some(guard(&router, ring, case, true)?),
            Firewall::Userspace(ring) => Some(guard(&router, ring, case, false)?),
            _ => None,
        };
        let floor = match firewall {
            Firewall::Floor(_) if !case.settles() || case.snat => {
                return Err("nothing is decided here".to_owned());
            }
            Firewall::Floor(ring) => Some(Floor::new(&router, ring == Ring::Xdp)),
            _ => None,
        };
        let stream = stream(case);
        let forth = Source::new(&inside, &stream);
        let mut place = Place {
            inside,
            router,
            outside,
            fast: matches!(firewall, Firewall::Fast(_)),
            guard,
            forth,
            sink,
            floor,
            bpfilter,
            kernel: 0,
            drops: case.flood && firewall != Firewall::None,
        };
        match firewall {
            Firewall::None | Firewall::Floor(_) => {}
            _ if case.flood => place.begin()?,
            _ if !case.settles() => {}
            _ => place.open(case, &stream)?,
        }
        let after = memory::kernel().unwrap_or_default();
        place.kernel = after.saturating_sub(before);
        if case.random {
            let stream = Stream {
                random: true,
                ..stream
            };
            place.forth = Source::new(&place.inside, &stream);
        }
        Ok(place)
    }

    /// Sends packets until the firewall drops them where it should, and says how long that took,
    /// and what the kernel took for itself meanwhile.
    fn begin(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let held = memory::kernel().unwrap_or_default();
        let mut most = held;
        for _ in 0..500 {
            let before = self.done();
            self.forth.send(&self.inside, 64);
            sleep(Duration::from_millis(20));
            most = most.max(memory::kernel().unwrap_or_default());
            if self.done() - before >= 64 {
                if self.fast {
                    let took = begun.elapsed();
                    let more = (most - held) >> 20;
                    println!("programs know the rules after {took:.0?}, the kernel took {more} MB");
                }
                return Ok(());
            }
        }
        Err(format!("not dropped: {:?}", self.fates()))
    }

    /// Opens all flows: questions, answers, and some time after them both once more.
    fn open(&mut self, case: &Case, forth: &Stream) -> Result<(), String> {
        let back = Stream {
            to: ROUTER_MACS[1],
            dst: if case.snat { ROUTER } else { INSIDE },
            ..forth.answers()
        };
        let mut back = Source::new(&self.outside, &back);
        for round in 0..2 {
            let before = self.sink.count();
            self.forth.rewind();
            all(&self.inside, &mut self.forth, case.flows);
            sleep(Duration::from_millis(300));
            let arrived = self.sink.count() - before;
            if arrived < u64::from(case.flows) {
                return Err(format!(
                    "round {round}: {arrived} of {} arrived",
                    case.flows
                ));
            }
            back.rewind();
            all(&self.outside, &mut back, case.flows);
            sleep(Duration::from_millis(2200));
        }
        // More than once, for a flow is handed over in a moment of silence.
        for _ in 0..20 {
            if !self.fast {
                break;
            }
            let before = self.forwarded();
            all(&self.inside, &mut self.forth, case.flows);
            sleep(Duration::from_millis(300));
            // Of a few the bucket is full.
            if self.forwarded() - before >= u64::from(case.flows - case.flows / 1000) {
                return Ok(());
            }
        }
        if self.fast {
            return Err(format!("not handed over: {:?}", self.fates()));
        }
        Ok(())
    }

    fn fates(&self) -> Vec<(Fate, u64)> {
        let report = self.guard.as_ref().map(|g| g.datapath.report());
        report.map(|r| r.fates).unwrap_or_default()
    }

    fn forwarded(&self) -> u64 {
        let ours = |f: &&(Fate, u64)| matches!(f.0, Fate::Forwarded | Fate::Early);
        self.fates().iter().filter(ours).map(|f| f.1).sum()
    }

    pub(crate) fn send(&mut self, count: u32) -> Duration {
        self.forth.send(&self.inside, count)
    }

    /// Packets that have arrived; in a flood, those that the kernel has dropped.
    pub(crate) fn done(&self) -> u64 {
        if !self.drops {
            return self.sink.count();
        }
        if self.fast {
            let fates = self.fates();
            return fates
                .iter()
                .filter(|f| f.0 == Fate::Stopped)
                .map(|f| f.1)
                .sum();
        }
        if let Some(guard) = &self.guard {
            return guard.traffic("eth0").dropped;
        }
        if let Some(bpfilter) = &self.bpfilter {
            return bpfilter.counted();
        }
        if let Ok(said) = self.router.try_sh("nft list chain ip t f") {
            let count = said.split("counter packets ").nth(1);
            let count = count.and_then(|c| c.split(' ').next()?.parse().ok());
            return count.unwrap_or(0);
        }
        let counted =
            "iptables-save -c -t filter 2>/dev/null; iptables-legacy-save -c -t filter 2>/dev/null";
        let said = self.router.sh(&format!("{{ {counted}; }} || true"));
        let last = said.lines().filter(|l| l.contains("-i eth0 -j DROP"));
        let packets = |l: &str| l.strip_prefix('[')?.split(':').next()?.parse::<u64>().ok();
        last.filter_map(packets).max().unwrap_or(0)
    }

    /// Opens so many connections, no faster than they can be decided, once those before are
    /// forgotten.
    pub(crate) fn open_fresh(&mut self, count: u32) {
        match &self.guard {
            Some(guard) => {
                let flush = |engine: &mut Engine, _| engine.conntrack_mut().flush();
                guard.datapath.with(flush).unwrap();
            }
            None => {
                let _ = self.router.try_sh("conntrack -F 2>/dev/null");
            }
        }
        self.paced(count);
    }

    /// Sends so many, no faster than they can be decided.
    pub(crate) fn paced(&mut self, count: u32) {
        let before = self.done();
        let mut sent = 0;
        while sent < count {
            self.forth.send(&self.inside, STEP);
            sent += STEP;
            // What the kernel drops it drops at once.
            let at_once = self.drops && self.guard.is_none();
            let there = || at_once || self.done() - before >= u64::from(sent);
            let until = Instant::now() + Duration::from_secs(2);
            while !there() && Instant::now() < until {
                sleep(Duration::from_millis(1));
            }
        }
    }

    /// What became of the packets, where that is asked for.
    pub(crate) fn explain(&self) {
        if std::env::var_os("VERBOSE").is_some() {
            let fates = self.fates();
            let some: Vec<_> = fates.iter().filter(|f| f.1 > 0).collect();
            eprintln!("{some:?}");
        }
    }

    pub(crate) fn end(self) {
        if let Some(guard) = self.guard {
            guard.datapath.stop().unwrap();
        }
        drop(self.router);
    }
}

/// What comes from the inside.
pub(crate) fn stream(case: &Case) -> Stream {
    Stream {
        to: ROUTER_MACS[0],
        src: INSIDE,
        dst: OUTSIDE,
        port: PORT,
        back: false,
        one_address: case.snat,
        one_server: case.one_server,
        flows: case.flows,
        random: false,
    }
}

/// Sends one packet of every flow, no faster than they can be decided.
fn all(host: &Host, source: &mut Source, flows: u32) {
    let mut left = flows;
    while left > 0 {
        let step = left.min(STEP);
        source.send(host, step);
        left -= step;
        sleep(Duration::from_millis(15));
    }
}

fn guard(router: &Host, ring: Ring, case: &Case, fast: bool) -> Result<Guard, String> {
    let options = Options {
        ring,
        fast,
        offloaded: if case.settles() { case.flows * 2 } else { 1024 },
        ..Options::default()
    };
    let guard = router.guard_with(options, &case.rules(), &filter(&[]));
    if case.members > 0 {
        know(&guard, case);
    }
    if case.settles() {
        make_room(&guard, case.flows);
    }
    let notes = guard.datapath.report().notes;
    match notes.into_iter().find(|n| n.contains("XDP")) {
        Some(why) => Err(why),
        None => Ok(guard),
    }
}

/// The engine's set.
fn know(guard: &Guard, case: &Case) {
    let kind = KINDS.iter().find(|k| k.name == "hash:ip").unwrap();
    let mut set = Set::new(kind, Some(Family::V4), SetOptions::default());
    for address in case.listed() {
        let mut key = Key::default();
        (key.addrs[0], key.lengths[0]) = (address.into(), 32);
        set.add(key, &Change::default(), false, 0).unwrap();
    }
    let create = |engine: &mut Engine, _| {
        let sets = tidegate_xt::sets::all(engine.shared_mut()).unwrap();
        sets.create("listed", set).unwrap();
    };
    guard.datapath.with(create).unwrap();
}

/// The kernel's.
fn list(router: &Host, case: &Case) -> Result<(), String> {
    if case.members == 0 {
        return Ok(());
    }
    let mut text = "create listed hash:ip\n".to_owned();
    for address in case.listed() {
        let _ = writeln!(text, "add listed {}", Ipv4Addr::from(address));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let script = format!("ipset restore < {}", file.path().display());
    router.try_sh(&script).map(|_| ())
}

/// For more connections, where there are more than may be by default.
fn make_room(guard: &Guard, flows: u32) {
    let room = move |engine: &mut Engine, _| {
        let conntrack = engine.conntrack_mut();
        if flows > conntrack.config().max {
            conntrack.config_mut().max = flows * 2;
            conntrack.resize(flows);
        }
    };
    guard.datapath.with(room).unwrap();
}

/// The rule of a flow that lets in nothing else.
fn own_rule(flow: u32) -> String {
    let (host, port) = (flow / PORTS, u32::from(FIRST_PORT) + flow % PORTS);
    let source = Ipv4Addr::from(u32::from_be_bytes(INSIDE) + host);
    format!("-A FORWARD -s {source}/32 -p udp --sport {port} --dport {PORT} -j ACCEPT")
}

fn load(router: &Host, restore: &str, rules: &str) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), rules).unwrap();
    let lock = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "XTABLES_LOCKFILE={} {restore} {}",
        lock.path().display(),
        file.path().display()
    );
    router.try_sh(&script).map(|_| ())
}
