//! H.323: what calls and gatekeepers announce, and what must announce nothing. Sequences
//! compared with the kernel are in `oracle/kernel/genh323.py`.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{HOST, Ip, Lab, layout, small};
use tidegate_conntrack::{
    Attached, Config, Family, HelperKind, HelperPort, HelperSettings, SECOND, Way, Ways,
    format::expect_proc_line,
};
use tidegate_wire::proto;
use tidegate_wire::tcp::flags::{ACK, PSH, SYN};

/// A Q.931 message in its envelope: CALL PROCEEDING with an address for H.245 (encoded by
/// pycrate).
const PROCEEDING: [u8; 30] = [
    3, 0, 0, 30, 8, 2, 1, 1, 2, 0x7e, 0, 0x12, 5, 1, 0x40, 6, 0, 8, 0x91, 0x4a, 0, 4, 0, 0, //
    10, 0, 1, 2, 0x0d, 0x05,
];
/// Messages of another encoder.
const VECTORS: &str = include_str!("../../../oracle/kernel/h323.txt");

fn lab(helper: HelperSettings) -> Lab {
    let watch = |kind: HelperKind| HelperPort {
        kind,
        proto: kind.protocols()[0],
        port: kind.port(),
    };
    Lab::new(Config {
        helpers: vec![watch(HelperKind::Ras), watch(HelperKind::Q931)],
        helper,
        ..small()
    })
}

fn expected(lab: &Lab) -> Vec<String> {
    let all = lab.ct.expectations();
    all.map(|e| expect_proc_line(e, lab.now)).collect()
}

fn pass(lab: &mut Lab, mut pkt: Vec<u8>, ways: &Ways<'_>) -> Attached {
    let mut at = lab.attach(&pkt);
    let layout = layout(&pkt);
    let helped = lab.ct.help_knowing(lab.now, &at, &mut pkt, &layout, ways);
    helped.unwrap();
    lab.ct.confirm(lab.now, &mut at).unwrap();
    at
}

/// A connection to a call's port.
struct Call {
    lab: Lab,
    seq: [u32; 2],
}

impl Call {
    fn new() -> Call {
        let mut call = Call {
            lab: lab(HelperSettings::default()),
            seq: [1000, 5000],
        };
        call.say(0, SYN, b"");
        call.say(1, SYN | ACK, b"");
        call.say(0, ACK, b"");
        call
    }

    fn say(&mut self, who: usize, flags: u8, data: &[u8]) {
        self.say_knowing(who, flags, data, &Ways::default());
    }

    fn say_knowing(&mut self, who: usize, flags: u8, data: &[u8], ways: &Ways<'_>) {
        let ports = [[3000u16, 1720], [1720, 3000]][who];
        let way = [HOST, HOST.back()];
        let ack = if flags & ACK == 0 {
            0
        } else {
            self.seq[1 - who]
        };
        let mut l4 = ports.map(u16::to_be_bytes).concat();
        l4.extend(self.seq[who].to_be_bytes());
        l4.extend(ack.to_be_bytes());
        l4.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
        l4.extend(data);
        self.seq[who] += data.len() as u32 + u32::from(flags & SYN != 0);
        let pkt = way[who].packet(proto::TCP, l4, Some(16));
        pass(&mut self.lab, pkt, ways);
    }
}

#[test]
fn an_address_for_h245_is_expected_from_the_other_end() {
    let mut call = Call::new();
    call.say(0, PSH | ACK, &PROCEEDING);
    assert!(expected(&call.lab).is_empty(), "it is not the caller's");
    call.say(1, PSH | ACK, &PROCEEDING);
    let line = "240 l3proto = 2 proto=6 src=10.0.0.2 dst=10.0.1.2 sport=0 dport=3333 Q.931";
    assert_eq!(expected(&call.lab), [line]);
    let child = pass(
        &mut call.lab,
        HOST.tcp((4000, 3333), SYN, 1, 0),
        &Ways::default(),
    );
    let child = call.lab.ct.entry(child.id).unwrap();
    assert_eq!(child.helper, Some(HelperKind::H245));
    assert!(child.master().is_some());
}

#[test]
fn a_header_of_its_own_and_two_messages_in_a_segment() {
    let mut call = Call::new();
    call.say(0, PSH | ACK, &PROCEEDING);
    call.say(1, PSH | ACK, &PROCEEDING[..4]);
    call.say(1, PSH | ACK, &PROCEEDING[4..]);
    assert_eq!(expected(&call.lab).len(), 1);
    let mut other = PROCEEDING;
    other[29] += 1;
    call.say(1, PSH | ACK, &[PROCEEDING, other].concat());
    assert_eq!(expected(&call.lab).len(), 2);
    // What is cut says nothing.
    let mut call = Call::new();
    call.say(0, PSH | ACK, &PROCEEDING);
    call.say(1, PSH | ACK, &PROCEEDING[..20]);
    call.say(1, PSH | ACK, &PROCEEDING[20..]);
    assert!(expected(&call.lab).is_empty());
}

