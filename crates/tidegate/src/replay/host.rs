//! The described host: interfaces, addresses, routes, sysctls, from a TOML file.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use tidegate_engine::conntrack::{Config as CtConfig, HelperKind, HelperPort};
use tidegate_engine::env::{
    Env, IfIndex, Interface, PolicyRule, Prefix, Route, RouteType, Settings, TABLE_MAIN,
};
use tidegate_engine::{Config, TrackWhen};
use tidegate_wire::{Family, proto};

/// The index of loopback on every Linux machine.
pub(super) const LOOPBACK: IfIndex = IfIndex(1);

/// What replay needs to know about the machine that the rules run on.
#[derive(Debug)]
pub(super) struct Host {
    /// Interfaces, routes, settings.
    pub(super) env: Env,
    /// Settings of the engine.
    pub(super) config: Config,
}

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    host: General,
    #[serde(default, rename = "interface")]
    interfaces: Vec<Link>,
    #[serde(default, rename = "route")]
    routes: Vec<Way>,
    #[serde(default, rename = "rule")]
    rules: Vec<Selector>,
    #[serde(default)]
    sysctl: BTreeMap<String, u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct General {
    #[serde(default)]
    forward: bool,
    #[serde(default)]
    conntrack: Tracking,
    #[serde(default)]
    helpers: Vec<Helper>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tracking {
    #[default]
    Auto,
    On,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    name: IfName,
    index: Option<u32>,
    #[serde(default)]
    addresses: Vec<Cidr>,
    #[serde(default = "ethernet_mtu")]
    mtu: u32,
    mac: Option<Mac>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Way {
    to: To,
    via: Option<IpAddr>,
    dev: Option<String>,
    table: Option<u32>,
    src: Option<IpAddr>,
    metric: Option<u32>,
    #[serde(default, rename = "type")]
    kind: Kind,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Unicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    fwmark: Option<Mark>,
    from: Option<Cidr>,
    table: u32,
    #[serde(default = "first_priority")]
    priority: u32,
}

/// Declares a string with a meaning of its own, checked while the file is read so
/// that errors name line and key.
macro_rules! word {
    ($name:ident($inner:ty), $parse:expr) => {
        #[derive(Clone, Debug, Deserialize)]
        #[serde(try_from = "String")]
        struct $name($inner);
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(&text).map($name)
            }
        }
    };
}

word!(IfName(String), |text| {
    let fits = (1..=15).contains(&text.len());
    let clean = !text.contains(|c: char| c == '/' || c.is_whitespace());
    (fits && clean)
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is no interface name (1 to 15 bytes)"))
});
word!(Cidr(Prefix), parse_prefix);
word!(To(Option<Prefix>), |text| match text {
    "default" => Ok(None),
    _ => parse_prefix(text).map(Some),
});
word!(Mac([u8; 6]), |text| parse_mac(text)
    .ok_or_else(|| format!("`{text}` is no hardware address")));
word!(Helper(HelperPort), parse_helper);

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Mark {
    Number(u32),
    Text(String),
}

const fn ethernet_mtu() -> u32 {
    1500
}

const fn first_priority() -> u32 {
    32765
}

/// An address as the engine holds it.
pub(super) fn number(addr: IpAddr) -> (Family, u128) {
    match addr {
        IpAddr::V4(a) => (Family::V4, u128::from(a.to_bits())),
        IpAddr::V6(a) => (Family::V6, a.to_bits()),
    }
}

/// An address as people write it.
pub(super) fn address(family: Family, value: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4((value as u32).into()),
        Family::V6 => IpAddr::V6(value.into()),
    }
}

const fn width(family: Family) -> u8 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let (addr, len) = text
        .split_once('/')
        .map_or((text, None), |(a, l)| (a, Some(l)));
    let addr = IpAddr::from_str(addr).map_err(|_| format!("`{addr}` is no address"))?;
    let (family, addr) = number(addr);
    let len = match len.map(u8::from_str) {
        None => width(family),
        Some(Ok(len)) if len <= width(family) => len,
        Some(_) => return Err(format!("`{text}`: prefix length beyond {}", width(family))),
    };
    Ok(Prefix { family, addr, len })
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// `ftp`, or `ftp:2121` for another port.
fn parse_helper(text: &str) -> Result<HelperPort, String> {
    let (name, port) = text
        .split_once(':')
        .map_or((text, None), |(n, p)| (n, Some(p)));
    let kind = HelperKind::by_name(name).ok_or_else(|| format!("no helper is called `{name}`"))?;
    let port = match (kind, port) {
        (HelperKind::Ftp, None) => 21,
        (_, Some(port)) => port
            .parse()
            .map_err(|_| format!("`{port}` is no port number"))?,
    };
    Ok(HelperPort {
        kind,
        proto: proto::TCP,
        port,
    })
}

fn parse_u32(text: &str) -> Result<u32> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| anyhow!("`{text}` is no 32-bit number"))
}

