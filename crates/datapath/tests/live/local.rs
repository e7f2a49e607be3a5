//! The programs in the kernel in front of the datapath, on a host with sockets of its own.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidegate_datapath::{Fate, Options, Ring};
use tidegate_engine::Engine;
use tidegate_wire::Family;

use crate::busy::Busy;
use crate::fast::{acct, at, entries, fate, guard, may, talk, talk_until_fate, until_fate};
use crate::net::{Guard, Host, client_and_server, filter, nat, skipped};
use crate::talk::{call, serve, udp};

/// Known connections first, then who may open one; what is sent is counted.
pub(crate) const STATEFUL: [&str; 4] = [
    "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
    "-A INPUT -m conntrack --ctstate NEW -j ACCEPT",
    "-A INPUT -m conntrack --ctstate INVALID -j DROP",
    "-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
];

/// A client and the guarded server, with a UDP stream of each family between them.
const STREAMS: [(Family, &str, &str); 2] = [
    (Family::V4, "10.0.0.1:7", "10.0.0.2:40000"),
    (Family::V6, "[fd00::1]:7", "[fd00::2]:40000"),
];

/// With programs, where the families' rules differ.
pub(crate) fn guard_both(host: &Host, ring: Ring, [v4, v6]: [&str; 2]) -> Guard {
    let options = Options {
        fast: true,
        ring,
        ..Options::default()
    };
    host.guard_with(options, v4, v6)
}

/// `from` talks to a server at `there` long enough for a stream, then some more.
pub(crate) fn stream((from, to): &(UdpSocket, UdpSocket), there: SocketAddr) {
    talk(from, to, there, 1);
    thread::sleep(Duration::from_millis(2100));
    talk(from, to, there, 2);
}

#[test]
fn own_streams_pass_in_the_kernel_and_are_counted() {
    if !may() {
        return;
    }
    for ring in [Ring::Packet, Ring::Xdp] {
        let (client, server) = client_and_server();
        let rules = filter(&STATEFUL);
        let guard = guard_both(&server, ring, [&rules; 2]);
        acct(&guard);
        for (family, there, here) in STREAMS {
            let both = (udp(&client, at(here)), udp(&server, at(there)));
            stream(&both, at(there));
            let times = 3 + talk_until_fate(&guard, Fate::Passed, &both, at(there), 500) as u64;
            let counted = [0, 1, 2, 3].map(|n| guard.counted(family, n));
            assert_eq!(counted, [times - 1, 1, 0, times]);
            assert!(entries(&guard).contains(&[times, times]));
            assert!(fate(&guard, Fate::Sent) > 100);
        }
    }
}

/// The guarded host calls somebody else, from an address that it gets on its way.
#[test]
fn translated_calls_of_the_host_pass_in_the_kernel() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    server.sh("ip addr add 10.0.0.9/24 dev eth0; ip addr add fd00::9/64 dev eth0 nodad");
    let rules = |to: &str| {
        let snat = format!("-A POSTROUTING -p udp -j SNAT --to-source {to}");
        filter(&STATEFUL) + &nat(&[&snat])
    };
    let guard = guard_both(
        &server,
        Ring::Packet,
        [&rules("10.0.0.9"), &rules("fd00::9")],
    );
    for (family, here, there) in STREAMS {
        let both = (udp(&server, at(here)), udp(&client, at(there)));
        stream(&both, at(there));
        talk_until_fate(&guard, Fate::Passed, &both, at(there), 100);
        // Behind the translation and two others: none is INVALID.
        assert_eq!(guard.counted(family, 3), 0);
    }
}

/// Packets and bytes of a rule: the `n`th.
pub(crate) fn counter(guard: &Guard, family: Family, n: usize) -> [u64; 2] {
    let [counter] = counters(guard, family, [n]);
    counter
}

