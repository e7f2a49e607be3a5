//! An FTP session through NAT, whose firewall is replaced in the middle by one that has
//! only a snapshot: from then on both must do the same with every packet.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use tidegate_engine::conntrack::snapshot::{Restored, Snapshot, Writer};
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Disposition, Engine, Incoming, InvalidKind, Output};
use tidegate_wire::{Family, checksum, proto, tcp::Tcp};

use common::router_of_two;

const CLIENT: u32 = 0x0a00_0002;
const SERVER: u32 = 0x0a00_0102;
/// What the server sees of the client: longer as text, so lines grow.
const SEEN: u32 = 0x0a00_016f;
const INSIDE: IfIndex = IfIndex(2);
const OUTSIDE: IfIndex = IfIndex(3);
const START: Time = 1_795_000_000 * SECOND;

const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

const FILTER: &str = "*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i eth0 -p tcp --syn -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";
const NAT: &str = "*nat
-A POSTROUTING -o eth1 -j SNAT --to-source 10.0.1.111
COMMIT
*raw
-A PREROUTING -p tcp --dport 21 -j CT --helper ftp
COMMIT
";

fn segment(ends: [(u32, u16); 2], flags: u8, seq: u32, ack: u32, data: &[u8]) -> Vec<u8> {
    let [(src, sport), (dst, dport)] = ends;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto::TCP, 0, 0];
    bytes[2..4].copy_from_slice(&(40 + data.len() as u16).to_be_bytes());
    bytes.extend([src, dst].map(u32::to_be_bytes).concat());
    checksum::fix_ipv4(&mut bytes);
    bytes.extend([sport, dport].map(u16::to_be_bytes).concat());
    bytes.extend([seq, ack].map(u32::to_be_bytes).concat());
    bytes.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(data);
    let len = bytes.len() as u32 - 20;
    let pseudo = checksum::pseudo(Family::V4, src.into(), dst.into(), proto::TCP, len);
    let check = checksum::finish(pseudo, &bytes[20..]);
    bytes[36..38].copy_from_slice(&check.to_be_bytes());
    bytes
}

/// Both ends of the session: what each sends next, and has received from the other.
struct Session {
    engines: Vec<Engine>,
    now: Time,
    sent: [u32; 2],
    received: [u32; 2],
}

/// Who sends.
#[derive(Clone, Copy)]
enum Side {
    Client = 0,
    Server = 1,
}

impl Session {
    /// Gives a packet to every engine; all must send the same on.
    fn pass(&mut self, dev: IfIndex, bytes: &[u8]) -> Vec<u8> {
        self.now += SECOND / 100;
        let mut sent = self.engines.iter_mut().map(|engine| {
            let outcome = engine.receive(self.now, Incoming::on(dev), bytes.to_vec(), &mut ());
            assert_eq!(outcome.disposition, Disposition::Sent);
            match outcome.outputs.as_slice() {
                [Output::Transmit { bytes, .. }] => bytes.clone(),
                other => panic!("{other:?}"),
            }
        });
        let first = sent.next().unwrap();
        for other in sent {
            assert_eq!(first, other, "the engines differ");
        }
        first
    }

    /// A segment of the control connection, of which the other end must see no gap.
    fn say(&mut self, side: Side, flags: u8, line: &str) -> String {
        let (me, peer) = (side as usize, 1 - side as usize);
        let (dev, ends) = match side {
            Side::Client => (INSIDE, [(CLIENT, 3000), (SERVER, 21)]),
            Side::Server => (OUTSIDE, [(SERVER, 21), (SEEN, 3000)]),
        };
        let ack = if flags & ACK == 0 {
            0
        } else {
            self.received[me]
        };
        let bytes = segment(ends, flags, self.sent[me], ack, line.as_bytes());
        let out = self.pass(dev, &bytes);
        let tcp = Tcp::new(&out[20..]).unwrap();
        let syn = u32::from(flags & SYN != 0);
        if flags & SYN == 0 {
            assert_eq!(tcp.seq(), self.received[peer], "a gap in the stream");
            assert_eq!(tcp.ack(), self.sent[peer], "acknowledges what was not sent");
        }
        self.sent[me] += line.len() as u32 + syn;
        self.received[peer] = tcp.seq() + tcp.payload().len() as u32 + syn;
        String::from_utf8(tcp.payload().to_vec()).unwrap()
    }

