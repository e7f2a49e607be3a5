//! Sets and named counters: in the running firewall, in files, and for packets.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/namespace.rs"]
mod namespace;
#[path = "support/daemon.rs"]
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use namespace::Script;
use support::{Daemon, PROGRAM};

fn members(d: &Daemon, set: &str) -> Vec<String> {
    let saved = d.out(&format!("ipset save {set}"));
    let lines = saved.lines().filter(|line| line.starts_with("add "));
    lines.map(str::to_owned).collect()
}

/// What fails, with its status and the last line that it says.
fn fails(d: &Daemon, line: &str) -> (Option<i32>, String) {
    let run = d.ask(line);
    let err = String::from_utf8_lossy(&run.stderr).into_owned();
    (run.status.code(), err.trim_end().to_owned())
}

#[test]
fn sets_outlive_rules_reloads_and_crashes() {
    let mut d = Daemon::new();
    d.start();
    d.out("ipset create banned hash:net");
    d.out("ipset add banned 198.51.100.0/24");
    let rule = "-A INPUT -m set --match-set banned src -j DROP";
    d.out(&format!("iptables {rule}"));
    assert_eq!(d.rules(), [rule]);
    let used = "ipset v7.17: Set cannot be destroyed: it is in use by a kernel component";
    assert_eq!(
        fails(&d, "ipset destroy banned"),
        (Some(1), used.to_owned())
    );
    let listed = d.out("ipset list banned -t");
    assert!(listed.contains("\nReferences: 1\n"), "{listed}");
    d.out("iptables -F");
    assert_eq!(members(&d, "banned"), ["add banned 198.51.100.0/24"]);
    d.out(&format!("iptables {rule}"));
    d.out("save");
    let file = std::fs::read_to_string(d.path("sets")).unwrap();
    assert!(file.ends_with("add banned 198.51.100.0/24\n"), "{file}");
    let both = ["add banned 198.51.100.0/24", "add banned 203.0.113.9"];
    d.out("down");
    assert_eq!(d.ended().0, Some(0));
    d.start();
    assert_eq!(d.rules(), [rule]);
    assert_eq!(members(&d, "banned"), ["add banned 198.51.100.0/24"]);
    d.out("ipset add banned 203.0.113.9");
    // The record is written soon.
    let ends = Instant::now() + Duration::from_secs(20);
    let kept = || std::fs::read_to_string(d.path("running.sets")).unwrap_or_default();
    while !kept().contains("203.0.113.9") {
        assert!(Instant::now() < ends, "no record of the sets");
        std::thread::sleep(Duration::from_millis(10));
    }
    d.kill();
    d.start();
    assert_eq!(members(&d, "banned"), both);
    d.out("iptables -F");
    d.out("ipset destroy banned");
    d.out("reload");
    assert_eq!(members(&d, "banned"), ["add banned 198.51.100.0/24"]);
}

#[test]
fn counters_have_names() {
    let mut d = Daemon::new();
    d.start();
    d.out("nfacct add web byte 1000");
    d.out("iptables -A INPUT -m nfacct --nfacct-name web");
    let busy = "nfacct v1.0.2: error: Device or resource busy";
    assert_eq!(fails(&d, "nfacct delete web"), (Some(1), busy.to_owned()));
    d.out("iptables -F");
    d.out("nfacct delete web");
    assert_eq!(d.out("nfacct list"), "");
}

#[test]
fn a_state_file_keeps_sets_beside_rules() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let run = |line: &str| {
        let mut command = Command::new(PROGRAM);
        command
            .args(line.split_whitespace())
            .env("TIDEGATE_STATE", &state);
        let run = command.output().unwrap();
        let err = String::from_utf8_lossy(&run.stderr).into_owned();
        (
            run.status.code(),
            String::from_utf8_lossy(&run.stdout).into_owned() + &err,
        )
    };
    let done = (Some(0), String::new());
    assert_eq!(run("ipset create web hash:ip,port"), done);
    assert_eq!(run("ipset add web 10.0.0.1,tcp:80"), done);
    assert_eq!(run("ip6tables -P FORWARD DROP"), done);
    assert_eq!(
        run("iptables -A INPUT -m set --match-set web dst,dst -j ACCEPT"),
        done
    );
    assert_eq!(run("ipset destroy web").0, Some(1));
    let saved = run("ipset save").1;
    assert!(saved.ends_with("\nadd web 10.0.0.1,tcp:80\n"), "{saved}");
    // The same file tells explain what the rules look into.
    let explain = |packet: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["explain", "--rules"]).arg(&state);
        let run = command.args(packet.split_whitespace()).output().unwrap();
        String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr)
    };
    assert_eq!(run("iptables -P INPUT DROP"), done);
    let to_web = explain("tcp 10.0.0.7:4000>10.0.0.1:80 in eth0 syn");
    assert!(to_web.contains("ACCEPT"), "{to_web}");
    let to_ssh = explain("tcp 10.0.0.7:4000>10.0.0.1:22 in eth0 syn");
    assert!(!to_ssh.contains("rule 1"), "{to_ssh}");
}

/// Packets over loopback, in a user and network namespace of its own: what a set says
/// counts from the next packet on, and what packets add can be seen.
#[test]
fn packets_meet_what_the_set_says_now() {
    const SCRIPT: &str = r#"
        ip link set lo up
        printf '*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n' >$DIR/rules
        passes() { ping -n -q -c 1 -W 0.5 127.0.0.1 >/dev/null; }
        t="$TIDEGATE"
        $t up --socket $DIR/sock --rules $DIR/rules 2>$DIR/log &
        for i in $(seq 100); do
            if $t status >$DIR/status 2>&1; then break; fi
            sleep 0.1
        done
        ! $t iptables -A INPUT -m set --match-set no src -j DROP 2>$DIR/err || exit 2
        grep -q "Set no doesn't exist." $DIR/err || exit 3
        $t ipset create no hash:ip counters
        ! $t ip6tables -A INPUT -m set --match-set no src -j DROP 2>$DIR/err || exit 4
        grep -q "The protocol family of set no is IPv4, which is not applicable." $DIR/err || exit 5
        $t ipset create seen hash:ip timeout 600
        $t iptables -A INPUT -p icmp -j SET --add-set seen src --exist
        $t iptables -A INPUT -m set --match-set no src -j DROP
        passes || exit 6
        $t ipset add no 127.0.0.1
        ! passes || exit 7
        $t ipset save no | grep -q 'add no 127.0.0.1 packets [1-9]' || exit 8
        $t ipset del no 127.0.0.1
        passes || exit 9
        $t ipset test seen 127.0.0.1 2>/dev/null || exit 10
        $t nfacct add pings packet 1
        $t iptables -I INPUT -p icmp -m nfacct --nfacct-name pings -j DROP
        ! passes || exit 11
        $t nfacct get pings | grep -q 'quota = 00000000000000000001, mode = packet, overquota = yes' || exit 12
        ! $t iptables -A INPUT -m nfacct --nfacct-name none 2>$DIR/err || exit 13
        grep -q 'iptables: No chain/target/match by that name.' $DIR/err || exit 14
        $t down
        wait
    "#;
    let inside = Script {
        files: &[],
        needs: "ip link set lo up && ping -V",
        far: false,
        prelude: "",
    };
    inside.succeeds(SCRIPT);
}
