//! Listings: `/proc/net/nf_conntrack`, `conntrack -L`, `conntrack -E`, expectations.

use crate::entry::{Entry, EntryId, ProtoState, Status, Zone};
use crate::event::{Event, EventKind};
use crate::expect::{Expectation, expect_flag};
use crate::tuple::{Dir, Tuple};
use crate::{SECOND, Time};
use alloc::string::String;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};
use tidegate_wire::{Family, proto};

/// Which tool's layout a line follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Proc,
    Tool,
    Event,
}

/// Columns `conntrack -L` prints on request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// `-o extended`: the network protocol in front.
    pub extended: bool,
    /// `-o id`: the identifier at the end.
    pub id: bool,
}

/// A line of `/proc/net/nf_conntrack`, without newline (`ct_seq_show`).
#[must_use]
pub fn proc_line(entry: &Entry, now: Time) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = line(&mut out, Style::Proc, true, entry, now);
    let _ = write!(out, "use={}", u32::from(entry.children) + 2);
    out
}

/// A line of `conntrack -L`.
#[must_use]
pub fn conntrack_line(id: EntryId, entry: &Entry, now: Time, columns: Columns) -> String {
    let mut out = String::new();
    let _ = line(&mut out, Style::Tool, columns.extended, entry, now);
    let _ = write!(out, "use={}", u32::from(entry.children) + 1);
    if columns.id {
        let _ = write!(out, " id={}", id.number());
    }
    out
}

/// A line of `conntrack -E`.
#[must_use]
pub fn event_line(event: &Event, now: Time, columns: Columns) -> String {
    let mut out = String::from(match event.kind {
        EventKind::New => "    [NEW] ",
        EventKind::Update => " [UPDATE] ",
        EventKind::Destroy => "[DESTROY] ",
    });
    let _ = line(&mut out, Style::Event, columns.extended, &event.entry, now);
    if columns.id {
        let _ = write!(out, "id={}", event.id.number());
    }
    out.truncate(out.trim_end().len());
    out
}

/// All columns but the reference count and what follows it; ends with a blank.
fn line(out: &mut String, style: Style, l3: bool, entry: &Entry, now: Time) -> fmt::Result {
    let original = entry.tuple(Dir::Original);
    if l3 {
        let (name, number) = match original.family {
            Family::V4 => ("ipv4", 2),
            Family::V6 => ("ipv6", 10),
        };
        write!(out, "{name:<8} {number} ")?;
    }
    let name = protocol_name(original.proto, style);
    write!(
        out,
        "{name:<8} {} {} ",
        original.proto,
        entry.remaining(now)
    )?;
    match entry.proto {
        ProtoState::Tcp(tcp) => write!(out, "{} ", tcp.state.name())?,
        ProtoState::Sctp(sctp) => write!(out, "{} ", sctp.state.name())?,
        ProtoState::Gre {
            timeout,
            stream_timeout,
        } if style == Style::Proc => {
            write!(out, "timeout={timeout}, stream_timeout={stream_timeout} ")?;
        }
        ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => {}
    }
    direction(out, style, entry, Dir::Original)?;
    if !entry.status.has(Status::SEEN_REPLY) {
        out.write_str("[UNREPLIED] ")?;
    }
    direction(out, style, entry, Dir::Reply)?;
    if entry.status.has(Status::ASSURED) {
        out.write_str("[ASSURED] ")?;
    }
    tail(out, style, entry, now)
}

/// Tuple, one-directional zone and counters of one direction.
fn direction(out: &mut String, style: Style, entry: &Entry, dir: Dir) -> fmt::Result {
    tuple(out, style, entry.tuple(dir))?;
    let (label, dirs) = match dir {
        Dir::Original => ("zone-orig", Zone::ORIG),
        Dir::Reply => ("zone-reply", Zone::REPLY),
    };
    if entry.zone.dirs == dirs {
        write!(out, "{label}={} ", entry.zone.id)?;
    }
    if entry.acct {
        let c = &entry.counters[dir.ix()];
        write!(out, "packets={} bytes={} ", c.packets, c.bytes)?;
    }
    Ok(())
}

