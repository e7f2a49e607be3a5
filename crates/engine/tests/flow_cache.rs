//! The flow cache against an engine that walks every table for every packet.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use tidegate_engine::conntrack::{Config as CtConfig, Dir, SECOND};
use tidegate_engine::env::{
    Env, IfIndex, Interface, PolicyRule, Prefix, Route, RouteType, Settings,
};
use tidegate_engine::{
    Config, Engine, Incoming, Trace, TraceEvent, TrackWhen, Unplanned, Withheld,
};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::{Family, checksum, proto};
use tidegate_xt::NoNames;

/// Watching switches the cache off.
struct Watching;

impl Trace for Watching {
    const ACTIVE: bool = true;
    fn event(&mut self, _: TraceEvent<'_>) {}
}

/// Rules with everything that a cached decision could get wrong: tests of fields that
/// differ from packet to packet, marks, stateful tests, jumps, connection marks.
const RULES: &[&str] = &[
    "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    "-A FORWARD -p tcp --tcp-flags ALL ACK -j ACCEPT",
    "-A FORWARD -p tcp ! --syn -m length --length 60:100 -j ACCEPT",
    "-A FORWARD -p tcp --tcp-flags FIN FIN -j DROP",
    "-A FORWARD -m tos --tos 0x10/0xff -j more",
    "-A FORWARD -m ttl --ttl-lt 40 -j DROP",
    "-A FORWARD -m limit --limit 1/sec --limit-burst 4 -j ACCEPT",
    "-A FORWARD -m statistic --mode nth --every 3 --packet 0 -j more",
    "-A FORWARD -m connmark --mark 3 -j ACCEPT",
    "-A FORWARD -m mark --mark 7 -j ACCEPT",
    "-A FORWARD -i in0 -p udp -j ACCEPT",
    "-A FORWARD -o out0 -m conntrack --ctstatus ASSURED -j ACCEPT",
    "-A FORWARD -m conntrack --ctdir REPLY -j more",
    "-A FORWARD -m conntrack --ctexpire 1:30 -j ACCEPT",
    "-A FORWARD -p icmp -m icmp --icmp-type echo-reply -j ACCEPT",
    "-A FORWARD -j LOG --log-prefix x",
    "-A FORWARD -p tcp -m tcp --tcp-option 8 -j more",
    "-A FORWARD -p tcp -m multiport --dports 80,443 -j ACCEPT",
    "-A FORWARD -s 10.0.0.0/30 -j RETURN",
    "-A more -p tcp -j ACCEPT",
    "-A more -m mark ! --mark 0 -j ACCEPT",
    "-A more -m length --length 1000: -j DROP",
    "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
    "-A INPUT -p udp -j REJECT",
    "-A OUTPUT -m conntrack --ctstate ESTABLISHED -m length --length :70 -j DROP",
];

const MANGLE: &[&str] = &[
    "-A PREROUTING -p tcp -j MARK --set-mark 7",
    "-A PREROUTING -m length --length 80: -j MARK --set-mark 5",
    "-A PREROUTING -j CONNMARK --restore-mark",
    "-A PREROUTING -p udp -j CONNMARK --set-mark 3",
    "-A POSTROUTING -j CONNMARK --save-mark",
    "-A FORWARD -p tcp -j TOS --set-tos 0x10",
    "-A FORWARD -m mark --mark 5 -j MARK --or-mark 2",
    "-A POSTROUTING -p icmp -j DSCP --set-dscp 8",
    "-A FORWARD -m ttl --ttl-eq 63 -j ACCEPT",
    "-A OUTPUT -m tos --tos 0/0xff -j MARK --set-mark 1",
    "-A OUTPUT -p udp -m length --length 40: -j MARK --set-mark 0",
    "-A POSTROUTING -o out9 -j ACCEPT",
];

const NAT: &[&str] = &[
    "-A POSTROUTING -o out0 -j MASQUERADE",
    "-A PREROUTING -p tcp --dport 80 -j DNAT --to-destination 10.9.0.7:443",
    "-A OUTPUT -p udp -j DNAT --to-destination 10.9.0.8",
];

const RAW: &[&str] = &[
    "-A PREROUTING -p udp --dport 80 -m length --length 90: -j NOTRACK",
    "-A PREROUTING -p tcp -j ACCEPT",
];

fn picked(rules: &[&str], pick: u64, base: &str) -> String {
    let chosen = rules.iter().enumerate().filter(|(i, _)| pick >> i & 1 == 1);
    let lines: String = chosen.map(|(_, r)| format!("{r}\n")).collect();
    format!("{base}{lines}COMMIT\n")
}

fn rules(pick: [u64; 4]) -> Arc<tidegate_ir::Ruleset> {
    let policy = if pick[0] >> 60 & 1 == 1 {
        "DROP"
    } else {
        "ACCEPT"
    };
    let mut text = picked(
        RULES,
        pick[0],
        &format!("*filter\n:FORWARD {policy} [0:0]\n:more - [0:0]\n"),
    );
    text += &picked(MANGLE, pick[1], "*mangle\n");
    if pick[2] & 8 != 0 {
        text += &picked(NAT, pick[2], "*nat\n");
    }
    if pick[3] & 4 != 0 {
        text += &picked(RAW, pick[3], "*raw\n");
    }
    let source = parse_rules(&text, Family::V4, &NoNames).unwrap();
    Arc::new(lower(&source).unwrap().ruleset)
}

fn interface(index: u32, name: &str, addr: u32, len: u8, mtu: u32) -> Interface {
    Interface {
        index: IfIndex(index),
        name: name.to_owned(),
        addresses: vec![Prefix {
            family: Family::V4,
            addr: u128::from(addr),
            len,
        }],
        group: 0,
        mtu,
        mac: None,
        loopback: false,
    }
}

const IN: IfIndex = IfIndex(2);
const OUT: IfIndex = IfIndex(3);
const SERVER: u32 = 0x0a09_0007;
const OWN: u32 = 0x0a00_0001;

/// Surroundings: usual, a narrow link, the server behind another interface, no router.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Usual,
    Narrow,
    Elsewhere,
    Closed,
}

