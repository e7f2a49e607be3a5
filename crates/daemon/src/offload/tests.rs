use std::sync::Arc;

use tidegate_engine::conntrack::elsewhere::{Elsewhere, Seen};
use tidegate_engine::conntrack::{Entry, SECOND};
use tidegate_engine::env::{Env, IfIndex, Interface, Prefix, Settings};
use tidegate_engine::{Comes, Config, Goes, Incoming, Outgoing, TrackWhen};
use tidegate_syntax::{Sockets, lower, lower_knowing, parse_rules};
use tidegate_wire::{Family, checksum};
use tidegate_xt::NoNames;

use super::*;
use crate::connection::Ends;

/// Takes connections, and never sees a packet.
#[derive(Debug)]
struct Silent;

impl Elsewhere for Silent {
    fn look(&mut self, _: u32, _: &Entry, _: bool) -> Seen {
        Seen::default()
    }
}

fn interface(index: u32, name: &str, net: u8) -> Interface {
    Interface {
        index: IfIndex(index),
        name: name.to_owned(),
        addresses: vec![Prefix {
            family: Family::V4,
            addr: u128::from(0x0a00_0001 | u32::from(net) << 16),
            len: 24,
        }],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    }
}

/// A router between 10.0.0.0/24 and 10.1.0.0/24.
fn router(rules: &str) -> Engine {
    let interfaces = vec![interface(2, "eth0", 0), interface(3, "eth1", 1)];
    let settings = Settings {
        forward4: true,
        ..Settings::default()
    };
    let env = Env::new(interfaces, &[], &[], settings);
    let config = Config {
        track: TrackWhen::Always,
        ..Config::default()
    };
    let mut engine = Engine::new(config, Arc::new(env));
    engine.set_elsewhere(Box::new(Silent));
    let source = parse_rules(rules, Family::V4, &NoNames).unwrap();
    engine.load(Arc::new(
        lower_knowing(&source, Sockets::Groups).unwrap().ruleset,
    ));
    engine
}

/// 10.0.0.2:40000 to `server`:7, or back.
fn datagram(server: [u8; 4], back: bool) -> Vec<u8> {
    let (mut ends, mut ports) = ([[10, 0, 0, 2], server], [40_000u16, 7]);
    if back {
        ends.reverse();
        ports.reverse();
    }
    let mut bytes = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, proto::UDP, 0, 0];
    bytes.extend(ends.concat());
    checksum::fix_ipv4(&mut bytes);
    bytes.extend([ports[0], ports[1], 8, 0].map(u16::to_be_bytes).concat());
    bytes
}

const SERVER: [u8; 4] = [10, 1, 0, 2];

/// Says and answers, for as many seconds.
fn talk(engine: &mut Engine, seconds: u64) {
    for second in 1..=seconds {
        for back in [false, true] {
            let incoming = Incoming::on(IfIndex(if back { 3 } else { 2 }));
            let packet = datagram(SERVER, back);
            engine.receive((1000 + second) * SECOND, incoming, packet, &mut ());
        }
    }
}

fn place() -> Place {
    Place {
        programs: true,
        guarded: ["lo", "eth0", "eth1"].map(str::to_owned).into(),
        most: 8,
    }
}

fn asked() -> Which {
    Which::Ends(Ends {
        proto: proto::UDP,
        src: [10, 0, 0, 2].into(),
        dst: SERVER.into(),
        src_id: 40_000,
        dst_id: 7,
        zone: 0,
    })
}

fn codes(answer: &Answer) -> Vec<&'static str> {
    let code = |d: &Direction| d.reason.as_ref().map_or("-", |r| r.code);
    answer.directions.iter().map(code).collect()
}

