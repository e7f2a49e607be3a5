//! Scripts in namespaces of an ordinary user's own.

use std::process::{Command, Output, Stdio};

/// This namespace is a host (192.0.2.1), `there` runs programs on another (192.0.2.2). What is
/// noted as `far`, `server`, `client` and `daemon` is ended with the script.
const FAR: &str = r#"
trap 'kill $far $server $client $daemon 2>/dev/null || true' EXIT
unshare -n sleep 120 & far=$!
for i in $(seq 100); do
    test "$(readlink /proc/$far/ns/net)" = "$(readlink /proc/self/ns/net)" || break
    sleep 0.05
done
ip link set lo up
ip link add eth0 type veth peer name eth1 netns $far
ip addr add 192.0.2.1/24 dev eth0
ip link set eth0 up
there() { nsenter -t $far -n "$@"; }
there ip addr add 192.0.2.2/24 dev eth1
there ip link set eth1 up
"#;

/// A script, what it needs, and what it finds in `$DIR`.
pub(crate) struct Script<'a> {
    /// Names and contents of files.
    pub(crate) files: &'a [(&'a str, &'a str)],
    /// Commands that can only succeed where the script can.
    pub(crate) needs: &'a str,
    /// Whether there is another host, at the end of a cable.
    pub(crate) far: bool,
    /// What comes before each script.
    pub(crate) prelude: &'a str,
}

impl Script<'_> {
    /// Runs it with `$TIDEGATE` for the program; what stands in `$DIR/log` in the end is
    /// added to the errors. Where that cannot be done, it says so and
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
                .env_remove("TIDEGATE_STATE")
                .stdin(Stdio::null());
            command.output()
        };
        let (cable, far) = match self.far {
            true => (
                "ip link add x0 type veth peer name x1 && nsenter -V && ",
                FAR,
            ),
            false => ("", ""),
        };
        let needs = format!("{cable}{}", self.needs);
        let tried = run(&needs);
        if !tried.as_ref().is_ok_and(|o| o.status.success()) {
            eprintln!("SKIPPED: no user namespace here, or not all of `{needs}`: {tried:?}");
            return None;
        }
        let mut done = run(&format!("{far}{}{script}", self.prelude)).unwrap();
        let log = std::fs::read(directory.path().join("log"));
        done.stderr.extend(log.unwrap_or_default());
        Some(done)
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
