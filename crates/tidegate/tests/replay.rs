//! Replays against the answers of the kernel in `scenarios/expected`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tidegate_capture::{Direction, LinkType, Reader, Writer};

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios")
}

fn replay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .arg("replay")
        .args(arguments)
        .current_dir(scenarios())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Where the kernel's run of a packet ended, from what ours says.
fn ending(packet: &Value) -> &'static str {
    let hooks: Vec<_> = packet["hooks"].as_array().unwrap().iter().collect();
    match packet["verdict"].as_str().unwrap() {
        "ACCEPT" if hooks.last().is_some_and(|h| *h == "INPUT") => "local",
        "ACCEPT" if hooks.first().is_some_and(|h| *h == "OUTPUT") => "output",
        "ACCEPT" => "forward",
        "DROP" | "REJECT" => "drop",
        "HELD" => "none",
        _ => "left out",
    }
}

/// A connection in brief: protocol, both tuples, assured, replied.
type Connection = (String, Vec<String>, bool, bool);

fn of_kernel(entry: &Value) -> Connection {
    let mut values = Vec::new();
    for direction in ["orig", "reply"] {
        let tuple = &entry[direction];
        for key in ["src", "dst", "sport", "dport", "type", "code", "id"] {
            match &tuple[key] {
                Value::Null => {}
                Value::String(s) => values.push(plain(s)),
                other => values.push(other.to_string()),
            }
        }
    }
    let has = |name| {
        let status = entry["status"].as_array().unwrap();
        status.iter().any(|s| s == name)
    };
    let proto = entry["orig"]["proto"].as_str().unwrap().to_owned();
    (proto, values, has("ASSURED"), has("SEEN_REPLY"))
}

fn of_ours(line: &str) -> Connection {
    let words: Vec<&str> = line.split_whitespace().collect();
    let wanted = ["src", "dst", "sport", "dport", "type", "code", "id"];
    let values = words.iter().filter_map(|w| w.split_once('='));
    let values = values.filter(|(k, _)| wanted.contains(k));
    (
        words[2].to_owned(),
        values.map(|(_, v)| plain(v)).collect(),
        words.contains(&"[ASSURED]"),
        !words.contains(&"[UNREPLIED]"),
    )
}

/// Addresses in one spelling.
fn plain(text: &str) -> String {
    text.parse::<IpAddr>()
        .map_or_else(|_| text.to_owned(), |a| a.to_string())
}

/// Runs a pair and lists what is not as the kernel says.
fn compare(pair: &toml::Table) -> Vec<String> {
    let name = pair["name"].as_str().unwrap();
    let file = |directory: &str, key: &str| {
        let name = pair.get(key)?.as_str()?;
        Some(format!("{directory}/{name}"))
    };
    let mut arguments = vec!["--json".to_owned(), "--host".to_owned()];
    arguments.push(file("hosts", "host").unwrap());
    for (option, key) in [("--rules", "rules4"), ("--rules6", "rules6")] {
        if let Some(file) = file("rules", key) {
            arguments.extend([option.to_owned(), file]);
        }
    }
    arguments.push(file("captures", "capture").unwrap());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let run = replay(&words);
    assert!(run.status.success(), "{name}: {}", text(&run.stderr));
    let objects: Vec<Value> = text(&run.stdout)
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    let expected = scenarios().join(format!("expected/{name}.json"));
    let kernel: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    let mut wrong = Vec::new();
    verdicts(&kernel, &objects, &mut wrong);
    counters(&kernel, &objects, &mut wrong);
    connections(&kernel, &objects, &mut wrong);
    wrong.into_iter().map(|w| format!("{name}: {w}")).collect()
}

