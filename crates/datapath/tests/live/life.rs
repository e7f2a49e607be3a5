//! Beginning and end: interfaces that come and go, crashes, a clean leave.

use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate_datapath::{Datapath, Options, release};
use tidegate_engine::Config;
use tidegate_wire::Family;

use crate::net::{Host, Running, Seen, able, client_and_server, eventually, filter};

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

/// Down and up with another name, again and again without a pause (`TIDEGATE_FLAPS`, 100 rounds of
/// two), while packets come that rules drop: none of them reaches the host's sockets, and afterwards
/// all is as before.
#[test]
fn an_interface_flaps() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&["-A INPUT -p udp -j DROP"]);
    let guard = server.guard(&rules, &rules);
    // Where nobody listens the kernel counts what came.
    let arrived = || server.sh("nstat -asz UdpNoPorts | tail -n 1");
    let before = arrived();
    let rounds = std::env::var("TIDEGATE_FLAPS").unwrap_or("100".into());
    let flaps = format!(
        "for n in $(seq {rounds}); do
            echo link set eth0 down; echo link set eth0 name net0; echo link set net0 up
            echo link set net0 down; echo link set net0 name eth0; echo link set eth0 up
        done | ip -batch -"
    );
    let rain =
        "timeout 5 bash -c 'while echo x >/dev/udp/10.0.0.1/9 || true; do :; done' 2>/dev/null";
    std::thread::scope(|scope| {
        let raining = scope.spawn(|| client.try_sh(&format!("{rain} || true")));
        server.sh(&flaps);
        raining.join().unwrap().unwrap();
    });
    assert_eq!(arrived(), before, "packets came past the rules");
    assert!(eventually(|| client.pings("10.0.0.1", 56)));
    let dropped = guard.counted(Family::V4, 0);
    client.sh("bash -c 'echo x >/dev/udp/10.0.0.1/9'");
    assert!(eventually(|| guard.counted(Family::V4, 0) > dropped));
    assert_eq!(guard.datapath.report().interfaces.len(), 2);
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

/// That two states are the same, line by line.
fn same(before: &str, after: &str) {
    let differ: Vec<_> = before
        .lines()
        .zip(after.lines())
        .filter(|(a, b)| a != b)
        .collect();
    assert!(
        differ.is_empty() && before.len() == after.len(),
        "{differ:#?}"
    );
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
    same(&before, &state(&server));
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
    same(&before, &state(&server));
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
    same(&before, &state(&server));
    for (ours, theirs) in ADDRESSES {
        assert!(client.pings(ours, 56) && server.pings(theirs, 56));
    }
    assert_eq!(server.run(release).unwrap(), 0);
}

