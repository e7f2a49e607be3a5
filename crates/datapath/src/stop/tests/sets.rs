//! Rules that look into sets.

use tidegate_sets::{Change, KINDS, Key, Options, Set};
use tidegate_wire::{checksum, proto};

use super::*;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const MEMBERS: u32 = 4000;
/// Most members that programs know.
const MOST: u32 = 65_536;

/// The `n`th of all sources, of which each third is a member.
fn source(family: Family, n: u32) -> u128 {
    match family {
        Family::V4 => u128::from(0xcb00_7100 + n),
        Family::V6 => 0x2001_0db8 << 96 | u128::from(n / 500) << 64 | u128::from(n % 500),
    }
}

fn here(family: Family) -> u128 {
    match family {
        Family::V4 => 0x0a00_0001,
        Family::V6 => 0xfd << 120 | 1,
    }
}

/// The `n`th member.
fn key(family: Family, n: u32) -> Key {
    let mut key = Key::default();
    key.addrs[0] = source(family, 3 * n);
    key.lengths[0] = if family == Family::V4 { 32 } else { 128 };
    key
}

fn set(family: Family, options: Options) -> Set {
    let kind = KINDS.iter().find(|k| k.name == "hash:ip").unwrap();
    let mut set = Set::new(kind, Some(family), options);
    for n in 0..MEMBERS {
        set.add(key(family, n), &Change::default(), false, 0)
            .unwrap();
    }
    set
}

/// Members that stay, that time takes out, that are counted for, that rules put in, and that
/// nobody asks for.
fn make(bench: &mut Bench, family: Family) {
    let plain = || Options {
        max_members: 2 * MOST,
        ..Options::default()
    };
    let timed = Options {
        timeout: Some(600),
        ..plain()
    };
    let counted = Options {
        counters: true,
        ..plain()
    };
    for (name, options) in [
        ("stays", plain()),
        ("fleeting", timed),
        ("counting", counted),
        ("taken", plain()),
        ("other", plain()),
    ] {
        let sets = all(bench.engine.shared_mut()).unwrap();
        let _ = sets.destroy(name);
        sets.create(name, set(family, options)).unwrap();
    }
}

fn change(bench: &mut Bench, set: &str, change: impl FnOnce(&mut Set)) {
    let sets = all(bench.engine.shared_mut()).unwrap();
    change(sets.get_mut(set).unwrap());
}

fn rules(set: &str) -> String {
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j SET --add-set taken src\n\
         -A INPUT -m set --match-set {set} src -j DROP\nCOMMIT\n"
    )
}

/// A datagram.
fn datagram(family: Family, src: u128) -> Vec<u8> {
    let dst = here(family);
    let mut transport = [0x03, 0xe8, 0, 7, 0, 12, 0, 0, 7, 7, 7, 7];
    let sum = checksum::pseudo(family, src, dst, proto::UDP, 12);
    let sum = checksum::finish(sum, &transport).to_be_bytes();
    transport[6..8].copy_from_slice(&sum);
    let mut packet = match family {
        Family::V4 => vec![0x45, 0, 0, 32, 0, 7, 0, 0, 64, proto::UDP, 0, 0],
        Family::V6 => vec![0x60, 0, 0, 0, 0, 12, proto::UDP, 64],
    };
    for address in [src, dst].map(u128::to_be_bytes) {
        packet.extend(match family {
            Family::V4 => &address[12..],
            Family::V6 => &address[..],
        });
    }
    if family == Family::V4 {
        checksum::fix_ipv4(&mut packet);
    }
    packet.extend(transport);
    packet
}

/// A program in its place.
struct There {
    epoch: u64,
    program: FrontProgram,
    way: (Family, Front),
}

impl There {
    fn new(bench: &mut Bench, text: &str, way: (Family, Front)) -> Self {
        let (epoch, program) = put(bench, (text, (SIZES[2], MOST_SLOTS)), way);
        bench.stops.asked = epoch;
        bench.stops.told = Told::default();
        let now = bench.stops.clock.now();
        let target = (way.0, here(way.0));
        bench.stops.offer(&bench.engine, (DEV, MAC), target, now);
        There {
            epoch,
            program,
            way,
        }
    }

    /// Whether it drops a datagram from the `n`th source.
    fn drops(&self, n: u32) -> bool {
        self.drops_from(source(self.way.0, n))
    }

    fn drops_from(&self, src: u128) -> bool {
        let (family, front) = self.way;
        let answer = self.program.run(&frame(&datagram(family, src), family));
        answer.unwrap() == dropped(front)
    }
}

#[test]
fn sets_that_stay_are_known_to_programs() {
    in_place(|bench| {
        for family in FAMILIES {
            make(bench, family);
            for front in [Front::Tcx, Front::Xdp] {
                let there = There::new(bench, &rules("stays"), (family, front));
                // Both ask the same.
                let step = if front == Front::Tcx { 1 } else { 101 };
                for n in (0..3 * MEMBERS + 3).step_by(step) {
                    let is_member = n % 3 == 0 && n < 3 * MEMBERS;
                    assert_eq!(there.drops(n), is_member, "{family:?} {n}");
                }
                for name in ["fleeting", "counting", "taken"] {
                    let there = There::new(bench, &rules(name), (family, front));
                    assert!(!there.drops(0) && !there.drops(1), "{name}");
                }
            }
        }
    });
}

