//! Outputs captured from conntrack 1.4.7 on Linux 6.18, from tables built to be like the
//! ones they were captured from.

use tidegate_conntrack::{Config, Conntrack, HelperKind, InHook, SECOND, Template, Time, Zone};
use tidegate_conntrack::{Tracked, Tuple};
use tidegate_wire::{Family, checksum, parse};

use crate::local::Local;

const HOSTS: &str = "-s 10.1.0.2 -d 10.2.0.2";

/// The table of `conntrack -L`'s sample, made by commands.
fn all_protocols() -> Local {
    let local = Local::small();
    let six = "-s fd01::2 -d fd02::2";
    let assured = "-u SEEN_REPLY,ASSURED";
    let tcp = |sport: u16, state: &str, timeout: u32, status: &str| {
        format!(
            "-I {HOSTS} -p tcp --sport {sport} --dport 80 --state {state} -t {timeout} {status}"
        )
    };
    for line in [
        tcp(40002, "SYN_RECV", 57, "-u SEEN_REPLY"),
        format!("-I {HOSTS} -p icmp --icmp-type 8 --icmp-code 0 --icmp-id 77 -t 27 -u SEEN_REPLY"),
        format!(
            "-I {six} -p icmpv6 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 5 -t 27 -u SEEN_REPLY"
        ),
        tcp(40010, "ESTABLISHED", 297, ""),
        tcp(40005, "CLOSE_WAIT", 57, assured),
        format!("-I {HOSTS} -p udp --sport 5003 --dport 53 -t 119 {assured}"),
        tcp(40001, "SYN_SENT", 117, ""),
        format!("-I {HOSTS} -p 50 -t 597"),
        format!("-I {HOSTS} -p icmp --icmp-type 13 --icmp-code 0 --icmp-id 78 -t 27"),
        format!("-I {six} -p tcp --sport 40000 --dport 80 --state SYN_SENT -t 117"),
        format!("-I {HOSTS} -p udp --sport 5002 --dport 53 -t 27 -u SEEN_REPLY"),
        tcp(40006, "LAST_ACK", 27, assured),
        format!("-I {six} -p udp --sport 1 --dport 2 -t 27"),
        tcp(40007, "TIME_WAIT", 117, assured),
        tcp(40008, "CLOSE", 7, assured),
        tcp(40004, "FIN_WAIT", 117, assured),
        format!("-I {HOSTS} -p udp --sport 5001 --dport 53 -t 27"),
        format!("-I {HOSTS} -p dccp --sport 1 --dport 2 --state OPEN --role client -t 597"),
        tcp(40009, "SYN_SENT2", 117, "-u SEEN_REPLY"),
        format!(
            "-I {HOSTS} -p sctp --sport 3000 --dport 36412 --state ESTABLISHED --orig-vtag 1 --reply-vtag 2 -t 207 {assured}"
        ),
        tcp(40003, "ESTABLISHED", 431_997, assured),
        format!("-I {HOSTS} -p gre --srckey 0 --dstkey 0 -t 27"),
    ] {
        assert_eq!(local.run(&line, "").status, 0, "{line}");
    }
    local
}

fn sorted(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort();
    lines
}

fn expected(text: &str) -> Vec<String> {
    sorted(text.lines().map(str::to_owned))
}

