//! Codes and remedies for what happens to single packets: the reasons of INVALID, answers
//! and errors that no rule lets in, FTP without its helper.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use tidegate_engine::Engine;
use tidegate_engine::conntrack::entry::{ProtoState, TcpClass};
use tidegate_engine::conntrack::{InvalidReason, Tuple, Zone};
use tidegate_host::address;
use tidegate_ir::{Hook, RuleId, Truth};
use tidegate_syntax::RuleOrigin;
use tidegate_wire::{Family, Layout, be16, parse, proto};

use super::brief::{Brief, Detail};
use super::explain::Explainer;
use super::fate::Fate;
use super::walk::{State, Walk};

/// Announced FTP data ports that are remembered.
const ANNOUNCED: usize = 4096;
/// Port of FTP servers.
const CONTROL: u16 = 21;

/// What is to be said about a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Advice {
    /// Stable code.
    pub(crate) code: &'static str,
    /// The finding with its evidence.
    pub(crate) text: String,
    /// A complete command that helps.
    pub(crate) remedy: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  Do: {}", self.code, self.text, self.remedy)
    }
}

/// A packet and what became of it.
pub(crate) struct Met<'a> {
    /// The packet as it came.
    pub(crate) bytes: &'a [u8],
    /// Its way.
    pub(crate) walk: &'a Walk,
    /// Its end.
    pub(crate) fate: &'a Fate,
    /// The rule or policy that stopped it.
    pub(crate) origin: Option<&'a RuleOrigin>,
    /// The engine behind it.
    pub(crate) engine: &'a Engine,
}

const fn tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

impl Advice {
    /// What is known about this packet alone.
    pub(crate) fn of(met: &Met<'_>) -> Option<Self> {
        let layout = parse(met.bytes).ok()?;
        let brief = Brief::new(met.bytes, &layout);
        match met.walk.state {
            State::Invalid(reason) => invalid(reason, met, &layout, &brief),
            State::Tracked(_) if met.fate.rule().is_some() => refused(met, &layout, &brief),
            State::Tracked(_) | State::None | State::Untracked => None,
        }
    }
}

/// Packets that belong to no connection.
fn invalid(reason: InvalidReason, met: &Met<'_>, layout: &Layout, brief: &Brief) -> Option<Advice> {
    match reason {
        InvalidReason::NewNotSyn(TcpClass::SynAck) => {
            let (port, _) = brief.ports()?;
            let (tool, server) = (tool(layout.family), brief.src);
            let text = format!(
                "INVALID: {brief} answers a SYN that was not seen here: most likely it left by another \
                 way (asymmetric routing)"
            );
            let remedy = format!(
                "{tool} -t raw -A PREROUTING -s {server} -p tcp --sport {port} -j NOTRACK && \
                 {tool} -t raw -A PREROUTING -d {server} -p tcp --dport {port} -j NOTRACK"
            );
            Some(Advice {
                code: "TG050",
                text,
                remedy,
            })
        }
        InvalidReason::SeqOverUpper { .. }
        | InvalidReason::AckOverUpper { .. }
        | InvalidReason::RstBelowAck { .. } => {
            let known = window(met, layout);
            let text = format!(
                "INVALID: {reason}{}: {brief} is not translated, and rules for ESTABLISHED do not match",
                known.unwrap_or_default()
            );
            Some(Advice {
                code: "TG051",
                text,
                remedy: "tidegate sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1".to_owned(),
            })
        }
        _ => None,
    }
}

/// What is known of the receiver's window.
fn window(met: &Met<'_>, layout: &Layout) -> Option<String> {
    let ct = met.engine.conntrack();
    let (id, dir) = ct.find(&Tuple::from_packet(met.bytes, layout)?, Zone::default())?;
    let ProtoState::Tcp(tcp) = &ct.entry(id)?.proto else {
        return None;
    };
    let receiver = tcp.seen[dir.other().ix()];
    Some(match receiver.scale {
        0 => format!(
            " (window of the receiver {}, without scaling: a capture or a connection table that begins \
             after the handshake does not know it)",
            receiver.maxwin
        ),
        scale => format!(
            " (window of the receiver {}, scaled by 2^{scale})",
            receiver.maxwin
        ),
    })
}

