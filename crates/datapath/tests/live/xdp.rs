//! Frames that come by `AF_XDP`. With `TIDEGATE_RING=xdp` all other tests take them so as
//! well, where they can.

use std::net::SocketAddr;

use tidegate_datapath::{Options, Ring};
use tidegate_sys::{FramePort, OutFrame, PacketOptions, PacketSocket};
use tidegate_wire::{Family, checksum, proto};

use crate::net::{Guard, Host, able, eventually, filter, skipped};
use crate::router::{Net, net};
use crate::talk::{megabytes, reaches, udp};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Whether we are root of the machine, and not of a user namespace.
fn machines_root() -> bool {
    let all = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    all.split_whitespace().nth(2) == Some("4294967295")
}

fn may() -> bool {
    if able() && !machines_root() {
        skipped("programs are loaded by the machine's root only");
    }
    able() && machines_root()
}

fn guard(host: &Host, rules: &str) -> Guard {
    let options = Options {
        ring: Ring::Xdp,
        ..Options::default()
    };
    host.guard_with(options, rules, rules)
}

/// Whether there is a program at an interface of `host`.
fn attached(host: &Host, name: &str) -> bool {
    let said = host.sh(&format!("ip -d link show {name}"));
    said.contains("prog/xdp")
}

/// What is said about interfaces that have none.
fn notes(guard: &Guard) -> Vec<String> {
    let mut notes = guard.datapath.report().notes;
    notes.retain(|n| n.contains("AF_XDP"));
    notes
}

/// Both families, each way, TCP with what the sender's card is to complete; a program at
/// both interfaces as long as they are guarded.
#[test]
fn forwards() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let rules = filter(&[
        "-A FORWARD -p udp --dport 9 -j DROP",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
    ]);
    let guard = guard(&net.router, &rules);
    assert_eq!(notes(&guard), [""; 0]);
    for name in ["eth0", "eth1"] {
        assert!(attached(&net.router, name), "{name}");
    }
    for (near, far) in [("10.0.0.2", "10.1.0.2"), ("[fd00::2]", "[fd01::2]")] {
        megabytes(&net.inside, &net.outside, at(&format!("{far}:80")));
        megabytes(&net.outside, &net.inside, at(&format!("{near}:80")));
        let from = udp(&net.inside, at(&format!("{near}:0")));
        for (port, passes) in [(7, true), (9, false)] {
            let to = at(&format!("{far}:{port}"));
            assert_eq!(reaches(&from, &udp(&net.outside, to), to), passes, "{to}");
        }
    }
    for to in ["10.1.0.2", "fd01::2", "10.0.0.1", "fd00::1"] {
        assert!(net.inside.pings(to, 4000), "{to}");
    }
    for family in [Family::V4, Family::V6] {
        assert_eq!(guard.counted(family, 0), 1);
        assert_eq!(guard.counted(family, 1), 0);
    }
    guard.datapath.stop().unwrap();
    for name in ["eth0", "eth1"] {
        assert!(!attached(&net.router, name), "{name}");
    }
    assert!(net.inside.pings("10.1.0.2", 56));
}

/// From 10.0.0.2 to UDP port 7 of 10.1.0.2, for Ethernet address `to`.
fn datagram(to: [u8; 6], spoil: impl FnOnce(u16, u16) -> u16) -> OutFrame {
    let mut head = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0];
    head[..6].copy_from_slice(&to);
    let mut body = vec![0x45, 0, 0, 33, 0, 0, 0x40, 0, 64, 17, 0, 0];
    body.extend([10, 0, 0, 2, 10, 1, 0, 2, 0, 9, 0, 7, 0, 13, 0, 0]);
    body.extend(b"hello");
    checksum::fix_ipv4(&mut body);
    let pseudo = checksum::pseudo(Family::V4, 0x0a00_0002, 0x0a01_0002, proto::UDP, 13);
    let right = checksum::finish(pseudo, &body[20..]);
    let sum = spoil(right, checksum::fold(pseudo));
    body[26..28].copy_from_slice(&sum.to_be_bytes());
    OutFrame {
        protocol: 0x0800,
        head,
        head_len: 14,
        body,
        ..OutFrame::default()
    }
}

fn raw(host: &Host) -> PacketSocket {
    host.run(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        PacketSocket::open(index, &PacketOptions::default()).unwrap()
    })
}

/// A wrong checksum is no half-finished one; a frame for another host is not looked at.
#[test]
fn wrong_checksums_and_strangers() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    net.router.sh("ip link set eth0 address 02:00:00:00:00:01");
    let guard = guard(
        &net.router,
        &filter(&[
            "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
            "-A FORWARD -p udp --dport 7",
        ]),
    );
    let to = udp(&net.outside, at("10.1.0.2:7"));
    let own = [2, 0, 0, 0, 0, 1];
    let mut socket = raw(&net.inside);
    let heard = || {
        let mut got = [0; 16];
        to.recv(&mut got).map(|len| got[..len] == *b"hello").ok()
    };
    // Right, and left to the card.
    for spoil in [|right, _| right, |_, partial| partial] {
        assert_eq!(socket.send(&[datagram(own, spoil)]).sent, 1);
        assert_eq!(heard(), Some(true));
    }
    assert_eq!(
        socket.send(&[datagram(own, |right, _| right ^ 0x100)]).sent,
        1
    );
    assert!(eventually(|| guard.counted(Family::V4, 0) == 1));
    let stranger = datagram([2, 0, 0, 0, 0, 0x55], |right, _| right);
    let received = guard.traffic("eth0").received;
    assert_eq!(socket.send(&[stranger, datagram(own, |r, _| r)]).sent, 2);
    assert_eq!(heard(), Some(true));
    assert_eq!(guard.counted(Family::V4, 1), 3);
    assert_eq!(guard.traffic("eth0").received, received + 1);
}

