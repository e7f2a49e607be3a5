//! `tidegate explain` of packets of a capture; and of a connection: a real one into a guarded
//! namespace, the rules that let it in, and what becomes of it when they change. That needs
//! `unshare`, `ip`, `nsenter` and Python, no root.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/namespace.rs"]
mod namespace;

use std::path::Path;
use std::process::Command;

use namespace::Script;

/// A client at 192.0.2.2 has sent a line to its port 22,
/// which is redirected to 2200, has got it back, and keeps the connection.
const SCRIPT: &str = r#"
python3 -c '
import socket, time
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("192.0.2.1", 2200)); s.listen()
print("ready", flush=True)
c, _ = s.accept()
c.sendall(c.recv(100))
time.sleep(110)
' > $DIR/server & server=$!
for i in $(seq 100); do grep -q ready $DIR/server && break; sleep 0.05; done
$TIDEGATE up --socket $DIR/sock --state-dir $DIR/state --rules $DIR/rules 2>$DIR/log & daemon=$!
for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
$TIDEGATE sysctl -q -w net.netfilter.nf_conntrack_acct=1
nsenter -t $far -n python3 -c '
import socket, time
c = socket.create_connection(("192.0.2.1", 22), source_address=("192.0.2.2", 40000), timeout=60)
c.sendall(b"x")
c.recv(100)
print("answered", flush=True)
time.sleep(110)
' > $DIR/client & client=$!
for i in $(seq 200); do grep -q answered $DIR/client && break; sleep 0.05; done
grep -q answered $DIR/client || { echo 'the connection does not come up'; cat $DIR/log; exit 9; }
sleep 0.3
IT='tcp 192.0.2.2:40000 > 192.0.2.1:22'
explain() { $TIDEGATE explain --connection "$@" > $DIR/out 2>$DIR/err || { cat $DIR/err; exit 8; }; }
says() { grep -qF -e "$1" $DIR/out || { echo "not said: $1"; cat $DIR/out $DIR/log; exit 7; }; }
"#;

const RULES: &str = "*nat\n\
    -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2200\nCOMMIT\n\
    *filter\n:INPUT DROP [0:0]\n:SERVICES - [0:0]\n\
    -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
    -A INPUT -p tcp --dport 2200 -j SERVICES\n\
    -A SERVICES -s 192.0.2.0/24 -j ACCEPT\nCOMMIT\n";

const INSIDE: Script<'_> = Script {
    files: &[("rules", RULES)],
    needs: "python3 -c ''",
    far: true,
    prelude: SCRIPT,
};

#[test]
fn a_connection_is_explained_and_nothing_changes_by_it() {
    INSIDE.succeeds(
        r#"
        state() { for tool in iptables-save conntrack; do case $tool in
            iptables-save) $TIDEGATE iptables-save -c | grep -v '^#';;
            *) $TIDEGATE conntrack -L -o id 2>/dev/null | sed 's/^\(tcp *6\) [0-9]*/\1/';;
        esac; done; }
        state > $DIR/before
        explain "$IT"
        state > $DIR/after
        diff $DIR/before $DIR/after
        says 'tcp 192.0.2.2:40000 > 192.0.2.1:22'
        says 'state      ESTABLISHED, assured; 43'
        says "since      $(date -u +%Y-%m-%d)"
        says 'at PREROUTING by nat PREROUTING 1: -A PREROUTING -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 2200'
        says 'at INPUT by filter SERVICES 1: -A SERVICES -s 192.0.2.0/24 -j ACCEPT'
        says 'translated the server to 192.0.2.1:2200'
        says 'packets    4 of the client ('
        says "The client's next packet: 192.0.2.2:40000 > 192.0.2.1:22"
        says 'ACCEPT [ESTABLISHED] by filter INPUT 1: -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT'
        says "The server's next packet: 192.0.2.1:2200 > 192.0.2.2:40000"
        cp $DIR/out $DIR/first
        # The same by its number, and by a packet of the server.
        explain $(sed -n '1s/.* id //p' $DIR/out)
        cmp $DIR/out $DIR/first || diff $DIR/out $DIR/first || exit 2
        explain 'tcp 192.0.2.1:2200 > 192.0.2.2:40000'
        says 'at INPUT by filter SERVICES 1'
        explain "$IT" --json
        python3 -c '
import json, sys
all = json.load(sys.stdin)
c = all["connection"]
assert c["state"] == "ESTABLISHED" and c["assured"] and c["server_translated"] == "192.0.2.1:2200", c
assert [(p["hook"], p["table"], p["rule"]["chain"], p["rule"]["number"]) for p in c["passed"]] == [
    ("PREROUTING", "nat", "PREROUTING", 1), ("INPUT", "filter", "SERVICES", 1), ("INPUT", "nat", "INPUT", 0)], c
