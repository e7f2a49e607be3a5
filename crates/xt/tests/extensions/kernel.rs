//! The cases against the real tool and kernel: needs root, `unshare` and
//! `iptables-legacy`. Run with `cargo test -p tidegate-xt -- --ignored`.

use std::{collections::HashMap, fs, io::Write, process};

use tidegate_wire::Family;
use tidegate_xt::{ALL, Case, Expect, Extension, Instance, ListCtx, Lower, Names, help};

use crate::common;

/// Rules that the installed tool (1.8.9) reads or prints in another way than the one
/// we follow (1.8.13), or where we deliberately differ.
const DIFFERENT: &[&str] = &[
    "-m conntrack --ctproto 0",
    "-m conntrack --ctexpire 4:3",
    "-m length --length 5:4",
    "-p tcp -m multiport",
    "-p udp -m udp --dport 30:20",
    // 1.8.13 saves an inverted range of everything and refuses ranges that run backwards.
    "-p ah -m ah ! --ahspi 0:4294967295",
    "-p esp -m esp ! --espspi 0:4294967295",
    "-m frag ! --fragid 0:4294967295",
    "-p ipcomp -m ipcomp ! --ipcompspi :",
    "-m rt ! --rt-segsleft 0:4294967295",
    "-p dccp -m dccp --dport 3:1",
    "-p esp -m esp --espspi 7:5",
    "-m frag --fragid 5:1",
    "-p tcp -m tcpmss --mss 65535:1",
    "-m physdev --physdev-in aaaaaaaaaaaaaaaaaaaaaaa",
    // Ours asks for any index, which the tool saves so.
    "-p ipcomp -m ipcomp",
    // Needs a name server, or the tool's lists of names.
    "-m recent --set --mask foo",
    "-m connlabel --label foo",
    "-m connlabel --label -1",
    // A warning stands before the error.
    "-m time --timestart 08:00 --utc --localtz",
    "-p udp -m udp ! --sport 0:65535",
];

/// Beginnings of rules that the kernel or this test's reader takes in another way: there
/// is nothing by the names in them, protocols have names, a listing ends with a NUL.
const DIFFERENT_STARTS: &[&str] = &[
    "-j CLUSTERIP",
    "-j LED",
    "-j SECMARK",
    "-j SET",
    "-j ULOG",
    "-m ipvs",
    "-m nfacct",
    "-m rateest",
    "-m set",
    "-m owner",
    "-m bpf --bytecode",
    "-p 108",
    "-p 89",
    "-p ipv6-mh",
];

/// Port names of the host.
struct Services(HashMap<(u16, String), String>);

impl Services {
    fn read() -> Self {
        let text = fs::read_to_string("/etc/services").unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let name = words.next()?.to_owned();
            let (port, proto) = words.next()?.split_once('/')?;
            Some(((port.parse().ok()?, proto.to_owned()), name))
        };
        Services(text.lines().rev().filter_map(entry).collect())
    }
}

impl Names for Services {
    fn service_name(&self, port: u16, proto: Option<&str>) -> Option<String> {
        self.0.get(&(port, proto?.to_owned())).cloned()
    }
}

fn tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

fn script(cases: &[&Case]) -> String {
    let mut out = String::from("ip link set lo up\n");
    for policy in [
        "tcp4 inet tcp established 100",
        "udp6 inet6 udp replied 100",
        "rest inet generic timeout 100",
    ] {
        out += &format!("nfct add timeout {policy}\n");
    }
    for case in cases {
        let (table, hook) = case.place;
        let run = format!("{} -t {}", tool(case.family), table.name());
        let chain = hook.chain_name();
        let rule = case.rule.replace('!', "\\!");
        out += &format!("{run} -F\nout=$({run} -A {chain} {rule} 2>&1)\n");
        out += "echo \"rc $?\"; echo \"$out\"; echo --\n";
        out += &format!("{run} -S {chain} | tail -n +2\necho --\n");
        out += &format!("{run} -n -L {chain} | tail -n +3\necho --\n");
        out += &format!("{run} -L {chain} | tail -n +3\necho ==\n");
    }
    out
}

