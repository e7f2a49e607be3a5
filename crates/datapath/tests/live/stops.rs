//! Floods of packets that rules drop, from sources that nobody has heard of: they end in the
//! kernel, are counted for the rules that drop them, and harm nobody.

use std::thread::sleep;
use std::time::{Duration, Instant};

use tidegate_datapath::{Fate, Options, Ring};
use tidegate_sets::{Change, KINDS, Key, Options as SetOptions, Set, Sets};
use tidegate_wire::Family;
use tidegate_xt::sets::all;

use crate::fast::{STATEFUL, at, fate, may, stream, talk, talk_until_fate};
use crate::frames::{FIRST_PORT, PORTS, Source, Stream};
use crate::net::{Guard, Host, eventually, filter, nat};
use crate::router::{Net, net};
use crate::talk::{reaches, udp};

/// Packets of a flood, each from a source of its own.
const FLOOD: u32 = 100_000;
/// Packets at a time.
const STEP: u32 = 1000;

/// The router's address towards the outside.
const MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn flood_net() -> Net {
    let net = net();
    for host in [&net.inside, &net.outside] {
        host.sh("ethtool -K eth0 gro on");
    }
    // It takes what a program sends there, as a card does.
    net.router
        .sh("ip link set eth1 address 02:00:00:00:01:01; ethtool -K eth1 gro on");
    net.routed();
    net
}

fn guard(host: &Host, ring: Ring, rules: &str) -> Guard {
    let options = Options {
        fast: true,
        ring,
        ..Options::default()
    };
    host.guard_with(options, rules, &filter(&STATEFUL))
}

/// Packets to `dst` by the router's `eth1`.
fn source(net: &Net, dst: [u8; 4]) -> Source {
    let stream = Stream {
        to: MAC,
        src: [100, 64, 0, 1],
        dst,
        port: 7000,
        back: false,
        one_address: false,
        one_server: true,
        flows: 1 << 24,
        random: false,
    };
    Source::new(&net.outside, &stream)
}

fn send(net: &Net, source: &mut Source, count: u32) {
    for _ in 0..count / STEP {
        source.send(&net.outside, STEP);
        sleep(Duration::from_millis(3));
    }
}

/// Sends a few until programs drop them; how many that were.
fn begin(guard: &Guard, net: &Net, source: &mut Source) -> u32 {
    let mut sent = 0;
    let begun = eventually(|| {
        source.send(&net.outside, 10);
        sent += 10;
        sleep(Duration::from_millis(20));
        fate(guard, Fate::Stopped) > 0
    });
    assert!(begun, "{:?}", guard.datapath.report());
    sent
}

const RINGS: [Ring; 2] = [Ring::Packet, Ring::Xdp];

#[test]
fn a_flood_ends_in_the_kernel_and_is_counted() {
    if !may() {
        return;
    }
    for ring in RINGS {
        for dst in [[10, 0, 0, 2], [10, 1, 0, 1]] {
            let net = flood_net();
            let rules = [
                &STATEFUL[..],
                &["-A INPUT -j ACCEPT -p tcp", "-A INPUT -j DROP"],
            ]
            .concat();
            let rules = filter(&rules) + &nat(&["-A POSTROUTING -o eth9 -j MASQUERADE"]);
            let guard = guard(&net.router, ring, &rules);
            // A connection beside it, in the kernel and afterwards.
            let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
            talk_until_fate(&guard, forwards(ring), &both, at("10.1.0.2:7"), 20);
            let mut source = source(&net, dst);
            let mut sent = begin(&guard, &net, &mut source);
            for _ in 0..10 {
                send(&net, &mut source, FLOOD / 10);
                sent += FLOOD / 10;
                talk(&both.0, &both.1, at("10.1.0.2:7"), 20);
            }
            // The table nat comes first, and INPUT before FORWARD.
            let rule = if dst == [10, 1, 0, 1] { 2 } else { 5 };
            let all = || guard.counted(Family::V4, rule) == u64::from(sent);
            assert!(
                eventually(all),
                "{} of {sent}",
                guard.counted(Family::V4, rule)
            );
            let stopped = fate(&guard, Fate::Stopped);
            assert!(stopped >= u64::from(FLOOD), "{stopped} in the kernel");
            assert_eq!(guard.counted(Family::V4, 0), 0);
            let dropped = guard
                .datapath
                .with(|engine, _| engine.drops().dropped(tidegate_engine::DropKind::Rule));
            assert_eq!(dropped.unwrap(), u64::from(sent));
        }
    }
}

