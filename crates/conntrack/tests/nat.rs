//! Replays packets through tracking, NAT and the FTP helper, wired as a router wires
//! them, and compares every packet that comes out with what Linux 6.18 sent.
//!
//! `tests/corpus/nat.txt` was recorded from a router in a network namespace whose `eth0`
//! is inside (10.0.0.1/24, fd00::1/64) and whose `eth1` is outside (203.0.113.100 and
//! .101, fd00:1::100):
//!
//! ```text
//! case NAME [checksum=0]
//! nat IF src|dst ADDR[-ADDR] [ports=A[-B]] [base=N] [proto=tcp|udp] [to=ADDR] [persistent]
//! > IF HEX          a packet enters
//! < IF HEX          what leaves; `<~` when the kernel chose the source port at random
//! < drop|local
//! ```

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;
use tidegate_conntrack::config::Config;
use tidegate_conntrack::{
    Conntrack, CtInfo, HelperKind, InHook, Manip, NatHook, NatRange, SECOND, Template, Tracked,
};
use tidegate_wire::{Family, Layout, be16, checksum, parse, proto};

const OWN: [&str; 5] = [
    "203.0.113.100",
    "203.0.113.101",
    "10.0.0.1",
    "fd00::1",
    "fd00:1::100",
];

fn number(text: &str) -> u128 {
    match text.parse().unwrap() {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

struct Rule {
    device: String,
    manip: Manip,
    family: Family,
    proto: Option<u8>,
    to: Option<u128>,
    range: NatRange,
}

impl Rule {
    fn parse(text: &str) -> Rule {
        let mut words = text.split_whitespace();
        let device = words.next().unwrap().to_string();
        let manip = match words.next().unwrap() {
            "src" => Manip::Src,
            _ => Manip::Dst,
        };
        let addrs = words.next().unwrap();
        let family = if addrs.contains(':') {
            Family::V6
        } else {
            Family::V4
        };
        let (first, last) = addrs.split_once('-').unwrap_or((addrs, addrs));
        let mut rule = Rule {
            device,
            manip,
            family,
            proto: None,
            to: None,
            range: NatRange {
                addresses: Some((number(first), number(last))),
                ..NatRange::default()
            },
        };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("ports", p) => {
                    let (a, b) = p.split_once('-').unwrap_or((p, p));
                    rule.range.ports = Some((a.parse().unwrap(), b.parse().unwrap()));
                }
                ("base", b) => rule.range.base_port = Some(b.parse().unwrap()),
                ("proto", "tcp") => rule.proto = Some(proto::TCP),
                ("proto", "udp") => rule.proto = Some(proto::UDP),
                ("to", a) => rule.to = Some(number(a)),
                ("persistent", _) => rule.range.persistent = true,
                other => panic!("{other:?}"),
            }
        }
        rule
    }

    fn matches(&self, manip: Manip, device: &str, pkt: &[u8], layout: &Layout) -> bool {
        self.manip == manip
            && self.device == device
            && self.family == layout.family
            && self.proto.is_none_or(|p| p == layout.proto)
            && self.to.is_none_or(|t| t == layout.dst(pkt))
    }
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Sent(&'static str, Vec<u8>),
    Local,
    Dropped,
}

struct Router {
    ct: Conntrack,
    rules: Vec<Rule>,
}

impl Router {
    fn new(config: Config) -> Router {
        Router {
            ct: Conntrack::new(config),
            rules: Vec::new(),
        }
    }

    fn forward(&mut self, device: &str, pkt: Vec<u8>) -> Fate {
        self.pass(device, pkt).unwrap_or(Fate::Dropped)
    }

    fn pass(&mut self, device: &str, mut pkt: Vec<u8>) -> Option<Fate> {
        let now = 1_000_000 * SECOND;
        let mut layout = parse(&pkt).ok()?;
        let ftp = layout.proto == proto::TCP && be16(layout.l4(&pkt), 2) == Some(21);
        let template = Template {
            helper: ftp.then_some(HelperKind::Ftp),
            ..Template::default()
        };
        let tracked =
            self.ct
                .handle_packet(now, &pkt, &layout, InHook::Prerouting, Some(&template));
        let Tracked::Ct(mut at) = tracked else {
            let own = OWN.map(number).contains(&layout.dst(&pkt));
            return own.then_some(Fate::Local);
        };
        let hook = NatHook::Prerouting;
        self.nat(&at, hook, device, &mut pkt, &layout)?;
        if OWN.map(number).contains(&layout.dst(&pkt)) {
            self.nat(&at, NatHook::Input, device, &mut pkt, &layout)?;
            return Some(Fate::Local);
        }
        hop(&mut pkt, &layout);
        let out = route(&layout, layout.dst(&pkt));
        let hook = NatHook::Postrouting;
        self.nat(&at, hook, out, &mut pkt, &layout)?;
        if self.ct.help(now, &at, &mut pkt, &layout).ok()? {
            layout = parse(&pkt).ok()?;
        }
        assert_eq!(layout.len as usize, pkt.len());
        self.ct.confirm(now, &mut at).ok()?;
        Some(Fate::Sent(out, pkt))
    }

    fn nat(
        &mut self,
        at: &tidegate_conntrack::Attached,
        hook: NatHook,
        device: &str,
        pkt: &mut [u8],
        layout: &Layout,
    ) -> Option<()> {
        let manip = hook.manip();
        let error = matches!(at.info, CtInfo::Related | CtInfo::RelatedReply)
            && matches!(layout.proto, proto::ICMP | proto::ICMPV6);
        if !error && self.ct.nat_rules_needed(at, manip) {
            let mut rules = self.rules.iter();
            match rules.find(|r| r.matches(manip, device, pkt, layout)) {
                Some(rule) => self.ct.nat_setup(at.id, manip, &rule.range).ok()?,
                None => self.ct.nat_null_binding(at.id, manip).ok()?,
            }
        }
        self.ct
            .nat_translate(at, hook, pkt, layout)
            .ok()
            .map(|_| ())
    }
}

fn route(layout: &Layout, dst: u128) -> &'static str {
    let inside = match layout.family {
        Family::V4 => dst >> 8 == 0x0a_0000,
        Family::V6 => dst >> 64 == 0xfd00 << 48,
    };
    if inside { "eth0" } else { "eth1" }
}

