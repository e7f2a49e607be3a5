//! What NAT decides and remembers, step by step.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tidegate_conntrack::config::Config;
use tidegate_conntrack::{
    Attached, Conntrack, CtInfo, Dir, DropReason, EntryId, InHook, Manip, NatHook, NatRange,
    SECOND, Status, Tracked,
};
use tidegate_wire::{Family, checksum, parse, proto};

const NOW: u64 = 1_000_000 * SECOND;
/// Index of the outside interface.
const OUT: u32 = 2;
const PUBLIC: u32 = 0xcb00_7164;

/// An address and port.
type End = (u32, u16);

const CLIENT: End = (0x0a00_0002, 5000);
const OTHER: End = (0x0a00_0003, 5000);
const SERVER: End = (0xc633_6407, 53);
const SERVER2: End = (0xc633_6408, 53);

fn udp(from: End, to: End) -> Vec<u8> {
    let mut pkt = vec![0x45, 0, 0, 29, 0, 1, 0, 0, 64, proto::UDP, 0, 0];
    pkt.extend([from.0, to.0].map(u32::to_be_bytes).concat());
    checksum::fix_ipv4(&mut pkt);
    pkt.extend([from.1, to.1, 9, 0].map(u16::to_be_bytes).concat());
    pkt.push(b'q');
    let (src, dst) = (u128::from(from.0), u128::from(to.0));
    let pseudo = checksum::pseudo(Family::V4, src, dst, proto::UDP, 9);
    let check = checksum::finish(pseudo, &pkt[20..]);
    pkt[26..28].copy_from_slice(&check.to_be_bytes());
    pkt
}

struct Gate {
    ct: Conntrack,
    snat: Option<NatRange>,
    /// Interface of masqueraded connections, 0 when the range is plain SNAT.
    masq: u32,
}

impl Gate {
    fn new(snat: Option<NatRange>) -> Gate {
        Gate {
            ct: Conntrack::new(Config {
                buckets: 64,
                acct: true,
                ..Config::default()
            }),
            snat,
            masq: 0,
        }
    }

    fn masquerade() -> Gate {
        Gate {
            masq: 2,
            ..Gate::new(Some(NatRange::address(PUBLIC.into())))
        }
    }

    /// Sends a packet through; `Ok` has the connection and the source it left with.
    fn send_by(&mut self, out: u32, from: End, to: End) -> Result<(EntryId, End), DropReason> {
        let mut pkt = udp(from, to);
        let layout = parse(&pkt).unwrap();
        let at = self.enter(&pkt);
        for hook in [NatHook::Prerouting, NatHook::Postrouting] {
            if self.ct.nat_rules_needed(&at, hook.manip()) {
                match self.snat.filter(|_| hook.manip() == Manip::Src) {
                    Some(range) => {
                        self.ct.set_masquerade(at.id, self.masq);
                        self.ct.nat_setup(at.id, Manip::Src, &range)?;
                    }
                    None => self.ct.nat_null_binding(at.id, hook.manip())?,
                }
            }
            if hook == NatHook::Postrouting {
                self.ct.check_masquerade(&at, out)?;
            }
            self.ct.nat_translate(&at, hook, &mut pkt, &layout)?;
        }
        let mut at = at;
        self.ct.confirm(NOW, &mut at)?;
        let addr = u32::from_be_bytes([pkt[12], pkt[13], pkt[14], pkt[15]]);
        Ok((at.id, (addr, u16::from_be_bytes([pkt[20], pkt[21]]))))
    }

    fn send(&mut self, from: End, to: End) -> (EntryId, End) {
        self.send_by(OUT, from, to).unwrap()
    }

    fn enter(&mut self, pkt: &[u8]) -> Attached {
        let layout = parse(pkt).unwrap();
        let hook = InHook::Prerouting;
        let tracked = self.ct.handle_packet(NOW, pkt, &layout, hook, None);
        let Tracked::Ct(at) = tracked else {
            panic!("{tracked:?}");
        };
        at
    }

    fn status(&self, id: EntryId) -> Status {
        self.ct.entry(id).unwrap().status
    }
}

fn to_public() -> NatRange {
    NatRange::address(PUBLIC.into())
}

#[test]
fn only_the_reply_tuple_changes() {
    let mut gate = Gate::new(Some(to_public()));
    let (id, source) = gate.send(CLIENT, SERVER);
    assert_eq!(source, (PUBLIC, 5000));
    let entry = gate.ct.entry(id).unwrap();
    assert_eq!({ entry.tuple(Dir::Original).src }, CLIENT.0.into());
    assert_eq!({ entry.tuple(Dir::Reply).dst }, PUBLIC.into());
    assert!(entry.status.has(Status::SRC_NAT) && !entry.status.has(Status::DST_NAT));
    let done = entry.status.0 & Status::NAT_DONE_MASK;
    assert_eq!(done, Status::NAT_DONE_MASK);
}

