//! The guarded host's own connections while the daemon is succeeded, in order or not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use crate::busy::Busy;
use crate::ftp::{Ftp, RATE};
use crate::guarded::{CLIENT, Guarded, SERVER, able};
use crate::host::eventually;
use crate::load::{Heard, Intruders, Talk, content, read, write};

/// Known connections, and who may open one: FTP and a service here, one service there.
const RULES: &str = "*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT DROP [0:0]
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED -m helper --helper ftp -j ACCEPT
-A INPUT -p tcp -m multiport --dports 21,7000 -m conntrack --ctstate NEW -j ACCEPT
-A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A OUTPUT -m conntrack --ctstate RELATED -m helper --helper ftp -j ACCEPT
-A OUTPUT -p tcp --dport 7001 -m conntrack --ctstate NEW -j ACCEPT
COMMIT
";

/// Everything that goes on.
struct Load<'a> {
    guarded: &'a Guarded,
    talks: [Talk; 2],
    uploading: (Ftp<'a>, Busy<std::io::Result<u64>>),
    downloading: (Ftp<'a>, JoinHandle<std::io::Result<Heard>>),
    /// Of the download.
    progress: Arc<AtomicU64>,
    size: u64,
}

impl<'a> Load<'a> {
    /// Downloads for about `seconds`, everything else until told to end.
    fn start(guarded: &'a Guarded, seconds: usize) -> Self {
        let (client, server) = (&guarded.client, &guarded.server);
        let size = RATE * seconds;
        let root = guarded.dir.path().join("ftp");
        std::fs::write(root.join("file"), content(0, size)).unwrap();
        let _ = std::fs::remove_file(root.join("pub/file"));
        let talks = [
            Talk::start(client, server, &format!("{SERVER}:7000")),
            Talk::start(server, client, &format!("{CLIENT}:7001")),
        ];
        let mut up = Ftp::login(client);
        let uploading = write(up.passive("STOR pub/file"), Duration::ZERO);
        let mut down = Ftp::login(client);
        let progress = Arc::default();
        let downloading = read(down.active("RETR file"), Arc::clone(&progress));
        Load {
            guarded,
            talks,
            uploading: (up, uploading),
            downloading: (down, downloading),
            progress,
            size: size as u64,
        }
    }

    /// Bytes that have arrived: there and back of each conversation, and by FTP.
    fn progress(&self) -> [u64; 6] {
        let [[a, b], [c, d]] = self.talks.each_ref().map(Talk::progress);
        let uploaded = self.guarded.dir.path().join("ftp/pub/file");
        let uploaded = std::fs::metadata(uploaded).map_or(0, |m| m.len());
        [a, b, c, d, uploaded, self.progress.load(Ordering::Relaxed)]
    }

    /// Waits for ends: all has arrived, byte for byte. The longest silence.
    fn end(self) -> Duration {
        let talks = self.talks.map(Talk::end);
        let (mut ftp, writer) = self.uploading;
        let written = writer.end().unwrap();
        assert!(ftp.hear().unwrap().starts_with("226"));
        ftp.says("QUIT", "221");
        let uploaded = std::fs::read(self.guarded.dir.path().join("ftp/pub/file")).unwrap();
        assert!(
            uploaded == content(0, written as usize),
            "{written} bytes are others"
        );
        let (mut ftp, reader) = self.downloading;
        let heard = reader.join().unwrap().unwrap();
        assert_eq!(heard.bytes, self.size);
        assert!(ftp.hear().unwrap().starts_with("226"));
        ftp.says("QUIT", "221");
        talks.into_iter().chain([heard.silence]).max().unwrap()
    }
}

/// The established connections by their tuples, with what else is said of them but counts.
fn connections(guarded: &Guarded) -> BTreeSet<String> {
    let all = guarded.out("conntrack -L -p tcp --state ESTABLISHED");
    let known = |word: &&str| word.contains('=') || word.starts_with('[');
    let counts = |word: &&str| !word.starts_with("packets=") && !word.starts_with("bytes=");
    let line = |line: &str| {
        let words: Vec<_> = line
            .split_whitespace()
            .filter(known)
            .filter(counts)
            .collect();
        words.join(" ")
    };
    all.lines().map(line).filter(|l| !l.is_empty()).collect()
}

/// The client's kernel as referee: TCP that it has sent and received, but for the intruder.
fn refereed(guarded: &Guarded) -> [[u64; 2]; 2] {
    let list = |chain| {
        let said = guarded.client.sh(&format!(
            "export XTABLES_LOCKFILE={}/xtables.lock; iptables-legacy -nvxL {chain} 1",
            guarded.dir.path().display()
        ));
        let mut words = said.split_whitespace().map(|w| w.parse().unwrap());
        [words.next().unwrap(), words.next().unwrap()]
    };
    ["OUTPUT", "INPUT"].map(list)
}

fn counted(guarded: &Guarded) -> [[u64; 2]; 2] {
    ["INPUT", "OUTPUT"].map(|chain| guarded.passed(chain))
}

/// What connections have counted: to the host, and from it.
fn counted_by_entries(guarded: &Guarded) -> [[u64; 2]; 2] {
    let all = guarded.out("conntrack -L -p tcp");
    let mut sums = [[0; 2]; 2];
    for line in all.lines() {
        let number = |word: &str| word.split_once('=').map(|(_, n)| n.parse::<u64>().unwrap());
        let counts = |name: &str| -> Vec<u64> {
            let words = line.split_whitespace().filter(|w| w.starts_with(name));
            words.filter_map(number).collect()
        };
        let (packets, bytes) = (counts("packets="), counts("bytes="));
        let outward = line.contains(&format!(" src={SERVER} dst={CLIENT} sport"))
            && line.find(&format!("src={SERVER}")) < line.find(&format!("src={CLIENT}"));
        for dir in 0..packets.len() {
            let to = usize::from((dir == 1) != outward);
            sums[to][0] += packets[dir];
            sums[to][1] += bytes[dir];
        }
    }
    sums
}

/// What is counted now, once nothing is on its way any more.
fn quiet(guarded: &Guarded) -> [[[u64; 2]; 2]; 2] {
    let mut last = None;
    assert!(eventually(|| {
        sleep(Duration::from_millis(300));
        let now = [refereed(guarded), counted(guarded)];
        last.replace(now) == Some(now)
    }));
    last.unwrap()
}

fn less(after: [[u64; 2]; 2], before: [[u64; 2]; 2]) -> [[u64; 2]; 2] {
    [0, 1].map(|i| [0, 1].map(|j| after[i][j] - before[i][j]))
}

/// Whoever begins now is counted as by the kernel at the other end, by rules and by connections.
fn counts_as_the_kernel(guarded: &Guarded) {
    let before = quiet(guarded);
    guarded.out("conntrack -F");
    let load = Load::start(guarded, 1);
    sleep(Duration::from_millis(1000));
    load.end();
    let after = quiet(guarded);
    let [kernel, rules] = [0, 1].map(|i| less(after[i], before[i]));
    assert_eq!(rules, kernel);
    assert_eq!(counted_by_entries(guarded), kernel);
}

fn guarded(more: &str) -> Guarded {
    let guarded = Guarded::new(RULES, more);
    guarded.client.sh(&format!(
        "export XTABLES_LOCKFILE={}/xtables.lock
         iptables-legacy -A OUTPUT -p tcp ! --dport 7002; iptables-legacy -A INPUT -p tcp",
        guarded.dir.path().display()
    ));
    guarded
}

#[test]
fn own_connections_go_on_while_the_daemon_is_succeeded() {
    if !able() {
        return;
    }
    for more in ["", "ring = \"xdp\""] {
        let guarded = guarded(more);
        let load = Load::start(&guarded, 5);
        let intruders = Intruders::start(&guarded.client, &guarded.server);
        sleep(Duration::from_millis(500));
        for _ in 0..2 {
            let (known, before) = (connections(&guarded), counted(&guarded));
            assert_eq!(known.len(), 6, "{known:?}");
            guarded.out("upgrade");
            let progress = load.progress();
            assert_eq!(connections(&guarded), known);
            let after = counted(&guarded);
            assert!(
                (0..2).all(|i| after[i][0] >= before[i][0]),
                "{before:?} {after:?}"
            );
            let all = || (0..6).all(|i| load.progress()[i] > progress[i] + (100 << 10));
            assert!(eventually(all), "{progress:?} {:?}", load.progress());
        }
        let again = [&guarded.client, &guarded.server].map(|host| host.retransmitted());
        let silence = load.end();
        intruders.end();
        eprintln!("{more}: {silence:?}, segments sent again {again:?}");
        // By XDP segments come that the client's kernel has sent as one.
        if more.is_empty() {
            let [kernel, rules] = quiet(&guarded);
            // What passes between two daemons is counted for no rule.
            let fewer = |i: usize| rules[i][0] <= kernel[i][0];
            assert!(fewer(0) && fewer(1), "{rules:?} {kernel:?}");
            counts_as_the_kernel(&guarded);
        }
    }
}

/// Killed, it leaves programs that know the connections; FTP's commands wait for the next daemon.
#[test]
fn own_connections_go_on_while_the_daemon_is_dead() {
    if !able() {
        return;
    }
    let guarded = guarded("");
    let load = Load::start(&guarded, 8);
    let intruders = Intruders::start(&guarded.client, &guarded.server);
    for _ in 0..2 {
        // Long enough for a record.
        sleep(Duration::from_millis(1500));
        let known = connections(&guarded);
        assert_eq!(known.len(), 6, "{known:?}");
        guarded.kill();
        let progress = load.progress();
        sleep(Duration::from_millis(700));
        let later = load.progress();
        assert!(
            (0..6).all(|i| later[i] > progress[i] + (100 << 10)),
            "{progress:?} {later:?}"
        );
        guarded.start();
        assert_eq!(connections(&guarded), known);
        let progress = load.progress();
        let all = || (0..6).all(|i| load.progress()[i] > progress[i] + (100 << 10));
        assert!(eventually(all), "{progress:?} {:?}", load.progress());
    }
    let silence = load.end();
    intruders.end();
    eprintln!("{silence:?}");
    counts_as_the_kernel(&guarded);
}
