//! Running the tools on a state file of their own.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// A directory with a state file.
pub(crate) struct Host {
    directory: TempDir,
}

/// What a run printed.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        Host {
            // In memory where possible: every change is synced to the disk.
            directory: tempfile::tempdir_in("/dev/shm")
                .or_else(|_| tempfile::tempdir())
                .unwrap(),
        }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// The state file's text; empty when there is none.
    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.state()).unwrap_or_default()
    }

    pub(crate) fn set_text(&self, text: &str) {
        fs::write(self.state(), text).unwrap();
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words).env("TIDEGATE_STATE", self.state());
        command
    }

    /// Runs a tool with its arguments.
    pub(crate) fn run(&self, words: &[&str]) -> Run {
        finish(self.command(words).output().unwrap())
    }

    /// Runs a command line in a shell's notation.
    pub(crate) fn line(&self, line: &str) -> Run {
        let words = shell_words(line);
        self.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Runs command lines that must succeed.
    pub(crate) fn lines(&self, lines: &[&str]) {
        for line in lines {
            let run = self.line(line);
            assert_eq!(run.status, 0, "{line}: {}", run.err);
        }
    }

    /// Runs a tool with something to read.
    pub(crate) fn feed(&self, words: &[&str], input: &str) -> Run {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A tool that stops early leaves the rest unread.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        finish(child.wait_with_output().unwrap())
    }
}

pub(crate) fn finish(output: std::process::Output) -> Run {
    Run {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Words between blanks, single and double quotes.
pub(crate) fn shell_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            (' ' | '\t', None) => words.extend(word.take()),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(chars.next()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A file of the test data.
pub(crate) fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A dump without its dates.
pub(crate) fn without_dates(dump: &str) -> String {
    let lines = dump.lines().filter(|l| !l.starts_with('#'));
    lines.map(|l| format!("{l}\n")).collect()
}

/// Options of targets that the program does not have: a target of another name could be
/// a chain, so it is only the option that is unknown.
const FOREIGN: [&str; 5] = [
    "nflog-group",
    "nflog-prefix",
    "queue-num",
    "gateway",
    "set-class",
];

/// Whether the tool refused a rule because it does not have that match or target.
pub(crate) fn lacks_extension(err: &str) -> bool {
    let foreign = |o: &&str| err.contains(&format!("unknown option \"--{o}\""));
    err.contains("Couldn't load match")
        || err.contains("Couldn't load target")
        || err.contains("unknown option \"--to\"")
        || FOREIGN.iter().any(foreign)
}
