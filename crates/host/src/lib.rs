//! The host that rules are for: described in a file, or the running one.
#![forbid(unsafe_code)]

pub mod diag;
mod file;
pub mod foreign;
mod live;
pub mod netlink;
mod sockets;
mod sysctl;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tidegate_engine::conntrack::Config as CtConfig;
use tidegate_engine::env::{
    Env, IfIndex, Interface, PolicyRule, Prefix, Route, Settings, TABLE_MAIN,
};
use tidegate_engine::{Config, SocketList, TrackWhen};
use tidegate_wire::Family;

use file::{File, Link, Selector, Tracking, Way};
pub use file::{address, number};

/// What the names of the live firewall's own devices begin with; they are no part of
/// the host.
pub const OWN_DEVICE: &str = "tg-";

/// The index of loopback on every Linux machine.
pub const LOOPBACK: IfIndex = IfIndex(1);

/// What `--host` calls the running host.
const LIVE: &str = "live";

/// What a written description begins with.
const HEAD: &str = "\
# The host that rules are for, as `tidegate host` found it.
# For `tidegate replay --host FILE`.
";

/// Describes the running host as `Host::read` takes it.
///
/// # Errors
/// The kernel does not tell.
pub fn describe_running() -> Result<String> {
    describe(&live::snapshot()?)
}

fn describe(taken: &live::Snapshot) -> Result<String> {
    let mut text = HEAD.to_owned();
    for note in &taken.notes {
        text += &format!("# Note: {note}.\n");
    }
    text.push('\n');
    Ok(text + &taken.file.text()?)
}

/// What replay needs to know about the machine that the rules run on.
#[derive(Clone, Debug)]
pub struct Host {
    /// Interfaces, routes, settings.
    pub env: Env,
    /// Settings of the engine.
    pub config: Config,
    /// Sockets, where they are known.
    pub sockets: Option<SocketList>,
}

impl Host {
    /// The running host, and what about it cannot be said here, a sentence each.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn running() -> Result<(Self, Vec<String>)> {
        let taken = live::snapshot().context("the running host")?;
        let host = Self::new(&taken.file).context("the running host")?;
        Ok((host, taken.notes))
    }

    /// Reads a description; `live` is the running host.
    ///
    /// # Errors
    /// The file cannot be read or says something impossible; file, line and key are
    /// named. The kernel does not tell.
    pub fn read(path: &Path) -> Result<Self> {
        if path == Path::new(LIVE) {
            let (host, notes) = Self::running()?;
            for note in &notes {
                eprintln!("tidegate: {note}");
            }
            return Ok(host);
        }
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads the text of a description.
    ///
    /// # Errors
    /// It says something impossible; line and key are named.
    pub fn parse(text: &str) -> Result<Self> {
        let file = toml::from_str(text).map_err(|e| anyhow!("{}", e.to_string().trim_end()))?;
        Self::new(&file)
    }

    fn new(file: &File) -> Result<Self> {
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
            if !sysctl::set(name, *value, &mut settings, &mut conntrack) {
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
            sockets: sockets::list(&file.sockets)?,
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
            group: link.group.unwrap_or(0),
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
        let dev = self.device(interfaces)?;
        if dev.is_none() && self.kind.needs_device() {
            bail!("[[route]]: needs `dev`, or `via` in the network of an interface");
        }
        let of = |family| Route {
            to: self.to.0.unwrap_or(Prefix {
                family,
                addr: 0,
                len: 0,
            }),
            table: self.table.unwrap_or(TABLE_MAIN),
            kind: self.kind.route_type(),
            dev,
            via: self.via.map(|a| number(a).1),
            src: self.src.map(|a| number(a).1),
            realm: self.realm.as_ref().map_or(0, |r| r.0),
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
        let from = self.from.as_ref().map(|c| c.0);
        let family = self.family.map(Family::from);
        let families = match (family, from) {
            (Some(family), Some(from)) if family != from.family => {
                bail!("[[rule]]: `from` is of another family than `family`")
            }
            (Some(family), _) => vec![family],
            (None, Some(from)) => vec![from.family],
            (None, None) => vec![Family::V4, Family::V6],
        };
        let of = |family| PolicyRule {
            family,
            priority: self.priority,
            fwmark: self.fwmark.map(|m| (m.value, m.mask)),
            from,
            table: self.table,
        };
        Ok(families.into_iter().map(of).collect())
    }
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
            (
                "[[rule]]\nfwmark = \"x\"\ntable = 1",
                "`x` is no 32-bit number",
            ),
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
