//! A router in a network namespace, and another one where its wires end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tidegate_sys::Namespace;
use tidegate_wire::Family;

use crate::described::hex;
use crate::world::{listed_interfaces, prefix, strings};

/// As the oracle's router has them.
const SETTINGS: [&str; 11] = [
    "net.ipv4.ip_forward=1",
    "net.ipv4.conf.all.rp_filter=0",
    "net.ipv4.conf.default.rp_filter=0",
    "net.ipv4.conf.all.send_redirects=0",
    "net.ipv4.conf.default.send_redirects=0",
    "net.ipv6.conf.all.accept_dad=0",
    "net.ipv6.conf.default.accept_dad=0",
    "net.ipv6.conf.default.addr_gen_mode=1",
    "net.ipv6.conf.all.accept_ra=0",
    "net.ipv6.conf.default.accept_ra=0",
    // Reports of groups are sent at once, before anybody counts.
    "net.ipv6.conf.default.mldv2_unsolicited_report_interval=1",
];
/// Its sockets hear nothing of what arrives, so that they do not answer.
const DEAF: &str = "table inet deaf { chain input { type filter hook input priority 2147483647; policy accept; drop; }; }\n";
/// Neighbours of a link that are there without being named.
const NEIGHBOURS: u16 = 254;

/// An end of a wire.
pub(crate) struct Link {
    pub(crate) name: String,
    /// Networks on it, in both families.
    networks: Vec<(Family, u128, u8)>,
    /// Ethernet addresses of the router's end and of everybody else.
    pub(crate) router: [u8; 6],
    pub(crate) other: [u8; 6],
}

pub(crate) struct Net {
    router: Namespace,
    pub(crate) outside: Namespace,
    pub(crate) links: Vec<Link>,
    met: BTreeSet<Ipv6Addr>,
}

impl Net {
    /// With `early`, what is outside takes frames before they are packets, as cards do.
    pub(crate) fn new(case: &Value, early: bool) -> Result<Self> {
        let mut links = Vec::new();
        for (i, v) in listed_interfaces(case)?.iter().enumerate() {
            links.push(Link::new(i as u8, v)?);
        }
        let mut net = Net {
            router: Namespace::new()?,
            outside: Namespace::new()?,
            links,
            met: BTreeSet::new(),
        };
        let there = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            net.outside.as_fd().as_raw_fd()
        );
        let arp = if resolves(case) { "on" } else { "off" };
        let mut lines = String::from("link set lo up\n");
        for (link, v) in net.links.iter().zip(listed_interfaces(case)?) {
            let (name, router, other) = (&link.name, mac(link.router), mac(link.other));
            let mtu = v.get("mtu").and_then(Value::as_u64).unwrap_or(1500);
            let _ = write!(
                lines,
                "link add {name} address {router} mtu {mtu} type veth peer name {name} address {other} netns {there}\n\
                 link set {name} multicast off arp {arp} up\n"
            );
            for address in strings(&v, "addrs") {
                let nodad = if address.contains(':') { " nodad" } else { "" };
                let _ = writeln!(lines, "addr add {address} dev {name}{nodad}");
            }
            for n in 1..=NEIGHBOURS {
                for to in link.hosts(n) {
                    let _ = writeln!(
                        lines,
                        "neigh replace {to} lladdr {other} dev {name} nud permanent"
                    );
                }
            }
        }
        for route in strings(case, "routes") {
            let _ = writeln!(lines, "route replace {route}");
        }
        for line in strings(case, "ip") {
            let _ = writeln!(lines, "{line}");
        }
        net.outside.sh(
            "sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
            "",
        )?;
        net.router
            .sh(&format!("sysctl -qw {}", SETTINGS.join(" ")), "")?;
        net.router.sh("ip -batch -", &lines)?;
        let gro = if early { "on" } else { "off" };
        let mut ends = String::new();
        for Link { name, .. } in &net.links {
            let _ = writeln!(
                ends,
                "ip link set {name} arp off up; ethtool -K {name} gro {gro}"
            );
        }
        net.outside.sh(&ends, "")?;
        net.set(case)?;
        // IPv6 addresses enter the local table from a work queue.
        let six = net.links.iter().flat_map(|l| &l.networks);
        let six = six.filter(|(family, ..)| *family == Family::V6).count() + 1;
        net.router.sh(
            &format!(
                "sysctl -qw net.ipv6.conf.all.forwarding=1
             for try in $(seq 100); do
               [ $(ip -6 route show table local type local | wc -l) -ge {six} ] && break; sleep 0.05
             done
             nft -f -; sleep 0.2"
            ),
            DEAF,
        )?;
        net.meet(case)?;
        Ok(net)
    }

    /// The settings of the case but those of connection tracking, which are the engine's.
    fn set(&self, case: &Value) -> Result<()> {
        let list = case.get("sysctls").and_then(Value::as_object);
        for (key, value) in list.into_iter().flatten() {
            if !key.starts_with("net.netfilter.") {
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                self.router.sh(&format!("sysctl -qw {key}={value}"), "")?;
            }
        }
        Ok(())
    }

    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        self.router.run(|| Ok(work()))?
    }

    /// Makes neighbours of all IPv6 addresses that the case has and links can have.
    pub(crate) fn meet(&mut self, case: &Value) -> Result<()> {
        let mut lines = String::new();
        for address in addresses(case) {
            let number = u128::from(address);
            let here = |l: &&Link| l.networks.iter().any(|n| contains(*n, number));
            let Some(link) = self.links.iter().find(here) else {
                continue;
            };
            if self.met.insert(address) {
                let (name, other) = (&link.name, mac(link.other));
                let _ = writeln!(
                    lines,
                    "neigh replace {address} lladdr {other} dev {name} nud permanent"
                );
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        self.router.sh("ip -batch -", &lines)
    }
}

impl Link {
    fn new(i: u8, v: &Value) -> Result<Self> {
        let name = v
            .get("name")
            .and_then(Value::as_str)
            .context("interface name")?;
        for key in ["type", "mac", "group"] {
            ensure!(v.get(key).is_none(), "skipped: an interface with {key}");
        }
        let mut networks = Vec::new();
        for address in strings(v, "addrs") {
            let p = prefix(address)?;
            networks.push((p.family, p.addr, p.len));
        }
        Ok(Link {
            name: name.to_owned(),
            networks,
            router: [2, 0, 0, 0, 1, i],
            other: [2, 0, 0, 0, 2, i],
        })
    }

    /// The addresses with number `n` in its networks, the router's own ones left out.
    fn hosts(&self, n: u16) -> impl Iterator<Item = std::net::IpAddr> {
        self.networks.iter().filter_map(move |&(family, own, len)| {
            let width = if family == Family::V4 { 32 } else { 128 };
            let hosts = 1u128
                .checked_shl(width - u32::from(len))
                .unwrap_or(0)
                .wrapping_sub(1);
            let address = own & !hosts | u128::from(n);
            let inside = u128::from(n) < hosts && address != own;
            inside.then(|| match family {
                Family::V4 => std::net::Ipv4Addr::from(address as u32).into(),
                Family::V6 => Ipv6Addr::from(address).into(),
            })
        })
    }
}

/// Whether the router asks for its neighbours' Ethernet addresses: not where rules make up who they are,
/// for it would tell of those who do not answer, seconds later.
pub(crate) fn resolves(case: &Value) -> bool {
    let rules = ["rules4", "rules6"].map(|key| case.get(key).and_then(Value::as_str));
    let made_up = |rules: &str| ["NPT", "NETMAP", "TEE"].iter().any(|t| rules.contains(t));
    !rules.into_iter().flatten().any(made_up)
}

fn contains((family, own, len): (Family, u128, u8), address: u128) -> bool {
    let shift = 128 - u32::from(len);
    family == Family::V6 && address != own && (own ^ address).checked_shr(shift).unwrap_or(0) == 0
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|b| format!("{b:02x}")).join(":")
}

