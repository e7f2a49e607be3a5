//! Packets of connections that the engine has decided.

use tidegate_conntrack::Family;
use tidegate_ebpf::fast::Secrets;
use tidegate_ebpf::layout::{CONNECTIONS, Fate, GATES, gate, global, hop, tables};
use tidegate_ebpf::{Kind, Map};
use tidegate_wire::{checksum, parse};

use crate::fast::{Fast, Front, LOCAL_IN, LOCAL_OUT, SECRETS, TCX, XDP, allowed};
use crate::make::{ACK, Numbers, PSH, SYN, Tcp, Way};
use crate::twin::{Ends, HOP, PLACE, Twin, frame, globals, is_open};

const V4: Ends = Ends {
    client: (0x0a00_0002, 40_000),
    server: (0x0a00_0102, 5000),
    outside: None,
};
const V6: Ends = Ends {
    client: (0xfd00_0000_0000_0000_0000_0000_0000_0002, 40_000),
    server: (0xfd01_0000_0000_0000_0000_0000_0000_0002, 5000),
    outside: None,
};

const fn behind(ends: Ends, addr: u128) -> Ends {
    Ends {
        outside: Some((addr, 61_234)),
        ..ends
    }
}

fn all() -> [(Family, Ends); 4] {
    [
        (Family::V4, V4),
        (Family::V6, V6),
        (Family::V4, behind(V4, 0xcb00_7164)),
        (
            Family::V6,
            behind(V6, 0xfd02_0000_0000_0000_0000_0000_0000_0064),
        ),
    ]
}

/// All, wherever programs answer for them.
fn everywhere() -> impl Iterator<Item = (Front, (Family, Ends))> {
    [TCX, XDP, LOCAL_IN, LOCAL_OUT]
        .into_iter()
        .flat_map(|front| all().map(|ends| (front, ends)))
}

/// To the server, and back as the router sees the answers.
fn ways(family: Family, ends: &Ends) -> [Way; 2] {
    [
        Way {
            family,
            src: ends.client,
            dst: ends.server,
        },
        Way {
            family,
            src: ends.server,
            dst: ends.outside.unwrap_or(ends.client),
        },
    ]
}

#[test]
fn the_verifier_takes_all_programs() {
    if allowed() {
        Fast::load(TCX);
    }
}

/// Gates of two million connections are more than the kernel takes for one value.
#[test]
fn what_is_too_large_for_one_value_is_looked_up() {
    const MANY: u32 = 1 << 21;
    let small = |map: Map| match map.name {
        name if name == GATES.name => Map {
            kind: Kind::Array,
            entries: 1,
            ..map
        },
        name if name == CONNECTIONS.name => Map { entries: 1, ..map },
        _ => map,
    };
    assert!(!GATES.is_whole(MANY) && GATES.is_whole(MANY / 2));
    if allowed() {
        let tables: Vec<_> = tables(MANY).into_iter().map(small).collect();
        let secrets = Secrets {
            places: MANY,
            ..SECRETS
        };
        Fast::load_with(TCX, &secrets, &tables);
    }
}

/// A connection over UDP that has become a stream.
fn udp(front: Front, family: Family, ends: &Ends) -> Twin {
    let [there, back] = ways(family, ends);
    let opening = [there.udp(b"q"), back.udp(b"a"), there.udp(b"q")];
    Twin::new(front, &opening, ends)
}

#[test]
fn datagrams_are_forwarded_as_the_tracker_would() {
    if !allowed() {
        return;
    }
    for (front, (family, ends)) in everywhere() {
        let mut numbers = Numbers(7);
        let mut twin = udp(front, family, &ends);
        twin.assure();
        for _ in 0..500 {
            let way = ways(family, &ends)[numbers.below(2) as usize];
            let payload: Vec<u8> = (0..numbers.below(1400)).map(|n| n as u8).collect();
            let mut packet = way.udp(&payload);
            damage(&mut packet, family, &mut numbers);
            twin.send(&packet, &ends);
        }
        assert!(twin.sent_on > 300, "{} sent on", twin.sent_on);
        assert!(twin.left > 20, "{} left", twin.left);
        assert!(twin.fast.turns() > 300);
    }
}

/// Programs add up short packets themselves, piece by piece, and have the kernel add up longer ones:
/// the tracker agrees whatever the length, and that a packet is wrong of which any byte is.
#[test]
fn checksums_of_every_short_length_are_verified() {
    if !allowed() {
        return;
    }
    let plain = [(Family::V4, V4), (Family::V6, V6)];
    for (front, (family, ends)) in [TCX, XDP].into_iter().flat_map(|f| plain.map(|e| (f, e))) {
        let mut twin = udp(front, family, &ends);
        twin.assure();
        for len in 0..=140 {
            // No byte is like its neighbour, so that none can stand for another.
            let payload: Vec<u8> = (1..=len).map(|n: u8| n.wrapping_mul(29)).collect();
            let right = ways(family, &ends)[usize::from(len % 2)].udp(&payload);
            assert!(twin.send(&right, &ends), "{len} bytes");
            let from = right.len() - payload.len();
            for at in from..right.len() {
                let mut wrong = right.clone();
                wrong[at] ^= 1 << (at % 8);
                assert!(!twin.send(&wrong, &ends), "{len} bytes, {at}");
            }
        }
    }
}

