//! `-o xml`.

use super::{LabelNames, Style, Told, family_name, label_names, own_zone, protocol_name};
use crate::entry::{Status, Zone};
use crate::event::EventKind;
use crate::tuple::{Dir, Tuple};
use alloc::string::String;
use core::fmt::{self, Write};
use core::net::{Ipv4Addr, Ipv6Addr};
use tidegate_wire::{Family, proto};

/// An entry as an XML element, without newline. `stamps` adds the moments it started and
/// stopped (`-o ktimestamp`), `labels` those labels that have a name, `when` is the moment of an event as elements.
#[must_use]
pub fn xml_flow(told: &Told<'_>, stamps: bool, labels: Option<&LabelNames>, when: &str) -> String {
    let kind = told.event.map(|(kind, _)| match kind {
        EventKind::New => "new",
        EventKind::Update => "update",
        EventKind::Destroy => "destroy",
    });
    let mut out = flow_tag(kind);
    // Writing to a String cannot fail.
    let _ = write_flow(&mut out, told, stamps, labels, when);
    out
}

/// `<flow>` with the kind of an event.
pub(super) fn flow_tag(kind: Option<&str>) -> String {
    let mut out = String::from("<flow");
    if let Some(kind) = kind {
        let _ = write!(out, " type=\"{kind}\"");
    }
    out.push('>');
    out
}

fn write_flow(
    out: &mut String,
    told: &Told<'_>,
    stamps: bool,
    labels: Option<&LabelNames>,
    when: &str,
) -> fmt::Result {
    for (dir, name) in [(Dir::Original, "original"), (Dir::Reply, "reply")] {
        write!(out, "<meta direction=\"{name}\">")?;
        direction(out, told, dir)?;
        out.write_str("</meta>")?;
    }
    out.write_str("<meta direction=\"independent\">")?;
    independent(out, told, stamps, labels)?;
    write!(out, "</meta>{when}")?;
    if let Some(helper) = told.helper() {
        write!(out, "<helper>{helper}</helper>")?;
    }
    out.write_str("</flow>")
}

fn direction(out: &mut String, told: &Told<'_>, dir: Dir) -> fmt::Result {
    let entry = told.entry;
    let tuple = entry.tuple(dir);
    let (l3, number) = family_name(tuple.family);
    write!(out, "<layer3 protonum=\"{number}\" protoname=\"{l3}\">")?;
    addresses(out, tuple)?;
    let l4 = protocol_name(tuple.proto, Style::Tool);
    let number = tuple.proto;
    write!(
        out,
        "</layer3><layer4 protonum=\"{number}\" protoname=\"{l4}\">"
    )?;
    ids(out, tuple)?;
    out.write_str("</layer4>")?;
    if let Some(zone) = own_zone(entry, dir) {
        write!(out, "<zone>{zone}</zone>")?;
    }
    if let Some(counters) = entry.counters.as_ref().filter(|_| told.whole()) {
        let c = &counters[dir.ix()];
        let (packets, bytes) = (c.packets, c.bytes);
        write!(
            out,
            "<counters><packets>{packets}</packets><bytes>{bytes}</bytes></counters>"
        )?;
    }
    Ok(())
}

/// Source and destination address.
pub(super) fn addresses(out: &mut String, t: &Tuple) -> fmt::Result {
    for (name, addr) in [("src", { t.src }), ("dst", { t.dst })] {
        match t.family {
            Family::V4 => write!(out, "<{name}>{}</{name}>", Ipv4Addr::from(addr as u32))?,
            Family::V6 => write!(out, "<{name}>{}</{name}>", Ipv6Addr::from(addr))?,
        }
    }
    Ok(())
}

/// Ports or keys; ICMP has none here.
pub(super) fn ids(out: &mut String, t: &Tuple) -> fmt::Result {
    let (src, dst) = ({ t.src_id }, { t.dst_id });
    match t.proto {
        proto::GRE => write!(out, "<srckey>{src:#x}</srckey><dstkey>{dst:#x}</dstkey>"),
        proto::DCCP => out.write_str("<sport>0</sport><dport>0</dport>"),
        _ if t.has_ports() => write!(out, "<sport>{src}</sport><dport>{dst}</dport>"),
        _ => Ok(()),
    }
}

fn independent(
    out: &mut String,
    told: &Told<'_>,
    stamps: bool,
    names: Option<&LabelNames>,
) -> fmt::Result {
    let entry = told.entry;
    if let Some(state) = told.state() {
        write!(out, "<state>{state}</state>")?;
    }
    write!(out, "<timeout>{}</timeout>", entry.remaining(told.at))?;
    if told.tells_mark() {
        write!(out, "<mark>{}</mark>", entry.mark)?;
    }
    if let (Some(names), Some(labels)) = (names, told.labels()) {
        out.write_str("<labels>")?;
        for name in label_names(names, labels) {
            write!(out, "<label>{name}</label>")?;
        }
        out.write_str("</labels>")?;
    }
    if entry.zone.dirs == Zone::BOTH && entry.zone.id != 0 {
        write!(out, "<zone>{}</zone>", entry.zone.id)?;
    }
    if told.event.is_none() {
        write!(out, "<use>{}</use>", told.uses())?;
    }
    write!(out, "<id>{}</id>", told.id.number())?;
    if entry.status.has(Status::ASSURED) {
        out.write_str("<assured/>")?;
    }
    if !entry.status.has(Status::SEEN_REPLY) {
        out.write_str("<unreplied/>")?;
    }
    if let (true, Some(start), true) = (stamps, entry.start(), told.whole()) {
        write!(out, "<timestamp><start>{start}</start>")?;
        if told.ended() {
            write!(out, "<stop>{}</stop>", told.at)?;
        }
        out.write_str("</timestamp>")?;
    }
    if let Some(seconds) = told.lasted() {
        write!(out, "<deltatime>{seconds}</deltatime>")?;
    }
    Ok(())
}
