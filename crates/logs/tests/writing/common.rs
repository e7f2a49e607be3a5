//! Outputs of the engine, made by hand.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::IfIndex;
use tidegate_engine::{Device, Nflog, Output};
use tidegate_ir::Hook;
use tidegate_logs::Config;
use tidegate_logs::config::{Captures, Limit};

/// A moment in November 2026, plus so many milliseconds.
pub(crate) fn at(ms: u64) -> Time {
    1_795_000_000 * SECOND + ms * 1_000_000
}

/// No target, no limit.
pub(crate) fn quiet(directory: &Path) -> Config {
    let free = Limit {
        per_second: 0,
        burst: 1,
    };
    Config {
        syslog: PathBuf::new(),
        hostname: "fw".to_owned(),
        nflog: Captures {
            directory: directory.join("captures"),
            limit: free,
            ..Captures::default()
        },
        limit: free,
        ..Config::default()
    }
}

pub(crate) fn line(level: u8, text: &str) -> Output {
    Output::Log {
        level,
        line: text.to_owned(),
        prefix: String::new(),
        hook: Hook::Input,
        input: None,
        output: None,
    }
}

fn device(index: u32, name: &str) -> Option<Device> {
    let device = Device {
        index: IfIndex(index),
        name: name.to_owned(),
    };
    (index != 0).then_some(device)
}

/// UDP from 10.0.0.2 port 5000 to 10.0.1.2 port 53 with 16 bytes, of which `kept` bytes
/// of all 44 were copied.
pub(crate) fn packet(group: u16, hook: Hook, kept: usize) -> Nflog {
    let mut bytes = vec![
        0x45, 0, 0, 44, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2, 0x13, 0x88, 0, 53, 0,
        24, 0, 0,
    ];
    bytes.extend_from_slice(&[0x61; 16]);
    bytes.truncate(kept);
    let (input, output) = match hook {
        Hook::Prerouting | Hook::Input => (2, 0),
        Hook::Forward | Hook::Postrouting => (2, 3),
        Hook::Output => (0, 3),
    };
    Nflog {
        group,
        prefix: "seen: ".to_owned(),
        hook,
        input: device(input, "eth0"),
        output: device(output, "eth1"),
        mark: 0x1f,
        bytes,
        len: 44,
    }
}

pub(crate) fn nflog(copy: Nflog) -> Output {
    Output::Nflog(Box::new(copy))
}

/// Waits until `what` holds, at most ten seconds.
#[track_caller]
pub(crate) fn eventually(mut what: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < end, "it never came about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A syslog's socket.
pub(crate) fn socket(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

/// The next datagram as text.
#[track_caller]
pub(crate) fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 4096];
    let n = socket.recv(&mut buffer).expect("a datagram");
    String::from_utf8(buffer[..n].to_vec()).unwrap()
}
