//! How long questions about many rules take: `check`, `diff` and `query` as they are called.
//!
//! Rules are of two kinds: a block list of networks, and a mixture in which each rule asks for
//! some of source, destination, interface, protocol, ports and state, so that many overlap.
//! `cargo bench -p tidegate --bench questions -- check mixed` asks those questions alone.
#![allow(missing_docs)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n
    }

    fn network(&mut self) -> String {
        let len = [32, 32, 32, 24, 24, 16, 28][self.below(7) as usize];
        let addr = (self.below(1 << 32) as u32) & (u32::MAX << (32 - len));
        format!("{}/{len}", std::net::Ipv4Addr::from(addr))
    }
}

fn blocked(r: &mut Random) -> String {
    format!(" -s {} -j DROP", r.network())
}

fn mixed(r: &mut Random) -> String {
    let mut rule = String::new();
    let source = r.below(10) < 6;
    if source {
        let _ = write!(rule, " -s {}", r.network());
    }
    let destination = r.below(10) < 4;
    if destination {
        let _ = write!(rule, " -d {}", r.network());
    }
    if r.below(10) == 0 {
        let _ = write!(rule, " -i {}", ["eth0", "eth1", "wg0"][r.below(3) as usize]);
    }
    let proto = ["tcp", "tcp", "udp"][r.below(3) as usize];
    let ports = match r.below(10) {
        0..=4 => format!(" -m {proto} --dport {}", 1 + r.below(65_000)),
        5 => {
            let lo = 1 + r.below(60_000);
            format!(" -m {proto} --dport {lo}:{}", lo + r.below(2_000))
        }
        6 => {
            let list: Vec<String> = (0..5).map(|_| (1 + r.below(65_000)).to_string()).collect();
            format!(" -m multiport --dports {}", list.join(","))
        }
        // Some rules are about everything from or to somewhere.
        _ if source || destination => String::new(),
        _ => format!(" -m {proto} --dport {}", 1 + r.below(65_000)),
    };
    if !ports.is_empty() || r.below(2) == 0 {
        let _ = write!(rule, " -p {proto}{ports}");
    }
    if r.below(10) == 0 {
        rule += " -m conntrack --ctstate NEW";
    }
    let _ = write!(
        rule,
        " -j {}",
        ["ACCEPT", "DROP", "REJECT"][r.below(3) as usize]
    );
    rule
}

fn rules(count: u64, rule: fn(&mut Random) -> String) -> Vec<String> {
    let mut r = Random(count);
    (0..count).map(|_| rule(&mut r)).collect()
}

fn file(path: &Path, rules: &[String]) {
    let mut text = String::from(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
         -A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
    );
    for rule in rules {
        let _ = writeln!(text, "-A INPUT{rule}");
    }
    text += "COMMIT\n";
    fs::write(path, text).expect("a file in a directory of our own");
}

/// What becomes of a list of mixed rules.
type Change = fn(&mut Vec<String>, &mut Random);

/// Changes that touch much.
const CHANGES: [(&str, Change); 4] = [
    ("200 have changed places", |list, r| {
        for _ in 0..100 {
            let [a, b] = [(); 2].map(|()| r.below(list.len() as u64) as usize);
            list.swap(a, b);
        }
    }),
    ("500 doubled elsewhere", |list, r| {
        for at in 0..500 {
            let rule = list[at].clone();
            list.insert(r.below(list.len() as u64) as usize, rule);
        }
    }),
    ("all in another order", |list, r| {
        for at in (1..list.len()).rev() {
            list.swap(at, r.below(at as u64 + 1) as usize);
        }
    }),
    ("every other one is another", |list, r| {
        list.iter_mut().step_by(2).for_each(|rule| *rule = mixed(r));
    }),
];

/// Asks, unless words on the command line are about other questions.
fn time(what: &str, args: &[&str]) {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'));
    if !words.all(|word| what.contains(&word)) {
        return;
    }
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(args)
        .output()
        .expect("the program that has just been built");
    let took = start.elapsed().as_secs_f64();
    let text = String::from_utf8_lossy(&output.stdout);
    let unknown = text
        .lines()
        .find(|l| l.contains("unknown") || l.contains("TG000"));
    println!(
        "{what:<44} {took:>6.2} s   {:>6} lines   {}",
        text.lines().count(),
        unknown.unwrap_or("").trim()
    );
}

fn main() {
    let dir = tempfile::tempdir().expect("a directory of our own");
    let (a, b) = (dir.path().join("a.rules"), dir.path().join("b.rules"));
    let (a_name, b_name) = (a.display().to_string(), b.display().to_string());
    for (kind, rule) in [
        ("block list", blocked as fn(&mut Random) -> String),
        ("mixed", mixed),
    ] {
        for count in [300, 1_000, 3_000, 10_000] {
            let list = rules(count, rule);
            file(&a, &list);
            time(
                &format!("check, {kind}, {count} rules"),
                &["check", &a_name],
            );
            let mut other = list.clone();
            for at in (0..list.len()).step_by(list.len() / 10) {
                other[at] = rule(&mut Random(at as u64 + 7));
            }
            file(&b, &other);
            time(
                &format!("diff, {kind}, {count} rules, 10 changed"),
                &["diff", &a_name, &b_name],
            );
            if count <= 1_000 {
                file(&b, &rules(count + 1, rule));
                time(
                    &format!("diff, {kind}, {count} rules, all changed"),
                    &["diff", &a_name, &b_name],
                );
            }
            for (what, change) in CHANGES.iter().filter(|_| kind == "mixed" && count == 1_000) {
                let mut other = list.clone();
                change(&mut other, &mut Random(5));
                file(&b, &other);
                time(
                    &format!("diff, mixed, 1000 rules, {what}"),
                    &["diff", &a_name, &b_name],
                );
            }
            time(
                &format!("query open 22, {kind}, {count} rules"),
                &["query", "open", "tcp/22", "--rules", &a_name],
            );
            if count <= 1_000 {
                time(
                    &format!("query services, {kind}, {count} rules"),
                    &["query", "services", "--rules", &a_name],
                );
            }
        }
    }
}