/// conntrack-L-default.txt.
const LISTING: &str = "\
tcp      6 57 SYN_RECV src=10.1.0.2 dst=10.2.0.2 sport=40002 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40002 mark=0 use=1
icmp     1 27 src=10.1.0.2 dst=10.2.0.2 type=8 code=0 id=77 src=10.2.0.2 dst=10.1.0.2 type=0 code=0 id=77 mark=0 use=1
icmpv6   58 27 src=fd01::2 dst=fd02::2 type=128 code=0 id=5 src=fd02::2 dst=fd01::2 type=129 code=0 id=5 mark=0 use=1
tcp      6 297 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=40010 dport=80 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40010 mark=0 use=1
tcp      6 57 CLOSE_WAIT src=10.1.0.2 dst=10.2.0.2 sport=40005 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40005 [ASSURED] mark=0 use=1
udp      17 119 src=10.1.0.2 dst=10.2.0.2 sport=5003 dport=53 src=10.2.0.2 dst=10.1.0.2 sport=53 dport=5003 [ASSURED] mark=0 use=1
tcp      6 117 SYN_SENT src=10.1.0.2 dst=10.2.0.2 sport=40001 dport=80 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40001 mark=0 use=1
unknown  50 597 src=10.1.0.2 dst=10.2.0.2 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 mark=0 use=1
icmp     1 27 src=10.1.0.2 dst=10.2.0.2 type=13 code=0 id=78 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 type=14 code=0 id=78 mark=0 use=1
tcp      6 117 SYN_SENT src=fd01::2 dst=fd02::2 sport=40000 dport=80 [UNREPLIED] src=fd02::2 dst=fd01::2 sport=80 dport=40000 mark=0 use=1
udp      17 27 src=10.1.0.2 dst=10.2.0.2 sport=5002 dport=53 src=10.2.0.2 dst=10.1.0.2 sport=53 dport=5002 mark=0 use=1
tcp      6 27 LAST_ACK src=10.1.0.2 dst=10.2.0.2 sport=40006 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40006 [ASSURED] mark=0 use=1
udp      17 27 src=fd01::2 dst=fd02::2 sport=1 dport=2 [UNREPLIED] src=fd02::2 dst=fd01::2 sport=2 dport=1 mark=0 use=1
tcp      6 117 TIME_WAIT src=10.1.0.2 dst=10.2.0.2 sport=40007 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40007 [ASSURED] mark=0 use=1
tcp      6 7 CLOSE src=10.1.0.2 dst=10.2.0.2 sport=40008 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40008 [ASSURED] mark=0 use=1
tcp      6 117 FIN_WAIT src=10.1.0.2 dst=10.2.0.2 sport=40004 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40004 [ASSURED] mark=0 use=1
udp      17 27 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=53 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=53 dport=5001 mark=0 use=1
dccp     33 597 src=10.1.0.2 dst=10.2.0.2 sport=0 dport=0 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=0 dport=0 mark=0 use=1
tcp      6 117 SYN_SENT2 src=10.1.0.2 dst=10.2.0.2 sport=40009 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40009 mark=0 use=1
sctp     132 207 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=3000 dport=36412 src=10.2.0.2 dst=10.1.0.2 sport=36412 dport=3000 [ASSURED] mark=0 use=1
tcp      6 431997 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=40003 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40003 [ASSURED] mark=0 use=1
gre      47 27 src=10.1.0.2 dst=10.2.0.2 srckey=0x0 dstkey=0x0 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 srckey=0x0 dstkey=0x0 mark=0 use=1
";

#[test]
fn listings() {
    let local = all_protocols();
    let printed = local.run("-L", "");
    assert_eq!(
        sorted(printed.out.lines().map(str::to_owned)),
        expected(LISTING)
    );
    assert_eq!(
        printed.err,
        "conntrack v1.4.7 (conntrack-tools): 22 flow entries have been shown.\n"
    );
    let extended = LISTING.lines().map(|l| {
        let l3 = if l.contains("src=fd") {
            "ipv6     10"
        } else {
            "ipv4     2"
        };
        format!("{l3} {l}")
    });
    assert_eq!(sorted(local.lines("-L -o extended")), sorted(extended));
    assert_eq!(local.run("-C", "").out, "22\n");
    let pick = |what: &str| {
        sorted(
            LISTING
                .lines()
                .filter(|l| l.contains(what))
                .map(str::to_owned),
        )
    };
    assert_eq!(sorted(local.lines("-L -u ASSURED")), pick("ASSURED"));
    assert_eq!(sorted(local.lines("-L -p tcp --state ESTABLISHED")), {
        let tcp = pick("ESTABLISHED");
        tcp.into_iter()
            .filter(|l| l.starts_with("tcp"))
            .collect::<Vec<_>>()
    });
    let unreplied = pick("UNREPLIED")
        .into_iter()
        .filter(|l| l.starts_with("udp"));
    assert_eq!(
        sorted(local.lines("-L -u UNREPLIED -p udp")),
        unreplied.collect::<Vec<_>>()
    );
}

