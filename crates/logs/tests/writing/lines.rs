//! LOG lines at each kind of target.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use tidegate_engine::conntrack::DropReason as CtDrop;
use tidegate_engine::{DropReason, Output};
use tidegate_logs::config::{Format, Remote};
use tidegate_logs::{Config, Logs};

use crate::common::{at, line, quiet, receive, socket};

/// What stands between the date and the text, without the date.
fn undated(text: &str) -> String {
    let after = text.find('>').map_or(0, |i| i + 1);
    format!("{}{}", &text[..after], &text[after + 15..])
}

fn syslog(directory: &Path) -> Config {
    Config {
        syslog: directory.join("log"),
        ..quiet(directory)
    }
}

#[test]
fn the_local_syslog_gets_facility_kern_and_the_rules_level() {
    let directory = tempfile::tempdir().unwrap();
    let config = syslog(directory.path());
    let socket = socket(&config.syslog);
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    handle.log(at(0), &line(4, "want-in: IN=eth0 OUT= "));
    handle.log(at(1), &line(7, "debug\x1b[31m "));
    assert_eq!(
        undated(&receive(&socket)),
        "<4> kernel: want-in: IN=eth0 OUT= "
    );
    assert_eq!(undated(&receive(&socket)), "<7> kernel: debug\\x1b[31m ");
}

#[test]
fn other_hosts_get_either_form() {
    let directory = tempfile::tempdir().unwrap();
    let listen = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        socket
    };
    let (old, new) = (listen(), listen());
    let remote = |socket: &UdpSocket, format| Remote {
        address: socket.local_addr().unwrap(),
        format,
    };
    let mut config = quiet(directory.path());
    config.remote = vec![remote(&old, Format::Rfc3164), remote(&new, Format::Rfc5424)];
    let logs = Logs::start(config).unwrap();
    logs.handle().log(at(250), &line(6, "IN=eth0 "));
    let text = |socket: &UdpSocket| {
        let mut buffer = [0; 2048];
        let n = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..n].to_vec()).unwrap()
    };
    assert_eq!(undated(&text(&old)), "<6> fw kernel: IN=eth0 ");
    let at = "2026-11-18T11:06:40.250000Z";
    assert_eq!(text(&new), format!("<6>1 {at} fw kernel - - - IN=eth0 "));
}

#[test]
fn the_journal_gets_fields() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        journal: directory.path().join("socket"),
        ..quiet(directory.path())
    };
    let socket = socket(&config.journal);
    let logs = Logs::start(config).unwrap();
    logs.handle().log(at(0), &line(3, "a=b\nc"));
    assert_eq!(
        receive(&socket),
        "MESSAGE=a=b\\x0ac\nPRIORITY=3\nSYSLOG_FACILITY=0\nSYSLOG_IDENTIFIER=kernel\n"
    );
}

#[test]
fn a_file_is_bounded_whatever_comes() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.file.path = directory.path().join("fw.log");
    config.file.size = 40_000;
    config.file.keep = 2;
    let logs = Logs::start(config).unwrap();
    for i in 0..5000 {
        logs.handle().log(at(i), &line(4, &format!("line {i:05} ")));
    }
    drop(logs);
    let mut sizes = Vec::new();
    let mut newest_first = Vec::new();
    for name in ["fw.log", "fw.log.1", "fw.log.2"] {
        let text = fs::read_to_string(directory.path().join(name)).unwrap();
        sizes.push(text.len());
        newest_first.extend(text.lines().rev().map(str::to_owned));
    }
    assert!(sizes.iter().all(|&s| s <= 40_000), "{sizes:?}");
    assert!(!directory.path().join("fw.log.3").exists());
    for (line, i) in newest_first.iter().zip((0..5000).rev()) {
        assert_eq!(&line[15..], format!(" fw kernel: line {i:05} "));
    }
}

#[test]
fn too_many_lines_are_suppressed_and_counted_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = syslog(directory.path());
    config.limit.per_second = 10;
    config.limit.burst = 5;
    let socket = socket(&config.syslog);
    let logs = Logs::start(config).unwrap();
    for _ in 0..1000 {
        logs.handle().log(at(0), &line(4, "flood "));
    }
    assert_eq!(logs.status().lines_suppressed, 995);
    // The datagram queue of a socket is short: the reader keeps pace.
    let reader = std::thread::spawn(move || {
        let lines = std::iter::repeat_with(|| receive(&socket));
        lines.take(6).collect::<Vec<_>>()
    });
    drop(logs);
    let lines = reader.join().unwrap();
    let texts: Vec<_> = lines.iter().map(|l| undated(l)).collect();
    // The count may come between, if the writer was quick.
    assert_eq!(
        texts.iter().filter(|t| *t == "<4> kernel: flood ").count(),
        5
    );
    let told = texts.iter().find(|t| t.contains("suppressed")).unwrap();
    assert!(told.starts_with("<4> kernel: tidegate: "), "{told}");
}

#[test]
fn a_full_table_is_announced_as_by_the_kernel() {
    let directory = tempfile::tempdir().unwrap();
    let config = syslog(directory.path());
    let socket = socket(&config.syslog);
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    let full = DropReason::Conntrack(CtDrop::TableFull);
    let reader = std::thread::spawn(move || {
        let lines = std::iter::repeat_with(|| undated(&receive(&socket)));
        lines.take(12).collect::<Vec<_>>()
    });
    for i in 0..52 {
        handle.dropped(at(i), &full);
        handle.dropped(at(i), &DropReason::Conntrack(CtDrop::Clash));
        handle.dropped(at(i), &DropReason::Martian);
    }
    handle.dropped(at(15_000), &full);
    let lines = reader.join().unwrap();
    let message = "<4> kernel: nf_conntrack: nf_conntrack: table full, dropping packet";
    assert!(lines[..10].iter().all(|l| l == message), "{lines:?}");
    let missed = "<4> kernel: net_ratelimit: 42 callbacks suppressed";
    assert_eq!(lines[10..], [missed, message]);
}

#[test]
fn packets_are_no_lines() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.file.path = directory.path().join("fw.log");
    let logs = Logs::start(config).unwrap();
    let output = Output::Deliver {
        dev: tidegate_engine::env::IfIndex(1),
        bytes: Vec::new(),
        mark: 0,
        given: None,
    };
    logs.handle().log(at(0), &output);
    drop(logs);
    assert!(!directory.path().join("fw.log").exists());
}