/// The `n`th of all addresses, of which of each eight four are a network.
fn address(family: Family, n: u32) -> u128 {
    match family {
        Family::V4 => u128::from(0xcb00_7000 + n),
        Family::V6 => 0x2001_0db8 << 96 | u128::from(n / 512) << 64 | u128::from(n % 512),
    }
}

/// A set of networks, the first of which begins at the address `from`.
fn networks(family: Family, from: u32, count: u32) -> Set {
    let kind = KINDS.iter().find(|k| k.name == "hash:net").unwrap();
    let mut set = Set::new(kind, Some(family), Options::default());
    for n in 0..count {
        let mut key = Key::default();
        key.addrs[0] = address(family, from + 8 * n);
        key.lengths[0] = if family == Family::V4 { 30 } else { 126 };
        set.add(key, &Change::default(), false, 0).unwrap();
    }
    set
}

/// A few networks are looked at in turn, more are searched in the program, many in a table: all
/// are found and nothing beside them.
#[test]
fn sets_of_any_size_are_known_to_programs() {
    in_place(|bench| {
        for family in FAMILIES {
            for count in [1, 16, 17, 256, 257, 258, 511, 512, 513, MOST] {
                let sets = all(bench.engine.shared_mut()).unwrap();
                for (name, from) in [("sized", 0), ("beside", 4)] {
                    let _ = sets.destroy(name);
                    let set = networks(family, from, count);
                    sets.create(name, set).unwrap();
                }
                let front = if count % 2 == 0 {
                    Front::Tcx
                } else {
                    Front::Xdp
                };
                let both = "beside src -m set --match-set sized";
                let text = rules(both).replace("--match-set beside", "! --match-set beside");
                let there = There::new(bench, &text, (family, front));
                let step = if count == MOST { 997 } else { 1 };
                let last = 8 * count - 8..8 * count + 9;
                for n in (0..last.start).step_by(step).chain(last) {
                    let is_member = n % 8 < 4 && n < 8 * count;
                    let name = format!("{family:?} {n} of {count}");
                    assert_eq!(there.drops_from(address(family, n)), is_member, "{name}");
                }
                let outside = [address(family, 0) - 1, address(family, 0) << 1];
                assert!(!outside.map(|src| there.drops_from(src)).contains(&true));
            }
        }
    });
}

/// A program drops nothing by what a set held before a change that has been acknowledged.
#[test]
fn changed_sets_end_a_program() {
    in_place(|bench| {
        let way = (Family::V4, Front::Tcx);
        make(bench, way.0);
        let there = There::new(bench, &rules("stays"), way);
        assert!(there.drops(0));
        // Not from the moment on in which somebody may change something; if it is nothing that
        // counts, for no longer.
        for name in ["other", "taken"] {
            change(bench, name, |set| set.flush());
            assert!(!there.drops(0), "{name}");
            bench.stops.follow(&bench.engine);
            assert_eq!(epoch_of(&bench.engine), there.epoch);
            assert!(there.drops(0), "{name}");
        }
        change(bench, "stays", |set| set.del(&key(way.0, 1), 0).unwrap());
        bench.stops.follow(&bench.engine);
        assert!(!there.drops(0));
        let there = There::new(bench, &rules("stays"), way);
        assert_eq!([0, 3, 6].map(|n| there.drops(n)), [true, false, true]);
        // The members of another set, under the same name.
        let sets = all(bench.engine.shared_mut()).unwrap();
        sets.swap("stays", "other");
        bench.stops.follow(&bench.engine);
        assert!(!there.drops(0));
    });
}

/// A set that programs cannot know, for it has too many members, is none of their business when
/// it changes.
#[test]
fn sets_that_are_too_large_end_no_program() {
    in_place(|bench| {
        let way = (Family::V4, Front::Tcx);
        make(bench, way.0);
        for n in MEMBERS..MOST + 200 {
            let more = key(way.0, n);
            let add = |set: &mut Set| set.add(more, &Change::default(), false, 0).unwrap();
            change(bench, "other", add);
        }
        let last = "-A INPUT -m set --match-set other src -j DROP\nCOMMIT";
        let text = rules("stays").replace("COMMIT", last);
        let there = There::new(bench, &text, way);
        assert!(there.drops(0) && !there.drops(3 * MEMBERS));
        change(bench, "other", |set| set.del(&key(way.0, 1), 0).unwrap());
        bench.stops.follow(&bench.engine);
        assert!(there.drops(0));
    });
}

/// While somebody fills a set, programs are asked for now and then, not for each packet.
#[test]
fn sets_that_change_all_the_time_are_not_read_each_time() {
    in_place(|bench| {
        let family = Family::V4;
        make(bench, family);
        bench.engine.load(load(&rules("stays"), family).unwrap());
        let begun = bench.stops.clock.now();
        let asked = |bench: &mut Bench, after: Time| {
            let target = (family, here(family));
            let engine = &bench.engine;
            bench.stops.offer(engine, (DEV, MAC), target, begun + after);
            bench.jobs.try_iter().count()
        };
        assert_eq!(asked(bench, 0), 1);
        for n in 0..10 {
            change(bench, "stays", |set| set.del(&key(family, n), 0).unwrap());
            assert_eq!(asked(bench, BETWEEN / 20 * u64::from(n)), 0);
        }
        assert_eq!(asked(bench, BETWEEN), 1);
        assert_eq!(asked(bench, 2 * BETWEEN), 0);
    });
    assert_eq!(pause_after(Duration::from_millis(1)), BETWEEN);
    assert_eq!(pause_after(Duration::from_millis(30)), 3 * BETWEEN);
}
