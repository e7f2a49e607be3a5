//! The host as the capture and the rules suggest it, when nobody describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use tidegate_engine::Config;
use tidegate_engine::env::{
    Env, IfIndex, Interface, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_ir::Hook;
use tidegate_wire::Family;

use super::rules::Rules;
use super::survey::{Addr, Port, Survey, Talk, can_look_twice};
use tidegate_host::{Host, LOOPBACK, address};

/// More addresses than this behind one hardware address are a router's traffic.
const OWN_BY_MAC: usize = 8;
const MTU: u32 = 1500;

/// An inferred host and the reasons, one sentence a line.
pub(super) struct Inferred {
    /// The host.
    pub(super) host: Host,
    /// What was inferred and why.
    pub(super) reasons: Vec<String>,
}

/// What the rules say about the host they are for.
#[derive(Debug, Default)]
struct Hints {
    /// Single addresses that INPUT rules have as destination or OUTPUT rules as source.
    own: BTreeSet<Addr>,
    /// Interface names without wildcards.
    names: BTreeSet<String>,
    /// FORWARD has rules.
    forwards: bool,
}

impl Hints {
    fn new(rules: &Rules) -> Self {
        let mut hints = Hints::default();
        for loaded in &rules.0 {
            let family = loaded.source.family;
            let all = match family {
                Family::V4 => u128::from(u32::MAX),
                Family::V6 => u128::MAX,
            };
            for chain in loaded.source.tables.iter().flat_map(|t| t.chains()) {
                let hook = chain.base.as_ref().map(|b| b.hook);
                hints.forwards |= hook == Some(Hook::Forward) && !chain.rules.is_empty();
                for rule in &chain.rules {
                    let spec = &rule.spec;
                    let own = match hook {
                        Some(Hook::Input) => spec.dst,
                        Some(Hook::Output) => spec.src,
                        _ => None,
                    };
                    hints.own.extend(
                        own.filter(|n| n.mask == all && !n.invert)
                            .map(|n| (family, n.addr)),
                    );
                    let names = [&spec.input, &spec.output].into_iter().flatten();
                    hints.names.extend(
                        names
                            .filter(|i| !i.name.ends_with('+') && i.name != "lo")
                            .map(|i| i.name.clone()),
                    );
                }
            }
        }
        hints
    }
}

/// Infers the host from captures and rules.
///
/// # Errors
/// A capture cannot be opened, or cannot be read twice.
pub(super) fn infer(paths: &[PathBuf], rules: &Rules) -> Result<Inferred> {
    if let Some(path) = paths.iter().find(|p| !can_look_twice(p)) {
        bail!(
            "{}: can be read only once: describe the host with --host",
            path.display()
        );
    }
    let survey = Survey::look(paths)?;
    let hints = Hints::new(rules);
    let mut reasons = Vec::new();
    let own = own_addresses(&survey, &hints, &mut reasons);
    let names = name_ports(&survey, &hints, paths, &mut reasons);
    let forward = forwards(&survey, &hints, &own, &mut reasons);
    let interfaces = interfaces(&survey, &own, &names);
    let routes = routes(&survey, &own, &interfaces, &names, &mut reasons);
    let settings = Settings {
        forward4: forward,
        forward6: forward,
        ..Settings::default()
    };
    Ok(Inferred {
        host: Host {
            sockets: None,
            env: Env::new(interfaces, &routes, &[], settings),
            config: Config::default(),
        },
        reasons,
    })
}

fn list(addrs: &BTreeMap<Addr, u8>) -> String {
    let mut out = String::new();
    for addr in addrs.keys() {
        let separator = if out.is_empty() { "" } else { ", " };
        let _ = write!(out, "{separator}{}", address(addr.0, addr.1));
    }
    out
}

/// Addresses of this host with their prefix lengths.
fn own_addresses(survey: &Survey, hints: &Hints, reasons: &mut Vec<String>) -> BTreeMap<Addr, u8> {
    let stated = survey.stated.iter().map(|s| (s.1, s.2));
    let mut own: BTreeMap<Addr, u8> = stated.collect();
    let mut because = "the capture says so";
    if own.is_empty() && survey.directed > 0 {
        let directed = survey.talks.iter().filter(|(_, t)| is_own_by_direction(t));
        own.extend(directed.map(|(a, _)| with_len(*a)));
        because = "packets come in to them or go out from them, never the other way";
    }
    if own.is_empty() {
        let hinted = hints.own.iter().filter(|a| survey.talks.contains_key(a));
        own.extend(hinted.map(|a| with_len(*a)));
        because = "INPUT and OUTPUT rules name them";
    }
    if own.is_empty() {
        for family in [Family::V4, Family::V6] {
            own.extend(most_frequent(survey, family).map(with_len));
        }
        because = "most packets are to or from them";
    }
    if own.is_empty() {
        reasons.push("no addresses are this host's: nothing in the capture tells".to_owned());
        return own;
    }
    reasons.push(format!("this host is {}: {because}", list(&own)));
    let more = same_mac(survey, &own);
    if !more.is_empty() {
        reasons.push(format!("and {}: the same network card", list(&more)));
        own.extend(more);
    }
    own
}

/// Networks are not in a capture; /24 and /64 are the usual ones.
const fn with_len(addr: Addr) -> (Addr, u8) {
    match addr.0 {
        Family::V4 => (addr, 24),
        Family::V6 => (addr, 64),
    }
}

const fn is_own_by_direction(t: &Talk) -> bool {
    t.from_out + t.to_in > 0 && t.from_in + t.to_out == 0
}

fn most_frequent(survey: &Survey, family: Family) -> Option<Addr> {
    let of_family = survey.talks.iter().filter(|(a, _)| a.0 == family);
    let best = of_family.max_by_key(|(a, t)| {
        let count: u64 = t.ports.values().sum();
        (count, t.opened, std::cmp::Reverse((t.first, a.1)))
    });
    best.map(|(a, _)| *a)
}

/// Further addresses that send from a hardware address of this host.
fn same_mac(survey: &Survey, own: &BTreeMap<Addr, u8>) -> BTreeMap<Addr, u8> {
    let macs: BTreeSet<[u8; 6]> = own_macs(survey, own).into_values().collect();
    let more: BTreeMap<Addr, u8> = survey
        .talks
        .iter()
        .filter(|(a, t)| !own.contains_key(a) && t.mac.is_some_and(|m| macs.contains(&m)))
        .filter(|(_, t)| t.from_in == 0)
        .map(|(a, _)| with_len(*a))
        .collect();
    if more.len() > OWN_BY_MAC {
        return BTreeMap::new();
    }
    more
}

/// Hardware addresses that this host sends from, per interface.
fn own_macs(survey: &Survey, own: &BTreeMap<Addr, u8>) -> BTreeMap<Port, [u8; 6]> {
    let mut macs = survey.macs.clone();
    for (addr, talk) in &survey.talks {
        if own.contains_key(addr)
            && talk.from_in == 0
            && let (Some(mac), Some(port)) = (talk.mac, busiest(talk))
        {
            macs.entry(port.clone()).or_insert(mac);
        }
    }
    macs
}

fn busiest(talk: &Talk) -> Option<&Port> {
    talk.ports.iter().max_by_key(|p| p.1).map(|p| p.0)
}

/// Names for the interfaces of the capture.
fn name_ports(
    survey: &Survey,
    hints: &Hints,
    paths: &[PathBuf],
    reasons: &mut Vec<String>,
) -> BTreeMap<Port, String> {
    let mut names = BTreeMap::new();
    let unnamed = survey
        .ports
        .keys()
        .filter(|p| matches!(p, Port::Unnamed | Port::Index(_)));
    let alone = unnamed.count() == 1;
    let stems = paths.iter().filter_map(|p| p.file_stem());
    let stem = stems
        .map(|s| s.to_string_lossy().into_owned())
        .find(|s| hints.names.contains(s));
    for port in survey.ports.keys() {
        let name = match port {
            Port::Loopback => continue,
            Port::Named(name) => name.clone(),
            Port::Unnamed | Port::Index(_) => {
                let (name, because) = match (&stem, hints.names.first(), port) {
                    (Some(stem), _, _) if alone => (stem.clone(), "as the file is called"),
                    (None, Some(only), _) if alone && hints.names.len() == 1 => {
                        (only.clone(), "the only name in the rules")
                    }
                    (_, _, Port::Index(n)) => (format!("if{n}"), "the capture has its number only"),
                    _ => ("eth0".to_owned(), "the capture does not name it"),
                };
                reasons.push(format!("the interface is {name}: {because}"));
                name
            }
        };
        names.insert(port.clone(), name);
    }
    for name in &hints.names {
        if !names.values().any(|n| n == name) {
            reasons.push(format!(
                "rules name {name}, which no interface of the capture is called: they will not match"
            ));
        }
    }
    names
}

fn forwards(
    survey: &Survey,
    hints: &Hints,
    own: &BTreeMap<Addr, u8>,
    reasons: &mut Vec<String>,
) -> bool {
    let others = || survey.talks.iter().filter(|(a, _)| !own.contains_key(a));
    let because = if others().any(|(_, t)| t.from_out > 0) {
        "packets of others leave it"
    } else if hints.forwards && others().any(|(_, t)| t.to_in > 0) {
        "FORWARD has rules and packets for others come in"
    } else {
        return false;
    };
    reasons.push(format!("this host forwards: {because}"));
    true
}

fn interfaces(
    survey: &Survey,
    own: &BTreeMap<Addr, u8>,
    names: &BTreeMap<Port, String>,
) -> Vec<Interface> {
    let macs = own_macs(survey, own);
    let mut next = LOOPBACK.0;
    let mut made = Vec::new();
    for (port, name) in names {
        let index = match port {
            Port::Index(n) => *n,
            Port::Named(_) | Port::Unnamed | Port::Loopback => {
                next += 1;
                while names.contains_key(&Port::Index(next)) {
                    next += 1;
                }
                next
            }
        };
        let here = |addr: &Addr| {
            let stated = survey.stated.iter().find(|s| s.1 == *addr).map(|s| &s.0);
            let seen = survey.talks.get(addr).and_then(busiest);
            stated.or(seen) == Some(port)
        };
        made.push(Interface {
            index: IfIndex(index),
            name: name.clone(),
            addresses: own
                .iter()
                .filter(|(a, _)| here(a))
                .map(|(a, len)| Prefix {
                    family: a.0,
                    addr: a.1,
                    len: *len,
                })
                .collect(),
            group: 0,
            mtu: survey.ports.get(port).copied().unwrap_or(0).max(MTU),
            mac: macs.get(port).copied(),
            loopback: false,
        });
    }
    made
}

/// A default route, and one per far address where there are several interfaces.
fn routes(
    survey: &Survey,
    own: &BTreeMap<Addr, u8>,
    interfaces: &[Interface],
    names: &BTreeMap<Port, String>,
    reasons: &mut Vec<String>,
) -> Vec<Route> {
    let device = |port: &Port| {
        let name = names.get(port)?;
        interfaces.iter().find(|i| i.name == *name).map(|i| i.index)
    };
    let mut behind: BTreeMap<IfIndex, Vec<Addr>> = BTreeMap::new();
    for (addr, talk) in survey.talks.iter().filter(|(a, _)| !own.contains_key(a)) {
        if let Some(dev) = busiest(talk).and_then(device) {
            behind.entry(dev).or_default().push(*addr);
        }
    }
    let busiest = behind.iter().max_by_key(|b| b.1.len()).map(|b| *b.0);
    let Some(default) = busiest.or_else(|| interfaces.first().map(|i| i.index)) else {
        return Vec::new();
    };
    let route = |family, addr, len, dev| Route {
        to: Prefix { family, addr, len },
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        dev: Some(dev),
        via: None,
        src: None,
        realm: 0,
        metric: 0,
    };
    let mut all = vec![
        route(Family::V4, 0, 0, default),
        route(Family::V6, 0, 0, default),
    ];
    if interfaces.len() > 1 {
        let name = interfaces.iter().find(|i| i.index == default);
        let name = name.map_or("", |i| i.name.as_str());
        reasons.push(format!(
            "far addresses are where they were seen, all others behind {name}"
        ));
        for (dev, addrs) in &behind {
            let len = |family| match family {
                Family::V4 => 32,
                Family::V6 => 128,
            };
            all.extend(addrs.iter().map(|a| route(a.0, a.1, len(a.0), *dev)));
        }
    }
    all
}
