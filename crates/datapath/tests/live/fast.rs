//! The programs in the kernel in front of the datapath, on a router.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use tidegate_datapath::{Fate, Options};
use tidegate_engine::Engine;
use tidegate_wire::Family;

use crate::net::{Guard, Host, able, filter, nat, skipped};
use crate::router::{Net, net};
use crate::talk::{megabytes, reaches, udp};

/// As in every firewall: known connections first, then who may open one.
pub(crate) const STATEFUL: [&str; 3] = [
    "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-A FORWARD -i eth0 -m conntrack --ctstate NEW -j ACCEPT",
    "-A FORWARD -j DROP",
];

pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A user namespace's root may not load programs. When flows are handed over depends on
/// moments of silence, so that these tests run alone, one after the other.
pub(crate) fn may() -> bool {
    if !able() {
        return false;
    }
    if std::env::var_os("TIDEGATE_FAST_TESTS").is_none() {
        skipped("tests of the fast path run by themselves: TIDEGATE_FAST_TESTS=1");
        return false;
    }
    let all = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let whole = all.split_whitespace().nth(2) == Some("4294967295");
    if !whole {
        skipped("programs are loaded by the machine's root only");
    }
    whole
}

pub(crate) fn guard(host: &Host, rules: &str) -> Guard {
    let options = Options {
        fast: true,
        ..Options::default()
    };
    host.guard_with(options, rules, rules)
}

pub(crate) fn fate(guard: &Guard, fate: Fate) -> u64 {
    let fates = guard.datapath.report().fates;
    fates.iter().find(|(f, _)| *f == fate).unwrap().1
}

/// Packets that connections have counted, both directions.
pub(crate) fn entries(guard: &Guard) -> Vec<[u64; 2]> {
    let look = |engine: &mut Engine, _| {
        let entries = engine.conntrack().iter();
        entries
            .map(|(_, e)| {
                e.counters
                    .as_deref()
                    .copied()
                    .unwrap_or_default()
                    .map(|c| c.packets)
            })
            .collect()
    };
    guard.datapath.with(look).unwrap()
}

/// Says and answers `times`.
pub(crate) fn talk(from: &UdpSocket, to: &UdpSocket, there: SocketAddr, times: usize) {
    let mut buffer = [0; 64];
    for time in 0..times {
        from.send_to(b"question", there).unwrap();
        let heard = to.recv_from(&mut buffer);
        let (_, peer) = heard.unwrap_or_else(|e| panic!("question {time} of {times}: {e}"));
        to.send_to(b"answer", peer).unwrap();
        let heard = from.recv(&mut buffer);
        heard.unwrap_or_else(|e| panic!("answer {time} of {times}: {e}"));
    }
}

/// Talks until `enough` packets have been forwarded in the kernel; returns how often. A
/// flow is left to the kernel in a moment when none of its packets is on its way through
/// the daemon, which on a busy machine may take a while to come.
pub(crate) fn talk_until(
    guard: &Guard,
    both: &(UdpSocket, UdpSocket),
    there: SocketAddr,
    enough: u64,
) -> usize {
    talk_until_fate(guard, Fate::Forwarded, both, there, enough)
}

/// As [`talk_until`], where the packets are to be forwarded by one of the programs.
pub(crate) fn talk_until_fate(
    guard: &Guard,
    which: Fate,
    (from, to): &(UdpSocket, UdpSocket),
    there: SocketAddr,
    enough: u64,
) -> usize {
    until_fate(guard, (which, enough), 1000, |_| talk(from, to, there, 10)) * 10
}

/// Works, `most` times at most, until one of the programs has let so many packets pass; returns
/// how often. The work is told which time it is.
pub(crate) fn until_fate(
    guard: &Guard,
    (which, enough): (Fate, u64),
    most: usize,
    mut work: impl FnMut(usize),
) -> usize {
    let before = fate(guard, which);
    for round in 1..=most {
        work(round);
        if fate(guard, which) - before >= enough {
            return round;
        }
    }
    panic!("{:?}", guard.datapath.report());
}

/// As [`talk_until`], with connections of a megabyte each way.
fn transfer_until(guard: &Guard, net: &Net, there: SocketAddr, enough: u64) {
    transfer_until_fate(guard, Fate::Forwarded, net, there, enough);
}

/// As [`transfer_until`], by one of the programs.
pub(crate) fn transfer_until_fate(
    guard: &Guard,
    which: Fate,
    net: &Net,
    there: SocketAddr,
    enough: u64,
) {
    until_fate(guard, (which, enough), 100, |_| {
        megabytes(&net.inside, &net.outside, there);
    });
}

/// The inside talks to a server outside long enough for a stream, then `times` more.
pub(crate) fn stream(net: &Net, server: &str, client: &str) -> (UdpSocket, UdpSocket) {
    let to = udp(&net.outside, at(server));
    let from = udp(&net.inside, at(client));
    talk(&from, &to, at(server), 1);
    std::thread::sleep(Duration::from_millis(2100));
    talk(&from, &to, at(server), 2);
    (from, to)
}

