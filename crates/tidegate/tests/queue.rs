//! Queues of the running firewall and programs that read them: what `-j NFQUEUE` and
//! libnetfilter_queue do with Linux 6.18. Needs `unshare`, `ip` and Python, no root.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/namespace.rs"]
mod namespace;

use namespace::Script;

const RULES: &str = "*mangle
:INPUT ACCEPT [0:0]
-A INPUT -p udp -m udp --dport 7003 -m mark --mark 9 -j ACCEPT
-A INPUT -p udp -m udp --dport 7003 -j NFQUEUE --queue-num 3
-A INPUT -p udp -m udp --dport 7003 -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p udp -m udp --dport 7000 -j NFQUEUE --queue-num 3
-A INPUT -p udp -m udp --dport 7001 -j NFQUEUE --queue-num 4 --queue-bypass
-A INPUT -p udp -m udp --dport 7001 -j DROP
-A INPUT -p udp -m udp --dport 7002 -j NFQUEUE --queue-num 5
-A INPUT -p udp -m udp --dport 7003 -m mark --mark 9
COMMIT
";

/// Sends words to a port of this host and prints what arrives within a second.
const TALK: &str = r#"
import socket, sys, time
port, words = int(sys.argv[1]), sys.argv[2:]
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", port))
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); b.bind(("127.0.0.1", 4000))
for word in words: b.sendto(word.encode(), ("127.0.0.1", port))
got, ends = [], time.time() + 1.5
while len(got) < len(words) and time.time() < ends:
    a.settimeout(max(0.01, ends - time.time()))
    try: got.append(a.recv(2000).decode())
    except TimeoutError: break
print(*got)
"#;

/// A program behind `tidegate queue run`: takes words as orders.
const DECIDE: &str = r#"
import json, sys, struct
for line in sys.stdin:
    p = json.loads(line)
    b = bytearray.fromhex(p["packet"])
    word = bytes(b[28:])
    order = {"id": p["id"], "verdict": "accept"}
    if word == b"no": order["verdict"] = "drop"
    if word == b"again" and p["mark"] == 0: order.update(verdict="repeat", mark=9)
    if word == b"change":
        b = b[:28] + b"something longer"
        b[2:4] = struct.pack(">H", len(b)); b[24:26] = struct.pack(">H", len(b) - 20)
        b[10:12] = b[26:28] = b"\0\0"
        s = sum(struct.unpack(">10H", b[:20])); s = (s & 0xffff) + (s >> 16); s = (s & 0xffff) + (s >> 16)
        b[10:12] = struct.pack(">H", ~s & 0xffff)
        order["packet"] = b.hex()
    if word == b"broken": order["packet"] = "450000"
    if word == b"end": break
    print(json.dumps(order), flush=True)
"#;

/// A reader over the bare socket, which does what no reader should.
const RAW: &str = r#"
import json, os, socket, struct, sys, time
class Reader:
    def __init__(self, *words):
        self.s = socket.socket(socket.AF_UNIX); self.s.connect(os.environ["TIDEGATE_SOCKET"]); self.s.settimeout(5)
        self.send(b"Q", json.dumps({"name": "queue", "words": ["bind", *words]}).encode())
        self.first = self.frame()
    def send(self, kind, payload): self.s.sendall(kind + struct.pack(">I", len(payload)) + payload)
    def take(self, n):
        got = b""
        while len(got) < n:
            piece = self.s.recv(n - len(got))
            if not piece: raise EOFError
            got += piece
        return got
    def frame(self):
        kind, n = struct.unpack(">cI", self.take(5))
        return kind, self.take(n)
    def packet(self):
        kind, payload = self.frame()
        assert kind == b"P", (kind, payload)
        n, = struct.unpack(">I", payload[:4])
        return json.loads(payload[4:4 + n]), payload[4 + n:]
    def order(self, bytes=b"", **what):
        head = json.dumps(what).encode()
        self.send(b"V", struct.pack(">I", len(head)) + head + bytes)
a = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); a.bind(("127.0.0.1", 7000))
b = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def send(*words):
    for word in words: b.sendto(word, ("127.0.0.1", 7000))
