//! Packets that go no further.

use std::collections::BTreeSet;

use tidegate_engine::conntrack::{self, DropReason as CtDrop};
use tidegate_engine::env::Settings;
use tidegate_engine::{
    Config, DefragLimits, Disposition, DropCounters, DropKind, DropReason, Incoming, QueueReader,
    QueueSettings, QueueVerdict, Queued, Taken, TrackWhen,
};
use tidegate_wire::{Family, proto};

use crate::packets::{Ends, with};
use crate::world::{CLIENT, ETH0, ETH1, ETH2, FORTH, FORTH6, OUTSIDE, SERVER, World, env, router};

const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH: u8 = 8;

fn udp() -> Vec<u8> {
    FORTH.udp([5000, 53], b"?")
}

/// The world after everything but the last packet, which is dropped for the reason.
type Case = (DropKind, World, Vec<u8>);

fn by_rules() -> Vec<Case> {
    use DropKind as K;
    let filter = |rules: &str| World::new().rules(&[("filter", rules)]);
    let untracked = |rules: &str| World::with(&Config::default()).rules(&[("filter", rules)]);
    let later_fragment = with(FORTH.packet(proto::TCP, &[0; 24]), 6, &[0, 1]);
    // One jump more than are followed.
    let chains: String = (0..=4096).map(|i| format!(":c{i} -\n")).collect();
    let jumps: String = (0..4096)
        .map(|i| format!("-A c{i} -j c{}\n", i + 1))
        .collect();
    let proxied = || {
        World::new().rules(&[
            // The proxy's answer as well, which would be INVALID.
            (
                "raw",
                "-A PREROUTING -p tcp -j CT --notrack\n-A OUTPUT -p tcp -j CT --notrack",
            ),
            ("filter", "-A FORWARD -p tcp -j SYNPROXY --mss 1460"),
        ])
    };
    let mut damaged = FORTH.tcp([1, 2], SYN, 1, 0);
    damaged[32] = 0x40;
    vec![
        (K::Rule, filter("-A FORWARD -j DROP"), udp()),
        (K::Policy, filter(":FORWARD DROP"), udp()),
        (K::Reject, filter("-A FORWARD -j REJECT"), udp()),
        (
            K::Hotdrop,
            untracked("-A FORWARD -p tcp -m tcp --dport 1"),
            later_fragment,
        ),
        (
            K::JumpDepth,
            filter(&format!("{chains}-A FORWARD -j c0\n{jumps}")),
            udp(),
        ),
        (K::SynProxy, proxied(), FORTH.tcp([5000, 80], SYN, 1, 0)),
        (K::BadCookie, proxied(), FORTH.tcp([5000, 80], ACK, 2, 7)),
        (K::Queue, filter("-A FORWARD -j NFQUEUE"), udp()),
        (
            K::Target,
            untracked("-A FORWARD -p tcp --syn -j TCPMSS --set-mss 500"),
            damaged,
        ),
    ]
}

fn tracking(config: conntrack::Config) -> World {
    World::with(&Config {
        track: TrackWhen::Always,
        conntrack: config,
        ..Config::default()
    })
}

/// What the server sees of the FTP client: an address whose text is longer.
const SEEN: u128 = 0x0a00_016f;

/// An FTP control connection that is translated and watched.
fn ftp() -> World {
    let mut world = World::new().rules(&[
        ("raw", "-A PREROUTING -p tcp --dport 21 -j CT --helper ftp"),
        (
            "nat",
            "-A POSTROUTING -o eth1 -j SNAT --to-source 10.0.1.111",
        ),
    ]);
    let back = Ends(Family::V4, SERVER, SEEN);
    world.receive(ETH0, &FORTH.tcp([3000, 21], SYN, 99, 0));
    world.receive(ETH1, &back.tcp([21, 3000], SYN | ACK, 499, 100));
    world.receive(ETH0, &FORTH.tcp([3000, 21], ACK, 100, 500));
    let hello = back.segment([21, 3000], PSH | ACK, [500, 100], &[], b"220 hi\r\n");
    world.receive(ETH1, &hello);
    let user = FORTH.segment([3000, 21], PSH | ACK, [100, 508], &[], b"USER x\r\n");
    world.receive(ETH0, &user);
    world
}

