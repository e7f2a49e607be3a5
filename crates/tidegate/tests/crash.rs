//! What packets meet after the daemon has been killed, and `tidegate release`. Runs in a
//! user and network namespace of its own: needs `unshare`, `ip` and `ping`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};

/// Starts the daemon, kills it, and defines what can be asked afterwards.
const BEGIN: &str = r#"
ip link set lo up
passes() { ping -n -q -c 2 -i 0.05 -W 0.3 127.0.0.1 >/dev/null; }
up() {
    $TIDEGATE up --socket $DIR/sock --rules $DIR/rules --on-crash $1 2>$DIR/log &
    daemon=$!
    for i in $(seq 100); do
        if $TIDEGATE status >$DIR/status 2>&1; then return; fi
        sleep 0.1
    done
    cat $DIR/log; exit 9
}
"#;

fn run(script: &str) -> Option<Output> {
    let directory = tempfile::tempdir().unwrap();
    let rules = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
    std::fs::write(directory.path().join("rules"), rules).unwrap();
    let inside = |script: &str| {
        let mut command = Command::new("timeout");
        command.args(["60", "unshare", "-Urn", "sh", "-ec", script]);
        command
            .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
            .env("TIDEGATE_SOCKET", directory.path().join("sock"))
            .env("DIR", directory.path())
            .stdin(Stdio::null());
        command.output()
    };
    let tried = inside("ip link set lo up && ping -V");
    if !tried.as_ref().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: no user namespace, ip or ping here: {tried:?}");
        return None;
    }
    Some(inside(&format!("{BEGIN}{script}")).unwrap())
}

fn succeeds(script: &str) {
    if let Some(run) = run(script) {
        let out = String::from_utf8_lossy(&run.stdout);
        let err = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{}\n{out}{err}", run.status);
    }
}

#[test]
fn closed_until_released() {
    succeeds(
        "
        up closed
        passes || exit 2
        ! $TIDEGATE release || exit 3
        kill -9 $daemon; wait $daemon || true
        ! passes || exit 4
        test \"$($TIDEGATE release)\" = '1 interface is open again' || exit 5
        passes || exit 6
        test \"$($TIDEGATE release)\" = 'no interface was closed' || exit 7
        ",
    );
}

#[test]
fn open_where_wished() {
    succeeds(
        "
        up open
        passes || exit 2
        kill -9 $daemon; wait $daemon || true
        for i in $(seq 50); do if passes; then exit 0; fi; done
        exit 3
        ",
    );
}

/// An end in order leaves no guardian and nothing closed.
#[test]
fn down() {
    succeeds(
        "
        up open
        $TIDEGATE down
        wait $daemon
        passes || exit 2
        test -z \"$(ip -o link | grep tg-)\" || exit 3
        ",
    );
}