impl Mark {
    fn value(&self) -> Result<(u32, u32)> {
        match self {
            Mark::Number(n) => Ok((*n, u32::MAX)),
            Mark::Text(text) => match text.split_once('/') {
                Some((value, mask)) => Ok((parse_u32(value)?, parse_u32(mask)?)),
                None => Ok((parse_u32(text)?, u32::MAX)),
            },
        }
    }
}

impl Host {
    /// Reads a description.
    ///
    /// # Errors
    /// The file cannot be read or says something impossible; file, line and key are
    /// named.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let file: File =
            toml::from_str(text).map_err(|e| anyhow!("{}", e.to_string().trim_end()))?;
        let interfaces = interfaces(&file.interfaces)?;
        let mut routes = Vec::new();
        for way in &file.routes {
            routes.extend(way.routes(&interfaces)?);
        }
        let mut rules = Vec::new();
        for selector in &file.rules {
            rules.extend(selector.rules()?);
        }
        let mut settings = Settings {
            forward4: file.host.forward,
            forward6: file.host.forward,
            ..Settings::default()
        };
        let mut conntrack = CtConfig {
            helpers: file.host.helpers.iter().map(|h| h.0).collect(),
            ..CtConfig::default()
        };
        for (name, value) in &file.sysctl {
            if !sysctl(name, *value, &mut settings, &mut conntrack) {
                bail!("[sysctl]: `{name}` has no meaning here");
            }
        }
        let track = match file.host.conntrack {
            Tracking::Auto => TrackWhen::Needed,
            Tracking::On => TrackWhen::Always,
        };
        Ok(Host {
            env: Env::new(interfaces, &routes, &rules, settings),
            config: Config {
                conntrack,
                track,
                ..Config::default()
            },
        })
    }
}

fn interfaces(links: &[Link]) -> Result<Vec<Interface>> {
    let mut made: Vec<Interface> = Vec::new();
    for link in links {
        let name = link.name.0.clone();
        if made.iter().any(|i| i.name == name) {
            bail!("[[interface]]: `{name}` is described twice");
        }
        let loopback = name == "lo";
        let free = |n: &u32| {
            !made.iter().any(|i| i.index.0 == *n) && !links.iter().any(|l| l.index == Some(*n))
        };
        let index = match link.index {
            Some(n) if made.iter().any(|i| i.index.0 == n) => {
                bail!("[[interface]] `{name}`: index {n} is taken")
            }
            Some(n) => n,
            None if loopback => LOOPBACK.0,
            None => (LOOPBACK.0 + 1..).find(free).unwrap_or(u32::MAX),
        };
        made.push(Interface {
            index: IfIndex(index),
            addresses: if loopback && link.addresses.is_empty() {
                loopback_addresses()
            } else {
                link.addresses.iter().map(|a| a.0).collect()
            },
            mtu: link.mtu,
            mac: link.mac.as_ref().map(|m| m.0),
            loopback,
            name,
        });
    }
    Ok(made)
}

fn loopback_addresses() -> Vec<Prefix> {
    let v4 = Prefix {
        family: Family::V4,
        addr: 0x7f00_0001,
        len: 8,
    };
    let v6 = Prefix {
        family: Family::V6,
        addr: 1,
        len: 128,
    };
    vec![v4, v6]
}

impl Way {
    /// One route, or one per family for a default route without gateway.
    fn routes(&self, interfaces: &[Interface]) -> Result<Vec<Route>> {
        let named = match (&self.to.0, self.via) {
            (Some(to), _) => vec![to.family],
            (None, Some(via)) => vec![number(via).0],
            (None, None) => vec![Family::V4, Family::V6],
        };
        let kind = match self.kind {
            Kind::Unicast => RouteType::Unicast,
            Kind::Blackhole => RouteType::Blackhole,
            Kind::Unreachable => RouteType::Unreachable,
            Kind::Prohibit => RouteType::Prohibit,
            Kind::Throw => RouteType::Throw,
        };
        let dev = self.device(interfaces)?;
        if dev.is_none() && kind == RouteType::Unicast {
            bail!("[[route]]: needs `dev`, or `via` in the network of an interface");
        }
        let of = |family| Route {
            to: self.to.0.unwrap_or(Prefix {
                family,
                addr: 0,
                len: 0,
            }),
            table: self.table.unwrap_or(TABLE_MAIN),
            kind,
            dev,
            via: self.via.map(|a| number(a).1),
            src: self.src.map(|a| number(a).1),
            metric: self.metric.unwrap_or(0),
        };
        Ok(named.into_iter().map(of).collect())
    }

    fn device(&self, interfaces: &[Interface]) -> Result<Option<IfIndex>> {
        if let Some(name) = &self.dev {
            let found = interfaces.iter().find(|i| i.name == *name);
            return match found {
                Some(i) => Ok(Some(i.index)),
                None => bail!("[[route]]: there is no interface `{name}`"),
            };
        }
        let reaches = |i: &&Interface| {
            self.via.map(number).is_some_and(|(family, via)| {
                let mut own = i.addresses.iter();
                own.any(|a| a.family == family && a.contains(via))
            })
        };
        Ok(interfaces.iter().find(reaches).map(|i| i.index))
    }
}

