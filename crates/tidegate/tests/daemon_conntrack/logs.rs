//! LOG and NFLOG of packets that come up to the daemon: the file has the kernel's line,
//! and tshark reads the capture.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::PROGRAM;
use crate::{err, out};

/// A client and a guarded server, in network namespaces that vanish with their
/// processes. Status 77: there are none to be had.
const SCRIPT: &str = r#"
set -e
ip link add srv0 address 02:00:00:00:00:02 type veth \
    peer name cl0 address 02:00:00:00:00:01 2>no-veth || exit 77
unshare -n sleep 60 & client=$!
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

"$PROGRAM" up --config conf --socket sock & daemon=$!
export TIDEGATE_SOCKET=$PWD/sock
for _ in $(seq 200); do "$PROGRAM" status >status 2>&1 && break; sleep 0.05; done
iptables() { "$PROGRAM" iptables "$@"; }
iptables -A INPUT -p udp --dport 5000 -j LOG --log-prefix "want-in: " --log-level warning
iptables -A INPUT -p udp --dport 5000 -j NFLOG --nflog-group 5 --nflog-prefix seen
iptables -A INPUT -p udp --dport 5001 -j DROP
for port in 5000 5001 5001; do
    on_client bash -c "printf hi > /dev/udp/10.7.0.2/$port"
done
for _ in $(seq 200); do
    "$PROGRAM" status --drops --json >drops
    grep -q '"rule": 2' drops && break
    sleep 0.05
done
"$PROGRAM" status --drops >drops.text
"$PROGRAM" conntrack -L >listed 2>/dev/null
"$PROGRAM" down
wait $daemon
kill $client
"#;

/// Plays the script in a directory; `false`, loudly, where it cannot be.
fn played(directory: &Path) -> bool {
    let conf = format!(
        "[rules]\nv4 = {0:?}\nv6 = {0:?}\n[log]\nhostname = \"fw\"\nsyslog = \"\"\n\
         file = {{ path = {1:?} }}\nnflog = {{ directory = {2:?} }}\n",
        directory.join("none"),
        directory.join("lines"),
        directory.join("captures"),
    );
    fs::write(directory.join("conf"), conf).unwrap();
    let run = Command::new("timeout")
        .args([
            "-k",
            "5",
            "60",
            "unshare",
            "-rnpf",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["sh", "-c", SCRIPT])
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

/// A word of a line by what stands before it.
fn word<'a>(line: &'a str, before: &str) -> &'a str {
    let rest = line
        .split_once(before)
        .unwrap_or_else(|| panic!("{line}"))
        .1;
    rest.split(' ').next().unwrap_or(rest)
}

#[test]
fn lines_and_captures_say_what_came() {
    let directory = tempfile::tempdir().unwrap();
    let d = directory.path();
    if !played(d) {
        return;
    }
    let read = |name: &str| fs::read_to_string(d.join(name)).unwrap();
    let lines = read("lines");
    let (id, port) = (word(&lines, " ID="), word(&lines, " SPT="));
    // `nf_log_ipv4`: the link header with both addresses and the type, then the packet's.
    let wanted = format!(
        " fw kernel: want-in: IN=srv0 OUT= \
         MAC=02:00:00:00:00:02:02:00:00:00:00:01:08:00 SRC=10.7.0.1 DST=10.7.0.2 LEN=30 \
         TOS=0x00 PREC=0x00 TTL=64 ID={id} DF PROTO=UDP SPT={port} DPT=5000 LEN=10 \n"
    );
    let date = lines
        .strip_suffix(&wanted)
        .unwrap_or_else(|| panic!("{lines}\n{wanted}"));
    // `Nov 25 10:00:00`
    assert_eq!(date.len(), 15, "{date}");
    assert!(!date.contains('\n'));

    let drops: Value = serde_json::from_str(&read("drops")).unwrap();
    assert_eq!(drops["dropped"]["rule"], 2);
    assert_eq!(drops["logs"]["captures"]["written"], 1);
    let text = read("drops.text");
    assert!(text.starts_with("dropped  2\nrule     2  "), "{text}");
    assert!(
        text.contains(&format!("\n1 lines to {}\n", d.join("lines").display())),
        "{text}"
    );
    assert_eq!(read("listed"), "", "nothing needs tracking");
    tshark_reads(&d.join("captures/nflog-5.pcapng"), port);
}

fn tshark_reads(file: &Path, port: &str) {
    let fields = [
        "frame.interface_name",
        "frame.comment",
        "frame.len",
        "ip.src",
        "ip.dst",
        "udp.srcport",
        "udp.dstport",
        "udp.payload",
    ];
    let read = Command::new("tshark")
        .env("HOME", file.parent().unwrap())
        .args(["-r", file.to_str().unwrap(), "-T", "fields"])
        .args(fields.iter().flat_map(|f| ["-e", f]))
        .output();
    match read {
        Err(e) if e.kind() == ErrorKind::NotFound => eprintln!("SKIPPED: tshark is not installed"),
        read => {
            let read = read.unwrap();
            assert!(read.status.success(), "{}", err(&read));
            let wanted = format!(
                "srv0\tseen INPUT IN=srv0 OUT=\t30\t10.7.0.1\t10.7.0.2\t{port}\t5000\t6869\n"
            );
            assert_eq!(out(&read), wanted);
        }
    }
}
