//! `conntrack -E`: events as they happen, and its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::support::Daemon;

const LONG: Duration = Duration::from_secs(20);

/// A running `conntrack -E` and its lines as they come.
struct Watch {
    child: Child,
    lines: Receiver<String>,
}

impl Watch {
    fn start(d: &Daemon, words: &str) -> Self {
        let mut child = d
            .command(&format!("conntrack -E {words}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let _ = send.send(line.unwrap());
            }
        });
        let watch = Watch { child, lines };
        watch.wait_until_it_listens(d);
        watch
    }

    /// Makes connections until one is seen.
    fn wait_until_it_listens(&self, d: &Daemon) {
        let end = Instant::now() + LONG;
        for port in 1.. {
            assert!(Instant::now() < end, "nothing is heard");
            d.out(&make(&format!("10.9.9.9 --sport {port}")));
            if self.lines.recv_timeout(Duration::from_millis(100)).is_ok() {
                break;
            }
        }
        d.out("conntrack -D -s 10.9.9.9");
        while self.lines.recv_timeout(Duration::from_millis(300)).is_ok() {}
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(LONG).unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Exit status and standard error; whatever lines were left must come before the end.
    fn end(mut self) -> (Option<i32>, String) {
        let mut err = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code(), err)
    }
}

fn make(rest: &str) -> String {
    format!("conntrack -I -p udp -d 192.0.2.9 --dport 53 -t 100 -s {rest}")
}

/// Seconds left in a line: how many depends on how long the test took so far.
fn life(line: &str) -> &str {
    let mut words = line.split(' ').filter(|w| !w.is_empty());
    let after = words.find(|w| *w == "17").and(words.next());
    after.unwrap_or_default()
}

/// The number in the line that says how many events there were.
fn total(err: &str) -> u64 {
    let before = " flow events have been shown.\n";
    let line = err.strip_suffix(before).unwrap_or_else(|| panic!("{err}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn events_come_while_the_tool_runs() {
    let mut d = Daemon::new();
    d.start();
    let watch = Watch::start(&d, "");
    d.out(&make("10.0.0.1 --sport 1000"));
    let tuples = "src=10.0.0.1 dst=192.0.2.9 sport=1000 dport=53 [UNREPLIED] \
                  src=192.0.2.9 dst=10.0.0.1 sport=53 dport=1000";
    let seen = watch.line();
    let wanted = format!("    [NEW] udp      17 100 {tuples} mark=0 [USERSPACE] portid=");
    assert!(seen.starts_with(&wanted), "{seen}");
    d.out("conntrack -U -s 10.0.0.1 -m 5");
    let seen = watch.line();
    let wanted = format!(" [UPDATE] udp      17 {} {tuples} mark=5 ", life(&seen));
    assert!(seen.starts_with(&wanted), "{seen}");
    d.out("conntrack -D -s 10.0.0.1");
    let seen = watch.line();
    let wanted = format!("[DESTROY] udp      17 {} {tuples} mark=5 ", life(&seen));
    assert!(seen.starts_with(&wanted), "{seen}");
    watch.signal("INT");
    let (status, err) = watch.end();
    assert_eq!(status, Some(0));
    assert!(total(&err) >= 3, "{err}");
}

#[test]
fn masks_and_filters_choose() {
    let mut d = Daemon::new();
    d.start();
    let all = Watch::start(&d, "");
    let mut new = d
        .command("conntrack -E -e NEW -s 10.0.0.2 -o timestamp")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(new.stdout.take().unwrap()).lines();
    // The second tool listens once an event reaches it: make some until one does.
    let heard = std::thread::spawn(move || lines.next().unwrap().unwrap());
    let end = Instant::now() + LONG;
    for port in 1.. {
        assert!(Instant::now() < end, "nothing is heard");
        d.out(&make(&format!("10.0.0.1 --sport {port}")));
        d.out(&make(&format!("10.0.0.2 --sport {port}")));
        std::thread::sleep(Duration::from_millis(50));
        if heard.is_finished() {
            break;
        }
    }
    let line = heard.join().unwrap();
    assert!(
        line.starts_with('[') && line.contains("]\t    [NEW] "),
        "{line}"
    );
    assert!(line.contains("src=10.0.0.2 "), "{line}");
    assert!(all.line().contains("src=10.0.0.1 "));
    assert!(all.line().contains("src=10.0.0.2 "));
    new.kill().unwrap();
    new.wait().unwrap();
    all.signal("TERM");
    assert_eq!(all.end().0, Some(0));
}

#[test]
fn the_end_of_the_daemon_is_the_end_of_the_stream() {
    let mut d = Daemon::new();
    d.start();
    let (text, xml) = (Watch::start(&d, ""), Watch::start(&d, "-o xml"));
    let before = Instant::now();
    d.out("down");
    assert_eq!(d.ended().0, Some(0));
    let (status, err) = text.end();
    assert_eq!(status, Some(0));
    assert!(total(&err) > 0, "{err}");
    let mut last = String::new();
    while let Ok(line) = xml.lines.recv_timeout(LONG) {
        last = line;
    }
    assert_eq!(last, "</conntrack>");
    assert_eq!(xml.end().0, Some(0));
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_daemon_that_dies_ends_the_stream_with_an_error() {
    let mut d = Daemon::new();
    d.start();
    let watch = Watch::start(&d, "");
    d.kill();
    let (status, err) = watch.end();
    assert_eq!(status, Some(4), "{err}");
    assert!(err.contains("the tidegate daemon did not answer"), "{err}");
}

/// The daemon serves 64 clients at a time; those that are gone are not among them.
#[test]
fn tools_that_are_gone_hold_no_place() {
    let mut d = Daemon::new();
    d.start();
    for _ in 0..3 {
        let mut watches: Vec<Child> = (0..40)
            .map(|_| {
                d.command("conntrack -E")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        d.out("conntrack -C");
        for watch in &mut watches {
            watch.kill().unwrap();
            watch.wait().unwrap();
        }
    }
    let before = Instant::now();
    d.out("conntrack -C");
    assert!(before.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_reader_that_goes_away_ends_the_tool() {
    let mut d = Daemon::new();
    d.start();
    let mut watch = Watch::start(&d, "");
    // The thread that reads lines keeps the pipe open: take the place of `| head -1`.
    let mut head = d
        .command("conntrack -E")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(head.stdout.take());
    let end = Instant::now() + LONG;
    let mut port = 0;
    while head.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it writes on to nobody");
        port += 1;
        d.out(&make(&format!("10.0.0.1 --sport {port}")));
    }
    assert!(watch.child.try_wait().unwrap().is_none());
    watch.signal("INT");
    assert_eq!(watch.end().0, Some(0));
}