fn env(place: Place) -> Arc<Env> {
    let (index, name) = match place {
        Place::Elsewhere => (4, "out1"),
        _ => (3, "out0"),
    };
    let mtu = if place == Place::Narrow { 600 } else { 1500 };
    let interfaces = vec![
        interface(2, "in0", OWN, 24, 1500),
        interface(index, name, 0x0a09_0001, 24, mtu),
        interface(9, "out9", 0x0a63_0001, 24, 1500),
    ];
    // Marked packets have a way of their own.
    let other = Route {
        to: Prefix {
            family: Family::V4,
            addr: 0,
            len: 0,
        },
        table: 10,
        kind: RouteType::Unicast,
        dev: Some(IfIndex(9)),
        via: Some(0x0a63_0002),
        src: None,
        realm: 0,
        metric: 0,
    };
    let marked = PolicyRule {
        family: Family::V4,
        priority: 100,
        fwmark: Some((1, 3)),
        from: None,
        table: 10,
    };
    let settings = Settings {
        forward4: place != Place::Closed,
        ..Settings::default()
    };
    Arc::new(Env::new(interfaces, &[other], &[marked], settings))
}

#[derive(Clone, Debug)]
struct Shape {
    flow: u8,
    reply: bool,
    flags: u8,
    tos: u8,
    ttl: u8,
    payload: u16,
    mark: u32,
    stray: bool,
    /// Each router on its way is to write its address down.
    recorded: bool,
}

/// An option with room for one address (RFC 791 section 3.1, record route), and its end.
const RECORD: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];

#[derive(Clone, Debug)]
enum Step {
    Packet(Shape),
    Wait(u32),
    Rules([u64; 4]),
    Place(Place),
    Flush,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shape = (
        0u8..6,
        any::<bool>(),
        prop::sample::select(vec![0x02u8, 0x12, 0x10, 0x10, 0x10, 0x18, 0x18, 0x11, 0x04]),
        prop::sample::select(vec![0u8, 0, 0, 0x10]),
        prop::sample::select(vec![64u8, 64, 64, 1, 30]),
        prop::sample::select(vec![0u16, 0, 20, 60, 900, 1400]),
        prop::sample::select(vec![0u32, 0, 7]),
        prop::sample::select(vec![false, false, false, false, true]),
        prop::bool::weighted(0.1),
    );
    let shape = shape.prop_map(
        |(flow, reply, flags, tos, ttl, payload, mark, stray, recorded)| Shape {
            recorded,
            mark,
            stray,
            flow,
            reply,
            flags,
            tos,
            ttl,
            payload,
        },
    );
    let step = prop_oneof![
        40 => shape.prop_map(Step::Packet),
        3 => (0u32..4000).prop_map(Step::Wait),
        2 => any::<[u64; 4]>().prop_map(Step::Rules),
        1 => prop::sample::select(vec![
            Place::Usual, Place::Usual, Place::Narrow, Place::Elsewhere, Place::Closed
        ]).prop_map(Step::Place),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 10..120)
}

