//! Listings, compared with lines captured from Linux 6.18 and conntrack 1.4.7.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{Ip, init, layout};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::expect::{ExpectPolicy, Expectation, OnMatch};
use tidegate_conntrack::format::{
    Columns, conntrack_line, event_line, expect_line, expect_proc_line, proc_line,
};
use tidegate_conntrack::{
    Conntrack, Dir, EntryId, Family, HelperKind, InHook, SECOND, Template, Time, Tracked, Tuple,
    Zone,
};
use tidegate_wire::parse;
use tidegate_wire::tcp::flags::{ACK, SYN};

const NOW: Time = 1_795_227_335 * SECOND;
const HOST: Ip = Ip {
    src: [10, 1, 0, 2],
    dst: [10, 2, 0, 2],
};

fn pass(ct: &mut Conntrack, pkt: &[u8], template: Option<&Template>) -> EntryId {
    let l = layout(pkt);
    let Tracked::Ct(mut at) = ct.handle_packet(NOW, pkt, &l, InHook::Prerouting, template) else {
        panic!("not tracked");
    };
    ct.confirm(NOW, &mut at).unwrap();
    at.id
}

fn table() -> Conntrack {
    Conntrack::new(Config {
        buckets: 16,
        ..Config::default()
    })
}

/// The entry three seconds later, as the captures were made.
fn lines(ct: &Conntrack, id: EntryId) -> (String, String) {
    let entry = ct.entry(id).unwrap();
    let later = NOW + 5 * SECOND / 2;
    (
        proc_line(entry, later),
        conntrack_line(id, entry, later, Columns::default()),
    )
}

#[test]
fn an_assured_tcp_connection() {
    let mut ct = table();
    let id = pass(&mut ct, &HOST.tcp((40003, 80), SYN, 1, 0), None);
    pass(
        &mut ct,
        &HOST.back().tcp((80, 40003), SYN | ACK, 1, 2),
        None,
    );
    pass(&mut ct, &HOST.tcp((40003, 80), ACK, 2, 2), None);
    let (proc, tool) = lines(&ct, id);
    assert_eq!(
        proc,
        "ipv4     2 tcp      6 431997 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=40003 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40003 [ASSURED] mark=0 zone=0 use=2"
    );
    assert_eq!(
        tool,
        "tcp      6 431997 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=40003 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40003 [ASSURED] mark=0 use=1"
    );
}

#[test]
fn an_assured_sctp_association() {
    let mut ct = table();
    let (there, back) = ((3000, 36412), (36412, 3000));
    let id = pass(&mut ct, &HOST.sctp(there, 0, 1, &init(1)), None);
    pass(&mut ct, &HOST.back().sctp(back, 1, 2, &init(2)), None);
    pass(&mut ct, &HOST.sctp(there, 2, 10, b"cookie00"), None);
    pass(&mut ct, &HOST.back().sctp(back, 1, 11, b""), None);
    let (proc, tool) = lines(&ct, id);
    assert_eq!(
        proc,
        "ipv4     2 sctp     132 207 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=3000 dport=36412 src=10.2.0.2 dst=10.1.0.2 sport=36412 dport=3000 [ASSURED] mark=0 zone=0 use=2"
    );
    assert_eq!(
        tool,
        "sctp     132 207 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=3000 dport=36412 src=10.2.0.2 dst=10.1.0.2 sport=36412 dport=3000 [ASSURED] mark=0 use=1"
    );
}

#[test]
fn unreplied_udp_icmp_gre_and_unknown() {
    let mut ct = table();
    let id = pass(&mut ct, &HOST.udp(5001, 53), None);
    assert_eq!(
        lines(&ct, id).0,
        "ipv4     2 udp      17 27 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=53 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=53 dport=5001 mark=0 zone=0 use=2"
    );
    let id = pass(&mut ct, &HOST.echo(8, 77), None);
    pass(&mut ct, &HOST.back().echo(0, 77), None);
    assert_eq!(
        lines(&ct, id).0,
        "ipv4     2 icmp     1 27 src=10.1.0.2 dst=10.2.0.2 type=8 code=0 id=77 src=10.2.0.2 dst=10.1.0.2 type=0 code=0 id=77 mark=0 zone=0 use=2"
    );
    let id = pass(&mut ct, &HOST.packet(47, vec![0, 0, 8, 0], None), None);
    assert_eq!(
        lines(&ct, id).0,
        "ipv4     2 gre      47 27 timeout=30, stream_timeout=180 src=10.1.0.2 dst=10.2.0.2 srckey=0x0 dstkey=0x0 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 srckey=0x0 dstkey=0x0 mark=0 zone=0 use=2"
    );
    let id = pass(&mut ct, &HOST.packet(50, vec![0; 8], None), None);
    let (proc, tool) = lines(&ct, id);
    assert_eq!(
        proc,
        "ipv4     2 unknown  50 597 src=10.1.0.2 dst=10.2.0.2 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 mark=0 zone=0 use=2"
    );
    assert_eq!(
        tool,
        "unknown  50 597 src=10.1.0.2 dst=10.2.0.2 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 mark=0 use=1"
    );
}