fn tail(out: &mut String, style: Style, entry: &Entry, now: Time) -> fmt::Result {
    if style != Style::Event || entry.mark != 0 {
        write!(out, "mark={} ", entry.mark)?;
    }
    let zone = entry.zone;
    if zone.dirs == Zone::BOTH && (zone.id != 0 || style == Style::Proc) {
        write!(out, "zone={} ", zone.id)?;
    }
    if let Some(start) = entry.start
        && (style != Style::Event || entry.status.has(Status::DYING))
    {
        write!(out, "delta-time={} ", now.saturating_sub(start) / SECOND)?;
    }
    match entry.helper {
        Some(helper) if style != Style::Proc => write!(out, "helper={} ", helper.name()),
        Some(_) | None => Ok(()),
    }
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
        (Family::V6, Style::Tool | Style::Event) => write!(out, "{} ", Ipv6Addr::from(addr)),
    }
}

const FLAG_NAMES: [(u8, &str); 3] = [
    (expect_flag::PERMANENT, "PERMANENT"),
    (expect_flag::INACTIVE, "INACTIVE"),
    (expect_flag::USERSPACE, "USERSPACE"),
];

fn flags(out: &mut String, e: &Expectation) -> fmt::Result {
    let mut separator = "";
    for (bit, name) in FLAG_NAMES {
        if e.flags & bit != 0 {
            write!(out, "{separator}{name}")?;
            separator = ",";
        }
    }
    if separator.is_empty() {
        return Ok(());
    }
    out.write_char(' ')
}

fn seconds_left(e: &Expectation, now: Time) -> u64 {
    e.timeout.saturating_sub(now) / SECOND
}

/// A line of `/proc/net/nf_conntrack_expect`, without newline (`exp_seq_show`).
#[must_use]
pub fn expect_proc_line(e: &Expectation, now: Time) -> String {
    let mut out = String::new();
    let family = match e.tuple.family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let (left, number) = (seconds_left(e, now), e.tuple.proto);
    let _ = write!(out, "{left} l3proto = {family} proto={number} ");
    let _ = tuple(&mut out, Style::Proc, &e.tuple);
    let _ = flags(&mut out, e);
    out.push_str(e.helper.map_or("", |h| h.name()));
    out.truncate(out.trim_end().len());
    out
}

/// A line of `conntrack -L expect`; `master` is the entry that announced it.
#[must_use]
pub fn expect_line(e: &Expectation, master: Option<&Entry>, now: Time) -> String {
    let mut out = String::new();
    let t = &e.tuple;
    let _ = write!(out, "{} proto={} ", seconds_left(e, now), t.proto);
    let _ = tuple(&mut out, Style::Tool, t);
    let full = match t.family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    out.push_str("mask-src=");
    let _ = address(&mut out, Style::Tool, t.family, e.mask_src & full);
    out.push_str("mask-dst=");
    let _ = address(&mut out, Style::Tool, t.family, full);
    let _ = write!(out, "sport={} dport=65535 ", e.mask_src_id);
    if let Some(m) = master.map(|m| m.tuple(Dir::Original)) {
        out.push_str("master-src=");
        let _ = address(&mut out, Style::Tool, m.family, m.src);
        out.push_str("master-dst=");
        let _ = address(&mut out, Style::Tool, m.family, m.dst);
        let _ = write!(out, "sport={} dport={} ", { m.src_id }, { m.dst_id });
    }
    if e.zone != 0 {
        let _ = write!(out, "zone={} ", e.zone);
    }
    let _ = flags(&mut out, e);
    let _ = write!(out, "class={} ", e.class);
    if let Some(helper) = e.helper {
        let _ = write!(out, "helper={}", helper.name());
    }
    out.truncate(out.trim_end().len());
    out
}
