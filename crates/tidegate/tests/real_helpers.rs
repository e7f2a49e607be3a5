//! Real programs whose protocols announce connections, through a router that translates and
//! drops all but what was announced.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn real_programs_through_helpers() {
    let root = Command::new("id").arg("-u").output();
    if !root.is_ok_and(|id| id.stdout == b"0\n") {
        eprintln!("SKIPPED: real_programs_through_helpers: needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/helpers.sh");
    let run = Command::new("sh")
        .args([script, env!("CARGO_BIN_EXE_tidegate")])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let problems = String::from_utf8_lossy(&run.stderr);
    eprint!("{said}{problems}");
    assert!(run.status.success());
    assert!(!said.contains("FAILED"), "{said}");
    for name in [
        "amanda", "irc", "netbios", "pptp", "sane", "sip", "snmp", "tftp",
    ] {
        let told = [format!("ok {name}\n"), format!("SKIPPED: {name}:")];
        assert!(told.iter().any(|t| said.contains(t)), "{name}: {said}");
    }
}