#[test]
fn a_connection_in_the_kernel_and_one_that_can_be() {
    let mut engine = router("*filter\nCOMMIT\n");
    talk(&mut engine, 5);
    let ready = explain(&engine, asked(), &place());
    assert_eq!(codes(&ready), ["ready", "ready"]);
    let full = Place { most: 0, ..place() };
    assert_eq!(codes(&explain(&engine, asked(), &full)), ["full", "full"]);
    let id = asked().find(engine.conntrack()).unwrap();
    engine.entrust(id, 0);
    assert_eq!(
        explain(&engine, asked(), &place()).text(),
        "udp 10.0.0.2:40000 > 10.1.0.2:7\n  left to the kernel\n\
         udp 10.1.0.2:7 > 10.0.0.2:40000\n  left to the kernel\n"
    );
}

#[test]
fn who_is_not_in_the_kernel_hears_why() {
    let rule = |rule: &str| format!("*filter\n-A FORWARD {rule}\nCOMMIT\n");
    let cases = [
        (rule("-m limit --limit 1000/sec -j ACCEPT"), 5, "stateful"),
        (rule("-m length --length 28 -j ACCEPT"), 5, "field"),
        (rule("-m ttl --ttl-eq 64 -j ACCEPT"), 5, "field"),
        (rule("-j LOG"), 5, "effect"),
        ("*raw\nCOMMIT\n".to_owned(), 5, "raw"),
        (rule("-j ACCEPT"), 1, "young"),
        (rule("-j ACCEPT"), 0, ""),
    ];
    for (rules, seconds, code) in cases {
        let mut engine = router(&rules);
        talk(&mut engine, seconds);
        let answer = explain(&engine, asked(), &place());
        let wanted = if code.is_empty() {
            vec![]
        } else {
            vec![code; 2]
        };
        assert_eq!(codes(&answer), wanted, "{rules}");
        let unknown = answer.reason.map(|r| r.code);
        assert_eq!(unknown, code.is_empty().then_some("no-connection"));
    }
}

/// 10.0.0.2 asks this host's own socket.
const OWN: [u8; 4] = [10, 0, 0, 1];

/// As [`talk`], where this host answers.
fn talk_here(engine: &mut Engine, seconds: u64) {
    for second in 1..=seconds {
        let now = (1000 + second) * SECOND;
        let asks = datagram(OWN, false);
        engine.receive(now, Incoming::on(IfIndex(2)), asks, &mut ());
        let way = Outgoing {
            dev: IfIndex(2),
            mark: 0,
            segment: None,
        };
        engine.send_on(now, way, datagram(OWN, true), &mut ());
    }
}

fn asked_here() -> Which {
    let Which::Ends(ends) = asked() else {
        unreachable!()
    };
    Which::Ends(Ends {
        dst: OWN.into(),
        ..ends
    })
}

#[test]
fn own_sockets_packets_can_be_in_the_kernel() {
    let cases = [
        ("-A INPUT -j ACCEPT", ["ready", "ready"]),
        (
            "-A OUTPUT -m owner --uid-owner 0 -j ACCEPT",
            ["ready", "field"],
        ),
        // Looking for a socket is a step of its own, as tests with state are.
        ("-A INPUT -m socket -j ACCEPT", ["stateful", "ready"]),
        ("-A OUTPUT -j DROP", ["ready", "dropped"]),
    ];
    for (rule, wanted) in cases {
        let mut engine = router(&format!("*filter\n{rule}\nCOMMIT\n"));
        talk_here(&mut engine, 5);
        let answer = explain(&engine, asked_here(), &place());
        assert_eq!(codes(&answer), wanted, "{rule}");
    }
    for (chain, wanted) in [
        ("OUTPUT", ["ready", "rerouted"]),
        ("INPUT", ["mark", "ready"]),
    ] {
        let marks = format!("*mangle\n-A {chain} -j MARK --set-mark 1\nCOMMIT\n");
        let mut engine = router(&marks);
        talk_here(&mut engine, 5);
        let answer = explain(&engine, asked_here(), &place());
        assert_eq!(codes(&answer), wanted, "{chain}");
    }
}

