//! The FTP helper against what Linux 6.18 did with the same lines.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tidegate_conntrack::config::{Config, HelperPort};
use tidegate_conntrack::{
    Attached, Conntrack, Dir, DropReason, HelperKind, HelperSettings, InHook, Manip, NatHook,
    NatRange, SECOND, Status, Template, Tracked,
};
use tidegate_wire::{Family, checksum, parse, proto};

const NOW: u64 = 1_000_000 * SECOND;
const CLIENT: u32 = 0x0a00_0002;
const SERVER: u32 = 0x0a00_0102;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// One end of a segment: address and port.
type End = (u32, u16);

fn segment(from: End, to: End, flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let len = 40 + data.len() as u16;
    let mut pkt = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto::TCP, 0, 0];
    pkt[2..4].copy_from_slice(&len.to_be_bytes());
    pkt.extend(from.0.to_be_bytes());
    pkt.extend(to.0.to_be_bytes());
    checksum::fix_ipv4(&mut pkt);
    pkt.extend([from.1, to.1].map(u16::to_be_bytes).concat());
    pkt.extend([seq, ack].map(u32::to_be_bytes).concat());
    pkt.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    pkt.extend(data);
    let (src, dst) = (u128::from(from.0), u128::from(to.0));
    let pseudo = checksum::pseudo(Family::V4, src, dst, proto::TCP, u32::from(len) - 20);
    let check = checksum::finish(pseudo, &pkt[20..]);
    pkt[36..38].copy_from_slice(&check.to_be_bytes());
    pkt
}

/// A control connection through a tracker, optionally with its source translated.
struct Control {
    ct: Conntrack,
    snat: Option<u32>,
    client: End,
    helper: Option<HelperKind>,
    /// Next sequence numbers of client and server.
    seq: [u32; 2],
}

impl Control {
    fn new(config: Config, snat: Option<u32>) -> Control {
        Control {
            ct: Conntrack::new(config),
            snat,
            client: (CLIENT, 3000),
            helper: Some(HelperKind::Ftp),
            seq: [1000, 5000],
        }
    }

    fn pass(&mut self, mut pkt: Vec<u8>) -> (Attached, Result<Vec<u8>, DropReason>) {
        let layout = parse(&pkt).unwrap();
        let template = Template {
            helper: self.helper,
            ..Template::default()
        };
        let hook = InHook::Prerouting;
        let tracked = self
            .ct
            .handle_packet(NOW, &pkt, &layout, hook, Some(&template));
        let Tracked::Ct(mut at) = tracked else {
            panic!("{tracked:?}");
        };
        for hook in [NatHook::Prerouting, NatHook::Postrouting] {
            if self.ct.nat_rules_needed(&at, hook.manip()) {
                match self.snat.filter(|_| hook.manip() == Manip::Src) {
                    Some(a) => {
                        let range = NatRange::address(a.into());
                        self.ct.nat_setup(at.id, Manip::Src, &range).unwrap();
                    }
                    None => self.ct.nat_null_binding(at.id, hook.manip()).unwrap(),
                }
            }
            self.ct.nat_translate(&at, hook, &mut pkt, &layout).unwrap();
        }
        let outcome = self.ct.help(NOW, &at, &mut pkt, &layout);
        let outcome = outcome.and_then(|_| self.ct.confirm(NOW, &mut at));
        (at, outcome.map(|()| pkt))
    }

    fn send(
        &mut self,
        dir: Dir,
        flags: u8,
        data: &[u8],
    ) -> (Attached, Result<Vec<u8>, DropReason>) {
        let [c, s] = self.seq;
        let server = (SERVER, 21);
        let seen = (self.snat.unwrap_or(self.client.0), self.client.1);
        let pkt = match dir {
            Original => segment(self.client, server, flags, c, s, data),
            Reply => segment(server, seen, flags, s, c, data),
        };
        let passed = self.pass(pkt);
        if passed.1.is_ok() {
            let syn = u32::from(flags & SYN != 0);
            self.seq[dir as usize] += data.len() as u32 + syn;
        }
        passed
    }

    /// Handshake and one line from each side, so that the next lines count.
    fn greet(&mut self) {
        self.send(Original, SYN, b"").1.unwrap();
        self.send(Reply, SYN | ACK, b"").1.unwrap();
        self.send(Original, ACK, b"").1.unwrap();
        self.send(Reply, PSH | ACK, b"220 hi\r\n").1.unwrap();
        self.send(Original, PSH | ACK, b"USER a\r\n").1.unwrap();
    }

