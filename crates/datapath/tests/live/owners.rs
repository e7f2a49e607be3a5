//! Rules that ask whose packets are: the same traffic past the kernel's rules and past ours.

use std::net::SocketAddr;
use std::process::Command;

use tidegate_wire::Family;

use crate::net::{Guard, Host, client_and_server, filter, skipped};
use crate::senders::may;
use crate::talk::udp;

/// Rules that only count, in the order of chains, and what they count of [`traffic`].
const RULES: [(&str, u64); 18] = [
    ("-A INPUT -p udp --dport 7000:7002 -m socket", 2),
    (
        "-A INPUT -p udp --dport 7000:7002 -m socket --nowildcard",
        4,
    ),
    (
        "-A INPUT -p udp --dport 7000:7002 -m socket --transparent",
        0,
    ),
    ("-A INPUT -p udp --dport 7000:7002", 5),
    ("-A OUTPUT -p udp -m owner --uid-owner 65534", 6),
    ("-A OUTPUT -p udp -m owner ! --uid-owner 65534", 3),
    ("-A OUTPUT -p udp -m owner --uid-owner 60000-65534", 6),
    ("-A OUTPUT -p udp -m owner --socket-exists", 9),
    ("-A OUTPUT -p udp -m owner ! --socket-exists", 0),
    ("-A OUTPUT -p tcp --syn -m owner --uid-owner 65534", 1),
    ("-A OUTPUT -p tcp --syn -m owner --uid-owner 0", 0),
    ("-A OUTPUT -p udp -m owner --gid-owner 65533", 6),
    ("-A OUTPUT -p udp -m owner ! --gid-owner 65533", 3),
    ("-A OUTPUT -p udp -m owner --gid-owner 0", 3),
    ("-A OUTPUT -p tcp --syn -m owner --gid-owner 65530-65533", 1),
    (
        "-A OUTPUT -p udp -m owner --uid-owner 65534 ! --gid-owner 65533",
        0,
    ),
    // Of a program that is there when its packet is decided.
    (
        "-A OUTPUT -p udp --dport 11 -m owner --gid-owner 65500 --suppl-groups",
        1,
    ),
    ("-A OUTPUT -p udp --dport 11 -m owner --gid-owner 65500", 0),
];

fn rules() -> String {
    filter(&RULES.map(|r| r.0))
}

/// From short-lived programs of two users, and to open and closed ports.
fn traffic(client: &Host, server: &Host, ours: &str, theirs: &str) {
    let nobody = "setpriv --reuid=65534 --regid=65533 --clear-groups";
    server.sh(&format!(
        "for i in 1 2 3 4 5; do {nobody} bash -c 'echo x > /dev/udp/{theirs}/9'; done
         for i in 1 2 3; do bash -c 'echo x > /dev/udp/{theirs}/9'; done
         {nobody} bash -c 'echo x > /dev/tcp/{theirs}/80' 2>/dev/null || true
         setpriv --reuid=65534 --regid=65533 --groups=65500 bash -c 'echo x > /dev/udp/{theirs}/11; sleep 1'"
    ));
    let at = |addr: &str, port| SocketAddr::new(addr.parse().unwrap(), port);
    let any = if ours.contains(':') { "::" } else { "0.0.0.0" };
    let _open = [udp(server, at(ours, 7000)), udp(server, at(any, 7001))];
    let from = udp(client, at(theirs, 0));
    for port in [7000, 7000, 7001, 7001, 7002] {
        from.send_to(b"x", at(ours, port)).unwrap();
    }
    // What is answered has been counted: an echo behind all others.
    assert!(client.pings(ours, 10));
}

fn both_families(client: &Host, server: &Host) {
    traffic(client, server, "10.0.0.1", "10.0.0.2");
    traffic(client, server, "fd00::1", "fd00::2");
}

fn ours(guard: &Guard, family: Family) -> Vec<u64> {
    let all = 0..RULES.len();
    all.map(|n| guard.counted(family, n)).collect()
}

/// What the kernel's own rules count.
fn kernels(server: &Host, save: &str) -> Vec<u64> {
    let saved = server.sh(&format!("{save} -c -t filter"));
    let rules = saved.lines().filter_map(|l| l.strip_prefix('['));
    let packets = rules.filter_map(|l| l.split(':').next()?.parse().ok());
    packets.collect()
}

