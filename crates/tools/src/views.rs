//! The table as operators of eBPF datapaths look at theirs: `ct list` and `nat list`,
//! one line per connection and per direction of a translation.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use serde::Serialize;
use tidegate_conntrack::entry::{TcpConn, tcp_flag};
use tidegate_conntrack::{
    Conntrack, Cursor, Dir, Entry, EntryId, Family, ProtoState, SECOND, Status, Time, Tuple, Zone,
};
use tidegate_wire::proto;

use super::{Printed, Sink, Tracker};

/// Places looked at between two packets.
const PIECE: u32 = 256;

/// Says whether an address is one of this host's.
pub type IsLocal = Arc<dyn Fn(Family, u128) -> bool + Send + Sync>;

/// Which view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Connections.
    Connections,
    /// Translations.
    Translations,
}

impl View {
    /// The command the view has, `ct` or `nat`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            View::Connections => "ct",
            View::Translations => "nat",
        }
    }

    /// The view that a command names.
    #[must_use]
    pub fn by_name(name: &str) -> Option<View> {
        [View::Connections, View::Translations]
            .into_iter()
            .find(|v| v.name() == name)
    }
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Connection {
    /// Protocol: a name in capitals or a number.
    pub proto: String,
    /// `OUT`, or `IN` when it was opened to this host.
    pub direction: &'static str,
    /// Who opened it.
    pub source: End,
    /// To whom, as the opener sees it.
    pub destination: End,
    /// When it ends, in seconds of the clock packets are stamped with.
    pub expires: u64,
    /// Seconds until then.
    pub remaining: u64,
    /// Counters of replies, 0 without accounting.
    pub rx_packets: u64,
    /// The same in bytes.
    pub rx_bytes: u64,
    /// Counters of what the opener sent.
    pub tx_packets: u64,
    /// The same in bytes.
    pub tx_bytes: u64,
    /// What is known about it, as bits.
    pub flags: u16,
    /// The same by name.
    pub flag_names: Vec<&'static str>,
    /// State of its protocol, for those that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'static str>,
    /// Mark.
    pub mark: u32,
    /// Zone, and whether it counts in one direction only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Helper in charge.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub helper: Option<&'static str>,
    /// Identifier.
    pub id: u32,
}

/// One direction of a translation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Translation {
    /// Protocol.
    pub proto: String,
    /// `OUT` for what leaves, `IN` for what comes back, seen from who is hidden.
    pub direction: &'static str,
    /// Source of the packets before they are translated.
    pub source: End,
    /// Their destination.
    pub destination: End,
    /// `XLATE_SRC` or `XLATE_DST`.
    pub action: &'static str,
    /// What takes the place of that end.
    pub to: End,
    /// Seconds since it was made, when times are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<u64>,
}

/// An address, and a port or what stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct End {
    /// Address.
    pub address: String,
    /// Port, key or ICMP identifier; 0 where there is none.
    pub port: u16,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.address.contains(':') {
            return write!(f, "[{}]:{}", self.address, self.port);
        }
        write!(f, "{}:{}", self.address, self.port)
    }
}

fn end(family: Family, addr: u128, port: u16) -> End {
    let address = match family {
        Family::V4 => Ipv4Addr::from(addr as u32).to_string(),
        Family::V6 => Ipv6Addr::from(addr).to_string(),
    };
    End { address, port }
}

/// Source and destination; ICMP's identifier stands at its source.
fn ends(t: &Tuple) -> [End; 2] {
    let icmp = matches!(t.proto, proto::ICMP | proto::ICMPV6);
    let dst_id = if icmp { 0 } else { t.dst_id };
    [end(t.family, t.src, t.src_id), end(t.family, t.dst, dst_id)]
}

fn proto_name(number: u8) -> String {
    let name = match number {
        proto::ICMP => "ICMP",
        proto::TCP => "TCP",
        proto::UDP => "UDP",
        proto::GRE => "GRE",
        proto::ICMPV6 => "ICMPv6",
        proto::SCTP => "SCTP",
        proto::UDPLITE => "UDPLITE",
        _ => return number.to_string(),
    };
    name.to_owned()
}

/// Flags by the bits that Cilium's maps have for them, and some of our own above.
const FLAGS: [(u16, &str); 6] = [
    (0x0001, "RxClosing"),
    (0x0002, "TxClosing"),
    (0x0010, "SeenNonSyn"),
    (0x1000, "SeenReply"),
    (0x2000, "Assured"),
    (0x4000, "Expected"),
];