#[test]
fn one_is_shown_changed_and_removed() {
    let local = all_protocols();
    let one = "-p tcp -s 10.1.0.2 -d 10.2.0.2 --sport 40003 --dport 80";
    let line = |timeout: u32, mark: u32, uses: u32| {
        format!(
            "tcp      6 {timeout} ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=40003 dport=80 src=10.2.0.2 dst=10.1.0.2 sport=80 dport=40003 [ASSURED] mark={mark} use={uses}"
        )
    };
    assert_eq!(local.lines(&format!("-G {one}")), [line(431_997, 0, 2)]);
    assert_eq!(
        local.lines(&format!("-U {one} -m 0x2a")),
        [line(431_997, 42, 2)]
    );
    assert_eq!(
        local.lines(&format!("-U {one} -t 1000")),
        [line(1000, 42, 2)]
    );
    local.wait(SECOND / 10);
    assert_eq!(local.lines("-D -p tcp --sport 40003"), [line(999, 42, 1)]);
    let missing = local.run("-G -p tcp -s 10.1.0.2 -d 10.2.0.2 --sport 4 --dport 80", "");
    assert_eq!(
        (missing.err.as_str(), missing.status),
        (
            "conntrack v1.4.7 (conntrack-tools): Operation failed: such conntrack doesn't exist\n",
            1
        )
    );
    let none = local.run("-D -p tcp --sport 49999", "");
    assert_eq!(
        (none.err.as_str(), none.status),
        (
            "conntrack v1.4.7 (conntrack-tools): 0 flow entries have been deleted.\n",
            1
        )
    );
}

#[test]
fn making_with_translation() {
    let local = Local::small();
    local.lines("-I -p tcp -s 10.1.0.9 -d 10.2.0.9 --sport 1 --dport 2 --state ESTABLISHED -t 100 -u SEEN_REPLY,ASSURED");
    local.lines(
        "-I -p udp -s 10.1.0.9 -d 10.2.0.9 --sport 1 --dport 2 -t 50 --src-nat 10.2.0.1:7777",
    );
    local.wait(SECOND / 10);
    let lines = [
        "tcp      6 99 ESTABLISHED src=10.1.0.9 dst=10.2.0.9 sport=1 dport=2 src=10.2.0.9 dst=10.1.0.9 sport=2 dport=1 [ASSURED] mark=0 use=1",
        "udp      17 49 src=10.1.0.9 dst=10.2.0.9 sport=1 dport=2 [UNREPLIED] src=10.2.0.9 dst=10.2.0.1 sport=2 dport=7777 mark=0 use=1",
    ];
    assert_eq!(local.lines("-L -s 10.1.0.9"), lines);
    assert_eq!(local.lines("-L -n"), [lines[1]]);
    let again = local.run(
        "-I -p tcp -s 10.1.0.9 -d 10.2.0.9 --sport 1 --dport 2 --state ESTABLISHED -t 100",
        "",
    );
    assert_eq!(
        (again.err.as_str(), again.status),
        (
            "conntrack v1.4.7 (conntrack-tools): Operation failed: Such conntrack exists, try -U to update\n",
            1
        )
    );
}

/// conntrack-L-save.txt, and what it makes when loaded.
#[test]
fn saved_lines_can_be_loaded() {
    let local = Local::small();
    local.lines(
        "-I -p udp -s 10.1.0.2 -d 10.2.0.2 --sport 5555 --dport 7777 -t 29 --src-nat 10.2.0.1",
    );
    let saved = "-A -t 29 -u UNSET -s 10.1.0.2 -d 10.2.0.2 -r 10.2.0.2 -n 10.2.0.1 -p udp --sport 5555 --dport 7777 --reply-port-src 7777 --reply-port-dst 5555";
    assert_eq!(local.lines("-L -o save"), [saved]);
    let all = all_protocols();
    let saved = all.lines("-L -o save");
    let copy = Local::small();
    // DCCP's state is not saved, for there is none, so its line cannot be loaded.
    let saved: Vec<String> = saved.into_iter().filter(|l| !l.contains("dccp")).collect();
    let loaded = copy.run("-R -", &saved.join("\n"));
    assert_eq!((loaded.status, loaded.err.as_str()), (0, ""));
    let without_dccp = |local: &Local| {
        let lines = local.lines("-L -o save").into_iter();
        sorted(lines.filter(|l| !l.contains("dccp")))
    };
    assert_eq!(without_dccp(&copy), without_dccp(&all));
}

fn packet(ct: &mut Conntrack, now: Time, pkt: &[u8], template: &Template) {
    let layout = parse(pkt).unwrap();
    let Tracked::Ct(mut at) = ct.handle_packet(now, pkt, &layout, InHook::Output, Some(template))
    else {
        panic!("not tracked");
    };
    ct.confirm(now, &mut at).unwrap();
}

/// A UDP packet with three bytes from port 5001, without a checksum.
fn udp(dport: u16) -> Vec<u8> {
    let mut pkt = vec![
        0x45, 0, 0, 31, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2,
    ];
    checksum::fix_ipv4(&mut pkt);
    pkt.extend([5001, dport, 11, 0].map(u16::to_be_bytes).concat());
    pkt.extend(b"abc");
    pkt
}

