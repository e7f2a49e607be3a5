//! What helpers remember of a connection outlives the process: PPTP's session and tunnel, SANE's
//! question, and how text that IRC's has made longer moved the numbers. SIP's and H.323's memory is
//! in `sip.rs` and `h323.rs`.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use packets::{HOST, Ip, Lab, layout, small};
use tidegate_conntrack::snapshot::{Snapshot, Writer};
use tidegate_conntrack::{
    Attached, Config, CtInfo, Dir, HelperKind, HelperPort, Manip, NatHook, NatRange,
};
use tidegate_wire::proto;
use tidegate_wire::tcp::flags::{ACK, PSH, SYN};

const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
/// Port of the client.
const OWN: u16 = 40_000;

/// A client behind a router, and what both have sent so far.
struct Session {
    lab: Lab,
    port: u16,
    translated: bool,
    next: [u32; 2],
    /// The last packet, as it left.
    left: Vec<u8>,
}

fn lab() -> Lab {
    let watch = |kind, port| HelperPort {
        kind,
        proto: proto::TCP,
        port,
    };
    Lab::new(Config {
        helpers: vec![
            watch(HelperKind::Pptp, 1723),
            watch(HelperKind::Sane, 6566),
            watch(HelperKind::Irc, 6667),
        ],
        ..small()
    })
}

impl Session {
    fn open(port: u16, translated: bool) -> Session {
        let mut session = Session {
            lab: lab(),
            port,
            translated,
            next: [1000, 5000],
            left: Vec::new(),
        };
        session.segment(Dir::Original, SYN, &[]);
        session.segment(Dir::Reply, SYN | ACK, &[]);
        session.segment(Dir::Original, ACK, &[]);
        session
    }

    /// Addresses of a packet as it comes to the router.
    fn way(&self, dir: Dir) -> Ip {
        match dir {
            Dir::Original => HOST,
            Dir::Reply if self.translated => Ip {
                src: HOST.dst,
                dst: OUTSIDE,
            },
            Dir::Reply => HOST.back(),
        }
    }

    /// The client's port as the server knows it, which is its call id, too.
    fn outside(&self, own: u16) -> u16 {
        if self.translated { OWN + 1 } else { own }
    }

    fn segment(&mut self, dir: Dir, flags: u8, data: &[u8]) {
        let ports = match dir {
            Dir::Original => (OWN, self.port),
            Dir::Reply => (self.port, self.outside(OWN)),
        };
        let [seq, ack] = match dir {
            Dir::Original => self.next,
            Dir::Reply => [self.next[1], self.next[0]],
        };
        let mut l4 = self.way(dir).tcp(ports, flags, seq, ack)[20..].to_vec();
        l4[16..18].fill(0);
        l4.extend(data);
        let len = data.len() as u32 + u32::from(flags & SYN != 0);
        self.next[dir.ix()] += len;
        let pkt = self.way(dir).packet(proto::TCP, l4, Some(16));
        self.pass(pkt);
    }

    /// Tracks, translates, helps and confirms a packet.
    fn pass(&mut self, mut pkt: Vec<u8>) -> Attached {
        let (ct, now) = (&mut self.lab.ct, self.lab.now);
        let mut at = {
            let layout = layout(&pkt);
            let hook = tidegate_conntrack::InHook::Prerouting;
            match ct.handle_packet(now, &pkt, &layout, hook, None) {
                tidegate_conntrack::Tracked::Ct(at) => at,
                other => panic!("{other:?}"),
            }
        };
        for hook in [NatHook::Prerouting, NatHook::Postrouting] {
            if self.translated && ct.nat_rules_needed(&at, hook.manip()) {
                if hook.manip() == Manip::Src && at.info == CtInfo::New {
                    let range = NatRange {
                        ports: Some((OWN + 1, OWN + 1)),
                        ..NatRange::address(u32::from_be_bytes(OUTSIDE).into())
                    };
                    ct.nat_setup(at.id, Manip::Src, &range).unwrap();
                } else {
                    ct.nat_null_binding(at.id, hook.manip()).unwrap();
                }
            }
            let layout = layout(&pkt);
            ct.nat_translate(&at, hook, &mut pkt, &layout).unwrap();
        }
        let layout = layout(&pkt);
        ct.help(now, &at, &mut pkt, &layout).unwrap();
        ct.confirm(now, &mut at).unwrap();
        self.left = pkt;
        at
    }

