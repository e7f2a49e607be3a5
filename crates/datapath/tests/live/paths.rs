//! In, out and over loopback: what is accepted arrives unharmed.

use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use tidegate_wire::Family;

use crate::net::{Guard, Host, able, all_by_xdp, client_and_server, filter};
use crate::talk::{MEGABYTE, datagrams, megabytes, reaches, udp};

/// The server's own addresses.
const OWN: [&str; 4] = ["127.0.0.1", "::1", "10.0.0.1", "fd00::1"];

/// Rules that track connections and let everything pass.
fn tracking() -> String {
    filter(&[
        "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        "-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        "-A OUTPUT -m conntrack --ctstate INVALID -j DROP",
    ])
}

fn guarded() -> (Host, Host, Guard) {
    let (client, server) = client_and_server();
    let guard = server.guard(&tracking(), &tracking());
    (client, server, guard)
}

/// No packet was taken for part of no connection.
fn none_invalid(guard: &Guard) {
    for family in [Family::V4, Family::V6] {
        assert_eq!(guard.counted(family, 1), 0);
        assert_eq!(guard.counted(family, 3), 0);
    }
}

#[test]
fn echo_in_out_and_over_loopback() {
    if !able() {
        return;
    }
    let (client, server, guard) = guarded();
    for size in [56, 4000] {
        for to in ["10.0.0.1", "fd00::1"] {
            assert!(client.pings(to, size), "in: {to}, {size}");
        }
        for to in ["10.0.0.2", "fd00::2"].into_iter().chain(OWN) {
            assert!(server.pings(to, size), "out: {to}, {size}");
        }
    }
    // Three requests in, three replies in, of each family; the large ones are three
    // fragments each.
    let eth = guard.traffic("eth0");
    let frames = 2 * (6 + 6 * 3);
    assert!(eth.received >= frames && eth.sent >= frames, "{eth:?}");
    assert!(
        eth.to_sockets >= 24 && eth.from_sockets >= frames,
        "{eth:?}"
    );
    // Requests and replies, out and in, of three pings to four addresses.
    let lo = guard.traffic("lo");
    assert!(lo.from_sockets >= 48 && lo.to_sockets >= 48, "{lo:?}");
    // The second packet of each ping is of an established connection: the reply.
    assert!(guard.counted(Family::V4, 2) > 0);
    assert_eq!((eth.lost.total(), lo.lost.total()), (0, 0));
    none_invalid(&guard);
}

#[test]
fn megabytes_of_tcp_each_way() {
    if !able() {
        return;
    }
    let (client, server, guard) = guarded();
    for at in ["10.0.0.1:80", "[fd00::1]:80"] {
        megabytes(&client, &server, at.parse().unwrap());
    }
    for at in ["10.0.0.2:80", "[fd00::2]:80"] {
        megabytes(&server, &client, at.parse().unwrap());
    }
    // Large packets pass as one: four megabytes out would be 3000 packets of a link of
    // 1500 bytes. By XDP none comes in, and each two are acknowledged.
    let eth = guard.traffic("eth0");
    assert!(eth.from_sockets < 2000 || all_by_xdp(), "{eth:?}");
    assert_eq!(eth.lost.total(), 0);
    for at in OWN {
        let at = SocketAddr::new(at.parse().unwrap(), 80);
        megabytes(&server, &server, at);
    }
    let lo = guard.traffic("lo");
    assert!(lo.from_sockets > 8 * MEGABYTE as u64 / 65536, "{lo:?}");
    assert_eq!(lo.lost.total(), 0);
    none_invalid(&guard);
}

/// Without the help of cards: checksums and segments are ready-made.
#[test]
fn tcp_without_offloads() {
    if !able() {
        return;
    }
    let (client, server, guard) = guarded();
    let off = "ethtool -K eth0 tso off gso off gro off tx off rx off >/dev/null";
    if let Err(e) = server.try_sh(off).and(client.try_sh(off)) {
        return crate::net::skipped(&format!("ethtool: {e}"));
    }
    megabytes(&client, &server, "10.0.0.1:80".parse().unwrap());
    megabytes(&server, &client, "[fd00::2]:80".parse().unwrap());
    none_invalid(&guard);
}