/// Ten thousand rules, each of which drops one packet of the flood, behind them one that drops
/// the others, and on the way a chain.
#[test]
fn many_rules_count_what_is_theirs() {
    if !may() {
        return;
    }
    const EACH: u32 = 3;
    const RULES: u32 = 10_000;
    for ring in RINGS {
        let net = flood_net();
        let mut rules = vec![
            "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT".to_owned(),
            "-A FORWARD -p udp -j one".to_owned(),
            "-A one -p udp -m udp --dport 7000".to_owned(),
            "-A FORWARD -p tcp -m tcp --dport 22 -j ACCEPT".to_owned(),
        ];
        for n in 0..RULES {
            // Not in the order of what they ask for.
            let flow = n * 7919 % RULES * EACH;
            let (host, port) = (1 + flow / PORTS, u32::from(FIRST_PORT) + flow % PORTS);
            rules.push(format!(
                "-A FORWARD -s 100.64.0.{host}/32 -p udp -m udp --sport {port} -j DROP"
            ));
        }
        rules.push(
            "-A FORWARD -s 100.64.0.0/10 -p udp -m multiport --dports 53,7000 -j DROP".to_owned(),
        );
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        let text = filter(&rules).replace("*filter\n", "*filter\n:one - [0:0]\n");
        let guard = guard(&net.router, ring, &text);
        let mut source = source(&net, [10, 0, 0, 2]);
        let mut sent = begin(&guard, &net, &mut source);
        send(&net, &mut source, FLOOD);
        sent += FLOOD;
        assert!(sent > RULES * EACH);
        // FORWARD's rules, then those of the chain.
        let last = 3 + RULES as usize;
        let counted = |rule| guard.counted(Family::V4, rule);
        let rest = u64::from(sent - RULES);
        assert!(
            eventually(|| counted(last) == rest),
            "{} of {rest}",
            counted(last)
        );
        assert_eq!(counted(1), u64::from(sent));
        assert_eq!(counted(last + 1), u64::from(sent));
        for n in 0..RULES as usize {
            assert_eq!(counted(last - 1 - n), 1, "rule {n} from the end");
        }
        let stopped = fate(&guard, Fate::Stopped);
        assert!(stopped >= u64::from(FLOOD), "{stopped} in the kernel");
    }
}

/// A rule that matches so often in a second does so in a flood that ends in the kernel too, and
/// those behind it see all others.
#[test]
fn limited_rules_match_as_often_as_they_say() {
    if !may() {
        return;
    }
    const RATE: u64 = 5;
    const BURST: u64 = 5;
    for ring in RINGS {
        let net = flood_net();
        let rules = [
            "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "-A FORWARD -p udp -m limit --limit 5/sec --limit-burst 5 -m udp --dport 7000",
            "-A FORWARD -p udp -m limit --limit 1/hour --limit-burst 2 -j LOG",
            "-A FORWARD -j DROP",
        ];
        let guard = guard(&net.router, ring, &filter(&rules));
        let mut source = source(&net, [10, 0, 0, 2]);
        let begun = Instant::now();
        let mut sent = begin(&guard, &net, &mut source);
        for _ in 0..10 {
            // After the pause one is let through, which programs hear of when a step is over.
            source.send(&net.outside, 10);
            sleep(Duration::from_millis(20));
            send(&net, &mut source, FLOOD / 10);
            sent += 10 + FLOOD / 10;
            sleep(Duration::from_millis(200));
        }
        let counted = |rule| guard.counted(Family::V4, rule);
        let all = || counted(3) == u64::from(sent);
        assert!(eventually(all), "{} of {sent}", counted(3));
        let most = BURST + RATE * begun.elapsed().as_millis() as u64 / 1000 + 1;
        // In the pauses the bucket fills no further than it goes.
        let limited = counted(1);
        assert!(limited <= most, "{limited} of {most}");
        assert!(limited >= 2 * BURST, "{limited} of {most}");
        assert_eq!(counted(2), 2);
        let stopped = fate(&guard, Fate::Stopped);
        assert!(
            stopped >= u64::from(FLOOD) * 9 / 10,
            "{stopped} in the kernel"
        );
    }
}

const fn forwards(ring: Ring) -> Fate {
    match ring {
        Ring::Packet => Fate::Forwarded,
        Ring::Xdp => Fate::Early,
    }
}