/// The IPv6 addresses in a case's rules and at the ends of its packets.
fn addresses(case: &Value) -> BTreeSet<Ipv6Addr> {
    let mut all = BTreeSet::new();
    let rules = case.get("rules6").and_then(Value::as_str).unwrap_or("");
    let words = rules.split(|c: char| !c.is_ascii_hexdigit() && c != ':');
    all.extend(words.filter_map(|w| w.parse::<Ipv6Addr>().ok()));
    for packet in case
        .get("packets")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let text = packet
            .get("hex")
            .or_else(|| packet.get(2))
            .and_then(Value::as_str);
        let bytes = text.and_then(|t| hex(t).ok()).unwrap_or_default();
        if bytes.first().is_some_and(|b| b >> 4 == 6) {
            let ends = bytes.get(8..40).unwrap_or_default().chunks_exact(16);
            all.extend(
                ends.filter_map(|a| <[u8; 16]>::try_from(a).ok())
                    .map(Ipv6Addr::from),
            );
        }
    }
    all.retain(|a| !a.is_multicast() && !a.is_unspecified() && !a.is_loopback());
    all
}

/// A shell script in a namespace.
trait Shell {
    fn sh(&self, script: &str, input: &str) -> Result<()>;
}

impl Shell for Namespace {
    fn sh(&self, script: &str, input: &str) -> Result<()> {
        let run = self.run(|| {
            let mut shell = Command::new("timeout");
            shell.args(["60", "sh", "-ec", script]);
            shell
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let mut shell = shell.spawn()?;
            if let Some(mut stdin) = shell.stdin.take() {
                stdin.write_all(input.as_bytes())?;
            }
            shell.wait_with_output()
        })?;
        if !run.status.success() {
            bail!("{script}: {}", String::from_utf8_lossy(&run.stderr));
        }
        Ok(())
    }
}
