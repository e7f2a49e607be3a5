//! Memory taken per packet once connections are established: none; and by rules: little.

mod common;

use std::sync::Arc;

use allocation_counter::measure;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Disposition, Engine, Incoming, Ready, TrackWhen};
use tidegate_ir::Ruleset;
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::{Family, checksum, proto};
use tidegate_xt::NoNames;

use common::{interface, router};

const RULES: &str = "*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:web - [0:0]
-A FORWARD -m conntrack --ctstate INVALID -j DROP
-A FORWARD -j web
-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A web -p tcp -m tcp --dport 80 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A POSTROUTING -o eth1 -j MASQUERADE
COMMIT
";

const CLIENT: u32 = 0x0a00_0002;
const SERVER: u32 = 0x0a01_0002;
const ROUTER: u32 = 0x0a01_0001;

fn router_with(rules: Ruleset) -> Engine {
    let interfaces = vec![
        interface(2, "eth0", 0x0a00_0001, 24),
        interface(3, "eth1", ROUTER, 24),
    ];
    let mut engine = router(Config::default(), interfaces);
    engine.load(Arc::new(rules));
    engine
}

/// A TCP segment from the client, or to it as the router's outside sees it.
fn segment(from_client: bool, flags: u8, seq: u32, ack: u32, buffer: &mut Vec<u8>) {
    let (src, dst, ports) = if from_client {
        (CLIENT, SERVER, [4000u16, 80])
    } else {
        (SERVER, ROUTER, [80, 4000])
    };
    buffer.clear();
    buffer.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, proto::TCP, 0, 0]);
    buffer.extend(src.to_be_bytes());
    buffer.extend(dst.to_be_bytes());
    buffer.extend(ports.iter().flat_map(|p| p.to_be_bytes()));
    buffer.extend(seq.to_be_bytes());
    buffer.extend(ack.to_be_bytes());
    buffer.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    checksum::fix_ipv4(buffer);
    let pseudo = checksum::pseudo(Family::V4, src.into(), dst.into(), proto::TCP, 20);
    let check = checksum::finish(pseudo, &buffer[20..]);
    buffer[36..38].copy_from_slice(&check.to_be_bytes());
}

#[test]
fn established_packets_take_no_memory() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let rules = parse_rules(RULES, Family::V4, &NoNames).unwrap();
    let mut engine = router_with(lower(&rules).unwrap().ruleset);
    let mut now = 1_700_000_000_000_000_000;
    let mut buffer = Vec::with_capacity(64);
    let mut pass = |from_client, flags, seq, ack| {
        segment(from_client, flags, seq, ack, &mut buffer);
        now += 1_000_000;
        let dev = IfIndex(if from_client { 2 } else { 3 });
        let bytes = std::mem::take(&mut buffer);
        let outcome = engine.receive(now, Incoming::on(dev), bytes, &mut ());
        assert_eq!(outcome.disposition, Disposition::Sent);
        buffer = engine.recycle(outcome.outputs).unwrap();
    };
    let opening = measure(|| pass(true, SYN, 0, 0));
    assert!(opening.count_total > 0, "memory is counted");
    pass(false, SYN | ACK, 0, 1);
    pass(true, ACK, 1, 1);
    let counted = measure(|| {
        for _ in 0..500 {
            pass(false, ACK, 1, 1);
            pass(true, ACK, 1, 1);
        }
    });
    assert_eq!(counted.count_total, 0);
}

/// Bytes that a rule takes in an engine, of `count` in one chain.
fn bytes_per_rule(count: u32, rule: impl Fn(u32) -> String) -> u64 {
    let lines: String = (0..count)
        .map(|n| format!("-A FORWARD {} -j ACCEPT\n", rule(n)))
        .collect();
    let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n{lines}COMMIT\n");
    let source = parse_rules(&text, Family::V4, &NoNames).expect("rules");
    let mut ready = None;
    let measured = measure(|| {
        let ruleset = lower(&source).expect("rules without loops").ruleset;
        ready = Some(Ready::new(Arc::new(ruleset), TrackWhen::Needed, 7));
    });
    drop(ready);
    u64::try_from(measured.bytes_current).expect("memory is taken") / u64::from(count)
}

/// 100,000 rules are to fit in 30 MB, and in 100 MB if they are the worst ones.
#[test]
fn rules_take_little_memory() {
    let host = |n: u32| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
    let usual = |n| format!("-s {} -p tcp -m tcp --dport {}", host(n), n % 60_000);
    let bytes = bytes_per_rule(20_000, usual);
    assert!(bytes < 300, "{bytes} bytes a rule");
    // Ranges that lie across all cuts, and lists of ports with as many places as there can be.
    let spans = |n: u32| {
        format!(
            "-p udp -m udp --sport {n}:{} --dport {n}:{}",
            n + 9,
            n * 2 + 1
        )
    };
    let lists = |n: u32| {
        let ports: Vec<String> = (0..15)
            .map(|i| ((n * 31 + i * 4111) % 65_536).to_string())
            .collect();
        format!(
            "-d {} -p tcp -m multiport --dports {}",
            host(n % 9),
            ports.join(",")
        )
    };
    for bytes in [bytes_per_rule(20_000, spans), bytes_per_rule(20_000, lists)] {
        assert!(bytes < 1_000, "{bytes} bytes a rule");
    }
}
