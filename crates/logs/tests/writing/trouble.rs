//! Targets that are absent, stalled or full, and more than can be written.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use tidegate_ir::Hook;
use tidegate_logs::Logs;

use crate::common::{at, eventually, line, nflog, packet, quiet, receive, socket};

/// Far more than handing over takes, far less than waiting for somebody would.
const QUICK: Duration = Duration::from_secs(2);

#[test]
fn a_stalled_syslog_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.syslog = directory.path().join("log");
    config.file.path = directory.path().join("fw.log");
    let _never_read = socket(&config.syslog);
    let file = config.file.path.clone();
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    let begun = Instant::now();
    for i in 0..2000 {
        handle.log(at(i), &line(4, "x "));
    }
    assert!(begun.elapsed() < QUICK, "the datapath waited");
    eventually(|| {
        let targets = logs.status().targets;
        targets[0].lost + targets[0].written == 2000 && targets[1].written == 2000
    });
    let stalled = &logs.status().targets[0];
    assert_eq!(stalled.last_error.as_deref(), Some("takes nothing"));
    let begun = Instant::now();
    drop(logs);
    assert!(begun.elapsed() < QUICK, "the end waited");
    assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 2000);
}

#[test]
fn a_syslog_may_come_late_and_be_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.syslog = directory.path().join("log");
    let path = config.syslog.clone();
    let logs = Logs::start(config).unwrap();
    let say = |text: &str| logs.handle().log(at(0), &line(4, text));
    say("nobody hears ");
    eventually(|| logs.status().targets[0].lost == 1);
    assert!(logs.status().targets[0].failing);
    for turn in 0..2 {
        let _ = fs::remove_file(&path);
        let socket = socket(&path);
        // It is tried once a second.
        std::thread::sleep(Duration::from_millis(1100));
        say(&format!("turn {turn} "));
        assert!(receive(&socket).ends_with(&format!("kernel: turn {turn} ")));
    }
    eventually(|| !logs.status().targets[0].failing);
}

#[test]
fn a_full_disk_is_reported_and_other_targets_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.file.path = "/dev/full".into();
    config.syslog = directory.path().join("log");
    let socket = socket(&config.syslog);
    let captures = config.nflog.directory.clone();
    fs::create_dir(&captures).unwrap();
    symlink("/dev/full", captures.join("nflog-1.pcapng")).unwrap();
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    for i in 0..3 {
        handle.log(at(i), &line(4, "x "));
        handle.log(at(i), &nflog(packet(1, Hook::Input, 44)));
        assert!(receive(&socket).ends_with("kernel: x "));
    }
    eventually(|| {
        let status = logs.status();
        status.targets[1].lost == 3 && status.captures.lost == 3
    });
    let status = logs.status();
    for target in [&status.targets[1], &status.captures] {
        assert!(target.failing);
        let why = target.last_error.as_deref().unwrap();
        assert!(why.contains("No space left on device"), "{why}");
    }
}

#[test]
fn what_does_not_fit_in_the_queue_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.syslog = directory.path().join("log");
    config.queue.messages = 10;
    config.queue.bytes = 100_000;
    let _never_read = socket(&config.syslog);
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    let mut big = packet(1, Hook::Input, 44);
    big.bytes.resize(100_001, 0);
    handle.log(at(0), &nflog(big));
    assert_eq!(logs.status().packets_lost, 1);
    // Ten wait while the first lines are held up by the receiver.
    let begun = Instant::now();
    for i in 0..100_000 {
        handle.log(at(i), &line(4, "x "));
    }
    assert!(begun.elapsed() < QUICK, "the datapath waited");
    let status = logs.status();
    assert!(status.lines_lost > 0);
    eventually(|| {
        let status = logs.status();
        let target = &status.targets[0];
        // Besides, the log says itself that lines are missing.
        target.lost + target.written + status.lines_lost >= 100_000
    });
}
