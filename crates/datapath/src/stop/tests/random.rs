//! Random rules, and packets that they are about.

use tidegate_sets::{Change, KINDS, Key, Kind, Options, Set, Sets};
use tidegate_wire::{Family, checksum, proto};

/// `xorshift64*`
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn some<'t>(&mut self, all: &[&'t str], most: usize) -> Vec<&'t str> {
        (0..self.below(most + 1)).map(|_| self.of(all)).collect()
    }
}

/// Conditions of all kinds: that can be read off the packet, that depend on its connection,
/// that keep state, that only the engine knows.
const CONDS: &[&str] = &[
    "-p tcp",
    "-p udp",
    "! -p udp",
    "-p udp -m udp --dport 53",
    "-p tcp -m tcp --dport 80:443",
    "-p tcp -m multiport --dports 22,80,8000:9000",
    "-p tcp --syn",
    "-p tcp --tcp-flags ALL SYN",
    "-i eth0",
    "-i eth+",
    "! -i eth1",
    "-i eth1",
    "-m conntrack --ctstate ESTABLISHED,RELATED",
    "-m conntrack --ctstate NEW",
    "-m conntrack --ctstate INVALID",
    "-m state --state NEW -p udp",
    "-m ttl --ttl-lt 40",
    "-m length --length 60:200",
    "-m tos --tos 0x10/0xff",
    "-m mark --mark 7",
    "-m mark ! --mark 7",
    "-m limit --limit 1/sec --limit-burst 4",
    "-p udp -m limit --limit 1/sec --limit-burst 2 -m udp --dport 53",
    "-m statistic --mode nth --every 3 --packet 0",
    "-p udp -m connlimit --connlimit-above 3",
    "-m conntrack --ctstatus ASSURED",
    "-p tcp -m tcp --tcp-option 2",
    "-m addrtype --dst-type LOCAL",
    "",
];

fn with(family: Family, hook: Hook) -> Vec<&'static str> {
    let mut conds = CONDS.to_vec();
    conds.extend(match family {
        Family::V4 => [
            "-s 10.0.0.0/8",
            "! -s 10.0.0.0/9",
            "-d 10.0.0.1",
            "-s 203.0.113.0/24",
        ],
        Family::V6 => [
            "-s fd00::/8",
            "! -s fd00::/9",
            "-d fd00::1",
            "-s 2001:db8::/32",
        ],
    });
    if matches!(hook, Hook::Forward) {
        conds.extend(["-o eth1", "! -o eth0"]);
    }
    conds.extend([
        "-m set --match-set nets src",
        "-m set ! --match-set nets dst",
        "-m set --match-set hosts src",
        "-m set ! --match-set hosts src",
        "-p udp -m set --match-set ports src,dst",
        "-m set --match-set list dst,dst",
        "-m set --match-set fleeting src",
        "-m set --match-set counting src",
    ]);
    conds
}

/// Sets with the names that [`with`] has.
pub(super) fn sets(dice: &mut Dice, family: Family) -> Sets {
    let mut sets = Sets::default();
    for (name, kind) in [
        ("nets", "hash:net"),
        ("hosts", "hash:ip"),
        ("ports", "hash:ip,port"),
        ("fleeting", "hash:ip"),
        ("counting", "hash:ip"),
        ("taking", "hash:ip"),
        ("list", "list:set"),
    ] {
        let kind = KINDS.iter().find(|k| k.name == kind).unwrap();
        let options = Options {
            timeout: (name == "fleeting").then_some(600),
            counters: name == "counting",
            ..Options::default()
        };
        let family = kind.families.then_some(family);
        sets.create(name, Set::new(kind, family, options)).unwrap();
    }
    for name in ["nets", "hosts", "ports", "fleeting", "counting", "taking"] {
        let set = sets.get_mut(name).unwrap();
        // Some have so many that they are searched.
        for _ in 0..dice.of(&[1, 4, 60]) {
            let (key, change) = member(dice, family, set.kind);
            if let Ok(key) = set.normal(key) {
                let _ = set.add(key, &change, true, 0);
            }
        }
    }
    for name in ["nets", "ports"] {
        let change = Change::default();
        sets.add_set("list", name, None, &change, false, 0).unwrap();
    }
    sets
}

fn member(dice: &mut Dice, family: Family, kind: &Kind) -> (Key, Change) {
    let net = kind.name == "hash:net";
    let full = if family == Family::V4 { 32 } else { 128 };
    let len = match net {
        true => dice.of(&[full, full - 1, full - 8, full - 24]),
        false => full,
    };
    let bytes = address(dice, family, false).into_iter();
    let mut addr = bytes.fold(0u128, |all, byte| all << 8 | u128::from(byte));
    if dice.below(2) == 0 {
        addr += dice.below(3000) as u128;
    }
    let mut key = Key::default();
    key.addrs[0] = addr >> (full - len) << (full - len);
    key.lengths[0] = len;
    if kind.name == "hash:ip,port" {
        (key.proto, key.port) = (proto::UDP, dice.of(&[7, 53, 80]));
    }
    let nomatch = net && dice.below(4) == 0;
    let change = Change {
        nomatch,
        ..Change::default()
    };
    (key, change)
}

