//! LOG and NFLOG of packets that come up to the daemon: the file has the kernel's line,
//! and tshark reads the capture.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::live::played;
use crate::{err, out};

const SCRIPT: &str = r#"
iptables() { tidegate iptables "$@"; }
iptables -A INPUT -p udp --dport 5000 -j LOG --log-prefix "want-in: " --log-level warning
iptables -A INPUT -p udp --dport 5000 -j NFLOG --nflog-group 5 --nflog-prefix seen
iptables -A INPUT -p udp --dport 5001 -j DROP
for port in 5000 5001 5001; do
    on_client bash -c "printf hi > /dev/udp/10.7.0.2/$port"
done
for _ in $(seq 200); do
    tidegate status --drops --json >drops
    grep -q '"rule": 2' drops && break
    sleep 0.05
done
tidegate status --drops >drops.text
tidegate conntrack -L >listed 2>/dev/null
"#;

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
    let config = format!(
        "[log]\nhostname = \"fw\"\nsyslog = \"\"\n\
         file = {{ path = {:?} }}\nnflog = {{ directory = {:?} }}\n",
        d.join("lines"),
        d.join("captures"),
    );
    if !played(d, &config, SCRIPT) {
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