/// Now and then, something wrong or unusual in the headers.
fn damage(packet: &mut Vec<u8>, family: Family, numbers: &mut Numbers) {
    let l4 = if family == Family::V4 { 20 } else { 40 };
    match numbers.below(20) {
        // The absent checksum of IPv4.
        0 => packet[l4 + 6..l4 + 8].fill(0),
        1 => packet[l4 + 6] ^= 0x10,
        2 if family == Family::V4 => packet[10] ^= 1,
        3 => packet.truncate(packet.len() - 1),
        4 => packet.push(0),
        5 => {
            packet[if family == Family::V4 { 8 } else { 7 }] = 1;
            if family == Family::V4 {
                checksum::fix_ipv4(packet);
            }
            // The tracker's half of the test takes the last hop away.
            packet[l4 + 6] ^= 0x10;
        }
        _ => {}
    }
}

/// One end of a TCP connection.
#[derive(Clone, Copy)]
struct End {
    next: u32,
    acked: u32,
}

/// Three packets that open a connection, with window scaling and SACK.
fn opening(family: Family, ends: &Ends, isn: [u32; 2]) -> [Vec<u8>; 3] {
    const OFFER: [u8; 8] = [1, 3, 3, 7, 1, 1, 4, 2];
    let [there, back] = ways(family, ends);
    let segment = |flags, seq, ack, options| Tcp {
        flags,
        seq,
        ack,
        window: 64_000,
        options,
        payload: 0,
    };
    [
        there.tcp(&segment(SYN, isn[0], 0, &OFFER)),
        back.tcp(&segment(SYN | ACK, isn[1], isn[0].wrapping_add(1), &OFFER)),
        there.tcp(&segment(
            ACK,
            isn[0].wrapping_add(1),
            isn[1].wrapping_add(1),
            &[],
        )),
    ]
}

#[test]
fn segments_are_forwarded_and_judged_as_the_tracker_would() {
    if !allowed() {
        return;
    }
    for (seed, (front, (family, ends))) in everywhere().enumerate() {
        let mut numbers = Numbers(seed as u64);
        let isn = [u32::MAX - 20_000, 0x7fff_f000];
        let mut twin = Twin::new(front, &opening(family, &ends, isn), &ends);
        for _ in 0..3000 {
            let dir = numbers.below(2) as usize;
            let tcp = twin.ct.entry(twin.id).unwrap().tcp().unwrap();
            // What the network has let through so far.
            let peers = [0, 1].map(|i| End {
                next: tcp.seen[i].end,
                acked: tcp.seen[1 - i].maxack,
            });
            let packet = segment(family, &ends, dir, &peers, &mut numbers);
            twin.send(&packet, &ends);
        }
        assert!(twin.sent_on > 1500, "{} sent on", twin.sent_on);
        assert!(twin.left > 100, "{} left", twin.left);
        assert!(twin.fast.turns() > 1500);
    }
}

/// A segment of a transfer in both directions; some retransmit, some are strange.
fn segment(
    family: Family,
    ends: &Ends,
    dir: usize,
    peers: &[End; 2],
    numbers: &mut Numbers,
) -> Vec<u8> {
    let stamp = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let payload = numbers.below(1400) as usize;
    let ahead = peers[dir].next.wrapping_sub(peers[dir].acked);
    let mut seq = peers[dir].next;
    let mut ack = peers[1 - dir].next;
    let mut options = Vec::new();
    if numbers.one_in(2) {
        options.extend(stamp);
    }
    match numbers.below(12) {
        0 => seq = peers[dir].acked,
        1 => seq = seq.wrapping_add(numbers.below(100_000_000) as u32),
        2 => seq = seq.wrapping_sub(numbers.below(200_000) as u32),
        3 => ack = ack.wrapping_add(numbers.below(3) as u32),
        4 => ack = ack.wrapping_sub(numbers.below(150_000) as u32),
        5 => {
            let blocks = 1 + numbers.below(if options.is_empty() { 4 } else { 3 }) as u8;
            options.extend([1, 1, 5, 2 + 8 * blocks]);
            for _ in 0..blocks {
                let right = ack.wrapping_add(numbers.below(4000) as u32);
                options.extend(right.wrapping_sub(100).to_be_bytes());
                options.extend(right.to_be_bytes());
            }
        }
        6 => options.extend([1, 1, 1, 0]),
        _ if ahead > 60_000 => seq = peers[dir].acked,
        _ => {}
    }
    let flags = match numbers.below(60) {
        0 => ACK | SYN,
        1 => ACK | 0x20,
        2 => PSH,
        3 => ACK | 0x40,
        _ => ACK | (numbers.below(2) as u8 * PSH),
    };
    ways(family, ends)[dir].tcp(&Tcp {
        flags,
        seq,
        ack,
        window: numbers.below(65_536) as u16,
        options: &options,
        payload,
    })
}

