//! `sysctl` on a table, compared with procps' on the kernel's where that can be.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use proptest::prelude::*;
use tidegate_conntrack::sysctl::SYSCTLS;
use tidegate_tools::sysctl::{TableSettings, prepare, run};
use tidegate_tools::{Prepared, Printed};

use crate::local::{Local, words};

fn sysctl(local: &Local, line: &str) -> Printed {
    let words = words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match prepare(&words) {
        Prepared::Done(printed) => printed,
        Prepared::Rules(input) => run(&words, &input, &TableSettings(local)),
    }
}

/// Every line with both, in one namespace; defaults are compared before anything is set.
const LINES: &[&str] = &[
    "net.netfilter.nf_conntrack_count",
    "-a -r nf_conntrack_.*timeout",
    "-w net.netfilter.nf_conntrack_tcp_loose=0",
    "net.netfilter.nf_conntrack_tcp_loose",
    "-w net.netfilter.nf_conntrack_tcp_loose=2",
    "-w net.netfilter.nf_conntrack_tcp_loose=x",
    "-w net.netfilter.nf_conntrack_tcp_loose=",
    "-w net.netfilter.nf_conntrack_tcp_loose=1x",
    "-w net.netfilter.nf_conntrack_tcp_loose=010",
    "-w net.netfilter.nf_conntrack_tcp_loose=0x1",
    "-w 'net.netfilter.nf_conntrack_tcp_loose=1 2'",
    "-w net.netfilter.nf_conntrack_events=3",
    "-w net.netfilter.nf_conntrack_events=0",
    "-w net.netfilter.nf_conntrack_log_invalid=255",
    "-w net.netfilter.nf_conntrack_log_invalid=256",
    "-w net.netfilter.nf_conntrack_tcp_max_retrans=255",
    "-w net.netfilter.nf_conntrack_tcp_max_retrans=-1",
    "-w net.netfilter.nf_conntrack_udp_timeout=8589934",
    "-w net.netfilter.nf_conntrack_udp_timeout=8589935",
    "-w net.netfilter.nf_conntrack_udp_timeout=4294967296",
    "-w 'net.netfilter.nf_conntrack_udp_timeout= 5 '",
    "-w net.netfilter.nf_conntrack_udp_timeout=0x10",
    "-n net.netfilter.nf_conntrack_udp_timeout",
    "net.netfilter.nf_conntrack_nosuch",
    "-w net.netfilter.nf_conntrack_nosuch=5",
    "-e net.netfilter.nf_conntrack_nosuch",
    "net/netfilter/nf_conntrack_acct",
    "net/netfilter/nf_conntrack_acct=1",
    "-N net.netfilter.nf_conntrack_acct",
    "-b net.netfilter.nf_conntrack_acct",
    "-q net.netfilter.nf_conntrack_acct=0",
    "-w net.netfilter.nf_conntrack_acct",
    "-w",
    "-x",
    "-r conntrack_udp",
    "-a -r conntrack_udp",
    "-a --pattern conntrack_gre",
    "net.netfilter.nf_conntrack_acct net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_foo",
    "-w net.netfilter.nf_conntrack_acct=1 net.netfilter.nf_conntrack_foo=2",
    "-p /nonexistent",
    "-p FILE",
    "-e -p FILE",
    "net.netfilter.nf_conntrack_timestamp",
];

const FILE: &str = "# c\n; d\n\nnet.netfilter.nf_conntrack_acct = 0\n\
    -net.netfilter.nf_conntrack_nosuch=5\n net.netfilter.nf_conntrack_timestamp=1 \nfoo\n\
    net.netfilter.nf_conntrack_acct=\n";

#[test]
fn settings_are_shown_and_set_as_procps_does() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, FILE).unwrap();
    let lines: Vec<String> = LINES
        .iter()
        .map(|l| l.replace("FILE", file.to_str().unwrap()))
        .collect();
    let mut script = String::from("sysctl net.netfilter.nf_conntrack_acct >/dev/null || exit 77\n");
    for (i, line) in lines.iter().enumerate() {
        let _ = writeln!(script, "sysctl {line} >{i}.out 2>{i}.err; echo $? >{i}.rc");
    }
    let ran = Command::new("unshare")
        .args(["-n", "timeout", "60", "sh", "-c", &script])
        .current_dir(dir.path())
        .status();
    if !ran.is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: cannot run sysctl in a network namespace");
        return;
    }
    let local = Local::small();
    for (i, line) in lines.iter().enumerate() {
        let read = |kind| fs::read_to_string(dir.path().join(format!("{i}.{kind}"))).unwrap();
        let ours = sysctl(&local, line);
        assert_eq!(ours.err, read("err"), "{line}");
        // procps keeps the kernel's other settings.
        let theirs = read("out");
        let theirs = theirs.lines().filter(|l| !l.contains("frag6"));
        let ours_lines: Vec<&str> = ours.out.lines().collect();
        assert_eq!(ours_lines, theirs.collect::<Vec<_>>(), "{line}");
        assert_eq!(ours.status.to_string(), read("rc").trim(), "{line}");
    }
}

