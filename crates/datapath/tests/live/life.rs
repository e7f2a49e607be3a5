//! Beginning and end: interfaces that come and go, crashes, a clean leave.

use tidegate_datapath::{Options, release};
use tidegate_wire::Family;

use crate::net::{Host, able, client_and_server, eventually, filter};

const ADDRESSES: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

#[test]
fn an_interface_vanishes_and_comes_back() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&["-A INPUT -p icmp -j ACCEPT"]);
    let guard = server.guard(&rules, &filter(&[]));
    assert!(client.pings("10.0.0.1", 56));
    for round in 1..=2 {
        server.sh("ip link del eth0");
        assert!(eventually(|| guard.datapath.report().interfaces.len() == 1));
        server.link("eth0", &client, "eth0");
        server.sh("ip addr add 10.0.0.1/24 dev eth0");
        client.sh("ip addr add 10.0.0.2/24 dev eth0");
        assert!(eventually(|| guard.datapath.report().interfaces.len() == 2));
        assert!(eventually(|| client.pings("10.0.0.1", 56)));
        assert!(guard.counted(Family::V4, 0) >= 3 + 3 * round);
    }
}

#[test]
fn addresses_change() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&[
        "-A INPUT -d 10.0.0.9 -j ACCEPT",
        "-A INPUT -m addrtype ! --dst-type LOCAL -j DROP",
    ]);
    let guard = server.guard(&rules, &filter(&[]));
    assert!(client.silent("10.0.0.9"));
    server.sh("ip addr add 10.0.0.9/24 dev eth0; ip addr add fd00::9/64 dev eth0 nodad");
    let known = || client.pings("10.0.0.9", 56) && client.pings("fd00::9", 56);
    assert!(eventually(known));
    assert!(guard.counted(Family::V4, 0) >= 3);
    // An Ethernet address is one too.
    server.sh("ip link set eth0 address 02:00:00:00:00:77");
    client.sh("ip neigh flush dev eth0");
    assert!(eventually(|| client.pings("10.0.0.1", 4000)));
    server.sh("ip link set eth0 down; ip link set eth0 up");
    assert!(eventually(|| client.pings("10.0.0.1", 56)));
    // An interface's name too.
    server.sh("ip link set eth0 down; ip link set eth0 name net0; ip link set net0 up");
    assert!(eventually(|| client.pings("10.0.0.1", 56)));
    assert!(guard.traffic("net0").received > 0);
}

/// What an end must leave as it was.
fn state(host: &Host) -> String {
    host.sh("
        ip -o link | sed 's/qlen.*link/link/; s/ state [A-Z]*//'
        for dev in lo eth0; do
            for at in ingress egress; do tc filter show dev $dev $at; done
            tc qdisc show dev $dev
            sysctl net.ipv4.conf.$dev net.ipv6.conf.$dev 2>/dev/null | grep -v stable_secret
        done
        ip addr show | grep -v valid_lft
    ")
}

#[test]
fn a_clean_end_leaves_nothing() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let before = state(&server);
    let guard = server.guard(&filter(&[]), &filter(&[]));
    assert!(client.pings("10.0.0.1", 56));
    assert_ne!(state(&server), before);
    guard.datapath.stop().unwrap();
    assert_eq!(state(&server), before);
    assert!(client.pings("10.0.0.1", 56));
    assert!(server.pings("127.0.0.1", 56));
}

/// Filters of others stay, and with them the place where they are.
#[test]
fn an_end_leaves_what_is_of_others() {
    if !able() {
        return;
    }
    let (_client, server) = client_and_server();
    server.sh("
        tc qdisc add dev eth0 clsact
        tc filter add dev eth0 egress protocol 0x88b5 prio 9 u32 match u32 0 0 flowid 1:1
    ");
    let before = state(&server);
    let guard = server.guard(&filter(&[]), &filter(&[]));
    guard.datapath.stop().unwrap();
    assert_eq!(state(&server), before);
}

#[test]
fn a_killed_guard_leaves_the_host_closed() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let before = state(&server);
    let running = server.guard_program(&[]);
    for (ours, theirs) in ADDRESSES {
        assert!(client.pings(ours, 56) && server.pings(theirs, 56));
    }
    running.kill();
    for (ours, theirs) in ADDRESSES {
        assert!(client.silent(ours));
        assert!(server.silent(theirs));
        assert!(server.silent(ours));
    }
    assert!(server.silent("127.0.0.1") && server.silent("::1"));
    assert_eq!(server.run(release).unwrap(), 2);
    assert_eq!(state(&server), before);
    for (ours, theirs) in ADDRESSES {
        assert!(client.pings(ours, 56) && server.pings(theirs, 56));
    }
    assert_eq!(server.run(release).unwrap(), 0);
}

#[test]
fn only_some_interfaces_are_guarded() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let options = Options {
        interfaces: Some(vec!["eth0".to_owned(), "later0".to_owned()]),
        ..Options::default()
    };
    let rules = filter(&["-A INPUT -p icmp -j DROP", "-A OUTPUT -p icmp -j DROP"]);
    let guard = server.guard_with(options, &rules, &filter(&[]));
    assert!(client.silent("10.0.0.1"));
    assert!(server.pings("127.0.0.1", 56));
    let report = guard.datapath.report();
    let names: Vec<&str> = report.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["eth0"]);
    assert!(
        report
            .notes
            .iter()
            .any(|n| n.starts_with("lo is not guarded")),
        "{report:?}"
    );
    client.link("more0", &server, "later0");
    assert!(eventually(|| guard.datapath.report().interfaces.len() == 2));
}
