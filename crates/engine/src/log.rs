//! The kernel's LOG line (`nf_log_syslog`): same fields, same order, same blanks; and
//! NFLOG's copy of a packet (`nfnetlink_log`).

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use tidegate_ir::{Hook, LogSpec, NflogSpec};
use tidegate_wire::{Family, be16, be32, proto, tcp::Tcp, tcp::flags};

use crate::env::{Env, IfIndex};
use crate::outcome::{Device, Nflog};
use crate::packet::Packet;

/// The line for `packet`, without a trailing newline; fields end with a blank each.
pub(crate) fn line(spec: &LogSpec, packet: &Packet, env: &Env) -> String {
    let mut out = spec.prefix.clone();
    let name = |dev| env.interface(dev).map_or("", |i| i.name.as_str());
    let input = packet.in_dev.map_or("", name);
    let output = packet.out_dev.map_or("", name);
    push(&mut out, format_args!("IN={input} OUT={output} "));
    if packet.in_dev.is_some() {
        link_header(&mut out, spec, packet);
    }
    match packet.family() {
        Family::V4 => ipv4(&mut out, spec, &packet.bytes, true),
        Family::V6 => ipv6(&mut out, spec, &packet.bytes, true),
    }
    if packet.mark != 0 {
        push(&mut out, format_args!("MARK=0x{:x} ", packet.mark));
    }
    out
}

/// The copy that NFLOG makes of `packet`.
pub(crate) fn copy(spec: &NflogSpec, packet: &Packet, hook: Hook, env: &Env) -> Nflog {
    let device = |index: IfIndex| Device {
        index,
        name: env
            .interface(index)
            .map_or_else(String::new, |i| i.name.clone()),
    };
    let bytes = &packet.bytes;
    let wanted = spec.size.map_or(usize::MAX, |n| n as usize);
    Nflog {
        group: spec.group,
        prefix: spec.prefix.clone(),
        hook,
        input: packet.in_dev.map(device),
        output: packet.out_dev.map(device),
        mark: packet.mark,
        bytes: bytes.get(..wanted).unwrap_or(bytes).to_vec(),
        len: bytes.len() as u32,
    }
}

fn push(out: &mut String, args: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(args);
}

fn hex_colons(out: &mut String, bytes: &[u8]) {
    for (i, b) in bytes.iter().enumerate() {
        let sep = if i == 0 { "" } else { ":" };
        push(out, format_args!("{sep}{b:02x}"));
    }
}

fn hex(out: &mut String, bytes: &[u8]) {
    for b in bytes {
        push(out, format_args!("{b:02X}"));
    }
}

fn link_header(out: &mut String, spec: &LogSpec, packet: &Packet) {
    let link = packet.link.bytes();
    if spec.mac_decode && link.len() == 14 {
        out.push_str("MACSRC=");
        hex_colons(out, &link[6..12]);
        out.push_str(" MACDST=");
        hex_colons(out, &link[..6]);
        push(
            out,
            format_args!(" MACPROTO={:04x} ", be16(link, 12).unwrap_or(0)),
        );
        return;
    }
    out.push_str("MAC=");
    hex_colons(out, link);
    out.push(' ');
}

fn ipv4(out: &mut String, spec: &LogSpec, p: &[u8], outermost: bool) {
    if p.len() < 20 {
        out.push_str("TRUNCATED");
        return;
    }
    let addr = |at| Ipv4Addr::from(be32(p, at).unwrap_or(0));
    let word = |at| be16(p, at).unwrap_or(0);
    push(out, format_args!("SRC={} DST={} ", addr(12), addr(16)));
    push(
        out,
        format_args!(
            "LEN={} TOS=0x{:02X} PREC=0x{:02X} TTL={} ID={} ",
            word(2),
            p[1] & 0x1e,
            p[1] & 0xe0,
            p[8],
            word(4)
        ),
    );
    for (bit, name) in [(0x8000, "CE "), (0x4000, "DF "), (0x2000, "MF ")] {
        if word(6) & bit != 0 {
            out.push_str(name);
        }
    }
    let frag = word(6) & 0x1fff;
    if frag != 0 {
        push(out, format_args!("FRAG:{frag} "));
    }
    let header = usize::from(p[0] & 0x0f) * 4;
    if spec.ip_options && header > 20 && p.len() >= header {
        out.push_str("OPT (");
        hex(out, &p[20..header]);
        out.push_str(") ");
    }
    let l4 = p.get(header..).unwrap_or(&[]);
    match p[9] {
        proto::ICMP => icmp4(out, spec, l4, frag, outermost),
        other => transport(out, spec, other, l4, frag),
    }
}

