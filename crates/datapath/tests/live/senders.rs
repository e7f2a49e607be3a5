//! Local senders hear at once of what rules drop.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use aya::EbpfLoader;
use aya::maps::{Map, MapData};
use std::os::fd::{AsFd, AsRawFd};
use tidegate_ebpf::sender::{Census, KNOWN, MAPS, Making, NOW, Side, WORDS, now, program};
use tidegate_engine::conntrack::Tuple;
use tidegate_engine::conntrack::register::Register;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Config, Disposition, Engine, Outgoing, interface_number};
use tidegate_syntax::{lower, parse_rules};
use tidegate_sys::{SenderHook, SenderProgram, SharedWords, namespace_cookie};
use tidegate_wire::{Family, checksum};
use tidegate_xt::NoNames;

use crate::net::{Host, able, client_and_server, filter, skipped};
use crate::talk::{reaches, udp};

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().unwrap(), port)
}

/// A user namespace's root may not load programs.
pub(crate) fn may() -> bool {
    if !able() {
        return false;
    }
    let all = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let whole = all.split_whitespace().nth(2) == Some("4294967295");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if !whole || !mounts.contains(" - cgroup2 ") {
        skipped("programs on cgroups are loaded by the machine's root only, with cgroup2");
        return false;
    }
    true
}

/// Whether the sender hears `EPERM` (which is what the kernel says when OUTPUT drops).
fn refused(from: &UdpSocket, to: SocketAddr) -> bool {
    match from.send_to(b"hello", to) {
        Ok(_) => false,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => true,
        Err(e) => panic!("{to}: {e}"),
    }
}

#[test]
fn what_output_drops_is_an_error_from_the_first_packet_on() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&["-A OUTPUT -p udp --dport 9 -j DROP"]);
    let guard = server.guard(&rules, &rules);
    for (ours, theirs) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        let from = udp(&server, at(ours, 0));
        for _ in 0..3 {
            assert!(refused(&from, at(theirs, 9)));
            // Through loopback, too.
            assert!(refused(&from, at(ours, 9)));
        }
        let open = udp(&client, at(theirs, 7));
        assert!(reaches(&from, &open, at(theirs, 7)));
        // Other network namespaces are none of ours.
        let other = udp(&client, at(theirs, 0));
        assert!(!refused(&other, at(ours, 9)));
    }
    for family in [Family::V4, Family::V6] {
        assert_eq!(guard.counted(family, 0), 6);
    }
    assert_eq!(guard.traffic("eth0").dropped, 6);
    assert_eq!(guard.traffic("lo").dropped, 6);
}

/// Each change holds for the next packet.
#[test]
fn rules_change_and_so_do_errors() {
    if !may() {
        return;
    }
    let (_client, server) = client_and_server();
    let rules = filter(&["-A OUTPUT -p udp --dport 9 -j DROP"]);
    let guard = server.guard(&rules, &rules);
    let from = udp(&server, at("10.0.0.1", 0));
    for round in 0..10 {
        let port = 9 + round % 2;
        let rules = filter(&[&format!("-A OUTPUT -p udp --dport {port} -j DROP")]);
        guard.load(Family::V4, &rules);
        assert!(refused(&from, at("10.0.0.2", port)), "{round}");
        assert!(!refused(&from, at("10.0.0.2", 19 - port)), "{round}");
    }
}

/// With rules for known connections first, as every firewall has them: what belongs to no
/// connection is an error, what belongs to one passes.
#[test]
fn known_connections_pass() {
    if !may() {
        return;
    }
    let (client, server) = client_and_server();
    let rules = filter(&[
        "-A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A OUTPUT -p udp --dport 7 -j ACCEPT",
        "-A OUTPUT -j DROP",
    ]);
    let guard = server.guard(&rules, &filter(&[]));
    let (ours, theirs) = (at("10.0.0.1", 5000), at("10.0.0.2", 6000));
    let (inside, outside) = (udp(&server, ours), udp(&client, theirs));
    assert!(refused(&inside, theirs));
    assert!(reaches(&outside, &inside, ours));
    assert!(reaches(&inside, &outside, theirs));
    assert!(refused(&inside, at("10.0.0.2", 6001)));
    let asked = udp(&client, at("10.0.0.2", 7));
    assert!(reaches(&inside, &asked, at("10.0.0.2", 7)));
    assert_eq!([0, 1, 2].map(|n| guard.counted(Family::V4, n)), [1, 1, 2]);
}

