//! New addresses and ports, shared by the translation targets.

use tidegate_ir::{Effect, Manip, NatSource, NatSpec, Verdict};
use tidegate_wire::{Family, proto};

use crate::{Args, Error, Input, NatTo, Outcome, Value, number, parse_port, text};

/// What a target allows after its option.
#[derive(Clone, Copy)]
pub(super) struct Form {
    /// Whether addresses may be given.
    pub(super) addrs: bool,
    /// Whether a port range may have a base.
    pub(super) shifted: bool,
}

/// Reads `[address[-address]][:port[-port[/base]]]`, IPv6 addresses with ports in
/// brackets; or only the ports.
pub(super) fn parse(input: &Input<'_>, form: Form) -> Result<Value, Error> {
    let mut to = NatTo::default();
    let (addrs, ports) = if form.addrs {
        split(input.text())?
    } else {
        (None, Some(input.text()))
    };
    if let Some(ports) = ports {
        need_ports(input)?;
        parse_ports(input, ports, form, &mut to)?;
    }
    if let Some(addrs) = addrs {
        to.addrs = Some(parse_addrs(addrs, input.ctx.family)?);
    }
    Ok(Value::Nat(Box::new(to)))
}

/// Splits addresses from ports: a single colon parts them, several belong to an IPv6
/// address unless it stands in brackets.
fn split(arg: &str) -> Result<(Option<&str>, Option<&str>), Error> {
    if let Some(inner) = arg.strip_prefix('[') {
        let (addrs, rest) = inner
            .split_once(']')
            .ok_or_else(|| Error::parameter("Invalid address format"))?;
        let ports = rest.split_once(':').map(|p| p.1);
        let addrs = (!addrs.is_empty() || ports.is_none()).then_some(addrs);
        return Ok((addrs, ports));
    }
    match arg.split_once(':') {
        Some((addrs, ports)) if !ports.contains(':') => {
            Ok(((!addrs.is_empty()).then_some(addrs), Some(ports)))
        }
        _ => Ok((Some(arg), None)),
    }
}

fn parse_addrs(addrs: &str, family: Family) -> Result<(u128, u128), Error> {
    let one = |s: &str| {
        text::parse_addr(s, family)
            .ok_or_else(|| Error::parameter(format!("Bad IP address \"{s}\"")))
    };
    match addrs.split_once('-') {
        Some((lo, hi)) => Ok((one(lo)?, one(hi)?)),
        None => {
            let addr = one(addrs)?;
            Ok((addr, addr))
        }
    }
}

/// Ports make sense for these protocols only; like the tool, an inverted `-p` passes.
fn need_ports(input: &Input<'_>) -> Result<(), Error> {
    let has_ports = [
        proto::TCP,
        proto::UDP,
        proto::SCTP,
        proto::DCCP,
        proto::ICMP,
    ];
    match input.ctx.proto {
        Some((number, _)) if has_ports.contains(&number) => Ok(()),
        _ => Err(Error::parameter(
            "Need TCP, UDP, SCTP or DCCP with port specification",
        )),
    }
}

fn parse_ports(input: &Input<'_>, arg: &str, form: Form, to: &mut NatTo) -> Result<(), Error> {
    let invalid = |s: &str| Error::parameter(format!("Port `{s}' not valid"));
    let name = input.ctx.proto_name();
    let named = |s: &str| parse_port(s, input.ctx.names, name.as_deref());
    let Some((lo, rest)) = port_prefix(arg) else {
        let port = named(arg).ok_or_else(|| invalid(arg))?;
        to.ports = Some((port, port));
        return Ok(());
    };
    to.ports = Some((lo, lo));
    if rest.is_empty() {
        return Ok(());
    }
    let Some(hi_text) = rest.strip_prefix('-') else {
        return Err(garbage(rest));
    };
    let (hi, rest) = port_prefix(hi_text).ok_or_else(|| invalid(hi_text))?;
    if hi < lo {
        return Err(Error::parameter(format!("Port range `{hi_text}' funky")));
    }
    to.ports = Some((lo, hi));
    if rest.is_empty() {
        return Ok(());
    }
    let Some(base) = rest.strip_prefix('/') else {
        return Err(garbage(rest));
    };
    if !form.shifted {
        return Err(Error::parameter(
            "Shifted portmap ranges not supported with this kernel",
        ));
    }
    let port = named(base).filter(|&p| p > 0);
    to.base = Some(port.ok_or_else(|| invalid(base))?);
    Ok(())
}

fn garbage(rest: &str) -> Error {
    Error::parameter(format!("Garbage after port value: `{rest}'"))
}

fn port_prefix(s: &str) -> Option<(u16, &str)> {
    let (port, rest) = number::prefix(s)?;
    Some((u16::try_from(port).ok()?, rest))
}

/// The reverse of [`parse`].
pub(super) fn show(to: NatTo, family: Family) -> String {
    let mut out = String::new();
    if let Some((lo, hi)) = to.addrs {
        let mut addrs = text::addr(lo, family);
        if hi != lo {
            addrs += &format!("-{}", text::addr(hi, family));
        }
        out = match (family, to.ports) {
            (Family::V6, Some(_)) => format!("[{addrs}]"),
            (Family::V4 | Family::V6, _) => addrs,
        };
    }
    if to.ports.is_some() {
        out.push(':');
        out += &show_ports(to);
    }
    out
}

/// The ports alone. A base is read after a range only, so a range of one port before
/// it is printed as one (iptables prints `5/7`, which it refuses to read again).
pub(super) fn show_ports(to: NatTo) -> String {
    let mut out = String::new();
    if let Some((lo, hi)) = to.ports {
        out += &lo.to_string();
        if hi != lo || to.base.is_some() {
            out += &format!("-{hi}");
        }
    }
    if let Some(base) = to.base {
        out += &format!("/{base}");
    }
    out
}

/// The listing's words for the flags among `words` that are given.
pub(super) fn list_flags(args: &Args, words: &[(usize, &str)]) -> String {
    let given = words.iter().filter(|w| args.has(w.0));
    given.map(|w| format!(" {}", w.1)).collect()
}

/// The translation's effect; the verdict after it stands in case nothing is decided.
pub(super) fn outcome(
    manip: Manip,
    addr: NatSource,
    to: NatTo,
    random: bool,
    persistent: bool,
) -> Outcome {
    let spec = NatSpec {
        manip,
        addr,
        ports: to.ports,
        base_port: to.base,
        random,
        persistent,
    };
    Outcome::effect(Effect::Nat(spec), Verdict::Accept)
}

/// Addresses given in the option, or the packet's own.
pub(super) fn source(to: NatTo) -> NatSource {
    to.addrs
        .map_or(NatSource::Keep, |(lo, hi)| NatSource::Range(lo, hi))
}
