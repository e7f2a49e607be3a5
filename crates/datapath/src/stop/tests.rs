//! The programs, run by the kernel (`BPF_PROG_TEST_RUN`), beside the engine: random packets
//! through random rules. What a program drops the engine drops, and counts for the same rules.

use std::collections::BTreeMap;
use std::io::Write as _;

use tidegate_ebpf::fast::Front;
use tidegate_engine::env::{Env, Interface, Prefix, Settings};
use tidegate_engine::{Config, Counter, Disposition, DropReason, Incoming, Rules, TrackWhen};
use tidegate_syntax::{lower, parse_rules};
use tidegate_sys::{FrontKind, FrontProgram, Namespace};
use tidegate_wire::{checksum, proto};
use tidegate_xt::NoNames;

use super::*;
use crate::{Options, Ring, fast::Kernel};

/// Loopback, on which the kernel runs programs for a test, has this index and address.
const DEV: IfIndex = IfIndex(1);
const MAC: [u8; 6] = [0; 6];

/// `xorshift64*`
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn some<'t>(&mut self, all: &[&'t str], most: usize) -> Vec<&'t str> {
        (0..self.below(most + 1)).map(|_| self.of(all)).collect()
    }
}

/// Conditions of all kinds: that can be read off the packet, that depend on its connection,
/// that keep state, that only the engine knows.
const CONDS: &[&str] = &[
    "-p tcp",
    "-p udp",
    "! -p udp",
    "-p udp -m udp --dport 53",
    "-p tcp -m tcp --dport 80:443",
    "-p tcp -m multiport --dports 22,80,8000:9000",
    "-p tcp --syn",
    "-p tcp --tcp-flags ALL SYN",
    "-i eth0",
    "-i eth+",
    "! -i eth1",
    "-i eth1",
    "-m conntrack --ctstate ESTABLISHED,RELATED",
    "-m conntrack --ctstate NEW",
    "-m conntrack --ctstate INVALID",
    "-m state --state NEW -p udp",
    "-m ttl --ttl-lt 40",
    "-m length --length 60:200",
    "-m tos --tos 0x10/0xff",
    "-m mark --mark 7",
    "-m mark ! --mark 7",
    "-m limit --limit 1/sec --limit-burst 4",
    "-p udp -m limit --limit 1/sec --limit-burst 2 -m udp --dport 53",
    "-m statistic --mode nth --every 3 --packet 0",
    "-p udp -m connlimit --connlimit-above 3",
    "-m conntrack --ctstatus ASSURED",
    "-p tcp -m tcp --tcp-option 2",
    "-m addrtype --dst-type LOCAL",
    "",
];

fn with(family: Family, hook: Hook) -> Vec<&'static str> {
    let mut conds = CONDS.to_vec();
    conds.extend(match family {
        Family::V4 => [
            "-s 10.0.0.0/8",
            "! -s 10.0.0.0/9",
            "-d 10.0.0.1",
            "-s 203.0.113.0/24",
        ],
        Family::V6 => [
            "-s fd00::/8",
            "! -s fd00::/9",
            "-d fd00::1",
            "-s 2001:db8::/32",
        ],
    });
    if matches!(hook, Hook::Forward) {
        conds.extend(["-o eth1", "! -o eth0"]);
    }
    conds
}

/// Where a chain is.
#[derive(Clone, Copy)]
enum Hook {
    Early,
    Input,
    Forward,
}

const TARGETS_OF_RULES: &[&str] = &[
    "",
    "-j ACCEPT",
    "-j ACCEPT",
    "-j DROP",
    "-j DROP",
    "-j DROP",
    "-j RETURN",
    "-j LOG",
    "-j one",
    "-j one",
    "-g two",
    "-j REJECT",
];

fn chain(dice: &mut Dice, family: Family, (name, hook): (&str, Hook), targets: &[&str]) -> String {
    let conds = with(family, hook);
    let mut text = String::new();
    for cond in dice.some(&conds, 5) {
        let target = dice.of(targets);
        text += &format!("-A {name} {cond} {target}\n");
    }
    text
}

