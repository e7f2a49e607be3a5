//! What answers say against what the engine does with random connections.
//!
//! `TIDEGATE_QUERY_CASES` is the number of rulesets, `TIDEGATE_QUERY_FIRST` the first of them,
//! `TIDEGATE_QUERY_PACKETS` the number of connections for each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::ControlFlow;

use tidegate_analysis::{Facts, Fate, Point, Set};

use super::tree::{Named, files, read};
use super::world::{Random, World, cases, count};
use super::*;
use crate::course::{Place, Runner, ends_of, steps};
use crate::packets::Described;

/// The packet as conditions see it when it comes in, and leaves by `output` if it leaves.
pub(super) fn facts(packet: &Described, host: &Host, output: &str) -> Facts {
    let family = packet.family();
    let (_, src) = tidegate_host::number(packet.src);
    let (_, dst) = tidegate_host::number(packet.dst);
    let l4: u128 = if packet.proto == proto::TCP { 24 } else { 8 };
    let header = if family == Family::V4 { 20 } else { 40 };
    let kind = |a| host.env.address_type(family, a, None) as u128;
    let name = packet.input.as_deref().unwrap_or_default();
    let values = [
        (Field::Src, src),
        (Field::Dst, dst),
        (Field::Proto, packet.proto.into()),
        (Field::Sport, packet.sport.into()),
        (Field::Dport, packet.dport.into()),
        (Field::InName, interface_number(name)),
        (Field::OutName, interface_number(output)),
        (Field::FragOff, 0),
        (Field::L4Len, l4),
        (Field::Length, header + l4),
        (Field::Tos, 0),
        (Field::Ttl, 64),
        (Field::Mark, 0),
        (Field::TcpFlags, 2),
        (Field::SrcType, kind(src)),
        (Field::DstType, kind(dst)),
        (Field::HasCt, 0),
        (Field::CtState, 0),
    ];
    let mut values: BTreeMap<Field, u128> = values.into_iter().collect();
    if packet.proto != proto::TCP {
        values.remove(&Field::TcpFlags);
    }
    Facts {
        values,
        steps: true,
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    /// All its packets get through, the first of them to this host or not.
    Through { here: bool },
    /// Some do not.
    Stopped,
    /// The server that its first packet comes to is the client itself: its packets and their
    /// answers are the same, and nobody can tell which is which.
    Itself,
}

/// Sends a whole connection.
pub(super) fn sent(runner: &mut Runner, packet: &Described) -> Got {
    runner.forget();
    let (mut here, mut left, mut itself) = (None, steps(packet).len(), false);
    let watch = |_: &Runner, _: &Described| ();
    runner.drive([packet], true, watch, |runner, step, passed, ()| {
        let reply = step.step.is_some_and(|s| s.reply);
        let back = runner.arrival(&passed).is_none_or(|a| a.0 != Place::Here);
        // An answer to an address of this host's own stays here.
        left -= usize::from(passed.arrived() && (back || !reply));
        if here.is_none() && !reply {
            let arrival = runner.arrival(&passed);
            here = arrival.map(|a| a.0 == Place::Here);
            let server = arrival.and_then(|a| ends_of(a.1));
            itself = server.is_some_and(|s| (s.dst, s.dport) == (packet.src, packet.sport));
        }
        ControlFlow::Continue(())
    });
    match here {
        _ if itself => Got::Itself,
        Some(here) if left == 0 => Got::Through { here },
        _ => Got::Stopped,
    }
}

/// What is said about first packets of a protocol.
struct Said<'a> {
    asked: Asked<'a>,
    /// Those there can be.
    all: Set,
    /// Those that get through, by whether to this host.
    open: [Set; 2],
    /// Those that depend on what nobody knows.
    doubts: Set,
}

impl<'a> Said<'a> {
    fn new(rules: &'a Rules, host: Option<&'a Host>, protocol: u8) -> Self {
        let mut asked = Asked::new(rules, &rules.0[0], host, Vec::new());
        let all = asked.openers(protocol, Origin::Received).unwrap();
        let fixed = [(Field::Proto, protocol.into())];
        let found = asked.openings(Origin::Received, all, &fixed).unwrap();
        let bdd = &mut asked.space.bdd;
        let mut any = |sets: Vec<Set>| {
            let mut sets = sets.into_iter();
            sets.try_fold(Set::EMPTY, |all, set| bdd.or(all, set))
                .unwrap()
        };
        let open = [false, true].map(|here| {
            let of = |o: &&ask::Open| (o.fate == Fate::Here) == here;
            any(found.open.iter().filter(of).map(|o| o.set).collect())
        });
        let doubts = any(found.doubts.iter().map(|d| d.1).collect());
        Said {
            asked,
            all,
            open,
            doubts,
        }
    }

