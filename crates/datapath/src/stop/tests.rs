//! The programs, run by the kernel (`BPF_PROG_TEST_RUN`), beside the engine: random packets
//! through random rules. What a program drops the engine drops, and counts for the same rules.

mod random;
mod sets;

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::anyhow;
use tidegate_ebpf::fast::Front;
use tidegate_ebpf::stop::{EARLY_STOPS, MOST_SLOTS, STOPS};
use tidegate_engine::env::{Env, Interface, Prefix, Settings};
use tidegate_engine::{Config, Counter, Disposition, DropReason, Incoming, Rules, TrackWhen};
use tidegate_syntax::{lower, parse_rules};
use tidegate_sys::{FrontKind, FrontProgram, Namespace};
use tidegate_xt::NoNames;
use tidegate_xt::sets::all;

use self::random::{Dice, long_chain, packet, rules, sets};
use super::maker::{SIZES, Size};
use super::*;
use crate::{Options, Ring, fast::Kernel};

/// Loopback, on which the kernel runs programs for a test, has this index and address.
const DEV: IfIndex = IfIndex(1);
const MAC: [u8; 6] = [0; 6];

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

fn load(text: &str, family: Family) -> Result<Arc<Rules>> {
    let source = parse_rules(text, family, &NoNames);
    let source = source.map_err(|e| anyhow!("{text}\n{e:?}"))?;
    let lowered = lower(&source).map_err(|e| anyhow!("{text}\n{e:?}"))?;
    Ok(Arc::new(lowered.ruleset))
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
    jobs: Receiver<Job>,
    kernel: Kernel,
    _tables: (crate::fast::Fast, Known),
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
        let clock = Clock::new();
        let fast = crate::fast::Fast::new(crate::fast::Table::new(tables, clock), &mut engine);
        let (stops, tables, jobs) = prepare(&mut engine, shared, &known, clock)?;
        Ok(Bench {
            engine,
            stops,
            tables,
            jobs,
            kernel,
            _tables: (fast, known),
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

/// What a program answers to a packet that it drops.
fn dropped(front: Front) -> u32 {
    match front {
        Front::Tcx => 2,
        Front::Xdp => 1,
    }
}

/// Loads rules and puts their program in place, with the number that it has.
fn put(
    bench: &mut Bench,
    (text, room): (&str, (Size, usize)),
    (family, front): (Family, Front),
) -> (u64, FrontProgram) {
    let loaded = load(text, family).unwrap();
    bench.engine.conntrack_mut().flush();
    bench.engine.load(loaded);
    let epoch = epoch_of(&bench.engine);
    let job = Job::new(&bench.engine, epoch);
    let made = bench.tables.make(&job, front, room.0, room.1);
    let (own, counts) = maker::own_tables(&made, &made.members).unwrap();
    let (kind, place) = match front {
        Front::Tcx => (FrontKind::Classifier, STOPS.name),
        Front::Xdp => (FrontKind::Xdp, EARLY_STOPS.name),
    };
    let place = bench.tables.place(&made, &own, kind, place);
    place.unwrap();
    let program = FrontProgram::from(bench.kernel.front(front).unwrap());
    lock(&bench.stops.book).begin(epoch, counts);
    bench.stops.follow(&bench.engine);
    (epoch, program)
}

/// One ruleset; returns how many packets the engine dropped by rules, and of those the
/// programs.
fn agree(
    bench: &mut Bench,
    dice: &mut Dice,
    rules: (&str, (Size, usize)),
    (family, front): (Family, Front),
) -> [u32; 2] {
    let text = rules.0;
    let (epoch, program) = put(bench, rules, (family, front));
    let mut both = [0, 0];
    // Limits that are used up stay so as long as this takes.
    let now = bench.stops.clock.now();
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
        if answer == dropped(front) {
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

/// Works in a namespace of its own; what came of it, if that can be done here.
fn in_place<R: Send>(work: impl FnOnce(&mut Bench) -> R + Send) -> Option<R> {
    let Ok(place) = Namespace::new() else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: no network namespace can be made here"
        );
        return None;
    };
    place.run(|| Ok(bench().map(|mut b| work(&mut b)))).unwrap()
}

/// Runs `one` for random cases of each family and place; what came of all of them.
fn cases_of(
    one: impl Fn(&mut Bench, &mut Dice, (Family, Front)) -> [u32; 2] + Sync,
) -> Option<[u32; 2]> {
    let all = in_place(|bench| {
        let mut all = [0, 0];
        for case in 0..cases() {
            let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (case + 1));
            for family in [Family::V4, Family::V6] {
                for front in [Front::Tcx, Front::Xdp] {
                    let both = one(bench, &mut dice, (family, front));
                    all = [all[0] + both[0], all[1] + both[1]];
                }
            }
        }
        all
    })?;
    println!(
        "dropped by rules: {}, of those in the kernel: {}",
        all[0], all[1]
    );
    Some(all)
}

#[test]
fn what_programs_drop_the_engine_drops_and_counts_alike() {
    let all = cases_of(|bench, dice, way| {
        let text = rules(dice, way.0);
        *all(bench.engine.shared_mut()).unwrap() = sets(dice, way.0);
        // Often there is no room for all of them, as instructions or as slots.
        let size = Size::new(dice.of(&[2500, 20_000]), 1200);
        let slots = dice.of(&[40, MOST_SLOTS]);
        agree(bench, dice, (&text, (size, slots)), way)
    });
    if let Some([engine, programs]) = all {
        assert!(programs * 20 > engine, "the programs drop next to nothing");
    }
}

/// A program has room for so many rules, of addresses and ports of their own, and the kernel
/// takes it.
#[test]
fn programs_know_tens_of_thousands_of_rules() {
    in_place(|bench| {
        for (family, count) in [(Family::V4, 30_000), (Family::V6, 10_000)] {
            let rule = |n: usize| {
                let source = match family {
                    Family::V4 => format!("198.18.{}.{}/32", n / 250, n % 250),
                    Family::V6 => format!("2001:db8::{n:x}/128"),
                };
                let port = n + 1;
                format!("-A FORWARD -s {source} -p udp -m udp --dport {port} -j DROP\n")
            };
            let rules: String = (0..count).map(rule).collect();
            let text = format!("*filter\n:FORWARD DROP [0:0]\n{rules}COMMIT\n");
            bench.engine.load(load(&text, family).unwrap());
            let job = Job::new(&bench.engine, epoch_of(&bench.engine));
            let make = |size| bench.tables.make(&job, Front::Tcx, size, MOST_SLOTS);
            let [size, ..] = SIZES;
            let (made, whole) = (make(size), make(Size::new(10 * size.most, size.longest)));
            assert_eq!(made.code.len(), whole.code.len(), "{family:?}");
            let (own, _counts) = maker::own_tables(&made, &made.members).unwrap();
            let place = |made| {
                let tables = &bench.tables;
                tables.place(made, &own, FrontKind::Classifier, STOPS.name)
            };
            place(&made).unwrap();
            bench.engine.load(Arc::new(Rules::empty(family)));
        }
    });
}

/// Of the packets that are dropped it is the same share that ends in the kernel with no rule
/// and with hundreds of which all can be told. None opens a connection, of which others
/// would be.
#[test]
fn many_plain_rules_are_searched() {
    let share = |most: usize| {
        cases_of(|bench, dice, way| {
            let mut text = String::from("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n");
            for chain in ["INPUT", "FORWARD"] {
                let rules = long_chain(dice, way.0, chain);
                let plain = |l: &&str| ["DROP", "RETURN"].iter().any(|t| l.ends_with(t));
                let rules = rules.lines().filter(plain).filter(|l| !l.contains("ttl"));
                text.extend(rules.take(most).map(|l| format!("{l}\n")));
            }
            text += "COMMIT\n";
            let size = Size::new(30_000, 4800);
            agree(bench, dice, (&text, (size, MOST_SLOTS)), way)
        })
        .map(|[engine, programs]| f64::from(programs) / f64::from(engine))
    };
    if let (Some(none), Some(many)) = (share(0), share(300)) {
        assert!(many >= none, "{many}, without rules {none}");
    }
}
