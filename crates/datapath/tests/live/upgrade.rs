//! One daemon leaves its place to the next in order, while connections are busy.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::busy::Busy;
use crate::fast::{at, masquerading, may, stream, talk};
use crate::heirs::{Starter, ask, connected};
use crate::net::Host;
use crate::router::net;
use crate::talk::udp;

/// Bytes written at a time, one of which differs from those before.
const PIECE: usize = 8 << 10;

/// Writes to one end of a connection all the time and reads from the other; both say how many
/// pieces there were.
fn carry([mut client, mut server]: [TcpStream; 2]) -> (Busy<u64>, JoinHandle<u64>) {
    let piece = |n: u64| [n as u8; PIECE];
    let reader = std::thread::spawn(move || {
        let (mut pieces, mut buffer) = (0, [0; PIECE]);
        while server.read_exact(&mut buffer).is_ok() {
            assert!(buffer == piece(pieces), "piece {pieces} is another one");
            pieces += 1;
        }
        pieces
    });
    let writer = Busy::start(move |ends| {
        let mut pieces = 0;
        while !ends.load(Ordering::Relaxed) {
            client.write_all(&piece(pieces)).unwrap();
            pieces += 1;
            std::thread::sleep(Duration::from_micros(500));
        }
        pieces
    });
    (writer, reader)
}

/// Asks for a connection that no rule allows, all the time; how many packets there were.
fn intrude(from: UdpSocket) -> Busy<u32> {
    Busy::start(move |ends| {
        let mut sent = 0;
        while !ends.load(Ordering::Relaxed) {
            // Who is told that it cannot be goes on all the same.
            sent += u32::from(from.send_to(b"let me in", at("10.0.0.2:9")).is_ok());
            std::thread::sleep(Duration::from_millis(1));
        }
        sent
    })
}

/// Segments that a host has sent again, but for those of which it was told that they had come
/// the first time: on a busy machine an answer may be late.
fn sent_again(host: &Host) -> i64 {
    let script = "
        awk '/^Tcp:/ { n = $13 } END { print n }' /proc/thread-self/net/snmp
        awk '/^TcpExt:/ && at { print $at } /^TcpExt:/ {
            for (i = 1; i <= NF; i++) if ($i == \"TCPDSACKRecv\") at = i
        }' /proc/thread-self/net/netstat
    ";
    let said = host.sh(script);
    let mut counts = said.lines().map(|n| n.parse::<i64>().unwrap());
    counts.next().unwrap() - counts.next().unwrap()
}

/// Translated streams and a busy TCP connection lose no packet, and nobody else gets through.
#[test]
fn a_daemon_leaves_its_place_under_load() {
    if !may() {
        return;
    }
    let net = net();
    net.routed();
    let mut rules = tempfile::NamedTempFile::new().unwrap();
    rules.write_all(masquerading().as_bytes()).unwrap();
    for options in ["--fast", "--fast --xdp"] {
        let mut starter = Starter::new(&net.router, rules.path().to_str().unwrap());
        let mut pid = starter.start(options);
        let servers = ["10.1.0.2:7", "10.1.0.2:8", "10.1.0.2:9"];
        let clients = ["10.0.0.2:40000", "10.0.0.2:40001", "10.0.0.2:40002"];
        let streams: Vec<_> = std::thread::scope(|scope| {
            let ends = servers.into_iter().zip(clients);
            let made = ends.map(|(s, c)| (s, scope.spawn(|| stream(&net, s, c))));
            let made: Vec<_> = made.collect();
            made.into_iter()
                .map(|(s, both)| (s, both.join().unwrap()))
                .collect()
        });
        for (server, (from, to)) in &streams {
            talk(from, to, at(server), 20);
        }
        let (writer, reader) = carry(connected(&net.inside, &net.outside, at("10.1.0.2:80")));
        let inside = udp(&net.inside, at("10.0.0.2:9"));
        let intruder = intrude(udp(&net.outside, at("10.1.0.2:50000")));
        let askers = streams.into_iter();
        let askers = askers.map(|(server, (from, to))| ask(from, to, at(server)));
        let askers: Vec<_> = askers.collect();
        std::thread::sleep(Duration::from_millis(500));
        let before = sent_again(&net.inside);
        for _ in 0..2 {
            kill(pid, Signal::SIGUSR2).unwrap();
            pid = starter.start(options);
            std::thread::sleep(Duration::from_millis(500));
        }
        let again = sent_again(&net.inside) - before;
        for asker in askers {
            let (asked, answered) = asker.end();
            assert_eq!(asked, answered, "{options}");
            assert!(asked > 300);
        }
        let written = writer.end();
        assert_eq!(reader.join().unwrap(), written);
        assert!(written > 300);
        assert_eq!(
            again, 0,
            "{options}: segments sent again, of {written} pieces"
        );
        assert!(intruder.end() > 300);
        inside.set_nonblocking(true).unwrap();
        assert!(inside.recv(&mut [0; 16]).is_err(), "{options}");
        starter.ends_cleanly(&net, pid);
    }
}
