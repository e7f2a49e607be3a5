//! The same files through the real tools and the kernel. Needs root.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{finish, without_dates};
use crate::round_trip::{File, files};

/// Runs a real restore and save in a network namespace of its own.
fn real(file: &File, variant: &str) -> Option<String> {
    let (tool, options) = (file.tool, file.options.join(" "));
    let script = format!("{tool}-{variant}-restore {options} && {tool}-{variant}-save -c");
    let lock = tempfile::NamedTempFile::new().unwrap();
    let child = Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .env("XTABLES_LOCKFILE", lock.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    let _ = child.stdin.take()?.write_all(file.text.as_bytes());
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
    for file in files() {
        let ours = file.dump();
        for variant in ["legacy", "nft"] {
            let Some(theirs) = real(&file, variant) else {
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
