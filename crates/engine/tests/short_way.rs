//! Packets that look as if they could take the short way of an established flow, and must not.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Disposition, Engine, Incoming, IpHeader, Output, ip_packet};
use tidegate_wire::{Family, checksum, proto};

use common::{interface, lowered, router, router_of_two};

const CLIENT: u128 = 0x0a00_0002;
const SERVER: u128 = 0x0a00_0102;
const SYN: u8 = 2;
const ACK: u8 = 16;
const DATA: u8 = 24;

/// A packet of the client's, or the server's.
fn packet(back: bool, protocol: u8, mut l4: Vec<u8>) -> Vec<u8> {
    let ends = if back {
        (SERVER, CLIENT)
    } else {
        (CLIENT, SERVER)
    };
    let sum = checksum::pseudo(Family::V4, ends.0, ends.1, protocol, l4.len() as u32);
    let sum = checksum::finish(sum, &l4);
    let at = if protocol == proto::TCP { 16 } else { 6 };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let header = IpHeader {
        proto: protocol,
        ttl: 64,
        tos: 0,
    };
    ip_packet(Family::V4, ends, header, &l4)
}

fn segment(back: bool, ports: [u16; 2], at: [u32; 2], flags: u8, data: &str) -> Vec<u8> {
    let mut tcp: Vec<u8> = ports.iter().flat_map(|p| p.to_be_bytes()).collect();
    tcp.extend(at.iter().flat_map(|n| n.to_be_bytes()));
    tcp.extend([0x50, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    tcp.extend(data.as_bytes());
    packet(back, proto::TCP, tcp)
}

fn datagram(back: bool, ports: [u16; 2], data: &[u8]) -> Vec<u8> {
    let mut udp: Vec<u8> = ports.iter().flat_map(|p| p.to_be_bytes()).collect();
    udp.extend((8 + data.len() as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(data);
    packet(back, proto::UDP, udp)
}

fn receive(engine: &mut Engine, packet: Vec<u8>) -> (Disposition, Vec<Vec<u8>>) {
    let from = u32::from_be_bytes(packet[12..16].try_into().unwrap());
    let dev = IfIndex(if u128::from(from) == CLIENT { 2 } else { 3 });
    let outcome = engine.receive(1_000, Incoming::on(dev), packet, &mut ());
    let sent = outcome.outputs.into_iter().filter_map(|o| match o {
        Output::Transmit { bytes, .. } => Some(bytes),
        _ => None,
    });
    (outcome.disposition, sent.collect())
}

fn passes(engine: &mut Engine, packet: Vec<u8>) -> bool {
    receive(engine, packet).0 == Disposition::Sent
}

/// A connection keeps its helper when the rule that gave it one has gone, and the helper
/// reads what follows a plan.
#[test]
fn helpers_read_packets_of_planned_flows() {
    let given = "*raw\n-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\nCOMMIT\n";
    let rules = "*filter\n:FORWARD DROP\n\
        -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n\
        -A FORWARD -p tcp -m tcp --dport 21 -j ACCEPT\nCOMMIT\n";
    let mut engine = router_of_two(&format!("{given}{rules}"));
    let (control, back) = ([4000, 21], [21, 4000]);
    for packet in [
        segment(false, control, [100, 0], SYN, ""),
        segment(true, back, [500, 101], SYN | ACK, ""),
        segment(false, control, [101, 501], ACK, ""),
    ] {
        assert!(passes(&mut engine, packet));
    }
    engine.load(lowered(rules, Family::V4));
    for packet in [
        segment(true, back, [501, 101], DATA, "220 ready\r\n"),
        segment(false, control, [101, 512], DATA, "NOOP\r\n"),
        segment(true, back, [512, 107], DATA, "200 ok\r\n"),
        segment(false, control, [107, 520], DATA, "PASV\r\n"),
        segment(
            true,
            back,
            [520, 113],
            DATA,
            "227 Entering Passive Mode (10,0,1,2,118,209)\r\n",
        ),
    ] {
        assert!(passes(&mut engine, packet));
    }
    assert!(engine.followed() > 0);
    let data = segment(false, [4001, 30417], [900, 0], SYN, "");
    assert!(passes(&mut engine, data));
}

/// What tracking ignores is logged, if that is asked for, whatever plan the flow has
/// (`nf_conntrack_log_invalid`).
#[test]
fn what_is_ignored_of_planned_flows_is_logged() {
    let rules = "*filter\n:FORWARD DROP\n\
        -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
        -A FORWARD -p tcp -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
    let mut config = Config::default();
    config.conntrack.log_invalid = proto::TCP;
    let interfaces = vec![
        interface(2, "eth0", 0x0a00_0001, 24),
        interface(3, "eth1", 0x0a00_0101, 24),
    ];
    let mut engine = router(config, interfaces);
    engine.load(lowered(rules, Family::V4));
    let (forth, back) = ([4000, 80], [80, 4000]);
    for packet in [
        segment(false, forth, [100, 0], SYN, ""),
        segment(true, back, [500, 101], SYN | ACK, ""),
        segment(false, forth, [101, 501], ACK, ""),
        segment(false, forth, [101, 501], DATA, "x"),
        segment(true, back, [501, 102], DATA, "y"),
    ] {
        assert!(passes(&mut engine, packet));
    }
    assert!(engine.followed() > 0);
    let again = segment(false, forth, [9000, 0], SYN, "");
    let outcome = engine.receive(1_000, Incoming::on(IfIndex(2)), again, &mut ());
    let logged = |o: &Output| matches!(o, Output::Log { line, .. } if line.contains("ignored"));
    assert_eq!(outcome.outputs.iter().filter(|o| logged(o)).count(), 1);
}

/// Fragments of a known flow are put together before anybody looks at them.
#[test]
fn fragments_of_planned_flows_are_reassembled() {
    let rules = "*filter\n:FORWARD DROP\n\
        -A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
        -A FORWARD -p udp -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";
    let mut engine = router_of_two(rules);
    let ports = [4000, 53];
    for _ in 0..3 {
        assert!(passes(&mut engine, datagram(false, ports, b"question")));
        assert!(passes(&mut engine, datagram(true, [53, 4000], b"answer")));
    }
    let followed = engine.followed();
    assert!(followed > 0);
    let whole = datagram(false, ports, &[7; 56]);
    let [first, last] = cut(&whole, 40);
    assert_eq!(receive(&mut engine, first), (Disposition::Held, vec![]));
    let (fate, sent) = receive(&mut engine, last);
    assert_eq!(fate, Disposition::Sent);
    // It leaves in the pieces that it came in.
    let data: Vec<u8> = sent.iter().flat_map(|p| p[20..].to_vec()).collect();
    assert_eq!((sent.len(), &data[..]), (2, &whole[20..]));
}

/// Plans say how long a packet the link takes, for as long as it takes that.
#[test]
fn packets_of_planned_flows_that_are_too_long_are_refused() {
    let rules = "*filter\n:FORWARD ACCEPT\n-A FORWARD -m conntrack --ctstate ESTABLISHED\nCOMMIT\n";
    let mut engine = router_of_two(rules);
    let long = datagram(false, [4000, 53], &[7; 900]);
    for (mtu, passed) in [(928, true), (927, false), (1500, true)] {
        let mut outside = interface(3, "eth1", 0x0a00_0101, 24);
        outside.mtu = mtu;
        let inside = interface(2, "eth0", 0x0a00_0001, 24);
        let env = router(Config::default(), vec![inside, outside])
            .env()
            .clone();
        engine.set_env(env);
        for _ in 0..3 {
            assert!(passes(&mut engine, datagram(false, [4000, 53], b"short")));
            assert!(passes(&mut engine, datagram(true, [53, 4000], b"answer")));
            assert_eq!(passes(&mut engine, long.clone()), passed, "{mtu}");
        }
    }
    assert!(engine.followed() > 0);
}

/// Two fragments, the first with so many bytes behind the header.
fn cut(whole: &[u8], at: usize) -> [Vec<u8>; 2] {
    let piece = |from: usize, to: usize, word: u16| {
        let mut bytes = whole[..20].to_vec();
        bytes.extend(&whole[20 + from..20 + to]);
        let len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        checksum::fix_ipv4(&mut bytes);
        bytes
    };
    let rest = whole.len() - 20;
    [piece(0, at, 0x2000), piece(at, rest, at as u16 / 8)]
}
