//! The host as packets and rules suggest it, when nobody describes it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tidegate_engine::Config;
use tidegate_engine::env::{
    Env, IfIndex, Interface, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_host::{Host, LOOPBACK, number};
use tidegate_ir::{Hook, TableKind};
use tidegate_syntax::{Iface, Spec};
use tidegate_wire::Family;

use crate::packets::Described;
use crate::replay::rules::Rules;

const DEFAULT_INTERFACE: &str = "eth0";

/// What is being put together.
#[derive(Default)]
struct Guess {
    /// Addresses with prefix lengths by interface.
    links: BTreeMap<String, BTreeSet<(Family, u128, u8)>>,
    /// Single destinations behind an interface.
    behind: BTreeMap<(Family, u128), String>,
    /// Where everything else is.
    default: Option<String>,
    forwards: bool,
    reasons: Vec<String>,
}

/// The host, and what was guessed, a sentence each.
pub(super) fn guess(rules: &Rules, packets: &[Described]) -> (Host, Vec<String>) {
    let mut guess = Guess::default();
    guess.rules(rules);
    for packet in packets {
        guess.packet(packet);
    }
    guess.finish(rules)
}

/// `eth+` stands for some `eth0`.
fn concrete(iface: &Iface) -> Option<String> {
    match iface.name.strip_suffix('+') {
        Some("") => None,
        Some(start) => Some(format!("{start}0")),
        None => Some(iface.name.clone()),
    }
}

fn specs(rules: &Rules) -> impl Iterator<Item = (Family, TableKind, Option<Hook>, &Spec)> {
    rules.0.iter().flat_map(|l| {
        let family = l.source.family;
        l.source.tables.iter().flat_map(move |t| {
            t.chains().flat_map(move |c| {
                let hook = c.base.as_ref().map(|b| b.hook);
                c.rules
                    .iter()
                    .map(move |r| (family, t.kind, hook, &*r.spec))
            })
        })
    })
}

impl Guess {
    fn rules(&mut self, rules: &Rules) {
        for (family, table, hook, spec) in specs(rules) {
            for name in [&spec.input, &spec.output].into_iter().flatten() {
                if let Some(name) = concrete(name).filter(|n| n != "lo") {
                    self.links.entry(name).or_default();
                }
            }
            self.forwards |= hook == Some(Hook::Forward) || table == TableKind::Nat;
            // A destination that rules expect behind an interface.
            let single = spec.dst.filter(|n| !n.invert && n.mask == all(family));
            let name = spec
                .output
                .as_ref()
                .filter(|o| !o.invert)
                .and_then(concrete);
            if let (Some(net), Some(name)) = (single, name) {
                self.behind.insert((family, net.addr), name);
            }
        }
    }

    fn packet(&mut self, packet: &Described) {
        let (family, src) = number(packet.src);
        let dst = number(packet.dst).1;
        let loopback = |a: IpAddr| a.is_loopback();
        if loopback(packet.src) || loopback(packet.dst) {
            return;
        }
        let first = || DEFAULT_INTERFACE.to_owned();
        match (packet.input.clone(), packet.output.clone()) {
            (Some(name), Some(out)) => {
                self.forwards = true;
                self.link(&name, family, beside(src, dst));
                self.link(&out, family, beside(dst, src));
                self.behind.insert((family, src), name.clone());
                self.behind.insert((family, dst), out.clone());
                self.default.get_or_insert(out);
                self.say(format!(
                    "{} is behind {name}: it is received there",
                    packet.src
                ));
            }
            (None, Some(out)) => {
                self.link(&out, family, src);
                self.default.get_or_insert(out);
                self.say(format!("{} is this host: it sends", packet.src));
            }
            (input, None) => {
                let said = input.is_some();
                let name = input.unwrap_or_else(first);
                let own = self
                    .links
                    .values()
                    .flatten()
                    .any(|a| (a.0, a.1) == (family, src));
                if own {
                    return;
                }
                if name == "lo" {
                    self.link(DEFAULT_INTERFACE, family, dst);
                    return;
                }
                self.link(&name, family, dst);
                self.default.get_or_insert(name.clone());
                let how = if said { "" } else { " (nothing said: by eth0)" };
                self.say(format!(
                    "{} is this host: packets come in to it{how}",
                    packet.dst
                ));
            }
        }
    }

    fn link(&mut self, name: &str, family: Family, addr: u128) {
        let len = match family {
            Family::V4 => 24,
            Family::V6 => 64,
        };
        let link = self.links.entry(name.to_owned()).or_default();
        link.insert((family, addr, len));
    }

    fn say(&mut self, reason: String) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn finish(mut self, rules: &Rules) -> (Host, Vec<String>) {
        if self.links.is_empty() {
            self.links
                .insert(DEFAULT_INTERFACE.to_owned(), BTreeSet::new());
        }
        let default = self.default.clone();
        let default = default.or_else(|| self.links.keys().next().cloned());
        self.targets(rules, default.as_deref());
        let mut interfaces = vec![loopback()];
        for (at, (name, addresses)) in (0u32..).zip(&self.links) {
            interfaces.push(interface(at, name, addresses));
        }
        let index = |name: &str| interfaces.iter().find(|i| i.name == name).map(|i| i.index);
        let mut routes = Vec::new();
        for family in [Family::V4, Family::V6] {
            let dev = default.as_deref().and_then(index);
            routes.extend(dev.map(|d| route(family, 0, 0, d)));
        }
        for ((family, addr), name) in &self.behind {
            let dev = index(name);
            let own = interfaces
                .iter()
                .flat_map(|i| &i.addresses)
                .any(|a| a.family == *family && a.addr == *addr);
            if let (Some(dev), false) = (dev, own) {
                routes.push(route(*family, *addr, width(*family), dev));
            }
        }
        let settings = Settings {
            forward4: self.forwards,
            forward6: self.forwards,
            ..Settings::default()
        };
        let host = Host {
            sockets: None,
            env: Env::new(interfaces, &routes, &[], settings),
            config: Config::default(),
        };
        (host, self.reasons)
    }

    /// Where translated destinations are: behind the interface that rules give them,
    /// else behind one that is not the default one.
    fn targets(&mut self, rules: &Rules, default: Option<&str>) {
        let other = self
            .links
            .keys()
            .find(|n| Some(n.as_str()) != default)
            .cloned();
        for loaded in &rules.0 {
            let family = loaded.source.family;
            for (_, _, rule) in loaded.lowered.rules() {
                for effect in &rule.effects {
                    let tidegate_ir::Effect::Nat(spec) = effect else {
                        continue;
                    };
                    if let (tidegate_ir::Manip::Dst, tidegate_ir::NatSource::Range(lo, _)) =
                        (spec.manip, spec.addr)
                        && let Some(other) = &other
                    {
                        self.behind
                            .entry((family, lo))
                            .or_insert_with(|| other.clone());
                    }
                }
            }
        }
    }
}

/// An address for this host in the network of `addr`: its first one, or the second.
fn beside(addr: u128, not: u128) -> u128 {
    let network = addr & !0xff;
    let free = (1..=254).map(|n| network | n);
    let mut free = free.filter(|a| *a != addr && *a != not);
    free.next().unwrap_or(network | 1)
}

const fn all(family: Family) -> u128 {
    match family {
        Family::V4 => u32::MAX as u128,
        Family::V6 => u128::MAX,
    }
}

const fn width(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

const fn route(family: Family, addr: u128, len: u8, dev: IfIndex) -> Route {
    Route {
        to: Prefix { family, addr, len },
        table: TABLE_MAIN,
        kind: RouteType::Unicast,
        dev: Some(dev),
        via: None,
        src: None,
        realm: 0,
        metric: 0,
    }
}

fn interface(at: u32, name: &str, addresses: &BTreeSet<(Family, u128, u8)>) -> Interface {
    let mut addresses: Vec<Prefix> = addresses
        .iter()
        .map(|&(family, addr, len)| Prefix { family, addr, len })
        .collect();
    // MASQUERADE and REDIRECT need one: of the block that is for tests (RFC 2544).
    if !addresses.iter().any(|a| a.family == Family::V4) {
        addresses.push(Prefix {
            family: Family::V4,
            addr: u128::from(0xc612_0001 + (at << 8)),
            len: 24,
        });
    }
    Interface {
        index: IfIndex(LOOPBACK.0 + 1 + at),
        name: name.to_owned(),
        addresses,
        group: 0,
        mtu: 1500,
        mac: None,
        loopback: false,
    }
}

fn loopback() -> Interface {
    let own = |family, addr, len| Prefix { family, addr, len };
    Interface {
        index: LOOPBACK,
        name: "lo".to_owned(),
        addresses: vec![own(Family::V4, 0x7f00_0001, 8), own(Family::V6, 1, 128)],
        group: 0,
        mtu: 65_536,
        mac: None,
        loopback: true,
    }
}