#[test]
fn an_identical_translation_is_no_translation() {
    let mut gate = Gate::new(Some(NatRange::address(CLIENT.0.into())));
    let (id, _) = gate.send(CLIENT, SERVER);
    assert!(!gate.status(id).has(Status::NAT_MASK));
}

#[test]
fn each_end_is_decided_once() {
    let mut gate = Gate::new(None);
    let pkt = udp(CLIENT, SERVER);
    let at = gate.enter(&pkt);
    let needed = |gate: &Gate, at: &Attached| {
        [Manip::Src, Manip::Dst].map(|m| gate.ct.nat_rules_needed(at, m))
    };
    assert_eq!(needed(&gate, &at), [true, true]);
    gate.ct.nat_null_binding(at.id, Manip::Dst).unwrap();
    assert_eq!(needed(&gate, &at), [true, false]);
    gate.ct
        .nat_setup(at.id, Manip::Dst, &NatRange::address(7))
        .unwrap();
    assert!(!gate.status(at.id).has(Status::NAT_MASK));
    gate.ct.release(at.id);
    let (id, _) = gate.send(CLIENT, SERVER);
    let again = gate.enter(&pkt);
    assert_eq!((again.id, again.info), (id, CtInfo::New));
    assert_eq!(needed(&gate, &again), [false, false]);
    let established = Attached {
        info: CtInfo::EstablishedReply,
        dir: Dir::Reply,
        ..again
    };
    assert_eq!(needed(&gate, &established), [false, false]);
}

/// Rules that come later do not touch a connection that is in the table.
#[test]
fn a_confirmed_connection_is_not_translated_any_more() {
    let mut gate = Gate::new(None);
    let pkt = udp(CLIENT, SERVER);
    let mut at = gate.enter(&pkt);
    gate.ct.confirm(NOW, &mut at).unwrap();
    let at = gate.enter(&pkt);
    assert!(gate.ct.nat_rules_needed(&at, Manip::Src));
    gate.ct.nat_setup(at.id, Manip::Src, &to_public()).unwrap();
    assert!(
        !gate
            .status(at.id)
            .has(Status::NAT_MASK | Status::NAT_DONE_MASK)
    );
}

#[test]
fn an_untranslated_connection_gives_way_to_a_translated_one() {
    let mut gate = Gate::new(Some(to_public()));
    gate.send(CLIENT, SERVER);
    gate.snat = None;
    let (id, source) = gate.send((PUBLIC, 5000), SERVER);
    assert_eq!(source.0, PUBLIC);
    assert!(source.1 >= 1024 && source.1 != 5000);
    assert!(gate.status(id).has(Status::SRC_NAT));
}

/// A source keeps its outside port for other destinations (kernel: `bysource`).
#[test]
fn one_source_keeps_its_outside_port() {
    let mut gate = Gate::new(Some(to_public()));
    gate.send(OTHER, SERVER);
    let (_, first) = gate.send(CLIENT, SERVER);
    assert_ne!(first.1, 5000);
    let (_, second) = gate.send(CLIENT, SERVER2);
    assert_eq!(second, first);
    gate.ct.flush();
    assert_eq!(gate.send(CLIENT, SERVER2).1, (PUBLIC, 5000));
}

/// Connections of one source leave its mapping in any order; the last takes it along.
#[test]
fn mappings_of_removed_connections_are_forgotten() {
    let mut gate = Gate::new(Some(to_public()));
    gate.send(OTHER, SERVER);
    let server = |i: u32| (SERVER.0 + i, 53);
    let ids: Vec<EntryId> = (0..4).map(|i| gate.send(CLIENT, server(i)).0).collect();
    let mapped = gate.send(CLIENT, server(4));
    gate.ct.delete(mapped.0);
    for i in [1, 3, 0, 2] {
        let (id, source) = gate.send(CLIENT, server(5));
        assert_eq!(source, mapped.1);
        gate.ct.delete(id);
        gate.ct.delete(ids[i]);
    }
    assert_eq!(gate.send(CLIENT, server(5)).1, (PUBLIC, 5000));
}