    /// The server connects to the port that was announced.
    fn data_connection(&mut self, announced: u16, port: u16) {
        let outside = [(SERVER, 20), (SEEN, announced)];
        let syn = self.pass(OUTSIDE, &segment(outside, SYN, 1, 0, b""));
        assert_eq!(syn[16..20], CLIENT.to_be_bytes());
        assert_eq!(syn[22..24], port.to_be_bytes());
        let inside = [(CLIENT, port), (SERVER, 20)];
        let answer = self.pass(INSIDE, &segment(inside, SYN | ACK, 1, 2, b""));
        assert_eq!(answer[12..16], SEEN.to_be_bytes());
        self.pass(OUTSIDE, &segment(outside, PSH | ACK, 2, 2, b"a file"));
    }

    /// Up to an announcement that made the stream longer.
    fn begin(rules: &str) -> Session {
        let mut session = Session {
            engines: vec![router_of_two(rules)],
            now: START,
            sent: [1000, 9000],
            received: [9001, 1001],
        };
        session.say(Side::Client, SYN, "");
        session.say(Side::Server, SYN | ACK, "");
        session.say(Side::Client, ACK, "");
        session.say(Side::Server, PSH | ACK, "220 ready\r\n");
        session.say(Side::Client, PSH | ACK, "USER x\r\n");
        session.say(Side::Server, PSH | ACK, "331 and?\r\n");
        session.announce(200 << 8 | 1);
        session
    }

    fn announce(&mut self, port: u16) {
        let [hi, lo] = port.to_be_bytes();
        let line = self.say(
            Side::Client,
            PSH | ACK,
            &format!("PORT 10,0,0,2,{hi},{lo}\r\n"),
        );
        assert_eq!(line, format!("PORT 10,0,1,111,{hi},{lo}\r\n"));
    }

    /// Everything that may follow an announcement, and another one.
    fn go_on(&mut self) {
        self.say(Side::Server, PSH | ACK, "200 as you wish\r\n");
        self.say(Side::Client, PSH | ACK, "RETR file\r\n");
        self.data_connection(200 << 8 | 1, 200 << 8 | 1);
        self.say(Side::Server, PSH | ACK, "226 done\r\n");
        self.announce(200 << 8 | 2);
        self.say(Side::Server, PSH | ACK, "200 as you wish\r\n");
        self.data_connection(200 << 8 | 2, 200 << 8 | 2);
        self.say(Side::Client, ACK, "");
    }

    /// Another engine beside the first, with nothing but a snapshot of its connections.
    fn replace(&mut self, rules: &str) -> Restored {
        let mut bytes = Vec::new();
        let first = self.engines[0].conntrack();
        let mut writer = Writer::new(self.now, self.now, &mut bytes);
        while !writer.step(first, 64, &mut bytes) {}
        let mut engine = router_of_two(rules);
        let snapshot = Snapshot::open(&bytes).unwrap();
        let restored = engine.restore(self.now, self.now, &snapshot);
        self.engines.push(engine);
        restored
    }
}

#[test]
fn a_translated_ftp_session_goes_on() {
    let rules = format!("{FILTER}{NAT}");
    let mut session = Session::begin(&rules);
    let restored = session.replace(&rules);
    assert_eq!((restored.connections, restored.expectations), (1, 1));
    session.go_on();
    for engine in &session.engines {
        let drops = engine.drops();
        assert!(InvalidKind::ALL.iter().all(|&k| drops.invalid(k) == 0));
    }
    let count = |i: usize| session.engines[i].conntrack().count();
    assert_eq!((count(0), count(1)), (3, 3));
}

/// The translation lives in the connections: they need no nat table, as in the kernel.
#[test]
fn restored_connections_are_translated_without_a_nat_table() {
    let mut session = Session::begin(&format!("{FILTER}{NAT}"));
    let restored = session.replace(FILTER);
    assert_eq!(restored.translated, [true, false]);
    session.go_on();
}
