//! Odd and large rules files, next to the real tool. Needs root for the comparison.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{Host, Run, finish};

/// What a restore answers, and the table filter afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: i32,
    rules: String,
}

fn ours(options: &[&str], files: &[String]) -> (Answer, String) {
    let host = Host::new();
    let words = [&["iptables-restore"], options].concat();
    let mut last = Run {
        status: 0,
        out: String::new(),
        err: String::new(),
    };
    for file in files {
        last = host.feed(&words, file);
    }
    let rules = host.run(&["iptables", "-S"]).out;
    let status = last.status;
    (Answer { status, rules }, last.err)
}

/// `None` where the real tool cannot be had.
fn theirs(options: &[&str], files: &[String]) -> Option<Answer> {
    let lock = tempfile::NamedTempFile::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let restore = format!("iptables-legacy-restore {}", options.join(" "));
    let mut script = String::from("iptables-legacy -S >/dev/null || exit 99\n");
    for (n, file) in files.iter().enumerate() {
        let path = directory.path().join(n.to_string());
        std::fs::write(&path, file).unwrap();
        script += &format!("{restore} <{} >/dev/null 2>&1; status=$?\n", path.display());
    }
    script += "iptables-legacy -S; exit $status\n";
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .env("XTABLES_LOCKFILE", lock.path())
        .stdin(Stdio::null())
        .output();
    let run = output.ok().map(finish).filter(|run| run.status != 99);
    let Some(run) = run else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: cannot run iptables-legacy in a network namespace"
        );
        return None;
    };
    Some(Answer {
        status: run.status,
        rules: run.out,
    })
}

/// Compares, and gives our error output.
fn same(options: &[&str], files: &[&str]) -> String {
    let files: Vec<String> = files.iter().map(|&f| f.to_owned()).collect();
    let (ours, err) = ours(options, &files);
    if let Some(theirs) = theirs(options, &files) {
        assert_eq!(ours, theirs, "{options:?} {files:.200?}: {err}");
    }
    err
}

/// `*filter`, `rules`, `COMMIT`.
fn filter(rules: &str) -> String {
    format!("*filter\n{rules}COMMIT\n")
}

#[test]
fn ends_of_lines_and_of_files() {
    let rules = "-A INPUT -s 1.2.3.4 -j DROP\n";
    assert_eq!(same(&[], &[&filter(rules)]), "");
    for crlf in [
        filter(rules).replace('\n', "\r\n"),
        filter("-A INPUT -s 1.2.3.4\r\n"),
        format!("*filter\n{rules}COMMIT\r\n"),
    ] {
        assert!(!same(&[], &[&crlf]).is_empty());
    }
    let missing = format!("*filter\n{rules}");
    assert_eq!(
        same(&[], &[&missing]),
        "iptables-restore: COMMIT expected at line 3\n"
    );
    same(&[], &[filter(rules).trim_end()]);
    same(&[], &["", "\n\n# nothing\n"]);
    same(&[], &[" *filter\nCOMMIT\n"]);
    same(
        &[],
        &[&filter("  -A INPUT -j DROP\n\t-A INPUT  -j\tACCEPT \n")],
    );
}

/// The kernel's lists end at a NUL byte; a rule that is cut there is not the rule.
#[test]
fn nul_bytes_are_refused() {
    for rules in [
        "-A INPUT -s 1.2.3.4\0 -j DROP\n",
        "-A INPUT -m comment --comment \"a\0b\" -j DROP\n",
    ] {
        let (answer, err) = ours(&[], &[filter(rules)]);
        assert_eq!(answer.status, 2);
        assert!(
            err.contains("NUL byte in the line\nError occurred at line: 2\n"),
            "{err}"
        );
        assert!(!answer.rules.contains("-A"), "{answer:?}");
    }
}

#[test]
fn one_table_twice_and_options() {
    let (first, second) = (filter("-A INPUT -j DROP\n"), filter("-A OUTPUT -j DROP\n"));
    let twice = format!("{first}{second}");
    let nat = "*nat\n-A PREROUTING -j ACCEPT\nCOMMIT\n";
    let chains = filter(":a - [0:0]\n:INPUT DROP [5:6]\n[7:8] -A a -j DROP\n-A INPUT -j a\n");
    for options in [
        &[][..],
        &["-n"],
        &["-c"],
        &["-t"],
        &["-T", "filter"],
        &["-T", "nat"],
    ] {
        same(options, &[&twice]);
        same(options, &[&first, &second]);
        same(options, &[&first, &format!("{nat}{second}")]);
        same(options, &[&chains, &first]);
        same(options, &[&first, &chains, &chains]);
    }
    // With -n a chain that is named again is emptied, others stay.
    same(&["-n"], &[&chains, &filter(":a - [0:0]\n-A a -j ACCEPT\n")]);
    same(&["-n"], &[&chains, &filter("-D INPUT -j a\n-F a\n-X a\n")]);
    same(
        &["-n"],
        &[
            &chains,
            &filter("-I INPUT 1 -s 1.1.1.1\n-R INPUT 2 -p udp\n-P OUTPUT DROP\n-E a b\n"),
        ],
    );
    same(&["-v"], &[&twice]);
}

#[test]
fn circles_and_depth() {
    let circle = ":a - [0:0]\n:b - [0:0]\n-A INPUT -j a\n-A a -j b\n-A b -j a\n";
    let err = same(&[], &[&filter(circle)]);
    assert_eq!(
        err,
        "iptables-restore: line 7 failed\nChains jump in a circle: a -> b -> a\n"
    );
    // Nobody gets there.
    same(&[], &[&filter(&circle.replace("-A INPUT -j a\n", ""))]);
    same(&[], &[&filter(":a - [0:0]\n-A a -j a\n-A INPUT -g a\n")]);
    let deep: String = (0..1000).map(|i| format!(":c{i} - [0:0]\n")).collect();
    let jumps: String = (1..1000)
        .map(|i| format!("-A c{} -j c{i}\n", i - 1))
        .collect();
    same(&[], &[&filter(&format!("{deep}-A INPUT -j c0\n{jumps}"))]);
}

#[test]
fn ten_thousand_chains() {
    let chains: String = (0..10_000).map(|i| format!(":c{i:05} - [0:0]\n")).collect();
    let rules: String = (0..10_000)
        .map(|i| format!("-A INPUT -s 10.0.{}.{} -j c{i:05}\n", i / 256, i % 256))
        .collect();
    same(&[], &[&filter(&format!("{chains}{rules}"))]);
}

/// The real tool cuts lines of 10,240 bytes; ours takes them.
#[test]
fn very_long_lines() {
    let blanks = " ".repeat(5000);
    same(
        &[],
        &[&filter(&format!("-A INPUT{blanks}-j{blanks}DROP\n"))],
    );
    let addresses: Vec<String> = (0..5000)
        .map(|i| format!("10.{}.{}.1", i / 256, i % 256))
        .collect();
    let line = format!("-A INPUT -s {} -j DROP\n", addresses.join(","));
    assert!(line.len() > 50_000);
    let (answer, err) = ours(&[], &[filter(&line)]);
    assert_eq!((answer.status, err.as_str()), (0, ""));
    assert_eq!(answer.rules.matches("-A INPUT").count(), 5000);
    let junk = format!("-A INPUT --{} -j DROP\n", "x".repeat(10_000_000));
    let (answer, _) = ours(&[], &[filter(&junk)]);
    assert_eq!(answer.status, 2);
    let comment = "y".repeat(255);
    same(
        &[],
        &[&filter(&format!(
            "-A INPUT -m comment --comment {comment} -j DROP\n"
        ))],
    );
}
