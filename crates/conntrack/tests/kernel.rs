//! Replays packet sequences through the tracker and compares every step with what
//! Linux 6.18 did with the same packets.
//!
//! The files in `tests/corpus` were recorded from a router in a network namespace:
//!
//! ```text
//! case NAME sysctl=value ...
//! +SECONDS                 time passes
//! > HEX                    a forwarded packet (trailing zero bytes left out)
//! = STATE                  the packet's state as `-m conntrack --ctstate` saw it
//!   ENTRY                  every entry afterwards, as ctnetlink showed it
//! ```
//!
//! An entry is `proto src dst src-id dst-id status state t=timeout f=tcp-flags
//! w=window-scales c=packets:bytes` with the values of both directions; SCTP has its
//! verification tags in place of the flags.

#![allow(clippy::unwrap_used, reason = "a test over files of its own")]

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use tidegate_conntrack::config::Config;
use tidegate_conntrack::{
    Conntrack, CtInfo, Dir, Entry, Family, InHook, ProtoState, SECOND, Status, Time, Tracked,
};

const START: Time = 1_000_000 * SECOND;

struct Replay {
    name: String,
    ct: Conntrack,
    now: Time,
    /// Seconds by which timeouts may differ: the kernel's pass in whole seconds.
    slack: u64,
    got: Option<(Tracked, String)>,
    entries: Vec<String>,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// The packet with the zero bytes that the corpus leaves out.
fn whole(mut pkt: Vec<u8>) -> Vec<u8> {
    pkt.resize(pkt.len().max(6), 0);
    let word = |i: usize| usize::from(u16::from_be_bytes([pkt[i], pkt[i + 1]]));
    let len = if pkt[0] >> 4 == 4 {
        word(2)
    } else {
        40 + word(4)
    };
    pkt.resize(len.max(pkt.len()), 0);
    pkt
}

fn sysctls(words: std::str::SplitWhitespace<'_>) -> Config {
    let mut config = Config {
        buckets: 64,
        ..Config::default()
    };
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        let value: u32 = value.parse().unwrap();
        match name {
            "acct" => config.acct = value != 0,
            "checksum" => config.checksum = value != 0,
            "tcp_loose" => config.tcp_loose = value != 0,
            "tcp_be_liberal" => config.tcp_be_liberal = value != 0,
            "tcp_ignore_invalid_rst" => config.tcp_ignore_invalid_rst = value != 0,
            "tcp_max_retrans" => config.tcp_max_retrans = value as u8,
            other => assert!(config.set_sysctl(other, value), "{other}={value}"),
        }
    }
    config
}

fn state_name(tracked: Tracked) -> &'static str {
    match tracked {
        Tracked::Ct(at) => match at.info {
            CtInfo::New => "NEW",
            CtInfo::Established | CtInfo::EstablishedReply => "ESTABLISHED",
            CtInfo::Related | CtInfo::RelatedReply => "RELATED",
        },
        Tracked::Untracked => "UNTRACKED",
        Tracked::Invalid(_) => "INVALID",
        Tracked::Drop(_) => "dropped",
    }
}

fn proto_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        33 => "dccp".into(),
        47 => "gre".into(),
        50 => "esp".into(),
        58 => "icmpv6".into(),
        132 => "sctp".into(),
        136 => "udplite".into(),
        n => n.to_string(),
    }
}

fn status_names(status: Status) -> String {
    let names = [
        (Status::EXPECTED, "EXPECTED"),
        (Status::SEEN_REPLY, "SEEN_REPLY"),
        (Status::ASSURED, "ASSURED"),
    ];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| status.has(*bit))
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() {
        "-".into()
    } else {
        set.join(",")
    }
}

fn show(entry: &Entry, now: Time) -> String {
    let t = *entry.tuple(Dir::Original);
    let addr = |a: u128| match t.family {
        Family::V4 => Ipv4Addr::from(a as u32).to_string(),
        Family::V6 => Ipv6Addr::from(a).to_string(),
    };
    let mut out = format!(
        "{} {} {} {} {} {}",
        proto_name(t.proto),
        addr(t.src),
        addr(t.dst),
        { t.src_id },
        { t.dst_id },
        status_names(entry.status)
    );
    let left = entry.remaining(now);
    match &entry.proto {
        ProtoState::Tcp(tcp) => write!(
            out,
            " {} t={left} f={},{} w={},{}",
            tcp.state.name(),
            tcp.seen[0].flags,
            tcp.seen[1].flags,
            tcp.seen[0].scale,
            tcp.seen[1].scale
        ),
        ProtoState::Sctp(s) => write!(
            out,
            " {} t={left} f={:08x},{:08x} w=-",
            s.state.name(),
            s.vtag[0],
            s.vtag[1]
        ),
        ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => {
            write!(out, " - t={left} f=- w=-")
        }
    }
    .unwrap();
    let [o, r] = entry.counters.as_deref().copied().unwrap_or_default();
    write!(
        out,
        " c={}:{},{}:{}",
        o.packets, o.bytes, r.packets, r.bytes
    )
    .unwrap();
    out
}