#[test]
fn a_killed_guard_may_leave_the_host_open() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let before = state(&server);
    server.guard_program(&["--open"]).kill();
    assert!(eventually(|| state(&server) == before));
    for (ours, theirs) in ADDRESSES {
        assert!(client.pings(ours, 56) && server.pings(theirs, 56));
    }
    // A second one that comes at once is not opened by the guardian of the first.
    let rules = filter(&["-A INPUT -p icmp -j DROP"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    let words = ["--open", file.path().to_str().unwrap()];
    for _ in 0..4 {
        server.guard_program(&words).kill();
        let running = server.guard_program(&words);
        assert!(client.silent("10.0.0.1"));
        running.end();
        same(&before, &state(&server));
        assert!(client.pings("10.0.0.1", 56));
    }
}

/// Packets that flood a host in the background: echo requests every two milliseconds.
fn flood(host: &Host, to: &str) -> Running {
    let mut ping = Command::new("ping");
    ping.args(["-q", "-n", "-i", "0.002", "-w", "20", to]);
    ping.stdout(Stdio::null()).stderr(Stdio::null());
    Running(host.run(|| ping.spawn()).unwrap())
}

/// Echo requests that a host's kernel has seen.
fn requests_seen(host: &Host) -> u64 {
    let said = host.sh("
        awk '/^Icmp:/ && $2 ~ /[0-9]/ {print $10}' /proc/thread-self/net/snmp
        awk '/^Icmp6InEchos/ {print $2}' /proc/thread-self/net/snmp6
    ");
    said.lines().map(|n| n.parse::<u64>().unwrap()).sum()
}

/// Between a crash and the next start, and while that goes on, nothing passes that rules
/// refuse.
#[test]
fn no_packet_passes_around_a_restart() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let refuse = |proto: &str| {
        filter(&[
            &format!("-A INPUT -p {proto} -j DROP"),
            &format!("-A OUTPUT -p {proto} -j DROP"),
        ])
    };
    let directory = tempfile::tempdir().unwrap();
    let files = [("icmp", "4"), ("ipv6-icmp", "6")].map(|(proto, name)| {
        let path = directory.path().join(name);
        std::fs::write(&path, refuse(proto)).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let files = [files[0].as_str(), files[1].as_str()];
    // Neighbours are known: their discovery is ICMPv6, and refused.
    let settle = |host: &Host, addr: &str, mac: &str| {
        host.sh(&format!(
            "ip neigh replace {addr} lladdr {mac} dev eth0 nud permanent"
        ));
    };
    client.sh("ip link set eth0 address 02:00:00:00:00:02");
    server.sh("ip link set eth0 address 02:00:00:00:00:01");
    for (ours, theirs) in ADDRESSES {
        settle(&client, ours, "02:00:00:00:00:01");
        settle(&server, theirs, "02:00:00:00:00:02");
    }
    let mut running = server.guard_program(&files);
    let _floods: Vec<Running> = ADDRESSES
        .into_iter()
        .flat_map(|(ours, theirs)| [flood(&client, ours), flood(&server, theirs)])
        .chain([flood(&server, "127.0.0.1"), flood(&server, "::1")])
        .collect();
    for round in 0..4 {
        std::thread::sleep(Duration::from_millis(100));
        running.kill();
        std::thread::sleep(Duration::from_millis(100 * round));
        running = server.guard_program(&files);
    }
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(requests_seen(&server), 0, "in, or over loopback");
    assert_eq!(requests_seen(&client), 0, "out");
    // It would have been seen.
    running.kill();
    server.run(release).unwrap();
    assert!(eventually(
        || requests_seen(&server) > 0 && requests_seen(&client) > 0
    ));
}

/// What is not to be guarded any more after a crash is opened by the next start.
#[test]
fn a_restart_may_guard_less() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    server.guard_program(&[]).kill();
    assert!(server.silent("127.0.0.1"));
    let running = server.guard_program(&["--interface", "lo"]);
    assert!(client.pings("10.0.0.1", 56) && server.pings("127.0.0.1", 56));
    running.kill();
    assert!(client.pings("10.0.0.1", 56) && server.silent("127.0.0.1"));
    server.run(release).unwrap();
    assert!(server.pings("127.0.0.1", 56));
}

#[test]
fn two_do_not_guard_one_host() {
    if !able() {
        return;
    }
    let (client, server) = client_and_server();
    let guard = server.guard(&filter(&["-A INPUT -p icmp -j DROP"]), &filter(&[]));
    let second = server.run(|| {
        let datapath = Datapath::start(
            Options::default(),
            Config::default(),
            Box::new(Seen::default()),
        )?;
        datapath.guard()
    });
    let why = second.unwrap_err().to_string();
    assert!(why.contains("at work"), "{why}");
    assert!(server.run(release).is_err());
    assert!(client.silent("10.0.0.1"));
    guard.datapath.stop().unwrap();
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
    assert!(
        report.notes.iter().any(|n| n.contains("forwarded")),
        "{report:?}"
    );
    client.link("more0", &server, "later0");
    assert!(eventually(|| guard.datapath.report().interfaces.len() == 2));
}