/// A router lowers the hop count.
fn hop(pkt: &mut [u8], layout: &Layout) {
    pkt[layout.ttl_at()] = layout.ttl(pkt).wrapping_sub(1);
    if layout.family == Family::V4 {
        checksum::fix_ipv4(pkt);
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// Source port, and the packet with it and the UDP or TCP checksum blanked.
fn without_port(mut pkt: Vec<u8>) -> (u16, Vec<u8>) {
    let port = u16::from_be_bytes([pkt[20], pkt[21]]);
    let check = if pkt[9] == proto::UDP { 26 } else { 36 };
    pkt[20..22].fill(0);
    pkt[check..check + 2].fill(0);
    (port, pkt)
}

fn compare(case: &str, line: usize, want: &str, got: &Fate) {
    let place = format!("{case}, line {}", line + 1);
    let (mark, rest) = want.split_once(' ').unwrap();
    match (rest.split_once(' '), got) {
        (None, Fate::Local) => assert_eq!(rest, "local", "{place}"),
        (None, Fate::Dropped) => assert_eq!(rest, "drop", "{place}"),
        (Some((device, packet)), Fate::Sent(out, pkt)) => {
            assert_eq!(&device, out, "{place}");
            if mark == "<~" {
                let (port, blank) = without_port(pkt.clone());
                let (kernel, expected) = without_port(hex(packet));
                assert_eq!(blank, expected, "{place}");
                assert!(port >= 1024 && kernel >= 1024, "{place}");
            } else {
                assert_eq!(pkt, &hex(packet), "{place}");
            }
        }
        (_, got) => panic!("{place}: {want} but {got:?}"),
    }
}

fn replay(corpus: &str) -> usize {
    let (mut case, mut compared) = (String::new(), 0);
    let mut router = Router::new(Config::default());
    let mut got = Fate::Dropped;
    for (line, text) in corpus.lines().enumerate() {
        if let Some(name) = text.strip_prefix("case ") {
            case = name.to_string();
            router = Router::new(Config {
                buckets: 64,
                checksum: !name.ends_with("checksum=0"),
                ..Config::default()
            });
        } else if let Some(rule) = text.strip_prefix("nat ") {
            router.rules.push(Rule::parse(rule));
        } else if let Some((device, packet)) =
            text.strip_prefix("> ").and_then(|t| t.split_once(' '))
        {
            got = router.forward(device, hex(packet));
        } else if text.starts_with('<') {
            compare(&case, line, text, &got);
            compared += 1;
        }
    }
    compared
}

#[test]
fn packets_leave_as_from_the_kernel() {
    assert_eq!(replay(include_str!("corpus/nat.txt")), 216);
}

/// Damages one to three bytes, or cuts the packet; the IPv4 header checksum is repaired
/// so that the damage gets past the first look.
fn damaged(mut pkt: Vec<u8>, mut random: impl FnMut(usize) -> usize) -> Vec<u8> {
    for _ in 0..=random(3) {
        let at = random(pkt.len());
        pkt[at] = [0, 1, 0x7f, 0xff, random(256) as u8][random(5)];
    }
    if random(4) == 0 {
        pkt.truncate(random(pkt.len()));
        let len = pkt.len() as u16;
        if pkt[..].first().is_some_and(|b| b >> 4 == 4) && len >= 20 {
            pkt[2..4].copy_from_slice(&len.to_be_bytes());
        }
    }
    if pkt.first().is_some_and(|b| b >> 4 == 4) {
        checksum::fix_ipv4(&mut pkt);
    }
    pkt
}

#[test]
fn damaged_packets_do_no_harm() {
    let mut state = 1u64;
    let mut random = move |n: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) as usize % n.max(1)
    };
    let (mut sent, mut other) = (0, 0);
    for _ in 0..40 {
        let mut router = Router::new(Config::default());
        for text in include_str!("corpus/nat.txt").lines() {
            if text.starts_with("case ") {
                let config = Config {
                    buckets: 64,
                    checksum: random(2) == 0,
                    ..Config::default()
                };
                router = Router::new(config);
            } else if let Some(rule) = text.strip_prefix("nat ") {
                router.rules.push(Rule::parse(rule));
            } else if let Some((device, packet)) =
                text.strip_prefix("> ").and_then(|t| t.split_once(' '))
            {
                let mut pkt = hex(packet);
                if random(3) == 0 {
                    pkt = damaged(pkt, &mut random);
                }
                match router.forward(device, pkt) {
                    Fate::Sent(_, pkt) => {
                        assert!(parse(&pkt).is_ok());
                        sent += 1;
                    }
                    Fate::Local | Fate::Dropped => other += 1,
                }
            }
        }
    }
    assert!(sent > 4000 && other > 400, "{sent} {other}");
}
