//! Networks as data: which hosts there are, how they are wired, who is guarded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::host::Host;
use crate::rtnl::{self, Mac, Network};

/// Name and text of each topology.
const KNOWN: &[(&str, &str)] = &[
    (
        "host",
        include_str!("../../../scenarios/live/topology/host.toml"),
    ),
    (
        "router",
        include_str!("../../../scenarios/live/topology/router.toml"),
    ),
    (
        "uplinks",
        include_str!("../../../scenarios/live/topology/uplinks.toml"),
    ),
];

/// A network.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Topology {
    /// For people: who is where.
    pub(crate) about: String,
    /// The host that is guarded.
    pub(crate) firewall: String,
    /// The guarded host forwards.
    #[serde(default)]
    forward: bool,
    #[serde(rename = "wire")]
    wires: Vec<[End; 2]>,
    #[serde(default, rename = "route")]
    routes: Vec<Way>,
}

/// One end of a wire.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    host: String,
    dev: String,
    mac: String,
    addresses: Vec<String>,
}

/// A route to everywhere.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Way {
    host: String,
    via: IpAddr,
}

impl Topology {
    /// The topology called `name`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(name: &str) -> Result<Self> {
        let known = KNOWN.iter().find(|(n, _)| *n == name);
        let (_, text) = known.with_context(|| format!("there is no topology {name}"))?;
        toml::from_str(text).with_context(|| format!("topology {name}"))
    }

    /// Names of all hosts.
    pub(crate) fn hosts(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for end in self.wires.iter().flatten() {
            if !names.contains(&end.host.as_str()) {
                names.push(&end.host);
            }
        }
        names
    }

    /// The guarded host's interface on the wire to `host`.
    pub(crate) fn facing(&self, host: &str) -> Option<&str> {
        let pairs = self.wires.iter().flat_map(|[a, b]| [(a, b), (b, a)]);
        let mut own = pairs.filter(|(own, far)| own.host == self.firewall && far.host == host);
        own.next().map(|(own, _)| own.dev.as_str())
    }

    /// Makes it.
    ///
    /// # Errors
    /// The kernel refuses something.
    pub(crate) fn build(&self) -> Result<Hosts> {
        let mut hosts = BTreeMap::new();
        for name in self.hosts() {
            let forwards = self.forward && name == self.firewall;
            hosts.insert(name.to_owned(), Host::new(name, forwards)?);
        }
        let network = Hosts { hosts };
        for [a, b] in &self.wires {
            let far = network.host(&b.host)?;
            let (own, peer) = (
                (a.dev.as_str(), mac(&a.mac)?),
                (b.dev.as_str(), mac(&b.mac)?),
            );
            network
                .host(&a.host)?
                .inside(|| rtnl::veth(own, peer, far.net().as_fd()))?;
            for end in [a, b] {
                network.host(&end.host)?.inside(|| end.configure())?;
            }
        }
        for way in &self.routes {
            let all = (way.via, 0);
            network
                .host(&way.host)?
                .inside(|| rtnl::route(all, way.via))?;
        }
        Ok(network)
    }

    /// Lines for a hosts file.
    pub(crate) fn names(&self) -> String {
        let mut text = String::from("127.0.0.1 localhost\n::1 localhost\n");
        for end in self.wires.iter().flatten() {
            for address in end.addresses.iter().take(1) {
                let address = address.split('/').next().unwrap_or_default();
                text.push_str(&format!("{address} {}\n", end.host));
            }
        }
        text
    }
}

impl End {
    fn configure(&self) -> Result<()> {
        rtnl::up(&self.dev)?;
        for text in &self.addresses {
            rtnl::address(&self.dev, network(text)?)?;
        }
        Ok(())
    }
}

/// The hosts of a running lab.
pub(crate) struct Hosts {
    hosts: BTreeMap<String, Host>,
}

impl Hosts {
    /// The host called `name`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .get(name)
            .with_context(|| format!("there is no host {name} in this lab"))
    }

    /// All hosts.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }
}

fn network(text: &str) -> Result<Network> {
    let parts = text
        .split_once('/')
        .map(|(a, len)| (a.parse(), len.parse()));
    match parts {
        Some((Ok(address), Ok(len))) => Ok((address, len)),
        _ => bail!("{text} is not an address with a prefix length"),
    }
}

fn mac(text: &str) -> Result<Mac> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    bytes
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| anyhow!("{text} is not a hardware address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topology_is_consistent() {
        for (name, _) in KNOWN {
            let topology = Topology::named(name).unwrap();
            assert!(
                topology.hosts().contains(&topology.firewall.as_str()),
                "{name}"
            );
            for host in topology
                .hosts()
                .into_iter()
                .filter(|h| *h != topology.firewall)
            {
                assert!(topology.facing(host).is_some(), "{name}: {host}");
            }
            for end in topology.wires.iter().flatten() {
                mac(&end.mac).unwrap();
                for address in &end.addresses {
                    network(address).unwrap();
                }
            }
            for way in &topology.routes {
                assert!(topology.hosts().contains(&way.host.as_str()), "{name}");
            }
        }
    }
}