/// The same of several rules, all at one moment.
pub(crate) fn counters<const N: usize>(
    guard: &Guard,
    family: Family,
    which: [usize; N],
) -> [[u64; 2]; N] {
    let look = move |engine: &mut Engine, _| {
        which.map(|n| {
            let id = engine.rules(family).rules().nth(n).unwrap().2.id;
            let counter = engine.counter(family, id);
            [counter.packets, counter.bytes]
        })
    };
    guard.datapath.with(look).unwrap()
}

/// What the kernel's iptables on a host counts of TCP with `server`, as [sent, received].
pub(crate) struct Referee<'a> {
    host: &'a Host,
    tool: &'static str,
}

impl<'a> Referee<'a> {
    /// `None` where there is no such iptables, which is said.
    pub(crate) fn new(host: &'a Host, family: Family) -> Option<Self> {
        let tool = match family {
            Family::V4 => "iptables-legacy",
            Family::V6 => "ip6tables-legacy",
        };
        let rules = format!(
            "export XTABLES_LOCKFILE=$(mktemp)
             {tool} -A OUTPUT -p tcp; {tool} -A INPUT -p tcp; rm $XTABLES_LOCKFILE"
        );
        let there = host.try_sh(&rules).is_ok();
        if !there {
            skipped("counting as the kernel does is compared with iptables-legacy");
        }
        there.then_some(Referee { host, tool })
    }

    pub(crate) fn counted(&self) -> [[u64; 2]; 2] {
        let list = |chain| {
            let script = format!(
                "export XTABLES_LOCKFILE=$(mktemp)
                 {} -nvxL {chain} 1; rm $XTABLES_LOCKFILE",
                self.tool
            );
            let said = self.host.sh(&script);
            let mut words = said.split_whitespace().map(|w| w.parse().unwrap());
            [words.next().unwrap(), words.next().unwrap()]
        };
        ["OUTPUT", "INPUT"].map(list)
    }
}

/// What a host without a firewall at the other end counts is counted, packet for packet and
/// byte for byte: segments that the kernel has joined, or is to cut, are one packet.
#[test]
fn tcp_of_own_sockets_is_counted_as_the_kernel_counts() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&[
        "-A INPUT -p tcp -j ACCEPT",
        "-A OUTPUT -p tcp -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate NEW -j DROP",
    ]);
    let guard = guard(&server, &rules);
    acct(&guard);
    for (family, there) in [(Family::V4, "10.0.0.1:80"), (Family::V6, "[fd00::1]:80")] {
        let Some(referee) = Referee::new(&client, family) else {
            return;
        };
        until_fate(&guard, (Fate::Passed, 201), 100, |round| {
            megabytes_to(&client, (&server, at(there)), at(there));
            let [sent, received] = referee.counted();
            let counted = [0, 2].map(|n| counter(&guard, family, n));
            assert_eq!(counted, [sent, received], "round {round}");
        });
    }
}

/// A megabyte each way between a client that calls `to` and a server that listens at `at`.
pub(crate) fn megabytes_to(client: &Host, (server, at): (&Host, SocketAddr), to: SocketAddr) {
    let serving = serve(server, at).unwrap();
    let called = call(client, to);
    let served = serving.join().unwrap();
    assert!(called.is_ok() && served.is_ok(), "{called:?}, {served:?}");
}

/// Connections that a client makes to one address and that reach a server at another, and a stream
/// of datagrams from one to port 9 of another, which reach a server at a third port: all pass in
/// the kernel with this fate.
pub(crate) fn redirected_pass(
    (guard, passes): (&Guard, Fate),
    (client, server): (&Host, &Host),
    [called, server_at, from, to]: [&str; 4],
) {
    until_fate(guard, (passes, 201), 100, |_| {
        megabytes_to(client, (server, at(server_at)), at(called));
    });
    let both = (udp(client, at(from)), udp(server, at(to)));
    let mut asked = at(to);
    asked.set_port(9);
    stream(&both, asked);
    talk_until_fate(guard, passes, &both, asked, 200);
}

