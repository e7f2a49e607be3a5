//! Rulesets made to blow up the analysis: `check`, `query` and `diff` end, in little memory, and say what
//! they left out.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

const FILTER: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n";

/// Processor seconds and kilobytes of address space that a command has: several times what it needs,
/// with or without optimisation.
const SECONDS: u32 = 120;
const KILOBYTES: u32 = 1_000_000;

/// Only packets get past these rules whose source, read backwards, is their destination: a set
/// without a small diagram.
fn reversed(port: u32) -> String {
    let mut text = FILTER.to_owned();
    for bit in 0..24 {
        let [src, dst] = [bit, 23 - bit].map(|bit| Ipv4Addr::from(1u32 << bit));
        let _ = write!(
            text,
            "-A INPUT -s {src}/{src} -d 0.0.0.0/{dst} -j DROP\n\
             -A INPUT -s 0.0.0.0/{src} -d {dst}/{dst} -j DROP\n"
        );
    }
    for port in 1..40 {
        let _ = writeln!(text, "-A INPUT -p tcp -m tcp --dport {port} -j ACCEPT");
    }
    let _ = writeln!(
        text,
        "-A INPUT -p tcp -m tcp --dport {port} -j ACCEPT\nCOMMIT"
    );
    text
}

/// Thirty bits of a mark, each set by a condition of its own: 2^30 ways to see packets.
fn marks(first: u32) -> String {
    let mut text = "*mangle\n:PREROUTING ACCEPT [0:0]\n".to_owned();
    for i in 0..30u32 {
        let (net, mark) = (1 << (i % 8), 1u32 << i);
        let _ = writeln!(
            text,
            "-A PREROUTING -s 0.{net}.0.0/0.{net}.0.0 -p tcp -m tcp --sport {}:{} \
             -j MARK --set-xmark {mark:#x}/{mark:#x}",
            first + i * 7,
            9_000 + i * 11
        );
    }
    text += "COMMIT\n";
    text += FILTER;
    for i in 0..30u32 {
        let mark = 1u32 << i | 1 << (i * 7 % 30);
        let verdict = if i % 2 == 0 { "DROP" } else { "ACCEPT" };
        let _ = writeln!(
            text,
            "-A INPUT -m mark --mark {mark:#x}/{mark:#x} -j {verdict}"
        );
    }
    text + "COMMIT\n"
}

/// Forty chains, each of which calls the next one twice: 2^40 ways through.
fn calls(last: u32) -> String {
    let mut text = FILTER.to_owned();
    for i in 0..=40 {
        let _ = writeln!(text, ":c{i} - [0:0]");
    }
    text += "-A INPUT -j c0\n-A FORWARD -j c0\n";
    for i in 0..40 {
        let _ = write!(
            text,
            "-A c{i} -p tcp -m tcp --dport {}:{} -j c{}\n-A c{i} -s 10.{i}.0.0/16 -j c{}\n",
            i + 1,
            3_000 + i * 13,
            i + 1,
            i + 1
        );
    }
    let _ = writeln!(text, "-A c40 -d 192.0.2.{last}/32 -j ACCEPT\nCOMMIT");
    text
}

/// Hundreds of translations that meet, to several addresses each.
fn translations(first: u32) -> String {
    let mut text = "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n".to_owned();
    for i in 0..400u32 {
        let port = i * 97 % 60_000 + 1;
        let _ = writeln!(
            text,
            "-A PREROUTING -s 10.{}.0.0/16 -d 203.0.{}.0/24 -p tcp -m tcp --dport {port}:{} \
             -j DNAT --to-destination 192.168.{}.{first}-192.168.{}.14",
            i % 256,
            i % 100,
            port + 3_000,
            i % 256,
            i % 256
        );
    }
    text += "COMMIT\n";
    text += FILTER;
    for i in 0..400u32 {
        let port = i * 89 % 60_000 + 1;
        let verdict = if i % 3 == 0 { "DROP" } else { "ACCEPT" };
        let _ = writeln!(
            text,
            "-A FORWARD -s 10.{}.0.0/16 -d 192.168.{}.0/25 -p tcp -m tcp --sport {port}:{} -j {verdict}",
            i * 3 % 256,
            i * 5 % 256,
            port + 2_000
        );
    }
    text + "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n"
}

fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("a directory of our own");
    path
}

/// Runs the program within bounds; what it printed.
fn bounded(words: &[&str]) -> String {
    let limits = format!("ulimit -t {SECONDS} && ulimit -v {KILOBYTES} && exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &limits, env!("CARGO_BIN_EXE_tidegate")])
        .args(words)
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let ended = matches!(output.status.code(), Some(0 | 3));
    assert!(ended, "{words:?}: {:?} {errors}", output.status);
    text
}

const TOO_MUCH: &str = "too many combinations";

/// Rules and others are checked, compared and asked about; `says` is in the answer.
fn ends(name: &str, [text, other]: [String; 2], asked: &[&str], says: &str) {
    let dir = tempfile::tempdir().expect("a directory of our own");
    let a = file(dir.path(), name, &text);
    let b = file(dir.path(), &format!("{name}.other"), &other);
    let [a, b] = [&a, &b].map(|path| path.to_str().expect("a plain name"));
    let checked = bounded(&["check", a]);
    assert!(name != "reversed" || checked.contains("TG000"), "{checked}");
    let compared = bounded(&["diff", a, b]);
    let differs = compared.contains("newly") || compared.contains("translated");
    assert!(differs || compared.contains(TOO_MUCH), "{name}: {compared}");
    let found = bounded(&[&["query"], asked, &["--rules", a]].concat());
    assert!(found.contains(says), "{name}: {found}");
}

#[test]
fn analysis_of_sets_without_a_small_diagram_ends() {
    let both = [reversed(40), reversed(41)];
    ends("reversed", both, &["services"], TOO_MUCH);
}

#[test]
fn analysis_of_many_marks_ends() {
    let both = [marks(1_000), marks(1_001)];
    ends("marks", both, &["services"], TOO_MUCH);
}

#[test]
fn analysis_of_many_calls_ends() {
    // Ports that all ranges have, from the last one's first to the first one's last.
    let always = "tcp/40-3000 to this host as 192.0.2.1 from anywhere";
    ends("calls", [calls(1), calls(2)], &["services"], always);
}

#[test]
fn analysis_of_many_translations_ends() {
    let both = [translations(1), translations(2)];
    ends("nat", both, &["open", "22"], TOO_MUCH);
}