    /// Where the host is not known, packets may leave anywhere.
    fn points(&self, packet: &Described, host: &Host) -> Vec<Point> {
        let links = ["eth0", "eth1", "eth2"];
        let links = match self.asked.host {
            Some(_) => &links[..1],
            None => &links[..],
        };
        let point = |link: &&str| self.asked.space.point(&facts(packet, host, link));
        links.iter().map(point).collect()
    }

    fn any(&self, set: Set, points: &[Point]) -> bool {
        points.iter().any(|p| self.asked.space.contains(set, p))
    }
}

/// Whether answers leave where the packet came in, as is assumed of hosts that nobody describes.
fn answered_alike(host: &Host, packet: &Described) -> bool {
    let (family, src) = tidegate_host::number(packet.src);
    let back = host.env.route(family, src, 0, 0).and_then(|r| r.dev);
    let link = back.and_then(|dev| host.env.interface(dev));
    link.is_some_and(|link| packet.input.as_ref() == Some(&link.name))
}

/// Whether an address is one host's, and not a host's own name for itself.
fn is_host(addr: IpAddr) -> bool {
    let group = addr == IpAddr::from([255; 4]) || addr.is_multicast();
    !group && !addr.is_loopback() && !addr.is_unspecified()
}

/// How many connections there were of each kind.
#[derive(Debug, Default)]
pub(super) struct Tally {
    through: u64,
    refused: u64,
    /// Stopped by routing or by addresses drawn.
    loose: u64,
    /// Stopped by what nobody knows.
    doubtful: u64,
}

impl Tally {
    /// Whatever connection gets through was said to be open, and where nothing is in doubt, what was
    /// said to be open gets through. `known` is the host if answers are about it.
    pub(super) fn compare(
        &mut self,
        (name, text): (&str, &str),
        rules: &Rules,
        (host, known): (&Host, Option<&Host>),
        mut packet: impl FnMut(u8) -> Described,
    ) {
        let unsure = ["NETMAP", "192.168.1.21", "2001:db8:b::15"];
        let unsure = unsure.iter().any(|w| text.contains(w));
        let mut runner = Runner::new(host, rules);
        for protocol in [proto::TCP, proto::UDP] {
            let said = Said::new(rules, known, protocol);
            for _ in 0..count("TIDEGATE_QUERY_PACKETS", 80) / 2 {
                let packet = packet(protocol);
                let mut links = host.env.interfaces().iter().filter(|i| !i.loopback);
                let link = links.any(|i| packet.input.as_ref() == Some(&i.name));
                let hosts = [packet.src, packet.dst].into_iter().all(is_host);
                if !link || !hosts || (packet.src, packet.sport) == (packet.dst, packet.dport) {
                    // Nobody sends it from outside, or its answer is itself.
                    continue;
                }
                if known.is_none() && !answered_alike(host, &packet) {
                    continue;
                }
                let points = said.points(&packet, host);
                let got = sent(&mut runner, &packet);
                let name = || format!("{name}: {packet:?} {got:?}\n{text}");
                if !said.any(said.all, &points) {
                    // What cannot come from there.
                    let through = matches!(got, Got::Through { .. });
                    assert!(!through || known.is_none(), "{}", name());
                    continue;
                }
                let open = said.open.map(|set| said.any(set, &points));
                match got {
                    Got::Through { here } => {
                        self.through += 1;
                        assert!(open[usize::from(here)], "{}", name());
                    }
                    Got::Stopped if open == [false; 2] => self.refused += 1,
                    Got::Stopped => {
                        let unknown = said.any(said.doubts, &points);
                        self.doubtful += u64::from(unknown);
                        self.loose += u64::from(!unknown);
                        assert!(unknown || unsure || known.is_none(), "{}", name());
                    }
                    Got::Itself => {}
                }
            }
        }
    }
}