/// Rules that change in the middle count what is theirs, packet for packet.
#[test]
fn a_change_of_rules_in_a_flood_loses_no_count() {
    if !may() {
        return;
    }
    for ring in RINGS {
        let net = flood_net();
        let guard = guard(&net.router, ring, &filter(&STATEFUL));
        let mut source = source(&net, [10, 0, 0, 2]);
        let mut counted = 0;
        let mut sent = begin(&guard, &net, &mut source);
        for turn in 0..8 {
            send(&net, &mut source, 4 * STEP);
            sent += 4 * STEP;
            // The last packets of the turn have been looked at when no more are counted.
            let until = u64::from(sent) - counted;
            let all = || guard.counted(Family::V4, 2) == until;
            assert!(
                eventually(all),
                "turn {turn}: {} of {until}",
                guard.counted(Family::V4, 2)
            );
            counted += guard.counted(Family::V4, 2);
            guard.load(Family::V4, &filter(&STATEFUL));
        }
        // Each time the first ones come up, until programs have been made anew.
        assert!(fate(&guard, Fate::Stopped) > 1000);
    }
}

/// What the rules let in from one moment on gets in from that moment on, and back.
#[test]
fn new_rules_hold_from_their_acknowledgement_on() {
    if !may() {
        return;
    }
    let net = flood_net();
    let guard = guard(&net.router, Ring::Xdp, &filter(&STATEFUL));
    let mut source = source(&net, [10, 0, 0, 2]);
    let open = [&["-A FORWARD -p udp --dport 9 -j ACCEPT"], &STATEFUL[..]].concat();
    let there = at("10.0.0.2:9");
    let to = udp(&net.inside, there);
    for port in 0..6 {
        begin(&guard, &net, &mut source);
        let from = udp(&net.outside, at(&format!("10.1.0.2:{}", 5000 + port)));
        assert!(!reaches(&from, &to, there));
        guard.load(Family::V4, &filter(&open));
        talk(&from, &to, there, 1);
        // One that is known stays, whatever is dropped.
        guard.load(Family::V4, &filter(&STATEFUL));
        let before = fate(&guard, Fate::Stopped);
        assert!(eventually(|| {
            source.send(&net.outside, 10);
            fate(&guard, Fate::Stopped) > before
        }));
        talk(&from, &to, there, 1);
    }
}

/// Whose packets a rule drops, a set says: they end in the kernel, and what the set holds holds
/// from the change's acknowledgement on.
#[test]
fn changed_sets_hold_from_their_acknowledgement_on() {
    if !may() {
        return;
    }
    let net = flood_net();
    let rules = filter(&["-A FORWARD -m set --match-set bad src -j DROP"]);
    let guard = guard(&net.router, Ring::Xdp, &rules);
    let change = |change: fn(&mut Sets)| {
        let with = guard.datapath.with(move |engine, _| {
            change(all(engine.shared_mut()).unwrap());
        });
        with.unwrap();
    };
    change(|sets| {
        let kind = KINDS.iter().find(|k| k.name == "hash:net").unwrap();
        let set = Set::new(kind, Some(Family::V4), SetOptions::default());
        sets.create("bad", set).unwrap();
        let set = sets.get_mut("bad").unwrap();
        // A long list of others, as people have it of known attackers.
        let others = (0..50_000).map(|n| net_key(0xc600_0000 + 256 * n, 25));
        for member in [net_key(FLOOD_NET, 10), net_key(OUTSIDE, 32)]
            .into_iter()
            .chain(others)
        {
            set.add(member, &Change::default(), false, 0).unwrap();
        }
    });
    let mut source = source(&net, [10, 0, 0, 2]);
    let there = at("10.0.0.2:9");
    let to = udp(&net.inside, there);
    let mut sent = begin(&guard, &net, &mut source);
    let mut refused = 0;
    for port in 0..4 {
        let before = fate(&guard, Fate::Stopped);
        let in_kernel = eventually(|| {
            source.send(&net.outside, 10);
            sent += 10;
            fate(&guard, Fate::Stopped) > before
        });
        assert!(in_kernel, "{:?}", guard.datapath.report());
        let from = udp(&net.outside, at(&format!("10.1.0.2:{}", 5000 + port)));
        assert!(!reaches(&from, &to, there));
        refused += 1;
        change(|sets| {
            let set = sets.get_mut("bad").unwrap();
            set.del(&net_key(OUTSIDE, 32), 0).unwrap();
        });
        talk(&from, &to, there, 1);
        change(|sets| {
            let set = sets.get_mut("bad").unwrap();
            let member = net_key(OUTSIDE, 32);
            set.add(member, &Change::default(), false, 0).unwrap();
        });
    }
    let all = || guard.counted(Family::V4, 0) == u64::from(sent) + refused;
    assert!(
        eventually(all),
        "{} of {sent}",
        guard.counted(Family::V4, 0)
    );
}

/// Where floods come from, and the host outside.
const FLOOD_NET: u32 = 0x6440_0000;
const OUTSIDE: u32 = 0x0a01_0002;

fn net_key(addr: u32, len: u8) -> Key {
    let mut key = Key::default();
    (key.addrs[0], key.lengths[0]) = (addr.into(), len);
    key
}