/// What the rules log is logged, and what they reject is answered as well.
#[test]
fn refused_packets_meet_their_rules() {
    if !may() {
        return;
    }
    let (_client, server) = client_and_server();
    let rules = filter(&[
        "-A OUTPUT -p udp --dport 9 -j LOG --log-prefix \"out: \"",
        "-A OUTPUT -p udp --dport 9 -j REJECT",
    ]);
    let guard = server.guard(&rules, &filter(&[]));
    let from = udp(&server, at("10.0.0.1", 0));
    server.run(|| from.connect(at("10.0.0.2", 9))).unwrap();
    let said = from.send(b"hello").unwrap_err();
    assert_eq!(said.kind(), io::ErrorKind::PermissionDenied);
    let heard = from.recv(&mut [0; 16]).unwrap_err();
    assert_eq!(heard.kind(), io::ErrorKind::ConnectionRefused);
    let lines = guard.seen.lines();
    assert_eq!(lines.len(), 1);
    assert!(lines[0].starts_with("out: IN= OUT=eth0 SRC=10.0.0.1 DST=10.0.0.2 LEN=33 "));
}

/// Numbers that look random, the same ones each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % sides
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

const MATCHES: [&str; 26] = [
    "",
    "-p udp",
    "-p tcp",
    "-p icmp",
    "! -p udp",
    "-p udp --dport 7",
    "-p udp --sport 1000:2000",
    "-p tcp --dport 80",
    "-p tcp ! --dport 80",
    "-p tcp --syn",
    "-p tcp --tcp-flags ACK,RST ACK",
    "-p udp -m multiport --dports 7,9,1000:1500",
    "-p icmp --icmp-type echo-request",
    "-d 10.0.0.0/8",
    "-d 10.1.0.0/16",
    "! -d 192.0.2.1",
    "-m iprange --dst-range 10.0.0.2-10.1.0.8",
    "-m iprange ! --src-range 10.0.0.0-10.0.0.1",
    "-s 10.0.0.1",
    "-o lo",
    "-o eth+",
    "-m tos --tos 0x10",
    "-m length --length 40:60",
    "-m ttl --ttl-lt 32",
    "-m mark --mark 1",
    "-m limit --limit 1/hour",
];
const STATES: [&str; 5] = [
    "-m conntrack --ctstate ESTABLISHED,RELATED",
    "-m conntrack --ctstate NEW",
    "-m conntrack ! --ctstate ESTABLISHED",
    "-m conntrack --ctstate INVALID",
    "-m conntrack --ctorigdstport 7",
];
const CHAINS: [&str; 3] = ["one", "two", "three"];

/// What stands for the same in IPv6.
const SIX: [(&str, &str); 9] = [
    ("icmp", "icmpv6"),
    ("-m ttl --ttl", "-m hl --hl"),
    ("10.1.0.9:9", "[fd10:1::9]:9"),
    ("10.0.0.0-10.0.0.1", "fd10::-fd10::1"),
    ("10.0.0.2-10.1.0.8", "fd10::2-fd10:1::8"),
    ("10.0.0.0/8", "fd10::/16"),
    ("10.1.0.0/16", "fd10:1::/32"),
    ("192.0.2.1", "fd99::1"),
    ("10.0.0.1", "fd10::1"),
];