/// Packets of connections that rules refuse.
fn refused(met: &Met<'_>, layout: &Layout, brief: &Brief) -> Option<Advice> {
    let hook = *met.walk.hooks.last()?;
    let chain = match hook {
        Hook::Prerouting | Hook::Postrouting => return None,
        Hook::Input | Hook::Forward | Hook::Output => hook.chain_name(),
    };
    let by = met.origin.map_or(String::new(), |o| match o.number {
        0 => format!("the {} policy", o.chain),
        n => format!("{} {} {n}", o.table.name(), o.chain),
    });
    let tool = tool(layout.family);
    let remedy =
        format!("{tool} -I {chain} 1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT");
    match met.walk.state.name() {
        "ESTABLISHED" => Some(Advice {
            code: "TG021",
            text: format!(
                "{brief} is ESTABLISHED, part of a connection that was let through, but {by} refuses it: \
                 no rule of {chain} before accepts ESTABLISHED"
            ),
            remedy,
        }),
        "RELATED" if too_big(brief) => Some(Advice {
            code: "TG071",
            text: format!(
                "{by} refuses {brief}, which says that a link takes only smaller packets, of a known \
                 connection: it hangs once it sends much"
            ),
            remedy,
        }),
        _ => None,
    }
}

const fn too_big(brief: &Brief) -> bool {
    matches!(
        (brief.proto, brief.detail),
        (proto::ICMP, Detail::Icmp(3, 4)) | (proto::ICMPV6, Detail::Icmp(2, _))
    )
}

/// What stateful tests of rules had to do with a packet's end; `tried` tells where a rule
/// comes from.
pub(crate) fn tested<'o>(
    met: &Met<'_>,
    explainer: &Explainer,
    tried: impl Fn(RuleId) -> Option<&'o RuleOrigin>,
) -> Option<Advice> {
    explainer.stateful().find_map(|(id, truth, steps)| {
        let rule = tried(id)?;
        let place = format!("{} {}", rule.chain, rule.number);
        let state = steps.join("; ");
        if met.fate.rule() == Some(id) && rule.text.contains("-m recent ") {
            return listed(&place, &rule.text, &state);
        }
        let passed = *met.fate == Fate::Accept && truth == Truth::False;
        let limits = rule.text.contains("-m limit ") && rule.text.ends_with("-j ACCEPT");
        if !(passed && limits && state.contains("bucket empty")) {
            return None;
        }
        let by = met.origin.map_or(String::new(), |o| match o.number {
            0 => format!("the {} policy", o.chain),
            n => format!("{} {n}", o.chain),
        });
        let (tool, table) = (tool(explainer.family()), rule.table.name());
        Some(Advice {
            code: "TG120",
            text: format!(
                "{place} limits, {state}, and does not match; {by} accepts the packet all the same"
            ),
            remedy: format!(
                "{tool} -t {table} -I {} {} {}",
                rule.chain,
                rule.number + 1,
                unlimited(&rule.text)
            ),
        })
    })
}

/// A rule refused because of a list.
fn listed(place: &str, text: &str, state: &str) -> Option<Advice> {
    let name = text.split_once("--name ")?.1.split(' ').next()?;
    let addr = state
        .split(' ')
        .next()
        .filter(|a| a.parse::<IpAddr>().is_ok())?;
    Some(Advice {
        code: "TG123",
        text: format!("{place} refuses because {state}"),
        remedy: format!("tidegate recent {name} -{addr}"),
    })
}

/// The rule behind its chain that drops what the limit does not cover.
fn unlimited(text: &str) -> String {
    let mut words = text.split(' ').skip(2).peekable();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "-m" if words.peek() == Some(&"limit") => _ = words.next(),
            "--limit" | "--limit-burst" => _ = words.next(),
            "ACCEPT" => kept.push("DROP"),
            other => kept.push(other),
        }
    }
    kept.join(" ")
}

/// Where FTP servers and clients said that data connections will come to.
#[derive(Debug, Default)]
pub(crate) struct Announced(HashMap<(IpAddr, u16), (u64, IpAddr)>);

