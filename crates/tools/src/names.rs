//! Names of services, protocols and hosts on this machine.

use std::fs;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::OnceLock;

use tidegate_wire::Family;
use tidegate_xt::TimeoutPolicy;
use tidegate_xt::names::{List, Names, known_protocol, known_protocol_name};
use tidegate_xt::number;

use crate::timeouts;

/// A service at a port.
struct Service {
    port: u16,
    proto: String,
    /// The name, then its aliases.
    names: Vec<String>,
}

/// Where a list of names for numbers is, and which field of a line is the number; fields
/// of the users' databases are set apart by colons.
const fn list(list: List) -> (&'static [&'static str], Option<char>, usize) {
    match list {
        List::Users => (&["/etc/passwd"], Some(':'), 2),
        List::Groups => (&["/etc/group"], Some(':'), 2),
        List::Realms => (
            &["/etc/iproute2/rt_realms", "/usr/share/iproute2/rt_realms"],
            None,
            0,
        ),
        List::DeviceGroups => (
            &["/etc/iproute2/group", "/usr/share/iproute2/group"],
            None,
            0,
        ),
        List::Labels => (&["/etc/xtables/connlabel.conf"], None, 0),
    }
}

/// Largest number of a label that has a name (`libnetfilter_conntrack`); connections have
/// 128 of them.
const LABELS: u64 = 1023;

/// The labels that lines name: a number in C's notation, blanks, and a name of letters,
/// digits, hyphens and blanks. The first name of a number counts, and the first number of
/// a name; other lines are passed over.
fn labels(text: &str) -> Vec<(u32, String)> {
    let mut all: Vec<(u32, String)> = Vec::new();
    for line in text.lines() {
        let Some((number, name)) = line.trim_start().split_once([' ', '\t']) else {
            continue;
        };
        let name = name.trim();
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | ' ');
        let number = number::whole(number, 0, LABELS).and_then(|n| u32::try_from(n).ok());
        if let Some(number) = number.filter(|_| !name.is_empty() && name.chars().all(sound))
            && all.iter().all(|(n, other)| *n != number && other != name)
        {
            all.push((number, name.to_owned()));
        }
    }
    all
}

/// The names of a list with their numbers, in decimal or hexadecimal.
fn entries(of: List) -> Vec<(u32, String)> {
    let (files, colon, number) = list(of);
    let text = files.iter().find_map(|f| fs::read_to_string(f).ok());
    let text = text.unwrap_or_default();
    if of == List::Labels {
        return labels(&text);
    }
    let lines = text.lines().map(|l| l.split('#').next().unwrap_or(""));
    let entry = |line: &str| {
        let words: Vec<&str> = match colon {
            Some(colon) => line.split(colon).collect(),
            None => line.split_whitespace().collect(),
        };
        let id = u32::try_from(number::whole(words.get(number)?, 0, u32::MAX.into())?).ok()?;
        let name = words.get(if number == 0 { 1 } else { 0 })?;
        Some((id, (*name).to_owned()))
    };
    lines.filter_map(entry).collect()
}

/// The machine's databases, read when first needed: `/etc/services`,
/// `/etc/protocols`, `/etc/hosts`, and the resolver for host names. Addresses are
/// looked up in `/etc/hosts` only: a listing never waits for a name server. Timeout policies
/// are those of the daemon's file ([`timeouts::FILE`]), unless told otherwise.
#[derive(Default)]
pub struct HostNames {
    services: OnceLock<Vec<Service>>,
    protocols: OnceLock<Vec<(u8, Vec<String>)>>,
    hosts: OnceLock<Vec<(IpAddr, String)>>,
    lists: [OnceLock<Vec<(u32, String)>>; 5],
    timeouts: OnceLock<Vec<TimeoutPolicy>>,
}

/// Services for machines without a database.
const FALLBACK_SERVICES: &str = "\
ftp-data 20/tcp\nftp 21/tcp\nssh 22/tcp\ntelnet 23/tcp\nsmtp 25/tcp mail\n\
domain 53/tcp\ndomain 53/udp\nbootps 67/udp\nbootpc 68/udp\ntftp 69/udp\n\
http 80/tcp www\npop3 110/tcp\nntp 123/udp\nimap2 143/tcp imap\nsnmp 161/udp\n\
https 443/tcp\nhttps 443/udp\nsyslog 514/udp\nimaps 993/tcp\npop3s 995/tcp\n";

/// Protocols for machines without a database.
const FALLBACK_PROTOCOLS: &str = "\
icmp 1 ICMP\nigmp 2 IGMP\nipencap 4 IP-ENCAP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\n\
gre 47 GRE\nospf 89 OSPFIGP\npim 103 PIM\nvrrp 112 VRRP\nl2tp 115 L2TP\n";

/// A database without its comments, as lines of words.
fn database(path: &str, fallback: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(path).unwrap_or_else(|_| fallback.to_owned());
    text.lines()
        .map(|l| l.split('#').next().unwrap_or(""))
        .map(|l| l.split_whitespace().map(str::to_owned).collect())
        .filter(|words: &Vec<String>| words.len() >= 2)
        .collect()
}

impl HostNames {
    /// The machine's databases, with other timeout policies than those of its file.
    #[must_use]
    pub fn with_timeouts(policies: Vec<TimeoutPolicy>) -> Self {
        HostNames {
            timeouts: policies.into(),
            ..HostNames::default()
        }
    }

