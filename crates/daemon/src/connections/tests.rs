use std::sync::Arc;

use tidegate_engine::conntrack::format::{Columns, conntrack_line};
use tidegate_engine::env::{Env, IfIndex, Interface, Prefix, Settings};
use tidegate_engine::{Config, Disposition, Engine, Incoming, TrackWhen};
use tidegate_wire::{Family, checksum, proto};

use super::*;
use crate::plane::{Ears, Idle};

fn ears() -> Ears {
    let quiet = tidegate_logs::Config {
        syslog: "".into(),
        ..tidegate_logs::Config::default()
    };
    Ears {
        logs: tidegate_logs::Logs::start(quiet).unwrap().handle(),
        events: Arc::default(),
    }
}

/// A host that tracks, as a plane.
fn host() -> Idle {
    let interface = Interface {
        index: IfIndex(2),
        name: "eth0".to_owned(),
        addresses: vec![Prefix {
            family: Family::V4,
            addr: 0x0a00_0001,
            len: 24,
        }],
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    };
    let env = Env::new(vec![interface], &[], &[], Settings::default());
    let config = Config {
        track: TrackWhen::Always,
        ..Config::default()
    };
    Idle::start(Engine::new(config, Arc::new(env)), ears()).unwrap()
}

/// UDP to the host from this port of a neighbour.
fn datagram(port: u16) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, proto::UDP, 0, 0];
    bytes.extend([10, 0, 0, 2, 10, 0, 0, 1]);
    checksum::fix_ipv4(&mut bytes);
    bytes.extend([port, 53, 8, 0].map(u16::to_be_bytes).concat());
    bytes
}

fn open(plane: &dyn Plane, ports: std::ops::Range<u16>) {
    let work = move |engine: &mut Engine, now| {
        for port in ports {
            let incoming = Incoming::on(IfIndex(2));
            let outcome = engine.receive(now, incoming, datagram(port), &mut ());
            assert_eq!(outcome.disposition, Disposition::Delivered);
        }
    };
    plane.with(work).unwrap();
}

/// Listed connections without what is left of their lives.
fn listed(plane: &dyn Plane) -> Vec<String> {
    let work = |engine: &mut Engine, now| {
        let lines = engine.conntrack().iter().map(|(id, e)| {
            let line = conntrack_line(id, e, now, Columns::default());
            line.split_once(" src=").unwrap().1.to_owned()
        });
        lines.collect()
    };
    plane.with(work).unwrap()
}

fn file(directory: &Path) -> ConnectionFile {
    ConnectionFile::new(directory, Duration::from_secs(5))
}

#[test]
fn connections_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = file(directory.path());
    let before = host();
    assert_eq!(file.restore(&before).unwrap(), None);
    // More than one piece.
    open(&before, 1000..3000);
    assert_eq!(file.write(&before).unwrap(), 2000);
    let after = host();
    let restored = file.restore(&after).unwrap().unwrap();
    assert_eq!((restored.connections, restored.expired), (2000, 0));
    assert_eq!(listed(&after), listed(&before));
}

#[test]
fn a_damaged_file_restores_nothing_and_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let mut file = file(directory.path());
    let before = host();
    open(&before, 1..9);
    file.write(&before).unwrap();
    let path = directory.path().join("connections");
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let after = host();
    let error = format!("{:#}", file.restore(&after).unwrap_err());
    assert!(error.contains("record 1 is damaged"), "{error}");
    assert!(error.contains("connections"), "{error}");
    assert!(listed(&after).is_empty());
    assert!(!path.exists() && path.with_extension("damaged").exists());
    assert_eq!(file.restore(&after).unwrap(), None);
}

#[test]
fn a_file_is_written_when_it_is_due() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("connections");
    let mut file = file(directory.path());
    let plane = host();
    file.write_if_due(&plane).unwrap();
    assert!(!path.exists());
    file.due = Instant::now();
    file.write_if_due(&plane).unwrap();
    assert!(path.exists());
    assert!(file.due > Instant::now() + Duration::from_secs(4));
}

const SMALL_DISK: &str = "TIDEGATE_TEST_SMALL_DISK";

/// Runs itself again where a small disk can be mounted.
#[test]
fn a_full_disk_leaves_the_last_file() {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return fill(Path::new(&disk));
    }
    let directory = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=64k none \"$TIDEGATE_TEST_SMALL_DISK\" || exit 77
        exec \"$0\" --exact connections::tests::a_full_disk_leaves_the_last_file";
    let out = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
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
    let mut file = file(disk);
    let plane = host();
    open(&plane, 1..9);
    assert_eq!(file.write(&plane).unwrap(), 8);
    open(&plane, 1000..5000);
    let error = format!("{:#}", file.write(&plane).unwrap_err());
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(fs::read_dir(disk).unwrap().count(), 1, "no rests");
    let after = host();
    assert_eq!(file.restore(&after).unwrap().unwrap().connections, 8);
}