#[test]
fn a_connection_that_went_up_stays_up_until_it_is_given_back() {
    if !allowed() {
        return;
    }
    let mut twin = udp(TCX, Family::V4, &V4);
    let [there, _] = ways(Family::V4, &V4);
    let datagram = frame(&there.udp(b"one"));
    assert_eq!(twin.fast.run(&datagram).0, TCX.sent_on);
    // A first fragment has the ports of its flow.
    let mut fragment = there.udp(b"two");
    fragment[6] = 0x20;
    checksum::fix_ipv4(&mut fragment);
    assert_eq!(twin.fast.run(&frame(&fragment)).0, TCX.left);
    assert!(!is_open(&twin.fast.gate(PLACE)));
    assert_eq!(twin.fast.run(&datagram).0, TCX.left);
    assert_eq!(twin.fast.gate(PLACE)[gate::SENT], 2);
    assert_eq!(twin.fast.fate(Fate::Fragment), 1);
    assert_eq!(twin.fast.fate(Fate::Held), 1);
    let mut gate = twin.fast.gate(PLACE);
    gate[gate::DONE] = 2;
    twin.fast.set_gate(PLACE, gate);
    assert_eq!(twin.fast.run(&datagram).0, TCX.sent_on);
}

#[test]
fn another_epoch_ends_all_ways() {
    if !allowed() {
        return;
    }
    let mut twin = udp(TCX, Family::V6, &V6);
    let [there, _] = ways(Family::V6, &V6);
    let datagram = frame(&there.udp(b"one"));
    assert_eq!(twin.fast.run(&datagram).0, TCX.sent_on);
    twin.fast.set_globals(globals(2));
    assert_eq!(twin.fast.run(&datagram).0, TCX.left);
    assert_eq!(twin.fast.fate(Fate::Stale), 1);
}

/// Whatever becomes of a packet, its program's turn ends: who shuts a gate waits for that.
#[test]
fn turns_end_on_every_way() {
    if !allowed() {
        return;
    }
    for (front, (family, ends)) in everywhere() {
        let mut twin = udp(front, family, &ends);
        let [there, back] = ways(family, &ends);
        let stranger = Way {
            src: (there.src.0, there.src.1 + 1),
            ..there
        };
        let mut gate = twin.fast.gate(PLACE);
        for (packet, sent) in [(there, true), (stranger, false), (back, true)] {
            let answer = twin.fast.run(&frame(&packet.udp(b"one"))).0;
            assert_eq!(answer == front.sent_on, sent);
        }
        twin.fast.set_hop(HOP, [0; 3]);
        twin.fast.run(&frame(&there.udp(b"two")));
        gate[gate::DONE] = gate::SHUT;
        twin.fast.set_gate(PLACE, gate);
        assert_eq!(twin.fast.run(&frame(&there.udp(b"three"))).0, front.left);
        assert_eq!(twin.fast.turns(), 5);
    }
}

/// Two flows whose slots look the same: the path tells them apart.
#[test]
fn a_slot_is_not_yet_a_flow() {
    if !allowed() {
        return;
    }
    for (front, (family, ends)) in everywhere() {
        let mut twin = udp(front, family, &ends);
        let [there, _] = ways(family, &ends);
        let datagram = frame(&there.udp(b"one"));
        let mut gate = twin.fast.gate(PLACE);
        // The last byte of the key's ports.
        gate[gate::PATHS + 5] ^= u64::from_ne_bytes([0, 0, 0, 1, 0, 0, 0, 0]);
        twin.fast.set_gate(PLACE, gate);
        assert_eq!(twin.fast.run(&datagram), (front.left, datagram));
        assert_eq!(twin.fast.gate(PLACE), gate);
    }
}

/// `TCX_PASS`
const PASS: i32 = 0;