assert all["next"]["client"]["passes"] and all["next"]["server"]["passes"], all["next"]
' < $DIR/out
        ! $TIDEGATE explain --connection 'tcp 192.0.2.2:40001 > 192.0.2.1:22' 2>$DIR/err || exit 3
        grep -q 'no such connection is tracked' $DIR/err || { cat $DIR/err; exit 4; }
        "#,
    );
}

#[test]
fn rules_that_change_are_told_as_they_were() {
    INSIDE.succeeds(
        r#"
        # A rule before it: another number, the same rule.
        $TIDEGATE iptables -I SERVICES -s 192.0.2.99 -j DROP
        explain "$IT"
        says 'at INPUT by filter SERVICES 2: -A SERVICES -s 192.0.2.0/24 -j ACCEPT'
        # Taken out: its words stay known.
        $TIDEGATE iptables -D SERVICES 2
        explain "$IT"
        says 'at INPUT by filter SERVICES 2: -A SERVICES -s 192.0.2.0/24 -j ACCEPT'
        says "not in force since $(date -u +%Y-%m-%d)"
        says 'ACCEPT [ESTABLISHED] by filter INPUT 1'
        # What has its number now is another rule.
        $TIDEGATE iptables -A SERVICES -s 198.51.100.0/24 -j ACCEPT
        explain "$IT"
        says 'not in force since'
        ! grep -q 198.51.100 $DIR/out || exit 2
        # The same words again.
        $TIDEGATE iptables -A SERVICES -s 192.0.2.0/24 -j ACCEPT
        explain "$IT"
        says 'now number 3'
        # Whole tables anew.
        $TIDEGATE iptables-restore $DIR/rules
        explain "$IT"
        says 'now number 1'
        # Now nothing lets it pass any more, and that is said before it is tried.
        $TIDEGATE iptables -D INPUT 1
        $TIDEGATE iptables -F SERVICES
        explain "$IT" --json
        python3 -c '
import json, sys
all = json.load(sys.stdin)
next = all["next"]
assert not next["client"]["passes"] and next["client"]["rule"]["number"] == 0, next["client"]
assert next["client"]["finding"]["code"] == "TG021", next["client"]
assert next["server"]["passes"], next["server"]
assert all["remedy"]["commands"] == ["iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], all["remedy"]
' < $DIR/out
        "#,
    );
}

#[test]
fn a_saved_state_is_explained_without_a_daemon() {
    INSIDE.succeeds(
        r#"
        $TIDEGATE down
        wait $daemon || true
        explain "$IT" --saved $DIR/state/connections --rules $DIR/rules
        says 'state      ESTABLISHED, assured'
        says 'translated the server to 192.0.2.1:2200'
        says 'ACCEPT [ESTABLISHED] by filter INPUT 1'
        ! $TIDEGATE explain --connection "$IT" --saved $DIR/rules --rules $DIR/rules 2>$DIR/err || exit 2
        grep -q 'not a record of connections' $DIR/err || exit 3
        "#,
    );
}

/// The data connection of FTP without a rule for RELATED: packet 13 opens it.
#[test]
fn a_refused_packet_of_a_capture_gets_the_smallest_rule() {
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let whole = std::fs::read_to_string(scenarios.join("rules/b4.rules")).unwrap();
    let less = whole.lines().filter(|l| !l.contains("RELATED"));
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), less.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    let explain = |packet: &str, more: &[&str]| {
        let run = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["explain", "--packet", packet, "--rules"])
            .arg(rules.path())
            .arg("--host")
            .arg(scenarios.join("hosts/server.toml"))
            .arg("--capture")
            .arg(scenarios.join("captures/ftp-pasv-once.pcap"))
            .args(more)
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{err}");
        String::from_utf8(run.stdout).unwrap()
    };
    let text = explain("13", &[]);
    let helps = "iptables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    assert!(
        text.ends_with(&format!("It would pass with (tried out):\n  {helps}\n")),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&explain("13", &["--json"])).unwrap();
    assert_eq!(json["verdict"], "REFUSED");
    assert_eq!(json["packets"][0]["ctstate"], "RELATED");
    assert_eq!(json["packets"][0]["rule"]["number"], 0);
    assert_eq!(json["remedy"]["commands"][0], helps);
    let json: serde_json::Value = serde_json::from_str(&explain("1", &["--json"])).unwrap();
    assert_eq!(json["verdict"], "ACCEPT");
    assert!(json["remedy"].is_null());
}
