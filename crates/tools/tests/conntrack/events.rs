//! `-E`, compared with what conntrack 1.4.7 showed of the same commands.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tidegate_conntrack::event::EVENTS_MAX;
use tidegate_conntrack::{Config, InHook, SECOND, Tracked};
use tidegate_tools::{HostNames, Sink, Tool};
use tidegate_wire::{checksum, parse};

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
            labels: 0,
        };
        for _ in 0..EVENTS_MAX {
            let id = ct.create_by_hand(now, &new).unwrap();
            ct.delete_by_hand(now, id);
        }
        assert_eq!(ct.events().len(), EVENTS_MAX);
        assert_eq!(ct.events_lost(), EVENTS_MAX as u64);
    });
}

/// A packet between 10.1.0.2 and 10.2.0.2, back if so.
fn pass(local: &Local, back: bool, proto: u8, l4: &[u8]) {
    let ends = [[10, 1, 0, 2], [10, 2, 0, 2]];
    let (src, dst) = if back {
        (ends[1], ends[0])
    } else {
        (ends[0], ends[1])
    };
    let mut pkt = vec![0x45, 0, 0, 20 + l4.len() as u8, 0, 1, 0, 0, 64, proto, 0, 0];
    pkt.extend(src);
    pkt.extend(dst);
    checksum::fix_ipv4(&mut pkt);
    pkt.extend(l4);
    local.change(|ct, now| {
        let layout = parse(&pkt).unwrap();
        let Tracked::Ct(mut at) = ct.handle_packet(now, &pkt, &layout, InHook::Output, None) else {
            panic!("not tracked");
        };
        ct.confirm(now, &mut at).unwrap();
    });
}

fn tcp(local: &Local, back: bool, flags: u8, seq: u32, ack: u32) {
    let ports = if back { [80u16, 40000] } else { [40000, 80] };
    let mut l4 = ports.map(u16::to_be_bytes).concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    pass(local, back, 6, &l4);
}

fn udp(local: &Local, back: bool) {
    let ports = if back { [53u16, 5000] } else { [5000, 53] };
    let mut l4 = [ports[0], ports[1], 10, 0].map(u16::to_be_bytes).concat();
    l4.extend(b"ab");
    pass(local, back, 17, &l4);
}

/// The traffic of events-default.txt and events-extended-timestamp-id.txt.
fn traffic(local: &Local) {
    const SYN: u8 = 2;
    const FIN: u8 = 1;
    const ACK: u8 = 16;
    tcp(local, false, SYN, 100, 0);
    tcp(local, true, SYN | ACK, 300, 101);
    tcp(local, false, ACK, 101, 301);
    tcp(local, false, FIN | ACK, 101, 301);
    tcp(local, true, ACK, 301, 102);
    tcp(local, true, FIN | ACK, 301, 102);
    tcp(local, false, ACK, 102, 302);
    local.wait(SECOND / 50);
    local.lines("-D -p tcp");
    udp(local, false);
    udp(local, true);
    local.wait(SECOND * 11 / 5);
    udp(local, false);
    local.wait(SECOND / 50);
    local.lines("-D -p udp");
    pass(local, false, 1, &[8, 0, 0, 0, 0, 9, 0, 1]);
    pass(local, true, 1, &[0, 0, 0, 0, 0, 9, 0, 1]);
    local.wait(SECOND / 50);
    local.lines("-D -p icmp");
}

