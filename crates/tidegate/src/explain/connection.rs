//! A tracked connection: what let it in, what is known of it, and what its next packets
//! would meet.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tidegate_daemon::connection::{Connection, Ends, PassedBy, Which};
use tidegate_daemon::control::Unreachable;
use tidegate_engine::conntrack::entry::{Counters, ProtoState, Status, TcpConn};
use tidegate_engine::conntrack::snapshot::Snapshot;
use tidegate_engine::conntrack::{Dir, Entry, SECOND, Tuple};
use tidegate_engine::env::{Env, Settings};
use tidegate_engine::{Config, Engine};
use tidegate_host::{Host, address};
use tidegate_wire::{parse, proto, tcp};

use super::remedy::{self, Refusal, Remedy};
use super::{Args, Teller, Told, explainer, has_family, option};
use crate::course::{Passed, Runner, Sent, alone};
use crate::orders::{ask, explain};
use crate::packets::Described;
use crate::replay::advice::Advice;
use crate::replay::brief::ProtoName;
use crate::replay::explain::Explainer;
use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::Rules;

/// Payload of the next packets.
const DATA: u16 = 16;

/// Runs the command for the connection that `words` name.
///
/// # Errors
/// There is none; rules, host or the saved state cannot be read.
pub(super) fn run(args: &Args, words: &str) -> Result<()> {
    let which = which(words, args.zone)?;
    let found = match &args.saved {
        Some(path) => saved(path, &which).with_context(|| path.display().to_string())?,
        None => live(&which)?,
    };
    let entry = entry(&found)?;
    let facts = Facts::new(&found, &entry);
    let next = Dir::BOTH.map(|dir| next(&entry, dir));
    let rules = args.given.rules()?;
    if !has_family(&rules, next[0].family()) {
        bail!("name rules of its family with {}", option(next[0].family()));
    }
    let (host, reasons) = args.given.host(&rules, &next)?;
    let paint = Paint::for_stdout();
    let met = match rules.meet(&host, false) {
        Ok(()) => Ok(next
            .each_ref()
            .map(|packet| meet(&found, packet, &rules, &host, paint))),
        Err(why) => Err(why.to_string()),
    };
    let refusal = |changed: &Rules| {
        let refused = |packet| refusal(&found, packet, changed, &host).transpose();
        next.iter().find_map(refused).transpose()
    };
    let first = match &met {
        Ok(_) => refusal(&rules)?,
        Err(_) => None,
    };
    let remedy = first.map(|first| remedy::find(&rules, first, refusal));
    let remedy = remedy.transpose()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut all = facts.json(&reasons, met)?;
        all["remedy"] = json!(remedy.as_ref().map(Remedy::json));
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    for reason in reasons {
        eprintln!("tidegate: {reason}");
    }
    write!(out, "{}{}", facts.text(paint), told(met, paint)?)?;
    if let Some(remedy) = remedy {
        write!(out, "{}", remedy.text(paint))?;
    }
    Ok(())
}

/// Which connection is meant: a number as listings have it, or a packet of it in words.
pub(super) fn which(words: &str, zone: u16) -> Result<Which> {
    if let Ok(number) = words.trim().parse() {
        return Ok(Which::Id(number));
    }
    let packet: Described = words.parse()?;
    let bytes = alone(&packet);
    let layout = parse(&bytes).map_err(|why| anyhow!("{why:?}"))?;
    let tuple = Tuple::from_packet(&bytes, &layout).context("such packets are not tracked")?;
    Ok(Which::Ends(Ends {
        proto: packet.proto,
        src: packet.src,
        dst: packet.dst,
        src_id: tuple.src_id,
        dst_id: tuple.dst_id,
        zone,
    }))
}

/// What the running firewall knows.
fn live(which: &Which) -> Result<Connection> {
    let answer = ask("connection", serde_json::to_string(which)?);
    let answer = answer.map_err(|error| match error.downcast::<Unreachable>() {
        Ok(e) => anyhow!("{}\nOr name a saved state: --saved FILE.", explain(&e)),
        Err(other) => other,
    })?;
    Ok(serde_json::from_str(&answer)?)
}

