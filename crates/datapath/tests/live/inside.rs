//! The programs in the kernel in front of the datapath, for what a host says to itself.

use tidegate_datapath::{Fate, Ring};
use tidegate_wire::Family;

use crate::fast::{acct, at, entries, fate, guard, may, talk_until_fate};
use crate::local::{STATEFUL, changes_hold_in_order, counter, guard_both, megabytes_to, stream};
use crate::net::{Host, filter, nat};
use crate::talk::udp;

/// The ends of a stream of each family.
const STREAMS: [(Family, &str, &str); 2] = [
    (Family::V4, "127.0.0.1:7", "127.0.0.1:40000"),
    (Family::V6, "[::1]:7", "[::1]:40000"),
];

#[test]
fn streams_pass_in_the_kernel_and_are_counted() {
    if !may() {
        return;
    }
    let host = Host::new();
    let guard = guard(&host, &filter(&STATEFUL));
    acct(&guard);
    for (family, there, here) in STREAMS {
        let both = (udp(&host, at(here)), udp(&host, at(there)));
        stream(&both, at(there));
        let times = 3 + talk_until_fate(&guard, Fate::Sent, &both, at(there), 500) as u64;
        // Each has gone out and come in: the first one is new, answers are not.
        let counted = [0, 1, 2, 3].map(|n| guard.counted(family, n));
        assert_eq!(counted, [2 * times - 1, 1, 0, 2 * times - 1]);
        assert!(entries(&guard).contains(&[times, times]));
    }
    assert_eq!(guard.traffic("lo").lost.total(), 0);
}

/// What goes out comes in: as many packets and bytes, which the connection counts too. Large
/// ones, joined or not, are as they were sent.
#[test]
fn tcp_goes_out_and_comes_in() {
    if !may() {
        return;
    }
    for offloads in [true, false] {
        let host = Host::new();
        if !offloads {
            host.sh("ethtool -K lo gso off tso off gro off >/dev/null");
        }
        let rules = filter(&[
            "-A INPUT -i lo -p tcp -j ACCEPT",
            "-A OUTPUT -o lo -p tcp -j ACCEPT",
            "-A FORWARD -m conntrack --ctstate NEW -j DROP",
        ]);
        let guard = guard(&host, &rules);
        acct(&guard);
        for (family, there) in [(Family::V4, "127.0.0.1:80"), (Family::V6, "[::1]:80")] {
            let before = fate(&guard, Fate::Sent);
            for round in 1.. {
                megabytes_to(&host, (&host, at(there)), at(there));
                let [came, went] = [0, 2].map(|n| counter(&guard, family, n));
                assert_eq!(came, went, "round {round}");
                let megabytes = (2 * round) << 20;
                assert!(came[1] > megabytes && came[1] < megabytes + (megabytes >> 2));
                if fate(&guard, Fate::Sent) - before > 100 {
                    break;
                }
                assert!(round < 100, "{:?}", guard.datapath.report());
            }
            // Whose headers do not say how long they are, too.
            assert_eq!(fate(&guard, Fate::Unusual), 0);
            let known: u64 = entries(&guard).concat().iter().sum();
            let both = [Family::V4, Family::V6].map(|family| counter(&guard, family, 0)[0]);
            assert_eq!(known, both.iter().sum::<u64>());
        }
    }
}

#[test]
fn redirected_connections_pass_in_the_kernel() {
    if !may() {
        return;
    }
    let host = Host::new();
    host.sh("ip addr add 10.0.0.9/32 dev lo; ip addr add fd00::9/128 dev lo nodad");
    let rules = |to: &str| {
        let dnat = format!("-A OUTPUT -p tcp --dport 81 -j DNAT --to-destination {to}");
        filter(&STATEFUL) + &nat(&[&dnat, "-A OUTPUT -p udp --dport 9 -j REDIRECT --to-ports 7"])
    };
    let guard = guard_both(
        &host,
        Ring::Packet,
        [&rules("10.0.0.9:80"), &rules("[fd00::9]:80")],
    );
    for ((family, own, client), (server, called)) in STREAMS.into_iter().zip([
        ("10.0.0.9:80", "127.0.0.1:81"),
        ("[fd00::9]:80", "[::1]:81"),
    ]) {
        let before = fate(&guard, Fate::Sent);
        for round in 1.. {
            megabytes_to(&host, (&host, at(server)), at(called));
            if fate(&guard, Fate::Sent) - before > 100 {
                break;
            }
            assert!(round < 100, "{:?}", guard.datapath.report());
        }
        let both = (udp(&host, at(client)), udp(&host, at(own)));
        let mut asked = at(own);
        asked.set_port(9);
        stream(&both, asked);
        talk_until_fate(&guard, Fate::Sent, &both, asked, 200);
        // INVALID, behind two translations and two others.
        assert_eq!(guard.counted(family, 4), 0);
    }
}

#[test]
fn changes_hold_and_order_is_kept_under_load() {
    if !may() {
        return;
    }
    let host = Host::new();
    let guard = guard(&host, &filter(&STATEFUL));
    let (_, there, here) = STREAMS[0];
    let both = (udp(&host, at(here)), udp(&host, at(there)));
    stream(&both, at(there));
    talk_until_fate(&guard, Fate::Sent, &both, at(there), 20);
    changes_hold_in_order(&guard, &both, [there, here].map(at), [Fate::Sent; 2]);
}