/// Where a chain is.
#[derive(Clone, Copy)]
enum Hook {
    Early,
    Input,
    Forward,
}

const TARGETS_OF_RULES: &[&str] = &[
    "",
    "-j ACCEPT",
    "-j ACCEPT",
    "-j DROP",
    "-j DROP",
    "-j DROP",
    "-j RETURN",
    "-j LOG",
    "-j SET --add-set taking src",
    "-j one",
    "-j one",
    "-g two",
    "-j REJECT",
];

fn chain(dice: &mut Dice, family: Family, (name, hook): (&str, Hook), targets: &[&str]) -> String {
    let conds = with(family, hook);
    let mut text = String::new();
    for cond in dice.some(&conds, 5) {
        let target = dice.of(targets);
        text += &format!("-A {name} {cond} {target}\n");
    }
    text
}

/// Many rules in a row that end a packet's walk, and a few that do not, about addresses and
/// ports of [`packet`]s and beside them.
pub(super) fn long_chain(dice: &mut Dice, family: Family, name: &str) -> String {
    let mut text = String::new();
    let nets = match family {
        Family::V4 => ["10.0.0.", "10.1.0.", "203.0.113.", "10.128.0."],
        Family::V6 => ["fd00::", "fd01::", "2001:db8::", "fd80::"],
    };
    for _ in 0..dice.below(300) {
        let mut line = format!("-A {name}");
        let lens = match family {
            Family::V4 => ["32", "32", "32", "31", "28", "9"],
            Family::V6 => ["128", "128", "128", "127", "120", "64"],
        };
        for side in ["-s", "-d"] {
            if dice.below(2) == 0 {
                let host = dice.of(&["1", "2", "9", "77", "78", "100"]);
                let (not, net, len) = (dice.below(16) == 0, dice.of(&nets), dice.of(&lens));
                let not = if not { "! " } else { "" };
                line += &format!(" {not}{side} {net}{host}/{len}");
            }
        }
        line += dice.of(&["", " -p udp", " -p tcp", " ! -p udp", " -p 47"]);
        if line.ends_with("udp") && !line.contains("! -p") || line.ends_with("tcp") {
            line += dice.of(&["", " --dport 53", " --dport 50:100", " --sport 1000:65535"]);
            line += dice.of(&["", "", " -m multiport --dports 7,22,80,443,8000:9000"]);
        }
        line += dice.of(&[
            "",
            "",
            "",
            " -i eth0",
            " -m ttl --ttl-lt 40",
            " -m mark --mark 7",
        ]);
        let ends = ["-j DROP", "-j DROP", "-j DROP", "-j ACCEPT", "-j RETURN"];
        let rare = ["-j REJECT", "-j LOG", "", "-j two"];
        let rarely = dice.below(12) == 0;
        let target = if rarely {
            dice.of(&rare)
        } else {
            dice.of(&ends)
        };
        text += &format!("{line} {target}\n");
    }
    text
}

pub(super) fn rules(dice: &mut Dice, family: Family) -> String {
    let mut text = String::new();
    let plain = ["", "-j ACCEPT", "-j DROP", "-j RETURN"];
    if dice.below(3) == 0 {
        let raw = ["-j NOTRACK", "-j ACCEPT", "-j DROP", "-j TRACE"];
        let chain = chain(dice, family, ("PREROUTING", Hook::Early), &raw);
        text += &format!("*raw\n{}COMMIT\n", without(&chain, "-m conn"));
    }
    if dice.below(2) == 0 {
        let marks = [
            "-j MARK --set-mark 7",
            "-j MARK --or-mark 1",
            "-j ACCEPT",
            "-j DROP",
        ];
        text += "*mangle\n";
        text += &chain(dice, family, ("PREROUTING", Hook::Early), &marks);
        text += &chain(dice, family, ("INPUT", Hook::Input), &plain);
        text += &chain(dice, family, ("FORWARD", Hook::Forward), &marks);
        text += "COMMIT\n";
    }
    if dice.below(2) == 0 {
        let to = match family {
            Family::V4 => "-j DNAT --to-destination 10.1.0.9",
            Family::V6 => "-j DNAT --to-destination fd01::9",
        };
        text += "*nat\n";
        let nat = [to, "-j ACCEPT", "-j RETURN"];
        let mut chain = chain(dice, family, ("PREROUTING", Hook::Early), &nat);
        if dice.below(3) == 0 {
            chain += &long_chain(dice, family, "PREROUTING").replace("-j DROP", to);
            chain = without(&without(&chain, "REJECT"), "-j two");
        }
        for line in chain.lines() {
            if dice.below(3) == 0 && line.contains("-p ") {
                text += &format!("{line}\n");
            }
        }
        text += "COMMIT\n";
    }
    let policies = [0; 2].map(|_| dice.of(&["DROP", "DROP", "ACCEPT"]));
    text += &format!(
        "*filter\n:INPUT {} [0:0]\n:FORWARD {} [0:0]\n",
        policies[0], policies[1]
    );
    text += ":one - [0:0]\n:two - [0:0]\n";
    for place in [("INPUT", Hook::Input), ("FORWARD", Hook::Forward)] {
        text += &chain(dice, family, place, TARGETS_OF_RULES);
        if dice.below(2) == 0 {
            text += &long_chain(dice, family, place.0);
        }
    }
    text += &chain(
        dice,
        family,
        ("one", Hook::Early),
        &[&plain[..], &["-g two"]].concat(),
    );
    if dice.below(4) == 0 {
        text += &long_chain(dice, family, "one");
    }
    text += &chain(dice, family, ("two", Hook::Early), &plain);
    text += "COMMIT\n";
    match family {
        Family::V4 => text,
        Family::V6 => text.replace("-m ttl --ttl-lt", "-m hl --hl-lt"),
    }
}

