//! Random rulesets of both families, and connections that meet their values.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use tidegate_host::{Host, address};
use tidegate_wire::Family;

use crate::packets::Described;
use crate::replay::rules::Loaded;

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

/// The number in a variable of the environment.
pub(crate) fn count(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// The numbers of the cases to try: `…_CASES` from `…_FIRST` on.
pub(crate) fn cases(variable: &str, default: u64) -> std::ops::Range<u64> {
    let first = count(&format!("{variable}_FIRST"), 0);
    first..first + count(&format!("{variable}_CASES"), default)
}

pub(crate) const HOST: &str = "[host]\nforward = true\n\
    [[interface]]\nname = \"eth0\"\naddresses = [\"203.0.113.5/24\", \"2001:db8:c::5/64\"]\n\
    [[interface]]\nname = \"eth1\"\naddresses = [\"192.168.1.1/24\", \"2001:db8:b::1/64\"]\n\
    [[interface]]\nname = \"eth2\"\naddresses = [\"10.0.0.1/8\", \"2001:db8:a::1/48\"]\n\
    [[route]]\nto = \"0.0.0.0/0\"\nvia = \"203.0.113.1\"\ndev = \"eth0\"\n\
    [[route]]\nto = \"::/0\"\nvia = \"2001:db8:c::1\"\ndev = \"eth0\"\n";

const NETWORKS: [&str; 8] = [
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
const PORTS: [u16; 6] = [22, 53, 80, 443, 8080, 40_000];

/// The address of IPv6 in the place of one of IPv4.
fn six(v4: u32) -> u128 {
    let (net, rest) = match v4 >> 24 {
        10 => (0xa, (v4 >> 16 & 0xff, v4 & 0xffff)),
        192 => (0xb, (0, v4 & 0xff)),
        203 => (0xc, (0, v4 & 0xff)),
        _ => (0xd, (0, v4 & 0xff)),
    };
    0x2001_0db8u128 << 96 | net << 80 | u128::from(rest.0) << 64 | u128::from(rest.1)
}

/// A word of a rule as IPv6 has it.
fn six_word(word: &str) -> String {
    let v4 = |text: &str| {
        let number = text.parse::<Ipv4Addr>().ok().map(u32::from);
        number.map(|n| address(Family::V6, six(n)).to_string())
    };
    if let Some(one) = v4(word) {
        return one;
    }
    for (at, sign) in word.char_indices().filter(|c| "/-:".contains(c.1)) {
        let (start, end) = (&word[..at], &word[at + 1..]);
        let Some(start) = v4(start) else {
            continue;
        };
        return match sign {
            '/' => format!(
                "{start}/{}",
                match end {
                    "8" => 48,
                    "32" => 128,
                    _ => 64,
                }
            ),
            '-' => format!("{start}-{}", six_word(end)),
            _ => format!("[{start}]:{end}"),
        };
    }
    word.to_owned()
}

/// Rules as IPv6 has them.
fn six_text(text: &str) -> String {
    let line = |line: &str| {
        let words: Vec<String> = line.split(' ').map(six_word).collect();
        words.join(" ").replace("family inet ", "family inet6 ")
    };
    let lines: Vec<String> = text.lines().map(line).collect();
    lines.join("\n") + "\n"
}

/// A host, a family, and what rules and packets are made of.
pub(crate) struct World {
    pub(crate) family: Family,
    pub(crate) host: Host,
}

impl World {
    /// Every fourth case is of IPv6.
    pub(crate) fn of(case: u64) -> Self {
        World {
            family: match case % 4 {
                3 => Family::V6,
                _ => Family::V4,
            },
            host: Host::parse(HOST).unwrap(),
        }
    }

    fn said(&self, text: &str) -> String {
        match self.family {
            Family::V4 => text.to_owned(),
            Family::V6 => six_text(text),
        }
    }

    /// A network as rules name it.
    pub(crate) fn network(&self, r: &mut Random) -> String {
        six_or_not(self.family, r.of(&NETWORKS))
    }

    pub(crate) fn port(r: &mut Random) -> u16 {
        r.of(&PORTS)
    }

    pub(crate) fn ruleset(&self, r: &mut Random) -> String {
        self.said(&ruleset(r))
    }

    pub(crate) fn load(&self, text: &str) -> Loaded {
        Loaded::parse(text, "rules", self.family).unwrap_or_else(|e| panic!("{e:#}\n{text}"))
    }

    fn address(&self, r: &mut Random) -> std::net::IpAddr {
        let mut number = r.of(&ADDRESSES);
        if r.one_in(4) {
            // A neighbour, but no address of a network.
            number = (number & !0xff) | (2 + r.below(250) as u32);
        }
        let number = match self.family {
            Family::V4 => number.into(),
            Family::V6 => six(number),
        };
        address(self.family, number)
    }

    /// A connection that comes in somewhere.
    pub(crate) fn connection(&self, r: &mut Random, protocol: u8) -> Described {
        let mut packet = Described::new(protocol, self.address(r), self.address(r));
        let port = |r: &mut Random| match r.one_in(4) {
            true => 1 + r.below(65_535) as u16,
            false => r.of(&PORTS),
        };
        (packet.sport, packet.dport) = (port(r), port(r));
        packet.input = Some(r.of(&["eth0", "eth1", "eth2"]).to_owned());
        packet
    }
}

fn six_or_not(family: Family, word: &str) -> String {
    match family {
        Family::V4 => word.to_owned(),
        Family::V6 => six_word(word),
    }
}

/// Conditions beside addresses, interfaces and ports; the last ones are rarer.
const OTHERS: [&str; 18] = [
    " -m conntrack --ctstate NEW",
    " -m conntrack --ctstate RELATED,ESTABLISHED",
    " -m conntrack --ctstate RELATED,ESTABLISHED",
    " -m mark --mark 0x1/0x3",
    " -m connmark --mark 0x1",
    " -m addrtype --dst-type LOCAL",
    " -m conntrack --ctstate DNAT",
    " -m conntrack --ctorigdstport 8080",
    " -m conntrack --ctdir ORIGINAL",
    " -m conntrack --ctorigdst 203.0.113.5",
    " -m conntrack ! --ctstate INVALID",
    " -m conntrack --ctstate INVALID,UNTRACKED",
    " -m conntrack ! --ctstate SNAT",
    " -m tos --tos 0x10/0xff",
    " -m iprange --src-range 10.1.2.0-10.1.2.99",
    " -m set --match-set some src",
    " -m set ! --match-set some dst",
    " -m limit --limit 9/sec",
];

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
        let name = r.of(&["eth0", "eth1", "eth2", "eth+"]);
        let _ = write!(text, " {}-i {name}", not(r));
    }
    if matches!(chain, "OUTPUT" | "FORWARD" | "POSTROUTING") && r.one_in(4) {
        let _ = write!(text, " {}-o {}", not(r), r.of(&["eth0", "eth1", "eth2"]));
    }
    if r.one_in(2) {
        let proto = r.of(&["tcp", "tcp", "udp"]);
        let _ = write!(text, " -p {proto}");
        if r.one_in(10) {
            let not = not(r);
            let _ = write!(text, " -m multiport {not}--dports 22,80:443,40000");
        } else if r.one_in(2) {
            let side = r.of(&["d", "d", "s"]);
            let _ = write!(text, " -m {proto} {}--{side}port {}", not(r), r.of(&PORTS));
        } else if proto == "tcp" && r.one_in(8) {
            text += " -m tcp --tcp-flags SYN,ACK SYN";
        }
    }
    match r.below(32) {
        at if at < 20 => text += OTHERS[(at / 2) as usize],
        20 if r.one_in(2) => text += " -m length --length 0:60",
        20 | 21 => text += r.of(&OTHERS[10..]),
        _ => {}
    }
    text
}

