//! Packets handed to sockets that they are not addressed to (TPROXY, `-m socket`): the same
//! traffic past the kernel's rules and past ours.

use std::process::Command;

use tidegate_wire::Family;

use crate::net::{Host, able, client_and_server, skipped};
use crate::senders::may;

/// As the kernel's documentation has it (`tproxy.rst`): packets of connections that a
/// transparent socket has are marked, new ones are handed over and marked.
const RULES: &str = "*mangle
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DIVERT - [0:0]
-A PREROUTING -p tcp -m socket --transparent -j DIVERT
-A PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 5000 --on-ip ADDRESS --tproxy-mark 0x1/0x1
-A PREROUTING -p udp -m udp --dport 53 -j TPROXY --on-port 5000 --on-ip ADDRESS --tproxy-mark 0x1/0x1
-A DIVERT -j MARK --set-xmark 0x1/0x1
-A DIVERT -j ACCEPT
COMMIT
";

/// Transparent sockets that say whom they were taken for, one connection and one datagram
/// each.
const PROXY: &str = "
import socket, sys
family, here, answer = (socket.AF_INET, sys.argv[1], sys.argv[1]) if '.' in sys.argv[1] \\
    else (socket.AF_INET6, sys.argv[1], sys.argv[1])
level, option, original = (0, 19, 20) if family == socket.AF_INET else (41, 75, 74)
def transparent(kind):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(level, option, 1)
    s.settimeout(20)
    return s
tcp, udp = transparent(socket.SOCK_STREAM), transparent(socket.SOCK_DGRAM)
tcp.bind((here, 5000)); tcp.listen(5)
udp.setsockopt(level, original, 1)
udp.bind((here, 5000))
print('ready', flush=True)
c, who = tcp.accept()
data = c.recv(100)
c.sendall(('tcp %s %d ' % c.getsockname()[:2]).encode() + data)
c.close()
data, extra, _, who = udp.recvmsg(100, 1000)
raw = extra[0][2]
to = socket.inet_ntop(family, raw[4:8] if family == socket.AF_INET else raw[8:24])
back = transparent(socket.SOCK_DGRAM)
back.bind((to, int.from_bytes(raw[2:4], 'big')))
back.sendto(('udp %s ' % to).encode() + data, who)
";

const CLIENT: &str = "
import socket, sys
family = socket.AF_INET if '.' in sys.argv[1] else socket.AF_INET6
s = socket.socket(family, socket.SOCK_STREAM); s.settimeout(10)
s.connect((sys.argv[1], 80))
s.sendall(b'hello'); said = b''
while True:
    more = s.recv(1000)
    if not more: break
    said += more
print(said.decode())
s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(10)
s.connect((sys.argv[1], 53)); s.send(b'question')
print(s.recv(1000).decode())
";

/// What the client hears of a server that does not exist, whose packets the router hands
/// to its own sockets.
fn asked(client: &Host, router: &Host, family: Family) -> String {
    let (six, own, far, all) = match family {
        Family::V4 => ("", "10.0.0.1", "203.0.113.9", "0.0.0.0/0"),
        Family::V6 => ("-6", "fd00::1", "2001:db8::9", "::/0"),
    };
    client.sh(&format!("ip {six} route add default via {own}"));
    router.sh(&format!(
        "ip {six} rule add fwmark 1 lookup 100
         ip {six} route add local {all} dev lo table 100
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
    ));
    router.sh(&format!(
        "f=$(mktemp); python3 -c \"$PROXY\" {own} >$f 2>&1 &
         for i in $(seq 100); do grep -q ready $f && break; sleep 0.05; done; rm $f"
    )
    .replace("$PROXY", PROXY));
    // Routes and rules are looked at within a moment.
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.sh(&format!("timeout 25 python3 -c \"{CLIENT}\" {far}"))
}

fn rules(family: Family) -> String {
    RULES.replace(
        "ADDRESS",
        match family {
            Family::V4 => "10.0.0.1",
            Family::V6 => "fd00::1",
        },
    )
}

fn expected(family: Family) -> &'static str {
    match family {
        Family::V4 => "tcp 203.0.113.9 80 hello\nudp 203.0.113.9 question\n",
        Family::V6 => "tcp 2001:db8::9 80 hello\nudp 2001:db8::9 question\n",
    }
}

#[test]
fn packets_are_handed_to_transparent_sockets() {
    if !able() || !may() {
        return;
    }
    if Command::new("python3").arg("-V").output().is_err() {
        skipped("transparent sockets need python3");
        return;
    }
    for family in [Family::V4, Family::V6] {
        let (client, router) = client_and_server();
        let guard = router.guard(&rules(Family::V4), &rules(Family::V6));
        assert_eq!(asked(&client, &router, family), expected(family));
        let handed = [1, 2].map(|n| guard.counted(family, n));
        assert_eq!(handed, [1, 1], "one connection and one datagram");
    }
}

#[test]
fn the_kernel_hands_them_over_as_well() {
    if !able() || !may() {
        return;
    }
    if Command::new("iptables-legacy-save").output().is_err() {
        skipped("the kernel's answer to compare with: iptables-legacy is missing");
        return;
    }
    for (family, tool) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        let (client, router) = client_and_server();
        let rules = rules(family);
        router.sh(&format!("{tool}-legacy-restore -w <<'END'\n{rules}END"));
        assert_eq!(asked(&client, &router, family), expected(family));
    }
}
