//! Scripts in namespaces of an ordinary user's own.

use std::process::{Command, Output, Stdio};

/// A script, what it needs, and what it finds in `$DIR`.
pub(crate) struct Script<'a> {
    /// Names and contents of files.
    pub(crate) files: &'a [(&'a str, &'a str)],
    /// Commands that can only succeed where the script can.
    pub(crate) needs: &'a str,
    /// What comes before each script.
    pub(crate) prelude: &'a str,
}

impl Script<'_> {
    /// Runs it with `$TIDEGATE` for the program. Where that cannot be done, it says so and
    /// returns nothing.
    pub(crate) fn run(&self, script: &str) -> Option<Output> {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in self.files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let run = |script: &str| {
            let mut command = Command::new("timeout");
            command
                .args(["120", "unshare", "-Urn", "sh", "-ec", script])
                .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
                .env("TIDEGATE_SOCKET", directory.path().join("sock"))
                .env("DIR", directory.path())
                .env_remove("SSH_CONNECTION")
                .stdin(Stdio::null());
            command.output()
        };
        let tried = run(self.needs);
        if !tried.as_ref().is_ok_and(|o| o.status.success()) {
            let needs = self.needs;
            eprintln!("SKIPPED: no user namespace here, or not all of `{needs}`: {tried:?}");
            return None;
        }
        Some(run(&format!("{}{script}", self.prelude)).unwrap())
    }

    /// Runs it; it must succeed.
    pub(crate) fn succeeds(&self, script: &str) {
        if let Some(run) = self.run(script) {
            let out = String::from_utf8_lossy(&run.stdout);
            let err = String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success(), "{}\n{out}{err}", run.status);
        }
    }
}