/// With and without checksums and segments left to the card.
#[test]
fn redirected_connections_pass_in_the_kernel() {
    if !may() {
        return;
    }
    for offloads in [true, false] {
        let (client, server) = client_and_server();
        if !offloads {
            for host in [&client, &server] {
                host.sh("ethtool -K eth0 tx off gso off tso off gro off >/dev/null");
            }
        }
        // Where REDIRECT does not find them.
        server.sh("ip addr add 10.0.0.9/32 dev lo; ip addr add fd00::9/128 dev lo nodad");
        let rules = |to: &str| {
            let dnat = format!("-A PREROUTING -p tcp --dport 81 -j DNAT --to-destination {to}");
            let redirect = "-A PREROUTING -p udp --dport 9 -j REDIRECT --to-ports 7";
            filter(&STATEFUL) + &nat(&[&dnat, redirect])
        };
        let guard = guard_both(
            &server,
            Ring::Packet,
            [&rules("10.0.0.9:80"), &rules("[fd00::9]:80")],
        );
        for (family, ends) in [
            (
                Family::V4,
                ["10.0.0.1:81", "10.0.0.9:80", "10.0.0.2:40000", "10.0.0.1:7"],
            ),
            (
                Family::V6,
                [
                    "[fd00::1]:81",
                    "[fd00::9]:80",
                    "[fd00::2]:40000",
                    "[fd00::1]:7",
                ],
            ),
        ] {
            redirected_pass((&guard, Fate::Passed), (&client, &server), ends);
            // Behind two translations and two others: none is INVALID.
            assert_eq!(guard.counted(family, 4), 0);
        }
        assert_eq!(fate(&guard, Fate::Checksum), 0);
    }
}

/// Sends numbered datagrams as fast as it goes, with a breath now and then; says in `sent` how
/// many there were.
fn count_aloud(from: &UdpSocket, to: SocketAddr, sent: &Arc<AtomicU32>) -> Busy<()> {
    let (from, sent) = (from.try_clone().unwrap(), Arc::clone(sent));
    Busy::start(move |ends| {
        while !ends.load(Ordering::SeqCst) {
            let number = sent.fetch_add(1, Ordering::SeqCst);
            // Rules refuse some.
            let _ = from.send_to(&number.to_be_bytes(), to);
            if number % 64 == 0 {
                thread::sleep(Duration::from_micros(500));
            }
        }
    })
}

/// The next number that has come, if there is one.
fn number(socket: &UdpSocket) -> Option<u32> {
    let mut bytes = [0; 1500];
    match socket.recv(&mut bytes) {
        Ok(len) => Some(u32::from_be_bytes(
            *bytes[..len].first_chunk().expect("a number"),
        )),
        Err(e) if e.kind() == ErrorKind::WouldBlock => None,
        Err(e) => panic!("{e}"),
    }
}

/// Reads numbers for a while, which must rise; returns the last.
fn rising(socket: &UdpSocket, last: &mut Option<u32>, time: Duration) -> Option<u32> {
    let begun = Instant::now();
    while begun.elapsed() < time {
        let Some(next) = number(socket) else {
            thread::sleep(Duration::from_micros(200));
            continue;
        };
        assert!(last.is_none_or(|last| last < next), "{next} after {last:?}");
        *last = Some(next);
    }
    *last
}

/// Where the server and the client of a stream are.
const ENDS: [&str; 2] = [STREAMS[0].1, STREAMS[0].2];

/// The guarded server, and a stream from the client that has met this fate.
fn streaming(client: &Host, server: &Host, wanted: Fate) -> (Guard, (UdpSocket, UdpSocket)) {
    let guard = guard(server, &filter(&STATEFUL));
    let [there, here] = ENDS.map(at);
    let both = (udp(client, here), udp(server, there));
    stream(&both, there);
    talk_until_fate(&guard, wanted, &both, there, 20);
    (guard, both)
}