impl Announced {
    /// Takes note of what packet `number` announces.
    pub(crate) fn note(&mut self, number: u64, bytes: &[u8], layout: &Layout) {
        if layout.proto != proto::TCP {
            return;
        }
        let l4 = layout.l4(bytes);
        if be16(l4, 0) != Some(CONTROL) && be16(l4, 2) != Some(CONTROL) {
            return;
        }
        let Some(ends) = crate::course::ends_of(bytes) else {
            return;
        };
        let start = l4.get(12).map_or(20, |b| usize::from(b >> 4) * 4);
        let said = l4.get(start..).unwrap_or_default();
        let server = if ends.sport == CONTROL {
            ends.src
        } else {
            ends.dst
        };
        if let Some(at) = announced(said, ends.src) {
            if self.0.len() == ANNOUNCED {
                self.0.clear();
            }
            self.0.insert(at, (number, server));
        }
    }

    /// Advice on a refused packet that opens an announced connection.
    pub(crate) fn refused(&mut self, met: &Met<'_>) -> Option<Advice> {
        if self.0.is_empty() || met.fate.rule().is_none() || met.walk.state.name() != "NEW" {
            return None;
        }
        let layout = parse(met.bytes).ok()?;
        let to = (
            address(layout.family, layout.dst(met.bytes)),
            crate::course::ends_of(met.bytes)?.dport,
        );
        let (number, server) = *self.0.get(&to)?;
        let tool = tool(layout.family);
        let chain = match met.walk.hooks.contains(&Hook::Output) {
            true => "OUTPUT",
            false => "PREROUTING",
        };
        Some(Advice {
            code: "TG040",
            text: format!(
                "FTP: packet {number} announced port {} of {}, and the data connection there is refused, \
                 because no helper watches the connection with {server}",
                to.1, to.0
            ),
            remedy: format!("{tool} -t raw -A {chain} -p tcp --dport 21 -j CT --helper ftp"),
        })
    }
}

/// The end that `227`, `229`, `PORT` or `EPRT` names (RFC 959, RFC 2428).
fn announced(said: &[u8], speaker: IpAddr) -> Option<(IpAddr, u16)> {
    let line = std::str::from_utf8(said.split(|&b| b == b'\r').next()?).ok()?;
    let verb = line.get(..4)?.to_ascii_uppercase();
    match verb.as_str() {
        "227 " | "PORT" => {
            let first = line.get(4..)?.find(|c: char| c.is_ascii_digit())? + 4;
            let numbers = line.get(first..)?.split(|c: char| !c.is_ascii_digit());
            let n: Vec<u8> = numbers
                .take(6)
                .map(str::parse)
                .collect::<Result<_, _>>()
                .ok()?;
            let &[a, b, c, d, high, low] = n.as_slice() else {
                return None;
            };
            Some((IpAddr::from([a, b, c, d]), u16::from_be_bytes([high, low])))
        }
        "229 " => {
            let port = line.split("|||").nth(1)?.split('|').next()?.parse().ok()?;
            Some((speaker, port))
        }
        "EPRT" => {
            let mut parts = line.split('|').skip(2);
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ftp_announces_in_four_ways() {
        let speaker: IpAddr = "192.0.2.9".parse().unwrap();
        let end = |a: &str, p| Some((a.parse::<IpAddr>().unwrap(), p));
        for (said, wanted) in [
            (
                "227 Entering Passive Mode (192,0,2,9,118,209).\r\n",
                end("192.0.2.9", 30417),
            ),
            ("PORT 10,0,0,1,4,1\r\n", end("10.0.0.1", 1025)),
            (
                "229 Entering Extended Passive Mode (|||6446|)\r\n",
                end("192.0.2.9", 6446),
            ),
            ("EPRT |2|2001:db8::7|5282|\r\n", end("2001:db8::7", 5282)),
            ("220 welcome\r\n", None),
            ("227 (1,2,3)\r\n", None),
            ("PORT 300,0,0,1,4,1\r\n", None),
            ("EPRT ||\r\n", None),
        ] {
            assert_eq!(announced(said.as_bytes(), speaker), wanted, "{said}");
        }
    }
}
