//! Other people's programs read what was written: tshark, rsyslog, a small disk.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use tidegate_ir::Hook;
use tidegate_logs::Logs;

use crate::common::{at, eventually, line, nflog, packet, quiet};

/// Runs a program; `None`, loudly, when it is not there.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(out) => {
            let err = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "{program}: {err}");
            Some(String::from_utf8(out.stdout).unwrap())
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: {program} is not installed");
            None
        }
        Err(e) => panic!("{program}: {e}"),
    }
}

#[test]
fn wireshark_reads_the_captures() {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    let file = config.nflog.directory.join("nflog-5.pcapng");
    let logs = Logs::start(config.clone()).unwrap();
    let handle = logs.handle();
    handle.log(at(250), &nflog(packet(5, Hook::Forward, 44)));
    handle.log(at(500), &nflog(packet(5, Hook::Output, 28)));
    drop(logs);
    // A second run adds a section of its own.
    let logs = Logs::start(config).unwrap();
    logs.handle()
        .log(at(750), &nflog(packet(5, Hook::Input, 44)));
    drop(logs);
    let mut args = vec!["-r", file.to_str().unwrap(), "-T", "fields"];
    for field in [
        "frame.time_epoch",
        "frame.interface_name",
        "frame.comment",
        "frame.len",
        "frame.cap_len",
        "ip.src",
        "udp.dstport",
    ] {
        args.extend(["-e", field]);
    }
    let Some(text) = run("tshark", &args) else {
        return;
    };
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    let wanted = [
        [
            "1795000000.250000000",
            "eth0",
            "seen: FORWARD IN=eth0 OUT=eth1 MARK=0x1f",
            "44",
            "44",
            "10.0.0.2",
            "53",
        ],
        [
            "1795000000.500000000",
            "eth1",
            "seen: OUTPUT IN= OUT=eth1 MARK=0x1f",
            "44",
            "28",
            "10.0.0.2",
            "53",
        ],
        [
            "1795000000.750000000",
            "eth0",
            "seen: INPUT IN=eth0 OUT= MARK=0x1f",
            "44",
            "44",
            "10.0.0.2",
            "53",
        ],
    ];
    assert_eq!(rows, wanted);
}

/// rsyslogd with a socket and files in a directory; it ends with this value.
struct Rsyslog(std::process::Child);

impl Rsyslog {
    fn start(directory: &Path) -> Option<Self> {
        let d = directory.display();
        let rules = format!(
            "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{d}/log\")\n\
             :msg, contains, \"want-in\" {d}/want-in.log\n\
             kern.=warning {d}/warning.log\n\
             kern.=info {d}/info.log\n"
        );
        fs::write(directory.join("rsyslog.conf"), rules).unwrap();
        let child = Command::new("rsyslogd")
            .arg("-n")
            .arg("-f")
            .arg(directory.join("rsyslog.conf"))
            .arg("-i")
            .arg(directory.join("pid"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Rsyslog(child)),
            Err(e) => {
                eprintln!("SKIPPED: rsyslogd: {e}");
                None
            }
        }
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rsyslog_routes_by_facility_level_and_text() {
    let directory = tempfile::tempdir().unwrap();
    let Some(_rsyslog) = Rsyslog::start(directory.path()) else {
        return;
    };
    let mut config = quiet(directory.path());
    config.syslog = directory.path().join("log");
    eventually(|| directory.path().join("log").exists());
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    handle.log(at(0), &line(4, "want-in IN=eth0 OUT= "));
    handle.log(at(0), &line(6, "other IN=eth0 OUT= "));
    let text = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    let ends = |name: &str, end: &str| text(name).trim_end_matches('\n').ends_with(end);
    eventually(|| ends("warning.log", " kernel: want-in IN=eth0 OUT= "));
    eventually(|| ends("want-in.log", " kernel: want-in IN=eth0 OUT= "));
    eventually(|| ends("info.log", " kernel: other IN=eth0 OUT= "));
    assert_eq!(text("want-in.log").lines().count(), 1);
}

const SMALL_DISK: &str = "TIDEGATE_TEST_SMALL_DISK";

/// Runs itself again where a small disk can be mounted.
#[test]
fn a_disk_that_fills_up_and_is_freed_loses_only_what_came_meanwhile() {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return fill(Path::new(&disk));
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=256k none \"$TIDEGATE_TEST_SMALL_DISK\" || exit 77
        exec \"$0\" --exact programs::a_disk_that_fills_up_and_is_freed_loses_only_what_came_meanwhile";
    let own = std::env::current_exe().unwrap();
    let out = Command::new("unshare")
        .args(["-rm", "sh", "-c", script])
        .arg(own)
        .env(SMALL_DISK, directory.path())
        .output();
    match out {
        Ok(out) if out.status.code() == Some(77) => eprintln!("SKIPPED: cannot mount"),
        Ok(out) => assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stdout)
        ),
        Err(e) => eprintln!("SKIPPED: unshare: {e}"),
    }
}

fn fill(disk: &Path) {
    let mut config = quiet(disk);
    config.file.path = disk.join("fw.log");
    let logs = Logs::start(config).unwrap();
    let handle = logs.handle();
    let both = |i| {
        handle.log(at(i), &line(4, &format!("line {i} ")));
        handle.log(at(i), &nflog(packet(1, Hook::Input, 44)));
    };
    let done = |n| {
        let status = logs.status();
        let (lines, packets) = (&status.targets[0], &status.captures);
        lines.written + lines.lost >= n && packets.written + packets.lost >= n
    };
    both(0);
    eventually(|| done(1));
    let ballast = disk.join("ballast");
    // As much as there is room for.
    assert!(fs::write(&ballast, vec![0; 1 << 20]).is_err());
    // In step with the writer: what is lost is lost by the disk, not by the queue.
    for i in 1..500 {
        both(i);
        eventually(|| done(i + 1));
    }
    let status = logs.status();
    assert!(status.targets[0].lost > 0 && status.captures.lost > 0);
    assert!(status.targets[0].failing && status.captures.failing);
    fs::remove_file(&ballast).unwrap();
    (500..600).for_each(both);
    eventually(|| done(600));
    assert!(!logs.status().targets[0].failing);
    let (lines, packets) = (
        logs.status().targets[0].written,
        logs.status().captures.written,
    );
    drop(logs);
    let text = fs::read_to_string(disk.join("fw.log")).unwrap();
    let kept: Vec<_> = text
        .lines()
        .filter(|l| l.contains("kernel: line "))
        .collect();
    assert!(kept.iter().all(|l| l.ends_with(' ')), "a line is cut");
    assert!(kept.len() as u64 <= lines && kept.len() >= 100 && text.ends_with('\n'));
    let file = fs::File::open(disk.join("captures/nflog-1.pcapng")).unwrap();
    let mut reader = tidegate_capture::Reader::new("test", file);
    let mut count = 0;
    while reader.next_frame().expect("no damage").is_some() {
        count += 1;
    }
    assert_eq!(count, packets);
}
