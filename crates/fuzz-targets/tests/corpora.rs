//! Every committed fuzz input through its target.

use std::path::Path;

use tidegate_fuzz_targets::TARGETS;

/// Runs a target on every file of its corpus, naming the file that fails.
fn replay(name: &str) {
    let (_, target) = TARGETS
        .into_iter()
        .find(|(n, _)| *n == name)
        .expect("a target of that name");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .expect("a committed corpus")
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", dir.display());
    for file in files {
        let bytes = std::fs::read(&file).expect("a readable file");
        if std::panic::catch_unwind(|| target(&bytes)).is_err() {
            panic!("{} fails", file.display());
        }
    }
}

#[test]
fn capture() {
    replay("capture");
}

#[test]
fn commands() {
    replay("commands");
}

#[test]
fn engine() {
    replay("engine");
}

#[test]
fn ftp() {
    replay("ftp");
}

#[test]
fn helpers() {
    replay("helpers");
}

#[test]
fn rules() {
    replay("rules");
}

#[test]
fn sets() {
    replay("sets");
}

#[test]
fn snapshot() {
    replay("snapshot");
}

#[test]
fn trackers() {
    replay("trackers");
}

#[test]
fn wire() {
    replay("wire");
}