/// A ruleset in which chains call later ones.
fn random_rules(dice: &mut Dice) -> String {
    let stateful = dice.roll(2) == 0;
    let mut text = String::new();
    if dice.roll(3) == 0 {
        text += "*mangle\n:OUTPUT ACCEPT [0:0]\n";
        text += dice.pick(&[
            "-A OUTPUT -p udp -j MARK --set-mark 1\n",
            "-A OUTPUT -p tcp -j TOS --set-tos 0x10\n",
            "-A OUTPUT -p udp --dport 9 -j DROP\n",
        ]);
        text += "COMMIT\n";
    }
    if stateful && dice.roll(3) == 0 {
        text += "*nat\n:OUTPUT ACCEPT [0:0]\n";
        text += dice.pick(&[
            "",
            "-A OUTPUT -p udp --dport 7 -j DNAT --to-destination 10.1.0.9:9\n",
        ]);
        text += "COMMIT\n";
    }
    text += "*filter\n";
    text += dice.pick(&[":OUTPUT ACCEPT [0:0]\n", ":OUTPUT DROP [0:0]\n"]);
    for chain in CHAINS {
        text += &format!(":{chain} - [0:0]\n");
    }
    for (level, chain) in ["OUTPUT", "one", "two", "three"].into_iter().enumerate() {
        for _ in 0..dice.roll(6) {
            let mut matches = dice.pick(&MATCHES).to_owned();
            if stateful && dice.roll(3) == 0 {
                matches = format!("{matches} {}", dice.pick(&STATES));
            }
            let later = CHAINS.get(level + dice.roll(3)).copied();
            let target = match (dice.roll(8), later) {
                (0 | 1, _) => "-j DROP".to_owned(),
                (2, _) => "-j ACCEPT".to_owned(),
                (3, _) => "-j RETURN".to_owned(),
                (4, _) => "-j REJECT".to_owned(),
                (5, _) | (_, None) => "-j LOG".to_owned(),
                (6, Some(to)) => format!("-g {to}"),
                (_, Some(to)) => format!("-j {to}"),
            };
            text += &format!("-A {chain} {matches} {target}\n");
        }
    }
    text + "COMMIT\n"
}

/// A packet of this host with an Ethernet header before it.
fn random_packet(dice: &mut Dice, family: Family) -> Vec<u8> {
    let (icmp, kinds) = match family {
        Family::V4 => (1, [8, 0, 3, 13]),
        Family::V6 => (58, [128, 129, 1, 139]),
    };
    let protocol = [6, 17, icmp, 47][dice.roll(4)];
    let ports = [7_u16, 9, 80, 1000, 1200, 5000];
    let (sport, dport) = (ports[dice.roll(6)], ports[dice.roll(6)]);
    let mut l4 = match protocol {
        p if p == icmp => vec![kinds[dice.roll(4)], 0, 0, 0, 0, dport as u8, 0, 1],
        _ => [sport.to_be_bytes(), dport.to_be_bytes()].concat(),
    };
    match protocol {
        6 => {
            let flags = [2, 16, 4, 17][dice.roll(4)];
            l4.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 255, 255, 0, 0, 0, 0]);
        }
        17 => l4.extend([0, 8, 0, 0]),
        47 => l4.extend([0; 4]),
        _ => {}
    }
    let extra = dice.roll(30);
    l4.resize(l4.len() + extra, 0);
    if protocol == 17 {
        let len = l4.len() as u16;
        l4[4..6].copy_from_slice(&len.to_be_bytes());
    }
    let tos = [0, 0x10][dice.roll(2)];
    let ttl = [16, 64][dice.roll(2)];
    let to = dice.roll(3);
    let mut frame = vec![0; 12];
    match family {
        Family::V4 => {
            let mut packet = vec![0x45, tos, 0, 0, 0, 1, 0, 0, ttl, protocol, 0, 0];
            packet.extend([10, 0, 0, 1]);
            packet.extend([[10, 0, 0, 2], [10, 1, 0, 9], [192, 0, 2, 1]][to]);
            packet.extend(l4);
            let len = packet.len() as u16;
            packet[2..4].copy_from_slice(&len.to_be_bytes());
            checksum::fix_ipv4(&mut packet);
            frame.extend([8, 0]);
            frame.extend(packet);
        }
        Family::V6 => {
            let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
            frame.extend([0x86, 0xdd, 0x60 | tos >> 4, tos << 4, 0, 0]);
            frame.extend((l4.len() as u16).to_be_bytes());
            frame.extend([protocol, ttl]);
            frame.extend(address("fd10::1"));
            frame.extend(address(["fd10::2", "fd10:1::9", "fd99::1"][to]));
            frame.extend(l4);
        }
    }
    frame
}

#[derive(Debug)]
struct Known(Census, SharedWords);

impl Register for Known {
    fn enters(&mut self, tuples: &[Tuple; 2]) {
        for change in tuples.iter().filter_map(|t| self.0.enters(t)) {
            self.1.store(change.word, change.value);
        }
    }

    fn leaves(&mut self, tuples: &[Tuple; 2]) {
        for change in tuples.iter().filter_map(|t| self.0.leaves(t)) {
            self.1.store(change.word, change.value);
        }
    }
}

