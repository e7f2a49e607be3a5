//! The short way of packets that bring a connection nothing new, beside the way of all others:
//! the same packets leave the same connections.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod either;
mod packets;

use either::Random;
use packets::{Ip, layout};
use tidegate_conntrack::by_hand::{GivenState, NewEntry};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::entry::TcpConn;
use tidegate_conntrack::{Conntrack, SECOND, Status, Tracked, Tuple, Zone};
use tidegate_wire::{Family, proto};

const FLOWS: usize = 24;
const SYN: u8 = 2;
const ACK: u8 = 16;

impl Random {
    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What both sides of a TCP connection have sent.
#[derive(Clone, Copy, Default)]
struct Flow {
    sent: [u32; 2],
    step: usize,
}

/// The next segment of a connection: mostly what a stack would send, now and then anything.
fn segment(random: &mut Random, flow: &mut Flow, host: &Ip, port: u16) -> Vec<u8> {
    let back = match flow.step {
        0 | 2 => false,
        1 => true,
        _ => random.below(2) == 1,
    };
    let flags = match flow.step {
        0 => SYN,
        1 => SYN | ACK,
        2 => ACK,
        _ if random.below(16) > 0 => random.of(&[ACK, ACK | 8]),
        _ => random.of(&[ACK | 0x40, ACK | 0x20, 17, 4, 20, 2, 0, 63]),
    };
    flow.step += 1;
    let odd = |random: &mut Random| match random.below(20) {
        0 => random.of(&[1, 1_400, 70_000, u32::MAX, 1 << 30]),
        _ => 0,
    };
    let seq = flow.sent[usize::from(back)].wrapping_add(odd(random));
    let ack = flow.sent[usize::from(!back)].wrapping_sub(odd(random));
    let right = seq.wrapping_add(random.below(3_000) as u32).to_be_bytes();
    let (none, stamps) = ([].as_slice(), [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
    let sack = [&[1, 1, 5, 10], ack.to_be_bytes().as_slice(), &right].concat();
    let permitted = [4, 2, 3, 3, 7, 0, 0, 0];
    let options = if flags & SYN != 0 {
        random.of(&[none, &permitted])
    } else {
        random.of(&[none, &stamps, &stamps, &sack, &[5, 3, 0, 0], &[8, 40, 1, 1]])
    };
    let data = if flags & SYN != 0 {
        0
    } else {
        random.of(&[0, 0, 1, 99, 1_000])
    };
    let ports = if back { [80, port] } else { [port, 80] };
    let mut l4 = ports.map(u16::to_be_bytes).concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    let words = (20 + options.len()) as u8 / 4;
    let window = random.of(&[0x20, 0x20, 0xff, 0]);
    l4.extend([words << 4, flags, window, 0, 0, 0, 0, 0]);
    l4.extend(options);
    l4.resize(l4.len() + data, 7);
    let phantom = u32::from(flags & SYN != 0) + u32::from(flags & 1 != 0);
    let sent = &mut flow.sent[usize::from(back)];
    *sent = seq.wrapping_add(data as u32 + phantom);
    let ip = if back { host.back() } else { Ip { ..*host } };
    ip.packet(proto::TCP, l4, Some(16))
}

fn datagram(random: &mut Random, host: &Ip, port: u16) -> Vec<u8> {
    match random.below(2) {
        0 => host.udp(port, 53),
        _ => host.back().udp(53, port),
    }
}

/// What becomes of a packet, and of all connections.
fn take(ct: &mut Conntrack, now: u64, bytes: &[u8], short: bool) -> (String, bool) {
    let (tracked, gone_on) =
        either::track(ct, now, (bytes, &layout(bytes)), short.then_some(false));
    let note = ct.last_note();
    let confirmed = match tracked {
        Tracked::Ct(mut attached) => Some(ct.confirm(now, &mut attached)),
        _ => None,
    };
    let events = ct.events();
    let all: Vec<_> = ct.iter().collect();
    let told = format!("{tracked:?} {note:?} {confirmed:?} {all:?} {events:?}");
    (told, gone_on)
}

/// An established connection of whose numbers nothing is known.
fn given(host: &Ip, port: u16) -> NewEntry {
    let number = |a: [u8; 4]| u128::from(u32::from_be_bytes(a));
    let there = Tuple {
        src: number(host.src),
        dst: number(host.dst),
        src_id: port,
        dst_id: 80,
        family: Family::V4,
        proto: proto::TCP,
    };
    NewEntry {
        tuples: [there, there.inverse().unwrap()],
        zone: Zone::default(),
        timeout: 1_000,
        status: Status::SEEN_REPLY | Status::ASSURED,
        mark: 0,
        state: Some(GivenState::Tcp(TcpConn::Established)),
        nat: [None; 2],
        helper: None,
        labels: 0,
    }
}

/// Many packets of a few connections; returns how many took the short way, and how many there
/// were.
fn compare(config: &Config, seed: u64, packets: usize) -> (usize, usize) {
    let mut random = Random(seed);
    let (mut whole, mut short) = (
        Conntrack::new(config.clone()),
        Conntrack::new(config.clone()),
    );
    let mut flows = [Flow::default(); FLOWS];
    let (mut now, mut went_on) = (1_700_000_000 * SECOND, 0);
    for n in 0..packets {
        let at = random.below(FLOWS);
        let port = 1_000 + at as u16;
        let host = Ip {
            src: [10, 0, 0, 1 + at as u8 / 3],
            dst: [192, 0, 2, 1],
        };
        let mut bytes = match at % 3 {
            0 => datagram(&mut random, &host, port),
            _ => segment(&mut random, &mut flows[at], &host, port),
        };
        match random.below(60) {
            0 => {
                let last = bytes.len() - 1;
                bytes[last] ^= 1;
            }
            1 => flows[at] = Flow::default(),
            2 => now += [200, 40, 500_000][random.below(3)] * SECOND,
            3 => {
                for ct in [&mut whole, &mut short] {
                    let first = ct.iter().next().map(|(id, _)| id);
                    if let Some(id) = first {
                        ct.set_mark(id, n as u32);
                    }
                }
            }
            4 => {
                let new = given(&host, port);
                for ct in [&mut whole, &mut short] {
                    let old = ct.find(&new.tuples[0], Zone::default());
                    old.map(|(id, _)| ct.delete(id));
                    ct.create_by_hand(now, &new).unwrap();
                }
            }
            _ => now += random.below(900_000_000) as u64,
        }
        let (expected, _) = take(&mut whole, now, &bytes, false);
        let (found, gone_on) = take(&mut short, now, &bytes, true);
        assert_eq!(found, expected, "packet {n} of seed {seed}");
        went_on += usize::from(gone_on);
    }
    (went_on, packets)
}

#[test]
fn the_short_way_leaves_what_the_long_one_does() {
    let cases = std::env::var("TIDEGATE_CASES").map_or(8, |n| n.parse().unwrap());
    let (mut short, mut all) = (0, 0);
    for seed in 0..cases {
        let mut config = Config {
            acct: seed % 2 == 0,
            timestamp: seed % 5 == 4,
            events: seed % 3 == 0,
            tcp_be_liberal: seed % 7 == 6,
            ..Config::default()
        };
        config.checksum = seed % 4 != 3;
        let (went_on, packets) = compare(&config, seed, 2_000);
        short += went_on;
        all += packets;
    }
    assert!(short * 10 > all, "{short} of {all} took the short way");
}
