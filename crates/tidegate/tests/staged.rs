//! `tidegate apply --staged`: real packets meet rules that have no effect. Needs `unshare`,
//! `ip` and Python, no root.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/namespace.rs"]
mod namespace;

use namespace::Script;

const SCRIPT: &str = r#"
ip link set lo up
printf '*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 7777 -j DROP\nCOMMIT\n' > $DIR/open
printf '*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 9999 -j DROP\nCOMMIT\n' > $DIR/new
$TIDEGATE up --socket $DIR/sock --rules $DIR/open 2>$DIR/log & daemon=$!
trap 'kill $daemon' EXIT
for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
send() { python3 -c '
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", port)); a.settimeout(3)
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.bind(("127.0.0.1", 4000))
got = 0
for i in range(count): b.sendto(b"x", ("127.0.0.1", port))
try:
    while got < count: a.recv(9); got += 1
except TimeoutError: pass
print(got)
' $1 $2; }
! $TIDEGATE apply --show 2>$DIR/err || exit 2
grep -q 'no rules are on stage' $DIR/err || exit 3
$TIDEGATE apply --staged $DIR/new 2>/dev/null || exit 4
test $(send 9999 5) = 5 || { echo 'staged rules drop'; exit 5; }
test $(send 7777 3) = 0 || { echo 'rules in force do not drop'; exit 6; }
$TIDEGATE status > $DIR/status
grep -q 'ON STAGE .*they would have stopped 5, let in 3 ' $DIR/status || { cat $DIR/status; exit 7; }
$TIDEGATE apply --show > $DIR/show
grep -q '^5 packets, 145 bytes would have been DROPPED at INPUT by filter INPUT 1  -A INPUT -p udp -m udp --dport 9999 -j DROP' $DIR/show || { cat $DIR/show; exit 8; }
grep -q '^  now    ACCEPTED by filter INPUT policy' $DIR/show || { cat $DIR/show; exit 9; }
grep -q '^  first  udp 127.0.0.1:4000 > 127.0.0.1:9999 in lo' $DIR/show || { cat $DIR/show; exit 10; }
grep -q '^3 packets, 87 bytes would have been ACCEPTED at INPUT by filter INPUT policy' $DIR/show || { cat $DIR/show; exit 11; }
$TIDEGATE apply --show --json | grep -q '"verdict": "DROPPED"' || exit 12
$TIDEGATE apply --promote --no-wait --timeout 60 >/dev/null 2>$DIR/err || { cat $DIR/err; exit 13; }
$TIDEGATE confirm
! $TIDEGATE status | grep -q 'ON STAGE' || exit 14
test $(send 9999 2) = 0 || exit 15
$TIDEGATE apply --staged $DIR/open 2>/dev/null
$TIDEGATE apply --discard
! $TIDEGATE status | grep -q 'ON STAGE' || exit 16
$TIDEGATE iptables -S INPUT | grep -q 9999 || exit 17
"#;

#[test]
fn rules_on_stage_see_packets_and_do_nothing_until_promoted() {
    let inside = Script {
        files: &[],
        needs: "ip link set lo up && python3 -c ''",
        far: false,
        prelude: "",
    };
    inside.succeeds(SCRIPT);
}