fn verdicts(kernel: &Value, ours: &[Value], wrong: &mut Vec<String>) {
    let asked: BTreeMap<u64, &str> = kernel["packets"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p[0].as_u64().unwrap(), p[2].as_str().unwrap()))
        .collect();
    let mut seen = 0;
    for packet in ours.iter().filter(|o| o.get("number").is_some()) {
        let number = packet["number"].as_u64().unwrap();
        let wanted = asked.get(&number).copied().unwrap_or("left out");
        seen += usize::from(asked.contains_key(&number));
        let other_host = packet["hooks"].as_array().is_some_and(Vec::is_empty);
        if ending(packet) != wanted && !(wanted == "left out" && other_host) {
            wrong.push(format!("{packet}: the kernel says {wanted}"));
        }
    }
    assert_eq!(seen, asked.len());
}

fn counters(kernel: &Value, ours: &[Value], wrong: &mut Vec<String>) {
    let rules = ours.iter().find_map(|o| o.get("rules")).unwrap();
    let find = |ip: &str, table: &str, chain: &str, rule: usize| {
        let mut all = rules.as_array().unwrap().iter();
        let found = all.find(|r| {
            r["ip"].as_u64() == ip.parse().ok()
                && r["table"] == *table
                && r["chain"] == *chain
                && r["rule"] == rule
        });
        found.map(|r| (r["packets"].as_u64(), r["bytes"].as_u64()))
    };
    let mut compared = 0;
    for (ip, tables) in kernel["counters"].as_object().unwrap() {
        for (table, chains) in tables.as_object().unwrap() {
            for (chain, said) in chains.as_object().unwrap() {
                let mut wanted = vec![said["pc"].clone()];
                wanted.extend(said["rules"].as_array().unwrap().iter().cloned());
                for (rule, pair) in wanted.iter().enumerate().filter(|w| !w.1.is_null()) {
                    compared += 1;
                    let want = Some((pair[0].as_u64(), pair[1].as_u64()));
                    let got = find(ip, table, chain, rule);
                    if got != want {
                        wrong.push(format!("{table} {chain} {rule}: {got:?}, kernel {want:?}"));
                    }
                }
            }
        }
    }
    assert!(compared > 0);
}

fn connections(kernel: &Value, ours: &[Value], wrong: &mut Vec<String>) {
    let lines = ours.iter().find_map(|o| o.get("connections")).unwrap();
    let lines = lines.as_array().unwrap();
    let ours: BTreeSet<Connection> = lines.iter().map(|l| of_ours(l.as_str().unwrap())).collect();
    let entries = kernel["conntrack"].as_array().unwrap();
    let theirs: BTreeSet<Connection> = entries.iter().map(of_kernel).collect();
    for only in ours.symmetric_difference(&theirs) {
        wrong.push(format!("connection of one side only: {only:?}"));
    }
}

