//! Forwarding before the kernel looks at frames (XDP), on a router between hosts that take
//! frames so.

use tidegate_datapath::{Fate, Options, Ring};

use crate::fast::{
    STATEFUL, at, fate, masquerading, may, stream, streams_are_counted, talk, talk_until_fate,
    tcp_goes_by, translated_go_by,
};
use crate::net::{Guard, Host, eventually, filter};
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
    streams_are_counted(&guard, Fate::Early, &net);
}

#[test]
fn tcp_is_forwarded_before_the_kernel() {
    if !may() {
        return;
    }
    let net = early_net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    tcp_goes_by(&guard, Fate::Early, &net, 500);
}

#[test]
fn translated_connections_are_forwarded_before_the_kernel() {
    if !may() {
        return;
    }
    // The outside does not know the way in.
    let net = early_net();
    let guard = guard(&net.router, &masquerading());
    translated_go_by(&guard, Fate::Early, &net, 500);
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