    /// Another process takes over what this one wrote down.
    fn restart(&mut self) {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(self.lab.now, 0, &mut bytes);
        while !writer.step(&self.lab.ct, 10, &mut bytes) {}
        let (now, before) = (self.lab.now, self.lab.ct.count());
        self.lab = lab();
        let snapshot = Snapshot::open(&bytes).unwrap();
        let report = self.lab.ct.restore(now, 0, &snapshot);
        assert_eq!(report.connections as usize, before as usize);
    }

    fn control(&mut self, dir: Dir, kind: u16, body: &[u16], len: usize) {
        let mut data = [12 + len as u16, 1, 0x1a2b, 0x3c4d, kind, 0]
            .map(u16::to_be_bytes)
            .concat();
        data.extend(body.iter().flat_map(|n| n.to_be_bytes()));
        data.resize(12 + len, 0);
        self.segment(dir, PSH | ACK, &data);
    }

    /// A packet in the tunnel: it carries the call id of who gets it.
    fn tunnelled(&mut self, dir: Dir, id: u16) -> Attached {
        let l4 = [0x3081, 0x880b, 4, id, 0, 1, 0, 0].map(u16::to_be_bytes);
        let pkt = self.way(dir).packet(proto::GRE, l4.concat(), None);
        self.pass(pkt)
    }
}

const CLIENTS_CALL: u16 = 7;
const SERVERS_CALL: u16 = 9;

#[test]
fn a_call_of_pptp_goes_on_after_a_restart_at_any_moment() {
    for (translated, moment) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut s = Session::open(1723, translated);
        s.control(Dir::Original, 1, &[0x100], 144);
        s.control(Dir::Reply, 2, &[0x100, 0x100], 144);
        s.control(Dir::Original, 7, &[CLIENTS_CALL], 156);
        if moment == 0 {
            // The session and the call's own number.
            s.restart();
        }
        let outside = s.outside(CLIENTS_CALL);
        s.control(Dir::Reply, 8, &[SERVERS_CALL, outside, 0x100], 20);
        assert_eq!(s.lab.ct.expectations().count(), 2, "{translated} {moment}");
        if moment == 1 {
            // The expected tunnel, and the numbers that its packets do not carry.
            s.restart();
        }
        let there = s.tunnelled(Dir::Original, SERVERS_CALL);
        assert_eq!(there.info, CtInfo::Related, "{translated} {moment}");
        let back = s.tunnelled(Dir::Reply, outside);
        assert_eq!(back.id, there.id, "{translated} {moment}");
        // The open tunnel.
        s.restart();
        let there = s.tunnelled(Dir::Original, SERVERS_CALL);
        assert_eq!(there.info, CtInfo::Established, "{translated} {moment}");
        let back = s.tunnelled(Dir::Reply, outside);
        assert_eq!(back.id, there.id, "{translated} {moment}");
        // The end of the call is understood and ends it.
        s.control(Dir::Reply, 13, &[SERVERS_CALL], 136);
        let stray = s.tunnelled(Dir::Original, SERVERS_CALL);
        assert_eq!(stray.info, CtInfo::New, "{translated} {moment}");
    }
}

#[test]
fn an_image_that_was_asked_for_is_announced_after_a_restart() {
    for (asked, wanted) in [(7, 1), (6, 0)] {
        let mut s = Session::open(6566, false);
        s.segment(Dir::Original, PSH | ACK, &[0, 0, 0, asked, 0, 0, 0, 0]);
        s.restart();
        s.segment(
            Dir::Reply,
            PSH | ACK,
            &[0, 0, 0, 0, 0, 0, 0xa0, 0, 0, 0, 0x12, 0x34],
        );
        assert_eq!(s.lab.ct.expectations().count(), wanted, "{asked}");
    }
}

/// An offer names the outside address, which is longer by a digit. Each of several segments has
/// the numbers that it left with first, whenever it comes again.
#[test]
fn a_segment_that_comes_again_leaves_with_its_numbers_after_a_restart() {
    const OFFER: &[u8] = b"PRIVMSG bob :\x01DCC CHAT chat 167772162 5000\x01\r\n";
    let mut s = Session::open(6667, true);
    let (begun, len) = (s.next[0], OFFER.len() as u32);
    for restarted in [false, true, true] {
        for n in 0..5 {
            s.next[0] = begun + n * len;
            s.segment(Dir::Original, PSH | ACK, OFFER);
            let seq = u32::from_be_bytes(s.left[24..28].try_into().unwrap());
            assert_eq!(seq, begun + n * (len + 1), "{restarted} {n}");
            assert_eq!(s.left.len(), 40 + OFFER.len() + 1);
        }
        s.restart();
    }
}
