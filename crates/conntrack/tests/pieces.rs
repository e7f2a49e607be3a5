//! What the clock and a change of size bring is worked off a piece at a time: no packet
//! waits for all of it, and none can tell.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{HOST, Ip, Lab, small};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::{CtInfo, DropReason, SECOND, Tracked};

fn in_pieces() -> Config {
    Config {
        at_once: 3,
        ..small()
    }
}

fn many(lab: &mut Lab, connections: u16) {
    for port in 1..=connections {
        lab.pass(&HOST.udp(port, 53));
    }
}

#[test]
fn no_packet_meets_an_entry_that_has_run_out() {
    let mut lab = Lab::new(in_pieces());
    many(&mut lab, 100);
    lab.now += 31 * SECOND;
    let late = lab.attach(&HOST.back().udp(53, 100));
    assert_eq!(late.info, CtInfo::New, "the answer came too late");
    assert!(lab.ct.count() > 50, "most still wait for their removal");
    assert_eq!(lab.ct.iter().count(), 0, "and are shown to nobody");
    lab.ct.release(late.id);
    let again = lab.pass(&HOST.udp(99, 53));
    assert_eq!(again.info, CtInfo::New);
    assert_eq!(lab.left(again.id), 30);
    assert_eq!(lab.ct.iter().count(), 1);
}

#[test]
fn what_has_run_out_is_gone_after_a_few_calls() {
    let mut lab = Lab::new(in_pieces());
    many(&mut lab, 100);
    lab.now += 31 * SECOND;
    let mut calls = 0;
    while lab.ct.poll_timeout().is_some_and(|at| at <= lab.now) {
        let before = lab.ct.count();
        lab.ct.handle_timeout(lab.now);
        assert!(before - lab.ct.count() <= 3, "no more than asked for");
        calls += 1;
        assert!(calls < 200, "it ends");
    }
    assert_eq!((lab.ct.count(), lab.ct.poll_timeout()), (0, None));
}

#[test]
fn every_connection_is_found_while_the_table_changes_its_size() {
    let mut lab = Lab::new(in_pieces());
    many(&mut lab, 1000);
    lab.ct.resize(4096);
    for port in 1..=1000 {
        let at = lab.attach(&HOST.back().udp(53, port));
        assert_eq!(at.info, CtInfo::EstablishedReply, "port {port}");
        // Some end meanwhile, and must not be found again.
        if port % 7 == 0 {
            assert!(lab.ct.delete(at.id));
            let other = lab.attach(&HOST.udp(port, 53));
            assert_eq!(other.info, CtInfo::New, "port {port}");
            lab.ct.release(other.id);
        }
    }
    // A second change before the first is done.
    lab.ct.resize(512);
    lab.ct.resize(1024);
    let left = (1..=1000).filter(|p| p % 7 != 0);
    for port in left.clone() {
        let at = lab.attach(&HOST.udp(port, 53));
        assert_eq!(at.info, CtInfo::Established, "port {port}");
    }
    assert_eq!(lab.ct.iter().count(), left.count());
}

/// As in one go: down to just under 95 percent, assured connections stay.
#[test]
fn a_full_table_is_gone_through_in_pieces() {
    let mut lab = Lab::new(Config {
        max: 200,
        buckets: 4096,
        ..in_pieces()
    });
    lab.ct.config_mut().timeouts.udp = [600, 600];
    many(&mut lab, 200);
    let other = Ip {
        src: [10, 0, 0, 9],
        ..HOST
    };
    // The first without a victim in eight neighbouring buckets.
    let refused = (1..200).find(|&port| {
        let outcome = lab.classify(&other.udp(port, 53), None);
        if let Tracked::Ct(mut at) = outcome {
            lab.ct.confirm(lab.now, &mut at).unwrap();
        }
        outcome == Tracked::Drop(DropReason::TableFull)
    });
    assert!(refused.is_some());
    let before = lab.ct.count();
    assert!(before >= 190, "{before}");
    lab.now += 61 * SECOND;
    for _ in 0..200 {
        lab.ct.handle_timeout(lab.now);
    }
    assert_eq!(lab.ct.count(), 189);
}
