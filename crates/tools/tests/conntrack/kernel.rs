//! The same commands for Debian's `conntrack` in a network namespace of its own and for
//! this one: what they print must be equal. Needs root.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tidegate_tools::Printed;

use crate::local::Local;

/// Runs all lines with the real tool, in one namespace.
fn real(lines: &[&str]) -> Option<Vec<Printed>> {
    let dir = tempfile::tempdir().ok()?;
    let mut script = String::from("conntrack --version >/dev/null || exit 77\n");
    for (i, line) in lines.iter().enumerate() {
        let _ = writeln!(
            script,
            "timeout 5 conntrack {line} >{i}.out 2>{i}.err </dev/null; echo $? >{i}.rc"
        );
    }
    let run = Command::new("unshare")
        .args(["-n", "timeout", "120", "sh", "-c", &script])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .ok()?;
    if !run.status.success() {
        return None;
    }
    (0..lines.len()).map(|i| outcome(dir.path(), i)).collect()
}

fn outcome(dir: &Path, i: usize) -> Option<Printed> {
    let read = |kind| fs::read_to_string(dir.join(format!("{i}.{kind}"))).ok();
    Some(Printed {
        out: read("out")?,
        err: read("err")?,
        status: read("rc")?.trim().parse().ok()?,
    })
}

/// Output without what differs between two runs of the same tool: the order of entries,
/// identifiers, and some seconds that may have passed.
fn plain(printed: &Printed) -> (Vec<String>, String, u8) {
    let mut lines: Vec<String> = printed.out.lines().map(plain_line).collect();
    lines.sort();
    (lines, printed.err.clone(), printed.status)
}

fn plain_line(line: &str) -> String {
    let line = match line.rsplit_once(" id=") {
        Some((before, _)) if before.contains(" use=") => format!("{before} id=N"),
        _ => line.to_owned(),
    };
    // The reference reads an SCTP state's number as a TCP state's.
    let line = match line.contains("protonum=\"132\"") {
        true => between(&line, "<state>", "</state>", |_| "S".to_owned()),
        false => line,
    };
    let line = between(&line, "<id>", "</id>", |_| "N".to_owned());
    let line = between(&line, "<timeout>", "</timeout>", hundreds);
    let line = between(&line, "-A -t ", " ", hundreds);
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let at = if line.starts_with("ipv") { 4 } else { 2 };
    if !line.starts_with(['<', '-'])
        && let Some(seconds) = words.get_mut(at)
    {
        *seconds = hundreds(seconds);
    }
    words.join(" ")
}

/// Seconds, rounded up to hundreds: the real tool's commands take a while.
fn hundreds(seconds: &str) -> String {
    match seconds.parse::<u64>() {
        Ok(n) => (n.div_ceil(100) * 100).to_string(),
        Err(_) => seconds.to_owned(),
    }
}

/// Replaces what stands between two marks.
fn between(line: &str, left: &str, right: &str, new: impl Fn(&str) -> String) -> String {
    let Some((before, rest)) = line.split_once(left) else {
        return line.to_owned();
    };
    let Some((text, after)) = rest.split_once(right) else {
        return line.to_owned();
    };
    format!("{before}{left}{}{right}{after}", new(text))
}

fn compare(lines: &[&str]) {
    let Some(theirs) = real(lines) else {
        eprintln!("SKIPPED: cannot run conntrack in a network namespace");
        return;
    };
    let local = Local::small();
    let mut differences = String::new();
    for (line, theirs) in lines.iter().zip(&theirs) {
        let (ours, theirs) = (plain(&local.run(line, "")), plain(theirs));
        if ours == theirs {
            continue;
        }
        let _ = writeln!(differences, "$ {line}");
        let (ours, theirs) = (format!("{ours:#?}"), format!("{theirs:#?}"));
        for (who, one, other) in [("ours", &ours, &theirs), ("theirs", &theirs, &ours)] {
            for line in one.lines().filter(|l| !other.contains(l)) {
                let _ = writeln!(differences, "  {who} {line}");
            }
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// All kinds of entries.
const MAKE: &str = include_str!("make.txt");
/// Filters, changes and removals on them.
const USE: &str = include_str!("use.txt");
/// What is refused, and how values are read.
const REFUSE: &str = include_str!("refuse.txt");

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
}

#[test]
fn entries_are_made_and_listed_alike() {
    let all: Vec<&str> = lines(MAKE)
        .chain(["-L", "-L -o extended,id", "-L -o xml", "-L -o save", "-C"])
        .collect();
    compare(&all);
}

#[test]
fn filters_changes_and_removals_are_alike() {
    let all: Vec<&str> = lines(MAKE).chain(lines(USE)).collect();
    compare(&all);
}

#[test]
fn refusals_are_alike() {
    compare(&lines(REFUSE).collect::<Vec<_>>());
}

/// Every option with every command.
#[test]
fn what_goes_together_is_alike() {
    const OPTIONS: &[&str] = &[
        "-s 1.1.1.1",
        "-d 1.1.1.1",
        "-r 1.1.1.1",
        "-q 1.1.1.1",
        "-p tcp",
        "-p 200",
        "-t 5",
        "-u ASSURED",
        "-z",
        "-e NEW",
        "--tuple-src 1.1.1.1",
        "--tuple-dst 1.1.1.1",
        "--mask-src 255.0.0.0",
        "--mask-dst 255.0.0.0",
        "-m 1",
        "-i 5",
        "-f ipv4",
        "-n",
        "-g",
        "-j",
        "-n 3.3.3.3",
        "-o id",
        "-w 1",
        "-l x",
        "--label-add x",
        "--label-del",
        "-c 1",
        "--orig-zone 1",
        "--reply-zone 2",
    ];
    let commands = ["-L", "-G", "-D", "-I", "-A", "-U", "-F", "-C", "-S"];
    let mut all = Vec::new();
    for table in ["", "expect", "dying"] {
        for command in commands {
            for option in OPTIONS {
                all.push(format!("{command} {table} {option}"));
            }
        }
    }
    // Statistics are by processor.
    all.retain(|l| !l.starts_with("-S  -a"));
    compare(&all.iter().map(String::as_str).collect::<Vec<_>>());
}