#[test]
fn ipv6_is_full_in_proc_and_short_in_the_tool() {
    let mut ct = table();
    let mut pkt = vec![0x60, 0, 0, 0, 0, 8, 58, 64];
    pkt.extend(0xfd01_0000_0000_0000_0000_0000_0000_0002u128.to_be_bytes());
    pkt.extend(0xfd02_0000_0000_0000_0000_0000_0000_0002u128.to_be_bytes());
    pkt.extend([128, 0, 0, 0, 0, 5, 0, 1]);
    let l = parse(&pkt).unwrap();
    let Tracked::Ct(mut at) = ct.handle_packet(NOW, &pkt, &l, InHook::Output, None) else {
        panic!("not tracked");
    };
    ct.confirm(NOW, &mut at).unwrap();
    let (proc, tool) = lines(&ct, at.id);
    assert_eq!(
        proc,
        "ipv6     10 icmpv6   58 27 src=fd01:0000:0000:0000:0000:0000:0000:0002 dst=fd02:0000:0000:0000:0000:0000:0000:0002 type=128 code=0 id=5 [UNREPLIED] src=fd02:0000:0000:0000:0000:0000:0000:0002 dst=fd01:0000:0000:0000:0000:0000:0000:0002 type=129 code=0 id=5 mark=0 zone=0 use=2"
    );
    assert_eq!(
        tool,
        "icmpv6   58 27 src=fd01::2 dst=fd02::2 type=128 code=0 id=5 [UNREPLIED] src=fd02::2 dst=fd01::2 type=129 code=0 id=5 mark=0 use=1"
    );
}

#[test]
fn zones_counters_marks_and_age() {
    let mut ct = Conntrack::new(Config {
        acct: true,
        timestamp: true,
        buckets: 16,
        ..Config::default()
    });
    let zone = |id, dirs| Template {
        zone: Zone { id, dirs },
        ..Template::default()
    };
    let orig = pass(&mut ct, &HOST.udp(5001, 55), Some(&zone(6, Zone::ORIG)));
    let reply = pass(&mut ct, &HOST.udp(5001, 56), Some(&zone(7, Zone::REPLY)));
    let both = pass(&mut ct, &HOST.udp(5001, 54), Some(&zone(5, Zone::BOTH)));
    ct.set_mark(both, 255);
    let show = |id| {
        let later = NOW + 3 * SECOND / 2;
        proc_line(ct.entry(id).unwrap(), later)
    };
    assert_eq!(
        show(orig),
        "ipv4     2 udp      17 28 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=55 zone-orig=6 packets=1 bytes=29 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=55 dport=5001 packets=0 bytes=0 mark=0 delta-time=1 use=2"
    );
    assert_eq!(
        show(reply),
        "ipv4     2 udp      17 28 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=56 packets=1 bytes=29 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=56 dport=5001 zone-reply=7 packets=0 bytes=0 mark=0 delta-time=1 use=2"
    );
    assert_eq!(
        show(both),
        "ipv4     2 udp      17 28 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=54 packets=1 bytes=29 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=54 dport=5001 packets=0 bytes=0 mark=255 zone=5 delta-time=1 use=2"
    );
}

#[test]
fn events_of_an_ftp_control_connection() {
    let mut ct = Conntrack::new(Config {
        events: true,
        buckets: 16,
        ..Config::default()
    });
    let template = Template {
        helper: Some(HelperKind::Ftp),
        ..Template::default()
    };
    pass(&mut ct, &HOST.tcp((41000, 21), SYN, 1, 0), Some(&template));
    pass(
        &mut ct,
        &HOST.back().tcp((21, 41000), SYN | ACK, 1, 2),
        None,
    );
    pass(&mut ct, &HOST.tcp((41000, 21), ACK, 2, 2), None);
    let lines: Vec<String> = ct
        .events()
        .iter()
        .map(|e| event_line(e, Columns::default()))
        .collect();
    assert_eq!(
        lines,
        [
            "    [NEW] tcp      6 120 SYN_SENT src=10.1.0.2 dst=10.2.0.2 sport=41000 dport=21 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=21 dport=41000 helper=ftp",
            " [UPDATE] tcp      6 60 SYN_RECV src=10.1.0.2 dst=10.2.0.2 sport=41000 dport=21 src=10.2.0.2 dst=10.1.0.2 sport=21 dport=41000 helper=ftp",
            " [UPDATE] tcp      6 432000 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=41000 dport=21 src=10.2.0.2 dst=10.1.0.2 sport=21 dport=41000 [ASSURED] helper=ftp",
        ]
    );
}

#[test]
fn an_ftp_expectation() {
    let mut ct = table();
    let master = pass(&mut ct, &HOST.tcp((41000, 21), SYN, 1, 0), None);
    let address = |a: [u8; 4]| u128::from(u32::from_be_bytes(a));
    let expectation = Expectation {
        tuple: Tuple {
            src: address(HOST.dst),
            dst: address(HOST.src),
            src_id: 0,
            dst_id: 2580,
            family: Family::V4,
            proto: 6,
        },
        mask_src: u128::MAX,
        mask_src_id: 0,
        master,
        zone: 0,
        class: 0,
        flags: 0,
        helper: Some(HelperKind::Ftp),
        assign_helper: None,
        on_match: OnMatch::Plain,
        dir: Dir::Reply,
        saved_addr: 0,
        saved_id: 0,
        timeout: 0,
    };
    let policy = ExpectPolicy {
        max: 1,
        timeout: 300,
    };
    ct.expect(NOW, expectation, policy).unwrap();
    let e = ct.expectations().next().unwrap();
    assert_eq!(
        expect_proc_line(e, NOW + SECOND),
        "299 l3proto = 2 proto=6 src=10.2.0.2 dst=10.1.0.2 sport=0 dport=2580 ftp"
    );
    assert_eq!(
        expect_line(e, ct.entry(master).map(|m| m.tuple(Dir::Original)), NOW),
        "300 proto=6 src=10.2.0.2 dst=10.1.0.2 sport=0 dport=2580 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=10.1.0.2 master-dst=10.2.0.2 sport=41000 dport=21 class=0 helper=ftp"
    );
}