/// NAT slipstreaming: a browser is made to send a request so long that a segment of it
/// begins like a message.
#[test]
fn a_stream_that_did_not_begin_as_a_call_announces_nothing() {
    let mut own = PROCEEDING;
    own[24..28].copy_from_slice(&HOST.src);
    for (first, wanted) in [(&b"POST / HTTP/1.1\r\n\r\n"[..], 0), (&own[..], 1)] {
        let mut call = Call::new();
        call.say(0, PSH | ACK, first);
        call.say(0, PSH | ACK, &own);
        call.say(1, PSH | ACK, b"HTTP/1.1 100 Continue\r\n\r\n");
        call.say(0, PSH | ACK, &own);
        assert_eq!(expected(&call.lab).len(), wanted);
    }
}

/// A message of the file with its addresses replaced.
fn message(name: &str, addr: [u8; 4], port: u16) -> Vec<u8> {
    let line = VECTORS
        .lines()
        .find(|l| l.starts_with(&format!("{name} 4 ")));
    let mut words = line.unwrap().split(' ').skip(2);
    let hex = words.next().unwrap();
    let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
    let mut bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    for place in words {
        let (role, at) = place.split_once('@').unwrap();
        if role != "Life" {
            let at: usize = at.parse().unwrap();
            bytes[at..at + 4].copy_from_slice(&addr);
            bytes[at + 4..at + 6].copy_from_slice(&port.to_be_bytes());
        }
    }
    bytes
}

fn datagram(lab: &mut Lab, way: &Ip, data: &[u8]) {
    let len = 8 + data.len() as u16;
    let mut l4 = [1719u16, 1719, len, 0].map(u16::to_be_bytes).concat();
    l4.extend(data);
    pass(lab, way.packet(proto::UDP, l4, Some(6)), &Ways::default());
}

#[test]
fn a_gatekeeper_that_was_not_asked_lets_nobody_call() {
    for (question, answer) in [("ras-arq", "ras-acf"), ("ras-lrq", "ras-lcf")] {
        let mut lab = lab(HelperSettings::default());
        let told = message(answer, [10, 0, 2, 2], 1720);
        let other = message("ras-irr", HOST.src, 1719);
        datagram(&mut lab, &HOST, &other);
        datagram(&mut lab, &HOST.back(), &told);
        datagram(&mut lab, &HOST, &told);
        assert!(expected(&lab).is_empty(), "{answer}");
        datagram(&mut lab, &HOST, &message(question, HOST.src, 1719));
        // One does not answer oneself.
        datagram(&mut lab, &HOST, &told);
        assert!(expected(&lab).is_empty(), "{answer}");
        datagram(&mut lab, &HOST.back(), &told);
        let line = "240 l3proto = 2 proto=6 src=10.0.0.2 dst=10.0.2.2 sport=0 dport=1720 \
                    PERMANENT RAS";
        assert_eq!(expected(&lab), [line]);
    }
}

#[test]
fn calls_come_from_the_gatekeeper_unless_anybody_may() {
    for (gkrouted_only, from) in [(true, "10.0.1.2"), (false, "0.0.0.0")] {
        let mut lab = lab(HelperSettings {
            h323_gkrouted_only: gkrouted_only,
            ..HelperSettings::default()
        });
        datagram(&mut lab, &HOST, &message("ras-rrq", HOST.src, 1720));
        let line = format!(
            "240 l3proto = 2 proto=6 src={from} dst=10.0.0.2 sport=0 dport=1720 PERMANENT RAS"
        );
        assert_eq!(expected(&lab), [line]);
        // What the gatekeeper grants lasts as long as it says, or as was asked for.
        datagram(&mut lab, &HOST.back(), &message("ras-rcf", HOST.src, 1720));
        let (id, _) = lab.ct.iter().next().unwrap();
        assert!(lab.left(id) >= 600, "{}", lab.left(id));
        datagram(&mut lab, &HOST, &message("ras-urq", HOST.src, 1720));
        assert!(expected(&lab).is_empty());
        assert_eq!(lab.left(id), 30);
    }
}

/// Calls that are forwarded are expected for the other end, unless it goes there by the same
/// router as the connection.
#[test]
fn forwarded_calls() {
    let forward = message("q931-forward", [192, 0, 2, 7], 1720);
    let len = (forward.len() + 4) as u16;
    let forward = [&[3, 0][..], &len.to_be_bytes(), &forward].concat();
    let router = |family, addr: u128| {
        assert_eq!(family, Family::V4);
        Some(Way {
            dev: 2,
            hop: if addr >> 24 == 192 { 0x0a00_0101 } else { addr },
        })
    };
    let one_router = |_, _| Some(Way { dev: 2, hop: 1 });
    for (to, wanted) in [
        (None, 1),
        (Some(&router as &dyn Fn(Family, u128) -> Option<Way>), 1),
        (Some(&one_router), 0),
    ] {
        let mut call = Call::new();
        call.say(0, PSH | ACK, &PROCEEDING);
        let ways = Ways { out: Some(2), to };
        call.say_knowing(1, PSH | ACK, &forward, &ways);
        assert_eq!(expected(&call.lab).len(), wanted);
        call.lab.now += 240 * SECOND;
        call.lab.ct.handle_timeout(call.lab.now);
        assert!(expected(&call.lab).is_empty());
    }
}