/// A tag that the driver takes out of the frame would not be seen: where other interfaces
/// are based on one, also from some time on, frames come by the packet socket.
#[test]
fn an_interface_that_carries_others_has_a_packet_socket() {
    if !may() {
        return;
    }
    let (client, server) = crate::net::client_and_server();
    let guard = guard(&server, &filter(&["-A INPUT -p icmp"]));
    assert!(attached(&server, "eth0") && client.pings("10.0.0.1", 56));
    let kinds = ["vlan id 5", "macvlan"];
    let make = |kind: &&str| {
        let script = format!("ip link add link eth0 name upper type {kind}; ip link set upper up");
        server.try_sh(&script).is_ok()
    };
    let Some(kind) = kinds.iter().find(|k| make(k)) else {
        return skipped("neither VLAN nor macvlan interfaces can be made here");
    };
    assert!(eventually(|| !attached(&server, "eth0")), "{kind}");
    assert!(client.pings("10.0.0.1", 4000));
    assert_eq!(guard.counted(Family::V4, 0), 6);
    let said = notes(&guard);
    let why = |n: &String| n.contains("eth0") && n.contains("based on it");
    assert!(said.iter().any(why), "{said:?}");
    drop(guard);
    // From the beginning.
    let guard = self::guard(&server, &filter(&["-A INPUT -p icmp"]));
    assert!(!attached(&server, "eth0") && client.pings("10.0.0.1", 56));
    assert!(notes(&guard).iter().any(why));
}

/// Who may not load programs has packet sockets, and is told (`user::as_an_ordinary_user`
/// runs this).
#[test]
fn without_the_right_to_it() {
    if !able() || machines_root() {
        return;
    }
    let (client, server) = crate::net::client_and_server();
    let guard = guard(&server, &filter(&["-A INPUT -p icmp"]));
    assert!(client.pings("10.0.0.1", 4000));
    assert_eq!(guard.counted(Family::V4, 0), 3);
    let said = notes(&guard);
    assert!(said.len() == 1 && said[0].contains("eth0"), "{said:?}");
}

/// Frames that do not fit a slot.
#[test]
fn long_frames() {
    if !may() {
        return;
    }
    let Net {
        inside,
        router,
        outside,
    } = net();
    router.sh("ip link set eth0 mtu 9000");
    inside.sh("ip link set eth0 mtu 9000");
    let guard = guard(&router, &filter(&[]));
    assert!(!attached(&router, "eth0") && attached(&router, "eth1"));
    assert!(inside.pings("10.0.0.1", 8000) && outside.pings("10.1.0.1", 8000));
    assert_eq!(notes(&guard).len(), 1);
    // And later.
    router.sh("ip link set eth1 mtu 3000");
    assert!(eventually(|| !attached(&router, "eth1")));
    outside.sh("ip link set eth0 mtu 3000");
    assert!(outside.pings("10.1.0.1", 2900));
}

/// The program and its sockets come back with the interface, and go with the guard, which
/// leaves the host closed when it is killed.
#[test]
fn interfaces_come_and_go() {
    if !may() {
        return;
    }
    let (client, server) = crate::net::client_and_server();
    let rules = filter(&["-A INPUT -p icmp -j ACCEPT"]);
    let guard = guard(&server, &rules);
    for round in 1..=2 {
        assert!(attached(&server, "eth0"));
        assert!(client.pings("10.0.0.1", 56));
        server.sh("ip link set eth0 down; ip link set eth0 up");
        assert!(eventually(|| client.pings("10.0.0.1", 56)));
        server.sh("ip link del eth0");
        assert!(eventually(|| guard.datapath.report().interfaces.len() == 1));
        server.link("eth0", &client, "eth0");
        server.sh("ip addr add 10.0.0.1/24 dev eth0");
        client.sh("ip addr add 10.0.0.2/24 dev eth0");
        assert!(eventually(|| attached(&server, "eth0")));
        assert!(eventually(|| client.pings("10.0.0.1", 56)));
        assert!(guard.counted(Family::V4, 0) >= 3 * round);
    }
    drop(guard);
    let killed = server.guard_program(&["--xdp"]);
    assert!(eventually(|| client.pings("10.0.0.1", 56)));
    killed.kill();
    assert!(eventually(|| !attached(&server, "eth0")));
    assert!(client.silent("10.0.0.1"));
    server.run(tidegate_datapath::release).unwrap();
    assert!(client.pings("10.0.0.1", 56));
}
