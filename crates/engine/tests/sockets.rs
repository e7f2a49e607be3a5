//! Rules that ask for sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use tidegate_engine::env::IfIndex;
use tidegate_engine::{
    Config, Disposition, DropReason, Engine, Incoming, IpHeader, Listed, Owner, Socket, SocketList,
    ip_packet,
};
use tidegate_syntax::{Sockets, lower_knowing, parse_rules};
use tidegate_wire::{Family, proto};
use tidegate_xt::NoNames;

const OWN: u128 = 0x0a00_0001;
const HOST: u128 = 0x0a00_0002;
const BEYOND: u128 = 0x0a00_0102;

fn router(rules: &str) -> Engine {
    let interfaces = vec![
        common::interface(2, "eth0", 0x0a00_0001, 24),
        common::interface(3, "eth1", 0x0a00_0101, 24),
    ];
    let mut engine = common::router(Config::default(), interfaces);
    let parsed = parse_rules(rules, Family::V4, &NoNames).unwrap();
    let lowered = lower_knowing(&parsed, Sockets::All).unwrap();
    engine.load(Arc::new(lowered.ruleset));
    engine
}

fn udp(src: u128, dst: u128, dport: u16) -> Vec<u8> {
    let header = IpHeader {
        proto: proto::UDP,
        ttl: 64,
        tos: 0,
    };
    let ports = [1000u16.to_be_bytes(), dport.to_be_bytes()].concat();
    let rest = [0, 9, 0, 0, b'x'];
    ip_packet(
        Family::V4,
        (src, dst),
        header,
        &[&ports[..], &rest].concat(),
    )
}

fn counts(engine: &Engine) -> Vec<u64> {
    let rules = engine.rules(Family::V4).clone();
    let counter = |id| engine.counter(Family::V4, id).packets;
    rules.rules().map(|(_, _, rule)| counter(rule.id)).collect()
}

fn of(uid: u32) -> Socket {
    Socket::of(Some(Owner {
        uid,
        ..Owner::default()
    }))
}

/// What the router makes itself comes from a socket of the kernel's, which belongs to
/// nobody; a reset comes from none.
#[test]
fn senders_are_told_apart() {
    let mut engine = router(
        "*filter
-A FORWARD -p udp -j REJECT
-A OUTPUT -m owner --uid-owner 7
-A OUTPUT -m owner ! --uid-owner 7
-A OUTPUT -m owner --socket-exists
-A OUTPUT -m owner ! --socket-exists
COMMIT
",
    );
    for sender in [Some(of(7)), Some(of(7)), Some(of(8)), None] {
        let sender = sender.map(Arc::new);
        engine.send_as(0, udp(OWN, HOST, 9), 0, sender, &mut ());
    }
    assert_eq!(counts(&engine), [0, 2, 2, 3, 1]);
    // An ICMP error of the kernel's own.
    let incoming = Incoming::on(IfIndex(2));
    engine.receive(0, incoming, udp(HOST, BEYOND, 9), &mut ());
    assert_eq!(counts(&engine), [1, 2, 3, 4, 1]);
}

fn listed(port: u16, remote: Option<(u128, u16)>, uid: u32) -> Listed {
    Listed {
        family: Some(Family::V4),
        proto: proto::UDP,
        local: (None, Some(port)),
        remote,
        socket: Arc::new(Socket {
            transparent: true,
            connected: remote.is_some(),
            ..of(uid)
        }),
    }
}

#[test]
fn of_several_sockets_the_connected_one_sends() {
    let mut engine = router(
        "*filter
-A OUTPUT -m owner --uid-owner 1
-A OUTPUT -m owner --uid-owner 2
COMMIT
",
    );
    let list = vec![listed(1000, None, 1), listed(1000, Some((HOST, 9)), 2)];
    engine.set_sockets(Some(Box::new(SocketList::new(list))));
    for port in [9, 10, 11] {
        engine.send(0, udp(OWN, HOST, port), 0, &mut ());
    }
    assert_eq!(counts(&engine), [2, 1]);
}

/// Routing must bring the packet to the socket; the mark is for that.
#[test]
fn tproxy_drops_what_no_transparent_socket_takes() {
    let rules = "*mangle
-A PREROUTING -p udp -j TPROXY --on-port 3129 --tproxy-mark 1
COMMIT
";
    let mut engine = router(rules);
    let incoming = Incoming::on(IfIndex(2));
    let go = |engine: &mut Engine| {
        let outcome = engine.receive(0, incoming, udp(HOST, BEYOND, 80), &mut ());
        outcome.disposition
    };
    let nobody = go(&mut engine);
    assert!(
        matches!(nobody, Disposition::Dropped(DropReason::Target(_))),
        "{nobody:?}"
    );
    engine.set_sockets(Some(Box::new(SocketList::new(vec![listed(3129, None, 0)]))));
    let given = go(&mut engine);
    let elsewhere = Disposition::Dropped(DropReason::NotForwarding);
    assert_eq!(given, elsewhere);
}