def got(wait=1.5):
    a.settimeout(wait)
    try: return a.recv(100)
    except TimeoutError: return None
def listed(): return [l.split() for l in os.popen(os.environ["TIDEGATE"] + " queue list").read().splitlines()[1:]]
def until(what):
    ends = time.time() + 20
    while not what():
        assert time.time() < ends, listed()
        time.sleep(0.05)
"#;

const PRELUDE: &str = r#"
ip link set lo up
$TIDEGATE up --socket $DIR/sock --rules $DIR/rules 2>$DIR/log & daemon=$!
reader=
trap 'kill $daemon $reader 2>/dev/null || true' EXIT
for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
talk() { python3 $DIR/talk "$@"; }
is() { test "$1" = "$2" || { echo "$3: \"$1\" is not \"$2\""; cat $DIR/err 2>/dev/null; exit 9; }; }
bound() { for i in $(seq 200); do $TIDEGATE queue list | grep -q "^ *$1 " && return; sleep 0.05; done; echo "queue $1 has no reader"; exit 8; }
free() { for i in $(seq 200); do $TIDEGATE queue list | grep -q "^ *$1 " || return 0; sleep 0.05; done; echo "queue $1 has a reader"; exit 7; }
"#;

const INSIDE: Script<'_> = Script {
    files: &[
        ("rules", RULES),
        ("talk", TALK),
        ("decide", DECIDE),
        ("raw.py", RAW),
    ],
    needs: "ip link set lo up && python3 -c ''",
    far: false,
    prelude: PRELUDE,
};

#[test]
fn packets_wait_for_who_reads_their_queue() {
    INSIDE.succeeds(
        r#"
        is "$(talk 7000 a)" "" "without a reader"
        is "$(talk 7001 a b)" "a b" "bypass leaves the table"
        $TIDEGATE queue read 3 --count 2 --mark 9 >$DIR/out 2>$DIR/err & reader=$!
        bound 3
        code=0; $TIDEGATE queue read 3 --count 1 2>$DIR/err || code=$?
        is $code 1 "a second reader"
        grep -q 'queue 3: the queue has a reader already' $DIR/err || { cat $DIR/err; exit 2; }
        is "$(talk 7003 a b)" "a b" "read"
        wait $reader
        grep -q '^1 INPUT in=lo 127.0.0.1:4000 > 127.0.0.1:7003 udp 29' $DIR/out || { cat $DIR/out; exit 3; }
        is "$(grep -c INPUT $DIR/out)" 2 "packets printed"
        # They left their table for the next one, with the mark.
        $TIDEGATE iptables -nvxL INPUT | grep -Eq '^ +2 .* mark match 0x9' || exit 4
        $TIDEGATE iptables -t mangle -nvxL INPUT | grep -Eq '^ +0 +0 DROP' || exit 5
        free 3
        $TIDEGATE queue read 3 --drop >$DIR/out & reader=$!
        bound 3
        is "$(talk 7000 a)" "" "drop"
        grep -q '^1 INPUT' $DIR/out || exit 6
        kill $reader
        free 3
        "#,
    );
}

#[test]
fn a_program_decides_line_by_line() {
    INSIDE.succeeds(
        r#"
        $TIDEGATE queue run 3 -- python3 $DIR/decide 2>$DIR/err & reader=$!
        bound 3
        is "$(talk 7000 yes no change)" "yes something longer" "decided"
        is "$(talk 7000 broken fine)" "fine" "no packet"
        # Repeat: once more through the table, where the mark is met.
        is "$(talk 7003 again)" "again" "repeat"
        $TIDEGATE iptables -t mangle -nvxL INPUT | grep -Eq '^ +1 .* mark match 0x9' || exit 2
        $TIDEGATE iptables -t mangle -nvxL INPUT | grep -Eq '^ +0 +0 DROP' || exit 3
        # What waits when the program ends is dropped.
        is "$(talk 7000 end)" "" "the program's end"
        wait $reader
        free 3
        $TIDEGATE queue run 3 -- sh -c 'while read packet; do echo accept 7; done' & reader=$!
        bound 3
        is "$(talk 7000 a b c)" "a b c" "words alone"
        kill $reader; wait $reader || true
        free 3
        code=0; ( sleep 1; talk 7000 a >/dev/null ) & $TIDEGATE queue run 3 -- sh -c 'read packet; echo nonsense; sleep 60' 2>$DIR/err || code=$?
        is $code 1 "nonsense"
        grep -q 'nonsense' $DIR/err || exit 4
        $TIDEGATE status --drops | grep -q queue_reader || exit 5
        "#,
    );
}

