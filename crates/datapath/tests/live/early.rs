//! Forwarding before the kernel looks at frames (XDP), on a router between hosts that take
//! frames so.

use tidegate_datapath::{Fate, Options, Ring};
use tidegate_wire::Family;

use crate::fast::{
    STATEFUL, acct, at, entries, fate, may, stream, talk, talk_until_fate, transfer_until_fate,
};
use crate::net::{Guard, Host, eventually, filter, nat};
use crate::router::{Net, net};

/// The hosts at the ends receive by NAPI, as cards do: veth pairs take frames then.
fn early_net() -> Net {
    let net = net();
    for host in [&net.inside, &net.outside] {
        host.sh("ethtool -K eth0 gro on");
    }
    net
}

fn guard(host: &Host, rules: &str) -> Guard {
    let options = Options {
        fast: true,
        ring: Ring::Xdp,
        ..Options::default()
    };
    let guard = host.guard_with(options, rules, rules);
    let notes = guard.datapath.report().notes;
    assert!(!notes.iter().any(|n| n.contains("XDP")), "{notes:?}");
    guard
}

#[test]
fn a_stream_is_forwarded_before_the_kernel_and_counted() {
    if !may() {
        return;
    }
    let net = early_net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    acct(&guard);
    for (family, server, client) in [
        (Family::V4, "10.1.0.2:7", "10.0.0.2:40000"),
        (Family::V6, "[fd01::2]:7", "[fd00::2]:40000"),
    ] {
        let both = stream(&net, server, client);
        let times = 3 + talk_until_fate(&guard, Fate::Early, &both, at(server), 500) as u64;
        assert_eq!(guard.counted(family, 0), 2 * times - 1);
        assert_eq!(guard.counted(family, 1), 1);
        assert_eq!(guard.counted(family, 2), 0);
        assert!(entries(&guard).contains(&[times, times]));
    }
}

#[test]
fn tcp_is_forwarded_before_the_kernel() {
    if !may() {
        return;
    }
    let net = early_net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    for (server, family) in [("10.1.0.2:80", Family::V4), ("[fd01::2]:80", Family::V6)] {
        transfer_until_fate(&guard, Fate::Early, &net, at(server), 500);
        assert_eq!(guard.counted(family, 2), 0);
    }
}

#[test]
fn translated_connections_are_forwarded_before_the_kernel() {
    if !may() {
        return;
    }
    // The outside does not know the way in.
    let net = early_net();
    let rules = filter(&STATEFUL) + &nat(&["-A POSTROUTING -o eth1 -j MASQUERADE"]);
    let guard = guard(&net.router, &rules);
    for server in ["10.1.0.2:80", "[fd01::2]:80"] {
        transfer_until_fate(&guard, Fate::Early, &net, at(server), 500);
    }
    let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    talk_until_fate(&guard, Fate::Early, &both, at("10.1.0.2:7"), 100);
}

/// A veth pair whose other end does not receive by NAPI takes no frames, and they go by the
/// kernel's traffic control; the change is noticed while packets pass.
#[test]
fn an_interface_that_takes_no_frames_gets_packets() {
    if !may() {
        return;
    }
    let net = early_net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    let there = at("10.1.0.2:7");
    let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    talk_until_fate(&guard, Fate::Early, &both, there, 20);
    net.outside.sh("ethtool -K eth0 gro off");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let early = fate(&guard, Fate::Early);
    talk_until_fate(&guard, Fate::Forwarded, &both, there, 20);
    // Answers go the other way, which has not changed.
    assert!(fate(&guard, Fate::Early) >= early);
    net.inside.sh("ethtool -K eth0 gro off");
    std::thread::sleep(std::time::Duration::from_millis(300));
    let early = fate(&guard, Fate::Early);
    talk_until_fate(&guard, Fate::Forwarded, &both, there, 20);
    assert_eq!(fate(&guard, Fate::Early), early);
    net.inside.sh("ethtool -K eth0 gro on");
    talk_until_fate(&guard, Fate::Early, &both, there, 20);
}

/// The next hop gets another Ethernet address, of which the kernel hears by ARP.
#[test]
fn a_next_hop_with_another_address_is_found() {
    if !may() {
        return;
    }
    let net = early_net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    let there = at("10.1.0.2:7");
    let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    talk_until_fate(&guard, Fate::Early, &both, there, 20);
    let knows = |mac: &str| {
        let known = net.router.sh("ip neigh show dev eth1");
        known.contains(mac)
    };
    net.outside.sh(
        "ip link set eth0 down; ip link set eth0 address 02:00:00:00:77:01; ip link set eth0 up
         ip route add default via 10.1.0.1; ping -n -c 1 -W 2 10.1.0.1 >/dev/null || true",
    );
    assert!(eventually(|| knows("02:00:00:00:77:01")));
    talk(&both.0, &both.1, there, 5);
    talk_until_fate(&guard, Fate::Early, &both, there, 20);
}
