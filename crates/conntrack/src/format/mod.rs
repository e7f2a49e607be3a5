//! Listings: `/proc/net/nf_conntrack`, `conntrack -L`, `conntrack -E`, expectations.

mod expect;
mod save;
mod xml;

use crate::entry::{Entry, EntryId, ProtoState, Status, Zone, change};
use crate::event::{Event, EventKind};
use crate::tuple::{Dir, Tuple};
use crate::{SECOND, Time};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};
use tidegate_wire::{Family, proto};

pub use expect::{expect_line, expect_proc_line, expect_xml};
pub use save::save_line;
pub use xml::xml_flow;

/// Which tool's layout a line follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Proc,
    Tool,
}

/// Columns `conntrack -L` prints on request.
#[derive(Clone, Copy, Default)]
pub struct Columns<'a> {
    /// `-o extended`: the network protocol in front.
    pub extended: bool,
    /// `-o id`: the identifier at the end.
    pub id: bool,
    /// `-o ktimestamp`: when the connection started and stopped, as this writes moments.
    pub stamp: Option<&'a dyn Fn(Time) -> String>,
    /// `-o labels`: the labels that have a name.
    pub labels: Option<&'a LabelNames>,
}

/// Names of labels: number and name.
pub type LabelNames = [(u32, String)];

/// An entry at the moment it is told about.
#[derive(Clone, Copy)]
pub struct Told<'a> {
    /// The entry.
    pub id: EntryId,
    /// Its contents.
    pub entry: &'a Entry,
    /// The moment.
    pub at: Time,
    /// What happened then, and what changed; `None` in a listing.
    pub event: Option<(EventKind, u16)>,
    /// Whoever tells holds one more reference to it.
    pub held: bool,
}

impl<'a> Told<'a> {
    /// An entry in a listing.
    #[must_use]
    pub fn listed(id: EntryId, entry: &'a Entry, at: Time) -> Told<'a> {
        Told {
            id,
            entry,
            at,
            event: None,
            held: false,
        }
    }

    /// An entry that was looked up.
    #[must_use]
    pub fn held(id: EntryId, entry: &'a Entry, at: Time) -> Told<'a> {
        Told {
            held: true,
            ..Told::listed(id, entry, at)
        }
    }

    /// The entry of an event.
    #[must_use]
    pub fn of(event: &'a Event) -> Told<'a> {
        Told {
            id: event.id,
            entry: &event.entry,
            at: event.at,
            event: Some((event.kind, event.changes)),
            held: false,
        }
    }

    fn ended(&self) -> bool {
        matches!(self.event, Some((EventKind::Destroy, _)))
    }

    /// Labels are told in listings and where they changed.
    fn labels(&self) -> Option<u128> {
        let told = self.event.is_none_or(|(kind, changes)| {
            kind != EventKind::Destroy && changes & change::LABEL != 0
        });
        Some(self.entry.labels()).filter(|&l| told && l != 0)
    }

    /// Counters and times are told in listings and at the end.
    fn whole(&self) -> bool {
        self.event.is_none() || self.ended()
    }

    /// Events tell a mark that is set or has changed.
    fn tells_mark(&self) -> bool {
        match self.event {
            None => true,
            Some((EventKind::Destroy, _)) => self.entry.mark != 0,
            Some((_, changes)) => self.entry.mark != 0 || changes & change::MARK != 0,
        }
    }

    /// The end of a connection is told without its helper.
    fn helper(&self) -> Option<&'static str> {
        let helper = self.entry.helper.filter(|_| !self.ended());
        helper.map(crate::HelperKind::name)
    }

    /// Seconds the connection has lasted, as the difference of whole seconds.
    fn lasted(&self) -> Option<u64> {
        let start = self.entry.start().filter(|_| self.whole())?;
        Some((self.at / SECOND).saturating_sub(start / SECOND))
    }

    /// References to the entry: its table's, each child's, and that of who looked it up.
    fn uses(&self) -> u32 {
        u32::from(self.entry.children()) + 1 + u32::from(self.held)
    }

    fn state(&self) -> Option<&'static str> {
        match &self.entry.proto {
            ProtoState::Tcp(tcp) => Some(tcp.state.name()),
            ProtoState::Sctp(sctp) => Some(sctp.state.name()),
            ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => None,
        }
    }
}

/// A line of `/proc/net/nf_conntrack`, without newline (`ct_seq_show`).
#[must_use]
pub fn proc_line(entry: &Entry, now: Time) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_proc(&mut out, entry, now);
    out
}