#[test]
fn every_pair_is_decided_as_the_kernel_decides_it() {
    let pairs = std::fs::read_to_string(scenarios().join("pairs.toml")).unwrap();
    let pairs: toml::Table = pairs.parse().unwrap();
    let pairs = pairs["pair"].as_array().unwrap();
    assert!(pairs.len() >= 38);
    let wrong: Vec<String> = pairs
        .iter()
        .flat_map(|p| compare(p.as_table().unwrap()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is inferred leads to the same lines as the description.
#[test]
fn without_a_description_the_capture_tells() {
    for (rules, host, capture) in [
        ("a3-after", "server", "web-ssh.pcap"),
        ("a5-state", "server", "sport80.pcap"),
        ("a6", "server", "nmap.pcap"),
        ("b4", "server", "ftp-passive.pcap"),
        ("b6-masq", "router", "ftp-masq.pcapng"),
    ] {
        let (rules, host) = (format!("rules/{rules}.rules"), format!("hosts/{host}.toml"));
        let capture = format!("captures/{capture}");
        let described = replay(&["--rules", &rules, "--host", &host, &capture]);
        let inferred = replay(&["--rules", &rules, &capture]);
        assert!(described.stderr.is_empty(), "{}", text(&described.stderr));
        assert!(text(&inferred.stderr).contains("this host is"));
        let (a, b) = (text(&described.stdout), text(&inferred.stdout));
        for (a, b) in a.lines().zip(b.lines()) {
            assert_eq!(a, b, "{capture}\n{}", text(&inferred.stderr));
        }
        assert_eq!(a.lines().count(), b.lines().count());
    }
}

#[test]
fn a_packet_is_explained_rule_by_rule() {
    let run = replay(&[
        "--rules",
        "rules/b6-masq.rules",
        "--host",
        "hosts/router.toml",
        "captures/ftp-masq-sll2.pcap",
        "--explain",
        "7",
    ]);
    let shown = text(&run.stdout);
    for part in [
        "PREROUTING  in wan0\n  raw PREROUTING\n",
        "    ✗  1  -A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp\n          destination port is 55960, wanted 21\n",
        "  conntrack: ESTABLISHED, reply direction\n",
        "  rewritten: 203.0.113.9:21 > 203.0.113.1:55960 tcp PSH,ACK 72\n         to: 203.0.113.9:21 > 10.66.0.20:55960 tcp PSH,ACK 72\n",
        "FORWARD  in wan0  out lan0\n",
        "          ctstate is ESTABLISHED, wanted RELATED\n",
        "    ✓  3  -A FORWARD -m state --state ESTABLISHED -j ACCEPT  [3:184]\n          → ACCEPT\n",
    ] {
        assert!(shown.contains(part), "{part}\nnot in\n{shown}");
    }
    assert!(!shown.contains('\x1b'), "colours off the terminal");
}

/// `--explain` of one packet of a capture on the server.
fn explain(rules: &str, capture: &str, number: u64) -> String {
    let run = replay(&[
        "--rules",
        &format!("rules/{rules}.rules"),
        "--host",
        "hosts/server.toml",
        &format!("captures/{capture}.pcap"),
        "--explain",
        &number.to_string(),
    ]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    text(&run.stdout)
}

#[test]
fn an_explained_packet_has_the_line_of_the_listing() {
    let listing = replay(&[
        "--rules",
        "rules/b4.rules",
        "--host",
        "hosts/server.toml",
        "captures/ftp-pasv-once.pcap",
    ]);
    let listing = text(&listing.stdout);
    for number in [1, 30] {
        let line = listing.lines().nth(number - 1).unwrap();
        let shown = explain("b4", "ftp-pasv-once", number as u64);
        assert_eq!(shown.lines().next(), Some(line));
    }
    assert!(listing.lines().nth(29).unwrap().contains("ESTABLISHED #2 "));
}

/// Packets that `scenarios/record.py` made wrong on purpose: 27 has a damaged TCP
/// checksum, 31 the sequence number 9000000 in a connection that was just opened.
#[test]
fn an_explanation_says_why_a_packet_is_invalid() {
    for (number, why) in [
        (27, "conntrack: INVALID: bad transport checksum\n"),
        (31, "conntrack: INVALID: SEQ 9000000 is over upper bound "),
    ] {
        let shown = explain("a9", "states", number);
        assert!(shown.contains(why), "{shown}");
    }
}

/// A SYN that answers nothing in an established connection is ignored (RFC 5961, 4).
#[test]
fn an_explanation_says_why_a_packet_was_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let capture = dir.path().join("eth0.pcapng");
    let mut writer = Writer::new(std::fs::File::create(&capture).unwrap(), "test").unwrap();
    let id = writer.add_interface(None, LinkType::Raw).unwrap();
    let (client, server) = ([192, 168, 114, 101], [192, 168, 114, 20]);
    let packets = [
        tcp(client, server, [4000, 80], [1000, 0], 0x02),
        tcp(server, client, [80, 4000], [5000, 1001], 0x12),
        tcp(client, server, [4000, 80], [1001, 5001], 0x10),
        tcp(client, server, [4000, 80], [7000, 0], 0x02),
    ];
    for (at, packet) in packets.iter().enumerate() {
        writer
            .packet(id, at as u64, Direction::Unknown, packet, 40, "")
            .unwrap();
    }
    drop(writer);
    let run = replay(&[
        "--rules",
        "rules/a9.rules",
        "--host",
        "hosts/server.toml",
        capture.to_str().unwrap(),
        "--explain",
        "4",
    ]);
    let shown = text(&run.stdout);
    assert!(
        shown.contains("  conntrack: SYN ignored in state ESTABLISHED\n"),
        "{shown}"
    );
}

/// 20 bytes of IPv4 and 20 of TCP with right checksums (RFC 1071).
fn tcp(src: [u8; 4], dst: [u8; 4], ports: [u16; 2], numbers: [u32; 2], flags: u8) -> [u8; 40] {
    let sum = |words: &[u8], start: u32| {
        let sum = words.chunks(2).fold(start, |sum, w| {
            sum + u32::from(u16::from_be_bytes([w[0], w[1]]))
        });
        (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
    };
    let mut p = [0; 40];
    p[..10].copy_from_slice(&[0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6]);
    p[12..16].copy_from_slice(&src);
    p[16..20].copy_from_slice(&dst);
    let header = sum(&p[..20], 0);
    p[10..12].copy_from_slice(&header);
    p[20..22].copy_from_slice(&ports[0].to_be_bytes());
    p[22..24].copy_from_slice(&ports[1].to_be_bytes());
    p[24..28].copy_from_slice(&numbers[0].to_be_bytes());
    p[28..32].copy_from_slice(&numbers[1].to_be_bytes());
    p[32..36].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    let transport = sum(&p[12..], 6 + 20);
    p[36..38].copy_from_slice(&transport);
    p
}

#[test]
fn colours_are_for_terminals_and_can_be_refused() {
    let command = format!(
        "{} replay --rules rules/a1.rules --host hosts/server.toml captures/web-ssh.pcap",
        env!("CARGO_BIN_EXE_tidegate")
    );
    let on_a_terminal = |no_color: &str| {
        let run = Command::new("script")
            .args(["-qec", &command, "/dev/null"])
            .env("NO_COLOR", no_color)
            .current_dir(scenarios())
            .output();
        run.ok().map(|r| text(&r.stdout))
    };
    let (Some(painted), Some(plain)) = (on_a_terminal(""), on_a_terminal("1")) else {
        eprintln!("script is not installed: colours on a terminal are not tested");
        return;
    };
    assert!(painted.contains("\x1b[32mACCEPT"), "{painted}");
    assert!(plain.contains("ACCEPT") && !plain.contains('\x1b'));
    let words: Vec<&str> = command.split(' ').skip(2).collect();
    assert_eq!(text(&replay(&words).stdout), plain.replace('\r', ""));
}

#[test]
fn wrong_command_lines_exit_with_two() {
    for (arguments, wanted) in [
        (&["captures/web-ssh.pcap"][..], "--rules <FILE>"),
        (&["--rules", "rules/a1.rules"], "<CAPTURE>"),
        (
            &["--rules", "rules/a1.rules", "--explain", "0", "x.pcap"],
            "0 is not in 1..",
        ),
        (
            &["--rules", "r", "--explain", "1", "--json", "x.pcap"],
            "cannot be used with",
        ),
    ] {
        let run = replay(arguments);
        let error = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{error}");
        assert!(error.contains(wanted), "{error}");
    }
    let help = text(&replay(&["--help"]).stdout);
    for part in ["Examples:\n", "Exit status: 0 ", "NO_COLOR"] {
        assert!(help.contains(part), "{help}");
    }
}

#[test]
fn verdicts_become_comments_that_tshark_reads() {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("tshark is not installed: not compared");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.pcapng");
    let run = replay(&[
        "--rules",
        "rules/a3-after.rules",
        "--host",
        "hosts/server.toml",
        "--summary",
        "--out",
        out.to_str().unwrap(),
        "captures/web-ssh.pcap",
    ]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let shown = Command::new("tshark")
        .arg("-r")
        .arg(&out)
        .args(["-T", "fields", "-e", "frame.number", "-e", "frame.comment"])
        .output()
        .unwrap();
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    let shown = text(&shown.stdout);
    assert_eq!(shown.lines().count(), 61);
    let first = shown.lines().next().unwrap();
    assert_eq!(
        first,
        "1\tACCEPT by filter INPUT 2: -A INPUT -p tcp -m tcp --dport 80 -j ACCEPT [NEW]"
    );
}

#[test]
fn damage_is_reported_after_the_packets_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(scenarios().join("captures/web-ssh.pcap")).unwrap();
    let cut = dir.path().join("cut.pcap");
    std::fs::write(&cut, &whole[..1000]).unwrap();
    let run = replay(&[
        "--rules",
        "rules/a1.rules",
        "--host",
        "hosts/server.toml",
        cut.to_str().unwrap(),
    ]);
    assert_eq!(run.status.code(), Some(1));
    let error = text(&run.stderr);
    assert!(error.contains("cut.pcap: packet "), "{error}");
    assert!(error.contains("the file ends inside"), "{error}");
    assert!(text(&run.stdout).contains("filter INPUT 2"));
    for (content, wanted) in [
        (&b""[..], "the file is empty"),
        (b"hello, world", "neither pcap nor pcapng"),
    ] {
        std::fs::write(&cut, content).unwrap();
        let run = replay(&[
            "--rules",
            "rules/a1.rules",
            "--host",
            "hosts/server.toml",
            cut.to_str().unwrap(),
        ]);
        assert_eq!(run.status.code(), Some(1));
        assert!(text(&run.stderr).contains(wanted), "{}", text(&run.stderr));
    }
}

/// The verdict lines and everything behind them, without the interface's column.
fn numbers(run: &Output) -> Vec<(Value, Value, Value)> {
    let lines = text(&run.stdout);
    let objects = lines.lines().map(|l| serde_json::from_str(l).unwrap());
    objects
        .map(|o: Value| (o["verdict"].clone(), o["rule"].clone(), o["rules"].clone()))
        .collect()
}

/// Copies packets of a capture, cut to `snap` bytes, those of one interface if asked.
fn copy(from: &str, to: &Path, snap: usize, only: Option<&str>) {
    let bytes = std::fs::read(scenarios().join(from)).unwrap();
    let mut reader = Reader::new(from, &bytes[..]);
    let mut writer = Writer::new(std::fs::File::create(to).unwrap(), "test").unwrap();
    let mut interface = None;
    while let Some(frame) = reader.next_frame().unwrap() {
        if only.is_some() && frame.interface.name.as_deref() != only {
            continue;
        }
        let id = *interface
            .get_or_insert_with(|| writer.add_interface(None, frame.interface.link).unwrap());
        let kept = &frame.data[..snap.min(frame.data.len())];
        writer
            .packet(
                id,
                frame.time_ns,
                frame.flagged,
                kept,
                frame.original_len,
                "",
            )
            .unwrap();
    }
}

#[test]
fn packets_cut_by_the_snap_length_are_decided_alike() {
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.pcapng");
    copy("captures/web-ssh.pcap", &cut, 66, None);
    let rules = [
        "--rules",
        "rules/a3-after.rules",
        "--host",
        "hosts/server.toml",
        "--json",
    ];
    let whole = replay(&[&rules[..], &["captures/web-ssh.pcap"]].concat());
    let cut = replay(&[&rules[..], &[cut.to_str().unwrap()]].concat());
    assert_eq!(numbers(&whole), numbers(&cut));
    assert!(text(&cut.stdout).contains("bytes not captured"));
}

/// The two sides of a router in files called after its interfaces.
#[test]
fn captures_of_several_interfaces_are_merged_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let side = |name: &str| {
        let path = dir.path().join(format!("{name}.pcapng"));
        copy("captures/ftp-masq.pcapng", &path, usize::MAX, Some(name));
        path.to_str().unwrap().to_owned()
    };
    let (lan, wan) = (side("lan0"), side("wan0"));
    let rules = [
        "--rules",
        "rules/b6-masq.rules",
        "--host",
        "hosts/router.toml",
        "--summary",
    ];
    let whole = replay(&[&rules[..], &["captures/ftp-masq.pcapng"]].concat());
    let apart = replay(&[&rules[..], &[&wan, &lan]].concat());
    assert!(text(&whole.stdout).contains("seen leaving as decided"));
    assert_eq!(text(&whole.stdout), text(&apart.stdout));
}