/// Transport protocols that look the same in both families.
fn transport(out: &mut String, spec: &LogSpec, protocol: u8, l4: &[u8], frag: u16) {
    match protocol {
        proto::TCP => tcp(out, spec, l4, frag),
        proto::UDP | proto::UDPLITE => {
            let name = if protocol == proto::UDP {
                "UDP"
            } else {
                "UDPLITE"
            };
            push(out, format_args!("PROTO={name} "));
            if frag != 0 {
                return;
            }
            if l4.len() < 8 {
                return incomplete(out, l4.len());
            }
            let word = |at| be16(l4, at).unwrap_or(0);
            push(
                out,
                format_args!("SPT={} DPT={} LEN={} ", word(0), word(2), word(4)),
            );
        }
        proto::AH | proto::ESP => {
            let (name, at) = if protocol == proto::AH {
                ("AH", 4)
            } else {
                ("ESP", 0)
            };
            push(out, format_args!("PROTO={name} "));
            if frag != 0 {
                return;
            }
            match be32(l4, at) {
                Some(spi) => push(out, format_args!("SPI=0x{spi:x} ")),
                None => incomplete(out, l4.len()),
            }
        }
        other => push(out, format_args!("PROTO={other} ")),
    }
}

fn incomplete(out: &mut String, bytes: usize) {
    push(out, format_args!("INCOMPLETE [{bytes} bytes] "));
}

fn tcp(out: &mut String, spec: &LogSpec, l4: &[u8], frag: u16) {
    out.push_str("PROTO=TCP ");
    if frag != 0 {
        return;
    }
    if l4.len() < 20 {
        return incomplete(out, l4.len());
    }
    let word = |at| be16(l4, at).unwrap_or(0);
    push(out, format_args!("SPT={} DPT={} ", word(0), word(2)));
    if spec.tcp_sequence {
        let long = |at| be32(l4, at).unwrap_or(0);
        push(out, format_args!("SEQ={} ACK={} ", long(4), long(8)));
    }
    push(
        out,
        format_args!("WINDOW={} RES=0x{:02x} ", word(14), (l4[12] & 0x0f) << 2),
    );
    for (bit, name) in [
        (flags::CWR, "CWR "),
        (flags::ECE, "ECE "),
        (flags::URG, "URG "),
        (flags::ACK, "ACK "),
        (flags::PSH, "PSH "),
        (flags::RST, "RST "),
        (flags::SYN, "SYN "),
        (flags::FIN, "FIN "),
    ] {
        if l4[13] & bit != 0 {
            out.push_str(name);
        }
    }
    push(out, format_args!("URGP={} ", word(18)));
    if spec.tcp_options
        && let Some(view) = Tcp::new(l4)
        && !view.options().is_empty()
    {
        out.push_str("OPT (");
        hex(out, view.options());
        out.push_str(") ");
    }
}

fn icmp4(out: &mut String, spec: &LogSpec, l4: &[u8], frag: u16, outermost: bool) {
    out.push_str("PROTO=ICMP ");
    if frag != 0 {
        return;
    }
    if l4.len() < 8 {
        return incomplete(out, l4.len());
    }
    let (kind, code) = (l4[0], l4[1]);
    push(out, format_args!("TYPE={kind} CODE={code} "));
    if matches!(kind, 3 | 4 | 11 | 12 | 5) && l4.len() < 28 {
        return incomplete(out, l4.len());
    }
    let word = |at| be16(l4, at).unwrap_or(0);
    match kind {
        0 | 8 | 13 | 14 | 15 | 16 | 17 | 18 => {
            push(out, format_args!("ID={} SEQ={} ", word(4), word(6)));
        }
        12 => push(
            out,
            format_args!("PARAMETER={} ", be32(l4, 4).unwrap_or(0) >> 24),
        ),
        5 => push(
            out,
            format_args!("GATEWAY={} ", Ipv4Addr::from(be32(l4, 4).unwrap_or(0))),
        ),
        _ => {}
    }
    if matches!(kind, 3 | 4 | 5 | 11) && outermost {
        out.push('[');
        ipv4(out, spec, &l4[8..], false);
        out.push_str("] ");
    }
    if kind == 3 && code == 4 {
        push(out, format_args!("MTU={} ", word(6)));
    }
}

