use super::*;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A space where `busy` decides, which records every identifier asked for.
struct Fake {
    busy: Box<dyn Fn(&Tuple) -> bool>,
    asked: Vec<u16>,
    live: Vec<u16>,
    randoms: Vec<u16>,
    mapped: Option<Tuple>,
}

impl Fake {
    fn new(busy: impl Fn(&Tuple) -> bool + 'static) -> Fake {
        Fake {
            busy: Box::new(busy),
            asked: Vec::new(),
            live: Vec::new(),
            randoms: Vec::new(),
            mapped: None,
        }
    }
}

impl Space for Fake {
    fn taken(&mut self, tuple: &Tuple) -> bool {
        self.asked.push(tuple.src_id);
        (self.busy)(tuple)
    }

    fn taken_unless_crossing(&mut self, tuple: &Tuple) -> bool {
        (self.busy)(tuple)
    }

    fn taken_by_live(&mut self, tuple: &Tuple) -> bool {
        self.live.push(tuple.src_id);
        (self.busy)(tuple)
    }

    fn mapped_source(&mut self, _: &Tuple, range: &NatRange) -> Option<Tuple> {
        self.mapped.filter(|m| range.holds_source(m))
    }

    fn random(&mut self) -> u16 {
        self.randoms.pop().unwrap_or(0)
    }
}

const INSIDE: u128 = 0x0a00_0002;
const OUTSIDE: u128 = 0xcb00_7164;

fn tuple(protocol: u8, src_id: u16) -> Tuple {
    Tuple {
        src: INSIDE,
        dst: 0xc633_6407,
        src_id,
        dst_id: 80,
        family: Family::V4,
        proto: protocol,
    }
}

fn pick(tuple: &Tuple, range: &NatRange, manip: Manip, space: &mut Fake) -> Tuple {
    let wish = Wish {
        tuple,
        range,
        manip,
        zone: 0,
        has_master: false,
    };
    choose(&wish, space)
}

fn snat(tuple: &Tuple, range: &NatRange, space: &mut Fake) -> Tuple {
    pick(tuple, range, Manip::Src, space)
}

#[test]
fn the_port_stays_when_it_is_free() {
    let out = snat(
        &tuple(proto::TCP, 5000),
        &NatRange::address(OUTSIDE),
        &mut Fake::new(|_| false),
    );
    assert_eq!(({ out.src }, { out.src_id }), (OUTSIDE, 5000));
}

/// All identifiers a taken one may change to.
fn class(protocol: u8, id: u16) -> (u16, u16) {
    let (mut low, mut high) = (u16::MAX, 0);
    for random in (0..=u16::MAX)
        .step_by(7)
        .chain([509, 510, 423, 64511, 65535])
    {
        let mut space = Fake::new(move |t: &Tuple| { t.src_id } == id);
        space.randoms.push(random);
        let out = snat(
            &tuple(protocol, id),
            &NatRange::address(OUTSIDE),
            &mut space,
        );
        assert_ne!({ out.src_id }, id);
        low = low.min(out.src_id);
        high = high.max(out.src_id);
    }
    (low, high)
}

// Linux 6.18: 1-511, 600-1023 (not 512), 1024-65535; ICMP ids all.
#[test]
fn a_taken_port_changes_within_its_class() {
    assert_eq!(class(proto::TCP, 100), (1, 511));
    assert_eq!(class(proto::UDP, 511), (1, 510));
    assert_eq!(class(proto::TCP, 512), (600, 1023));
    assert_eq!(class(proto::TCP, 1022), (600, 1023));
    assert_eq!(class(proto::SCTP, 1025), (1024, 65535));
    assert_eq!(class(proto::ICMP, 9), (0, 65535));
}

#[test]
fn protocols_without_identifiers_keep_the_clash() {
    for protocol in [proto::ESP, proto::GRE] {
        let mut space = Fake::new(|_| true);
        let out = snat(&tuple(protocol, 0), &NatRange::address(OUTSIDE), &mut space);
        assert_eq!(({ out.src }, { out.src_id }), (OUTSIDE, 0));
        assert_eq!(space.asked.len(), 1);
    }
}

#[test]
fn gre_keys_change_for_announced_connections() {
    let mut space = Fake::new(|t: &Tuple| { t.src_id } == 7);
    let wish = Wish {
        tuple: &tuple(proto::GRE, 7),
        range: &NatRange::address(OUTSIDE),
        manip: Manip::Src,
        zone: 0,
        has_master: true,
    };
    assert_eq!({ choose(&wish, &mut space).src_id }, 1);
}