#[test]
fn the_example_of_the_library_decides() {
    INSIDE.succeeds(
        r#"
        example=$(dirname $TIDEGATE)/examples/queue_reader
        test -x $example || { echo 'SKIPPED: the example has not been built (cargo test builds it)' >&2; exit 0; }
        $example 3 & reader=$!
        bound 3
        is "$(talk 7000 yes no more)" "yes more" "decided"
        "#,
    );
}

#[test]
fn readers_of_every_kind_do_no_harm() {
    INSIDE.succeeds(
        r#"
        export PYTHONPATH=$DIR
        cat > $DIR/test.py <<'PYTHON'
from raw import *
r = Reader("3")
assert r.first[0] == b"O", r.first
send(b"a"); about, packet = r.packet()
assert (about["queue"], about["id"], about["hook"], about["in"], about["len"]) == (3, 1, "INPUT", "lo", 29), about
assert packet[28:] == b"a"
# Twice, unknown, zero, of the future: refused, and the reader stays.
r.order(id=1, verdict="accept"); assert got() == b"a"
for id in (1, 0, 77777, 4294967295):
    r.order(id=id, verdict="accept")
    kind, text = r.frame(); assert kind == b"E" and b"no packet with that number" in text, text
# Several at once.
send(b"1", b"2", b"3"); ids = [r.packet()[0]["id"] for _ in range(3)]
r.order(id=ids[1], verdict="accept", up_to=True); assert (got(), got(), got(0.3)) == (b"1", b"2", None)
r.order(id=ids[2], verdict="drop"); assert got(0.3) is None
# To another queue, and on from there.
other = Reader("9"); send(b"hop"); id = r.packet()[0]["id"]
r.order(id=id, verdict="queue", queue=9); about, _ = other.packet(); assert about["id"] == 1, about
other.order(id=1, verdict="accept"); assert got() == b"hop"
other.s.close(); until(lambda: len(listed()) == 1)
send(b"hop"); id = r.packet()[0]["id"]
r.order(id=id, verdict="queue", queue=9); assert got(0.3) is None
# Rules replaced, connections removed meanwhile.
send(b"swap"); id = r.packet()[0]["id"]
t = os.environ["TIDEGATE"]
assert os.system(t + " iptables -I INPUT -p udp --dport 7000 -j DROP") == 0
assert os.system(t + " conntrack -F 2>/dev/null") == 0
r.order(id=id, verdict="accept"); assert got() == b"swap"
assert os.system(t + " iptables -D INPUT 1") == 0
# What is no order ends it, and what waited is dropped.
for junk in (b"V\0\0\0\2{}", b"V\0\0\0\4\0\0\0\xff", b"V\xff\xff\xff\xffxx", b"Z\0\0\0\0", b"X\0\0\0\1\0", b"\0" * 100, b"V\0\0\0\6\0\0\0\2{}"):
    send(b"waits"); r.packet()
    r.s.sendall(junk)
    try:
        while True: r.frame()
    except (EOFError, ConnectionError): pass
    until(lambda: not listed())
    assert got(0.2) is None
    r = Reader("3")
# A packet may not grow beyond what there is.
send(b"huge"); id = r.packet()[0]["id"]
r.order(bytes=b"\x45" + b"\0" * 65000, id=id, verdict="accept"); assert got(0.3) is None
# One that hangs up in the middle of an order.
send(b"half"); r.packet(); r.s.sendall(b"V\0\0\1\0abc"); r.s.close(); until(lambda: not listed())
# A full queue drops, or lets pass.
r = Reader("3", "--max-len", "2")
send(b"1", b"2", b"3", b"4"); assert got(0.3) is None
row = listed()[0]; assert row[2] == "2" and row[5] == "2" and row[7] == "2", row
r.s.close(); until(lambda: not listed())
r = Reader("3", "--max-len", "2", "--fail-open")
send(b"1", b"2", b"3", b"4"); assert (got(), got()) == (b"3", b"4")
r.s.close(); until(lambda: not listed())
# One that never reads: others are served, and it stays bounded.
r = Reader("3", "--max-len", "65536")
for i in range(3000): send(b"x" * 1200)
other = Reader("5"); assert other.first[0] == b"O"
assert int(listed()[0][2]) <= 3000
r.s.close(); other.s.close(); until(lambda: not listed())
# Words that make no sense.
for words in ([], ["x"], ["65536"], ["3", "--max-len"], ["3", "--what"]):
    kind, text = Reader(*words).first; assert kind == b"E", (words, kind, text)
# Too many readers.
many = [Reader(str(100 + i)) for i in range(33)]
assert [m.first[0] for m in many].count(b"E") == 1
for m in many: m.s.close()
until(lambda: not listed())
# Every packet that waited has gone again.
r = Reader("3"); send(b"end"); id = r.packet()[0]["id"]; r.order(id=id, verdict="accept"); assert got() == b"end"
PYTHON
        timeout 100 python3 $DIR/test.py
        "#,
    );
}