/// What a host says to itself leaves by loopback, and comes in there: unless it bears a mark.
#[test]
fn loopback_is_left_to_the_kernel() {
    const MARKED: &str = "*mangle\n-A INPUT -j MARK --set-mark 1\nCOMMIT\n";
    for (rules, code) in [("*filter\nCOMMIT\n", "ready"), (MARKED, "mark")] {
        let mut engine = router(rules);
        let dev = engine.env().loopback();
        let way = Outgoing {
            dev,
            mark: 0,
            segment: None,
        };
        let mut last = None;
        for second in 1..=5 {
            for back in [false, true] {
                let mut packet = datagram(OWN, back);
                // From and to this host.
                packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 1]);
                checksum::fix_ipv4(&mut packet);
                engine.send_on((1000 + second) * SECOND, way, packet, &mut ());
                last = Some(engine.offer().map(|offer| (offer.comes, offer.goes)));
            }
        }
        let offered = (Comes::Sent(dev), Goes::AsSent);
        let wanted = match code {
            "mark" => Err(Withheld::Marked),
            _ => Ok(offered),
        };
        assert_eq!(last, Some(wanted));
        let Which::Ends(ends) = asked_here() else {
            unreachable!()
        };
        let which = Which::Ends(Ends {
            src: OWN.into(),
            ..ends
        });
        let answer = explain(&engine, which, &place());
        assert_eq!(codes(&answer), [code; 2]);
    }
}

#[test]
fn what_changed_since_and_who_drops_is_said() {
    let mut engine = router("*filter\nCOMMIT\n");
    talk(&mut engine, 5);
    let load = |engine: &mut Engine, rules: &str| {
        let source = parse_rules(rules, Family::V4, &NoNames).unwrap();
        engine.load(Arc::new(lower(&source).unwrap().ruleset));
    };
    load(&mut engine, "*filter\n-A FORWARD -i eth1 -j DROP\nCOMMIT\n");
    let answer = explain(&engine, asked(), &place());
    assert_eq!(codes(&answer), ["unseen", "unseen"]);
    talk(&mut engine, 6);
    let answer = explain(&engine, asked(), &place());
    assert_eq!(codes(&answer), ["ready", "dropped"]);
}

#[test]
fn the_place_counts() {
    let mut engine = router("*filter\nCOMMIT\n");
    talk(&mut engine, 5);
    let open = Place {
        guarded: vec!["eth0".to_owned()],
        ..place()
    };
    let answer = explain(&engine, asked(), &open);
    assert_eq!(codes(&answer), ["unguarded", "unguarded"]);
    let slow = Place {
        programs: false,
        ..place()
    };
    let answer = explain(&engine, asked(), &slow);
    assert_eq!(codes(&answer), ["no-programs", "no-programs"]);
}

/// Connections that programs never have are found like others, by number too.
#[test]
fn every_connection_can_be_asked_about() {
    let zone = "*raw\n-A PREROUTING -j CT --zone 7\nCOMMIT\n";
    let mut engine = router(zone);
    talk(&mut engine, 5);
    let answer = explain(&engine, asked(), &place());
    assert_eq!(answer.reason.map(|r| r.code), Some("no-connection"));
    let Which::Ends(ends) = asked() else {
        unreachable!()
    };
    let there = Which::Ends(Ends { zone: 7, ..ends });
    assert_eq!(codes(&explain(&engine, there, &place())), ["zone", "zone"]);
    let id = there.find(engine.conntrack()).unwrap();
    let numbered = explain(&engine, Which::Id(id.number()), &place());
    assert_eq!(codes(&numbered), ["zone", "zone"]);
    let mut engine = router("*filter\nCOMMIT\n");
    let mut other = datagram(SERVER, false);
    other[9] = proto::ESP;
    checksum::fix_ipv4(&mut other);
    engine.receive(1000 * SECOND, Incoming::on(IfIndex(2)), other, &mut ());
    let esp = Which::Ends(Ends {
        proto: proto::ESP,
        src_id: 0,
        dst_id: 0,
        ..ends
    });
    let answer = explain(&engine, esp, &place());
    assert_eq!(codes(&answer), ["protocol", "protocol"]);
}
