//! A model that is small enough to be obviously right, beside the tracker: hosts behind a
//! translating firewall talk to servers over wires that lose, repeat and reorder packets,
//! and time passes. Inside may begin anything, outside only answer.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod packets;

use std::collections::HashMap;

use packets::{Ip, Lab, layout, small};
use proptest::prelude::*;
use tidegate_conntrack::{CtInfo, InHook, Manip, NatHook, NatRange, SECOND, Time, Tracked};
use tidegate_wire::tcp::flags::{ACK, FIN, SYN};
use tidegate_wire::{be16, be32};

const OUTSIDE: [u8; 4] = [203, 0, 113, 1];
/// Ports that connections are translated to.
const PORTS: (u16, u16) = (5000, 5031);

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % n
    }

    fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

struct Firewall(Lab);

impl Firewall {
    fn new() -> Firewall {
        Firewall(Lab::new(small()))
    }

    /// The packet as it comes out on the other side, if it does.
    fn pass(&mut self, mut pkt: Vec<u8>, from_inside: bool) -> Option<Vec<u8>> {
        let Lab { ct, now } = &mut self.0;
        let l = layout(&pkt);
        let tracked = ct.handle_packet(*now, &pkt, &l, InHook::Prerouting, None);
        let Tracked::Ct(mut at) = tracked else {
            return None;
        };
        let range = NatRange {
            ports: Some(PORTS),
            ..NatRange::address(u128::from(u32::from_be_bytes(OUTSIDE)))
        };
        if !from_inside && at.info == CtInfo::New {
            ct.release(at.id);
            return None;
        }
        if ct.nat_rules_needed(&at, Manip::Dst) {
            ct.nat_null_binding(at.id, Manip::Dst).unwrap();
        }
        ct.nat_translate(&at, NatHook::Prerouting, &mut pkt, &l)
            .unwrap();
        if ct.nat_rules_needed(&at, Manip::Src) {
            ct.nat_setup(at.id, Manip::Src, &range).unwrap();
        }
        ct.nat_translate(&at, NatHook::Postrouting, &mut pkt, &l)
            .unwrap();
        ct.confirm(*now, &mut at).ok()?;
        Some(pkt)
    }
}

fn addr(pkt: &[u8], at: usize) -> [u8; 4] {
    be32(pkt, at).unwrap().to_be_bytes()
}