pub(crate) fn acct(guard: &Guard) {
    let set = |engine: &mut Engine, _| engine.conntrack_mut().config_mut().acct = true;
    guard.datapath.with(set).unwrap();
}

#[test]
fn a_stream_is_forwarded_in_the_kernel_and_counted() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    streams_are_counted(&guard, Fate::Forwarded, &net);
}

/// Programs count for the rules that packets of this type of service meet, not for those that
/// the last one met that came up.
#[test]
fn types_of_service_are_counted_apart() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let rules = "*mangle\n:PREROUTING ACCEPT [0:0]
-A PREROUTING -m tos --tos 0x08/0x3f\nCOMMIT\n";
    let guard = guard(&net.router, &(rules.to_owned() + &filter(&STATEFUL)));
    let there = at("10.1.0.2:7");
    let (from, to) = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    for _ in 0..100 {
        for (tos, times) in [(0, 2), (8, 1), (0, 10)] {
            rustix::net::sockopt::set_ip_tos(&from, tos).unwrap();
            talk(&from, &to, there, times);
        }
    }
    assert!(fate(&guard, Fate::Forwarded) > 0);
    assert_eq!(guard.counted(Family::V4, 0), 100);
}

/// Streams that one of the programs forwards meet the rules' counters as all packets do.
pub(crate) fn streams_are_counted(guard: &Guard, which: Fate, net: &Net) {
    acct(guard);
    for (family, server, client) in [
        (Family::V4, "10.1.0.2:7", "10.0.0.2:40000"),
        (Family::V6, "[fd01::2]:7", "[fd00::2]:40000"),
    ] {
        let both = stream(net, server, client);
        let times = 3 + talk_until_fate(guard, which, &both, at(server), 500) as u64;
        // As many questions and answers, the first of them new.
        assert_eq!(guard.counted(family, 0), 2 * times - 1);
        assert_eq!(guard.counted(family, 1), 1);
        assert_eq!(guard.counted(family, 2), 0);
        assert!(entries(guard).contains(&[times, times]));
    }
}

#[test]
fn a_change_of_rules_holds_from_its_acknowledgement_on() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    let there = at("10.1.0.2:7");
    talk_until(&guard, &both, there, 20);
    for _ in 0..5 {
        guard.load(Family::V4, &filter(&["-A FORWARD -p udp -j DROP"]));
        assert!(!reaches(&both.0, &both.1, there));
        assert_eq!(guard.counted(Family::V4, 0), 1);
        guard.load(Family::V4, &filter(&STATEFUL));
        talk_until(&guard, &both, there, 20);
    }
}

#[test]
fn a_deleted_connection_is_new_again() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    talk_until(&guard, &both, at("10.1.0.2:7"), 20);
    assert_eq!(guard.counted(Family::V4, 1), 1);
    let flush = |engine: &mut Engine, _| engine.conntrack_mut().flush();
    guard.datapath.with(flush).unwrap();
    talk(&both.0, &both.1, at("10.1.0.2:7"), 1);
    assert_eq!(guard.counted(Family::V4, 1), 2);
}

#[test]
fn tcp_is_forwarded_in_the_kernel() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    tcp_goes_by(&guard, Fate::Forwarded, &net, 50);
}

pub(crate) fn tcp_goes_by(guard: &Guard, which: Fate, net: &Net, enough: u64) {
    for (server, family) in [("10.1.0.2:80", Family::V4), ("[fd01::2]:80", Family::V6)] {
        transfer_until_fate(guard, which, net, at(server), enough);
        assert_eq!(guard.counted(family, 2), 0);
    }
}

#[test]
fn tcp_without_offloads_is_forwarded_in_the_kernel() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    for host in [&net.inside, &net.outside] {
        host.sh("ethtool -K eth0 tx off gso off tso off gro off >/dev/null");
    }
    let guard = guard(&net.router, &filter(&STATEFUL));
    transfer_until(&guard, &net, at("10.1.0.2:80"), 500);
    assert_eq!(fate(&guard, Fate::Checksum), 0);
    assert_eq!(guard.counted(Family::V4, 2), 0);
}

#[test]
fn translated_connections_are_forwarded_in_the_kernel() {
    if !may() {
        return;
    }
    // The outside does not know the way in.
    let net = net();
    let guard = guard(&net.router, &masquerading());
    translated_go_by(&guard, Fate::Forwarded, &net, 50);
}

pub(crate) fn masquerading() -> String {
    filter(&STATEFUL) + &nat(&["-A POSTROUTING -o eth1 -j MASQUERADE"])
}

pub(crate) fn translated_go_by(guard: &Guard, which: Fate, net: &Net, enough: u64) {
    for server in ["10.1.0.2:80", "[fd01::2]:80"] {
        transfer_until_fate(guard, which, net, at(server), enough);
    }
    let both = stream(net, "10.1.0.2:7", "10.0.0.2:40000");
    talk_until_fate(guard, which, &both, at("10.1.0.2:7"), 100);
    assert_eq!(guard.counted(Family::V4, 3), 0);
}
