//! No input panics or makes the reader run on.
#![allow(missing_docs, clippy::unwrap_used)]

use proptest::prelude::*;
use tidegate_capture::{Direction, LinkType, Reader, Writer, network_packet};

fn drain(bytes: &[u8]) -> usize {
    let mut reader = Reader::new("x", bytes);
    let mut packets = 0;
    while let Ok(Some(frame)) = reader.next_frame() {
        assert_eq!(frame.number, packets as u64 + 1);
        let _ = frame.network_packet();
        packets += 1;
    }
    assert!(reader.offset() <= bytes.len() as u64);
    packets
}

fn good(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out, "x").unwrap();
    let id = writer
        .add_interface(Some("eth0"), LinkType::Ethernet)
        .unwrap();
    for p in packets {
        writer
            .packet(id, 5, Direction::Out, p, p.len() as u32, "comment")
            .unwrap();
    }
    out
}

proptest! {
    #[test]
    fn arbitrary_bytes(start in 0usize..7, rest in prop::collection::vec(any::<u8>(), 0..400)) {
        let magics: [&[u8]; 7] = [
            &[], &[0xd4, 0xc3, 0xb2, 0xa1], &[0xa1, 0xb2, 0xc3, 0xd4], &[0x4d, 0x3c, 0xb2, 0xa1],
            &[0x34, 0xcd, 0xb2, 0xa1], &[0x0a, 0x0d, 0x0d, 0x0a],
            &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a],
        ];
        let bytes = [magics[start], &rest].concat();
        prop_assert!(drain(&bytes) <= bytes.len() / 12);
    }

    #[test]
    fn one_damaged_byte_or_a_cut_keeps_the_packets_before(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let file = good(&packets);
        prop_assert_eq!(drain(&file), packets.len());
        let cut = &file[..at.index(file.len())];
        let whole = (0..=packets.len())
            .rev()
            .find(|&n| good(&packets[..n]).len() <= cut.len())
            .unwrap_or(0);
        prop_assert_eq!(drain(cut), whole);
        let mut damaged = file.clone();
        damaged[at.index(file.len())] = value;
        let before = (0..=packets.len())
            .rev()
            .find(|&n| good(&packets[..n]).len() <= at.index(file.len()))
            .unwrap_or(0);
        prop_assert!(drain(&damaged) >= before);
    }

    #[test]
    fn any_frame_of_any_link_type(link in 0u16..300, frame in prop::collection::vec(any::<u8>(), 0..80)) {
        let packet = network_packet(LinkType::from(link), &frame);
        if let tidegate_capture::Payload::Ip(ip) = packet.payload {
            prop_assert!(frame.ends_with(ip));
        }
    }
}