fn port(pkt: &[u8], at: usize) -> u16 {
    be16(pkt, 20 + at).unwrap()
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flow {
    host: u8,
    port: u16,
    server: u8,
}

impl Flow {
    fn way(self) -> Ip {
        Ip {
            src: [10, 0, 0, self.host],
            dst: [192, 0, 2, self.server],
        }
    }
}

/// What the model knows about a port on the outside, towards one server.
struct Mapping {
    flow: Flow,
    last: Time,
}

/// Shortest and longest life of a UDP entry after a packet.
const SURE: Time = 30 * SECOND;
const GONE: Time = 120 * SECOND;

fn datagrams(seed: u64, steps: u32) {
    let (mut dice, mut fw) = (Dice(seed), Firewall::new());
    let mut mappings: HashMap<(u8, u16), Mapping> = HashMap::new();
    for _ in 0..steps {
        match dice.below(10) {
            0 => fw.0.now += dice.below(50) * SECOND,
            1 => fw.0.now += dice.below(200) * SECOND,
            2..6 => {
                let flow = Flow {
                    host: dice.below(4) as u8 + 2,
                    port: dice.below(4) as u16 + 4000,
                    server: dice.below(3) as u8 + 1,
                };
                let times = 1 + dice.below(2);
                for _ in 0..times {
                    let out = fw.pass(flow.way().udp(flow.port, 53), true);
                    let out = out.expect("16 flows find room in 32 ports");
                    assert_eq!(addr(&out, 12), OUTSIDE);
                    let outside = port(&out, 0);
                    assert!((PORTS.0..=PORTS.1).contains(&outside));
                    let now = fw.0.now;
                    let fresh = Mapping { flow, last: now };
                    let before = mappings.insert((flow.server, outside), fresh);
                    let taken = before.filter(|b| b.flow != flow && now - b.last < SURE);
                    assert!(taken.is_none(), "a port in use was given to another");
                }
            }
            _ => {
                // A server speaks, or somebody in its name, to any port, often a good one.
                let known: Vec<_> = mappings.keys().copied().collect();
                let (server, to) = if known.is_empty() || dice.percent(25) {
                    (dice.below(4) as u8 + 1, dice.below(40) as u16 + 4998)
                } else {
                    let mut known = known;
                    known.sort_unstable();
                    known[dice.below(known.len() as u64) as usize]
                };
                let back = Ip {
                    src: [192, 0, 2, server],
                    dst: OUTSIDE,
                };
                let from = if dice.percent(90) { 53 } else { 54 };
                let came = fw.pass(back.udp(from, to), false);
                let now = fw.0.now;
                let mapping = mappings.get_mut(&(server, to)).filter(|_| from == 53);
                match (mapping, came) {
                    (None, came) => assert!(came.is_none(), "nobody asked for this"),
                    (Some(m), Some(pkt)) => {
                        assert!(now - m.last < GONE, "asked too long ago");
                        assert_eq!(addr(&pkt, 16), m.flow.way().src);
                        assert_eq!(port(&pkt, 2), m.flow.port);
                        m.last = now;
                    }
                    (Some(m), None) => assert!(now - m.last >= SURE, "an answer was lost"),
                }
            }
        }
    }
    everything_ends(&mut fw);
}

/// With time every entry goes, and every port can be used again.
fn everything_ends(fw: &mut Firewall) {
    fw.0.now += 6 * 86_400 * SECOND;
    fw.0.ct.handle_timeout(fw.0.now);
    assert_eq!(fw.0.ct.count(), 0);
    assert_eq!(fw.0.ct.poll_timeout(), None);
    let mut seen = Vec::new();
    for n in PORTS.0..=PORTS.1 {
        let flow = Flow {
            host: n as u8,
            port: n ^ 0x2000,
            server: 9,
        };
        let out = fw.pass(flow.way().udp(flow.port, 53), true);
        seen.push(port(&out.expect("a port is free"), 0));
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), usize::from(PORTS.1 - PORTS.0) + 1);
}

/// One end of a TCP connection, without options, that acknowledges what comes in order.
#[derive(Debug)]
struct End {
    /// First number not acknowledged, next to send, next expected.
    una: u32,
    nxt: u32,
    rcv: u32,
    /// Where its data ends and its FIN stands.
    last: u32,
    heard: bool,
}

const WINDOW: u32 = 0x2000;
const SEGMENT: u32 = 1000;

impl End {
    fn new(isn: u32, data: u32) -> End {
        End {
            una: isn,
            nxt: isn,
            rcv: 0,
            last: isn.wrapping_add(1 + data),
            heard: false,
        }
    }

    fn done(&self) -> bool {
        self.una == self.last.wrapping_add(1)
    }

    /// What it sends now: flags, number, length.
    fn send(&mut self, isn: u32, client: bool, again: bool) -> Option<(u8, u32, u32)> {
        if !client && !self.heard {
            return None;
        }
        let from = if again { self.una } else { self.nxt };
        let (flags, len) = if from == isn {
            (SYN, 0)
        } else if !self.heard || self.una == isn {
            // Nobody sends data or closes before the handshake is over.
            return None;
        } else {
            let left = self.last.wrapping_sub(from) as i32;
            let room = WINDOW.wrapping_sub(from.wrapping_sub(self.una));
            match left {
                1.. if room >= SEGMENT => (0, SEGMENT.min(left as u32)),
                0 => (FIN, 0),
                _ => (0, 0),
            }
        };
        let ends = from
            .wrapping_add(len)
            .wrapping_add(u32::from(flags & (SYN | FIN) != 0));
        if ends.wrapping_sub(self.nxt) as i32 > 0 {
            self.nxt = ends;
        }
        let ack = if self.heard { ACK } else { 0 };
        Some((flags | ack, from, len))
    }