    fn say(&mut self, dir: Dir, data: &[u8]) -> Result<Vec<u8>, DropReason> {
        self.send(dir, PSH | ACK, data).1
    }

    fn expected_port(&self) -> Option<u16> {
        let mut all = self.ct.expectations();
        let first = all.next().map(|e| e.tuple.dst_id);
        assert!(all.next().is_none());
        first
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Forwarded, nothing expected.
    Pass,
    /// Dropped.
    Drop,
    /// Forwarded, a connection to this port expected.
    Expect(u16),
}

use Dir::{Original, Reply};
use Outcome::{Drop, Expect, Pass};

/// Every line was sent through the kernel in a connection of its own, 10.0.0.2 to
/// 10.0.1.2, after one line of each side.
#[rustfmt::skip]
const KERNEL: [(Dir, &[u8], Outcome); 64] = [
    (Original, b"PORT 10,0,0,2,4,5\r\n", Expect(1029)),
    (Original, b"port 10,0,0,2,4,5\r\n", Expect(1029)),
    (Original, b"PORT  10,0,0,2,4,5\r\n", Drop),
    (Original, b"PORT 10,0,0,2,4,5\n", Drop),
    (Original, b"PORT 10,0,0,2,4,5 \r\n", Drop),
    (Original, b"PORT 10,0,0,2,4,a\r\n", Drop),
    (Original, b"PORT 10,0,0,2,0,0\r\n", Expect(0)),
    (Original, b"PORT 10,0,0,2,10,256\r\n", Expect(2816)),
    (Original, b"PORT 10,0,0,258,4,5\r\n", Pass),
    (Original, b"PORT 10,0,0,2,4\r\n", Drop),
    (Original, b"PORT 10,0,0,2,4,5,6\r\n", Drop),
    (Original, b"PORT ,,,,,\r\n", Pass),
    (Original, b"PORT\r\n", Drop),
    (Original, b"PORT", Drop),
    (Original, b"P", Drop),
    (Original, b"PO", Drop),
    (Original, b"PORX", Pass),
    (Original, b"E", Drop),
    (Original, b"EPRT", Drop),
    (Original, b"PORT10,0,0,2,4,5\r\n", Drop),
    (Original, b"PORTx 10,0,0,2,4,5\r\n", Expect(1029)),
    (Original, b"XPORT 10,0,0,2,4,5\r\n", Pass),
    (Original, b"NOOP\r\nPORT 10,0,0,2,4,5\r\n", Pass),
    (Original, b"PORT 10,0,0,2,4,5\r\nPORT 10,0,0,2,4,6\r\n", Expect(1029)),
    (Original, b"PORT 10,0,0,3,4,5\r\n", Pass),
    (Original, b"EPRT |1|10.0.0.2|1029|\r\n", Expect(1029)),
    (Original, b"EPRT #1#10.0.0.2#1029#\r\n", Expect(1029)),
    (Original, b"EPRT |1|10.0.0.2|0|\r\n", Drop),
    (Original, b"EPRT |1|10.0.0.2|70000|\r\n", Expect(4464)),
    (Original, b"EPRT |2|10.0.0.2|1029|\r\n", Drop),
    (Original, b"EPRT |1|10.0.0.2|1029\r\n", Drop),
    (Original, b"EPRT 11110.0.0.2110291\r\n", Drop),
    (Original, b"EPRT |1|10.0.0.2|1029|", Expect(1029)),
    (Original, b"EPRT |1|10.0.0|1029|\r\n", Drop),
    (Original, b"EPRT |1|", Drop),
    (Original, b"2", Pass),
    (Original, b"227 x (10,0,0,2,4,5)\r\n", Pass),
    (Reply, b"227 Entering Passive Mode (10,0,1,2,4,5).\r\n", Expect(1029)),
    (Reply, b"227 10,0,1,2,4,5\r\n", Expect(1029)),
    (Reply, b"227 =10,0,1,2,4,5\r\n", Expect(1029)),
    (Reply, b"227 mode 2 (10,0,1,2,4,5)\r\n", Drop),
    (Reply, b"227-Entering (10,0,1,2,4,5)\r\n", Pass),
    (Reply, b"227 none\r\n", Drop),
    (Reply, b"227 (10,0,1,2,4,5", Drop),
    (Reply, b"227 (10,0,1,2,4,5)", Expect(1029)),
    (Reply, b"227 (10,0,1,3,4,5)\r\n", Pass),
    (Reply, b"2", Drop),
    (Reply, b"22", Drop),
    (Reply, b"227", Drop),
    (Reply, b"227 ", Drop),
    (Reply, b"229", Drop),
    (Reply, b"229 Extended (|||4005|)\r\n", Expect(4005)),
    (Reply, b"229 (!!!4005!)\r\n", Expect(4005)),
    (Reply, b"229 (|||0|)\r\n", Drop),
    (Reply, b"229 (||4005|)\r\n", Drop),
    (Reply, b"229 (|||4005)\r\n", Drop),
    (Reply, b"229 no\r\n", Drop),
    (Reply, b"229 (|||70000|) \r\n", Expect(4464)),
    (Reply, b"229 (||||4005|)\r\n", Drop),
    (Reply, b"229 (|1|10.0.1.2|4005|)\r\n", Drop),
    (Reply, b"P", Pass),
    (Reply, b"PORT 1,2,3,4,5,6\r\n", Pass),
    (Reply, b"22x\r\n", Pass),
    (Reply, b"229 (aaa4005a)\r\n", Expect(4005)),
];

#[test]
fn every_line_has_the_kernels_outcome() {
    for (dir, line, want) in KERNEL {
        let mut control = Control::new(Config::default(), None);
        control.greet();
        let got = match control.say(dir, line) {
            Err(DropReason::Helper(why)) => {
                assert!(why.starts_with("partial matching of `"));
                Drop
            }
            Err(other) => panic!("{other}"),
            Ok(_) => control.expected_port().map_or(Pass, Expect),
        };
        assert_eq!(got, want, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn the_expectation_is_the_kernels() {
    let mut control = Control::new(Config::default(), None);
    control.greet();
    control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    let e = control.ct.expectations().next().unwrap();
    let t = e.tuple;
    assert_eq!(({ t.src }, { t.dst }), (SERVER.into(), CLIENT.into()));
    assert_eq!(({ t.src_id }, { t.dst_id }, t.proto), (0, 1029, proto::TCP));
    assert_eq!((e.mask_src as u32, e.mask_src_id), (u32::MAX, 0));
    assert_eq!((e.class, e.flags, e.timeout), (0, 0, NOW + 300 * SECOND));
}

#[test]
fn the_first_line_of_a_side_is_not_read() {
    let mut control = Control::new(Config::default(), None);
    control.send(Original, SYN, b"").1.unwrap();
    control.send(Reply, SYN | ACK, b"").1.unwrap();
    control.send(Original, ACK, b"").1.unwrap();
    control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    assert_eq!(control.expected_port(), None);
    control.say(Original, b"PORT 10,0,0,2,4,6\r\n").unwrap();
    assert_eq!(control.expected_port(), Some(1030));
}

#[test]
fn a_line_not_ended_hides_what_follows() {
    let mut control = Control::new(Config::default(), None);
    control.greet();
    control.say(Original, b"NOOP").unwrap();
    control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    assert_eq!(control.expected_port(), None);
}

#[test]
fn a_new_command_replaces_the_expectation() {
    let mut control = Control::new(Config::default(), None);
    control.greet();
    control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    control.say(Original, b"PORT 10,0,0,2,4,6\r\n").unwrap();
    assert_eq!(control.expected_port(), Some(1030));
    assert_eq!(control.ct.stats().expect_create, 2);
    assert_eq!(control.ct.stats().expect_delete, 1);
}

#[test]
fn loose_takes_a_third_address_literally() {
    let config = Config {
        helper: HelperSettings {
            ftp_loose: true,
            ..HelperSettings::default()
        },
        ..Config::default()
    };
    let mut control = Control::new(config, None);
    control.greet();
    control.say(Original, b"PORT 10,0,0,3,4,5\r\n").unwrap();
    let e = control.ct.expectations().next().unwrap();
    assert_eq!({ e.tuple.dst }, 0x0a00_0003);
}

#[test]
fn configured_ports_get_the_helper_without_a_rule() {
    let config = Config {
        helpers: vec![HelperPort {
            kind: HelperKind::Ftp,
            proto: proto::TCP,
            port: 21,
        }],
        ..Config::default()
    };
    for (config, want) in [(config, Some(1029)), (Config::default(), None)] {
        let mut control = Control::new(config, None);
        control.helper = None;
        control.greet();
        control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
        assert_eq!(control.expected_port(), want);
    }
}

const PUBLIC: u32 = 0xcb00_7164;

#[test]
fn the_text_is_rewritten_and_the_child_follows() {
    let mut control = Control::new(Config::default(), Some(PUBLIC));
    control.greet();
    let out = control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    assert_eq!(&out[40..], b"PORT 203,0,113,100,4,5\r\n");
    assert_eq!(parse(&out).unwrap().len as usize, out.len());
    let (src, dst) = (PUBLIC.into(), SERVER.into());
    let pseudo = checksum::pseudo(Family::V4, src, dst, proto::TCP, out.len() as u32 - 20);
    assert_eq!(checksum::fold(pseudo + checksum::sum(&out[20..])), 0xffff);
    let syn = segment((SERVER, 20), (PUBLIC, 1029), SYN, 1, 0, b"");
    let (at, sent) = control.pass(syn);
    assert_eq!(sent.unwrap()[16..20], CLIENT.to_be_bytes());
    let child = control.ct.entry(at.id).unwrap();
    assert!(child.status.has(Status::EXPECTED) && child.status.has(Status::DST_NAT));
    assert!(child.master().is_some() && child.helper.is_none());
    assert_eq!(control.expected_port(), None);
}

/// Two clients behind one address announce the same port: the second gets another one.
#[test]
fn a_port_expected_already_is_changed() {
    let mut control = Control::new(Config::default(), Some(PUBLIC));
    control.greet();
    control.say(Original, b"PORT 10,0,0,2,31,144\r\n").unwrap();
    control.client = (0x0a00_0003, 3001);
    control.seq = [1000, 5000];
    control.greet();
    let out = control
        .say(Original, b"EPRT |1|10.0.0.3|8080|\r\n")
        .unwrap();
    let ports: Vec<u16> = control.ct.expectations().map(|e| e.tuple.dst_id).collect();
    let other = ports.iter().copied().find(|&p| p != 8080).unwrap();
    assert!(ports.len() == 2 && ports.contains(&8080) && other > 8080);
    let text = format!("EPRT |1|203.0.113.100|{other}|\r\n");
    assert_eq!(&out[40..], text.as_bytes());
    let child = segment((SERVER, 20), (PUBLIC, other), SYN, 1, 0, b"");
    let sent = control.pass(child).1.unwrap();
    assert_eq!(sent[16..20], [10, 0, 0, 3]);
    assert_eq!(sent[22..24], 8080u16.to_be_bytes());
}

/// The port 65535 has none above it to change to.
#[test]
fn without_a_free_port_the_command_is_dropped() {
    let mut control = Control::new(Config::default(), Some(PUBLIC));
    control.greet();
    control.say(Original, b"PORT 10,0,0,2,255,255\r\n").unwrap();
    control.client = (0x0a00_0003, 3001);
    control.seq = [1000, 5000];
    control.greet();
    assert_eq!(
        control.say(Original, b"PORT 10,0,0,3,255,255\r\n"),
        Err(DropReason::Helper("all ports in use"))
    );
}

#[test]
fn adjustment_is_skipped_on_the_second_pass_over_loopback() {
    let mut control = Control::new(Config::default(), Some(PUBLIC));
    control.greet();
    control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    let next = control.seq[0];
    let (at, out) = control.send(Original, ACK, b"");
    let mut pkt = out.unwrap();
    assert_eq!(pkt[24..28], (next + 5).to_be_bytes());
    let layout = parse(&pkt).unwrap();
    let again = control.ct.help_looped(NOW, &at, &mut pkt, &layout);
    assert_eq!(again, Ok(false));
    assert_eq!(pkt[24..28], (next + 5).to_be_bytes());
}

#[test]
fn malformed_options_are_dropped_once_numbers_move() {
    let mut control = Control::new(Config::default(), Some(PUBLIC));
    control.greet();
    control.say(Original, b"PORT 10,0,0,2,4,5\r\n").unwrap();
    let (at, out) = control.send(Original, ACK, b"");
    let mut pkt = out.unwrap();
    pkt.extend([2, 1, 0, 0]);
    pkt[32] = 0x60;
    pkt[2..4].copy_from_slice(&44u16.to_be_bytes());
    checksum::fix_ipv4(&mut pkt);
    let layout = parse(&pkt).unwrap();
    let outcome = control.ct.help(NOW, &at, &mut pkt, &layout);
    assert_eq!(outcome, Err(DropReason::SeqAdjust));
    assert_eq!(control.ct.stats().drop, 1);
}
