//! The programs in the kernel in front of the datapath, for what a host says to itself.

use tidegate_datapath::{Fate, Ring};
use tidegate_wire::Family;

use crate::fast::{acct, at, entries, fate, guard, may, talk_until_fate, until_fate};
use crate::local::{
    Referee, STATEFUL, changes_hold_in_order, counter, counters, guard_both, megabytes_to,
    redirected_pass, stream,
};
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

/// What goes out comes in: as many packets and bytes, which the connection counts too. The
/// kernel's own table sees as many go out, but that a frame of more than 64 KB which comes up to
/// the datapath is cut in two there and counts as two.
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
        // Headers that a cut adds, with time stamps; of IPv6 it takes the jumbo payload's away.
        for (family, there, headers) in [
            (Family::V4, "127.0.0.1:80", 20 + 32),
            (Family::V6, "[::1]:80", 40 + 32 - 8),
        ] {
            let referee = Referee::new(&host, family);
            until_fate(&guard, (Fate::Sent, 101), 100, |round| {
                megabytes_to(&host, (&host, at(there)), at(there));
                // At one moment: last acknowledgements may be under way.
                let [came, went] = counters(&guard, family, [0, 2]);
                assert_eq!(came, went, "round {round}");
                if let Some([sent, _]) = referee.as_ref().map(Referee::counted) {
                    let [cuts, more] = [0, 1].map(|i| went[i] - sent[i]);
                    assert_eq!(more, cuts * headers, "{went:?}, {sent:?}");
                }
                let megabytes = (2 * round as u64) << 20;
                assert!(came[1] > megabytes && came[1] < megabytes + (megabytes >> 2));
            });
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
    let calls = [
        ["127.0.0.1:81", "10.0.0.9:80"],
        ["[::1]:81", "[fd00::9]:80"],
    ];
    for ((family, to, from), [called, server_at]) in STREAMS.into_iter().zip(calls) {
        let ends = [called, server_at, from, to];
        redirected_pass((&guard, Fate::Sent), (&host, &host), ends);
        // Behind two translations and two others: none is INVALID.
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