/// What the program refuses the engine drops, for any rules and packets.
#[test]
fn a_refusal_is_always_the_engines_drop() {
    if !may() {
        return;
    }
    let host = Host::new();
    // What OUTPUT lets pass arrives.
    for address in ["10.0.0.1", "10.0.0.2", "10.1.0.9", "192.0.2.1"] {
        host.sh(&format!("ip addr add {address}/32 dev lo"));
    }
    for address in ["fd10::1", "fd10::2", "fd10:1::9", "fd99::1"] {
        host.sh(&format!("ip addr add {address}/128 dev lo"));
    }
    host.run(|| {
        let mut dice = Dice(0x0123_4567_89ab_cdef);
        let object = tidegate_ebpf::object(Vec::new(), &MAPS).unwrap();
        let (mut dropped, mut refused) = (0, 0);
        for round in 0..120 {
            let family = [Family::V4, Family::V6][round % 2];
            let (d, r) = compare(&mut dice, family, &object);
            dropped += d;
            refused += r;
        }
        // Most of what is dropped can be read off the packet.
        eprintln!("{refused} of {dropped} drops are errors");
        assert!(refused * 2 > dropped && dropped > 1000);
    });
}

/// One ruleset: how many packets the engine dropped, and of how many the sender heard.
fn compare(dice: &mut Dice, family: Family, object: &[u8]) -> (usize, usize) {
    let mut text = random_rules(dice);
    if family == Family::V6 {
        for (four, six) in SIX {
            text = text.replace(four, six);
        }
    }
    let parsed = parse_rules(&text, family, &NoNames)
        .unwrap_or_else(|e| panic!("{text}: line {}: {}", e.line, e.render("test")));
    let lowered = lower(&parsed).unwrap_or_else(|e| panic!("{}", e.render("test", None)));
    let (running, _) = tidegate_host::Host::running().unwrap();
    let mut engine = Engine::new(Config::default(), Arc::new(running.env));
    engine.load(Arc::new(lowered.ruleset));
    let mut loaded = EbpfLoader::new().load(object).unwrap();
    let tables: Vec<(&str, MapData)> = MAPS
        .iter()
        .map(|m| match loaded.take_map(m.name).unwrap() {
            Map::Array(data) | Map::RingBuf(data) => (m.name, data),
            other => panic!("{other:?}"),
        })
        .collect();
    let fd = |name: &str| tables.iter().find(|(n, _)| *n == name).unwrap().1.fd();
    let words = |name, count| SharedWords::map(fd(name).as_fd(), count).unwrap();
    words(NOW.name, now::WORDS).store(now::EPOCH, 5);
    let known = Known(Census::default(), words(KNOWN.name, WORDS));
    engine.conntrack_mut().set_register(Box::new(known));
    let side = |family| Side {
        rules: engine.rules(family),
        tracked: engine.is_tracked(family),
        translated: engine.is_translated(family),
    };
    let making = Making {
        sides: [Family::V4, Family::V6].map(side),
        interfaces: &[(1, interface_number("lo"))],
        broadcast: &[],
        cookie: namespace_cookie().unwrap(),
        epoch: 5,
        longest: 24_000,
    };
    let code = program(&making).link(|m| Some(fd(m.name).as_fd().as_raw_fd()));
    let code = code.unwrap();
    let program = SenderProgram::load(SenderHook::Egress, &code).unwrap_or_else(|e| {
        panic!(
            "{text}: {e}\n{}",
            SenderProgram::objection(SenderHook::Egress, &code)
        )
    });
    let (mut dropped, mut refused) = (0, 0);
    for n in 0..150 {
        let frame = random_packet(dice, family);
        let passes = program.run(&frame).unwrap();
        let way = Outgoing {
            dev: IfIndex(1),
            mark: 0,
            segment: Some(0),
        };
        let outcome = engine.send_on(n * 1_000_000, way, frame[14..].to_vec(), &mut ());
        let drops = matches!(outcome.disposition, Disposition::Dropped(_));
        assert!(passes == 1 || drops, "{text}\n{frame:x?}");
        dropped += usize::from(drops);
        refused += usize::from(passes == 0);
    }
    // Who has come goes.
    engine.forget();
    let known = words(KNOWN.name, WORDS);
    assert!((0..WORDS).all(|at| known.load(at) == 0), "{text}");
    (dropped, refused)
}