/// zones-acct-timestamp-conntrack-L.txt and zones-L-zone5.txt.
#[test]
fn zones_counters_and_ages() {
    let local = Local::new(Config {
        acct: true,
        timestamp: true,
        buckets: 64,
        ..Config::default()
    });
    for (port, id, dirs) in [
        (56, 7, Zone::REPLY),
        (54, 5, Zone::BOTH),
        (55, 6, Zone::ORIG),
    ] {
        let template = Template {
            zone: Zone { id, dirs },
            ..Template::default()
        };
        local.change(|ct, now| packet(ct, now, &udp(port), &template));
    }
    // The kernel lets nobody change a zoned entry by name; the mark came from a rule.
    local.lines("-U -p udp --dport 54 -m 255");
    local.wait(7 * SECOND / 5);
    let five = "udp      17 28 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=54 packets=1 bytes=31 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=54 dport=5001 packets=0 bytes=0 mark=255 zone=5 delta-time=1 use=1";
    assert_eq!(
        local.lines("-L"),
        [
            "udp      17 28 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=56 packets=1 bytes=31 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=56 dport=5001 zone-reply=7 packets=0 bytes=0 mark=0 delta-time=1 use=1",
            five,
            "udp      17 28 src=10.1.0.2 dst=10.2.0.2 sport=5001 dport=55 zone-orig=6 packets=1 bytes=31 [UNREPLIED] src=10.2.0.2 dst=10.1.0.2 sport=55 dport=5001 packets=0 bytes=0 mark=0 delta-time=1 use=1",
        ]
    );
    assert_eq!(local.lines("-L -w 5"), [five]);
    local.lines("-L -z");
    assert!(
        local
            .lines("-L")
            .iter()
            .all(|l| l.contains("packets=0 bytes=0 [UNREPLIED]"))
    );
}

/// What an FTP server was asked for.
fn expecting() -> Local {
    let local = Local::small();
    let words = "-p tcp --sport 41000 --dport 21 --state ESTABLISHED -t 300";
    let template = Template {
        helper: Some(HelperKind::Ftp),
        ..Template::default()
    };
    local.change(|ct, now| {
        let tuple = Tuple {
            src: 0x0a01_0002,
            dst: 0x0a02_0002,
            src_id: 41000,
            dst_id: 21,
            family: Family::V4,
            proto: 6,
        };
        let new = tidegate_conntrack::by_hand::NewEntry {
            tuples: [tuple, tuple.inverse().unwrap()],
            zone: template.zone,
            timeout: 300,
            status: 0,
            mark: 0,
            state: None,
            nat: [None; 2],
            helper: template.helper,
            labels: 0,
        };
        ct.create_by_hand(now, &new).unwrap();
    });
    assert_eq!(local.run(&format!("-I {HOSTS} {words}"), "").status, 1);
    local
}

const EXPECT: &str = "-I expect -s 10.1.0.2 -d 10.2.0.2 -p tcp --sport 41000 --dport 21 -t 300 \
    --tuple-src 10.2.0.2 --tuple-dst 10.1.0.2 --mask-src 255.255.255.255 \
    --mask-dst 255.255.255.255 --tuple-port-src 0 --tuple-port-dst 2580 \
    --mask-port-src 0 --mask-port-dst 65535";

#[test]
fn expectations() {
    let local = expecting();
    local.lines(EXPECT);
    let line = "300 proto=6 src=10.2.0.2 dst=10.1.0.2 sport=0 dport=2580 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=10.1.0.2 master-dst=10.2.0.2 sport=41000 dport=21 class=0 helper=ftp";
    let printed = local.run("-L expect", "");
    assert_eq!(printed.out, format!("{line}\n"));
    assert_eq!(
        printed.err,
        "conntrack v1.4.7 (conntrack-tools): 1 expectations have been shown.\n"
    );
    assert_eq!(local.run("-C expect", "").out, "1\n");
    assert_eq!(
        local.run(EXPECT, "").err,
        "conntrack v1.4.7 (conntrack-tools): Operation failed: File exists\n"
    );
    let named = "-s 10.2.0.2 -d 10.1.0.2 -p tcp --sport 20 --dport 2580";
    assert_eq!(local.lines(&format!("-G expect {named}")), [line]);
    local.lines(&format!("-D expect {named}"));
    assert_eq!(local.run(&format!("-D expect {named}"), "").status, 1);
    local.lines(EXPECT);
    let flushed = local.run("-F expect", "");
    assert_eq!(
        flushed.err,
        "conntrack v1.4.7 (conntrack-tools): expectation table has been emptied.\n"
    );
    assert_eq!(
        local.run("-S expect", "").out,
        "cpu=0   \texpect_new=0 expect_create=2 expect_delete=2 \n"
    );
    assert_eq!(
        local
            .run(&EXPECT.replace("--sport 41000", "--sport 1"), "")
            .err,
        "conntrack v1.4.7 (conntrack-tools): Operation failed: master conntrack not found\n"
    );
}

