//! Ports with their protocols, and ICMP types by name.

use tidegate_wire::{Family, proto};
use tidegate_xt::{Names, names as known};

use super::Fault;
use super::create::whole;

/// ICMP types and codes by name (uapi `icmp.h`), the first of a value is what is printed.
const ICMP: [(&str, u8, u8); 34] = [
    ("echo-reply", 0, 0),
    ("pong", 0, 0),
    ("network-unreachable", 3, 0),
    ("host-unreachable", 3, 1),
    ("protocol-unreachable", 3, 2),
    ("port-unreachable", 3, 3),
    ("fragmentation-needed", 3, 4),
    ("source-route-failed", 3, 5),
    ("network-unknown", 3, 6),
    ("host-unknown", 3, 7),
    ("network-prohibited", 3, 9),
    ("host-prohibited", 3, 10),
    ("TOS-network-unreachable", 3, 11),
    ("TOS-host-unreachable", 3, 12),
    ("communication-prohibited", 3, 13),
    ("host-precedence-violation", 3, 14),
    ("precedence-cutoff", 3, 15),
    ("source-quench", 4, 0),
    ("network-redirect", 5, 0),
    ("host-redirect", 5, 1),
    ("TOS-network-redirect", 5, 2),
    ("TOS-host-redirect", 5, 3),
    ("echo-request", 8, 0),
    ("ping", 8, 0),
    ("router-advertisement", 9, 0),
    ("router-solicitation", 10, 0),
    ("ttl-zero-during-transit", 11, 0),
    ("ttl-zero-during-reassembly", 11, 1),
    ("ip-header-bad", 12, 0),
    ("required-option-missing", 12, 1),
    ("timestamp-request", 13, 0),
    ("timestamp-reply", 14, 0),
    ("address-mask-request", 17, 0),
    ("address-mask-reply", 18, 0),
];

/// ICMPv6 types and codes by name.
const ICMP6: [(&str, u8, u8); 22] = [
    ("no-route", 1, 0),
    ("communication-prohibited", 1, 1),
    ("address-unreachable", 1, 3),
    ("port-unreachable", 1, 4),
    ("packet-too-big", 2, 0),
    ("ttl-zero-during-transit", 3, 0),
    ("ttl-zero-during-reassembly", 3, 1),
    ("bad-header", 4, 0),
    ("unknown-header-type", 4, 1),
    ("unknown-option", 4, 2),
    ("echo-request", 128, 0),
    ("ping", 128, 0),
    ("echo-reply", 129, 0),
    ("pong", 129, 0),
    ("router-solicitation", 133, 0),
    ("router-advertisement", 134, 0),
    ("neighbour-solicitation", 135, 0),
    ("neigbour-solicitation", 135, 0),
    ("neighbour-advertisement", 136, 0),
    ("neigbour-advertisement", 136, 0),
    ("redirect", 137, 0),
    ("mobile-prefix", 146, 0),
];

fn names_of(number: u8) -> Option<&'static [(&'static str, u8, u8)]> {
    match number {
        proto::ICMP => Some(&ICMP),
        proto::ICMPV6 => Some(&ICMP6),
        _ => None,
    }
}

/// Reads `[PROTO:]PORT[-PORT]`, `icmp:NAME` or `icmp:TYPE/CODE`.
pub(crate) fn read(word: &str, family: Family, names: &dyn Names) -> Result<(u8, u16, u16), Fault> {
    // After a protocol's number or name comes a colon.
    let (name, port) = match word.split_once(':') {
        Some((name, port)) if !port.is_empty() => (name, port),
        _ => ("tcp", word),
    };
    let number = protocol(name, names)?;
    if let Some(names) = names_of(number) {
        own_family(number, family)?;
        let code = icmp(names, port)?;
        return Ok((number, code, code));
    }
    match number {
        proto::TCP | proto::SCTP | proto::UDP | proto::UDPLITE => {
            let (first, last) = ports(port, name, names)?;
            Ok((number, first, last))
        }
        _ if port == "0" => Ok((number, 0, 0)),
        _ => Err(Fault::syntax(format!(
            "Protocol {name} can be used with pseudo port value 0 only."
        ))),
    }
}

fn own_family(number: u8, family: Family) -> Result<(), Fault> {
    let (wanted, title, word) = match number {
        proto::ICMP => (Family::V4, "ICMP", "inet"),
        _ => (Family::V6, "ICMPv6", "inet6"),
    };
    match family == wanted {
        true => Ok(()),
        false => Err(Fault::syntax(format!(
            "Protocol {title} can be used with family {word} only"
        ))),
    }
}

fn protocol(name: &str, names: &dyn Names) -> Result<u8, Fault> {
    let number = name.parse::<u8>().ok();
    let number = number.or_else(|| known::known_protocol(name));
    number
        .or_else(|| names.protocol(name))
        .filter(|&n| n != 0)
        .ok_or_else(|| Fault::syntax(format!("cannot parse '{name}' as a protocol")))
}

fn icmp(names: &[(&str, u8, u8)], word: &str) -> Result<u16, Fault> {
    let code = |ty: u8, code: u8| u16::from(ty) << 8 | u16::from(code);
    if let Some(&(_, ty, c)) = names.iter().find(|n| n.0.eq_ignore_ascii_case(word)) {
        return Ok(code(ty, c));
    }
    let Some((ty, c)) = word.split_once('/') else {
        return Err(Fault::refused(format!(
            "Cannot parse {word} as an ICMP type/code."
        )));
    };
    Ok(code(whole(ty, 0, 255)? as u8, whole(c, 0, 255)? as u8))
}

/// Reads `PORT[-PORT]`, numbers or names of services, in either order.
pub(crate) fn ports(word: &str, proto: &str, names: &dyn Names) -> Result<(u16, u16), Fault> {
    let wrong = |part: &str, fault: Fault| match fault {
        Fault::Refused(text) => Fault::Refused(format!(
            "{text}\nSyntax error: '{proto}' is invalid as number\ncannot parse '{part}' as a {proto} port"
        )),
        other => other,
    };
    let port = |part: &str| {
        let number = whole(part, 0, 65535).map(|n| n as u16);
        number.or_else(|wrong| names.service(part, Some(proto)).ok_or(wrong))
    };
    // A service may have a dash in its name.
    if let Ok(one) = port(word) {
        return Ok((one, one));
    }
    let (first, last) = match word.split_once('-') {
        Some((first, last)) if !first.is_empty() && !last.is_empty() => (first, last),
        _ => (word, word),
    };
    let a = port(first).map_err(|fault| wrong(first, fault))?;
    let b = port(last).map_err(|fault| wrong(last, fault))?;
    Ok((a.min(b), a.max(b)))
}

/// The text of a protocol and port.
pub(crate) fn show(number: u8, port: u16, names: &dyn Names) -> String {
    let name = match number {
        proto::ICMPV6 => Some("ipv6-icmp".to_owned()),
        _ => known::known_protocol_name(number)
            .map(str::to_owned)
            .or_else(|| names.protocol_name(number)),
    };
    let name = name.unwrap_or_else(|| number.to_string());
    let Some(types) = names_of(number) else {
        return format!("{name}:{port}");
    };
    let (ty, code) = ((port >> 8) as u8, port as u8);
    match types.iter().find(|t| (t.1, t.2) == (ty, code)) {
        Some(known) => format!("{name}:{}", known.0),
        None => format!("{name}:{ty}/{code}"),
    }
}
