//! `tidegate whatif` on captures of real programs.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn scenario(name: &str) -> PathBuf {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    scenarios.join(name)
}

fn whatif(new: &str, more: &[&str]) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), new).unwrap();
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["whatif", "--exit-code", "--rules"])
        .arg(file.path())
        .arg("--old")
        .arg(scenario("rules/b4.rules"))
        .arg("--host")
        .arg(scenario("hosts/server.toml"))
        .args(more)
        .arg(scenario("captures/ftp-pasv-once.pcap"))
        .output()
        .unwrap()
}

fn b4() -> String {
    std::fs::read_to_string(scenario("rules/b4.rules")).unwrap()
}

#[test]
fn the_same_rules_change_nothing() {
    let run = whatif(&b4(), &[]);
    let out = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(0));
    assert_eq!(out.lines().count(), 1, "{out}");
    assert!(
        out.starts_with("0 of 2 connections would be treated otherwise: 0 of "),
        "{out}"
    );
}

/// Without RELATED, and without a rule that lets the server begin in mid-stream, no packet of
/// the data connection passes; the control connection is as before. The figures are the
/// capture's.
#[test]
fn without_related_the_data_connection_is_lost() {
    let new: String = b4()
        .lines()
        .filter(|l| !(l.contains("RELATED") || l.contains("OUTPUT") && l.contains("NEW")))
        .map(|l| format!("{l}\n"))
        .collect();
    let run = whatif(&new, &["--json"]);
    assert_eq!(run.status.code(), Some(5));
    let json: serde_json::Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(json["connections"], 2);
    assert_eq!(json["otherwise"]["connections"], 1);
    let [change] = json["changes"].as_array().unwrap().as_slice() else {
        panic!("{json}");
    };
    assert_eq!(change["change"], "dropped");
    assert_eq!(
        (&change["packets"], &change["bytes"]),
        (&DATA.0.into(), &DATA.1.into())
    );
    assert_eq!(change["first"]["packet"], 13);
    assert_eq!(change["new_rule"]["text"], "-P INPUT DROP");
    let old = change["old_rule"]["text"].as_str().unwrap();
    assert!(old.contains("RELATED"), "{old}");
}

/// Packets and bytes of the data connection in the capture.
const DATA: (u64, u64) = (16, 7248);

#[test]
fn an_open_firewall_allows_nothing_more_than_what_was_stopped() {
    let open = whatif("*filter\nCOMMIT\n", &[]);
    let out = String::from_utf8(open.stdout).unwrap();
    // Packets pass by a policy now, but no connection is treated otherwise.
    assert!(out.starts_with("0 of 2 connections"), "{out}");
    let shut = whatif(
        "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -j REJECT\nCOMMIT\n",
        &[],
    );
    let out = String::from_utf8(shut.stdout).unwrap();
    assert!(
        out.contains("would be REJECTED\n  new    filter INPUT 1  -A INPUT -p tcp -j REJECT"),
        "{out}"
    );
}