fn rules(dice: &mut Dice, family: Family) -> String {
    let mut text = String::new();
    let plain = ["", "-j ACCEPT", "-j DROP", "-j RETURN"];
    if dice.below(3) == 0 {
        let raw = ["-j NOTRACK", "-j ACCEPT", "-j DROP", "-j TRACE"];
        let chain = chain(dice, family, ("PREROUTING", Hook::Early), &raw);
        text += &format!("*raw\n{}COMMIT\n", without(&chain, "-m conn"));
    }
    if dice.below(2) == 0 {
        let marks = [
            "-j MARK --set-mark 7",
            "-j MARK --or-mark 1",
            "-j ACCEPT",
            "-j DROP",
        ];
        text += "*mangle\n";
        text += &chain(dice, family, ("PREROUTING", Hook::Early), &marks);
        text += &chain(dice, family, ("INPUT", Hook::Input), &plain);
        text += &chain(dice, family, ("FORWARD", Hook::Forward), &marks);
        text += "COMMIT\n";
    }
    if dice.below(2) == 0 {
        let to = match family {
            Family::V4 => "-j DNAT --to-destination 10.1.0.9",
            Family::V6 => "-j DNAT --to-destination fd01::9",
        };
        text += "*nat\n";
        let nat = [to, "-j ACCEPT", "-j RETURN"];
        for line in chain(dice, family, ("PREROUTING", Hook::Early), &nat).lines() {
            if dice.below(3) == 0 && line.contains("-p ") {
                text += &format!("{line}\n");
            }
        }
        text += "COMMIT\n";
    }
    let policies = [0; 2].map(|_| dice.of(&["DROP", "DROP", "ACCEPT"]));
    text += &format!(
        "*filter\n:INPUT {} [0:0]\n:FORWARD {} [0:0]\n",
        policies[0], policies[1]
    );
    text += ":one - [0:0]\n:two - [0:0]\n";
    for place in [("INPUT", Hook::Input), ("FORWARD", Hook::Forward)] {
        text += &chain(dice, family, place, TARGETS_OF_RULES);
    }
    text += &chain(
        dice,
        family,
        ("one", Hook::Early),
        &[&plain[..], &["-g two"]].concat(),
    );
    text += &chain(dice, family, ("two", Hook::Early), &plain);
    text + "COMMIT\n"
}

/// Tables before connection tracking have no such matches in real rulesets.
fn without(chain: &str, word: &str) -> String {
    let lines = chain.lines().filter(|l| !l.contains(word));
    lines.map(|l| format!("{l}\n")).collect()
}

fn interface(index: u32, name: &str, net: u128) -> Interface {
    let address = |family, addr, len| Prefix { family, addr, len };
    Interface {
        index: IfIndex(index),
        name: name.to_owned(),
        addresses: vec![
            address(Family::V4, 0x0a00_0001 | net << 16, 24),
            address(Family::V6, 0xfd << 120 | net << 112 | 1, 64),
        ],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    }
}

fn engine() -> Engine {
    let settings = Settings {
        forward4: true,
        forward6: true,
        ..Settings::default()
    };
    let env = Env::new(
        vec![interface(1, "eth0", 0), interface(2, "eth1", 1)],
        &[],
        &[],
        settings,
    );
    let config = Config {
        track: TrackWhen::Needed,
        ..Config::default()
    };
    Engine::new(config, Arc::new(env))
}

fn load(text: &str, family: Family) -> Option<Arc<Rules>> {
    let source = parse_rules(text, family, &NoNames).ok()?;
    Some(Arc::new(lower(&source).ok()?.ruleset))
}

fn address(dice: &mut Dice, family: Family, own: bool) -> Vec<u8> {
    let nets: [(u32, u128); 5] = [
        (0x0a00_0000, 0xfd << 120),
        (0x0a01_0000, 0xfd01 << 112),
        (0xcb00_7100, 0x2001_0db8 << 96),
        (0x0a80_0000, 0xfd80 << 112),
        (0x7f00_0000, 0xfe80 << 112),
    ];
    let (v4, v6) = nets[if own { dice.below(2) } else { dice.below(5) }];
    let host = dice.of(&[1, 2, 9, 77, 255]);
    match family {
        Family::V4 => (v4 | host).to_be_bytes().into(),
        Family::V6 => (v6 | u128::from(host)).to_be_bytes().into(),
    }
}

