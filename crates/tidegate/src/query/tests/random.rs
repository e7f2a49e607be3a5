//! What answers say against what the engine does with random connections.
//!
//! `TIDEGATE_QUERY_CASES` is the number of rulesets, `TIDEGATE_QUERY_PACKETS` that of
//! connections for each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;

use tidegate_analysis::{Facts, Fate, Set};
use tidegate_host::address;

use super::*;
use crate::course::{Place, Runner, steps};
use crate::packets::Described;

/// xorshift64*: the same numbers on every machine.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8) % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

pub(crate) const HOST: &str = "[host]\nforward = true\n\
    [[interface]]\nname = \"eth0\"\naddresses = [\"203.0.113.5/24\"]\n\
    [[interface]]\nname = \"eth1\"\naddresses = [\"192.168.1.1/24\"]\n\
    [[interface]]\nname = \"eth2\"\naddresses = [\"10.0.0.1/8\"]\n\
    [[route]]\nto = \"0.0.0.0/0\"\nvia = \"203.0.113.1\"\ndev = \"eth0\"\n";

pub(crate) const NETWORKS: [&str; 8] = [
    "10.0.0.0/8",
    "10.1.2.3/32",
    "192.168.1.0/24",
    "192.168.1.20/32",
    "203.0.113.5/32",
    "198.51.100.0/24",
    "198.51.100.7/32",
    "203.0.113.0/24",
];
const ADDRESSES: [u32; 9] = [
    0x0a01_0203,
    0x0a00_0009,
    0xc0a8_0114,
    0xc0a8_0115,
    0xc0a8_0101,
    0xcb00_7105,
    0xcb00_7109,
    0xc633_6407,
    0xc633_6408,
];
pub(crate) const PORTS: [u16; 6] = [22, 53, 80, 443, 8080, 40_000];

fn conditions(r: &mut Random, chain: &str) -> String {
    let mut text = String::new();
    let not = |r: &mut Random| if r.one_in(6) { "! " } else { "" };
    if r.one_in(3) {
        let _ = write!(text, " {}-s {}", not(r), r.of(&NETWORKS));
    }
    if r.one_in(3) {
        let _ = write!(text, " {}-d {}", not(r), r.of(&NETWORKS));
    }
    if matches!(chain, "INPUT" | "FORWARD" | "PREROUTING") && r.one_in(4) {
        let _ = write!(
            text,
            " {}-i {}",
            not(r),
            r.of(&["eth0", "eth1", "eth2", "eth+"])
        );
    }
    if matches!(chain, "OUTPUT" | "FORWARD" | "POSTROUTING") && r.one_in(4) {
        let _ = write!(text, " {}-o {}", not(r), r.of(&["eth0", "eth1", "eth2"]));
    }
    if r.one_in(2) {
        let proto = r.of(&["tcp", "tcp", "udp"]);
        let _ = write!(text, " -p {proto}");
        if r.one_in(2) {
            let side = r.of(&["d", "d", "s"]);
            let _ = write!(text, " -m {proto} {}--{side}port {}", not(r), r.of(&PORTS));
        }
        if proto == "tcp" && r.one_in(8) {
            text += " --tcp-flags SYN,ACK SYN";
        }
    }
    match r.below(16) {
        0 => text += " -m conntrack --ctstate NEW",
        1 | 2 => text += " -m conntrack --ctstate RELATED,ESTABLISHED",
        3 => text += " -m mark --mark 0x1/0x3",
        4 => text += " -m connmark --mark 0x1",
        5 => text += " -m addrtype --dst-type LOCAL",
        6 => text += " -m conntrack --ctstate DNAT",
        7 => text += " -m conntrack --ctorigdstport 8080",
        8 => text += " -m conntrack --ctdir ORIGINAL",
        9 if r.one_in(4) => text += " -m length --length 0:60",
        10 => text += " -m conntrack --ctorigdst 203.0.113.5",
        _ => {}
    }
    text
}

fn chain(r: &mut Random, out: &mut String, name: &str, targets: &[&str], most: u64) {
    for _ in 0..r.below(most) {
        let conditions = conditions(r, name);
        let target = r.of(targets);
        let ports = conditions.contains("port");
        let target = target.replace(
            ":80",
            if ports && conditions.contains("-p") {
                ":80"
            } else {
                ""
            },
        );
        let _ = writeln!(out, "-A {name}{conditions} -j {target}");
    }
}

