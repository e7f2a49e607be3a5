//! Packets that have been announced are treated like others, whether the announcement was
//! right or not.
#![allow(clippy::unwrap_used, reason = "a test over packets of its own")]

mod either;

use either::Random;
use tidegate_conntrack::{AHEAD, Config, Conntrack, Tracked};
use tidegate_wire::{Family, checksum, parse, proto};

/// More connections than are near anyway.
const FLOWS: usize = 5_000;

/// A datagram of a flow there or back.
fn datagram(flow: usize, back: bool) -> Vec<u8> {
    let client = (0x0a00_0000 + flow as u32 / 50, 1000 + (flow % 50) as u16);
    let server = (0x0a09_0001, 53);
    let ((src, sport), (dst, dport)) = if back {
        (server, client)
    } else {
        (client, server)
    };
    let mut bytes = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, proto::UDP, 0, 0];
    bytes.extend(src.to_be_bytes());
    bytes.extend(dst.to_be_bytes());
    bytes.extend(sport.to_be_bytes());
    bytes.extend(dport.to_be_bytes());
    bytes.extend([0, 10, 0, 0, 1, 2]);
    checksum::fix_ipv4(&mut bytes);
    let pseudo = checksum::pseudo(Family::V4, src.into(), dst.into(), proto::UDP, 10);
    let sum = checksum::finish(pseudo, &bytes[20..]);
    bytes[26..28].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// What becomes of a packet, and of its connection; by the short way, where there is one.
fn take(ct: &mut Conntrack, now: u64, bytes: &[u8], short: bool) -> String {
    let Ok(layout) = parse(bytes) else {
        return "malformed".to_owned();
    };
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
    let (mut now, mut most) = (1_700_000_000_000_000_000, 0);
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
    let now = 1_700_000_000_000_000_000;
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