/// The packets of other hosts, translated, with a reader at POSTROUTING and one at INPUT.
#[test]
fn connections_stay_with_packets_that_wait() {
    let between = Script {
        files: &[
            (
                "rules",
                "*raw\n-A PREROUTING -i eth0 -p udp -j NFQUEUE --queue-num 1\nCOMMIT\n*nat\n-A PREROUTING -i eth0 -p udp --dport 53 -j REDIRECT --to-ports 7000\nCOMMIT\n*filter\n:INPUT DROP\n-A INPUT -i lo -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A INPUT -i eth0 -m conntrack --ctstate NEW -j NFQUEUE --queue-num 2\nCOMMIT\n",
            ),
            (
                "talk",
                "import socket, sys\nc = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.settimeout(5); c.connect((\"192.0.2.1\", 53))\nfor i in range(3):\n    c.send(b\"q%d\" % i)\n    print(c.recv(99).decode())\n",
            ),
            (
                "serve",
                "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"0.0.0.0\", 7000))\nwhile True:\n    d, a = s.recvfrom(99); s.sendto(b\"re:\" + d, a)\n",
            ),
        ],
        needs: "python3 -c ''",
        far: true,
        prelude: "",
    };
    between.succeeds(
        r#"
        python3 $DIR/serve & server=$!
        $TIDEGATE up --socket $DIR/sock --rules $DIR/rules 2>$DIR/log & daemon=$!
        for i in $(seq 200); do $TIDEGATE status >/dev/null 2>&1 && break; sleep 0.05; done
        $TIDEGATE queue read 1 > $DIR/one & client=$!
        $TIDEGATE queue read 2 > $DIR/two & client="$client $!"
        for i in $(seq 200); do test $($TIDEGATE queue list | wc -l) = 3 && break; sleep 0.05; done
        there python3 $DIR/talk > $DIR/out || { cat $DIR/one $DIR/two; exit 2; }
        test "$(echo $(cat $DIR/out))" = 're:q0 re:q1 re:q2' || { cat $DIR/out; exit 3; }
        # raw sees every packet as it comes, the filter only the first, translated.
        test $(grep -c 'PREROUTING in=eth0 192.0.2.2:[0-9]* > 192.0.2.1:53 udp' $DIR/one) = 3 || { cat $DIR/one; exit 4; }
        test $(grep -c 'INPUT in=eth0 NEW 192.0.2.2:[0-9]* > 192.0.2.1:7000 udp' $DIR/two) = 1 || { cat $DIR/two; exit 5; }
        $TIDEGATE conntrack -L 2>/dev/null | grep -q 'dport=53 .*sport=7000' || exit 6
        "#,
    );
}
