use super::*;
use alloc::vec::Vec;
use tidegate_wire::parse;

const V4: [u128; 3] = [0x0a00_0002, 0xc633_6407, 0xcb00_7164];
const V6: [u128; 3] = [
    0xfd00_u128 << 112 | 2,
    0x2001_0db8_u128 << 96 | 7,
    0xfd00_0000_0001_u128 << 80 | 0x100,
];

fn addresses(family: Family) -> [u128; 3] {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

/// A packet from the first to the second address, all checksums right.
fn packet(family: Family, protocol: u8, l4: &[u8]) -> Vec<u8> {
    let [src, dst, _] = addresses(family);
    let mut pkt = Vec::new();
    match family {
        Family::V4 => {
            pkt.extend([
                0x45,
                0,
                0,
                (20 + l4.len()) as u8,
                0,
                1,
                0,
                0,
                64,
                protocol,
                0,
                0,
            ]);
            pkt.extend((src as u32).to_be_bytes());
            pkt.extend((dst as u32).to_be_bytes());
            checksum::fix_ipv4(&mut pkt);
        }
        Family::V6 => {
            pkt.extend([0x60, 0, 0, 0, 0, l4.len() as u8, protocol, 64]);
            pkt.extend(src.to_be_bytes());
            pkt.extend(dst.to_be_bytes());
        }
    }
    pkt.extend(l4);
    let l4_at = pkt.len() - l4.len();
    if let Some(at) = checksum_at(protocol) {
        let sum = whole_sum(family, protocol, &pkt);
        pkt[l4_at + at..l4_at + at + 2].copy_from_slice(&(!sum).to_be_bytes());
    }
    pkt
}

fn checksum_at(protocol: u8) -> Option<usize> {
    match protocol {
        proto::TCP => Some(16),
        proto::UDP | proto::UDPLITE => Some(6),
        proto::ICMP | proto::ICMPV6 => Some(2),
        _ => None,
    }
}

/// Folded sum over pseudo-header and transport bytes: 0xffff when the checksum is right.
fn whole_sum(family: Family, protocol: u8, pkt: &[u8]) -> u16 {
    let layout = parse(pkt).unwrap();
    let l4 = layout.l4(pkt);
    let (src, dst) = (layout.src(pkt), layout.dst(pkt));
    let extra = match protocol {
        proto::ICMP => 0,
        p => checksum::pseudo(family, src, dst, p, l4.len() as u32),
    };
    checksum::fold(extra + checksum::sum(l4))
}

fn l4_of(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut l4 = match protocol {
        proto::TCP => Vec::from([
            0x0b, 0xb8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 16, 9, 9, 0, 0, 0, 0,
        ]),
        proto::ICMP => Vec::from([8, 0, 0, 0, 0, 7, 0, 1]),
        proto::ICMPV6 => Vec::from([128, 0, 0, 0, 0, 7, 0, 1]),
        _ => Vec::from([0x0b, 0xb8, 0, 80, 0, 8 + payload.len() as u8, 0, 0]),
    };
    l4.extend(payload);
    l4
}

fn target(family: Family, protocol: u8, id: u16) -> Tuple {
    let [_, _, new] = addresses(family);
    Tuple {
        src: new,
        dst: new,
        src_id: id,
        dst_id: id,
        family,
        proto: protocol,
    }
}

/// Rewrites and proves the result: the address, and every checksum by a full sum.
fn rewritten(family: Family, protocol: u8, payload: &[u8], manip: Manip, id: u16) -> Vec<u8> {
    let before = packet(family, protocol, &l4_of(protocol, payload));
    let layout = parse(&before).unwrap();
    let mut pkt = before.clone();
    rewrite(&mut pkt, &layout, &target(family, protocol, id), manip).unwrap();
    let after = parse(&pkt).unwrap();
    let [src, dst, new] = addresses(family);
    let want = match manip {
        Manip::Src => (new, dst),
        Manip::Dst => (src, new),
    };
    assert_eq!((after.src(&pkt), after.dst(&pkt)), want);
    assert_eq!(whole_sum(family, protocol, &pkt), 0xffff);
    assert_eq!(pkt.len(), before.len());
    pkt
}

#[test]
fn ports_and_checksums() {
    for family in [Family::V4, Family::V6] {
        for protocol in [proto::TCP, proto::UDP, proto::UDPLITE] {
            for (manip, at) in [(Manip::Src, 0), (Manip::Dst, 2)] {
                for id in [0u16, 1, 80, 0x0bb8, 0xffff] {
                    let pkt = rewritten(family, protocol, b"odd", manip, id);
                    let l4: usize = parse(&pkt).unwrap().l4.into();
                    assert_eq!(be16(&pkt, l4 + at), Some(id));
                    let other = if at == 0 { 80 } else { 3000 };
                    assert_eq!(be16(&pkt, l4 + 2 - at), Some(other));
                }
            }
        }
    }
}

#[test]
fn icmp_ids_change_at_both_ends() {
    for (family, protocol) in [(Family::V4, proto::ICMP), (Family::V6, proto::ICMPV6)] {
        for manip in [Manip::Src, Manip::Dst] {
            let pkt = rewritten(family, protocol, b"ping", manip, 0x1234);
            let l4: usize = parse(&pkt).unwrap().l4.into();
            assert_eq!(be16(&pkt, l4 + 4), Some(0x1234));
        }
    }
}

#[test]
fn icmp_errors_have_no_id() {
    for (family, protocol, ty) in [(Family::V4, proto::ICMP, 3), (Family::V6, proto::ICMPV6, 1)] {
        let mut pkt = packet(family, protocol, &[ty, 1, 0, 0, 0, 0, 5, 0]);
        let layout = parse(&pkt).unwrap();
        rewrite(&mut pkt, &layout, &target(family, protocol, 9), Manip::Dst).unwrap();
        assert_eq!(pkt[pkt.len() - 4..], [0, 0, 5, 0]);
        assert_eq!(whole_sum(family, protocol, &pkt), 0xffff);
    }
}

#[test]
fn a_udp_packet_without_checksum_gets_none() {
    let mut pkt = packet(Family::V4, proto::UDP, &l4_of(proto::UDP, b"x"));
    pkt[26..28].fill(0);
    let layout = parse(&pkt).unwrap();
    let target = target(Family::V4, proto::UDP, 9);
    rewrite(&mut pkt, &layout, &target, Manip::Src).unwrap();
    assert_eq!(pkt[26..28], [0, 0]);
    assert_eq!(pkt[20..22], [0, 9]);
}

/// For some port the sum is such that the checksum field would be zero.
#[test]
fn a_udp_checksum_is_never_zero() {
    let mut seen = false;
    for id in 0..=u16::MAX {
        let mut pkt = packet(Family::V4, proto::UDP, &l4_of(proto::UDP, b"x"));
        let layout = parse(&pkt).unwrap();
        let target = target(Family::V4, proto::UDP, id);
        rewrite(&mut pkt, &layout, &target, Manip::Src).unwrap();
        assert_ne!(pkt[26..28], [0, 0]);
        seen |= pkt[26..28] == [0xff, 0xff];
    }
    assert!(seen);
}

#[test]
fn extension_headers_are_skipped() {
    let mut l4 = Vec::from([proto::UDP, 0, 1, 4, 0, 0, 0, 0]);
    l4.extend(l4_of(proto::UDP, b"x"));
    let mut pkt = packet(Family::V6, proto::DSTOPTS, &l4);
    let layout = parse(&pkt).unwrap();
    let sum = whole_sum(Family::V6, proto::UDP, &pkt);
    pkt[54..56].copy_from_slice(&(!sum).to_be_bytes());
    rewrite(
        &mut pkt,
        &layout,
        &target(Family::V6, proto::UDP, 9),
        Manip::Dst,
    )
    .unwrap();
    assert_eq!(be16(&pkt, 50), Some(9));
    assert_eq!(whole_sum(Family::V6, proto::UDP, &pkt), 0xffff);
}

#[test]
fn later_fragments_change_their_address_only() {
    let mut pkt = packet(Family::V4, proto::UDP, b"middle of a datagram");
    pkt[7] = 3;
    pkt[26..28].copy_from_slice(b"zz");
    checksum::fix_ipv4(&mut pkt);
    let (layout, before) = (parse(&pkt).unwrap(), pkt.clone());
    rewrite(
        &mut pkt,
        &layout,
        &target(Family::V4, proto::UDP, 9),
        Manip::Src,
    )
    .unwrap();
    assert_eq!(pkt[20..], before[20..]);
    assert_eq!(parse(&pkt).unwrap().src(&pkt), V4[2]);
    let mut l4 = Vec::from([proto::UDP, 0, 0, 8, 0, 0, 0, 1]);
    l4.extend(b"middle of a datagram");
    let mut pkt = packet(Family::V6, proto::FRAGMENT, &l4);
    let (layout, before) = (parse(&pkt).unwrap(), pkt.clone());
    rewrite(
        &mut pkt,
        &layout,
        &target(Family::V6, proto::UDP, 9),
        Manip::Src,
    )
    .unwrap();
    assert_eq!(pkt[24..], before[24..]);
    assert_eq!(layout.src(&pkt), V6[2]);
}

#[test]
fn short_transport_headers_are_refused() {
    for (protocol, least) in [
        (proto::TCP, 8),
        (proto::UDP, 8),
        (proto::SCTP, 8),
        (proto::ICMP, 8),
        (proto::GRE, 8),
        (proto::ESP, 0),
    ] {
        for len in 0..12 {
            let mut pkt = packet(Family::V4, proto::NONE, &[0; 12][..len]);
            let layout = parse(&pkt).unwrap();
            let outcome = rewrite(
                &mut pkt,
                &layout,
                &target(Family::V4, protocol, 9),
                Manip::Src,
            );
            assert_eq!(outcome.is_ok(), len >= least, "{protocol} {len}");
        }
    }
}

#[test]
fn gre_has_a_key_in_version_1_and_towards_the_destination() {
    let call = |version: u8, manip| {
        let gre = [0x20, version, 0x88, 0x0b, 0, 0, 0, 5];
        let mut pkt = packet(Family::V4, proto::GRE, &gre);
        let layout = parse(&pkt).unwrap();
        rewrite(&mut pkt, &layout, &target(Family::V4, proto::GRE, 9), manip)?;
        Ok(pkt[27])
    };
    assert_eq!(call(0, Manip::Dst), Ok(5));
    assert_eq!(call(1, Manip::Dst), Ok(9));
    assert_eq!(call(1, Manip::Src), Ok(5));
    assert_eq!(call(2, Manip::Dst), Err(CannotRewrite));
}

#[test]
fn the_packet_inside_an_error_changes_at_the_opposite_end() {
    for (family, icmp, ty) in [(Family::V4, proto::ICMP, 3), (Family::V6, proto::ICMPV6, 1)] {
        for keep in [8, 28] {
            let inner = packet(family, proto::TCP, &l4_of(proto::TCP, b"datadata"));
            let header = inner.len() - 28;
            let mut body = Vec::from([ty, 1, 0, 0, 0, 0, 0, 0]);
            body.extend(&inner[..header + keep]);
            let mut pkt = packet(family, icmp, &body);
            let layout = parse(&pkt).unwrap();
            assert!(icmp_checksum_ok(&pkt, &layout));
            let tuple = target(family, proto::TCP, 9);
            rewrite_embedded(&mut pkt, &layout, &tuple, Manip::Dst).unwrap();
            assert!(icmp_checksum_ok(&pkt, &layout));
            let inside = &pkt[usize::from(layout.l4) + 8..];
            let [_, dst, new] = addresses(family);
            let view = tidegate_wire::parse_embedded(family, inside).unwrap();
            assert_eq!((view.src(inside), view.dst(inside)), (new, dst));
            assert_eq!(inside[header..header + 4], [0, 9, 0, 80]);
            if keep == 28 {
                assert_eq!(whole_sum(family, proto::TCP, inside), 0xffff);
            }
        }
    }
}

#[test]
fn an_error_cut_inside_is_refused() {
    let inner = packet(Family::V4, proto::TCP, &l4_of(proto::TCP, b""));
    for keep in 0..28 {
        let mut body = Vec::from([3, 1, 0, 0, 0, 0, 0, 0]);
        body.extend(&inner[..keep]);
        let mut pkt = packet(Family::V4, proto::ICMP, &body);
        let layout = parse(&pkt).unwrap();
        let tuple = target(Family::V4, proto::TCP, 9);
        let outcome = rewrite_embedded(&mut pkt, &layout, &tuple, Manip::Dst);
        assert_eq!(outcome, Err(CannotRewrite));
    }
}