#[test]
fn an_explicit_range_keeps_a_port_inside_and_searches_otherwise() {
    let range = NatRange {
        ports: Some((2000, 2003)),
        ..NatRange::address(OUTSIDE)
    };
    let port = |id, space: &mut Fake| snat(&tuple(proto::TCP, id), &range, space).src_id;
    assert_eq!(port(2002, &mut Fake::new(|_| false)), 2002);
    let mut space = Fake::new(|_| false);
    space.randoms.push(6);
    assert_eq!(port(9, &mut space), 2002);
    let reversed = NatRange {
        ports: Some((2003, 2000)),
        ..range
    };
    let out = snat(&tuple(proto::TCP, 9), &reversed, &mut Fake::new(|_| false));
    assert_eq!({ out.src_id }, 2000);
}

#[test]
fn a_small_range_is_scanned_once_and_then_given_up() {
    let range = NatRange {
        ports: Some((2000, 2039)),
        ..NatRange::address(OUTSIDE)
    };
    let mut space = Fake::new(|_| true);
    space.randoms.push(38);
    snat(&tuple(proto::TCP, 9), &range, &mut space);
    assert_eq!(
        space.asked,
        (2038..2040).chain(2000..2006).collect::<Vec<_>>()
    );
    assert_eq!(space.live, (2006..2038).collect::<Vec<_>>());
}

// Linux 6.18: 128, then random starts with 64, 32, 16 and 8 candidates, 248 in all; the last
// 32 of a round may evict.
#[test]
fn a_large_space_is_given_up_after_248_candidates() {
    let mut space = Fake::new(|_| true);
    space.randoms = Vec::from([500, 400, 300, 200, 100]);
    let id = tuple(proto::TCP, 5000);
    snat(&id, &NatRange::address(OUTSIDE), &mut space);
    let run = |start: u16, n: u16| (1024 + start)..(1024 + start + n);
    let early: Vec<u16> = [5000]
        .into_iter()
        .chain(run(100, 96))
        .chain(run(200, 32))
        .collect();
    assert_eq!(space.asked, early);
    let late = run(196, 32).chain(run(232, 32)).chain(run(300, 32));
    let late: Vec<u16> = late.chain(run(400, 16)).chain(run(500, 8)).collect();
    assert_eq!(space.live, late);
}

#[test]
fn random_never_keeps_the_port_nor_the_old_mapping() {
    let range = NatRange {
        random: true,
        ..NatRange::address(OUTSIDE)
    };
    let mut space = Fake::new(|_| false);
    space.randoms.push(10);
    space.mapped = Some(tuple(proto::TCP, 4000));
    assert_eq!(
        { snat(&tuple(proto::TCP, 5000), &range, &mut space).src_id },
        1034
    );
}

#[test]
fn a_source_keeps_its_mapping_while_it_is_free_and_in_range() {
    let mapping = Tuple {
        src: OUTSIDE,
        ..tuple(proto::TCP, 4000)
    };
    let id = |space: &mut Fake| {
        snat(&tuple(proto::TCP, 5000), &NatRange::address(OUTSIDE), space).src_id
    };
    let mut space = Fake::new(|_| false);
    space.mapped = Some(mapping);
    assert_eq!(id(&mut space), 4000);
    space.mapped = Some(tuple(proto::TCP, 4000));
    assert_eq!(id(&mut space), 5000);
    let mut space = Fake::new(|t| { t.src_id } == 4000);
    space.mapped = Some(mapping);
    assert_eq!(id(&mut space), 5000);
}

#[test]
fn a_destination_port_changes_only_when_asked() {
    let mut space = Fake::new(|_| true);
    let id = tuple(proto::TCP, 5000);
    let dnat = |range: &NatRange, space: &mut Fake| pick(&id, range, Manip::Dst, space);
    let out = dnat(&NatRange::address(INSIDE), &mut space);
    assert_eq!(({ out.dst }, { out.dst_id }), (INSIDE, 80));
    let one = NatRange {
        ports: Some((80, 80)),
        ..NatRange::address(INSIDE)
    };
    assert_eq!({ dnat(&one, &mut space).dst_id }, 80);
    let shifted = NatRange {
        ports: Some((5000, 5010)),
        base_port: Some(70),
        ..one
    };
    let mut space = Fake::new(|_| false);
    assert_eq!({ pick(&id, &shifted, Manip::Dst, &mut space).dst_id }, 5010);
    let random = NatRange {
        ports: Some((5000, 5009)),
        random: true,
        ..one
    };
    space.randoms.push(23);
    assert_eq!({ pick(&id, &random, Manip::Dst, &mut space).dst_id }, 5003);
}

#[test]
fn addresses_stay_inside_the_range() {
    for (first, last) in [(0u32, u32::MAX), (0xffff_fff0, u32::MAX), (5, 6)] {
        let range = NatRange {
            addresses: Some((first.into(), last.into())),
            ..NatRange::default()
        };
        for src in 0..500u128 {
            let from = Tuple {
                src,
                ..tuple(proto::TCP, 5000)
            };
            let out = pick(&from, &range, Manip::Dst, &mut Fake::new(|_| false));
            assert!(u128::from(first) <= out.dst && out.dst <= u128::from(last));
        }
    }
}