pub(crate) fn ruleset(r: &mut Random) -> String {
    let mut text = String::new();
    if r.one_in(6) {
        text += "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
        chain(r, &mut text, "PREROUTING", &["NOTRACK", "DROP"], 3);
        chain(r, &mut text, "OUTPUT", &["NOTRACK"], 3);
        text += "COMMIT\n";
    }
    if r.one_in(2) {
        let marks = [
            "MARK --set-xmark 0x1/0x3",
            "MARK --set-xmark 0x2/0xffffffff",
            "CONNMARK --save-mark",
            "CONNMARK --restore-mark",
            "CONNMARK --set-xmark 0x1/0xffffffff",
            "DROP",
        ];
        text +=
            "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";
        chain(r, &mut text, "PREROUTING", &marks, 5);
        chain(r, &mut text, "FORWARD", &marks, 3);
        chain(r, &mut text, "POSTROUTING", &marks[..5], 2);
        text += "COMMIT\n";
    }
    if r.one_in(2) {
        text += "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n";
        let to = [
            "DNAT --to-destination 192.168.1.20",
            "DNAT --to-destination 10.1.2.3:80",
            "DNAT --to-destination 192.168.1.20-192.168.1.21",
            "REDIRECT",
            "NETMAP --to 10.7.0.0/24",
            "ACCEPT",
        ];
        chain(r, &mut text, "PREROUTING", &to, 4);
        let from = ["MASQUERADE", "SNAT --to-source 203.0.113.5", "ACCEPT"];
        chain(r, &mut text, "POSTROUTING", &from, 3);
        text += "COMMIT\n";
    }
    let policy = |r: &mut Random| if r.one_in(2) { "DROP" } else { "ACCEPT" };
    let _ = write!(
        text,
        "*filter\n:INPUT {} [0:0]\n:FORWARD {} [0:0]\n:OUTPUT {} [0:0]\n:own - [0:0]\n:more - [0:0]\n",
        policy(r),
        policy(r),
        policy(r)
    );
    let base = ["ACCEPT", "ACCEPT", "DROP", "REJECT", "own", "more"];
    for name in ["INPUT", "FORWARD", "OUTPUT"] {
        if r.one_in(2) {
            let _ = writeln!(
                text,
                "-A {name} -m conntrack --ctstate ESTABLISHED -j ACCEPT"
            );
        }
        chain(r, &mut text, name, &base, 8);
    }
    chain(
        r,
        &mut text,
        "own",
        &["ACCEPT", "DROP", "RETURN", "more"],
        5,
    );
    chain(r, &mut text, "more", &["ACCEPT", "DROP", "RETURN"], 5);
    text += "COMMIT\n";
    text
}

pub(crate) fn connection(r: &mut Random, protocol: u8) -> Described {
    let host = |a: u32| address(Family::V4, a.into());
    let (src, dst) = (r.of(&ADDRESSES), r.of(&ADDRESSES));
    let mut packet = Described::new(protocol, host(src), host(dst));
    packet.sport = r.of(&PORTS);
    packet.dport = r.of(&PORTS);
    packet.input = Some(r.of(&["eth0", "eth1", "eth2"]).to_owned());
    packet
}

/// The packet as conditions see it when it comes in.
pub(super) fn facts(packet: &Described, host: &Host) -> Facts {
    let (_, src) = tidegate_host::number(packet.src);
    let (_, dst) = tidegate_host::number(packet.dst);
    let l4: u128 = if packet.proto == proto::TCP { 24 } else { 8 };
    let kind = |a| host.env.address_type(Family::V4, a, None) as u128;
    let name = packet.input.as_deref().unwrap_or_default();
    let values = [
        (Field::Src, src),
        (Field::Dst, dst),
        (Field::Proto, packet.proto.into()),
        (Field::Sport, packet.sport.into()),
        (Field::Dport, packet.dport.into()),
        (Field::InName, interface_number(name)),
        // Where it leaves is found on the way.
        (Field::OutName, interface_number("eth0")),
        (Field::FragOff, 0),
        (Field::L4Len, l4),
        (Field::Length, 20 + l4),
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

/// Whether the whole connection gets through, and whether to this host.
fn gets_through(rules: &Rules, host: &Host, packet: &Described) -> Option<bool> {
    let mut runner = Runner::new(host, rules);
    let (mut here, mut left) = (None, steps(packet).len());
    let watch = |_: &Runner, _: &Described| ();
    runner.drive([packet], true, watch, |runner, sent, passed, ()| {
        if passed.arrived() {
            left -= 1;
        }
        if sent.step.is_some_and(|s| !s.reply) {
            here = runner.arrival(&passed).map(|a| a.0 == Place::Here);
        }
        ControlFlow::Continue(())
    });
    here.filter(|_| left == 0)
}

pub(crate) fn count(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Whatever connection gets through was said to be open; and where nothing is in doubt,
/// what was said to be open gets through.
#[test]
fn answers_are_what_the_engine_does() {
    let host = Host::parse(HOST).unwrap();
    let (mut through, mut refused, mut loose) = (0, 0, 0);
    for case in 0..count("TIDEGATE_QUERY_CASES", 60) {
        let mut r = Random(case * 2 + 1);
        r.below(7);
        let text = ruleset(&mut r);
        let rules = rules(&text);
        for protocol in [proto::TCP, proto::UDP] {
            let mut asked = Asked::new(&rules, &rules.0[0], Some(&host), Vec::new());
            let all = asked.openers(protocol, Origin::Received).unwrap();
            let found = asked
                .openings(Origin::Received, all, &[(Field::Proto, protocol.into())])
                .unwrap();
            for _ in 0..count("TIDEGATE_QUERY_PACKETS", 40) {
                let packet = connection(&mut r, protocol);
                if (packet.src, packet.sport) == (packet.dst, packet.dport) {
                    // Its answer is itself.
                    continue;
                }
                let facts = facts(&packet, &host);
                let got = gets_through(&rules, &host, &packet);
                let inside = |set: Set| asked.space.contains(set, &facts);
                if !inside(all) {
                    // What cannot come from there.
                    assert_eq!(got, None, "case {case}: {packet:?}\n{text}");
                    continue;
                }
                let said = |here: bool| {
                    let mut open = found.open.iter();
                    open.any(|o| (o.fate == Fate::Here) == here && inside(o.set))
                };
                if let Some(here) = got {
                    through += 1;
                    assert!(said(here), "case {case}: {packet:?} gets through\n{text}");
                } else if said(true) || said(false) {
                    let doubtful = found.doubts.iter().any(|d| inside(d.1));
                    let unsure = text.contains("NETMAP") || text.contains("-21");
                    loose += 1;
                    assert!(
                        doubtful || unsure,
                        "case {case}: {packet:?} does not get through\n{text}"
                    );
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(
        through > 300 && refused > 300,
        "{through} {refused} {loose}"
    );
    assert!(
        loose * 20 < through + refused,
        "{through} {refused} {loose}"
    );
}
