//! `-E`, compared with what conntrack 1.4.7 showed of the same commands.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tidegate_conntrack::event::EVENTS_MAX;
use tidegate_conntrack::{Config, SECOND};
use tidegate_tools::{HostNames, Sink, Tool};

use crate::local::{Local, tool, words};

/// Collects until it is told to stop.
struct Watcher<'a> {
    out: String,
    err: String,
    stop: &'a AtomicBool,
}

impl Sink for Watcher<'_> {
    fn out(&mut self, text: &str) -> io::Result<()> {
        self.out += text;
        Ok(())
    }
    fn err(&mut self, text: &str) -> io::Result<()> {
        self.err += text;
        Ok(())
    }
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// What `line` shows while `work` is done.
fn watch(local: &Local, line: &str, work: impl FnOnce()) -> (Vec<String>, String) {
    let stop = AtomicBool::new(false);
    let words = words(line);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    thread::scope(|s| {
        let watching = s.spawn(|| {
            let mut sink = Watcher {
                out: String::new(),
                err: String::new(),
                stop: &stop,
            };
            let tool: Tool = tool();
            let status = tool.run_to(&words, "", local, &HostNames::default(), &mut sink);
            assert_eq!(status, 0);
            (sink.out, sink.err)
        });
        // The watcher has subscribed when the table records.
        while !local.change(|ct, _| ct.config().events) {
            thread::sleep(Duration::from_millis(1));
        }
        work();
        thread::sleep(Duration::from_millis(150));
        stop.store(true, Ordering::SeqCst);
        let (out, err) = watching.join().unwrap();
        (out.lines().map(str::to_owned).collect(), err)
    })
}

const ONE: &str = "-s 1.1.1.1 -d 2.2.2.2 -p udp --sport 50 --dport 8";
const TCP: &str = "-s 1.1.1.1 -d 2.2.2.2 -p tcp --sport 50 --dport 8";

/// A life of connections made by hand.
fn life(local: &Local) {
    let other = ONE.replace("--dport 8", "--dport 9");
    local.lines(&format!("-I {ONE} -t 100"));
    local.lines(&format!("-I {other} -t 100 -m 5"));
    local.wait(SECOND / 10);
    local.lines("-U -p udp -s 1.1.1.1 -m 8");
    local.lines(&format!("-U {other} -u SEEN_REPLY,ASSURED"));
    local.lines("-U -p udp -s 1.1.1.1 -t 77");
    local.lines(&format!("-I {TCP} -t 100 --state ESTABLISHED"));
    local.wait(SECOND / 10);
    local.lines("-U -p tcp -s 1.1.1.1 --state TIME_WAIT");
    local.lines("-D -p udp -s 1.1.1.1");
    local.run("-F", "");
}

const ENDS: [&str; 3] = [
    "src=1.1.1.1 dst=2.2.2.2 sport=50 dport=8 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 sport=8 dport=50",
    "src=1.1.1.1 dst=2.2.2.2 sport=50 dport=9 [UNREPLIED] src=2.2.2.2 dst=1.1.1.1 sport=9 dport=50",
    "src=1.1.1.1 dst=2.2.2.2 sport=50 dport=9 src=2.2.2.2 dst=1.1.1.1 sport=9 dport=50",
];
const BY: &str = "[USERSPACE] portid=4711 progname=conntrack";

#[test]
fn a_life_as_it_happens() {
    let local = Local::small();
    let (lines, err) = watch(&local, "-E", || life(&local));
    let [one, two, seen] = ENDS;
    assert_eq!(
        lines,
        [
            format!("    [NEW] udp      17 100 {one} mark=0 {BY}"),
            format!("    [NEW] udp      17 100 {two} mark=5 {BY}"),
            format!(" [UPDATE] udp      17 99 {one} mark=8 {BY}"),
            format!(" [UPDATE] udp      17 99 {two} mark=8 {BY}"),
            format!(" [UPDATE] udp      17 99 {seen} [ASSURED] mark=8 {BY}"),
            format!(" [UPDATE] udp      17 77 {one} mark=8 {BY}"),
            format!(" [UPDATE] udp      17 77 {seen} [ASSURED] mark=8 {BY}"),
            format!("    [NEW] tcp      6 100 ESTABLISHED {one} mark=0 {BY}"),
            format!(" [UPDATE] tcp      6 99 TIME_WAIT {one} mark=0 {BY}"),
            format!("[DESTROY] udp      17 76 {one} mark=8 {BY}"),
            format!("[DESTROY] udp      17 76 {seen} [ASSURED] mark=8 {BY}"),
            format!("[DESTROY] tcp      6 99 TIME_WAIT {one} {BY}"),
        ]
    );
    assert_eq!(
        err,
        "conntrack v1.4.7 (conntrack-tools): 12 flow events have been shown.\n"
    );
}

