//! The lockout lab: a real TCP connection from another network namespace into a guarded
//! one, and rules that would cut it. Needs `unshare`, `ip`, `nsenter` and Python, no root.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/namespace.rs"]
mod namespace;

use namespace::Script;

/// The administrator's machine is 192.0.2.2. A program there writes a line every 50 ms over one connection and notes
/// when each came back; what is typed over that connection knows it by SSH_CONNECTION.
const SCRIPT: &str = r#"
python3 -c '
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("192.0.2.1", 2200)); s.listen()
print("ready", flush=True)
c, _ = s.accept()
while True:
    line = c.recv(100)
    if not line: break
    c.sendall(line)
' > $DIR/server & server=$!
for i in $(seq 100); do grep -q ready $DIR/server && break; sleep 0.05; done
$TIDEGATE up --socket $DIR/sock --rules $DIR/open 2>$DIR/log & daemon=$!
for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
there python3 -c '
import socket, sys, time
c = socket.create_connection(("192.0.2.1", 2200), source_address=("192.0.2.2", 40000))
c.settimeout(60)
ends = time.time() + 100
while time.time() < ends:
    c.sendall(b"x")
    if not c.recv(100): break
    print(time.time(), flush=True)
    time.sleep(0.05)
' > $DIR/beats &
lines() { wc -l < $DIR/beats; }
moves() { a=$(lines); for i in $(seq ${1:-100}); do sleep 0.1; test $(lines) -gt $((a + 3)) && return 0; done; return 1; }
export SSH_CONNECTION='192.0.2.2 40000 192.0.2.1 2200'
moves || { echo 'the connection does not come up'; cat $DIR/log; exit 9; }
apply() { code=0; $TIDEGATE apply "$@" </dev/null >$DIR/out 2>$DIR/err || code=$?; }
"#;

const OPEN: &str =
    "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n";
const CLOSED: &str = "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";
/// Keeps the session, refuses a new one.
const NO_NEW: &str =
    "*filter\n:INPUT DROP [0:0]\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n";
/// Sends the answers of the server nowhere.
const DUMB: &str = "*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -p tcp --sport 2200 -j DROP\nCOMMIT\n";
/// Takes the connection's port elsewhere, for new connections.
const ELSEWHERE: &str = "*nat\n-A PREROUTING -p tcp --dport 2200 -j REDIRECT --to-ports 22\nCOMMIT\n*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 2200 -j ACCEPT\nCOMMIT\n";
const GOOD: &str =
    "*filter\n:INPUT DROP [0:0]\n-A INPUT -s 192.0.2.2 -p tcp --dport 2200 -j ACCEPT\nCOMMIT\n";

const INSIDE: Script<'_> = Script {
    files: &[
        ("open", OPEN),
        ("closed", CLOSED),
        ("no-new", NO_NEW),
        ("dumb", DUMB),
        ("elsewhere", ELSEWHERE),
        ("good", GOOD),
    ],
    needs: "python3 -c ''",
    far: true,
    prelude: SCRIPT,
};

#[test]
fn rules_that_would_cut_the_connection_are_refused() {
    INSIDE.succeeds(
        "
        for rules in closed no-new dumb elsewhere; do
            apply $DIR/$rules
            test $code = 3 || { echo $rules: $code; cat $DIR/err; exit 2; }
            grep -q 'TG001 lockout' $DIR/err || exit 3
            cp $DIR/err $DIR/err.$rules
        done
        grep -q 'your session 192.0.2.2:40000 → 192.0.2.1:2200 would be DROPPED by the INPUT policy (no rule matched; 1 examined)' $DIR/err.closed || { cat $DIR/err.closed; exit 4; }
        ! grep -q 'your session' $DIR/err.no-new || exit 5
        grep -q 'a new connection like it, 192.0.2.2 → 192.0.2.1:2200, would be DROPPED by the INPUT policy' $DIR/err.no-new || exit 6
        grep -q \"(the server's packets) would be DROPPED by rule 1 of OUTPUT\" $DIR/err.dumb || { cat $DIR/err.dumb; exit 7; }
        grep -q 'Add \"-A INPUT -s 192.0.2.2/32 -p tcp -m tcp --dport 2200 -j ACCEPT\" at the end of INPUT' $DIR/err.closed || exit 8
        moves || exit 10
        ",
    );
}

#[test]
fn forced_the_connection_is_cut_and_lives_again_when_the_rules_roll_back() {
    INSIDE.succeeds(
        "
        apply --force-lockout --no-wait --timeout 4 $DIR/closed
        test $code = 0 || { cat $DIR/err; exit 2; }
        sleep 0.5; a=$(lines); sleep 1.5
        test $(lines) = $a || { echo 'packets pass that rules drop'; exit 3; }
        moves 400 || { echo 'the connection is dead'; cat $DIR/log; exit 4; }
        $TIDEGATE iptables -S INPUT | grep -q 'P INPUT ACCEPT' || exit 5
        test $($TIDEGATE conntrack -L -p tcp --dport 2200 2>/dev/null | wc -l) = 1 || exit 6
        ",
    );
}

#[test]
fn what_lets_it_live_is_applied_under_it() {
    INSIDE.succeeds(
        "
        echo y | $TIDEGATE apply --timeout 30 $DIR/good >$DIR/out 2>$DIR/err || { cat $DIR/err; exit 2; }
        moves || exit 3
        $TIDEGATE iptables -S INPUT | grep -q 'P INPUT DROP' || exit 4
        ",
    );
}

/// Without `SSH_CONNECTION`, as after `su -`: what gives the order descends from the program
/// that has accepted the connection, as a shell does from sshd.
#[test]
fn the_session_is_found_by_its_socket() {
    INSIDE.succeeds(
        r#"
        unset SSH_CONNECTION
        python3 -c '
import os, socket, subprocess
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("192.0.2.1", 2222)); s.listen()
open(os.environ["DIR"] + "/listens", "w").close()
c, _ = s.accept()
c.recv(100)
done = subprocess.run(["sh", "-c", "$TIDEGATE apply $DIR/closed; echo $? > $DIR/code"],
                      stdin=subprocess.DEVNULL, stderr=open(os.environ["DIR"] + "/err", "w"))
c.sendall(b"done")
' > $DIR/out &
        for i in $(seq 100); do test -e $DIR/listens && break; sleep 0.05; done
        there python3 -c '
import socket
c = socket.create_connection(("192.0.2.1", 2222), source_address=("192.0.2.2", 40022), timeout=60)
c.sendall(b"order")
assert c.recv(100) == b"done"
'
        test $(cat $DIR/code) = 3 || { cat $DIR/code $DIR/err; exit 2; }
        grep -q 'TG001 lockout: your session 192.0.2.2:40022 → 192.0.2.1:2222 would be DROPPED' $DIR/err || { cat $DIR/err; exit 3; }
        moves || exit 4
        "#,
    );
}
