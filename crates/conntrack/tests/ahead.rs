//! Packets that have been announced are treated like others, whether the announcement was
//! right or not.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod either;

use either::Random;
use tidegate_conntrack::{
    AHEAD, Config, Conntrack, Dir, Entry, InHook, Manip, NatRange, Template, Tracked, Tuple, Zone,
};
use tidegate_wire::{Family, checksum, parse, proto};

/// More connections than are near anyway.
const FLOWS: usize = 5_000;

const NOW: u64 = 1_700_000_000_000_000_000;

/// A datagram of a flow there or back, of every eighth by IPv6.
fn datagram(flow: usize, back: bool) -> Vec<u8> {
    let client = (0x0a00_0000 + flow as u32 / 50, 1000 + (flow % 50) as u16);
    let server = (0x0a09_0001, 53);
    let ((src, sport), (dst, dport)) = if back {
        (server, client)
    } else {
        (client, server)
    };
    let family = match flow % 8 {
        7 => Family::V6,
        _ => Family::V4,
    };
    let mut bytes = match family {
        Family::V4 => vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, proto::UDP, 0, 0],
        Family::V6 => vec![0x60, 0, 0, 0, 0, 10, proto::UDP, 64],
    };
    for address in [src, dst] {
        match family {
            Family::V4 => bytes.extend(address.to_be_bytes()),
            Family::V6 => bytes.extend(u128::from(address).to_be_bytes()),
        }
    }
    let l4 = bytes.len();
    bytes.extend(sport.to_be_bytes());
    bytes.extend(dport.to_be_bytes());
    bytes.extend([0, 10, 0, 0, 1, 2]);
    checksum::fix_ipv4(&mut bytes);
    let pseudo = checksum::pseudo(family, src.into(), dst.into(), proto::UDP, 10);
    let sum = checksum::finish(pseudo, &bytes[l4..]);
    bytes[l4 + 6..l4 + 8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What becomes of a packet, and of its connection; by the short way, where there is one.
fn take(ct: &mut Conntrack, now: u64, bytes: &[u8], short: bool) -> String {
    let Ok(layout) = parse(bytes) else {
        return "malformed".to_owned();
    };
    let short = short.then(|| ct.layout_of(bytes).is_some());
    let (tracked, _) = either::track(ct, now, (bytes, &layout), short);
    let Tracked::Ct(mut attached) = tracked else {
        return format!("{tracked:?}");
    };
    let confirmed = ct.confirm(now, &mut attached);
    format!("{attached:?} {confirmed:?} {:?}", ct.entry(attached.id))
}

#[test]
fn whatever_is_announced_nothing_else_comes_of_it() {
    let mut random = Random(7);
    let (mut plain, mut told) = (
        Conntrack::new(Config::default()),
        Conntrack::new(Config::default()),
    );
    let (mut now, mut most) = (NOW, 0);
    for round in 0..2_000 {
        let mut batch: Vec<Vec<u8>> = (0..random.below(2 * AHEAD))
            .map(|_| datagram(random.below(FLOWS), random.below(2) == 1))
            .collect();
        if random.below(10) == 0 {
            batch.push(vec![0x45; random.below(30)]);
        }
        let mut announced = batch.clone();
        match random.below(4) {
            0 => announced.reverse(),
            1 => announced.push(datagram(random.below(FLOWS), false)),
            2 => announced.retain(|p| p.last() == Some(&2) && p[19] & 1 == 0),
            _ => {}
        }
        told.foresee(announced.iter().map(Vec::as_slice));
        for packet in &batch {
            // Now and then answers are late, and connections have run out.
            now += 1_000_000 + u64::from(random.below(5_000) == 0) * 40_000_000_000;
            let expected = take(&mut plain, now, packet, false);
            assert_eq!(
                take(&mut told, now, packet, true),
                expected,
                "round {round}"
            );
        }
        most = most.max(told.count());
        if random.below(50) == 0 {
            let flow = random.below(FLOWS);
            let gone = plain.iter().nth(flow).map(|(id, _)| id);
            for ct in [&mut plain, &mut told] {
                gone.map(|id| ct.delete(id));
            }
        }
    }
    assert!(most > 2_500, "{most} connections at most");
    assert_eq!(plain.count(), told.count());
}

/// What was found in advance may be another connection by the time its packet comes.
#[test]
fn a_place_that_another_connection_has_taken_is_not_used() {
    let (mut plain, mut told) = (
        Conntrack::new(Config::default()),
        Conntrack::new(Config::default()),
    );
    let now = NOW;
    let last = datagram(FLOWS - 1, true);
    let [new, answer] = [false, true].map(|back| datagram(FLOWS, back));
    for ct in [&mut plain, &mut told] {
        for back in [false, true] {
            for flow in 0..FLOWS {
                take(ct, now, &datagram(flow, back), false);
            }
        }
    }
    told.foresee([new.as_slice(), &answer, &last].into_iter());
    for ct in [&mut plain, &mut told] {
        let gone = ct.iter().last().map(|(id, _)| id).unwrap();
        ct.delete(gone);
    }
    for packet in [&new, &answer, &last] {
        let expected = take(&mut plain, now, packet, false);
        assert_eq!(take(&mut told, now, packet, true), expected);
    }
}

/// Opens the connection of a packet, of which one end is translated to an address: what
/// becomes of it.
fn open(ct: &mut Conntrack, bytes: &[u8], zone: Zone, (end, to): (Manip, u128)) -> String {
    let layout = parse(bytes).unwrap();
    let template = Template {
        zone,
        ..Template::default()
    };
    let tracked = ct.handle_packet(NOW, bytes, &layout, InHook::Prerouting, Some(&template));
    let Tracked::Ct(mut attached) = tracked else {
        return format!("{tracked:?}");
    };
    let range = NatRange {
        ports: (end == Manip::Src).then_some((1000, 1000)),
        ..NatRange::address(to)
    };
    ct.nat_setup(attached.id, end, &range).unwrap();
    let confirmed = ct.confirm(NOW, &mut attached);
    format!("{confirmed:?} {:?}", ct.entry(attached.id))
}

/// The answer that was reckoned with comes from elsewhere, or in another zone.
#[test]
fn an_answer_is_found_where_it_comes_from() {
    let (mut plain, mut told) = (
        Conntrack::new(Config::default()),
        Conntrack::new(Config::default()),
    );
    for ct in [&mut plain, &mut told] {
        for flow in 0..FLOWS {
            take(ct, NOW, &datagram(flow, false), false);
        }
    }
    let [moved, apart, second] = [0, 50, 101].map(|n| datagram(FLOWS + n, false));
    let answers = Zone {
        id: 5,
        dirs: Zone::REPLY,
    };
    told.foresee([moved.as_slice(), &apart].into_iter());
    let [expected, came] = [&mut plain, &mut told].map(|ct| {
        let moved = open(ct, &moved, Zone::default(), (Manip::Dst, 0x0a09_0002));
        let own = (Manip::Src, 0x0a00_0000 + (FLOWS as u128 + 50) / 50);
        let apart = open(ct, &apart, answers, own);
        ct.foresee(core::iter::empty());
        // It would have the same answers, if nobody saw that they are taken.
        let second = open(ct, &second, answers, own);
        let lost = |e: &Entry| ct.find(e.tuple(Dir::Reply), e.zone).is_none();
        assert_eq!(ct.iter().filter(|(_, e)| lost(e)).count(), 0);
        [moved, apart, second]
    });
    assert!(came[0].starts_with("Ok") && came[2].starts_with("Err"));
    assert_eq!(came, expected);
}

/// Headers that have been read are not read again; those of another packet are.
#[test]
fn a_layout_is_that_of_the_packet_that_comes() {
    let mut random = Random(11);
    let mut ct = Conntrack::new(Config::default());
    for back in [false, true] {
        for flow in 0..FLOWS {
            take(&mut ct, NOW, &datagram(flow, back), false);
        }
    }
    let (mut known, mut others) = (0, 0);
    for round in 0..24_000 {
        let mut announced = datagram(random.below(FLOWS), random.below(2) == 1);
        // Packets that no network layer takes in are announced too.
        if random.below(4) == 0 {
            let at = random.below(announced.len());
            announced[at] ^= 1 << random.below(8);
            if random.below(2) == 0 {
                checksum::fix_ipv4(&mut announced);
            }
        }
        ct.foresee(core::iter::once(announced.as_slice()));
        let mut came = announced.clone();
        match random.below(4) {
            0 => came.truncate(random.below(came.len())),
            1 => {
                let at = random.below(came.len());
                came[at] ^= 1 << random.below(8);
                if random.below(2) == 0 {
                    checksum::fix_ipv4(&mut came);
                }
            }
            2 => came.resize(60, 0),
            _ => {}
        }
        let told = ct.layout_of(&came);
        assert!(told.is_none() || told == parse(&came).ok(), "round {round}");
        known += usize::from(told.is_some());
        others += usize::from(told.is_none() && parse(&came).is_ok());
        // Nor is it taken for the connection of the packet that was announced.
        if let Ok(layout) = parse(&came)
            && layout.proto == proto::UDP
            && !layout.is_fragment()
            && let (Tracked::Ct(attached), _) =
                either::track(&mut ct, NOW, (&came, &layout), Some(told.is_some()))
        {
            let tuple = Tuple::from_packet(&came, &layout).unwrap();
            let entry = ct.entry(attached.id).unwrap();
            assert_eq!(*entry.tuple(attached.dir), tuple, "round {round}");
            ct.release(attached.id);
        }
    }
    assert!(
        known > 10_000 && others > 500,
        "{known} known, {others} not"
    );
}

/// Behind an extension header ports come later than what packets are remembered by.
#[test]
fn ports_behind_an_extension_are_looked_for() {
    let mut ct = Conntrack::new(Config::default());
    for flow in 0..FLOWS {
        take(&mut ct, NOW, &datagram(flow, false), false);
    }
    // Options for the destination: eight bytes of padding (RFC 8200 section 4.6).
    let extended = |flow| {
        let mut bytes = datagram(flow, false);
        bytes[5] += 8;
        bytes[6] = proto::DSTOPTS;
        bytes.splice(40..40, [proto::UDP, 0, 1, 4, 0, 0, 0, 0]);
        bytes
    };
    let [announced, came] = [FLOWS + 7, FLOWS + 15].map(extended);
    assert_eq!(announced[..48], came[..48]);
    ct.foresee(core::iter::once(announced.as_slice()));
    take(&mut ct, NOW, &came, false);
    let tuple = Tuple::from_packet(&came, &parse(&came).unwrap()).unwrap();
    assert!(ct.find(&tuple, Zone::default()).is_some());
}