impl Selector {
    fn rules(&self) -> Result<Vec<PolicyRule>> {
        let fwmark = self.fwmark.as_ref().map(Mark::value).transpose();
        let fwmark = fwmark.context("[[rule]]: `fwmark`")?;
        let from = self.from.as_ref().map(|c| c.0);
        let families = match from {
            Some(from) => vec![from.family],
            None => vec![Family::V4, Family::V6],
        };
        let of = |family| PolicyRule {
            family,
            priority: self.priority,
            fwmark,
            from,
            table: self.table,
        };
        Ok(families.into_iter().map(of).collect())
    }
}

/// Sets a sysctl by its full name; `false` when it is not one that counts here.
fn sysctl(name: &str, value: u32, settings: &mut Settings, conntrack: &mut CtConfig) -> bool {
    if let Some(rest) = name.strip_prefix("net.netfilter.nf_conntrack_") {
        return conntrack.set_sysctl(rest, value);
    }
    let flag = match name {
        "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => &mut settings.forward4,
        "net.ipv6.conf.all.forwarding" => &mut settings.forward6,
        "net.ipv4.conf.all.route_localnet" => &mut settings.route_localnet,
        "net.ipv4.icmp_errors_use_inbound_ifaddr" => &mut settings.icmp_errors_use_inbound_ifaddr,
        "net.ipv4.fwmark_reflect" => &mut settings.fwmark_reflect,
        "net.ipv4.ip_default_ttl" => {
            settings.default_ttl = u8::try_from(value).unwrap_or(u8::MAX);
            return true;
        }
        _ => return false,
    };
    *flag = value != 0;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: &str = r#"
[host]
forward = true
helpers = ["ftp", "ftp:2121"]
[[interface]]
name = "eth0"
addresses = ["10.0.0.1/24", "fd00::1/64"]
mac = "02:00:00:00:00:01"
[[interface]]
name = "eth1"
index = 2
addresses = ["192.0.2.1/30"]
mtu = 1400
[[route]]
to = "default"
via = "192.0.2.2"
[[route]]
to = "10.9.0.0/16"
via = "10.0.0.254"
dev = "eth0"
table = 10
[[rule]]
fwmark = "0x1/0xff"
table = 10
priority = 100
[sysctl]
"net.netfilter.nf_conntrack_tcp_loose" = 0
"net.netfilter.nf_conntrack_udp_timeout" = 7
"#;

    fn v4(text: &str) -> u128 {
        number(text.parse().unwrap()).1
    }

    #[test]
    fn a_router_is_understood() {
        let host = Host::parse(ROUTER).unwrap();
        let env = &host.env;
        let eth0 = env.interface_named("eth0").unwrap();
        let eth1 = env.interface_named("eth1").unwrap();
        assert_eq!((eth0.index, eth1.index), (IfIndex(3), IfIndex(2)));
        assert_eq!((eth1.mtu, eth0.mac), (1400, Some([2, 0, 0, 0, 0, 1])));
        assert!(env.forwards(Family::V4) && env.forwards(Family::V6));
        let route = |dst, mark| {
            env.route(Family::V4, v4(dst), 0, mark)
                .map(|r| (r.dev, r.via))
        };
        let out = Some((Some(eth1.index), Some(v4("192.0.2.2"))));
        assert_eq!(route("10.9.0.5", 0), out);
        assert_eq!(
            route("10.9.0.5", 0x301),
            Some((Some(eth0.index), Some(v4("10.0.0.254"))))
        );
        assert!(env.interfaces().iter().any(|i| i.loopback));
        let ct = &host.config.conntrack;
        assert!(!ct.tcp_loose);
        assert_eq!(ct.timeouts.udp[0], 7);
        let ports: Vec<u16> = ct.helpers.iter().map(|h| h.port).collect();
        assert_eq!(ports, [21, 2121]);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, wanted) in [
            ("[host]\nforwrd = true", "line 2"),
            ("[host]\nforwrd = true", "unknown field `forwrd`"),
            (
                "[[interface]]\nname = \"eth0\"\naddresses = [\"10.0.0.1/33\"]",
                "line 3",
            ),
            (
                "[[interface]]\nname = \"eth0\"\naddresses = [\"10.0.0\"]",
                "`10.0.0` is no address",
            ),
            (
                "[[interface]]\nname = \"much-too-long-a-name\"",
                "is no interface name",
            ),
            (
                "[[interface]]\nname = \"e\"\nmac = \"02:00\"",
                "`02:00` is no hardware address",
            ),
            (
                "[[interface]]\nname = \"e\"\n[[interface]]\nname = \"e\"",
                "described twice",
            ),
            (
                "[[route]]\nto = \"default\"\ndev = \"eth7\"",
                "no interface `eth7`",
            ),
            ("[[route]]\nto = \"default\"", "needs `dev`"),
            ("[[rule]]\nfwmark = \"x\"\ntable = 1", "`fwmark`"),
            ("[sysctl]\n\"net.core.wmem_max\" = 1", "`net.core.wmem_max`"),
            (
                "[host]\nhelpers = [\"quake\"]",
                "no helper is called `quake`",
            ),
        ] {
            let error = format!("{:#}", Host::parse(text).unwrap_err());
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