/// Sequence numbers of a TCP flow, so that segments stay in the window.
#[derive(Clone, Copy, Default)]
struct Sent([u32; 2]);

fn packet(shape: &Shape, sent: &mut Sent, plain: &Engine) -> Vec<u8> {
    let client = 0x0a00_0002 + u32::from(shape.flow);
    let server = if shape.flow == 5 { OWN } else { SERVER };
    let protocol = [
        proto::TCP,
        proto::TCP,
        proto::UDP,
        proto::UDP,
        proto::ICMP,
        proto::UDP,
    ][usize::from(shape.flow)];
    let port = if shape.flow.is_multiple_of(2) {
        80u16
    } else {
        443
    };
    let mut ends = ((client, 4000), (server, port));
    if shape.reply {
        // As the other end sees the connection, behind the translation.
        let tracked = plain.conntrack().iter().map(|(_, e)| e).find(|e| {
            let t = e.tuple(Dir::Original);
            (t.src, t.proto) == (u128::from(client), protocol)
        });
        ends = match tracked.map(|e| *e.tuple(Dir::Reply)) {
            Some(t) if protocol != proto::ICMP => {
                ((t.src as u32, t.src_id), (t.dst as u32, t.dst_id))
            }
            Some(t) => ((t.src as u32, 0), (t.dst as u32, 0)),
            None => (ends.1, ends.0),
        };
    }
    let ((src, sport), (dst, dport)) = ends;
    let mut l4 = Vec::new();
    match protocol {
        proto::TCP => {
            let (me, you) = (usize::from(shape.reply), usize::from(!shape.reply));
            l4.extend(sport.to_be_bytes());
            l4.extend(dport.to_be_bytes());
            l4.extend((1000 + sent.0[me]).to_be_bytes());
            let ack = if shape.flags & 0x10 != 0 {
                1000 + sent.0[you]
            } else {
                0
            };
            l4.extend(ack.to_be_bytes());
            l4.extend([0x50, shape.flags, 0xff, 0xff, 0, 0, 0, 0]);
            let control = u32::from(shape.flags & 0x03 != 0);
            sent.0[me] += control + u32::from(shape.payload);
        }
        proto::ICMP => l4.extend([if shape.reply { 0 } else { 8 }, 0, 0, 0, 0, 9, 0, 1]),
        _ => {
            l4.extend(sport.to_be_bytes());
            l4.extend(dport.to_be_bytes());
            l4.extend((8 + shape.payload).to_be_bytes());
            l4.extend([0, 0]);
        }
    }
    l4.resize(l4.len() + usize::from(shape.payload), 0);
    let at = match protocol {
        proto::TCP => 16,
        proto::ICMP => 2,
        _ => 6,
    };
    let pseudo = if protocol == proto::ICMP {
        Vec::new()
    } else {
        let mut p = src.to_be_bytes().to_vec();
        p.extend(dst.to_be_bytes());
        p.extend([0, protocol]);
        p.extend((l4.len() as u16).to_be_bytes());
        p
    };
    let sum = fold(&[pseudo, l4.clone()].concat());
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let options: &[u8] = if shape.recorded { &RECORD } else { &[] };
    let header = 20 + options.len();
    let mut ip = vec![0x40 | (header / 4) as u8, shape.tos];
    ip.extend(((header + l4.len()) as u16).to_be_bytes());
    ip.extend([0, 0, 0, 0, shape.ttl, protocol, 0, 0]);
    ip.extend(src.to_be_bytes());
    ip.extend(dst.to_be_bytes());
    ip.extend(options);
    let sum = fold(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip.extend(l4);
    ip
}

fn fold(bytes: &[u8]) -> u16 {
    checksum::finish(0, bytes)
}

fn engine() -> Engine {
    let config = Config {
        conntrack: CtConfig {
            acct: true,
            ..CtConfig::default()
        },
        track: TrackWhen::Always,
        ..Config::default()
    };
    Engine::new(config, env(Place::Usual))
}

/// All that is known of the connections.
fn connections(engine: &Engine) -> Vec<String> {
    let all = engine.conntrack().iter().map(|(_, e)| {
        let known = (e.tuples, e.timeout, e.status, e.mark, e.pending);
        format!("{known:?} {:?} {:?}", e.proto, e.counters)
    });
    all.collect()
}

/// Runs the steps through both engines; returns how many packets followed a plan.
fn agree(first: [u64; 4], steps: &[Step]) -> u64 {
    let (mut cached, mut plain) = (engine(), engine());
    let mut now = 1_000 * SECOND;
    let mut sent = [Sent::default(); 6];
    let mut ids = 0;
    let mut load = |cached: &mut Engine, plain: &mut Engine, pick| {
        let ruleset = rules(pick);
        ids = ruleset.rule_ids;
        cached.load(ruleset.clone());
        plain.load(ruleset);
        ids
    };
    let mut count = load(&mut cached, &mut plain, first);
    for step in steps {
        match step {
            Step::Packet(shape) => {
                let bytes = packet(shape, &mut sent[usize::from(shape.flow)], &plain);
                let local = shape.flow == 5 && shape.reply;
                let (a, b) = if local {
                    (
                        cached.send(now, bytes.clone(), shape.mark, &mut ()),
                        plain.send(now, bytes, shape.mark, &mut Watching),
                    )
                } else {
                    let incoming = Incoming::on(if shape.reply != shape.stray { OUT } else { IN });
                    (
                        cached.receive(now, incoming, bytes.clone(), &mut ()),
                        plain.receive(now, incoming, bytes, &mut Watching),
                    )
                };
                assert_eq!(a.disposition, b.disposition, "{shape:?}");
                assert_eq!(a.outputs, b.outputs, "{shape:?}");
                for id in 0..count {
                    let id = tidegate_ir::RuleId(id);
                    assert_eq!(
                        cached.counter(Family::V4, id),
                        plain.counter(Family::V4, id),
                        "rule {id:?} after {shape:?}"
                    );
                }
            }
            Step::Wait(ms) => now += u64::from(*ms) * 1_000_000,
            Step::Rules(pick) => count = load(&mut cached, &mut plain, *pick),
            Step::Place(place) => {
                cached.set_env(env(*place));
                plain.set_env(env(*place));
            }
            Step::Flush => {
                cached.conntrack_mut().flush();
                plain.conntrack_mut().flush();
            }
        }
        assert_eq!(cached.conntrack().count(), plain.conntrack().count());
    }
    assert_eq!(connections(&cached), connections(&plain));
    assert_eq!(plain.followed(), 0);
    cached.followed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("TIDEGATE_FLOW_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000)
    ))]
    #[test]
    fn the_cache_changes_nothing(first in any::<[u64; 4]>(), steps in steps()) {
        agree(first, &steps);
    }
}

