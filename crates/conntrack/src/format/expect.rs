//! Expectations.

use super::{Style, address, family_name, protocol_name, tuple};
use crate::expect::{Expectation, expect_flag};
use crate::tuple::Tuple;
use crate::{SECOND, Time};
use alloc::string::String;
use core::fmt::{self, Write};
use tidegate_wire::{Family, proto};

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
    let (_, family) = family_name(e.tuple.family);
    let (left, number) = (seconds_left(e, now), e.tuple.proto);
    let _ = write!(out, "{left} l3proto = {family} proto={number} ");
    let _ = tuple(&mut out, Style::Proc, &e.tuple);
    let _ = flags(&mut out, e);
    out.push_str(e.helper.map_or("", |h| h.name()));
    if let Some(class) = e.helper.and_then(|h| h.class_name(e.class)) {
        let _ = write!(out, "/{class}");
    }
    out.truncate(out.trim_end().len());
    out
}

/// A line of `conntrack -L expect`; `master` is the original tuple of the connection
/// that announced it.
#[must_use]
pub fn expect_line(e: &Expectation, master: Option<&Tuple>, now: Time) -> String {
    let mut out = String::new();
    let _ = write_line(&mut out, e, master, now);
    out.truncate(out.trim_end().len());
    out
}

fn write_line(out: &mut String, e: &Expectation, master: Option<&Tuple>, now: Time) -> fmt::Result {
    let style = Style::Tool;
    let t = &e.tuple;
    write!(out, "{} proto={} ", seconds_left(e, now), t.proto)?;
    tuple(out, style, t)?;
    let mask = mask(e);
    out.write_str("mask-src=")?;
    address(out, style, t.family, mask.src)?;
    out.write_str("mask-dst=")?;
    address(out, style, t.family, mask.dst)?;
    ids(out, &mask)?;
    if let Some(m) = master {
        out.write_str("master-src=")?;
        address(out, style, m.family, m.src)?;
        out.write_str("master-dst=")?;
        address(out, style, m.family, m.dst)?;
        ids(out, m)?;
    }
    if e.zone != 0 {
        write!(out, "zone={} ", e.zone)?;
    }
    flags(out, e)?;
    write!(out, "class={} ", e.class)?;
    if let Some(helper) = e.helper {
        write!(out, "helper={}", helper.name())?;
    }
    Ok(())
}

/// What counts of an expectation's tuple, as a tuple.
fn mask(e: &Expectation) -> Tuple {
    let full = match e.tuple.family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    Tuple {
        src: e.mask_src & full,
        dst: full,
        src_id: e.mask_src_id,
        dst_id: u16::MAX,
        ..e.tuple
    }
}

/// The transport part of a tuple.
fn ids(out: &mut String, t: &Tuple) -> fmt::Result {
    let (src, dst) = ({ t.src_id }, { t.dst_id });
    match t.proto {
        proto::GRE => write!(out, "srckey={src:#x} dstkey={dst:#x} "),
        _ if t.has_ports() => write!(out, "sport={src} dport={dst} "),
        _ => Ok(()),
    }
}

/// An expectation as an XML element, without newline. `kind` is what happened to it,
/// `when` the moment as elements.
#[must_use]
pub fn expect_xml(
    e: &Expectation,
    master: Option<&Tuple>,
    now: Time,
    kind: Option<&str>,
    when: &str,
) -> String {
    let mut out = super::xml::flow_tag(kind);
    let _ = write_xml(&mut out, e, master, now, when);
    out
}

fn write_xml(
    out: &mut String,
    e: &Expectation,
    master: Option<&Tuple>,
    now: Time,
    when: &str,
) -> fmt::Result {
    let mask = mask(e);
    let parts = [
        ("expected", Some(&e.tuple)),
        ("mask", Some(&mask)),
        ("master", master),
    ];
    let parts = parts.map(|(name, tuple)| Some((name, tuple?)));
    let (l3, number) = family_name(e.tuple.family);
    write!(out, "<layer3 protonum=\"{number}\" protoname=\"{l3}\">")?;
    for (name, t) in parts.into_iter().flatten() {
        write!(out, "<{name}>")?;
        super::xml::addresses(out, t)?;
        write!(out, "</{name}>")?;
    }
    let number = e.tuple.proto;
    let l4 = protocol_name(number, Style::Tool);
    write!(
        out,
        "</layer3><layer4 protonum=\"{number}\" protoname=\"{l4}\">"
    )?;
    for (name, t) in parts.into_iter().flatten() {
        write!(out, "<{name}>")?;
        super::xml::ids(out, t)?;
        write!(out, "</{name}>")?;
    }
    out.write_str("</layer4><meta>")?;
    if let Some(helper) = e.helper {
        write!(out, "<helper-name>{}</helper-name>", helper.name())?;
    }
    let left = seconds_left(e, now);
    write!(out, "<timeout>{left}</timeout><class>{}</class>", e.class)?;
    if e.zone != 0 {
        write!(out, "<zone>{}</zone>", e.zone)?;
    }
    write!(out, "{when}</meta></flow>")
}
