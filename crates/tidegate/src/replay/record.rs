//! One line, or one JSON object, a packet.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;
use tidegate_engine::conntrack::{Dir, Entry, Status};
use tidegate_ir::Hook;
use tidegate_syntax::RuleOrigin;

use super::advice::Advice;
use super::brief::{Brief, Flags, ProtoName};
use super::fate::Fate;
use super::paint::{Paint, Tone};
use super::walk::{State, Walk};
use tidegate_host::address;

/// Everything that is reported about one packet.
pub(super) struct Record<'a> {
    /// Number in the replay, from 1.
    pub(super) number: u64,
    /// Nanoseconds since 1970.
    pub(super) time_ns: u64,
    /// Nanoseconds since the first packet.
    pub(super) since_ns: u64,
    /// Where it was captured.
    pub(super) interface: &'a str,
    /// `in`, `out` or `-`.
    pub(super) direction: &'static str,
    /// What it is; `None` when it is no readable IP packet.
    pub(super) brief: Option<Brief>,
    /// Its way.
    pub(super) walk: &'a Walk,
    /// Its end.
    pub(super) fate: Fate,
    /// The rule or policy that decided.
    pub(super) origin: Option<&'a RuleOrigin>,
    /// Number of its connection in this replay, and the connection.
    pub(super) connection: Option<(u64, &'a Entry)>,
    /// What else there is to say.
    pub(super) notes: Vec<String>,
    /// What is to be said about it.
    pub(super) advice: Option<Advice>,
    /// Level and text of log lines.
    pub(super) logs: Vec<(u8, String)>,
}

/// Short names for the hooks, in the order of [`Hook::ALL`].
const SHORT: [&str; 5] = ["PRE", "IN", "FWD", "OUT", "POST"];

/// Hooks with arrows between them.
pub(super) struct Hooks<'a>(pub(super) &'a [Hook]);

impl fmt::Display for Hooks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(16);
        for hook in self.0 {
            if !text.is_empty() {
                text.push('>');
            }
            text.push_str(SHORT[*hook as usize]);
        }
        f.pad(if text.is_empty() { "-" } else { &text })
    }
}

impl Record<'_> {
    /// The verdict with the rule behind it: what a comment on the packet says.
    pub(super) fn verdict(&self) -> String {
        let mut out = self.fate.word().to_owned();
        if let Some(o) = self.origin {
            out += &format!(
                " by {} {} {}: {}",
                o.table.name(),
                o.chain,
                o.number,
                o.text
            );
        }
        let state = self.walk.state.name();
        if state != "-" {
            out += &format!(" [{state}]");
        }
        for note in &self.notes {
            out += &format!(" [{note}]");
        }
        out
    }

    /// The line for people.
    pub(super) fn line(&self, out: &mut impl fmt::Write, paint: Paint) -> fmt::Result {
        let (seconds, micros) = (
            self.since_ns / 1_000_000_000,
            self.since_ns / 1000 % 1_000_000,
        );
        write!(
            out,
            "{:>6} {seconds:>5}.{micros:06} {:<6} {:<3} ",
            self.number, self.interface, self.direction
        )?;
        match &self.brief {
            Some(brief) => write!(out, "{:<54} ", brief.to_string())?,
            None => write!(out, "{:<54} ", "")?,
        }
        let state = self.walk.state.name();
        let connection = match self.connection {
            Some((n, _)) => format!("{state} #{n}"),
            None => state.to_owned(),
        };
        write!(out, "{:<12} {connection:<15} ", Hooks(&self.walk.hooks))?;
        let word = format!("{:<6}", self.fate.word());
        write!(out, "{}", paint.text(self.fate.tone(), word))?;
        if let Some(o) = self.origin {
            write!(out, " {} {} {}", o.table.name(), o.chain, o.number)?;
            write!(out, "  {}", paint.text(Tone::Faint, &o.text))?;
        }
        for note in &self.notes {
            write!(out, "  [{note}]")?;
        }
        if let Some(advice) = &self.advice {
            write!(out, "  [{}]", advice.code)?;
        }
        out.write_char('\n')?;
        for (level, text) in &self.logs {
            writeln!(out, "{:>22}log <{level}> {text}", "")?;
        }
        Ok(())
    }
}