/// Tables before connection tracking have no such matches in real rulesets.
fn without(chain: &str, word: &str) -> String {
    let lines = chain.lines().filter(|l| !l.contains(word));
    lines.map(|l| format!("{l}\n")).collect()
}

fn address(dice: &mut Dice, family: Family, own: bool) -> Vec<u8> {
    let nets: [(u32, u128); 5] = [
        (0x0a00_0000, 0xfd << 120),
        (0x0a01_0000, 0xfd01 << 112),
        (0xcb00_7100, 0x2001_0db8 << 96),
        (0x0a80_0000, 0xfd80 << 112),
        (0x7f00_0000, 0xfe80 << 112),
    ];
    let (v4, v6) = nets[if own { dice.below(2) } else { dice.below(5) }];
    let host = dice.of(&[1, 2, 9, 77, 255]);
    match family {
        Family::V4 => (v4 | host).to_be_bytes().into(),
        Family::V6 => (v6 | u128::from(host)).to_be_bytes().into(),
    }
}

/// A packet of every kind, mostly ones that open a connection.
pub(super) fn packet(dice: &mut Dice, family: Family) -> Vec<u8> {
    let (src, dst) = (address(dice, family, false), address(dice, family, true));
    let protocol = dice.of(&[
        proto::UDP,
        proto::UDP,
        proto::TCP,
        proto::TCP,
        proto::TCP,
        1,
    ]);
    let ports = [
        dice.of(&[1000_u16, 53, 4242]),
        dice.of(&[53_u16, 80, 22, 443, 8080, 7]),
    ];
    let flags = dice.of(&[2_u8, 2, 2, 0xc2, 0x10, 0x12, 4, 3, 0]);
    let payload = dice.of(&[0_usize, 0, 20, 100, 1000]);
    let mut l4 = ports.map(u16::to_be_bytes).concat();
    let at = match protocol {
        proto::TCP => {
            l4.extend([
                0, 0, 3, 232, 0, 0, 0, 0, 0x60, flags, 0xff, 0xff, 0, 0, 0, 0,
            ]);
            l4.extend([2, 4, 5, 0xb4]);
            16
        }
        proto::UDP => {
            l4.extend((8 + payload as u16).to_be_bytes());
            l4.extend([0, 0]);
            6
        }
        _ => {
            l4 = vec![8, 0, 0, 0, 0, 9, 0, 1];
            2
        }
    };
    l4.resize(l4.len() + payload, 7);
    let mut sums = [src.clone(), dst.clone()].concat();
    sums.extend([0, protocol]);
    sums.extend((l4.len() as u16).to_be_bytes());
    sums.extend(&l4);
    let sum = checksum::finish(0, if protocol == 1 { &l4 } else { &sums });
    let absent = protocol == proto::UDP && dice.below(8) == 0;
    let wrong = u16::from(dice.below(12) == 0);
    let sum = if absent { 0 } else { sum ^ wrong };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let (tos, ttl) = (dice.of(&[0, 0, 0x10]), dice.of(&[64, 64, 30, 1]));
    let mut bytes = match family {
        Family::V4 => {
            let fragment = dice.of(&[0, 0, 0, 0, 0, 0, 0x20]);
            let mut head = vec![0x45, tos];
            head.extend((20 + l4.len() as u16).to_be_bytes());
            head.extend([0, 7, fragment, 0, ttl, protocol, 0, 0]);
            head
        }
        Family::V6 => {
            let mut head = vec![0x60 | tos >> 4, tos << 4, 0, 0];
            head.extend((l4.len() as u16).to_be_bytes());
            head.extend([protocol, ttl]);
            head
        }
    };
    bytes.extend(src);
    bytes.extend(dst);
    if family == Family::V4 {
        checksum::fix_ipv4(&mut bytes);
    }
    bytes.extend(l4);
    bytes
}