    fn services(&self) -> &[Service] {
        self.services.get_or_init(|| {
            let rows = database("/etc/services", FALLBACK_SERVICES).into_iter();
            rows.filter_map(|mut words| {
                let place = words.remove(1);
                let (port, proto) = place.split_once('/')?;
                Some(Service {
                    port: port.parse().ok()?,
                    proto: proto.to_owned(),
                    names: words,
                })
            })
            .collect()
        })
    }

    fn protocols(&self) -> &[(u8, Vec<String>)] {
        self.protocols.get_or_init(|| {
            let rows = database("/etc/protocols", FALLBACK_PROTOCOLS).into_iter();
            rows.filter_map(|mut words| Some((words.remove(1).parse().ok()?, words)))
                .collect()
        })
    }

    fn list(&self, of: List) -> &[(u32, String)] {
        self.lists[of as usize].get_or_init(|| entries(of))
    }

    fn hosts(&self) -> &[(IpAddr, String)] {
        self.hosts.get_or_init(|| {
            let rows = database("/etc/hosts", "").into_iter();
            rows.filter_map(|mut words| Some((words[0].parse().ok()?, words.swap_remove(1))))
                .collect()
        })
    }
}

/// The same without the resolver: hosts are those of `/etc/hosts`. For work that packets
/// wait for.
#[derive(Default)]
pub(crate) struct FileNames(HostNames);

impl Names for FileNames {
    fn service(&self, name: &str, proto: Option<&str>) -> Option<u16> {
        self.0.service(name, proto)
    }

    fn protocol(&self, name: &str) -> Option<u8> {
        self.0.protocol(name)
    }

    fn protocol_name(&self, number: u8) -> Option<String> {
        self.0.protocol_name(number)
    }

    fn host(&self, name: &str, family: Family) -> Vec<u128> {
        let named = self.0.hosts().iter().filter(|h| h.1 == name);
        named.filter_map(|h| of_family(h.0, family)).collect()
    }
}

/// The address as the rules language holds it, if it is of this family.
fn of_family(addr: IpAddr, family: Family) -> Option<u128> {
    match (addr, family) {
        (IpAddr::V4(a), Family::V4) => Some(u128::from(a.to_bits())),
        (IpAddr::V6(a), Family::V6) => Some(a.to_bits()),
        (IpAddr::V4(_), Family::V6) | (IpAddr::V6(_), Family::V4) => None,
    }
}

impl Names for HostNames {
    fn service(&self, name: &str, proto: Option<&str>) -> Option<u16> {
        let found = self
            .services()
            .iter()
            .find(|s| proto.is_none_or(|p| p == s.proto) && s.names.iter().any(|n| n == name));
        found.map(|s| s.port)
    }

    fn service_name(&self, port: u16, proto: Option<&str>) -> Option<String> {
        let found = self
            .services()
            .iter()
            .find(|s| s.port == port && proto.is_none_or(|p| p == s.proto));
        found.and_then(|s| s.names.first().cloned())
    }

    fn protocol(&self, name: &str) -> Option<u8> {
        known_protocol(name).or_else(|| {
            let found = self
                .protocols()
                .iter()
                .find(|p| p.1.iter().any(|n| n == name));
            found.map(|p| p.0)
        })
    }

    fn protocol_name(&self, number: u8) -> Option<String> {
        let known = known_protocol_name(number).map(str::to_owned);
        known.or_else(|| {
            let found = self.protocols().iter().find(|p| p.0 == number);
            found.and_then(|p| p.1.first().cloned())
        })
    }

    fn host(&self, name: &str, family: Family) -> Vec<u128> {
        // The resolver would read these as numbers of its own kind.
        if name.is_empty() || name.contains(':') || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Vec::new();
        }
        let Ok(found) = (name, 0).to_socket_addrs() else {
            return Vec::new();
        };
        let mut addrs: Vec<u128> = Vec::new();
        for addr in found.filter_map(|a| of_family(a.ip(), family)) {
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        addrs
    }

    fn host_name(&self, addr: u128, family: Family) -> Option<String> {
        let found = self
            .hosts()
            .iter()
            .find(|h| of_family(h.0, family) == Some(addr));
        found.map(|h| h.1.clone())
    }

    fn timeouts(&self) -> Vec<TimeoutPolicy> {
        let read = || {
            let text = fs::read_to_string(timeouts::FILE).unwrap_or_default();
            timeouts::known(timeouts::salvage(&text).iter())
        };
        self.timeouts.get_or_init(read).clone()
    }

    fn id(&self, list: List, name: &str) -> Option<u32> {
        let found = self.list(list).iter().find(|e| e.1 == name);
        found.map(|e| e.0)
    }

    fn id_name(&self, list: List, number: u32) -> Option<String> {
        let found = self.list(list).iter().find(|e| e.0 == number);
        found.map(|e| e.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `conntrack -L -l NAME` knows and `iptables-save` prints for such a file
    /// (libnetfilter_conntrack 1.0.9).
    #[test]
    fn labels_are_read_as_the_library_reads_them() {
        let text = "0 eth0-in\n# c\n40 bulk traffic\n 5 indented\n6\ttab\n7 dup\n8 dup\n\
                    200 large\n9  two blanks \n0x10 hex\n11 eleven # com\n12\n13 with,x\n\
                    0 again\n020 oct\n14 under_score\n1024 more\n-1 neg\n63x q\n";
        let wanted = [
            (0, "eth0-in"),
            (40, "bulk traffic"),
            (5, "indented"),
            (6, "tab"),
            (7, "dup"),
            (200, "large"),
            (9, "two blanks"),
            (16, "hex"),
        ];
        assert_eq!(labels(text), wanted.map(|(n, s)| (n, s.to_owned())));
    }
}