/// A packet of every kind, mostly ones that open a connection.
fn packet(dice: &mut Dice, family: Family) -> Vec<u8> {
    let (src, dst) = (address(dice, family, false), address(dice, family, true));
    let protocol = dice.of(&[
        proto::UDP,
        proto::UDP,
        proto::TCP,
        proto::TCP,
        proto::TCP,
        1,
    ]);
    let ports = [
        dice.of(&[1000_u16, 53, 4242]),
        dice.of(&[53_u16, 80, 22, 443, 8080, 7]),
    ];
    let flags = dice.of(&[2_u8, 2, 2, 0xc2, 0x10, 0x12, 4, 3, 0]);
    let payload = dice.of(&[0_usize, 0, 20, 100, 1000]);
    let mut l4 = ports.map(u16::to_be_bytes).concat();
    let at = match protocol {
        proto::TCP => {
            l4.extend([
                0, 0, 3, 232, 0, 0, 0, 0, 0x60, flags, 0xff, 0xff, 0, 0, 0, 0,
            ]);
            l4.extend([2, 4, 5, 0xb4]);
            16
        }
        proto::UDP => {
            l4.extend((8 + payload as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        }
        _ => {
            l4 = vec![8, 0, 0, 0, 0, 9, 0, 1];
            2
        }
    };
    l4.resize(l4.len() + payload, 7);
    let mut sums = [src.clone(), dst.clone()].concat();
    sums.extend([0, protocol]);
    sums.extend((l4.len() as u16).to_be_bytes());
    sums.extend(&l4);
    let sum = checksum::finish(0, if protocol == 1 { &l4 } else { &sums });
    let absent = protocol == proto::UDP && dice.below(8) == 0;
    let wrong = u16::from(dice.below(12) == 0);
    let sum = if absent { 0 } else { sum ^ wrong };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let (tos, ttl) = (dice.of(&[0, 0, 0x10]), dice.of(&[64, 64, 30, 1]));
    let mut bytes = match family {
        Family::V4 => {
            let fragment = dice.of(&[0, 0, 0, 0, 0, 0, 0x20]);
            let mut head = vec![0x45, tos];
            head.extend((20 + l4.len() as u16).to_be_bytes());
            head.extend([0, 7, fragment, 0, ttl, protocol, 0, 0]);
            head
        }
        Family::V6 => {
            let mut head = vec![0x60 | tos >> 4, tos << 4, 0, 0];
            head.extend((l4.len() as u16).to_be_bytes());
            head.extend([protocol, ttl]);
            head
        }
    };
    bytes.extend(src);
    bytes.extend(dst);
    if family == Family::V4 {
        checksum::fix_ipv4(&mut bytes);
    }
    bytes.extend(l4);
    bytes
}

fn frame(packet: &[u8], family: Family) -> Vec<u8> {
    let kind: u16 = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    let mut frame = [MAC, [2, 0, 0, 0, 0, 9]].concat();
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// An engine with programs of its own.
struct Bench {
    engine: Engine,
    stops: Stops,
    tables: Tables,
    _kernel: (Kernel, crate::fast::Fast, Known),
}

impl Bench {
    fn new() -> Result<Self> {
        let options = Options {
            ring: Ring::Xdp,
            ..Options::default()
        };
        let mut engine = engine();
        let known = Known::start(&mut engine)?;
        let (kernel, tables, shared) = Kernel::load([6; 6], &options)?;
        let clock = tidegate_sys::Clock::new();
        let fast = crate::fast::Fast::new(crate::fast::Table::new(tables, clock), &mut engine);
        let (stops, tables, _jobs) = prepare(&mut engine, shared, &known)?;
        Ok(Bench {
            engine,
            stops,
            tables,
            _kernel: (kernel, fast, known),
        })
    }

    fn counters(&self, family: Family) -> Vec<Counter> {
        self.engine.counters(family).to_vec()
    }
}

fn differences(before: &[Counter], after: &[Counter]) -> BTreeMap<usize, (u64, u64)> {
    let pairs = before.iter().zip(after).enumerate();
    let changed = pairs.filter(|(_, (b, a))| b != a);
    changed
        .map(|(i, (b, a))| (i, (a.packets - b.packets, a.bytes - b.bytes)))
        .collect()
}

/// One ruleset; returns how many packets the engine dropped by rules, and of those the
/// programs.
fn agree(bench: &mut Bench, dice: &mut Dice, (family, front): (Family, Front)) -> [u32; 2] {
    let text = rules(dice, family);
    let Some(loaded) = load(&text, family) else {
        return [0, 0];
    };
    bench.engine.conntrack_mut().flush();
    bench.engine.load(loaded);
    let epoch = epoch_of(&bench.engine);
    let job = Job::new(&bench.engine, epoch);
    let made = bench.tables.make(&job, front, 1200);
    let slots = made.slots.clone();
    let (kind, dropped) = match front {
        Front::Tcx => (FrontKind::Classifier, 2),
        Front::Xdp => (FrontKind::Xdp, 1),
    };
    let program: FrontProgram = bench.tables.load(made, kind).unwrap();
    lock(&bench.stops.book).begin(epoch, slots);
    bench.stops.follow(&bench.engine);
    let mut both = [0, 0];
    let now = 1000 * SECOND;
    for _ in 0..40 {
        let packet = packet(dice, family);
        let (_, dst) = destination(&packet);
        bench.stops.asked = epoch;
        bench.stops.told = Told::default();
        bench
            .stops
            .offer(&bench.engine, (DEV, MAC), (family, dst), now);
        let before = bench.counters(family);
        let answer = program.run(&frame(&packet, family)).unwrap();
        bench.engine.look_elsewhere();
        let between = bench.counters(family);
        let incoming = Incoming::on(DEV);
        let outcome = bench.engine.receive(now, incoming, packet.clone(), &mut ());
        bench.stops.decided(&bench.engine);
        bench.stops.follow(&bench.engine);
        let after = bench.counters(family);
        let (programs, engines) = (
            differences(&before, &between),
            differences(&between, &after),
        );
        let by_rules = matches!(
            outcome.disposition,
            Disposition::Dropped(DropReason::Rule(_) | DropReason::Policy(_))
        );
        both[0] += u32::from(by_rules);
        if answer == dropped {
            both[1] += 1;
            assert!(by_rules, "{text}\n{packet:02x?}\n{:?}", outcome.disposition);
            assert_eq!(programs, engines, "{text}\n{packet:02x?}");
        } else {
            assert_eq!(programs, BTreeMap::new(), "{text}\n{packet:02x?}");
        }
    }
    both
}

fn destination(packet: &[u8]) -> (Family, u128) {
    match packet[0] >> 4 {
        4 => (
            Family::V4,
            u32::from_be_bytes(packet[16..20].try_into().unwrap()).into(),
        ),
        _ => (
            Family::V6,
            u128::from_be_bytes(packet[24..40].try_into().unwrap()),
        ),
    }
}

#[test]
fn a_flood_over_many_destinations_is_told_of_within_bounds() {
    let key = |i: u32| target_key(1, Family::V4, i.into());
    let begin = 1000 * SECOND;
    let mut told = Told::default();
    let mut due = |epoch, from: u32, now| {
        let asked = 3 * MOST_TOLD as u32;
        let keys = (from..from + asked).map(key);
        keys.filter(|key| told.is_due(epoch, *key, now)).count()
    };
    assert_eq!(due(1, 0, begin), MOST_TOLD);
    assert_eq!(due(1, 1 << 20, begin + SECOND), 0, "the time is not over");
    assert_eq!(due(2, 0, begin + SECOND), 0, "nor is it for other rules");
    let later = begin + TOLD_FOR + 1;
    assert_eq!(due(2, 0, later), MOST_TOLD);
}

#[test]
fn a_destination_is_told_once_for_each_epoch_and_time() {
    let key = target_key(1, Family::V4, 7);
    let mut told = Told::default();
    let later = 1000 * SECOND + TOLD_FOR + 1;
    for (epoch, now, due) in [
        (1, 1000 * SECOND, true),
        (1, 1001 * SECOND, false),
        (2, 1001 * SECOND, true),
        (2, later, true),
        (2, later, false),
    ] {
        assert_eq!(told.is_due(epoch, key, now), due, "{epoch} {now}");
    }
}

fn cases() -> u64 {
    let asked = std::env::var("TIDEGATE_STOP_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(60)
}

fn bench() -> Option<Bench> {
    match Bench::new() {
        Ok(bench) => Some(bench),
        Err(e) => {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: programs cannot be loaded here: {e:#}"
            );
            None
        }
    }
}

#[test]
fn what_programs_drop_the_engine_drops_and_counts_alike() {
    let Ok(place) = Namespace::new() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no network namespace can be made here"
        );
        return;
    };
    let run = || {
        let Some(mut bench) = bench() else {
            return Ok([0, 0]);
        };
        let mut all = [0, 0];
        for case in 0..cases() {
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (case + 1));
            for family in [Family::V4, Family::V6] {
                for front in [Front::Tcx, Front::Xdp] {
                    let both = agree(&mut bench, &mut dice, (family, front));
                    all = [all[0] + both[0], all[1] + both[1]];
                }
            }
        }
        assert!(
            all[1] * 20 > all[0],
            "the programs drop next to nothing: {all:?}"
        );
        Ok(all)
    };
    let all = place.run(run).unwrap();
    println!(
        "dropped by rules: {}, of those in the kernel: {}",
        all[0], all[1]
    );
}
