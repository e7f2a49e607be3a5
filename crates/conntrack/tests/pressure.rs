//! Floods against a table that is full: who stays, who gets in, and what it costs.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{Ip, Lab, small};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::{CtInfo, DropReason, HelperKind, SECOND, Status, Template, Tracked};
use tidegate_wire::proto;
use tidegate_wire::tcp::flags::{ACK, PSH, SYN};

const MAX: u32 = 16_384;
const FLOOD: u32 = 150_000;
const ESTABLISHED: u16 = 1000;
const SERVER: [u8; 4] = [192, 0, 2, 1];

/// A number that looks random.
fn mixed(n: u32) -> u32 {
    let n = (n ^ n >> 16).wrapping_mul(0x7feb_352d);
    let n = (n ^ n >> 15).wrapping_mul(0x846c_a68b);
    n ^ n >> 16
}

fn full_table() -> Lab {
    Lab::new(Config {
        max: MAX,
        buckets: MAX,
        ..Config::default()
    })
}

fn client(n: u16) -> Ip {
    let [hi, lo] = n.to_be_bytes();
    Ip {
        src: [10, 0, hi, lo],
        dst: SERVER,
    }
}

/// A packet passes or not.
fn passes(lab: &mut Lab, pkt: &[u8]) -> bool {
    match lab.classify(pkt, None) {
        Tracked::Ct(mut at) => lab.ct.confirm(lab.now, &mut at).is_ok(),
        Tracked::Drop(DropReason::TableFull) => false,
        other => panic!("{other:?}"),
    }
}

/// All three packets of a handshake.
fn connects(lab: &mut Lab, host: &Ip, port: u16) -> bool {
    passes(lab, &host.tcp((port, 80), SYN, 100, 0))
        && passes(lab, &host.back().tcp((80, port), SYN | ACK, 500, 101))
        && passes(lab, &host.tcp((port, 80), ACK, 101, 501))
}

fn flood(lab: &mut Lab, packet: impl Fn(u32) -> Vec<u8>, honest: impl Fn(&mut Lab, u16)) {
    for n in 0..FLOOD {
        // A minute's worth.
        lab.now += 60 * SECOND / u64::from(FLOOD);
        passes(lab, &packet(n));
        if n % 500 == 499 {
            honest(lab, (n / 500) as u16);
        }
    }
    assert!(lab.ct.count() <= MAX);
    assert!(lab.ct.stats().early_drop > u64::from(FLOOD / 2));
}

#[test]
fn a_syn_flood_from_everywhere() {
    let mut lab = full_table();
    for n in 0..ESTABLISHED {
        assert!(connects(&mut lab, &client(n), 4000));
    }
    let syn = |n| {
        let from = Ip {
            src: mixed(n).to_be_bytes(),
            dst: SERVER,
        };
        from.tcp((1024 + (n % 60_000) as u16, 80), SYN, n, 0)
    };
    // Somebody who means it gets in within three tries, in the middle of it.
    flood(&mut lab, syn, |lab, n| {
        let honest = Ip {
            src: [172, 16, 1, 1],
            dst: SERVER,
        };
        assert!(
            (0..3).any(|try_| connects(lab, &honest, 2000 + n * 3 + try_)),
            "{n}"
        );
    });
    // Nobody who was connected has lost anything.
    for n in 0..ESTABLISHED {
        let data = client(n).tcp((4000, 80), PSH | ACK, 101, 501);
        let at = lab.attach(&data);
        assert_eq!(at.info, CtInfo::Established, "{n}");
        assert!(lab.status(at.id).has(Status::ASSURED), "{n}");
    }
}

#[test]
fn a_udp_flood_from_one_network() {
    let mut lab = full_table();
    assert!(connects(&mut lab, &client(1), 4000));
    let datagram = |n: u32| {
        let [_, _, hi, lo] = mixed(n).to_be_bytes();
        let from = Ip {
            src: [198, 51, 100, lo],
            dst: SERVER,
        };
        from.udp(u16::from_be_bytes([hi | 4, (n >> 8) as u8]), 53)
    };
    flood(&mut lab, datagram, |lab, _| {
        let data = client(1).tcp((4000, 80), PSH | ACK, 101, 501);
        assert_eq!(lab.attach(&data).info, CtInfo::Established);
    });
}

/// A server, or who poses as one, is asked for more files than may be expected.
#[test]
fn expectations_have_their_limit_in_all() {
    let mut lab = Lab::new(Config {
        expect_max: 10,
        ..small()
    });
    let tftp = Template {
        helper: Some(HelperKind::Tftp),
        ..Template::default()
    };
    let mut refused = 0;
    for n in 0..100u16 {
        // A read request.
        let mut l4 = [3000u16, 69, 12, 0].map(u16::to_be_bytes).concat();
        l4.extend([0, 1, b'f', 0]);
        let mut pkt = client(n).packet(proto::UDP, l4, Some(6));
        let layout = packets::layout(&pkt);
        let Tracked::Ct(mut at) = lab.classify(&pkt, Some(&tftp)) else {
            panic!("not tracked");
        };
        match lab.ct.help(lab.now, &at, &mut pkt, &layout) {
            Ok(_) => lab.ct.confirm(lab.now, &mut at).unwrap(),
            Err(why) => {
                assert_eq!(why, DropReason::Helper("cannot add expectation"));
                lab.ct.release(at.id);
                refused += 1;
            }
        }
    }
    assert_eq!((lab.ct.expectations().count(), refused), (10, 90));
    assert_eq!(lab.ct.count(), 10);
}