    fn receive(&mut self, flags: u8, seq: u32, ack: u32, len: u32) {
        if flags & SYN != 0 && !self.heard {
            self.heard = true;
            self.rcv = seq.wrapping_add(1);
        } else if self.heard && seq == self.rcv {
            let fin = u32::from(flags & FIN != 0);
            self.rcv = self.rcv.wrapping_add(len + fin);
        }
        let new = ack.wrapping_sub(self.una) as i32;
        if flags & ACK != 0 && new > 0 && ack.wrapping_sub(self.nxt) as i32 <= 0 {
            self.una = ack;
        }
    }
}

fn segment(way: &Ip, ports: (u16, u16), flags: u8, seq: u32, ack: u32, len: u32) -> Vec<u8> {
    let mut l4 = [ports.0, ports.1].map(u16::to_be_bytes).concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    l4.resize(20 + len as usize, b'x');
    way.packet(6, l4, Some(16))
}

/// A connection that carries data both ways over bad wires comes to its end, and while
/// neither side has begun to close, not one of its packets is refused.
fn stream(seed: u64) {
    let (mut dice, mut fw) = (Dice(seed), Firewall::new());
    let isn = [dice.below(1 << 32) as u32, dice.below(1 << 32) as u32];
    let data = [dice.below(20_000) as u32, dice.below(20_000) as u32];
    let mut ends = [End::new(isn[0], data[0]), End::new(isn[1], data[1])];
    let flow = Flow {
        host: 2,
        port: 4000,
        server: 1,
    };
    let outside = Ip {
        src: [192, 0, 2, 1],
        dst: OUTSIDE,
    };
    // Packets on their way to the firewall and from it, by who gets them.
    let mut wires: [Vec<(bool, Vec<u8>)>; 2] = [Vec::new(), Vec::new()];
    let (mut known, mut closing) = (0, false);
    for _ in 0..20_000 {
        fw.0.now += dice.below(200) * 1_000_000;
        let who = dice.below(2) as usize;
        if dice.percent(40) {
            let opening = ends.iter().any(|e| !e.heard || isn.contains(&e.una));
            let quiet = wires.iter().all(Vec::is_empty);
            let again = dice.percent(30) && (quiet || !opening);
            let (ack, client) = (ends[who].rcv, who == 0);
            if let Some((flags, seq, len)) = ends[who].send(isn[who], client, again) {
                closing |= flags & FIN != 0;
                let pkt = if client {
                    segment(&flow.way(), (4000, 80), flags, seq, ack, len)
                } else {
                    segment(&outside, (80, known), flags, seq, ack, len)
                };
                wires[1 - who].push((false, pkt));
            }
        }
        // Something on a wire moves on, is lost, or is there twice.
        let wire = &mut wires[who];
        if wire.is_empty() {
            continue;
        }
        // Nothing is repeated or overtaken before both have heard of each other: the kernel
        // takes an old SYN with an old answer to it for a new connection.
        let open = ends.iter().all(|e| e.heard && !isn.contains(&e.una));
        let reach = if open { wire.len().min(4) as u64 } else { 1 };
        let at = dice.below(reach) as usize;
        let (through, pkt) = wire.remove(at);
        if dice.percent(10) {
            continue;
        }
        if open && dice.percent(5) {
            wire.push((through, pkt.clone()));
        }
        if !through {
            match fw.pass(pkt.clone(), who == 1) {
                Some(pkt) => wire.push((true, pkt)),
                None => assert!(closing, "refused: {:02x?}", &pkt[20..40]),
            }
            continue;
        }
        if who == 1 {
            known = port(&pkt, 0);
        }
        let (seq, ack) = (be32(&pkt, 24).unwrap(), be32(&pkt, 28).unwrap());
        ends[who].receive(pkt[33], seq, ack, pkt.len() as u32 - 40);
        if ends.iter().all(End::done) {
            return everything_ends(&mut fw);
        }
    }
    panic!("it does not come to its end: {ends:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_come_in_and_nothing_else(seed: u64) {
        datagrams(seed, 400);
    }

    #[test]
    fn streams_end_over_bad_wires(seed: u64) {
        stream(seed);
    }
}