fn line(seq: u32, text: &[u8]) -> Vec<u8> {
    FORTH.segment([3000, 21], PSH | ACK, [seq, 508], &[], text)
}

fn by_tracking() -> Vec<Case> {
    use DropKind as K;
    let mut full = tracking(conntrack::Config {
        max: 1,
        ..conntrack::Config::default()
    });
    full.receive(ETH0, &FORTH.udp([1, 1], b""));
    // One bucket: every connection is in its chain.
    let mut crowded = tracking(conntrack::Config {
        buckets: 1,
        ..conntrack::Config::default()
    });
    while crowded.counted().is_empty() {
        let port = 1 + crowded.engine.conntrack().count() as u16;
        crowded.receive(ETH0, &FORTH.udp([port, 9], b""));
    }
    assert_eq!(crowded.counted(), [("conntrack_chain", 1)]);
    // Masqueraded out of one interface, then the route moves to another.
    let far = Ends(Family::V4, CLIENT, 0x0a00_0805);
    let mut moved = World::new().rules(&[("nat", "-A POSTROUTING -j MASQUERADE")]);
    moved.receive(ETH0, &far.udp([1, 2], b""));
    moved.engine.set_env(env(router(), ETH2));
    // A redirect about a translated connection.
    let mut translated =
        World::new().rules(&[("nat", "-A POSTROUTING -o eth1 -j SNAT --to-source 10.0.1.1")]);
    translated.receive(ETH0, &udp());
    let outside = Ends(Family::V4, OUTSIDE, SERVER);
    let inner = outside.udp([5000, 53], b"?");
    let redirect = outside.back().error(5, 1, 0x0a00_0109, &inner);
    // After the announcement has changed its length, options that make no sense.
    let mut adjusted = ftp();
    let port = adjusted.receive(ETH0, &line(108, b"PORT 10,0,0,2,200,100\r\n"));
    assert_eq!(port.disposition, Disposition::Sent);
    let back = Ends(Family::V4, SERVER, SEEN);
    let nonsense = back.segment([21, 3000], ACK, [508, 108], &[5, 9, 0, 0], b"");
    vec![
        (K::TableFull, full, FORTH.udp([2, 2], b"")),
        (K::Killed, moved, far.udp([1, 2], b"")),
        (K::Helper, ftp(), line(108, b"PORT 10,0")),
        (K::Nat, translated, redirect),
        (K::SeqAdjust, adjusted, nonsense),
    ]
}

fn at_the_door() -> Vec<Case> {
    use DropKind as K;
    let source_routed = {
        let mut packet = FORTH.packet(
            proto::UDP,
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0],
        );
        packet[0] = 0x47;
        with(packet, 20, &[131, 7, 4, 10, 0, 0, 9, 0])
    };
    let mut checksum = udp();
    checksum[10] ^= 1;
    vec![
        (K::Truncated, World::new(), vec![0x45; 9]),
        (K::Version, World::new(), vec![0x55; 40]),
        (K::HeaderLength, World::new(), with(udp(), 0, &[0x44])),
        (K::TotalLength, World::new(), with(udp(), 2, &[0, 19])),
        (K::HeaderChecksum, World::new(), checksum),
        (K::Options, World::new(), source_routed),
        (
            K::Martian,
            World::new(),
            Ends(Family::V4, 0x7f00_0005, SERVER).udp([1, 2], b""),
        ),
        (
            K::NoRoute,
            World::new(),
            Ends(Family::V4, CLIENT, 0x0b00_0001).udp([1, 2], b""),
        ),
        (K::TtlExceeded, World::new(), with(udp(), 8, &[1])),
        (
            K::TooBig,
            World::new(),
            with(FORTH.udp([1, 2], &[0; 2000]), 6, &[0x40, 0]),
        ),
    ]
}

/// A piece of UDP with the header's id 9: bytes from `at` on (in units of eight).
fn piece(at: u16, len: usize, more: bool) -> Vec<u8> {
    let field = at | if more { 0x2000 } else { 0 };
    let packet = with(FORTH.packet(proto::UDP, &vec![7; len]), 4, &[0, 9]);
    with(packet, 6, &field.to_be_bytes())
}