#[test]
fn kinds_filters_and_columns() {
    let local = Local::small();
    let (lines, _) = watch(
        &local,
        "-E -e NEW,DESTROY -p udp --dport 8 -o timestamp,extended",
        || life(&local),
    );
    assert_eq!(
        lines,
        [
            format!(
                "[1795227335.500000]\t    [NEW] ipv4     2 udp      17 100 {} mark=0 {BY}",
                ENDS[0]
            ),
            format!(
                "[1795227335.700000]\t[DESTROY] ipv4     2 udp      17 76 {} mark=8 {BY}",
                ENDS[0]
            ),
        ]
    );
    let local = Local::small();
    let (lines, _) = watch(&local, "-E -o save -p tcp", || life(&local));
    let rest = "-u UNSET -s 1.1.1.1 -d 2.2.2.2 -r 2.2.2.2 -q 1.1.1.1 -p tcp --sport 50 --dport 8 --reply-port-src 8 --reply-port-dst 50 --state";
    assert_eq!(
        lines,
        [
            format!("-A -t 100 {rest} ESTABLISHED {BY}"),
            format!("-U -t 99 {rest} TIME_WAIT {BY}"),
            format!("-D -t 99 {rest} TIME_WAIT {BY}"),
        ]
    );
}

/// Elements and their order are those of the real tool for such an entry.
#[test]
fn an_end_as_xml() {
    let local = Local::new(Config {
        acct: true,
        timestamp: true,
        buckets: 64,
        ..Config::default()
    });
    let (lines, err) = watch(&local, "-E -e DESTROY -o xml,ktimestamp -b 100000", || {
        local.lines(&format!("-I {ONE} -t 100 --orig-zone 5 -m 3"));
        local.wait(SECOND / 10);
        local.lines("-D -p udp");
    });
    assert_eq!(
        lines[..2],
        ["<?xml version=\"1.0\" encoding=\"utf-8\"?>", "<conntrack>"]
    );
    let counters = "<counters><packets>0</packets><bytes>0</bytes></counters>";
    let id = lines[2]
        .split_once("<id>")
        .unwrap()
        .1
        .split_once('<')
        .unwrap()
        .0;
    assert_eq!(
        lines[2..],
        [
            format!(
                "<flow type=\"destroy\"><meta direction=\"original\"><layer3 protonum=\"2\" protoname=\"ipv4\"><src>1.1.1.1</src><dst>2.2.2.2</dst></layer3><layer4 protonum=\"17\" protoname=\"udp\"><sport>50</sport><dport>8</dport></layer4><zone>5</zone>{counters}</meta><meta direction=\"reply\"><layer3 protonum=\"2\" protoname=\"ipv4\"><src>2.2.2.2</src><dst>1.1.1.1</dst></layer3><layer4 protonum=\"17\" protoname=\"udp\"><sport>8</sport><dport>50</dport></layer4>{counters}</meta><meta direction=\"independent\"><timeout>99</timeout><mark>3</mark><id>{id}</id><unreplied/><timestamp><start>1795227335500000000</start><stop>1795227335600000000</stop></timestamp><deltatime>0</deltatime></meta></flow> {BY}"
            ),
            "</conntrack>".to_owned(),
        ]
    );
    assert!(err.starts_with("NOTICE: Netlink socket buffer size has been set to 200000 bytes.\n"));
}

#[test]
fn entries_from_before_anybody_listened_are_silent() {
    let local = Local::small();
    local.lines(&format!("-I {ONE} -t 100"));
    let (lines, _) = watch(&local, "-E", || {
        local.lines("-D -p udp");
    });
    assert!(lines.is_empty(), "{lines:?}");
    // With nf_conntrack_events=1 they are not.
    local.change(|ct, _| assert!(ct.config_mut().set_sysctl("events", 1)));
    local.lines(&format!("-I {ONE} -t 100"));
    let (lines, _) = watch(&local, "-E", || {
        local.lines("-D -p udp");
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn events_that_nobody_takes_are_counted_not_kept() {
    let local = Local::small();
    local.change(|ct, now| {
        ct.config_mut().events = true;
        let tuple = tidegate_conntrack::Tuple {
            src: 1,
            dst: 2,
            src_id: 3,
            dst_id: 4,
            family: tidegate_wire::Family::V4,
            proto: 17,
        };
        let new = tidegate_conntrack::by_hand::NewEntry {
            tuples: [tuple, tuple.inverse().unwrap()],
            zone: tidegate_conntrack::Zone::default(),
            timeout: 10,
            status: 0,
            mark: 0,
            state: None,
            nat: [None; 2],
            helper: None,
        };
        for _ in 0..EVENTS_MAX {
            let id = ct.create_by_hand(now, &new).unwrap();
            ct.delete_by_hand(now, id);
        }
        assert_eq!(ct.events().len(), EVENTS_MAX);
        assert_eq!(ct.events_lost(), EVENTS_MAX as u64);
    });
}
