//! Saves of real firewalls (`data/firewalls`): they load and are saved back as they were, and
//! `tidegate import` understands every line.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NAMES: [&str; 6] = [
    "docker",
    "docker-debian",
    "fail2ban",
    "firewalld",
    "kubernetes",
    "ufw",
];

fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/firewalls");
    Some(path.join(name)).filter(|p| p.exists())
}

/// A tool with its words on a state file.
fn tool(state: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(words).env("TIDEGATE_STATE", state);
    command.output().unwrap()
}

fn out(run: &Output) -> String {
    let err = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{err}");
    String::from_utf8(run.stdout.clone()).unwrap()
}

/// The lines that are no remarks.
fn lines(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn what_is_loaded_is_saved() {
    let mut tried = 0;
    for name in NAMES {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        for (ending, family) in [("v4", ""), ("v6", "6")] {
            let Some(path) = data(&format!("{name}.{ending}")) else {
                continue;
            };
            let restore = format!("ip{family}tables-restore");
            out(&tool(&state, &[&restore, "-c", path.to_str().unwrap()]));
            let saved = out(&tool(&state, &[&format!("ip{family}tables-save"), "-c"]));
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(lines(&saved), lines(&text), "{}", path.display());
            tried += 1;
        }
        if let Some(path) = data(&format!("{name}.sets")) {
            out(&tool(
                &state,
                &["ipset", "-f", path.to_str().unwrap(), "restore"],
            ));
            let saved = out(&tool(&state, &["ipset", "save"]));
            assert_eq!(saved, std::fs::read_to_string(&path).unwrap(), "{name}");
        }
    }
    assert_eq!(tried, 9);
}

#[test]
fn every_line_is_understood() {
    for name in NAMES {
        for ending in ["v4", "v6"] {
            if let Some(path) = data(&format!("{name}.{ending}")) {
                let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
                let run = command.arg("import").arg(&path).output().unwrap();
                let told = out(&run);
                assert!(told.contains("understood, 0 lines not"), "{told}");
            }
        }
    }
}
