//! What programs in the kernel do at their limits.

use std::time::Duration;

use tidegate_datapath::{Fate, Options};
use tidegate_wire::Family;

use crate::fast::{STATEFUL, acct, at, entries, fate, guard, may, stream, talk, talk_until};
use crate::net::{eventually, filter};
use crate::router::net;

/// More connections than places: those without one come up, and all are counted.
#[test]
fn a_full_table_leaves_connections_to_the_daemon() {
    if !may() {
        return;
    }
    const PLACES: u32 = 2;
    const STREAMS: u16 = 4;
    let net = net();
    net.routed();
    let options = Options {
        fast: true,
        offloaded: PLACES,
        ..Options::default()
    };
    let rules = filter(&STATEFUL);
    let guard = net.router.guard_with(options, &rules, &rules);
    acct(&guard);
    let streams: Vec<_> = (0..STREAMS)
        .map(|n| {
            let server = format!("10.1.0.2:{}", 100 + n);
            let both = stream(&net, &server, &format!("10.0.0.2:{}", 40_000 + n));
            (both, at(&server))
        })
        .collect();
    let elsewhere = || {
        guard
            .datapath
            .with(|engine, _| engine.conntrack().elsewhere())
            .unwrap()
    };
    let mut times = 3;
    let full = eventually(|| {
        std::thread::sleep(Duration::from_millis(50));
        for ((from, to), there) in &streams {
            talk(from, to, *there, 10);
        }
        times += 10;
        elsewhere() == PLACES as usize && fate(&guard, Fate::Forwarded) > 0
    });
    assert!(full, "{:?}", guard.datapath.report());
    for _ in 0..5 {
        for ((from, to), there) in &streams {
            talk(from, to, *there, 10);
        }
        times += 10;
    }
    assert!(elsewhere() <= PLACES as usize);
    let all = u64::from(STREAMS);
    assert_eq!(guard.counted(Family::V4, 0), all * (2 * times - 1));
    assert_eq!(guard.counted(Family::V4, 1), all);
    assert_eq!(entries(&guard), vec![[times, times]; usize::from(STREAMS)]);
}

/// The way out of streams that the kernel forwards vanishes and comes back.
#[test]
fn an_interface_that_vanishes_takes_nothing_else_along() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let guard = guard(&net.router, &filter(&STATEFUL));
    let there = at("10.1.0.2:7");
    let both = stream(&net, "10.1.0.2:7", "10.0.0.2:40000");
    talk_until(&guard, &both, there, 20);
    for _ in 0..50 {
        both.0.send_to(b"question", there).unwrap();
    }
    net.router.sh("ip link del eth1");
    for _ in 0..50 {
        both.0.send_to(b"question", there).unwrap();
    }
    let gone = || {
        let report = guard.datapath.report();
        !report.interfaces.iter().any(|i| i.name == "eth1")
    };
    assert!(eventually(gone));
    assert!(net.inside.pings("10.0.0.1", 56));
    net.outside.link("eth0", &net.router, "eth1");
    net.router.sh("ip addr add 10.1.0.1/24 dev eth1");
    net.outside
        .sh("ip addr add 10.1.0.2/24 dev eth0; ip route add default via 10.1.0.1");
    // What was sent into the void waits there no more.
    both.1
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    while both.1.recv(&mut [0; 64]).is_ok() {}
    let back = eventually(|| {
        both.0.send_to(b"question", there).unwrap();
        both.1.recv(&mut [0; 64]).is_ok()
    });
    assert!(back, "{:?}", guard.datapath.report());
    while both.1.recv(&mut [0; 64]).is_ok() {}
    talk_until(&guard, &both, there, 20);
}