fn chain(r: &mut Random, out: &mut String, name: &str, targets: &[&str], most: u64) {
    for _ in 0..r.below(most) {
        let conditions = conditions(r, name);
        let target = r.of(targets);
        let ports = conditions.contains("port") && conditions.contains("-p");
        let target = target.replace(":80", if ports { ":80" } else { "" });
        let own = target.chars().all(char::is_lowercase);
        let jump = if own && r.one_in(4) { "-g" } else { "-j" };
        let _ = writeln!(out, "-A {name}{conditions} {jump} {target}");
    }
}

fn ruleset(r: &mut Random) -> String {
    let mut text = String::new();
    if r.one_in(6) {
        text += "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n";
        chain(r, &mut text, "PREROUTING", &["NOTRACK", "DROP"], 3);
        chain(r, &mut text, "OUTPUT", &["NOTRACK"], 3);
        text += "COMMIT\n";
    }
    if r.one_in(2) {
        mangle(r, &mut text);
    }
    if r.one_in(2) {
        nat(r, &mut text);
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
    let own = ["ACCEPT", "DROP", "RETURN", "more"];
    chain(r, &mut text, "own", &own, 5);
    chain(r, &mut text, "more", &own[..3], 5);
    text += "COMMIT\n";
    if text.contains("--match-set") {
        text += "# tidegate-state ipset 0\ncreate some hash:net family inet \n\
            add some 10.1.2.0/24\nadd some 192.168.1.20\n";
    }
    text
}

fn mangle(r: &mut Random, text: &mut String) {
    let marks = [
        "MARK --set-xmark 0x1/0x3",
        "MARK --set-xmark 0x2/0xffffffff",
        "CONNMARK --save-mark",
        "CONNMARK --restore-mark",
        "CONNMARK --set-xmark 0x1/0xffffffff",
        "TOS --set-tos 0x10/0xff",
        "DROP",
        "own",
    ];
    *text += "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:own - [0:0]\n";
    chain(r, text, "PREROUTING", &marks, 5);
    chain(r, text, "FORWARD", &marks, 3);
    chain(r, text, "POSTROUTING", &marks[..5], 2);
    chain(r, text, "own", &[&marks[..6], &["RETURN"]].concat(), 3);
    *text += "COMMIT\n";
}

fn nat(r: &mut Random, text: &mut String) {
    *text += "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:own - [0:0]\n";
    let to = [
        "DNAT --to-destination 192.168.1.20",
        "DNAT --to-destination 10.1.2.3:80",
        "DNAT --to-destination 192.168.1.20-192.168.1.21",
        "REDIRECT",
        "NETMAP --to 10.7.0.0/24",
        "ACCEPT",
        "own",
    ];
    chain(r, text, "PREROUTING", &to, 4);
    let from = ["MASQUERADE", "SNAT --to-source 203.0.113.5", "ACCEPT"];
    chain(r, text, "POSTROUTING", &from, 3);
    chain(r, text, "own", &[&to[..3], &["RETURN"]].concat(), 3);
    *text += "COMMIT\n";
}