/// Random rulesets, with the host known or not.
#[test]
fn answers_are_what_the_engine_does() {
    let mut tally = Tally::default();
    let range = cases("TIDEGATE_QUERY", 60);
    for case in range.clone() {
        let world = World::of(case);
        let host = &world.host;
        let mut r = Random(case * 2 + 1);
        r.below(7);
        let text = world.ruleset(&mut r);
        let rules = Rules(vec![world.load(&text)]);
        let known = (case % 8 < 6).then_some(host);
        let name = format!("case {case}");
        tally.compare((&name, &text), &rules, (host, known), |protocol| {
            world.connection(&mut r, protocol)
        });
    }
    eprintln!("rulesets {range:?}: {tally:?}");
    assert!(tally.through > 300 && tally.refused > 300, "{tally:?}");
    let unclear = tally.loose + tally.doubtful;
    assert!(unclear * 10 < tally.through + tally.refused, "{tally:?}");
}

/// The files of rules in the tree.
#[test]
fn answers_about_the_files_in_the_tree_are_what_the_engine_does() {
    let (mut tally, mut tried) = (Tally::default(), 0);
    for (seed, path) in (1u64..).zip(&files()) {
        let mut r = Random(seed * 2 + 1);
        let Some((text, rules, host)) = read(path, &mut r) else {
            continue;
        };
        tried += 1;
        let (name, named) = (path.display().to_string(), Named::by(&text));
        tally.compare((&name, &text), &rules, (&host, Some(&host)), |protocol| {
            Described {
                proto: protocol,
                ..named.packet(&mut r)
            }
        });
    }
    eprintln!("{tried} files: {tally:?}");
    assert!(
        tried > 30 && tally.through > 200 && tally.refused > 200,
        "{tally:?}"
    );
}

/// A client that is translated to itself, port and all, opens no connection: what it sends and what
/// it gets are the same addresses, and tracking takes one for the other. Every other client gets
/// through.
#[test]
fn a_client_that_is_translated_to_itself_is_no_connection() {
    let world = World::of(0);
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
        -A PREROUTING -d 203.0.113.5/32 -p tcp -j DNAT --to-destination 192.168.1.20\n\
        -A POSTROUTING -p tcp -j SNAT --to-source 203.0.113.5\nCOMMIT\n\
        *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";
    let rules = Rules(vec![world.load(text)]);
    let mut runner = Runner::new(&world.host, &rules);
    let ip = |a: [u8; 4]| IpAddr::from(a);
    let client = |sport| {
        let mut packet = Described::new(proto::TCP, ip([192, 168, 1, 20]), ip([203, 0, 113, 5]));
        (packet.sport, packet.dport) = (sport, 443);
        packet.input = Some("eth1".to_owned());
        packet
    };
    assert_eq!(sent(&mut runner, &client(443)), Got::Itself);
    let others = Got::Through { here: false };
    assert_eq!(sent(&mut runner, &client(40_000)), others);
    let said = Said::new(&rules, Some(&world.host), proto::TCP);
    let points = said.points(&client(40_000), &world.host);
    assert!(said.any(said.open[0], &points) && !said.any(said.open[1], &points));
}

/// A translation to the address that a packet is sent to anyway makes no translated connection of it
/// (`nf_nat_setup_info` compares): a rule against translated ones lets it pass.
#[test]
fn a_translation_that_changes_nothing_is_none() {
    let world = World::of(0);
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n\
        -A PREROUTING -p tcp -m tcp --dport 443 -j DNAT --to-destination 192.168.1.20\nCOMMIT\n\
        *filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        -A FORWARD -m conntrack --ctstate DNAT -j DROP\nCOMMIT\n";
    let rules = Rules(vec![world.load(text)]);
    let mut runner = Runner::new(&world.host, &rules);
    let said = Said::new(&rules, Some(&world.host), proto::TCP);
    let through = Got::Through { here: false };
    for (to, got) in [
        ([192, 168, 1, 20], through),
        ([203, 0, 113, 9], Got::Stopped),
    ] {
        let [from, to] = [[10, 1, 2, 3], to].map(IpAddr::from);
        let mut packet = Described::new(proto::TCP, from, to);
        (packet.sport, packet.dport) = (40_000, 443);
        packet.input = Some("eth2".to_owned());
        assert_eq!(sent(&mut runner, &packet), got);
        let points = said.points(&packet, &world.host);
        assert_eq!(said.any(said.open[0], &points), got != Got::Stopped);
    }
}