#[test]
fn an_exhausted_range_fails_at_confirmation() {
    let range = NatRange {
        ports: Some((1000, 1001)),
        ..to_public()
    };
    let mut gate = Gate::new(Some(range));
    let ports = [CLIENT, OTHER].map(|c| gate.send(c, SERVER).1.1);
    assert!(ports == [1000, 1001] || ports == [1001, 1000]);
    let third = (0x0a00_0004, 5000);
    assert_eq!(gate.send_by(OUT, third, SERVER), Err(DropReason::Clash));
    assert_eq!(gate.ct.stats().insert_failed, 1);
    assert_eq!(gate.ct.stats().nat_exhausted, 1);
    assert_eq!(gate.ct.count(), 2);
}

#[test]
fn a_masqueraded_connection_dies_when_its_route_changes() {
    let mut gate = Gate::masquerade();
    let (id, _) = gate.send(CLIENT, SERVER);
    let elsewhere = 3;
    let outcome = gate.send_by(elsewhere, CLIENT, SERVER);
    assert_eq!(outcome, Err(DropReason::Killed));
    assert!(gate.status(id).has(Status::DYING));
    gate.masq = 3;
    let (fresh, _) = gate.send_by(elsewhere, CLIENT, SERVER).unwrap();
    assert_ne!(fresh, id);
    let mut plain = Gate::new(Some(to_public()));
    let (id, _) = plain.send(CLIENT, SERVER);
    assert_eq!(
        plain.send_by(elsewhere, CLIENT, SERVER).map(|s| s.0),
        Ok(id)
    );
}

#[test]
fn replies_do_not_mind_the_interface() {
    let mut gate = Gate::masquerade();
    let (id, _) = gate.send(CLIENT, SERVER);
    let mut pkt = udp(SERVER, (PUBLIC, 5000));
    let layout = parse(&pkt).unwrap();
    let at = gate.enter(&pkt);
    gate.ct.check_masquerade(&at, 1).unwrap();
    for hook in [NatHook::Prerouting, NatHook::Postrouting] {
        gate.ct.nat_translate(&at, hook, &mut pkt, &layout).unwrap();
    }
    assert_eq!(pkt[16..20], CLIENT.0.to_be_bytes());
    assert!(!gate.status(id).has(Status::DYING));
}

#[test]
fn an_interface_going_down_removes_its_masqueraded_connections() {
    let mut gate = Gate::masquerade();
    gate.send(CLIENT, SERVER);
    gate.masq = 3;
    gate.snat = Some(NatRange::address(9));
    gate.send_by(3, OTHER, SERVER).unwrap();
    gate.masq = 0;
    gate.send(CLIENT, SERVER2);
    for (ifindex, addr, left) in [(2, Some(9), 3), (3, Some(9), 2), (2, None, 1), (4, None, 1)] {
        gate.ct.flush_masqueraded(ifindex, addr);
        assert_eq!(gate.ct.count(), left, "{ifindex} {addr:?}");
    }
}

#[test]
fn masqueraded_connections_go_piece_by_piece() {
    let mut gate = Gate::masquerade();
    for port in 1..=50 {
        gate.send((CLIENT.0, port), SERVER);
    }
    gate.ct.config_mut().at_once = 10;
    gate.ct.flush_masqueraded(2, None);
    let mut left = Vec::new();
    while gate.ct.count() > 0 {
        left.push(gate.ct.count());
        assert!(gate.ct.poll_timeout() <= Some(NOW), "it goes on at once");
        gate.ct.handle_timeout(NOW);
    }
    assert_eq!(left, [40, 30, 20, 10]);
}

#[test]
fn random_ports_spread() {
    let range = NatRange {
        random: true,
        ..to_public()
    };
    let mut gate = Gate::new(Some(range));
    let ports: std::collections::BTreeSet<u16> = (0..50u32)
        .map(|i| gate.send((CLIENT.0 + i, 5000), SERVER).1.1)
        .collect();
    assert_eq!(ports.len(), 50);
    assert!(ports.first() >= Some(&1024));
    assert!(ports.last().unwrap() - ports.first().unwrap() > 10_000);
}

#[test]
fn a_packet_cut_short_is_not_forwarded() {
    let mut gate = Gate::new(Some(to_public()));
    let mut pkt = udp(CLIENT, SERVER);
    let (at, mut layout) = (gate.enter(&pkt), parse(&pkt).unwrap());
    gate.ct.nat_setup(at.id, Manip::Src, &to_public()).unwrap();
    pkt.truncate(27);
    layout.len = 27;
    let outcome = gate
        .ct
        .nat_translate(&at, NatHook::Postrouting, &mut pkt, &layout);
    assert_eq!(outcome, Err(DropReason::Nat("transport header cut short")));
}