fn fragments() -> Vec<Case> {
    use DropKind as K;
    let begun = || {
        let mut world = World::new();
        let first = world.receive(ETH0, &piece(0, 800, true));
        assert_eq!(first.disposition, Disposition::Held);
        world
    };
    let no_memory = World::with(&Config {
        track: TrackWhen::Always,
        defrag: DefragLimits {
            max_bytes: 100,
            ..DefragLimits::default()
        },
        ..Config::default()
    });
    vec![
        (K::Duplicate, begun(), piece(0, 800, true)),
        (K::Overlap, begun(), piece(50, 800, true)),
        (K::Shape, begun(), piece(8, 16, false)),
        (K::Memory, no_memory, piece(0, 800, true)),
    ]
}

/// Reasons that no sequence of packets given to the engine one after another leads to:
/// they need two packets in flight at once, or answers to answers that nothing sends.
const CONCURRENT: [(DropKind, DropReason); 3] = [
    (DropKind::Clash, DropReason::Conntrack(CtDrop::Clash)),
    (DropKind::Dying, DropReason::Conntrack(CtDrop::Dying)),
    (DropKind::Depth, DropReason::Depth),
];

/// Reads a queue and drops everything.
#[derive(Debug)]
struct Refuses;

impl QueueReader for Refuses {
    fn take(&mut self, _: &Queued<'_>) -> Taken {
        Taken::Answered(QueueVerdict::Drop.into())
    }
}

#[test]
fn every_kind_is_counted_once_by_its_packet() {
    let mut seen = BTreeSet::from([DropKind::ChainTooLong]);
    for cases in [by_rules(), by_tracking(), at_the_door(), fragments()] {
        for (kind, mut world, packet) in cases {
            assert_eq!(world.counted(), [], "on the way to {}", kind.name());
            let dev = match packet.get(12..16) {
                Some([10, 0, 1, _]) => ETH1,
                _ => ETH0,
            };
            world.receive(dev, &packet);
            assert_eq!(world.counted(), [(kind.name(), 1)]);
            seen.insert(kind);
        }
    }
    let mut world = World::new();
    let other = Incoming {
        to_host: false,
        ..Incoming::on(ETH0)
    };
    world.incoming(other, &udp());
    assert_eq!(world.counted(), [("other_host", 1)]);
    seen.insert(DropKind::OtherHost);
    let mut world = World::new();
    world.engine.set_env(env(Settings::default(), ETH1));
    world.receive(ETH0, &udp());
    assert_eq!(world.counted(), [("not_forwarding", 1)]);
    seen.insert(DropKind::NotForwarding);
    let mut world = World::new().rules(&[("filter", "-A FORWARD -j NFQUEUE")]);
    let settings = QueueSettings::default();
    world
        .engine
        .bind_queue(0, settings, Box::new(Refuses))
        .unwrap();
    world.receive(ETH0, &udp());
    assert_eq!(world.counted(), [("queue_reader", 1)]);
    seen.insert(DropKind::QueueReader);
    for (kind, reason) in CONCURRENT {
        let mut counters = DropCounters::default();
        counters.count_drop(&reason);
        assert_eq!(counters.dropped(kind), 1);
        assert!(seen.insert(kind), "{kind:?} can be brought about");
    }
    let missing: Vec<_> = DropKind::ALL.iter().filter(|k| !seen.contains(k)).collect();
    assert!(missing.is_empty(), "no packet for {missing:?}");
}

#[test]
fn a_dropped_answer_counts_as_well() {
    let mut world =
        World::new().rules(&[("filter", "-A FORWARD -j REJECT\n-A OUTPUT -p icmp -j DROP")]);
    world.receive(ETH0, &udp());
    assert_eq!(world.counted(), [("rule", 1), ("reject", 1)]);
}

#[test]
fn both_families_count_together() {
    let mut world = World::new();
    let mut spent = FORTH6.udp([1, 2], b"");
    spent[7] = 1;
    world.receive(ETH0, &spent);
    world.receive(ETH0, &with(udp(), 8, &[1]));
    assert_eq!(world.counters().dropped(DropKind::TtlExceeded), 2);
}