/// The kernel may put off the rest of a frame's way up: a flow is not handed over while one is
/// on it, whether that frame bears a mark or not.
#[test]
fn what_waits_on_its_way_up_is_not_overtaken() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let (guard, both) = streaming(&client, &server, Fate::Sent);
    let here = at(ENDS[1]);
    // A frame of 600 bytes takes more than two milliseconds, and two are let through at once.
    let slow = "tc qdisc replace dev tg-eth0 root tbf rate 2mbit burst 1600 limit 1000000";
    if let Err(why) = server.try_sh(slow) {
        skipped(&format!("slow ways up take tbf: {why}"));
        return;
    }
    let (outside, own) = &both;
    outside.set_nonblocking(true).unwrap();
    let (mut next, mut last) = (0_u32, None);
    for _ in 0..5 {
        let (stale, sent) = (fate(&guard, Fate::Stale), fate(&guard, Fate::Sent));
        // All flows come up again.
        guard.load(Family::V4, &filter(&STATEFUL));
        for time in 0..30 {
            let mut datagram = [0; 600];
            datagram[..4].copy_from_slice(&next.to_be_bytes());
            own.send_to(&datagram, here).unwrap();
            next += 1;
            // The first ones go up together.
            if time >= 8 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        rising(outside, &mut last, Duration::from_millis(100));
        assert_eq!(last, Some(next - 1));
        assert!(fate(&guard, Fate::Stale) > stale);
        // It goes down again, when nothing is between.
        let until = Instant::now() + Duration::from_secs(10);
        while fate(&guard, Fate::Sent) == sent {
            own.send_to(&next.to_be_bytes(), here).unwrap();
            next += 1;
            rising(outside, &mut last, Duration::from_millis(20));
            assert!(Instant::now() < until, "{:?}", guard.datapath.report());
        }
    }
}

#[test]
fn changes_hold_and_order_is_kept_under_load() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let (guard, both) = streaming(&client, &server, Fate::Passed);
    changes_hold_in_order(&guard, &both, ENDS.map(at), [Fate::Passed, Fate::Sent]);
}

/// Under load, in both directions: once it is acknowledged that packets are dropped, none
/// that is sent after that gets through; and while a flow comes up and goes down again, its
/// packets keep their order. `fates` are those of the packets there, and back.
pub(crate) fn changes_hold_in_order(
    guard: &Guard,
    (outside, own): &(UdpSocket, UdpSocket),
    [there, here]: [SocketAddr; 2],
    fates: [Fate; 2],
) {
    for (from, to, socket, chain, drops, passes) in [
        (outside, there, own, "INPUT", 0, fates[0]),
        (own, here, outside, "OUTPUT", 3, fates[1]),
    ] {
        socket.set_nonblocking(true).unwrap();
        let numbered = Arc::new(AtomicU32::new(0));
        let numbers = count_aloud(from, to, &numbered);
        let mut last = None;
        let mut passed = fate(guard, passes);
        for round in 0..6 {
            rising(socket, &mut last, Duration::from_millis(150));
            if round % 2 == 0 {
                guard.load(Family::V4, &filter(&STATEFUL));
                continue;
            }
            let drop = format!("-A {chain} -p udp -j DROP");
            let closed = [&[drop.as_str()], &STATEFUL[..]].concat();
            guard.load(Family::V4, &filter(&closed));
            let sent = numbered.load(Ordering::SeqCst);
            let got = rising(socket, &mut last, Duration::from_millis(100));
            assert!(got.is_some_and(|got| got <= sent), "{got:?} after {sent}");
            assert!(guard.counted(Family::V4, drops) > 0);
            guard.load(Family::V4, &filter(&STATEFUL));
            let until = Instant::now() + Duration::from_secs(10);
            while fate(guard, passes) - passed < 100 {
                rising(socket, &mut last, Duration::from_millis(20));
                assert!(Instant::now() < until, "{:?}", guard.datapath.report());
            }
            passed = fate(guard, passes);
        }
        numbers.end();
        rising(socket, &mut last, Duration::from_millis(100));
        socket.set_nonblocking(false).unwrap();
    }
}