/// The elements are those that the real tool printed for such an expectation.
#[test]
fn an_expectation_as_xml() {
    let local = expecting();
    local.lines(EXPECT);
    let xml = local.lines("-L expect -o xml");
    assert_eq!(
        xml[..2],
        ["<?xml version=\"1.0\" encoding=\"utf-8\"?>", "<expect>"]
    );
    assert_eq!(
        xml[2..],
        [
            "<flow><layer3 protonum=\"2\" protoname=\"ipv4\"><expected><src>10.2.0.2</src><dst>10.1.0.2</dst></expected><mask><src>255.255.255.255</src><dst>255.255.255.255</dst></mask><master><src>10.1.0.2</src><dst>10.2.0.2</dst></master></layer3><layer4 protonum=\"6\" protoname=\"tcp\"><expected><sport>0</sport><dport>2580</dport></expected><mask><sport>0</sport><dport>65535</dport></mask><master><sport>41000</sport><dport>21</dport></master></layer4><meta><helper-name>ftp</helper-name><timeout>300</timeout><class>0</class></meta></flow>",
            "</expect>",
        ]
    );
}

#[test]
fn statistics_version_and_files_that_are_not_there() {
    let local = all_protocols();
    assert_eq!(
        local.run("-S", "").out,
        "cpu=0   \tfound=0 invalid=0 insert=22 insert_failed=0 drop=0 early_drop=0 error=0 search_restart=0 clash_resolve=0 chaintoolong=0 \n"
    );
    assert_eq!(
        local.run("--version", "").out,
        "conntrack v1.4.7 (conntrack-tools)\n"
    );
    assert!(local.run("-h -p gre", "").out.contains("--srckey"));
    let flushed = local.run("-F", "");
    assert_eq!(
        flushed.err,
        "conntrack v1.4.7 (conntrack-tools): connection tracking table has been emptied.\n"
    );
    assert_eq!(local.run("-C", "").out, "0\n");
    let missing = local.run("-R /nonexistent", "");
    assert!(missing.err.starts_with("conntrack v1.4.7 (conntrack-tools): Failed to open file /nonexistent for reading\nTry `conntrack -h'"));
}

/// What the real tool says about lines of a file.
#[test]
fn files_of_commands() {
    let add = "-A -s 1.1.1.1 -d 2.2.2.2 -p udp --sport 50 --dport";
    let prefix = "conntrack v1.4.7 (conntrack-tools): ";
    for (text, err, status, left) in [
        (
            format!("{add} 8 -t 100\n# two\n\n{add} 9 -t 100\n"),
            "",
            0,
            2,
        ),
        (
            format!("{add} 8 -t 100\nfoo\n"),
            "Cannot use command `unknown' with --load-file",
            2,
            0,
        ),
        (
            format!("{add} 8 -t 100\n-L\n"),
            "Cannot use command `-L' with --load-file",
            2,
            0,
        ),
        (
            format!(
                "{add} 8 -t 100\n{}\n{add} 9 -t 100\n",
                format!("{add} 8 -t 100").replace("-A", "-I")
            ),
            "Operation failed: Such conntrack exists, try -U to update",
            1,
            1,
        ),
        (format!("conntrack {add} 28 -t \"100\""), "", 0, 1),
        (
            "-I expect -s 1.1.1.1\n".to_owned(),
            "You need to supply the `--dst' option for this command",
            2,
            0,
        ),
    ] {
        let local = Local::small();
        let printed = local.run("-R -", &text);
        let first = printed.err.lines().next().unwrap_or("");
        assert_eq!(first.strip_prefix(prefix).unwrap_or(first), err, "{text}");
        assert_eq!(
            (printed.status, local.lines("-L").len()),
            (status, left),
            "{text}"
        );
    }
}