/// events-default.txt, whose ends were asked for by a command as well.
#[test]
fn packets_make_the_kernels_events() {
    let local = Local::small();
    let (lines, _) = watch(&local, "-E", || traffic(&local));
    let tcp = "src=10.1.0.2 dst=10.2.0.2 sport=40000 dport=80";
    let back = "src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40000";
    let udp = "src=10.1.0.2 dst=10.2.0.2 sport=5000 dport=53";
    let answer = "src=10.2.0.2 dst=10.1.0.2 sport=53 dport=5000";
    let ping = "src=10.1.0.2 dst=10.2.0.2 type=8 code=0 id=9";
    let pong = "src=10.2.0.2 dst=10.1.0.2 type=0 code=0 id=9";
    assert_eq!(
        lines,
        [
            format!("    [NEW] tcp      6 120 SYN_SENT {tcp} [UNREPLIED] {back}"),
            format!(" [UPDATE] tcp      6 60 SYN_RECV {tcp} {back}"),
            format!(" [UPDATE] tcp      6 432000 ESTABLISHED {tcp} {back} [ASSURED]"),
            format!(" [UPDATE] tcp      6 120 FIN_WAIT {tcp} {back} [ASSURED]"),
            format!(" [UPDATE] tcp      6 60 CLOSE_WAIT {tcp} {back} [ASSURED]"),
            format!(" [UPDATE] tcp      6 30 LAST_ACK {tcp} {back} [ASSURED]"),
            format!(" [UPDATE] tcp      6 120 TIME_WAIT {tcp} {back} [ASSURED]"),
            format!("[DESTROY] tcp      6 119 TIME_WAIT {tcp} {back} [ASSURED] {BY}"),
            format!("    [NEW] udp      17 30 {udp} [UNREPLIED] {answer}"),
            format!(" [UPDATE] udp      17 30 {udp} {answer}"),
            format!(" [UPDATE] udp      17 120 {udp} {answer} [ASSURED]"),
            format!("[DESTROY] udp      17 119 {udp} {answer} [ASSURED] {BY}"),
            format!("    [NEW] icmp     1 30 {ping} [UNREPLIED] {pong}"),
            format!(" [UPDATE] icmp     1 30 {ping} {pong}"),
            format!("[DESTROY] icmp     1 29 {ping} {pong} {BY}"),
        ]
    );
}

/// The ends in events-extended-timestamp-id.txt: only they tell counters and times.
#[test]
fn ends_tell_counters_and_times() {
    let local = Local::new(Config {
        acct: true,
        timestamp: true,
        buckets: 64,
        ..Config::default()
    });
    let (lines, _) = watch(&local, "-E -o extended", || traffic(&local));
    let told: Vec<&String> = lines.iter().filter(|l| l.contains("packets=")).collect();
    assert_eq!(
        told,
        [
            &format!(
                "[DESTROY] ipv4     2 tcp      6 119 TIME_WAIT src=10.1.0.2 dst=10.2.0.2 sport=40000 dport=80 packets=4 bytes=160 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40000 packets=3 bytes=120 [ASSURED] delta-time=0 {BY}"
            ),
            &format!(
                "[DESTROY] ipv4     2 udp      17 119 src=10.1.0.2 dst=10.2.0.2 sport=5000 dport=53 packets=2 bytes=60 src=10.2.0.2 dst=10.1.0.2 sport=53 dport=5000 packets=1 bytes=30 [ASSURED] delta-time=2 {BY}"
            ),
            &format!(
                "[DESTROY] ipv4     2 icmp     1 29 src=10.1.0.2 dst=10.2.0.2 type=8 code=0 id=9 packets=1 bytes=28 src=10.2.0.2 dst=10.1.0.2 type=0 code=0 id=9 packets=1 bytes=28 delta-time=0 {BY}"
            ),
        ]
    );
}

/// events-expect.txt: an expectation comes, is used by a connection, and is gone.
#[test]
fn expectations_come_and_go() {
    let local = Local::small();
    tidegate_tools::modules::modprobe(&local, &["nf_conntrack_ftp"], &|_| 0);
    let (lines, err) = watch(&local, "-E expect", || {
        local.lines(
            "-I -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport 41000 --dport 21 --state ESTABLISHED -t 300",
        );
        local.lines(
            "-I expect -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport 41000 --dport 21 -t 300 \
             --tuple-src 10.1.0.2 --tuple-dst 10.2.0.2 --mask-src 255.255.255.255 \
             --mask-dst 255.255.255.255 --tuple-port-src 0 --tuple-port-dst 80 \
             --mask-port-src 0 --mask-port-dst 65535",
        );
        local.wait(SECOND / 50);
        tcp(&local, false, 2, 100, 0);
    });
    let line = "proto=6 src=10.1.0.2 dst=10.2.0.2 sport=0 dport=80 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=10.1.0.2 master-dst=10.2.0.2 sport=41000 dport=21 class=0 helper=ftp";
    assert_eq!(
        lines,
        [
            format!("    [NEW] 300 {line}"),
            format!("[DESTROY] 299 {line}")
        ]
    );
    assert_eq!(
        err,
        "conntrack v1.4.7 (conntrack-tools): 2 expectation events have been shown.\n"
    );
}
