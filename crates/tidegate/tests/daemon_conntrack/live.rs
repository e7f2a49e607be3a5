//! A guarded server and a client in network namespaces that vanish with their processes.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::PROGRAM;
use crate::{err, out};

/// Status 77: there are no links between network namespaces to be had.
const BEGIN: &str = r#"
set -e
ip link add srv0 address 02:00:00:00:00:02 type veth \
    peer name cl0 address 02:00:00:00:00:01 2>no-veth || exit 77
unshare -n sleep 100 & client=$!
own=$(readlink /proc/self/ns/net)
for _ in $(seq 100); do
    [ "$(readlink /proc/$client/ns/net)" = "$own" ] || break
    sleep 0.05
done
ip link set cl0 netns $client
on_client() { nsenter -t $client -n "$@"; }
on_client sysctl -qw net.ipv6.conf.all.disable_ipv6=1
sysctl -qw net.ipv6.conf.all.disable_ipv6=1
on_client ip addr add 10.7.0.1/24 dev cl0
on_client ip link set cl0 up
ip addr add 10.7.0.2/24 dev srv0
ip link set srv0 up
ip link set lo up
tidegate() { "$PROGRAM" "$@"; }
"$PROGRAM" up --config conf --socket sock & daemon=$!
export TIDEGATE_SOCKET=$PWD/sock
for _ in $(seq 200); do tidegate status >status 2>&1 && break; sleep 0.05; done
"#;

const END: &str = "
tidegate down
wait $daemon
kill $client
";

/// Carries out a script in a directory, while a daemon with this configuration runs there
/// on the server; `false`, loudly, where that cannot be.
pub(crate) fn played(directory: &Path, config: &str, script: &str) -> bool {
    let none = directory.join("none");
    let rules = format!("[rules]\nv4 = {none:?}\nv6 = {none:?}\ntimeouts = {none:?}\n");
    fs::write(directory.join("conf"), rules + config).unwrap();
    let run = Command::new("timeout")
        .args(["-k", "5", "90", "unshare", "-rnpf", "--kill-child"])
        .args(["--mount-proc", "sh", "-c", &[BEGIN, script, END].concat()])
        .env("PROGRAM", PROGRAM)
        .env_remove("TIDEGATE_STATE")
        .current_dir(directory)
        .output();
    let run = match run {
        Ok(run) if run.status.code() == Some(77) || err(&run).contains("unshare failed") => {
            eprintln!("SKIPPED: no network namespaces with links: {}", err(&run));
            return false;
        }
        Ok(run) => run,
        Err(e) => {
            eprintln!("SKIPPED: {e}");
            return false;
        }
    };
    assert!(run.status.success(), "{}{}", out(&run), err(&run));
    true
}
