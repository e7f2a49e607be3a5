//! Clients that do not read, and the count of what they have lost.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tidegate_daemon::control::Frame;

use crate::support::Daemon;

/// Sends a request and reads nothing.
fn stalled(d: &Daemon, words: &str) -> UnixStream {
    let mut stream = UnixStream::connect(d.path("sock")).unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let body = serde_json::json!({ "name": "conntrack", "words": words });
    let body = serde_json::to_vec(&body).unwrap();
    Frame::Request(body).write(&mut stream).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

/// The rest of an answer: standard output, standard error, exit status.
fn rest(mut stream: UnixStream) -> (String, String, u8) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match Frame::read(&mut stream, 1 << 20).unwrap() {
            Frame::Out(bytes) => out.extend(bytes),
            Frame::Err(bytes) => err.extend(bytes),
            Frame::Exit(status) => {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                return (text(out), text(err), status);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Carries out `-I` lines for so many connections.
fn make(d: &Daemon, net: u8, count: u32) {
    let mut lines = String::new();
    for n in 0..count {
        let [_, a, b, c] = n.to_be_bytes();
        lines +=
            &format!("-I -p udp -s {net}.{a}.{b}.{c} -d 192.0.2.9 --sport 1 --dport 2 -t 900\n");
    }
    d.write("lines", &lines);
    d.out(&format!("conntrack -R {}", d.path("lines").display()));
}

fn resident(d: &Daemon) -> u64 {
    let pid = d.child.as_ref().unwrap().id();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// More events than may wait: 150,000 connections come and go.
#[test]
fn a_stalled_reader_of_events_stalls_nobody_and_hears_how_many_it_lost() {
    let mut d = Daemon::new();
    d.config = "[sysctl]\n\"net.netfilter.nf_conntrack_max\" = 1000000\n".to_owned();
    d.start();
    let reader = stalled(&d, "-E");
    std::thread::sleep(Duration::from_secs(1));
    make(&d, 10, 1000);
    let before = Instant::now();
    make(&d, 11, 150_000);
    d.out("conntrack -F");
    assert!(before.elapsed() < Duration::from_secs(60));
    let commands = Instant::now();
    d.out("iptables -A INPUT -j DROP");
    assert_eq!(d.out("conntrack -C"), "0\n");
    assert!(commands.elapsed() < Duration::from_secs(5));
    let used = resident(&d);
    assert!(used < 600_000, "{used} kB for events that nobody reads");
    // Reading again; a moment later it has had enough.
    let ended = reader.try_clone().unwrap();
    let end = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(3));
        ended.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let (out, err, status) = rest(reader);
    end.join().unwrap();
    assert_eq!(status, 0);
    assert!(err.contains("We are losing events.\n"), "{err}");
    let number = |what: &str| -> u64 {
        let line = err.lines().find(|l| l.ends_with(what));
        let line = line.unwrap_or_else(|| panic!("{err}"));
        let words: Vec<&str> = line.split(' ').collect();
        words[words.len() - 6].parse().unwrap()
    };
    let shown = number("flow events have been shown.");
    let lost = number("flow events have been lost.");
    assert_eq!(shown, out.lines().count() as u64);
    assert_eq!(shown + lost, 2 * 151_000);
    assert!(lost > 0);
}

/// A listing on its way to a pager is not cut short.
#[test]
fn a_listing_waits_for_its_reader() {
    let mut d = Daemon::new();
    d.start();
    make(&d, 10, 20_000);
    let reader = stalled(&d, "-L");
    std::thread::sleep(Duration::from_secs(12));
    let (out, _, status) = rest(reader);
    assert_eq!((out.lines().count(), status), (20_000, 0));
}

#[test]
fn stalled_clients_give_way_to_others_and_to_the_end() {
    let mut d = Daemon::new();
    d.start();
    make(&d, 10, 20_000);
    let readers: Vec<UnixStream> = (0..70).map(|_| stalled(&d, "-L")).collect();
    let before = Instant::now();
    assert_eq!(d.out("conntrack -C"), "20000\n");
    assert!(before.elapsed() < Duration::from_secs(30));
    let before = Instant::now();
    d.out("down");
    assert_eq!(d.ended().0, Some(0));
    assert!(before.elapsed() < Duration::from_secs(10));
    drop(readers);
}

/// One that sends nothing more, or nonsense after its request, is a client that has had
/// enough.
#[test]
fn a_client_may_end_a_stream_by_saying_anything() {
    let mut d = Daemon::new();
    d.start();
    let mut reader = stalled(&d, "-E");
    std::thread::sleep(Duration::from_millis(300));
    reader.write_all(b"enough").unwrap();
    let (_, err, status) = rest(reader);
    assert_eq!(status, 0);
    assert!(err.ends_with(" 0 flow events have been shown.\n"), "{err}");
}