/// What a state file of the daemon knows.
fn saved(path: &Path, which: &Which) -> Result<Connection> {
    let bytes = fs::read(path)?;
    let snapshot = Snapshot::open(&bytes)?;
    let now = snapshot.written();
    let mut engine = engine(snapshot.connections());
    engine.restore(now, now, &snapshot);
    let id = which.find(engine.conntrack());
    let found = id.and_then(|id| Connection::take(&engine, now, id));
    found.context("no such connection is in it")
}

/// An engine with room for so many connections.
fn engine(connections: u32) -> Engine {
    let mut config = Config::default();
    config.conntrack.max = connections.max(1);
    Engine::new(
        config,
        Env::new(Vec::new(), &[], &[], Settings::default()).into(),
    )
}

/// The connection by itself.
fn entry(found: &Connection) -> Result<Entry> {
    let snapshot = Snapshot::open(&found.snapshot)?;
    let mut engine = engine(1);
    engine.restore(found.now, found.now, &snapshot);
    let mut entries = engine.conntrack().iter();
    let (_, entry) = entries.next().context("the connection has just ended")?;
    Ok(entry.clone())
}

/// The next packet of a direction, as it could be.
fn next(entry: &Entry, dir: Dir) -> Described {
    let tuple = entry.tuple(dir);
    let end = |addr| address(tuple.family, addr);
    let mut packet = Described::new(tuple.proto, end(tuple.src), end(tuple.dst));
    packet.sport = tuple.src_id;
    packet.dport = tuple.dst_id;
    packet.payload = DATA;
    if packet.is_icmp() {
        let [kind, code] = tuple.dst_id.to_be_bytes();
        packet.icmp = Some((kind, code));
        packet.dport = 0;
    }
    if let ProtoState::Tcp(state) = &entry.proto {
        use tcp::flags::{ACK, PSH, SYN};
        let opening = matches!(state.state, TcpConn::SynSent | TcpConn::SynSent2);
        let (own, peer) = (&state.seen[dir.ix()], &state.seen[dir.other().ix()]);
        let (flags, seq) = match (opening, dir) {
            (true, Dir::Original) => (SYN, own.end.wrapping_sub(1)),
            (true, Dir::Reply) => (SYN | ACK, own.end),
            (false, _) => (ACK | PSH, own.end),
        };
        packet.flags = Some(flags);
        packet.seq = Some(seq);
        packet.ack = (flags & ACK != 0).then_some(peer.end);
        packet.payload = if opening { 0 } else { DATA };
    }
    packet
}

/// Sends a packet of the connection through the rules, in an engine of its own.
fn meet(
    found: &Connection,
    packet: &Described,
    rules: &Rules,
    host: &Host,
    paint: Paint,
) -> Result<(bool, Told)> {
    let (runner, passed, seen) = pass(found, packet, rules, host)?;
    let sent = Sent {
        packet,
        step: None,
        hairpin: None,
    };
    let told = Teller { rules, paint }.tell(&runner, &sent, &passed, &seen)?;
    Ok((passed.arrived(), told))
}

fn pass(
    found: &Connection,
    packet: &Described,
    rules: &Rules,
    host: &Host,
) -> Result<(Runner, Passed, Explainer)> {
    let mut runner = Runner::new(host, rules);
    runner.now = found.now;
    let snapshot = Snapshot::open(&found.snapshot)?;
    runner.engine.restore(found.now, found.now, &snapshot);
    let mut seen = explainer(&runner, packet);
    let from = runner.place(packet);
    let passed = runner.pass(from, alone(packet), 0, &mut seen);
    Ok((runner, passed, seen))
}

/// What refuses a packet of the connection.
fn refusal(
    found: &Connection,
    packet: &Described,
    rules: &Rules,
    host: &Host,
) -> Result<Option<Refusal>> {
    let (_, passed, seen) = pass(found, packet, rules, host)?;
    Ok(passed.fate.rule().map(|_| (passed, seen)))
}