fn run(script: &str) -> String {
    let lock = concat!(env!("CARGO_TARGET_TMPDIR"), "/xtables.lock");
    let mut child = process::Command::new("unshare")
        .args(["-n", "sh"])
        .env("XTABLES_LOCKFILE", lock)
        .stdin(process::Stdio::piped())
        .stdout(process::Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut stdin = child.stdin.take().expect("a pipe");
    let script = script.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().expect("output");
    writer.join().expect("writer").expect("script written");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn listed(case: &Case, rule: &common::Rule, names: &Services, numeric: bool) -> String {
    let ctx = ListCtx {
        family: case.family,
        numeric,
        proto: rule.proto.map_or(0, |p| p.0),
        names,
    };
    let parts = rule.matches.iter().chain(&rule.target);
    parts.map(|x: &Instance| x.list(&ctx)).collect()
}

/// Whether a line of `-L` ends in the wanted text right after the address column.
fn column_matches(line: &str, wanted: &str) -> bool {
    let columns = ["0.0.0.0/0", "::/0", "anywhere"];
    let head = line.strip_suffix(wanted).unwrap_or("");
    columns.iter().any(|c| head.ends_with(&format!("{c:<20}")))
}

/// Whether the tool's complaint is ours; the test's own reader has none to compare.
fn compare_error(fault: &common::Fault, answer: &str) -> Result<(), String> {
    if matches!(fault, common::Fault::Reader(_)) {
        return Ok(());
    }
    let answer = answer.split("\nTry `").next().unwrap_or("");
    let text = answer.split_once(": ").map_or("", |a| a.1);
    if text.trim_end() == fault.text().trim_end() {
        return Ok(());
    }
    Err(format!("the tool says {answer:?}, we {:?}", fault.text()))
}

fn compare(case: &Case, answer: &str, names: &Services) -> Result<(), String> {
    let rule = common::parse(case.family, case.place, case.rule);
    let (status, body) = answer.split_once('\n').unwrap_or((answer, ""));
    if (status == "rc 0") != (case.expect != Expect::Fail) {
        return Err(format!("the tool says {status}"));
    }
    let mut parts = body.split("--\n");
    let mut part = || parts.next().unwrap_or("").trim_end_matches('\n').to_owned();
    let (error, saved, numeric, named) = (part(), part(), part(), part());
    let rule = match rule {
        Ok(rule) => rule,
        Err(fault) => return compare_error(&fault, &error),
    };
    let ours = common::save(&rule, case.family);
    if !saved.ends_with(&format!(" {ours}")) {
        return Err(format!("the tool saves {saved}"));
    }
    for (line, is_numeric) in [(numeric, true), (named, false)] {
        let wanted = listed(case, &rule, names, is_numeric);
        if !column_matches(&line, &wanted) {
            return Err(format!("the tool lists {line:?}, we {wanted:?}"));
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root, unshare and iptables-legacy"]
fn the_tool_agrees_with_the_cases() {
    let cases: Vec<&Case> = ALL.iter().flat_map(|e| e.cases).collect();
    let answers = run(&script(&cases));
    let answers: Vec<&str> = answers.split("==\n").collect();
    assert_eq!(answers.len(), cases.len() + 1);
    let names = Services::read();
    let mut faults = Vec::new();
    for (case, answer) in cases.iter().zip(answers) {
        let start = DIFFERENT_STARTS.iter().any(|s| case.rule.starts_with(s));
        if start || DIFFERENT.contains(&case.rule) {
            continue;
        }
        if let Err(e) = compare(case, answer, &names) {
            faults.push(format!("{}: {e}", case.rule));
        }
    }
    assert!(
        faults.is_empty(),
        "{} faults\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// Where 1.8.13 knows more types than the installed tool.
const OTHER_HELP: &[&str] = &["icmp", "icmp6"];

#[test]
#[ignore = "needs iptables-legacy"]
fn the_tool_helps_in_the_same_words() {
    let families = |ext: &Extension| {
        let all = [
            (Family::V4, "iptables-legacy"),
            (Family::V6, "ip6tables-legacy"),
        ];
        all.into_iter()
            .filter(|f| ext.families.contains(f.0))
            .collect::<Vec<_>>()
    };
    let mut compared = 0;
    for ext in ALL.iter().filter(|e| !OTHER_HELP.contains(&e.name)) {
        let option = match ext.lower {
            Lower::Match(_) => "-m",
            Lower::Target(_) => "-j",
        };
        for (_, tool) in families(ext) {
            let mut command = process::Command::new(tool);
            let output = command.args([option, ext.name, "-h"]).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let own = help(ext);
            assert!(
                text.ends_with(&format!("\n{own}")),
                "{tool} {}:\n{text}\n{own}",
                ext.name
            );
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}
