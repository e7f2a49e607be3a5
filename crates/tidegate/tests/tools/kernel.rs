//! The same files through the real tools and the kernel. Needs root.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{Host, finish, without_dates};
use crate::round_trip::files;

/// Runs a real restore and save in a network namespace of its own.
fn real(tool: &str, variant: &str, file: &str) -> Option<String> {
    let script = format!("{tool}-{variant}-restore -c && {tool}-{variant}-save -c");
    let lock = tempfile::NamedTempFile::new().unwrap();
    let child = Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .env("XTABLES_LOCKFILE", lock.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    let _ = child.stdin.take()?.write_all(file.as_bytes());
    let run = finish(child.wait_with_output().ok()?);
    if run.status != 0 {
        eprintln!("SKIPPED against {tool}-{variant}: {}", run.err);
        return None;
    }
    Some(run.out)
}

/// Tables of a dump in the order of their names: the kernel prints them in the order
/// they were first used.
fn tables(dump: &str) -> Vec<String> {
    let dump = without_dates(dump);
    let mut tables: Vec<String> = dump
        .split_inclusive("COMMIT\n")
        .map(str::to_owned)
        .collect();
    tables.sort();
    tables
}

fn without_rule_counters(dump: &str) -> String {
    let lines = dump.lines().map(|l| match l.split_once("] -A ") {
        Some((_, rule)) => format!("-A {rule}\n"),
        None => format!("{l}\n"),
    });
    lines.collect()
}

#[test]
fn dumps_equal_those_of_the_real_tools() {
    for (tool, file) in files() {
        let host = Host::new();
        let restored = host.feed(&[&format!("{tool}-restore"), "-c"], &file);
        assert_eq!(restored.status, 0, "{}", restored.err);
        let ours = host.run(&[&format!("{tool}-save"), "-c"]).out;
        for variant in ["legacy", "nft"] {
            let Some(theirs) = real(tool, variant, &file) else {
                continue;
            };
            // Up to version 1.8.10 protocols had names from the machine's database.
            let theirs = theirs.replace("-p gre ", "-p 47 ");
            // The nft variant loses counters of rules that jump.
            let comparable = |dump: &str| match variant {
                "nft" => without_rule_counters(dump),
                _ => dump.to_owned(),
            };
            let (ours, theirs) = (comparable(&ours), comparable(&theirs));
            assert_eq!(tables(&ours), tables(&theirs), "{variant}");
        }
    }
}
