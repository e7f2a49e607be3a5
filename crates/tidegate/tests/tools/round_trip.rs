//! save | restore | save gives the same text, for every rules file there is.

use std::fs;
use std::path::Path;

use crate::common::{Host, lacks_extension, without_dates};

/// A rules file of the repository.
pub(crate) struct File {
    /// `iptables` or `ip6tables`.
    pub(crate) tool: &'static str,
    /// Options to restore it with.
    pub(crate) options: &'static [&'static str],
    /// Its text, without the lines whose extensions the program does not have.
    pub(crate) text: String,
}

/// All rules files of the repository; `v6` in the name says the family.
pub(crate) fn files() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for directory in ["crates", "oracle", "scenarios"] {
        walk(&root.join(directory), &mut found);
    }
    found
}

fn walk(directory: &Path, found: &mut Vec<File>) {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            walk(&path, found);
        } else if name.ends_with(".rules") || name.contains("save") && name.ends_with(".txt") {
            let tool = if name.contains("v6") {
                "ip6tables"
            } else {
                "iptables"
            };
            found.push(file(tool, &fs::read_to_string(&path).unwrap()));
        }
    }
}

fn file(tool: &'static str, text: &str) -> File {
    let policies = text.lines().filter(|l| l.starts_with(':'));
    let counted = policies.clone().count() > 0 && policies.clone().all(|l| l.ends_with(']'));
    File {
        tool,
        options: if counted { &["-c"] } else { &[] },
        text: supported(tool, text),
    }
}

fn supported(tool: &str, text: &str) -> String {
    let host = Host::new();
    let mut lines: Vec<&str> = text.lines().collect();
    loop {
        let text: String = lines.iter().flat_map(|l| [l, "\n"]).collect();
        let run = host.feed(&[&format!("{tool}-restore")], &text);
        if run.status == 0 {
            return text;
        }
        assert!(lacks_extension(&run.err), "{}{text}", run.err);
        let at = run.err.split("line: ").nth(1).unwrap();
        let at: usize = at.split('\n').next().unwrap().parse().unwrap();
        lines.remove(at - 1);
    }
}

impl File {
    /// The dump after restoring the file on a fresh host.
    pub(crate) fn dump(&self) -> String {
        dump(self.tool, self.options, &self.text)
    }
}

fn dump(tool: &str, options: &[&str], text: &str) -> String {
    let host = Host::new();
    let restore = format!("{tool}-restore");
    let run = host.feed(&[&[restore.as_str()], options].concat(), text);
    assert_eq!(run.status, 0, "{}{text}", run.err);
    host.run(&[&format!("{tool}-save"), "-c"]).out
}

#[test]
fn saving_what_was_restored_gives_the_same_text() {
    let files = files();
    for file in &files {
        let once = file.dump();
        let twice = dump(file.tool, &["-c"], &once);
        assert_eq!(without_dates(&once), without_dates(&twice));
        let rules = |text: &str| text.lines().filter(|l| l.contains("-A ")).count();
        assert!(rules(&once) >= rules(&file.text), "{once}");
    }
    assert!(files.len() >= 6, "{}", files.len());
}
