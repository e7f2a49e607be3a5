//! INVALID packets.

use std::collections::BTreeMap;

use tidegate_engine::conntrack::{self, InvalidReason};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, DropCounters, InvalidKind, TrackWhen};
use tidegate_wire::proto;

use crate::packets::Ends;
use crate::world::{CLIENT, CLIENT6, ETH0, ETH1, FORTH, FORTH6, SERVER6, World};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const WEB: [u16; 2] = [4000, 80];
const BACK: [u16; 2] = [80, 4000];

/// Value of an INIT chunk that announces `tag`.
fn init(tag: u8) -> [u8; 16] {
    [0, 0, 0, tag, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 7]
}

type Packets = Vec<(IfIndex, Vec<u8>)>;

/// An established TCP connection: 100 and 500 are the sides' next numbers.
fn established() -> Packets {
    vec![
        (ETH0, FORTH.tcp(WEB, SYN, 99, 0)),
        (ETH1, FORTH.back().tcp(BACK, SYN | ACK, 499, 100)),
        (ETH0, FORTH.tcp(WEB, ACK, 100, 500)),
    ]
}

fn connected(last: Vec<u8>) -> Packets {
    let mut packets = established();
    packets.push((ETH0, last));
    packets
}

/// Packets of which the last is INVALID for the reason.
fn tcp_cases() -> Vec<(InvalidKind, Packets)> {
    use InvalidKind as K;
    let once = |packet| vec![(ETH0, packet)];
    let mut damaged = FORTH.tcp(WEB, SYN, 1, 0);
    damaged[37] ^= 1;
    let mut offset = FORTH.tcp(WEB, SYN, 1, 0);
    offset[32] = 0x40;
    let reset = FORTH.tcp(WEB, RST, 90, 0);
    let mut acknowledged = established();
    acknowledged.push((ETH1, FORTH.back().tcp(BACK, ACK, 500, 100)));
    acknowledged.push((ETH0, reset));
    vec![
        (K::BadChecksum, once(damaged)),
        (K::Truncated, once(offset)),
        (
            K::ShortHeader,
            once(FORTH.packet(proto::TCP, &[0, 1, 0, 2, 9, 9])),
        ),
        (K::BadFlags, once(FORTH.tcp(WEB, SYN | FIN, 1, 0))),
        (K::NewNotSyn, once(FORTH.tcp(WEB, FIN | ACK, 1, 1))),
        (K::BadState, connected(FORTH.tcp(WEB, SYN | ACK, 100, 500))),
        (
            K::SeqOverUpper,
            connected(FORTH.tcp(WEB, ACK, 90_000_000, 500)),
        ),
        (K::AckOverUpper, connected(FORTH.tcp(WEB, ACK, 100, 9000))),
        (K::RstBelowAck, acknowledged),
    ]
}

