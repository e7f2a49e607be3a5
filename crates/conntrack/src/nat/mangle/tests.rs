use super::*;
use alloc::vec;
use tidegate_wire::parse;

fn packet(family: Family, payload: &[u8], pad: usize) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut pkt = match family {
        Family::V4 => vec![
            0x45,
            0,
            0,
            0,
            0,
            1,
            0,
            0,
            64,
            proto::TCP,
            0,
            0,
            10,
            0,
            0,
            2,
            10,
            0,
            1,
            2,
        ],
        Family::V6 => vec![0x60, 0, 0, 0, 0, 0, proto::TCP, 64],
    };
    match family {
        Family::V4 => {
            pkt[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            checksum::fix_ipv4(&mut pkt);
        }
        Family::V6 => {
            pkt[4..6].copy_from_slice(&len.to_be_bytes());
            pkt.resize(40, 0xfd);
        }
    }
    pkt.extend([
        0, 20, 0, 21, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 9, 9, 0, 0, 0, 0,
    ]);
    pkt.extend(payload);
    pkt.resize(pkt.len() + pad, 0xee);
    pkt
}

fn checksum_ok(pkt: &[u8]) -> bool {
    let layout = parse(pkt).unwrap();
    let l4 = layout.l4(pkt);
    let (src, dst) = (layout.src(pkt), layout.dst(pkt));
    let pseudo = checksum::pseudo(layout.family, src, dst, proto::TCP, l4.len() as u32);
    checksum::fold(pseudo + checksum::sum(l4)) == 0xffff
}

#[test]
fn packets_grow_shrink_and_stay() {
    for family in [Family::V4, Family::V6] {
        for (text, diff) in [(&b"longer text"[..], 7), (b"", -4), (b"same", 0)] {
            let mut pkt = packet(family, b"PORT abcd\r\n", 6);
            let layout = parse(&pkt).unwrap();
            assert_eq!(replace_payload(&mut pkt, &layout, 5..9, text), Some(diff));
            let after = parse(&pkt).unwrap();
            assert_eq!(after.len as usize, pkt.len());
            let want = [b"PORT ", text, b"\r\n"].concat();
            assert_eq!(&after.l4(&pkt)[20..], want);
            assert!(checksum_ok(&pkt));
        }
    }
}

#[test]
fn nothing_beyond_the_payload_or_the_largest_packet() {
    let mut pkt = packet(Family::V4, b"abc", 2);
    let before = pkt.clone();
    let layout = parse(&pkt).unwrap();
    assert_eq!(replace_payload(&mut pkt, &layout, 1..4, b"x"), None);
    let huge = vec![b'x'; MAX_PACKET - 43 + 2];
    assert_eq!(replace_payload(&mut pkt, &layout, 1..2, &huge), None);
    assert_eq!(pkt, before);
    assert_eq!(
        replace_payload(&mut pkt, &layout, 1..2, &huge[1..]),
        Some(65_492)
    );
    assert_eq!(parse(&pkt).map(|l| l.len), Ok(65_535));
}