fn write_proc(out: &mut String, entry: &Entry, now: Time) -> fmt::Result {
    let style = Style::Proc;
    heading(out, style, true, entry, now)?;
    match entry.proto {
        ProtoState::Tcp(tcp) => write!(out, "{} ", tcp.state.name())?,
        ProtoState::Sctp(sctp) => write!(out, "{} ", sctp.state.name())?,
        ProtoState::Gre {
            timeout,
            stream_timeout,
        } => write!(out, "timeout={timeout}, stream_timeout={stream_timeout} ")?,
        ProtoState::Stateless | ProtoState::Udp { .. } => {}
    }
    directions(out, style, entry, true)?;
    write!(out, "mark={} ", entry.mark)?;
    if entry.zone.dirs == Zone::BOTH {
        write!(out, "zone={} ", entry.zone.id)?;
    }
    if let Some(start) = entry.start() {
        write!(out, "delta-time={} ", now.saturating_sub(start) / SECOND)?;
    }
    write!(out, "use={}", u32::from(entry.children()) + 2)
}

/// A line of `conntrack -L`, without newline.
#[must_use]
pub fn conntrack_line(id: EntryId, entry: &Entry, now: Time, columns: Columns<'_>) -> String {
    told_line(&Told::listed(id, entry, now), columns)
}

/// A line of `conntrack -E`, without newline.
#[must_use]
pub fn event_line(event: &Event, columns: Columns<'_>) -> String {
    let told = Told::of(event);
    let mut out = String::from(tag(event.kind));
    out += &told_line(&told, columns);
    out
}

/// What events are called in front of their line.
#[must_use]
pub const fn tag(kind: EventKind) -> &'static str {
    match kind {
        EventKind::New => "    [NEW] ",
        EventKind::Update => " [UPDATE] ",
        EventKind::Destroy => "[DESTROY] ",
    }
}

/// An entry as the tool shows it.
#[must_use]
pub fn told_line(told: &Told<'_>, columns: Columns<'_>) -> String {
    let mut out = String::new();
    let _ = write_told(&mut out, told, columns);
    out.truncate(out.trim_end().len());
    out
}

fn write_told(out: &mut String, told: &Told<'_>, columns: Columns<'_>) -> fmt::Result {
    let Told { entry, at, .. } = *told;
    let style = Style::Tool;
    heading(out, style, columns.extended, entry, at)?;
    if let Some(state) = told.state() {
        write!(out, "{state} ")?;
    }
    directions(out, style, entry, told.whole())?;
    if told.tells_mark() {
        write!(out, "mark={} ", entry.mark)?;
    }
    if entry.secmark() != 0 {
        write!(out, "secmark={} ", entry.secmark())?;
    }
    if entry.zone.dirs == Zone::BOTH && entry.zone.id != 0 {
        write!(out, "zone={} ", entry.zone.id)?;
    }
    if let Some(seconds) = told.lasted() {
        write!(out, "delta-time={seconds} ")?;
    }
    if let (Some(stamp), Some(start), true) = (columns.stamp, entry.start(), told.whole()) {
        write!(out, "[start={}] ", stamp(start))?;
        if told.ended() {
            write!(out, "[stop={}] ", stamp(at))?;
        }
    }
    if let Some(helper) = told.helper() {
        write!(out, "helper={helper} ")?;
    }
    if told.event.is_none() {
        write!(out, "use={} ", told.uses())?;
    }
    if columns.id {
        write!(out, "id={} ", told.id.number())?;
    }
    if let (Some(names), Some(labels)) = (columns.labels, told.labels()) {
        let names: Vec<&str> = label_names(names, labels).collect();
        let equals = if names.is_empty() { "" } else { "=" };
        write!(out, "labels{equals}{}", names.join(","))?;
    }
    Ok(())
}

/// Names of the labels in a set, in the order of their numbers.
fn label_names(names: &LabelNames, labels: u128) -> impl Iterator<Item = &str> {
    let set = (0..u128::BITS).filter(move |bit| labels >> bit & 1 == 1);
    set.filter_map(|bit| Some(names.iter().find(|(number, _)| *number == bit)?.1.as_str()))
}

