//! What packets meet after the daemon has been killed, and `tidegate release`. Runs in a
//! user and network namespace of its own: needs `unshare`, `ip` and `ping`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/namespace.rs"]
mod namespace;

use namespace::Script;

/// Starts the daemon, kills it, and defines what can be asked afterwards.
const BEGIN: &str = r#"
ip link set lo up
passes() { ping -n -q -c 2 -i 0.05 -W 0.3 127.0.0.1 >/dev/null; }
soon() { for i in $(seq 50); do if passes; then return; fi; done; false; }
program=$TIDEGATE
own() { program=$DIR/program; cp $TIDEGATE $program; }
replaced() { printf "$1\n" >$DIR/new; chmod 755 $DIR/new; mv $DIR/new $DIR/program; }
up() {
    $program up --socket $DIR/sock --rules $DIR/rules --on-crash $1 2>$DIR/log &
    daemon=$!
    for i in $(seq 100); do
        if $TIDEGATE status >$DIR/status 2>&1; then return; fi
        sleep 0.1
    done
    cat $DIR/log; exit 9
}
"#;

const INSIDE: Script<'_> = Script {
    files: &[("rules", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")],
    needs: "ip link set lo up && ping -V",
    far: false,
    prelude: BEGIN,
};

#[test]
fn closed_until_released() {
    INSIDE.succeeds(
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
    INSIDE.succeeds(
        "
        up open
        passes || exit 2
        kill -9 $daemon; wait $daemon || true
        soon || exit 3
        ",
    );
}

/// An end in order leaves no guardian and nothing closed.
#[test]
fn down() {
    INSIDE.succeeds(
        "
        up open
        $TIDEGATE down
        wait $daemon
        passes || exit 2
        test -z \"$(ip -o link | grep tg-)\" || exit 3
        ",
    );
}

/// The successor is there and answers the check, but does not start: the guardian of the daemon
/// whose place it took opens the interfaces, as after any other crash.
#[test]
fn open_where_a_successor_does_not_start() {
    INSIDE.succeeds(
        "
        own
        up open
        passes || exit 2
        replaced '#!/bin/sh\ntest $1 = --version'
        ! timeout 2 $TIDEGATE upgrade || exit 3
        ! wait $daemon || exit 4
        soon || exit 5
        ",
    );
}

/// One that cannot even be run leaves everything as it was, the guardian too.
#[test]
fn open_after_an_upgrade_that_was_none() {
    INSIDE.succeeds(
        "
        own
        up open
        replaced '#!/bin/sh\nrm $0'
        ! $TIDEGATE upgrade || exit 2
        $TIDEGATE status >$DIR/status
        ! grep guardian $DIR/status || exit 3
        passes || exit 4
        kill -9 $daemon; wait $daemon || true
        soon || exit 5
        ",
    );
}

/// Each daemon has one guardian, which is its own.
#[test]
fn open_after_upgrades() {
    INSIDE.succeeds(
        "
        own
        up open
        children() { cat /proc/$daemon/task/*/children | wc -w; }
        test $(children) = 1 || exit 2
        for round in 1 2; do
            $TIDEGATE upgrade
            test $(children) = 1 || exit 3
            passes || exit 4
        done
        $TIDEGATE status >$DIR/status
        ! grep guardian $DIR/status || exit 5
        kill -9 $daemon; wait $daemon || true
        soon || exit 6
        ",
    );
}