#[test]
fn senders_and_receivers_are_known_as_to_the_kernel() {
    if !may() {
        return;
    }
    let expected = RULES.map(|r| r.1).to_vec();
    let (client, server) = client_and_server();
    let guard = server.guard(&rules(), &rules());
    guard.datapath.settle().unwrap();
    assert_ne!(guard.datapath.knows(), tidegate_datapath::Knows::Nothing);
    both_families(&client, &server);
    for family in [Family::V4, Family::V6] {
        assert_eq!(ours(&guard, family), expected, "{family:?}");
    }
    if Command::new("iptables-legacy-save").output().is_err() {
        skipped("the kernel's answer to compare with: iptables-legacy is missing");
        return;
    }
    let (client, server) = client_and_server();
    for tool in ["iptables-legacy", "ip6tables-legacy"] {
        let rules = rules();
        server.sh(&format!("{tool}-restore <<'END'\n{rules}END"));
    }
    both_families(&client, &server);
    for tool in ["iptables-legacy-save", "ip6tables-legacy-save"] {
        assert_eq!(kernels(&server, tool), expected, "{tool}");
    }
}

/// A sender that is gone before its packet is decided is refused all the same.
#[test]
fn a_user_is_kept_from_sending() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&["-A OUTPUT -p udp -m owner --uid-owner 65534 -j DROP"]);
    let guard = server.guard(&rules, &rules);
    guard.datapath.settle().unwrap();
    let at = SocketAddr::new("10.0.0.2".parse().unwrap(), 9);
    let receiver = udp(&client, at);
    server.sh("for i in 1 2 3 4 5 6 7 8 9 10; do
             setpriv --reuid=65534 --clear-groups bash -c 'echo no > /dev/udp/10.0.0.2/9'
         done
         bash -c 'echo yes > /dev/udp/10.0.0.2/9'");
    let mut heard = [0; 16];
    let len = receiver.recv(&mut heard).unwrap();
    assert_eq!(&heard[..len], b"yes\n");
    assert_eq!(guard.counted(Family::V4, 0), 10);
}

/// Class 10:1 of `net_cls`, and what is counted of [`classed`].
const CLASS_RULES: [(&str, u64); 3] = [
    ("-A OUTPUT -p udp -m cgroup --cgroup 1048577", 2),
    ("-A OUTPUT -p udp -m cgroup ! --cgroup 1048577", 1),
    ("-A OUTPUT -p udp -m cgroup --cgroup 0", 1),
];

/// Two datagrams of a class and one of none; `false` where there are no classes.
fn classed(server: &Host) -> bool {
    let said = server.try_sh(
        "unshare -m bash -ec '
            d=$(mktemp -d)
            mount -t cgroup -o net_cls none $d || { rmdir $d; echo no classes; exit 0; }
            g=$d/tidegate-test-$$; mkdir $g
            echo 0x00100001 >$g/net_cls.classid
            bash -c \"echo \\$\\$ >$g/cgroup.procs; echo x >/dev/udp/10.0.0.2/9; echo x >/dev/udp/10.0.0.2/9\"
            echo x >/dev/udp/10.0.0.2/9
            for i in $(seq 50); do rmdir $g 2>/dev/null && break; sleep 0.05; done
            umount $d; rmdir $d'",
    );
    !said.unwrap().contains("no classes")
}

#[test]
fn classes_of_senders_are_known_as_to_the_kernel() {
    if !may() {
        return;
    }
    let expected = CLASS_RULES.map(|r| r.1).to_vec();
    let rules = filter(&CLASS_RULES.map(|r| r.0));
    let (_client, server) = client_and_server();
    let guard = server.guard(&rules, &filter(&[]));
    guard.datapath.settle().unwrap();
    if !classed(&server) {
        skipped("the kernel has no control groups of net_cls");
        return;
    }
    let counted = [0, 1, 2].map(|n| guard.counted(Family::V4, n));
    assert_eq!(counted.to_vec(), expected);
    drop(guard);
    if Command::new("iptables-legacy-save").output().is_err() {
        skipped("the kernel's answer to compare with: iptables-legacy is missing");
        return;
    }
    let (_client, server) = client_and_server();
    server.sh(&format!("iptables-legacy-restore -w <<'END'\n{rules}END"));
    assert!(classed(&server));
    assert_eq!(kernels(&server, "iptables-legacy-save"), expected);
}

/// Sockets that were there before the firewall are their programs' groups', too.
#[test]
fn sockets_from_before_have_their_groups() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let receiver = udp(&client, SocketAddr::new("10.0.0.2".parse().unwrap(), 9));
    server.sh(
        "setpriv --reuid=65534 --regid=65533 --clear-groups bash -c '
             exec 3>/dev/udp/10.0.0.2/9
             for i in $(seq 100); do sleep 0.1; echo x >&3; done
         ' >/dev/null 2>&1 &",
    );
    let mut heard = [0; 16];
    receiver.recv(&mut heard).unwrap();
    let rules = filter(&["-A OUTPUT -p udp -m owner --gid-owner 65533"]);
    let guard = server.guard(&rules, &filter(&[]));
    // Some were sent before.
    let counted = (0..90).any(|_| {
        receiver.recv(&mut heard).unwrap();
        guard.counted(Family::V4, 0) > 0
    });
    assert!(counted);
}