/// Protocols and remaining life; ends with a blank.
fn heading(out: &mut String, style: Style, l3: bool, entry: &Entry, now: Time) -> fmt::Result {
    let original = entry.tuple(Dir::Original);
    if l3 {
        let (name, number) = family_name(original.family);
        write!(out, "{name:<8} {number} ")?;
    }
    let name = protocol_name(original.proto, style);
    let (number, left) = (original.proto, entry.remaining(now));
    write!(out, "{name:<8} {number} {left} ")
}

/// Name and number of a network protocol.
const fn family_name(family: Family) -> (&'static str, u8) {
    match family {
        Family::V4 => ("ipv4", 2),
        Family::V6 => ("ipv6", 10),
    }
}

/// Both directions and the status words.
fn directions(out: &mut String, style: Style, entry: &Entry, counters: bool) -> fmt::Result {
    direction(out, style, entry, Dir::Original, counters)?;
    if !entry.status.has(Status::SEEN_REPLY) {
        out.write_str("[UNREPLIED] ")?;
    }
    direction(out, style, entry, Dir::Reply, counters)?;
    if entry.status.has(Status::ASSURED) {
        out.write_str("[ASSURED] ")?;
    }
    Ok(())
}

/// The zone an entry has in this direction only.
fn own_zone(entry: &Entry, dir: Dir) -> Option<u16> {
    let only = match dir {
        Dir::Original => Zone::ORIG,
        Dir::Reply => Zone::REPLY,
    };
    (entry.zone.dirs == only).then_some(entry.zone.id)
}

/// Tuple, one-directional zone and counters of one direction.
fn direction(
    out: &mut String,
    style: Style,
    entry: &Entry,
    dir: Dir,
    counters: bool,
) -> fmt::Result {
    tuple(out, style, entry.tuple(dir))?;
    if let Some(zone) = own_zone(entry, dir) {
        let label = match dir {
            Dir::Original => "zone-orig",
            Dir::Reply => "zone-reply",
        };
        write!(out, "{label}={zone} ")?;
    }
    if let Some(both) = entry.counters.as_ref().filter(|_| counters) {
        let c = &both[dir.ix()];
        write!(out, "packets={} bytes={} ", c.packets, c.bytes)?;
    }
    Ok(())
}

fn protocol_name(number: u8, style: Style) -> &'static str {
    match number {
        proto::ICMP => "icmp",
        proto::TCP => "tcp",
        proto::UDP => "udp",
        proto::GRE => "gre",
        proto::ICMPV6 => "icmpv6",
        proto::SCTP => "sctp",
        proto::UDPLITE => "udplite",
        // The kernel has no DCCP tracker any more; the tool's library still knows it.
        proto::DCCP if style != Style::Proc => "dccp",
        _ => "unknown",
    }
}

fn tuple(out: &mut String, style: Style, t: &Tuple) -> fmt::Result {
    let (src, dst, src_id, dst_id) = ({ t.src }, { t.dst }, { t.src_id }, { t.dst_id });
    out.write_str("src=")?;
    address(out, style, t.family, src)?;
    out.write_str("dst=")?;
    address(out, style, t.family, dst)?;
    match t.proto {
        proto::ICMP | proto::ICMPV6 => write!(
            out,
            "type={} code={} id={src_id} ",
            t.icmp_type(),
            t.icmp_code()
        ),
        proto::GRE => write!(out, "srckey={src_id:#x} dstkey={dst_id:#x} "),
        proto::DCCP if style != Style::Proc => out.write_str("sport=0 dport=0 "),
        _ if t.has_ports() => write!(out, "sport={src_id} dport={dst_id} "),
        _ => Ok(()),
    }
}

/// An address and a blank; the kernel prints IPv6 in full.
fn address(out: &mut String, style: Style, family: Family, addr: u128) -> fmt::Result {
    match (family, style) {
        (Family::V4, _) => write!(out, "{} ", Ipv4Addr::from(addr as u32)),
        (Family::V6, Style::Proc) => {
            let words = Ipv6Addr::from(addr).segments();
            for (i, word) in words.iter().enumerate() {
                let colon = if i == 0 { "" } else { ":" };
                write!(out, "{colon}{word:04x}")?;
            }
            out.write_char(' ')
        }
        (Family::V6, Style::Tool) => write!(out, "{} ", Ipv6Addr::from(addr)),
    }
}