fn flags(entry: &Entry) -> u16 {
    let mut flags = 0;
    let mut set = |bit: u16, on: bool| flags |= if on { bit } else { 0 };
    if let Some(tcp) = entry.tcp() {
        let both = matches!(
            tcp.state,
            TcpConn::LastAck | TcpConn::TimeWait | TcpConn::Close
        );
        let began = |dir: Dir| both || tcp.seen[dir.ix()].flags & tcp_flag::CLOSE_INIT != 0;
        set(0x0001, began(Dir::Reply));
        set(0x0002, began(Dir::Original));
        set(
            0x0010,
            !matches!(
                tcp.state,
                TcpConn::None | TcpConn::SynSent | TcpConn::SynRecv | TcpConn::SynSent2
            ),
        );
    }
    set(0x1000, entry.status.has(Status::SEEN_REPLY));
    set(0x2000, entry.status.has(Status::ASSURED));
    set(0x4000, entry.status.has(Status::EXPECTED));
    flags
}

impl Connection {
    /// The connection of an entry.
    #[must_use]
    pub fn of(id: EntryId, entry: &Entry, now: Time, is_local: &IsLocal) -> Connection {
        let original = entry.tuple(Dir::Original);
        let [source, destination] = ends(original);
        let local = |addr| is_local(original.family, addr);
        let incoming = local(entry.tuple(Dir::Reply).src) && !local(original.src);
        let flags = flags(entry);
        let names = FLAGS.iter().filter(|(bit, _)| flags & bit != 0);
        let [tx, rx] = entry.counters.as_deref().copied().unwrap_or_default();
        Connection {
            proto: proto_name(original.proto),
            direction: if incoming { "IN" } else { "OUT" },
            source,
            destination,
            expires: entry.timeout / SECOND,
            remaining: entry.remaining(now),
            rx_packets: rx.packets,
            rx_bytes: rx.bytes,
            tx_packets: tx.packets,
            tx_bytes: tx.bytes,
            flags,
            flag_names: names.map(|(_, name)| *name).collect(),
            state: match &entry.proto {
                ProtoState::Tcp(tcp) => Some(tcp.state.name()),
                ProtoState::Sctp(sctp) => Some(sctp.state.name()),
                ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => None,
            },
            mark: entry.mark,
            zone: zone(entry.zone),
            helper: entry.helper.map(|h| h.name()),
            id: id.number(),
        }
    }

    fn line(&self) -> String {
        let Connection {
            proto,
            direction,
            source,
            destination,
            ..
        } = self;
        let mut line = format!(
            "{proto} {direction} {source} -> {destination} expires={} (remaining: {} sec(s)) \
             RxPackets={} RxBytes={} TxPackets={} TxBytes={} Flags={:#06x} [ ",
            self.expires,
            self.remaining,
            self.rx_packets,
            self.rx_bytes,
            self.tx_packets,
            self.tx_bytes,
            self.flags
        );
        for name in &self.flag_names {
            let _ = write!(line, "{name} ");
        }
        line.push(']');
        if let Some(state) = self.state {
            let _ = write!(line, " State={state}");
        }
        let _ = write!(line, " Mark={:#x}", self.mark);
        if let Some(zone) = &self.zone {
            let _ = write!(line, " Zone={zone}");
        }
        if let Some(helper) = self.helper {
            let _ = write!(line, " Helper={helper}");
        }
        let _ = write!(line, " ID={}", self.id);
        line
    }
}

fn zone(zone: Zone) -> Option<String> {
    match zone.dirs {
        Zone::ORIG => Some(format!("{}/orig", zone.id)),
        Zone::REPLY => Some(format!("{}/reply", zone.id)),
        _ if zone.id != 0 => Some(zone.id.to_string()),
        _ => None,
    }
}

impl Translation {
    /// The translations of an entry: two for each end that is translated.
    #[must_use]
    pub fn of(entry: &Entry, now: Time) -> Vec<Translation> {
        let [original, reply] = &entry.tuples;
        let [src, dst] = ends(original);
        let [back_src, back_dst] = ends(reply);
        let created = entry
            .start()
            .map(|start| now.saturating_sub(start) / SECOND);
        let row = |direction, from: &End, to: &End, action, new: &End| Translation {
            proto: proto_name(original.proto),
            direction,
            source: from.clone(),
            destination: to.clone(),
            action,
            to: new.clone(),
            created,
        };
        let mut rows = Vec::new();
        if entry.status.has(Status::SRC_NAT) {
            rows.push(row("OUT", &src, &dst, "XLATE_SRC", &back_dst));
            rows.push(row("IN", &back_src, &back_dst, "XLATE_DST", &src));
        }
        if entry.status.has(Status::DST_NAT) {
            rows.push(row("IN", &src, &dst, "XLATE_DST", &back_src));
            rows.push(row("OUT", &back_src, &back_dst, "XLATE_SRC", &dst));
        }
        rows
    }