/// Splits a line into what must be equal and the timeout.
fn split(line: &str) -> (String, u64) {
    let (before, rest) = line.split_once(" t=").unwrap();
    let (timeout, after) = rest.split_once(' ').unwrap();
    (format!("{before} {after}"), timeout.parse().unwrap())
}

impl Replay {
    fn new(words: std::str::SplitWhitespace<'_>, name: &str) -> Replay {
        Replay {
            name: name.into(),
            ct: Conntrack::new(sysctls(words)),
            now: START,
            slack: 1,
            got: None,
            entries: Vec::new(),
        }
    }

    fn packet(&mut self, text: &str) -> Result<(), String> {
        self.check()?;
        let pkt = whole(hex(text));
        let layout = tidegate_wire::parse(&pkt).map_err(|e| format!("{e:?}"))?;
        let tracked = self
            .ct
            .handle_packet(self.now, &pkt, &layout, InHook::Prerouting, None);
        if let Tracked::Ct(mut at) = tracked {
            self.ct
                .confirm(self.now, &mut at)
                .map_err(|e| e.to_string())?;
        }
        let note = self.ct.last_note();
        self.got = Some((tracked, format!("{text}\n  {tracked:?} note {note:?}")));
        self.entries.clear();
        Ok(())
    }

    fn state(&mut self, wanted: &str) -> Result<(), String> {
        let Some((tracked, got)) = &self.got else {
            return Ok(());
        };
        // Packets the router answered or dropped itself were not seen by the rules.
        if wanted.starts_with('?') {
            return Ok(());
        }
        if state_name(*tracked) == wanted {
            return Ok(());
        }
        Err(format!("state: kernel {wanted}, got {got}"))
    }

    fn check(&mut self) -> Result<(), String> {
        let Some((_, got)) = self.got.take() else {
            return Ok(());
        };
        let mut ours: Vec<String> = self.ct.iter().map(|(_, e)| show(e, self.now)).collect();
        let mut theirs = std::mem::take(&mut self.entries);
        ours.sort_by_key(|l| split(l).0);
        theirs.sort_by_key(|l| split(l).0);
        let same = ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(a, b)| {
                let ((a, at), (b, bt)) = (split(a), split(b));
                a == b && at.abs_diff(bt) <= self.slack
            });
        if same {
            return Ok(());
        }
        Err(format!(
            "after {got}\n  kernel {theirs:#?}\n  ours {ours:#?}"
        ))
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(seconds) = line.strip_prefix('+') {
            self.check()?;
            self.now += seconds.parse::<Time>().unwrap() * SECOND;
            self.slack += 1;
            self.ct.handle_timeout(self.now);
        } else if let Some(hex) = line.strip_prefix("> ") {
            self.packet(hex)?;
        } else if let Some(state) = line.strip_prefix("= ") {
            self.state(state)?;
        } else if let Some(entry) = line.strip_prefix("  ") {
            self.entries.push(entry.into());
        }
        Ok(())
    }
}

fn run(text: &str) -> (usize, Vec<String>) {
    let mut cases = text.split("case ").skip(1);
    let mut failures = Vec::new();
    let mut count = 0;
    for case in &mut cases {
        let (head, body) = case.split_once('\n').unwrap();
        let mut words = head.split_whitespace();
        let name = words.next().unwrap();
        let mut replay = Replay::new(words, name);
        let outcome = body
            .lines()
            .try_for_each(|line| replay.line(line))
            .and_then(|()| replay.check());
        count += 1;
        if let Err(why) = outcome {
            failures.push(format!("{}: {why}", replay.name));
        }
    }
    (count, failures)
}

fn compare(file: &str, at_least: usize) {
    let path = format!("{}/tests/corpus/{file}", env!("CARGO_MANIFEST_DIR"));
    let (count, failures) = run(&std::fs::read_to_string(path).unwrap());
    assert!(count >= at_least, "only {count} cases in {file}");
    let shown: Vec<&String> = failures.iter().take(4).collect();
    assert!(
        failures.is_empty(),
        "{} of {count} cases differ\n{}",
        failures.len(),
        shown
            .iter()
            .map(|s| s.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    );
}

#[test]
fn tcp_as_the_kernel() {
    compare("tcp.txt", 100);
}

#[test]
fn other_protocols_as_the_kernel() {
    compare("misc.txt", 100);
}

#[test]
fn sctp_as_the_kernel() {
    compare("sctp.txt", 500);
}

#[test]
fn udplite_and_redirects_as_the_kernel() {
    compare("udplite-redirect.txt", 3);
}