/// What is known of a connection.
#[derive(Debug, Serialize)]
struct Facts {
    id: u32,
    protocol: String,
    client: String,
    /// As the client names it.
    server: String,
    state: Option<&'static str>,
    assured: bool,
    answered: bool,
    /// Seconds until it is forgotten unless packets come.
    seconds_left: u64,
    since: Option<Timestamp>,
    /// Whether `since` is more than the minute.
    exact: bool,
    seconds_old: Option<u64>,
    passed: Option<Vec<PassedBy>>,
    /// What the server gets instead of the client, and where the client's packets go.
    client_translated: Option<String>,
    server_translated: Option<String>,
    packets: Option<[u64; 2]>,
    bytes: Option<[u64; 2]>,
    mark: u32,
    zone: u16,
    helper: Option<&'static str>,
    master: Option<String>,
}

impl Facts {
    fn new(found: &Connection, entry: &Entry) -> Self {
        let [original, reply] = &entry.tuples;
        let icmp = matches!(original.proto, proto::ICMP | proto::ICMPV6);
        let end = |addr, id| end(original, addr, id, icmp);
        let client = end(original.src, original.src_id);
        let server = end(original.dst, original.dst_id);
        let changed = |is: String, was: &String| (is != *was).then_some(is);
        let since = found.since;
        let of = |value: fn(&Counters) -> u64| {
            let counters = entry.counters.as_deref();
            counters.map(|c| [value(&c[0]), value(&c[1])])
        };
        Facts {
            id: found.id,
            protocol: ProtoName(original.proto).to_string(),
            state: state(entry),
            assured: entry.status.has(Status::ASSURED),
            answered: entry.status.has(Status::SEEN_REPLY),
            seconds_left: entry.remaining(found.now),
            since: since.and_then(moment),
            exact: found.exact,
            seconds_old: since.map(|at| found.now.saturating_sub(at) / SECOND),
            passed: found.passed.clone(),
            client_translated: changed(end(reply.dst, reply.dst_id), &client).filter(|_| !icmp),
            server_translated: changed(end(reply.src, reply.src_id), &server).filter(|_| !icmp),
            packets: of(|c| c.packets),
            bytes: of(|c| c.bytes),
            mark: entry.mark,
            zone: entry.zone.id,
            helper: entry.helper.map(|h| h.name()),
            master: entry.master().map(|m| ends(&m.tuple)),
            client,
            server,
        }
    }

    fn json(&self, host: &[String], met: Met) -> Result<Value> {
        let mut all = json!({ "host": host, "connection": self });
        match met {
            Ok(next) => {
                for (of, told) in ["client", "server"].into_iter().zip(next) {
                    let (arrived, told) = told?;
                    all["next"][of] = told.json;
                    all["next"][of]["passes"] = arrived.into();
                    all["next"][of]["finding"] = json!(told.advice);
                }
            }
            Err(why) => all["unknown"] = why.into(),
        }
        Ok(all)
    }

    fn text(&self, paint: Paint) -> String {
        let heading = format!("{} {} > {}", self.protocol, self.client, self.server);
        let mut text = format!("{} id {}\n", paint.text(Tone::Strong, heading), self.id);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<10} {value}");
        };
        line("state", self.state_text());
        line("since", self.since_text());
        let passed = self.passed.iter().flatten();
        for (at, by) in passed.enumerate() {
            line(if at == 0 { "let in" } else { "" }, passed_text(by));
        }
        match &self.passed {
            None => line(
                "let in",
                "by nobody knows which rules: it was there before this firewall was started, was made \
                 by hand, or comes from a saved state"
                    .to_owned(),
            ),
            Some(none) if none.is_empty() => line("let in", "no table has rules or policies there".to_owned()),
            Some(_) => {}
        }
        for (what, to) in [
            ("client", &self.client_translated),
            ("server", &self.server_translated),
        ] {
            if let Some(to) = to {
                line("translated", format!("the {what} to {to}"));
            }
        }
        line("packets", self.packets_text());
        if self.mark != 0 {
            line("mark", format!("{:#x}", self.mark));
        }
        if self.zone != 0 {
            line("zone", self.zone.to_string());
        }
        if let Some(helper) = self.helper {
            line("helper", helper.to_owned());
        }
        if let Some(master) = &self.master {
            line("announced", format!("by {master}"));
        }
        text
    }

    fn state_text(&self) -> String {
        let state = self.state.map_or_else(String::new, |s| format!("{s}, "));
        let settled = match (self.assured, self.answered) {
            (true, _) => "assured",
            (false, true) => "answered",
            (false, false) => "not answered yet",
        };
        format!(
            "{state}{settled}; {} s left without packets",
            self.seconds_left
        )
    }

    fn since_text(&self) -> String {
        match (self.since, self.seconds_old) {
            (Some(since), Some(old)) if self.exact => {
                format!("{}, {old} s ago", since.strftime("%Y-%m-%d %H:%M:%S UTC"))
            }
            (Some(since), Some(old)) => format!(
                "{}, {} min ago (nf_conntrack_timestamp=1 keeps the second)",
                since.strftime("%Y-%m-%d %H:%M UTC"),
                old / 60
            ),
            _ => "unknown".to_owned(),
        }
    }

    fn packets_text(&self) -> String {
        match (self.packets, self.bytes) {
            (Some(p), Some(b)) => format!(
                "{} of the client ({} bytes), {} of the server ({} bytes)",
                p[0], b[0], p[1], b[1]
            ),
            _ => "not counted (nf_conntrack_acct=1 has new connections counted)".to_owned(),
        }
    }
}

