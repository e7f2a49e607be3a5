//! `tidegate host` and `replay --host live` in the namespace that the tests run in.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn tidegate(arguments: &[&str]) -> Output {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .current_dir(scenarios)
        .output()
        .unwrap()
}

#[test]
fn the_running_host_serves_a_replay_with_and_without_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("host.toml");
    let file = file.to_str().unwrap();
    let run = tidegate(&["host", "--out", file]);
    if !run.status.success() {
        eprintln!("SKIPPED: {}", String::from_utf8_lossy(&run.stderr));
        return;
    }
    let written: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let names = |path: &str| {
        let entries = std::fs::read_dir(path).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<String>>()
    };
    let present = names("/sys/class/net");
    for interface in written["interface"].as_array().unwrap() {
        let name = interface["name"].as_str().unwrap();
        assert!(present.iter().any(|p| p == name), "{name}");
    }
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let told = written["sysctl"]["net.ipv4.ip_forward"].as_integer();
    assert_eq!(told, forward.trim().parse().ok());
    let replay = |host: &str| {
        let rules = ["replay", "--rules", "rules/a2-after.rules", "--host", host];
        tidegate(&[&rules[..], &["captures/db-lo.pcap"]].concat())
    };
    let (live, read) = (replay("live"), replay(file));
    assert!(live.status.success() && read.status.success());
    assert!(!live.stdout.is_empty());
    assert_eq!(live.stdout, read.stdout);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let run = tidegate(&["host", "--out", "/nonexistent/host.toml"]);
    assert_eq!(run.status.code(), Some(1));
    assert_eq!(tidegate(&["host", "--bogus"]).status.code(), Some(2));
}