fn ipv6(out: &mut String, spec: &LogSpec, p: &[u8], outermost: bool) {
    if p.len() < 40 {
        out.push_str("TRUNCATED");
        return;
    }
    let first = be32(p, 0).unwrap_or(0);
    push(
        out,
        format_args!(
            "SRC={} DST={} LEN={} TC={} HOPLIMIT={} FLOWLBL={} ",
            full6(p, 8),
            full6(p, 24),
            usize::from(be16(p, 4).unwrap_or(0)) + 40,
            (first & 0x0ff0_0000) >> 20,
            p[7],
            first & 0x000f_ffff
        ),
    );
    let (protocol, at, frag) = extensions6(out, spec, p);
    let l4 = p.get(at..).unwrap_or(&[]);
    match protocol {
        proto::ICMPV6 => icmp6(out, spec, l4, frag, outermost),
        other => transport(out, spec, other, l4, frag),
    }
}

fn full6(p: &[u8], at: usize) -> String {
    let addr = Ipv6Addr::from(tidegate_wire::be128(p, at).unwrap_or(0));
    let groups: Vec<String> = addr.segments().iter().map(|s| format!("{s:04x}")).collect();
    groups.join(":")
}

/// Prints extension headers; returns the transport protocol, its offset and the
/// fragment offset.
fn extensions6(out: &mut String, spec: &LogSpec, p: &[u8]) -> (u8, usize, u16) {
    let (mut next, mut at, mut frag) = (p[6], 40usize, 0u16);
    while matches!(
        next,
        proto::HOPOPTS | proto::ROUTING | proto::FRAGMENT | proto::AH | proto::DSTOPTS
    ) {
        let (Some(&following), Some(&len)) = (p.get(at), p.get(at + 1)) else {
            break;
        };
        if spec.ip_options {
            out.push_str("OPT ( ");
        }
        let size = match next {
            proto::FRAGMENT => {
                let word = be16(p, at + 2).unwrap_or(0);
                frag = word >> 3;
                push(out, format_args!("FRAG:{} ", word & 0xfff8));
                if word & 1 != 0 {
                    out.push_str("INCOMPLETE ");
                }
                push(
                    out,
                    format_args!("ID:{:08x} ", be32(p, at + 4).unwrap_or(0)),
                );
                8
            }
            proto::AH => {
                if spec.ip_options {
                    push(
                        out,
                        format_args!("AH SPI=0x{:x} ", be32(p, at + 4).unwrap_or(0)),
                    );
                }
                (usize::from(len) + 2) * 4
            }
            _ => (usize::from(len) + 1) * 8,
        };
        if spec.ip_options {
            out.push_str(") ");
        }
        next = following;
        at += size;
        if frag != 0 {
            break;
        }
    }
    (next, at, frag)
}

fn icmp6(out: &mut String, spec: &LogSpec, l4: &[u8], frag: u16, outermost: bool) {
    out.push_str("PROTO=ICMPv6 ");
    if frag != 0 {
        return;
    }
    if l4.len() < 8 {
        return incomplete(out, l4.len());
    }
    let (kind, code) = (l4[0], l4[1]);
    push(out, format_args!("TYPE={kind} CODE={code} "));
    let word = |at| be16(l4, at).unwrap_or(0);
    match kind {
        128 | 129 => push(out, format_args!("ID={} SEQ={} ", word(4), word(6))),
        4 => push(
            out,
            format_args!("POINTER={:08x} ", be32(l4, 4).unwrap_or(0)),
        ),
        _ => {}
    }
    if (1..=4).contains(&kind) && outermost && l4.len() > 8 {
        out.push('[');
        ipv6(out, spec, &l4[8..], false);
        out.push_str("] ");
    }
    if kind == 2 {
        push(out, format_args!("MTU={} ", be32(l4, 4).unwrap_or(0)));
    }
}

#[cfg(test)]
mod tests;