/// Frames that the fast path must not touch: what the engine lets in, and other protocols.
#[test]
fn injected_and_foreign_frames_are_left_alone() {
    if !allowed() {
        return;
    }
    let mut twin = udp(TCX, Family::V4, &V4);
    let [there, _] = ways(Family::V4, &V4);
    let mut datagram = frame(&there.udp(b"one"));
    datagram[6..12].copy_from_slice(&SECRETS.injected);
    assert_eq!(twin.fast.run(&datagram), (PASS, datagram));
    assert_eq!(twin.fast.globals()[global::LET_IN], 1);
    assert!(is_open(&twin.fast.gate(PLACE)));
    let mut arp = frame(&there.udp(b"one"));
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(twin.fast.run(&arp).0, TCX.left);
    let counted: u64 = Fate::ALL.into_iter().map(|f| twin.fast.fate(f)).sum();
    assert_eq!(counted, 0);
}

/// Packets of other protocols can be shorter than what is read at once.
#[test]
fn short_frames_are_the_engines_too() {
    if !allowed() {
        return;
    }
    const RAW: [u8; 24] = [
        0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2, 1, 2, 3, 4,
    ];
    let mut twin = udp(TCX, Family::V4, &V4);
    for len in [20, 24] {
        let mut packet = RAW[..len].to_vec();
        packet[3] = len as u8;
        checksum::fix_ipv4(&mut packet);
        let mut short = frame(&packet);
        let before = twin.fast.fate(Fate::Unusual);
        twin.fast.run(&short);
        assert_eq!(twin.fast.fate(Fate::Unusual), before + 1);
        let let_in = twin.fast.globals()[global::LET_IN];
        short[6..12].copy_from_slice(&SECRETS.injected);
        assert_eq!(twin.fast.run(&short).0, PASS);
        assert_eq!(twin.fast.globals()[global::LET_IN], let_in + 1);
        assert_eq!(twin.fast.fate(Fate::Unusual), before + 1);
    }
}

/// A sender on the same machine leaves the checksum to the card, with the pseudo-header's sum
/// in its place; before the kernel nothing says so.
#[test]
fn a_checksum_that_was_left_to_the_card_is_completed_before_the_kernel() {
    if !allowed() {
        return;
    }
    for (family, ends) in all() {
        let mut twin = udp(XDP, family, &ends);
        twin.assure();
        for len in [1, 2, 7, 1000] {
            let whole = ways(family, &ends)[0].udp(&vec![len as u8; len]);
            let (answer, expected) = twin.fast.run(&frame(&whole));
            assert_eq!(answer, XDP.sent_on);
            let mut partial = whole.clone();
            let layout = parse(&whole).unwrap();
            let (src, dst) = (layout.src(&whole), layout.dst(&whole));
            let sum = checksum::pseudo(family, src, dst, layout.proto, 8 + len as u32);
            let at = usize::from(layout.l4) + 6;
            partial[at..at + 2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
            let (answer, out) = twin.fast.run(&frame(&partial));
            assert_eq!(answer, XDP.sent_on);
            assert_eq!(out, expected);
        }
    }
}

/// Without a next hop that is known, and for another host's address, the kernel decides, and
/// nothing has been counted.
#[test]
fn before_the_kernel_only_what_needs_no_kernel_is_sent_on() {
    if !allowed() {
        return;
    }
    let mut twin = udp(XDP, Family::V4, &V4);
    let [there, _] = ways(Family::V4, &V4);
    let datagram = frame(&there.udp(b"one"));
    assert_eq!(twin.fast.run(&datagram).0, XDP.sent_on);
    let gate = twin.fast.gate(PLACE);
    let mut foreign = datagram.clone();
    foreign[0] = 2;
    assert_eq!(twin.fast.run(&foreign), (XDP.left, foreign));
    twin.fast.set_hop(HOP, [0; 3]);
    assert_eq!(twin.fast.run(&datagram), (XDP.left, datagram));
    assert_eq!(twin.fast.gate(PLACE), gate);
}

/// Whoever follows the neighbours asks every second which next hops are in use. When nobody
/// has for long, as after a crash, the kernel finds their addresses.
#[test]
fn addresses_that_nobody_keeps_are_not_used() {
    if !allowed() {
        return;
    }
    let [there, _] = ways(Family::V4, &V4);
    let datagram = frame(&there.udp(b"one"));
    for front in [TCX, XDP] {
        let mut twin = udp(front, Family::V4, &V4);
        let (answer, out) = twin.fast.run(&datagram);
        assert_eq!(answer, front.sent_on);
        assert_ne!(out[..12], datagram[..12]);
        let mut hop = twin.fast.hop(HOP);
        assert_ne!(hop[hop::USED], 0, "now it is in use");
        hop[hop::USED] = 1;
        twin.fast.set_hop(HOP, hop);
        let (answer, out) = twin.fast.run(&datagram);
        assert_eq!(out[..12], datagram[..12]);
        let sent = if front == XDP {
            front.left
        } else {
            front.sent_on
        };
        assert_eq!(answer, sent);
    }
}