/// A packet as `--json` prints it.
#[derive(Serialize)]
struct Json<'a> {
    number: u64,
    time: String,
    interface: &'a str,
    direction: &'a str,
    #[serde(flatten)]
    packet: Option<JsonPacket>,
    hooks: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctstate: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<JsonConnection>,
    verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<&'a str>,
    /// 0 for a policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    finding: Option<&'a Advice>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    log: Vec<&'a str>,
}

#[derive(Serialize)]
struct JsonPacket {
    source: String,
    destination: String,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp: Option<[u8; 2]>,
    length: u32,
}

#[derive(Serialize)]
struct JsonConnection {
    number: u64,
    source: String,
    destination: String,
    protocol: String,
    sport: u16,
    dport: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    replied: bool,
    assured: bool,
    mark: u32,
}

impl From<&Brief> for JsonPacket {
    fn from(b: &Brief) -> Self {
        use super::brief::Detail;
        let ports = b.ports();
        JsonPacket {
            source: b.src.to_string(),
            destination: b.dst.to_string(),
            protocol: ProtoName(b.proto).to_string(),
            sport: ports.map(|p| p.0),
            dport: ports.map(|p| p.1),
            flags: match b.detail {
                Detail::Tcp(_, _, flags) => Some(Flags(flags).to_string()),
                Detail::Ports(..) | Detail::Icmp(..) | Detail::None => None,
            },
            icmp: match b.detail {
                Detail::Icmp(kind, code) => Some([kind, code]),
                Detail::Tcp(..) | Detail::Ports(..) | Detail::None => None,
            },
            length: b.len,
        }
    }
}

impl JsonConnection {
    fn new(number: u64, entry: &Entry) -> Self {
        let t = entry.tuple(Dir::Original);
        JsonConnection {
            number,
            source: address(t.family, t.src).to_string(),
            destination: address(t.family, t.dst).to_string(),
            protocol: ProtoName(t.proto).to_string(),
            sport: t.src_id,
            dport: t.dst_id,
            state: entry.tcp().map(|tcp| tcp.state.name()),
            replied: entry.status.has(Status::SEEN_REPLY),
            assured: entry.status.has(Status::ASSURED),
            mark: entry.mark,
        }
    }
}

/// A moment as RFC 3339 has it, in UTC.
pub(super) fn moment(time_ns: u64) -> String {
    let stamp = Timestamp::from_nanosecond(i128::from(time_ns));
    stamp.map_or_else(|_| time_ns.to_string(), |t| format!("{t:.9}"))
}

impl Record<'_> {
    /// The JSON object, without newline.
    ///
    /// # Errors
    /// Never for data of these types; passed on all the same.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        let state = self.walk.state;
        serde_json::to_string(&Json {
            number: self.number,
            time: moment(self.time_ns),
            interface: self.interface,
            direction: self.direction,
            packet: self.brief.as_ref().map(JsonPacket::from),
            hooks: self.walk.hooks.iter().map(|h| h.chain_name()).collect(),
            ctstate: (state != State::None).then(|| state.name()),
            invalid: match state {
                State::Invalid(reason) => Some(reason.to_string()),
                State::None | State::Untracked | State::Tracked(_) => None,
            },
            connection: self
                .connection
                .map(|(n, entry)| JsonConnection::new(n, entry)),
            verdict: self.fate.word(),
            table: self.origin.map(|o| o.table.name()),
            chain: self.origin.map(|o| o.chain.as_str()),
            rule: self.origin.map(|o| o.number),
            text: self.origin.map(|o| o.text.as_str()),
            notes: &self.notes,
            finding: self.advice.as_ref(),
            log: self.logs.iter().map(|l| l.1.as_str()).collect(),
        })
    }
}
