//! SIP (RFC 3261): registrations and the calls they let in, media, and what must announce
//! nothing. Sequences compared with the kernel are in `oracle/kernel/gensip.py`.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{HOST, Ip, Lab, layout, small};
use tidegate_conntrack::snapshot::{Snapshot, Writer};
use tidegate_conntrack::{
    Attached, Config, CtInfo, HelperKind, HelperPort, HelperSettings, SECOND, Status, Way, Ways,
    format::expect_proc_line,
};
use tidegate_wire::proto;
use tidegate_wire::tcp::flags::{ACK, PSH, SYN};

const CLIENT: &str = "10.0.0.2";
const SERVER: &str = "10.0.1.2";

fn lab() -> Lab {
    let watch = |proto| HelperPort {
        kind: HelperKind::Sip,
        proto,
        port: 5060,
    };
    Lab::new(Config {
        helpers: vec![watch(proto::UDP), watch(proto::TCP)],
        ..small()
    })
}

fn datagram(way: &Ip, ports: (u16, u16), text: &str) -> Vec<u8> {
    let len = 8 + text.len() as u16;
    let mut l4 = [ports.0, ports.1, len, 0].map(u16::to_be_bytes).concat();
    l4.extend(text.as_bytes());
    way.packet(proto::UDP, l4, Some(6))
}

/// Tracks, helps and confirms a packet.
fn pass(lab: &mut Lab, mut pkt: Vec<u8>) -> Attached {
    let mut at = lab.attach(&pkt);
    let layout = layout(&pkt);
    lab.ct.help(lab.now, &at, &mut pkt, &layout).unwrap();
    lab.ct.confirm(lab.now, &mut at).unwrap();
    at
}

fn request(lab: &mut Lab, text: &str) -> Attached {
    pass(lab, datagram(&HOST, (5060, 5060), text))
}

fn answer(lab: &mut Lab, text: &str) -> Attached {
    pass(lab, datagram(&HOST.back(), (5060, 5060), text))
}