/// sysctl-6.18-netns.txt: all settings that are kept here, with their defaults.
#[test]
fn all_settings_and_their_defaults() {
    let local = Local::new(tidegate_conntrack::Config::default());
    let listed = sysctl(&local, "-a").out;
    assert_eq!(listed.lines().count(), SYSCTLS.len());
    for line in [
        "net.netfilter.nf_conntrack_acct = 0",
        "net.netfilter.nf_conntrack_buckets = 262144",
        "net.netfilter.nf_conntrack_checksum = 1",
        "net.netfilter.nf_conntrack_count = 0",
        "net.netfilter.nf_conntrack_events = 2",
        "net.netfilter.nf_conntrack_expect_max = 4096",
        "net.netfilter.nf_conntrack_generic_timeout = 600",
        "net.netfilter.nf_conntrack_gre_timeout = 30",
        "net.netfilter.nf_conntrack_gre_timeout_stream = 180",
        "net.netfilter.nf_conntrack_icmp_timeout = 30",
        "net.netfilter.nf_conntrack_icmpv6_timeout = 30",
        "net.netfilter.nf_conntrack_log_invalid = 0",
        "net.netfilter.nf_conntrack_max = 262144",
        "net.netfilter.nf_conntrack_sctp_timeout_closed = 10",
        "net.netfilter.nf_conntrack_sctp_timeout_cookie_echoed = 3",
        "net.netfilter.nf_conntrack_sctp_timeout_cookie_wait = 3",
        "net.netfilter.nf_conntrack_sctp_timeout_established = 210",
        "net.netfilter.nf_conntrack_sctp_timeout_heartbeat_sent = 30",
        "net.netfilter.nf_conntrack_sctp_timeout_shutdown_ack_sent = 3",
        "net.netfilter.nf_conntrack_sctp_timeout_shutdown_recd = 3",
        "net.netfilter.nf_conntrack_sctp_timeout_shutdown_sent = 3",
        "net.netfilter.nf_conntrack_tcp_be_liberal = 0",
        "net.netfilter.nf_conntrack_tcp_ignore_invalid_rst = 0",
        "net.netfilter.nf_conntrack_tcp_loose = 1",
        "net.netfilter.nf_conntrack_tcp_max_retrans = 3",
        "net.netfilter.nf_conntrack_tcp_timeout_close = 10",
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait = 60",
        "net.netfilter.nf_conntrack_tcp_timeout_established = 432000",
        "net.netfilter.nf_conntrack_tcp_timeout_fin_wait = 120",
        "net.netfilter.nf_conntrack_tcp_timeout_last_ack = 30",
        "net.netfilter.nf_conntrack_tcp_timeout_max_retrans = 300",
        "net.netfilter.nf_conntrack_tcp_timeout_syn_recv = 60",
        "net.netfilter.nf_conntrack_tcp_timeout_syn_sent = 120",
        "net.netfilter.nf_conntrack_tcp_timeout_time_wait = 120",
        "net.netfilter.nf_conntrack_tcp_timeout_unacknowledged = 300",
        "net.netfilter.nf_conntrack_timestamp = 0",
        "net.netfilter.nf_conntrack_udp_timeout = 30",
        "net.netfilter.nf_conntrack_udp_timeout_stream = 120",
    ] {
        assert!(listed.lines().any(|l| l == line), "{line}");
    }
}

#[test]
fn what_is_set_takes_effect() {
    let local = Local::small();
    let make = |port: u16| {
        let line =
            format!("-I -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport {port} -t 100 -u ASSURED");
        local.run(&line, "")
    };
    assert_eq!(sysctl(&local, "net.netfilter.nf_conntrack_max=2").status, 0);
    assert_eq!((make(1).status, make(2).status), (0, 0));
    assert_eq!(
        make(3).err,
        "conntrack v1.4.7 (conntrack-tools): Operation failed: not enough memory\n"
    );
    sysctl(
        &local,
        "-qw net.netfilter.nf_conntrack_max=3 net.netfilter.nf_conntrack_acct=1",
    );
    assert_eq!(make(3).status, 0);
    assert_eq!(
        sysctl(&local, "-n net.netfilter.nf_conntrack_count").out,
        "3\n"
    );
    // Only new entries have counters.
    let counted = local
        .lines("-L")
        .iter()
        .filter(|l| l.contains("packets=0"))
        .count();
    assert_eq!(counted, 1);
    // The table is spread over other buckets and nothing gets lost.
    sysctl(&local, "-w net.netfilter.nf_conntrack_buckets=5000");
    assert_eq!(
        sysctl(&local, "-n net.netfilter.nf_conntrack_buckets").out,
        "5120\n"
    );
    for port in 1..=3 {
        local.lines(&format!(
            "-G -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 1 --dport {port}"
        ));
    }
}

proptest! {
    #[test]
    fn any_words(words in prop::collection::vec("[-=./a-z0-9_ é]{0,12}", 0..6), file in ".{0,80}") {
        let local = Local::small();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        prop_assert!(run(&words, &file, &TableSettings(&local)).status <= 1);
    }
}
