//! Random options: whatever is accepted is saved in a form that is read as the same
//! rule and saved the same again, and nothing panics.

use proptest::{prelude::*, strategy::ValueTree};
use tidegate_ir::{Hook, TableKind};
use tidegate_wire::Family;
use tidegate_xt::{ALL, Extension, ListCtx, Lower, LowerCtx, NoNames};

use crate::common;

/// Words that mean something to one option or another, and some that mean nothing.
const WORDS: &[&str] = &[
    "0",
    "1",
    "5:9",
    "9:5",
    ":",
    ":7",
    "80",
    "443",
    "65535",
    "65536",
    "255",
    "256",
    "0x10",
    "0x10/0xf0",
    "1/2/3",
    "010",
    "-1",
    "4294967295",
    "4294967296",
    "22,80,1000:2000",
    "1,",
    "",
    "NEW",
    "new,rel",
    "NONE",
    "ASSURED,EXPECTED",
    "UNTRACKED,SNAT",
    "ORIGINAL",
    "tcp",
    "all",
    "10.0.0.1",
    "10.0.0.1-10.0.0.9",
    "10.0.0.0/24",
    "10.0.0.0/255.0.255.0",
    "10.0.0.1:80-90/5",
    "10.0.0.1:80-90",
    ":80",
    "2001:db8::1",
    "[2001:db8::1]:80",
    "2001:db8::/33",
    "3/hour",
    "7/sec",
    "1/day",
    "LOCAL,UNICAST",
    "MULTICAST",
    "EF",
    "af21",
    "Minimize-Delay",
    "random",
    "nth",
    "0.5",
    "1e-3",
    "nan",
    "echo-request",
    "3/4",
    "3/1:5",
    "any",
    "mark",
    "ftp",
    "warning",
    "net",
    "icmp-net-unreachable",
    "tcp-reset",
    "word",
    "two words",
    "é ü",
    "\\\"'",
    "SYN,ACK",
    "ALL",
];

fn quote(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

fn rule(ext: &Extension, picks: &[(usize, bool, usize, usize)], proto: usize) -> String {
    let protos = [
        "",
        "-p tcp ",
        "-p udp ",
        "-p icmp ",
        "-p ipv6-icmp ",
        "! -p tcp ",
    ];
    let flag = match ext.lower {
        Lower::Match(_) => "-m",
        Lower::Target(_) => "-j",
    };
    let syn = if ext.name == "TCPMSS" {
        "-m tcp --syn "
    } else {
        ""
    };
    let mut out = format!("{}{syn}{flag} {}", protos[proto % protos.len()], ext.name);
    for &(opt, invert, first, second) in picks {
        let Some(row) = ext.options.get(opt % ext.options.len().max(1)) else {
            continue;
        };
        out += if invert { " ! " } else { " " };
        out += &format!("--{}", row.name);
        for word in [first, second].iter().take(row.arity()) {
            out += &format!(" {}", quote(WORDS[word % WORDS.len()]));
        }
    }
    out
}

fn place(ext: &Extension) -> (TableKind, Hook) {
    let table = ext
        .legal
        .tables
        .first()
        .copied()
        .unwrap_or(TableKind::Filter);
    let hooks = ext.legal.hooks;
    let hook = hooks.first().copied();
    (
        table,
        hook.unwrap_or(table.hooks()[table.hooks().len() - 1]),
    )
}

fn saved_form_is_fixed(family: Family, place: (TableKind, Hook), line: &str) -> bool {
    let Ok(rule) = common::parse(family, place, line) else {
        return false;
    };
    let saved = common::save(&rule, family);
    let again = common::parse(family, place, &saved);
    let again = again.unwrap_or_else(|e| panic!("{line}\n{saved}\n{e:?}"));
    assert_eq!(again, rule, "{line}\n{saved}");
    assert_eq!(common::save(&again, family), saved);
    let mut steps = Vec::new();
    let mut ctx = LowerCtx::new(family, &mut steps, tidegate_xt::Sockets::All);
    for numeric in [true, false] {
        let list = ListCtx {
            family,
            numeric,
            proto: 6,
            names: &NoNames,
        };
        for x in rule.matches.iter().chain(&rule.target) {
            let text = x.list(&list);
            let apart = text.starts_with(' ') || text == "eui64 ";
            assert!(text.is_empty() || apart, "{text}");
            let _ = (x.condition(&mut ctx), x.outcome(&mut ctx));
        }
    }
    true
}

#[test]
fn accepted_rules_are_saved_in_a_fixed_form() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let pick = (
        0..16usize,
        proptest::bool::weighted(0.2),
        0..WORDS.len(),
        0..WORDS.len(),
    );
    let input = (
        0..ALL.len(),
        proptest::collection::vec(pick, 0..3),
        0..6usize,
    );
    let mut accepted = 0;
    for _ in 0..60_000 {
        let tree = input.new_tree(&mut runner).expect("a value");
        let (index, picks, proto) = tree.current();
        let ext = ALL[index];
        let line = rule(ext, &picks, proto);
        for family in [Family::V4, Family::V6] {
            if ext.families.contains(family) {
                accepted += usize::from(saved_form_is_fixed(family, place(ext), &line));
            }
        }
    }
    assert!(accepted > 5_000, "only {accepted} rules were accepted");
}
