//! Hosts in network namespaces of their own, which go when nothing holds them, and programs there.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidegate_sys::Namespace;

/// Says what is not tested, past the test runner's capture.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// A host.
pub(crate) struct Host(Namespace);

impl Host {
    /// With loopback up and without duplicate address detection.
    pub(crate) fn new() -> Self {
        let host = Host(Namespace::new().unwrap());
        host.sh("
            sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
            ip link set lo up
        ");
        host
    }

    pub(crate) fn fd(&self) -> &impl AsFd {
        &self.0
    }

    /// Does something there; sockets made there stay there.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.0.run(|| Ok(work())).unwrap()
    }

    /// What a shell script prints there.
    pub(crate) fn try_sh(&self, script: &str) -> Result<String, String> {
        let mut shell = Command::new("timeout");
        shell.args(["60", "sh", "-ec", script]);
        let run = self.run(|| shell.stdin(Stdio::null()).output()).unwrap();
        let out = String::from_utf8_lossy(&run.stdout).into_owned();
        if run.status.success() {
            return Ok(out);
        }
        let err = String::from_utf8_lossy(&run.stderr);
        Err(format!("{script}\n{}\n{out}{err}", run.status))
    }

    /// As [`Host::try_sh`], where nothing may fail.
    pub(crate) fn sh(&self, script: &str) -> String {
        self.try_sh(script).unwrap_or_else(|e| panic!("{e}"))
    }

    /// A link: our `name` to `peer` of another host.
    pub(crate) fn link(&self, name: &str, other: &Host, peer: &str) {
        let there = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            other.0.as_fd().as_raw_fd()
        );
        self.sh(&format!(
            "ip link add {name} type veth peer name {peer} netns {there}
             ip link set {name} up"
        ));
        other.sh(&format!("ip link set {peer} up"));
    }
}

/// A program that ends with this at the latest.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something holds; `false` when it takes too long.
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(10) {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
