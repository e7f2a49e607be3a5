//! A daemon without a datapath in a directory of its own. Needs no privileges.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tidegate");

/// Its directory, the configuration beyond what it needs, and its process.
pub(crate) struct Daemon {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: String,
    pub(crate) child: Option<Child>,
}

impl Daemon {
    pub(crate) fn new() -> Self {
        Daemon {
            dir: tempfile::tempdir().unwrap(),
            config: String::new(),
            child: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn start(&mut self) {
        self.child = Some(self.spawn());
        let ends = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(self.path("sock")).is_err() {
            assert!(Instant::now() < ends, "the daemon does not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn spawn(&self) -> Child {
        self.write(
            "conf",
            &format!(
                "[rules]\nv4 = {:?}\nv6 = {:?}\nsets = {:?}\ntimeouts = {:?}\n[datapath]\nkind = \"none\"\n{}",
                self.path("rules.v4"),
                self.path("rules.v6"),
                self.path("sets"),
                self.path("timeouts"),
                self.config
            ),
        );
        Command::new(PROGRAM)
            .args(["up", "--config"])
            .arg(self.path("conf"))
            .arg("--socket")
            .arg(self.path("sock"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn ask(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(line.split_whitespace())
            .env("TIDEGATE_SOCKET", self.path("sock"))
            .env_remove("TIDEGATE_STATE");
        command
    }

    pub(crate) fn out(&self, line: &str) -> String {
        let run = self.ask(line);
        let err = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{line}: {err}");
        String::from_utf8(run.stdout).unwrap()
    }

    /// The rules without comments and counters.
    pub(crate) fn rules(&self) -> Vec<String> {
        let text = self.out("iptables-save");
        let rules = text.lines().filter(|l| l.starts_with('-'));
        rules.map(str::to_owned).collect()
    }

    /// Waits for the end and returns what was said.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().unwrap();
        let mut text = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (child.wait().unwrap().code(), text)
    }

    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}
