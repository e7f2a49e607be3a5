//! Connections that a helper announced, after the one that announced them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use tidegate_engine::conntrack::{Tuple, Zone};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Disposition, Engine, Incoming, IpHeader, ip_packet};
use tidegate_wire::{Family, checksum, parse, proto};

use common::router_of_two;

const RULES: &str = "*raw
-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp
COMMIT
*filter
:FORWARD DROP [0:0]
-A FORWARD -p tcp -m tcp --dport 21 -j ACCEPT
-A FORWARD -p tcp -m tcp --sport 21 -j ACCEPT
-A FORWARD -m helper --helper ftp -j ACCEPT
COMMIT
";

const CLIENT: u128 = 0x0a00_0002;
const SERVER: u128 = 0x0a00_0102;
const SYN: u8 = 2;
const ACK: u8 = 16;
const DATA: u8 = 24;

/// A segment of the client's, or the server's.
fn segment(back: bool, ports: (u16, u16), at: (u32, u32), flags: u8, data: &str) -> Vec<u8> {
    let ends = if back {
        (SERVER, CLIENT)
    } else {
        (CLIENT, SERVER)
    };
    let mut tcp = Vec::new();
    tcp.extend(ports.0.to_be_bytes());
    tcp.extend(ports.1.to_be_bytes());
    tcp.extend(at.0.to_be_bytes());
    tcp.extend(at.1.to_be_bytes());
    tcp.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    tcp.extend(data.as_bytes());
    let len = tcp.len() as u32;
    let sum = checksum::pseudo(Family::V4, ends.0, ends.1, proto::TCP, len);
    let sum = checksum::finish(sum, &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let header = IpHeader {
        proto: proto::TCP,
        ttl: 64,
        tos: 0,
    };
    ip_packet(Family::V4, ends, header, &tcp)
}

fn passes(engine: &mut Engine, packet: Vec<u8>) -> bool {
    let from = u32::from_be_bytes(packet[12..16].try_into().unwrap());
    let dev = IfIndex(if u128::from(from) == CLIENT { 2 } else { 3 });
    let outcome = engine.receive(1_000, Incoming::on(dev), packet, &mut ());
    outcome.disposition == Disposition::Sent
}

/// The kernel's connection holds the one that announced it for as long as it lives, and
/// `helper_mt` asks that one.
#[test]
fn the_helper_is_known_when_its_connection_has_gone() {
    let (control, back) = ((4000, 21), (21, 4000));
    let passive = "227 Entering Passive Mode (10,0,1,2,118,209)\r\n";
    let (data, answer) = ((4001, 30417), (30417, 4001));
    let mut engine = router_of_two(RULES);
    let opening = segment(false, control, (100, 0), SYN, "");
    let layout = parse(&opening).unwrap();
    let tuple = Tuple::from_packet(&opening, &layout).unwrap();
    for packet in [
        opening,
        segment(true, back, (500, 101), SYN | ACK, ""),
        segment(false, control, (101, 501), ACK, ""),
        segment(true, back, (501, 101), DATA, "220 ready\r\n"),
        segment(false, control, (101, 512), DATA, "PASV\r\n"),
        segment(true, back, (512, 107), DATA, passive),
        segment(false, data, (900, 0), SYN, ""),
        segment(true, answer, (700, 901), SYN | ACK, ""),
    ] {
        assert!(passes(&mut engine, packet));
    }
    let (master, _) = engine.conntrack().find(&tuple, Zone::default()).unwrap();
    assert!(engine.conntrack_mut().delete(master));
    assert!(passes(
        &mut engine,
        segment(false, data, (901, 701), ACK, "")
    ));
    assert!(engine.conntrack().entry(master).is_none());
    assert!(passes(
        &mut engine,
        segment(true, answer, (701, 901), DATA, "x")
    ));
    // Without a helper that announced it, nothing passes.
    assert!(!passes(
        &mut engine,
        segment(false, (4002, 30418), (1, 0), SYN, "")
    ));
}