fn moment(at: u64) -> Option<Timestamp> {
    Timestamp::from_nanosecond(at.into()).ok()
}

fn state(entry: &Entry) -> Option<&'static str> {
    match &entry.proto {
        ProtoState::Tcp(tcp) => Some(tcp.state.name()),
        ProtoState::Sctp(sctp) => Some(sctp.state.name()),
        ProtoState::Udp { .. } | ProtoState::Gre { .. } | ProtoState::Stateless => None,
    }
}

fn end(of: &Tuple, addr: u128, id: u16, icmp: bool) -> String {
    let addr: IpAddr = address(of.family, addr);
    let ports = matches!(
        of.proto,
        proto::TCP | proto::UDP | proto::UDPLITE | proto::SCTP | proto::DCCP
    );
    match ports && !icmp {
        true => SocketAddr::new(addr, id).to_string(),
        false => addr.to_string(),
    }
}

fn ends(tuple: &Tuple) -> String {
    let end = |addr, id| end(tuple, addr, id, false);
    format!(
        "{} {} > {}",
        ProtoName(tuple.proto),
        end(tuple.src, tuple.src_id),
        end(tuple.dst, tuple.dst_id)
    )
}

/// A table that the first packet passed.
fn passed_text(by: &PassedBy) -> String {
    let place = format!("at {} by {}", by.hook, by.table);
    let Some(rule) = &by.rule else {
        return format!("{place}, by a rule that has gone since");
    };
    let named = match rule.number {
        0 => format!("{place} {} policy: {}", rule.chain, rule.text),
        n => format!("{place} {} {n}: {}", rule.chain, rule.text),
    };
    let Some(gone) = by.gone else {
        return named;
    };
    let gone = gone.strftime("%Y-%m-%d %H:%M:%S UTC");
    match by.again {
        Some(0) => format!("{named}\n{:13}set anew at {gone}", ""),
        Some(n) => format!("{named}\n{:13}loaded anew at {gone}: now number {n}", ""),
        None => format!("{named}\n{:13}not in force since {gone}", ""),
    }
}

/// What the next packets of client and server meet, or why that is not known.
type Met = Result<[Result<(bool, Told)>; 2], String>;

fn told(met: Met, paint: Paint) -> Result<String> {
    let next = match met {
        Ok(next) => next,
        Err(why) => return Ok(format!("What its next packets meet is not known: {why}\n")),
    };
    let mut text = String::new();
    let mut findings: Vec<Advice> = Vec::new();
    for (of, told) in ["client", "server"].into_iter().zip(next) {
        let (_, told) = told?;
        let (packet, verdict) = told.line.split_once('\n').unwrap_or((&told.line, ""));
        let heading = paint.text(Tone::Strong, format!("The {of}'s next packet:"));
        writeln!(text, "{heading} {packet}")?;
        writeln!(text, "{}", paint.text(told.tone, verdict))?;
        for line in told.details.lines() {
            writeln!(text, "    {line}")?;
        }
        findings.extend(told.advice.filter(|a| !findings.contains(a)));
    }
    for finding in &findings {
        writeln!(text, "{}", paint.text(Tone::Doubtful, finding))?;
    }
    Ok(text)
}