    fn line(&self) -> String {
        let Translation {
            proto,
            direction,
            source,
            destination,
            action,
            to,
            created,
        } = self;
        let created = created.map_or(String::new(), |s| format!(" Created={s}sec"));
        format!("{proto} {direction} {source} -> {destination} {action} {to}{created} NeedsCT=1")
    }
}

/// What stands on the command line after `ct` or `nat`.
struct Asked {
    json: bool,
}

impl Asked {
    fn read(view: View, words: &[&str]) -> Result<Asked, String> {
        let mut json = false;
        let mut words = words.iter();
        if words.next() != Some(&"list") {
            return Err(usage(view));
        }
        while let Some(word) = words.next() {
            match (*word, view) {
                ("--json", _) => json = true,
                ("-o" | "--output", _) if words.next() == Some(&"json") => json = true,
                // All connections are in one map, and the time left is always told.
                ("global" | "-d" | "--time-diff", View::Connections) => {}
                _ => return Err(usage(view)),
            }
        }
        Ok(Asked { json })
    }
}

fn usage(view: View) -> String {
    match view {
        View::Connections => {
            "usage: tidegate ct list [global] [--time-diff] [--json | -o json]\n".to_owned()
        }
        View::Translations => "usage: tidegate nat list [--json | -o json]\n".to_owned(),
    }
}

/// Carries out `ct list` or `nat list`; the exit status.
pub fn run(
    view: View,
    words: &[&str],
    tracker: &dyn Tracker,
    is_local: &IsLocal,
    sink: &mut dyn Sink,
) -> u8 {
    let asked = match Asked::read(view, words) {
        Ok(asked) => asked,
        Err(usage) => {
            // There is nobody left to tell when this fails too.
            let _ = sink.err(&usage);
            return 2;
        }
    };
    match list(view, &asked, tracker, is_local, sink) {
        Ok(()) => 0,
        Err(why) => {
            let _ = sink.err(&format!("tidegate: {why}\n"));
            1
        }
    }
}

fn list(
    view: View,
    asked: &Asked,
    tracker: &dyn Tracker,
    is_local: &IsLocal,
    sink: &mut dyn Sink,
) -> Result<(), String> {
    let mut next = Some(Cursor::default());
    let mut separator = "";
    let json = asked.json;
    if json {
        sink.out("[").map_err(|e| e.to_string())?;
    }
    while let Some(cursor) = next {
        let is_local = Arc::clone(is_local);
        let rows;
        (rows, next) = tracker
            .with(move |ct, now| piece(ct, now, view, json, cursor, &is_local))
            .map_err(|f| f.render("tidegate", None).trim_end().to_owned())?;
        let mut text = String::new();
        for row in rows {
            if json {
                let _ = write!(text, "{separator}\n  {row}");
                separator = ",";
            } else {
                let _ = writeln!(text, "{row}");
            }
        }
        sink.out(&text).map_err(|e| e.to_string())?;
    }
    if json {
        sink.out("\n]\n").map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The rows of a piece of the table, and where to go on.
fn piece(
    ct: &mut Conntrack,
    now: Time,
    view: View,
    json: bool,
    cursor: Cursor,
    is_local: &IsLocal,
) -> (Vec<String>, Option<Cursor>) {
    fn text<T: Serialize>(row: &T, line: impl Fn(&T) -> String, json: bool) -> String {
        if json {
            // Strings and numbers only: there is nothing to fail.
            serde_json::to_string(row).unwrap_or_default()
        } else {
            line(row)
        }
    }
    ct.handle_timeout(now);
    let (entries, after) = ct.piece(cursor, PIECE);
    let mut rows = Vec::new();
    for (id, entry) in entries {
        match view {
            View::Connections => {
                let row = Connection::of(id, entry, now, is_local);
                rows.push(text(&row, Connection::line, json));
            }
            View::Translations => {
                let all = Translation::of(entry, now);
                rows.extend(all.iter().map(|row| text(row, Translation::line, json)));
            }
        }
    }
    (rows, after)
}

/// The same, collected.
#[must_use]
pub fn printed(view: View, words: &[&str], tracker: &dyn Tracker, is_local: &IsLocal) -> Printed {
    let mut printed = Printed::default();
    printed.status = run(view, words, tracker, is_local, &mut printed);
    printed
}