fn register(contact: &str) -> String {
    format!(
        "REGISTER sip:{SERVER} SIP/2.0\r\nVia: SIP/2.0/UDP {CLIENT}:5060;branch=z9hG4bK1\r\n\
         CSeq: 7 REGISTER\r\nContact: {contact}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn registered(status: &str, contact: &str) -> String {
    format!(
        "SIP/2.0 {status}\r\nVia: SIP/2.0/UDP {CLIENT}:5060;branch=z9hG4bK1\r\n\
         CSeq: 7 REGISTER\r\nContact: {contact}\r\nContent-Length: 0\r\n\r\n"
    )
}

fn call(kind: &str, from: &str, media: &str) -> String {
    let sdp = format!("v=0\r\no=u 1 1 IN IP4 {from}\r\ns=-\r\nc=IN IP4 {from}\r\nt=0 0\r\n{media}");
    let len = sdp.len();
    format!("{kind}\r\nCSeq: 9 INVITE\r\nContent-Length: {len}\r\n\r\n{sdp}")
}

const INVITE: &str = "INVITE sip:b@10.0.1.2 SIP/2.0";

fn expected(lab: &Lab) -> Vec<String> {
    let mut all: Vec<String> = lab
        .ct
        .expectations()
        .map(|e| expect_proc_line(e, lab.now))
        .collect();
    all.sort();
    all
}

/// A call from the registrar to where the client can be reached.
fn calls(lab: &mut Lab, from: [u8; 4]) -> CtInfo {
    let way = Ip {
        src: from,
        dst: HOST.src,
    };
    pass(
        lab,
        datagram(&way, (5060, 5080), "OPTIONS sip:a SIP/2.0\r\n\r\n"),
    )
    .info
}

#[test]
fn a_registration_lets_calls_in_once_it_is_granted() {
    let contact = format!("<sip:a@{CLIENT}:5080>;expires=60");
    let mut lab = lab();
    let master = request(&mut lab, &register(&contact)).id;
    assert_eq!(lab.left(master), 3600);
    assert_eq!(
        expected(&lab),
        [
            "180 l3proto = 2 proto=17 src=10.0.1.2 dst=10.0.0.2 sport=0 dport=5080 \
          PERMANENT,INACTIVE sip/signalling"
        ]
    );
    let mut early = lab;
    assert_eq!(calls(&mut early, HOST.dst), CtInfo::New);

    let mut lab = self::lab();
    request(&mut lab, &register(&contact));
    answer(&mut lab, &registered("100 Trying", &contact));
    assert!(expected(&lab)[0].contains("INACTIVE"));
    answer(&mut lab, &registered("200 OK", &contact));
    assert_eq!(
        expected(&lab),
        [
            "60 l3proto = 2 proto=17 src=10.0.1.2 dst=10.0.0.2 sport=0 dport=5080 \
          PERMANENT sip/signalling"
        ]
    );
    assert_eq!(calls(&mut lab, [10, 0, 1, 3]), CtInfo::New);
    assert_eq!(calls(&mut lab, HOST.dst), CtInfo::Related);
    let child = lab.ct.iter().find(|(_, e)| e.status.has(Status::EXPECTED));
    assert_eq!(child.unwrap().1.helper, Some(HelperKind::Sip));
    // It lasts as long as the registrar said.
    lab.now += 60 * SECOND;
    lab.ct.handle_timeout(lab.now);
    assert!(expected(&lab).is_empty());
}

#[test]
fn what_is_refused_or_ends_lets_nobody_in() {
    let contact = format!("<sip:a@{CLIENT}:5080>;expires=60");
    for (status, contact) in [
        ("403 Forbidden", contact.clone()),
        ("200 OK", format!("<sip:a@{CLIENT}:5080>;expires=0")),
        ("200 OK", "<sip:c@10.0.1.2:5080>;expires=60".to_owned()),
    ] {
        let mut lab = lab();
        request(
            &mut lab,
            &register(&format!("<sip:a@{CLIENT}:5080>;expires=60")),
        );
        answer(&mut lab, &registered(status, &contact));
        assert!(expected(&lab).is_empty(), "{status} {contact}");
    }
    // Nobody registers others, or with nothing to reach.
    for contact in [
        "<sip:a@10.0.0.3:5080>;expires=60",
        "<sip:a@10.0.0.2:5080>;expires=0",
        "*",
    ] {
        let mut lab = lab();
        let pkt = datagram(&HOST, (5060, 5060), &register(contact));
        let at = lab.attach(&pkt);
        let _ = lab.ct.help(lab.now, &at, &mut pkt.clone(), &layout(&pkt));
        assert!(expected(&lab).is_empty(), "{contact}");
    }
}

#[test]
fn media_of_both_sides_until_the_call_ends() {
    let mut lab = lab();
    let audio = "m=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 31\r\nm=text 4004 x\r\n";
    request(&mut lab, &call(INVITE, CLIENT, audio));
    answer(
        &mut lab,
        &call("SIP/2.0 200 OK", SERVER, "m=audio 6001 RTP/AVP 0\r\n"),
    );
    let line = |src: &str, dst: &str, port: u16, class: &str| {
        format!("180 l3proto = 2 proto=17 src={src} dst={dst} sport=0 dport={port} sip/{class}")
    };
    let mut wanted = vec![
        line(SERVER, CLIENT, 4000, "audio"),
        line(SERVER, CLIENT, 4001, "audio"),
        line(SERVER, CLIENT, 4002, "video"),
        line(SERVER, CLIENT, 4003, "video"),
        // An odd port belongs to the pair that begins before it.
        line(CLIENT, SERVER, 6000, "audio"),
        line(CLIENT, SERVER, 6001, "audio"),
    ];
    wanted.sort();
    assert_eq!(expected(&lab), wanted);
    let rtp = pass(&mut lab, HOST.back().udp(6001, 4000));
    assert_eq!(rtp.info, CtInfo::Related);
    let bye = "BYE sip:b@10.0.1.2 SIP/2.0\r\nCSeq: 10 BYE\r\nContent-Length: 0\r\n\r\n";
    request(&mut lab, bye);
    assert!(expected(&lab).is_empty());
    assert!(lab.ct.entry(rtp.id).is_some());
}

#[test]
fn media_for_others_are_not_expected() {
    let mut lab = lab();
    request(
        &mut lab,
        &call(INVITE, "10.0.0.9", "m=audio 4000 RTP/AVP 0\r\n"),
    );
    request(&mut lab, &call(INVITE, CLIENT, "m=audio 0 RTP/AVP 0\r\n"));
    assert!(expected(&lab).is_empty());
    let low = datagram(
        &HOST,
        (5060, 5060),
        &call(INVITE, CLIENT, "m=audio 22 RTP/AVP 0\r\n"),
    );
    let at = lab.attach(&low);
    assert!(
        lab.ct
            .help(lab.now, &at, &mut low.clone(), &layout(&low))
            .is_err()
    );
    assert!(expected(&lab).is_empty());
}

/// NAT slipstreaming: a browser is made to send a request that is so long that a segment of
/// it begins like a message of SIP.
#[test]
fn a_stream_that_did_not_begin_as_sip_announces_nothing() {
    for (first, wanted) in [
        ("POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n", 0),
        ("\r\n\r\n", 1),
    ] {
        let mut lab = lab();
        let mut seq = 1000;
        let mut say = |lab: &mut Lab, flags, text: &str| {
            let mut l4 = [5061u16, 5060].map(u16::to_be_bytes).concat();
            l4.extend(u32::to_be_bytes(seq));
            l4.extend([0, 0, 0x13, 0x89, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
            l4.extend(text.as_bytes());
            seq += text.len() as u32 + u32::from(flags & SYN != 0);
            pass(lab, HOST.packet(proto::TCP, l4, Some(16)))
        };
        say(&mut lab, SYN, "");
        pass(
            &mut lab,
            HOST.back().tcp((5060, 5061), SYN | ACK, 5000, 1001),
        );
        say(&mut lab, ACK, "");
        say(&mut lab, ACK | PSH, first);
        say(
            &mut lab,
            ACK | PSH,
            &register(&format!("<sip:a@{CLIENT}:5080>;expires=60")),
        );
        assert_eq!(lab.ct.expectations().count(), wanted, "{first:?}");
    }
}

/// Media that the other end fetches by the interface of the signalling need no help.
#[test]
fn media_outside_are_left_alone_if_wished() {
    let to = |_, addr: u128| {
        let dev = if addr == 0x0a00_0109 { 3 } else { 2 };
        Some(Way { dev, hop: addr })
    };
    for (external, wanted) in [(false, 2), (true, 0)] {
        let mut lab = Lab::new(Config {
            helpers: vec![HelperPort {
                kind: HelperKind::Sip,
                proto: proto::UDP,
                port: 5060,
            }],
            helper: HelperSettings {
                sip_direct_media: false,
                sip_external_media: external,
                ..HelperSettings::default()
            },
            ..small()
        });
        for (host, wanted) in [("10.0.1.9", wanted), ("10.0.2.9", 2)] {
            let text = call(INVITE, host, "m=audio 4000 RTP/AVP 0\r\n");
            let mut pkt = datagram(&HOST, (5060, 5060), &text);
            let at = lab.attach(&pkt);
            let layout = layout(&pkt);
            let known = Ways {
                out: Some(3),
                to: Some(&to),
            };
            let helped = lab.ct.help_knowing(lab.now, &at, &mut pkt, &layout, &known);
            helped.unwrap();
            assert_eq!(lab.ct.expectations().count(), wanted, "{external} {host}");
            lab.ct.forget_expectations_where(|_| true);
        }
    }
}

/// The numbers of requests outlive the process: the answer to a registration is still one.
#[test]
fn a_registration_is_granted_after_a_restart() {
    let contact = format!("<sip:a@{CLIENT}:5080>;expires=60");
    let mut before = lab();
    request(&mut before, &register(&contact));
    let mut bytes = Vec::new();
    let mut writer = Writer::new(before.now, 0, &mut bytes);
    while !writer.step(&before.ct, 10, &mut bytes) {}
    let mut lab = lab();
    lab.ct.restore(lab.now, 0, &Snapshot::open(&bytes).unwrap());
    assert!(expected(&lab)[0].contains("INACTIVE"));
    answer(&mut lab, &registered("200 OK", &contact));
    assert!(!expected(&lab)[0].contains("INACTIVE"));
}
