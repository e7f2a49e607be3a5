//! Rulesets of the kinds that analyses of firewalls have been published about, written anew: what is
//! wrong with them and what they open is known.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use tidegate_analysis::Fate;

use super::firewalls::dead;
use super::random::facts;
use super::world::HOST;
use super::*;
use crate::packets::Described;

/// The anomalies that textbooks tell apart: 5 is shadowed (by 3, by 4), 8 is redundant (7 is wider);
/// 3 generalises 2, 4 correlates with 2, and 10 is made redundant by what comes after it: of these a
/// packet still meets each.
#[test]
fn anomalies_of_the_textbook() {
    let text = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A FORWARD -s 198.51.100.20/32 -p tcp -m tcp --dport 80 -j DROP\n\
        -A FORWARD -s 198.51.100.0/24 -p tcp -m tcp --dport 80 -j ACCEPT\n\
        -A FORWARD -d 203.0.113.40/32 -p tcp -m tcp --dport 80 -j ACCEPT\n\
        -A FORWARD -s 198.51.100.0/24 -d 203.0.113.40/32 -p tcp -m tcp --dport 80 -j DROP\n\
        -A FORWARD -s 198.51.100.30/32 -p tcp -m tcp --dport 21 -j DROP\n\
        -A FORWARD -s 198.51.100.0/24 -p tcp -m tcp --dport 21 -j ACCEPT\n\
        -A FORWARD -s 198.51.100.0/24 -d 203.0.113.40/32 -p tcp -m tcp --dport 21 -j ACCEPT\n\
        -A FORWARD -p tcp -j DROP\n\
        -A FORWARD -s 198.51.100.0/24 -d 203.0.113.40/32 -p udp -m udp --dport 53 -j ACCEPT\n\
        -A FORWARD -d 203.0.113.40/32 -p udp -m udp --dport 53 -j ACCEPT\n\
        -A FORWARD -s 192.0.2.0/24 -d 203.0.113.64/26 -p udp -j ACCEPT\n\
        -A FORWARD -p udp -j DROP\nCOMMIT\n";
    let at = |rule: usize| rule + 4;
    let expected = [("TG010".to_owned(), at(5)), ("TG014".to_owned(), at(8))];
    assert_eq!(dead(text), expected);
    let loaded = rules(text);
    for number in [2, 3, 4, 6, 7, 10, 11, 12, 13] {
        let (some, _) = reached(&loaded, &[&format!("FORWARD:{number}")]);
        assert!(some, "rule {number}");
    }
    for number in [5, 8] {
        let (some, _) = reached(&loaded, &[&format!("FORWARD:{number}")]);
        assert!(!some, "rule {number}");
    }
    // Nobody gets anywhere by another service.
    let found = table(&loaded, None);
    let services: BTreeSet<&str> = found.iter().map(|l| l.split(' ').next().unwrap()).collect();
    for service in &services {
        let known = ["tcp/80", "tcp/21", "udp/53"].contains(service) || service.starts_with("udp/");
        assert!(known, "{service}: {found:#?}");
    }
}

/// A list of 1,440 lines as access lists of routers become when their groups of hosts, networks and
/// services are written out: who may what is known for every triple.
#[test]
fn a_service_matrix_of_groups_written_out() {
    let (servers, networks) = (40u32, 12u32);
    let ports: [u32; 5] = [22, 80, 443, 1521, 8080];
    let allowed =
        |server: u32, network: u32, port: u32| (server * 7 + network * 5 + port * 3) % 5 < 3;
    let mut text = String::from(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
    );
    let mut expected = Vec::new();
    for server in 0..servers {
        for network in 0..networks {
            for (at, _) in ports.iter().enumerate() {
                if allowed(server, network, at as u32) {
                    text += &format!(
                        "-A FORWARD -s 10.{network}.0.0/16 -d 10.99.{server}.10/32 -p tcp -m tcp --dport {} -j ACCEPT\n",
                        ports[at]
                    );
                }
            }
        }
        // What somebody added at the end of the group, without a look at what stands there.
        let open = (0..networks).find(|n| allowed(server, *n, 1));
        if let Some(network) = open.filter(|_| server % 8 == 0) {
            text += &format!(
                "-A FORWARD -s 10.{network}.4.0/24 -d 10.99.{server}.10/32 -p tcp -m tcp --dport 80 -j DROP\n"
            );
            expected.push(("TG010".to_owned(), text.lines().count()));
        }
    }
    text += "COMMIT\n";
    assert!(text.lines().count() > 1_400);
    assert_eq!(dead(&text), expected);
    let host = Host::parse(HOST).unwrap();
    let loaded = rules(&text);
    let mut asked = Asked::new(&loaded, &loaded.0[0], None, Vec::new());
    let all = asked.openers(proto::TCP, Origin::Received).unwrap();
    let fixed = [(Field::Proto, u128::from(proto::TCP))];
    let found = asked.openings(Origin::Received, all, &fixed).unwrap();
    assert!(found.doubts.is_empty(), "{:?}", found.doubts.len());
    for server in 0..servers {
        for network in 0..networks {
            for (at, port) in ports.iter().enumerate() {
                let ip = |b: [u8; 4]| IpAddr::from(Ipv4Addr::from(b));
                let (src, dst) = ([10, network as u8, 77, 7], [10, 99, server as u8, 10]);
                let mut packet = Described::new(proto::TCP, ip(src), ip(dst));
                (packet.sport, packet.dport) = (40_000, *port as u16);
                packet.input = Some("eth0".to_owned());
                let point = asked.space.point(&facts(&packet, &host, "eth0"));
                let through = |o: &&ask::Open| o.fate == Fate::Leaves;
                let mut open = found.open.iter().filter(through);
                let said = open.any(|o| asked.space.contains(o.set, &point));
                let known = allowed(server, network, at as u32);
                assert_eq!(said, known, "10.{network}.77.7 to 10.99.{server}.10:{port}");
            }
        }
    }
}