fn other_cases() -> Vec<(InvalidKind, Packets)> {
    use InvalidKind as K;
    let once = |packet| vec![(ETH0, packet)];
    let opened = |second: Vec<u8>| {
        let first = FORTH.sctp(0, &[(1, &init(7))]);
        vec![(ETH0, first), (ETH0, second)]
    };
    let mut in_state = vec![(ETH0, FORTH.sctp(9, &[(4, b"")]))];
    in_state.push((ETH1, {
        // The ports of the answer are exchanged by hand.
        let mut packet = FORTH.back().sctp(0, &[(7, b"")]);
        packet[20..24].copy_from_slice(&[0, 8, 0, 7]);
        packet[28..32].fill(0);
        let check = tidegate_wire::crc32c::sctp(&packet[20..]).unwrap();
        packet[28..32].copy_from_slice(&check.to_le_bytes());
        packet
    }));
    let asked = FORTH.udp([5000, 53], b"?");
    let stranger = Ends(FORTH.0, FORTH.2, CLIENT + 7);
    // UDPlite without a checksum.
    let lite = FORTH.packet(proto::UDPLITE, &[0, 1, 0, 2, 0, 8, 0, 0]);
    vec![
        (K::NoTuple, once(FORTH.packet(proto::UDP, &[0, 1]))),
        (K::NoChecksum, once(lite)),
        (K::NoChunks, once(FORTH.sctp(0, &[]))),
        (
            K::BadChunks,
            once(FORTH.sctp(0, &[(1, &init(7)), (1, &init(7))])),
        ),
        (K::ChunkCannotOpen, once(FORTH.sctp(0, &[(6, b"")]))),
        (K::BadTag, opened(FORTH.sctp(5, &[(0, b"data")]))),
        (K::ChunkTag, opened(FORTH.sctp(5, &[(10, b"")]))),
        (K::BadChunkInState, in_state),
        (K::WrongFamily, once(FORTH.packet(proto::ICMPV6, &[128; 8]))),
        (K::UnknownIcmpType, once(FORTH.icmp(40, 0, &[0; 4]))),
        (K::IcmpNoRequest, once(FORTH.icmp(0, 0, &[0; 4]))),
        (K::IcmpErrorInnerBad, once(FORTH.error(3, 3, 0, &[0x45; 9]))),
        (
            K::IcmpErrorInnerUnknown,
            once(FORTH.back().error(3, 3, 0, &asked)),
        ),
        (
            K::IcmpErrorOuterDaddr,
            vec![
                (ETH0, asked.clone()),
                (ETH1, stranger.error(3, 3, 0, &asked)),
            ],
        ),
    ]
}

/// IPv6: what follows the ICMPv6 header of redirects, and a packet without an end.
fn cases6() -> Vec<(InvalidKind, Packets)> {
    use InvalidKind as K;
    let once = |packet| vec![(ETH0, packet)];
    let mut redirect = vec![0; 4];
    redirect.extend(SERVER6.to_be_bytes());
    redirect.extend(SERVER6.to_be_bytes());
    let on_link = Ends(FORTH6.0, 0xfe80 << 112 | 9, CLIENT6 - 1);
    let mut near = on_link.icmp(137, 0, &redirect);
    near[7] = 255;
    // 59: nothing follows.
    let nothing = FORTH6.packet(proto::NONE, b"");
    vec![
        (K::ShortRedirect, once(FORTH6.icmp(137, 0, &[0; 4]))),
        (K::ForeignRedirect, once(FORTH6.icmp(137, 0, &redirect))),
        (K::BareRedirect, once(near)),
        (K::NoL4Header, once(nothing)),
    ]
}

#[test]
fn every_kind_is_counted_once_by_its_packet() {
    let cases = [tcp_cases(), other_cases(), cases6()].concat();
    let mut seen = BTreeMap::new();
    for (kind, packets) in cases {
        let mut world = World::new();
        let (last, before) = packets.split_last().unwrap();
        for (dev, packet) in before {
            world.receive(*dev, packet);
        }
        assert_eq!(world.counted(), [], "on the way to {}", kind.name());
        world.receive(last.0, &last.1);
        assert_eq!(world.counted(), [(kind.name(), 1)]);
        assert_eq!(world.counters().invalid(kind), 1);
        seen.insert(kind, ());
    }
    let not_loose = Config {
        track: TrackWhen::Always,
        conntrack: conntrack::Config {
            tcp_loose: false,
            ..conntrack::Config::default()
        },
        ..Config::default()
    };
    let mut world = World::with(&not_loose);
    world.receive(ETH0, &FORTH.tcp(WEB, ACK, 1, 1));
    assert_eq!(world.counted(), [(InvalidKind::NotLoose.name(), 1)]);
    seen.insert(InvalidKind::NotLoose, ());
    let missing: Vec<_> = InvalidKind::ALL
        .iter()
        .filter(|k| !seen.contains_key(k))
        .collect();
    assert!(missing.is_empty(), "no packet for {missing:?}");
}

#[test]
fn details_do_not_matter() {
    let mut counters = DropCounters::default();
    for tag in 0..3 {
        counters.count_invalid(&InvalidReason::ChunkTag(tag));
    }
    assert_eq!(counters.invalid(InvalidKind::ChunkTag), 3);
}