fn shape(flow: u8, reply: bool, flags: u8) -> Step {
    Step::Packet(Shape {
        flow,
        reply,
        flags,
        tos: 0,
        ttl: 64,
        payload: 0,
        mark: 0,
        stray: false,
        recorded: false,
    })
}

/// A handshake, then ten acknowledgements each way.
fn talk(flow: u8) -> Vec<Step> {
    let mut steps = vec![shape(flow, false, 2), shape(flow, true, 0x12)];
    for n in 0..20 {
        steps.push(shape(flow, n % 2 == 1, 0x10));
    }
    steps
}

#[test]
fn established_packets_follow_the_first_of_their_direction() {
    // ESTABLISHED accepted; nothing else.
    assert_eq!(agree([1, 0, 0, 0], &talk(1)), 19);
    // Flags are tested again on each packet; SYN,ACK is no model for ACK.
    assert_eq!(agree([0b1110, 0, 0, 0], &talk(1)), 18);
    // Translated connections, too.
    assert_eq!(agree([1, 0, 0b1011, 0], &talk(1)), 19);
    // A constant mark and a rule that reads it.
    assert_eq!(agree([1 << 9, 1, 0, 0], &talk(1)), 19);
}

#[test]
fn stateful_tests_are_asked_for_every_packet() {
    assert_eq!(agree([1 << 6, 0, 0, 0], &talk(1)), 0);
    assert_eq!(agree([1 << 7 | 1 << 19, 0, 0, 0], &talk(1)), 0);
}

#[test]
fn a_connection_remembers_why_it_has_no_plan() {
    let mut engine = engine();
    engine.load(rules([1 << 6, 0, 0, 0]));
    let mut sent = Sent::default();
    for step in talk(1) {
        let Step::Packet(shape) = step else { continue };
        let bytes = packet(&shape, &mut sent, &engine);
        let incoming = Incoming::on(if shape.reply { OUT } else { IN });
        engine.receive(1_000 * SECOND, incoming, bytes, &mut ());
    }
    let (id, _) = engine.conntrack().iter().next().unwrap();
    for dir in Dir::BOTH {
        let why = engine.offer_of(id, dir).err();
        assert_eq!(why, Some(Withheld::Unplanned(Unplanned::Stateful)));
    }
}