#[test]
fn datagrams_of_all_sizes() {
    if !able() {
        return;
    }
    let (client, server, guard) = guarded();
    let pairs = [
        (&client, "10.0.0.2:0", &server, "10.0.0.1:7"),
        (&client, "[fd00::2]:0", &server, "[fd00::1]:7"),
        (&server, "10.0.0.1:0", &client, "10.0.0.2:7"),
        (&server, "[fd00::1]:0", &client, "[fd00::2]:7"),
        (&server, "127.0.0.1:0", &server, "127.0.0.1:8"),
        (&server, "[::1]:0", &server, "[::1]:8"),
        (&server, "10.0.0.1:0", &server, "10.0.0.1:8"),
        (&server, "[fd00::1]:0", &server, "[fd00::1]:8"),
    ];
    for (from, near, to, far) in pairs {
        let (near, far) = (near.parse().unwrap(), far.parse().unwrap());
        datagrams(&udp(from, near), &udp(to, far), far);
    }
    none_invalid(&guard);
}

/// One call that stands for many datagrams (`UDP_SEGMENT`).
#[test]
fn datagrams_cut_by_the_card() {
    if !able() {
        return;
    }
    let (client, server, _guard) = guarded();
    for (near, far) in [("10.0.0.1:0", "10.0.0.2:7"), ("[fd00::1]:0", "[fd00::2]:7")] {
        let far: SocketAddr = far.parse().unwrap();
        let (from, to) = (udp(&server, near.parse().unwrap()), udp(&client, far));
        setsockopt(&from, sockopt::UdpGsoSegment, &1000).unwrap();
        let sent: Vec<u8> = (0..5500u32).map(|i| (i / 7) as u8).collect();
        from.send_to(&sent, far).unwrap();
        let mut buffer = [0; 2000];
        for piece in sent.chunks(1000) {
            let len = to.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], *piece, "{far}");
        }
    }
}

/// What this host sends to everybody, or to a group that it is in, it hears itself.
#[test]
fn own_broadcasts_and_groups_are_heard() {
    if !able() {
        return;
    }
    let (client, server, _guard) = guarded();
    server.sh("ip route add 224.0.0.0/4 dev eth0");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let any = "0.0.0.0:5353".parse().unwrap();
    let (near, far) = (udp(&server, any), udp(&client, any));
    let from = udp(&server, "10.0.0.1:0".parse().unwrap());
    from.set_broadcast(true).unwrap();
    let group = std::net::Ipv4Addr::new(224, 0, 0, 251);
    near.join_multicast_v4(&group, &"10.0.0.1".parse().unwrap())
        .unwrap();
    far.join_multicast_v4(&group, &"10.0.0.2".parse().unwrap())
        .unwrap();
    for to in ["10.0.0.255:5353", "224.0.0.251:5353"] {
        let to = to.parse().unwrap();
        assert!(reaches(&from, &far, to), "{to}: the other");
        assert!(near.recv(&mut [0; 16]).is_ok(), "{to}: itself");
    }
    drop((near, far));
    let any = "[::]:5353".parse().unwrap();
    let (near, far) = (udp(&server, any), udp(&client, any));
    let to = server.run(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        let group = "ff02::fb".parse().unwrap();
        near.join_multicast_v6(&group, index).unwrap();
        SocketAddr::V6(std::net::SocketAddrV6::new(group, 5353, 0, index))
    });
    client.run(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        far.join_multicast_v6(&"ff02::fb".parse().unwrap(), index)
            .unwrap();
    });
    let from = udp(&server, "[fd00::1]:0".parse().unwrap());
    assert!(reaches(&from, &far, to), "{to}: the other");
    assert!(near.recv(&mut [0; 16]).is_ok(), "{to}: itself");
}
