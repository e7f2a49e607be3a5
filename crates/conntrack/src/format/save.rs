//! `-o save`: entries as command lines that make them again.

use super::{Style, Told, address, own_zone, protocol_name};
use crate::entry::{ProtoState, Status, Zone};
use crate::event::EventKind;
use crate::tuple::{Dir, Tuple};
use alloc::string::String;
use core::fmt::{self, Write};
use tidegate_wire::proto;

/// Status bits that a command line can set.
const STATUS: [(u32, &str); 3] = [
    (Status::SEEN_REPLY, "SEEN_REPLY"),
    (Status::ASSURED, "ASSURED"),
    (Status::FIXED_TIMEOUT, "FIXED_TIMEOUT"),
];

/// An entry as a command line, without newline.
#[must_use]
pub fn save_line(told: &Told<'_>) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_save(&mut out, told);
    out.truncate(out.trim_end().len());
    out
}

fn write_save(out: &mut String, told: &Told<'_>) -> fmt::Result {
    let entry = told.entry;
    out.write_str(match told.event {
        None | Some((EventKind::New, _)) => "-A ",
        Some((EventKind::Update, _)) => "-U ",
        Some((EventKind::Destroy, _)) => "-D ",
    })?;
    write!(out, "-t {} -u ", entry.remaining(told.at))?;
    status(out, entry.status)?;
    if entry.zone.dirs == Zone::BOTH && entry.zone.id != 0 {
        write!(out, "-w {} ", entry.zone.id)?;
    }
    for (dir, option) in [(Dir::Original, "--orig-zone"), (Dir::Reply, "--reply-zone")] {
        if let Some(zone) = own_zone(entry, dir) {
            write!(out, "{option} {zone} ")?;
        }
    }
    let [original, reply] = &entry.tuples;
    let done = entry.status;
    let moved_dst = done.has(Status::DST_NAT_DONE) && { reply.src } != { original.dst };
    let moved_src = done.has(Status::SRC_NAT_DONE) && { reply.dst } != { original.src };
    for (option, addr) in [
        ("-s", { original.src }),
        ("-d", { original.dst }),
        (if moved_dst { "-g" } else { "-r" }, { reply.src }),
        (if moved_src { "-n" } else { "-q" }, { reply.dst }),
    ] {
        write!(out, "{option} ")?;
        address(out, Style::Tool, original.family, addr)?;
    }
    match protocol_name(original.proto, Style::Tool) {
        "unknown" => write!(out, "-p {} ", original.proto)?,
        name => write!(out, "-p {name} ")?,
    }
    transport(out, original, reply)?;
    match &entry.proto {
        ProtoState::Tcp(tcp) => write!(out, "--state {}", tcp.state.name()),
        ProtoState::Sctp(s) => write!(
            out,
            "--state {} --orig-vtag {} --reply-vtag {}",
            s.state.name(),
            s.vtag[0],
            s.vtag[1]
        ),
        ProtoState::Stateless | ProtoState::Udp { .. } | ProtoState::Gre { .. } => Ok(()),
    }
}

fn status(out: &mut String, status: Status) -> fmt::Result {
    let mut separator = "";
    for (_, name) in STATUS.iter().filter(|(bit, _)| status.has(*bit)) {
        write!(out, "{separator}{name}")?;
        separator = ",";
    }
    out.write_str(if separator.is_empty() { "UNSET " } else { " " })
}

fn transport(out: &mut String, original: &Tuple, reply: &Tuple) -> fmt::Result {
    let ids = [
        { original.src_id },
        { original.dst_id },
        { reply.src_id },
        { reply.dst_id },
    ];
    let options = match original.proto {
        proto::ICMP | proto::ICMPV6 => {
            let name = protocol_name(original.proto, Style::Tool);
            let (ty, code) = (original.icmp_type(), original.icmp_code());
            let id = ids[0];
            return write!(
                out,
                "--{name}-type {ty} --{name}-code {code} --{name}-id {id} "
            );
        }
        proto::GRE => ["--srckey", "--dstkey", "--reply-key-src", "--reply-key-dst"],
        _ if original.has_ports() => ["--sport", "--dport", "--reply-port-src", "--reply-port-dst"],
        _ => return Ok(()),
    };
    for (option, id) in options.iter().zip(ids) {
        write!(out, "{option} {id} ")?;
    }
    Ok(())
}
