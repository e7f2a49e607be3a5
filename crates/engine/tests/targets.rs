//! Targets that speak to somebody: traces, audit records.

mod common;

use tidegate_engine::env::IfIndex;
use tidegate_engine::{Engine, Incoming, Outcome, Output};
use tidegate_wire::checksum;

use common::router_of_two;

/// UDP from 10.0.0.2 to 10.0.1.2, without checksum.
fn udp(port: u16) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2, 0x10, 0, 0, 0, 0, 8, 0,
        0,
    ];
    packet[22..24].copy_from_slice(&port.to_be_bytes());
    checksum::fix_ipv4(&mut packet);
    packet
}

fn receive(engine: &mut Engine, packet: Vec<u8>) -> Outcome {
    engine.receive(0, Incoming::on(IfIndex(2)), packet, &mut ())
}

fn lines(outcome: &Outcome) -> Vec<&str> {
    let mut lines = Vec::new();
    for output in &outcome.outputs {
        if let Output::Log { line, .. } = output {
            lines.push(line.as_str());
        }
    }
    lines
}

#[test]
fn traced_packets_tell_the_rules_they_meet() {
    let mut engine = router_of_two(
        "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -j TRACE
-A PREROUTING -p udp
COMMIT
*filter
:FORWARD DROP [0:0]
:u - [0:0]
:v - [0:0]
-A FORWARD -p tcp -j DROP
-A FORWARD -p udp -j u
-A FORWARD -p udp -m udp --dport 80 -j v
-A FORWARD -p udp -m udp --dport 81 -j ACCEPT
-A u -p tcp
-A v -p udp
-A v -j RETURN
COMMIT
",
    );
    let outcome = receive(&mut engine, udp(80));
    let places: Vec<_> = lines(&outcome)
        .iter()
        .filter_map(|l| l.strip_prefix("TRACE: ")?.split(' ').next())
        .collect();
    // As Linux 6.18 says of the same packet and rules.
    let wanted = [
        "raw:PREROUTING:rule:2",
        "raw:PREROUTING:policy:3",
        "filter:FORWARD:rule:2",
        "filter:u:return:2",
        "filter:FORWARD:rule:3",
        "filter:v:rule:1",
        "filter:v:return:2",
        "filter:FORWARD:policy:5",
    ];
    assert_eq!(places, wanted);
    assert_eq!(
        lines(&outcome)[2],
        "TRACE: filter:FORWARD:rule:2 IN=eth0 OUT=eth1 MAC= SRC=10.0.0.2 DST=10.0.1.2 LEN=28 TOS=0x00 PREC=0x00 TTL=63 ID=1 PROTO=UDP SPT=4096 DPT=80 LEN=8 "
    );
}

/// A comment is a match: what has one is a rule, not its chain's policy or return.
#[test]
fn a_rule_with_a_comment_alone_is_a_rule() {
    let mut engine = router_of_two(
        "*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -j TRACE
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j ACCEPT
COMMIT
*filter
:FORWARD DROP [0:0]
:u - [0:0]
-A FORWARD -p udp -j u
-A FORWARD -m comment --comment there -j ACCEPT
-A u -m comment --comment hi -j RETURN
COMMIT
",
    );
    let outcome = receive(&mut engine, udp(80));
    let places: Vec<_> = lines(&outcome)
        .iter()
        .filter_map(|l| l.strip_prefix("TRACE: ")?.split(' ').next())
        .filter(|l| l.starts_with("filter") || l.starts_with("mangle:PREROUTING"))
        .collect();
    // As Linux 6.18 says of such rules in OUTPUT.
    let wanted = [
        "mangle:PREROUTING:policy:1",
        "filter:FORWARD:rule:1",
        "filter:u:rule:1",
        "filter:FORWARD:rule:2",
    ];
    assert_eq!(places, wanted);
}

#[test]
fn audit_records_say_who_and_what() {
    let mut engine = router_of_two(
        "*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -j AUDIT --type drop
COMMIT
",
    );
    let outcome = receive(&mut engine, udp(80));
    // The fields of `audit_tg`.
    assert_eq!(
        lines(&outcome),
        ["audit: type=1324 mark=0x0 saddr=10.0.0.2 daddr=10.0.1.2 proto=17"]
    );
}
