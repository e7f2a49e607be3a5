//! The running host's description, from rtnetlink and `/proc/sys`.

use std::net::IpAddr;

use anyhow::Result;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tidegate_engine::env::{Prefix, TABLE_LOCAL, TABLE_MAIN};
use tidegate_wire::Family;

use super::file::{
    Cidr, File, General, IfName, IpVersion, Kind, Link, Mac, Mark, Realms, Selector, To, Way,
    number, width,
};
use super::{OWN_DEVICE, netlink, sysctl};

/// Routes and rules are asked for by family.
const FAMILIES: [(AddressFamily, IpVersion); 2] = [
    (AddressFamily::Inet, IpVersion::Ipv4),
    (AddressFamily::Inet6, IpVersion::Ipv6),
];

/// Rules that every host has: priority and table.
const USUAL_RULES: [(u32, u32); 3] = [(0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, 253)];

/// The running host.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// What the format can say.
    pub(crate) file: File,
    /// What it cannot say, a sentence each.
    pub(crate) notes: Vec<String>,
}

/// Looks at this process's network namespace.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn snapshot() -> Result<Snapshot> {
    let mut taken = Snapshot::default();
    for message in netlink::dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        if let RouteNetlinkMessage::NewLink(link) = message {
            taken.link(&link);
        }
    }
    for message in netlink::dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
        if let RouteNetlinkMessage::NewAddress(address) = message {
            taken.address(&address);
        }
    }
    for (family, version) in FAMILIES {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for message in netlink::dump(&RouteNetlinkMessage::GetRoute(request))? {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                taken.route(version.into(), &route);
            }
        }
        let mut request = RuleMessage::default();
        request.header.family = family;
        for message in netlink::dump(&RouteNetlinkMessage::GetRule(request))? {
            if let RouteNetlinkMessage::NewRule(rule) = message {
                taken.rule(version, &rule);
            }
        }
    }
    taken.file.sysctl = sysctl::live();
    let on = |name: &str| taken.file.sysctl.get(name).is_some_and(|v| *v != 0);
    taken.file.host = General {
        forward: on("net.ipv4.ip_forward") && on("net.ipv6.conf.all.forwarding"),
        ..General::default()
    };
    Ok(taken)
}

/// A destination, source and the like of a message.
fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

const fn kind(kind: RouteType) -> Option<Kind> {
    Some(match kind {
        RouteType::Unicast => Kind::Unicast,
        RouteType::Local => Kind::Local,
        RouteType::Broadcast => Kind::Broadcast,
        RouteType::Anycast => Kind::Anycast,
        RouteType::Multicast => Kind::Multicast,
        RouteType::BlackHole => Kind::Blackhole,
        RouteType::Unreachable => Kind::Unreachable,
        RouteType::Prohibit => Kind::Prohibit,
        RouteType::Throw => Kind::Throw,
        _ => return None,
    })
}

impl Snapshot {
    fn link(&mut self, message: &LinkMessage) {
        let mut link = Link {
            name: IfName(String::new()),
            index: Some(message.header.index),
            addresses: Vec::new(),
            mtu: 0,
            group: None,
            mac: None,
        };
        let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.0.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Group(group) => link.group = Some(*group).filter(|g| *g != 0),
                LinkAttribute::Address(mac) if ethernet => {
                    link.mac = <[u8; 6]>::try_from(mac.as_slice()).ok().map(Mac);
                }
                _ => {}
            }
        }
        if link.name.0.starts_with(OWN_DEVICE) {
            return;
        }
        if message.header.flags.contains(LinkFlags::Up) {
            self.file.interfaces.push(link);
        } else {
            self.notes.push(format!(
                "{} is left out with its addresses: it is down",
                link.name.0
            ));
        }
    }

    fn name(&self, index: u32) -> Option<&str> {
        let mut all = self.file.interfaces.iter();
        let found = all.find(|i| i.index == Some(index))?;
        Some(&found.name.0)
    }

    /// The local address; `IFA_ADDRESS` is the far end where there is one.
    fn address(&mut self, message: &AddressMessage) {
        let (mut own, mut far) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(a) => own = Some(*a),
                AddressAttribute::Address(a) => far = Some(*a),
                AddressAttribute::Flags(f) if f.contains(AddressFlags::Dadfailed) => return,
                _ => {}
            }
        }
        // IPv6 addresses have `IFA_ADDRESS` alone.
        let Some(own) = own.or(far) else { return };
        let (family, addr) = number(own);
        // The network of a point-to-point address is the far end's and has a route.
        let len = if far == Some(own) {
            message.header.prefix_len
        } else {
            width(family)
        };
        let mut all = self.file.interfaces.iter_mut();
        if let Some(link) = all.find(|i| i.index == Some(message.header.index)) {
            link.addresses.push(Cidr(Prefix { family, addr, len }));
        }
    }

    fn route(&mut self, family: Family, message: &RouteMessage) {
        let header = &message.header;
        if header.flags.contains(RouteFlags::Cloned) {
            return;
        }
        let Some(kind) = kind(header.kind) else {
            return;
        };
        let mut hop = Hop::default();
        let mut to = Prefix {
            family,
            addr: 0,
            len: header.destination_prefix_length,
        };
        let mut way = Way {
            to: To(None),
            via: None,
            dev: None,
            table: Some(u32::from(header.table)),
            src: None,
            metric: None,
            realm: None,
            kind,
        };
        let mut hops = 1;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(a) => {
                    to.addr = ip(a).map_or(0, |a| number(a).1);
                }
                RouteAttribute::Table(table) => way.table = Some(*table),
                RouteAttribute::PrefSource(a) => way.src = ip(a),
                RouteAttribute::Priority(metric) => way.metric = Some(*metric),
                RouteAttribute::Realm(realm) => {
                    let both = u32::from(realm.source) << 16 | u32::from(realm.destination);
                    way.realm = Some(Realms(both));
                }
                RouteAttribute::MultiPath(all) => {
                    hops = all.len();
                    if let Some(first) = all.first() {
                        hop.dev = Some(first.interface_index);
                        first.attributes.iter().for_each(|a| hop.read(a));
                    }
                }
                other => hop.read(other),
            }
        }
        way.to = To(Some(to));
        way.via = hop.via.filter(|a| number(*a).0 == family);
        way.metric = way.metric.filter(|m| *m != 0);
        let dev = hop.dev.and_then(|n| self.name(n)).map(str::to_owned);
        if kind.needs_device() {
            way.dev = dev;
        }
        let implied = header.protocol == RouteProtocol::Kernel && self.is_implied(&way, to);
        if implied || (kind.needs_device() && way.dev.is_none()) {
            return;
        }
        let shown = String::from(way.to.clone());
        if header.source_prefix_length != 0 || header.tos != 0 {
            self.notes.push(format!(
                "the route to {shown} is left out: it is for one source or TOS"
            ));
            return;
        }
        if hops > 1 {
            self.notes.push(format!(
                "the route to {shown} has {hops} next hops: only the first is here"
            ));
        }
        way.table = way.table.filter(|t| *t != TABLE_MAIN);
        self.file.routes.push(way);
    }

    /// Whether a route that the kernel made follows from an address.
    fn is_implied(&self, way: &Way, to: Prefix) -> bool {
        if way.table == Some(TABLE_LOCAL) {
            return true;
        }
        let usual = match to.family {
            Family::V4 => None,
            Family::V6 => Some(256),
        };
        let mut all = self.file.interfaces.iter();
        let dev = all.find(|i| Some(&i.name.0) == way.dev.as_ref());
        let mut own = dev.into_iter().flat_map(|i| &i.addresses);
        way.table == Some(TABLE_MAIN)
            && way.via.is_none()
            && way.metric == usual
            && way.realm.is_none()
            && own.any(|a| a.0.family == to.family && a.0.len == to.len && a.0.contains(to.addr))
    }

    fn rule(&mut self, version: IpVersion, message: &RuleMessage) {
        let family = Family::from(version);
        let mut rule = Selector {
            family: Some(version),
            fwmark: None,
            from: None,
            table: u32::from(message.header.table),
            priority: 0,
        };
        let mut more = Vec::new();
        let (mut mark, mut mask) = (None, u32::MAX);
        for attribute in &message.attributes {
            match attribute {
                RuleAttribute::Priority(priority) => rule.priority = *priority,
                RuleAttribute::Table(table) => rule.table = *table,
                RuleAttribute::FwMark(value) => mark = Some(*value),
                RuleAttribute::FwMask(bits) => mask = *bits,
                RuleAttribute::Source(from) => {
                    let (family, addr) = number(*from);
                    let len = message.header.src_len;
                    rule.from = Some(Cidr(Prefix { family, addr, len }));
                }
                RuleAttribute::Protocol(_) => {}
                // "Suppress nothing", which is what every rule says.
                RuleAttribute::SuppressPrefixLen(u32::MAX)
                | RuleAttribute::SuppressIfGroup(u32::MAX) => {}
                other => more.push(word(other)),
            }
        }
        rule.fwmark = mark
            .filter(|m| *m != 0 || mask != u32::MAX)
            .map(|value| Mark { value, mask });
        if message.header.flags.contains(RuleFlags::Invert) {
            more.push("inversion".to_owned());
        }
        if message.header.tos != 0 {
            more.push("tos".to_owned());
        }
        if message.header.action != RuleAction::ToTable {
            more.push(format!("{:?}", message.header.action).to_lowercase());
        }
        let plain = rule.fwmark.is_none() && rule.from.is_none() && more.is_empty();
        if plain && USUAL_RULES.contains(&(rule.priority, rule.table)) {
            return;
        }
        if more.is_empty() {
            self.file.rules.push(rule);
            return;
        }
        self.notes.push(format!(
            "the IPv{} rule with priority {} is left out: its {} cannot be said here",
            if family == Family::V4 { 4 } else { 6 },
            rule.priority,
            more.join(", ")
        ));
    }
}

/// What a rule selects by, as `ip rule` calls it.
fn word(attribute: &RuleAttribute) -> String {
    match attribute {
        RuleAttribute::Destination(to) => format!("to {to}"),
        RuleAttribute::Iifname(name) => format!("iif {name}"),
        RuleAttribute::Oifname(name) => format!("oif {name}"),
        RuleAttribute::Goto(target) => format!("goto {target}"),
        RuleAttribute::SuppressPrefixLen(len) => format!("suppress_prefixlength {len}"),
        RuleAttribute::SuppressIfGroup(group) => format!("suppress_ifgroup {group}"),
        RuleAttribute::UidRange(_) => "uidrange".to_owned(),
        RuleAttribute::L3MDev(_) => "l3mdev".to_owned(),
        RuleAttribute::IpProtocol(_) => "ipproto".to_owned(),
        RuleAttribute::SourcePortRange(_) => "sport".to_owned(),
        RuleAttribute::DestinationPortRange(_) => "dport".to_owned(),
        _ => "further condition".to_owned(),
    }
}

/// Where a route leads.
#[derive(Default)]
struct Hop {
    dev: Option<u32>,
    via: Option<IpAddr>,
}

impl Hop {
    fn read(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.dev = Some(*index),
            RouteAttribute::Gateway(a) => self.via = ip(a),
            RouteAttribute::Via(RouteVia::Inet6(a)) => self.via = Some(IpAddr::V6(*a)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::process::Command;

    use serde_json::Value;
    use tidegate_engine::env::Env;

    use super::super::{Host, describe};
    use super::*;

    /// Set for the copy of this test that runs inside the namespace.
    const INSIDE: &str = "TIDEGATE_TEST_INSIDE";
    const NAME: &str = "live::tests::a_namespace_is_described_as_the_kernel_routes";

    /// What is set up: two interfaces up and one down, IPv4 and IPv6, a far end, a
    /// further table chosen by marks and by sources, routes that refuse.
    const SETUP: &str = "
        link set lo up
        link add out0 type veth peer name in0
        link add off0 type veth peer name off1
        link set in0 mtu 1400
        link set out0 address 02:00:00:00:00:07 up
        link set in0 up
        address add 192.0.2.2/30 dev out0
        address add 2001:db8::2/64 dev out0 nodad
        address add 10.0.0.1/24 dev in0 metric 300
        address add 10.0.0.9/24 dev in0
        address add 10.9.0.1 peer 10.9.0.2/32 dev in0
        address add fd00::1/64 dev in0 nodad
        route add default via 192.0.2.1
        route add default via 2001:db8::1 metric 77
        route add default via 10.0.0.254 dev in0 table 1000
        route add default via fd00::fe table 1000
        route add 198.51.100.0/24 via 10.0.0.7 src 10.0.0.9
        route add blackhole 198.51.100.64/26
        route add unreachable 203.0.113.0/25
        route add prohibit 203.0.113.128/25
        route add throw 192.88.99.0/24 table 1000
        route add local 172.16.0.0/16 dev lo table 55
        route add unreachable fd00:dead::/32
        route add 10.20.0.0/16 nexthop via 10.0.0.7 nexthop via 192.0.2.1
        rule add fwmark 0x1/0xff table 1000 priority 100
        -6 rule add fwmark 0x1 table 1000 priority 101
        rule add from 10.7.0.0/16 table 55 priority 200
        rule add iif in0 table 55 priority 300";

    /// A namespace that goes when this does.
    struct Namespace(String);

    impl Namespace {
        fn new() -> Option<Self> {
            let name = format!("tidegate-{}", std::process::id());
            let made = Command::new("ip").args(["netns", "add", &name]).status();
            made.is_ok_and(|s| s.success()).then_some(Namespace(name))
        }

        fn command(&self, program: &str) -> Command {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &self.0, program]);
            command
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let gone = Command::new("ip").args(["netns", "del", &self.0]).status();
            assert!(gone.is_ok_and(|s| s.success()) || std::thread::panicking());
        }
    }

    #[test]
    fn a_namespace_is_described_as_the_kernel_routes() {
        if std::env::var_os(INSIDE).is_some() {
            return inside();
        }
        let Some(namespace) = Namespace::new() else {
            eprintln!("SKIPPED: no network namespace can be made here (needs root and ip)");
            return;
        };
        for line in SETUP.lines().filter(|l| !l.trim().is_empty()) {
            let mut command = namespace.command("ip");
            let status = command.args(line.split_whitespace()).status().unwrap();
            assert!(status.success(), "ip {}", line.trim());
        }
        let own = std::env::current_exe().unwrap();
        let mut command = namespace.command(own.to_str().unwrap());
        let run = command.args(["--exact", NAME, "--nocapture"]);
        let run = run.env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(
            run.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&run.stderr)
        );
    }

    fn inside() {
        let taken = snapshot().unwrap();
        let text = describe(&taken).unwrap();
        names_everything(&text);
        let parsed: File = toml::from_str(&text).unwrap();
        assert_eq!(parsed, taken.file);
        let direct = Host::new(&taken.file).unwrap();
        let read = Host::parse(&text).unwrap();
        assert_eq!(format!("{:?}", read.env), format!("{:?}", direct.env));
        assert_eq!(read.config.conntrack, direct.config.conntrack);
        for mark in [0, 1, 0x301] {
            for to in [
                "8.8.8.8",
                "10.0.0.77",
                "10.0.0.1",
                "10.9.0.2",
                "192.0.2.1",
                "192.88.99.1",
                "198.51.100.1",
                "198.51.100.65",
                "203.0.113.1",
                "203.0.113.129",
                "127.0.0.1",
                "2001:db8::99",
                "2001:db8::2",
                "2606::1",
                "fd00::77",
                "fd00:dead::1",
                "::1",
            ] {
                let to = to.parse().unwrap();
                let asked = ["mark".to_owned(), mark.to_string()];
                assert_eq!(
                    ours(&read.env, to, mark),
                    kernels(to, &asked),
                    "{to} {mark}"
                );
            }
        }
    }

    fn names_everything(text: &str) {
        for part in [
            "name = \"lo\"\nindex = 1\naddresses = [\"127.0.0.1/8\", \"::1/128\"]\nmtu = 65536\n",
            "name = \"out0\"\n",
            "mtu = 1500\nmac = \"02:00:00:00:00:07\"\n",
            "addresses = [\"192.0.2.2/30\", \"2001:db8::2/64\", ",
            "mtu = 1400\n",
            "# Note: off0 is left out with its addresses: it is down.\n",
            "to = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\ndev = \"out0\"\n",
            "to = \"::/0\"\nvia = \"2001:db8::1\"\ndev = \"out0\"\nmetric = 77\n",
            "to = \"0.0.0.0/0\"\nvia = \"10.0.0.254\"\ndev = \"in0\"\ntable = 1000\n",
            "to = \"10.0.0.0/24\"\ndev = \"in0\"\nsrc = \"10.0.0.1\"\nmetric = 300\n",
            "via = \"10.0.0.7\"\ndev = \"in0\"\nsrc = \"10.0.0.9\"\n",
            "to = \"10.9.0.2/32\"\ndev = \"in0\"\nsrc = \"10.9.0.1\"\n",
            "to = \"198.51.100.64/26\"\ntype = \"blackhole\"\n",
            "to = \"203.0.113.0/25\"\ntype = \"unreachable\"\n",
            "to = \"203.0.113.128/25\"\ntype = \"prohibit\"\n",
            "to = \"192.88.99.0/24\"\ntable = 1000\ntype = \"throw\"\n",
            "to = \"172.16.0.0/16\"\ndev = \"lo\"\ntable = 55\ntype = \"local\"\n",
            "# Note: the route to 10.20.0.0/16 has 2 next hops: only the first is here.\n",
            "family = \"ipv4\"\nfwmark = \"0x1/0xff\"\ntable = 1000\npriority = 100\n",
            "family = \"ipv6\"\nfwmark = \"0x1\"\ntable = 1000\npriority = 101\n",
            "family = \"ipv4\"\nfrom = \"10.7.0.0/16\"\ntable = 55\npriority = 200\n",
            "# Note: the IPv4 rule with priority 300 is left out: its iif in0 cannot be said here.\n",
            "\"net.ipv4.ip_forward\" = ",
            "\"net.ipv4.conf.all.route_localnet\" = 0\n",
            "\"net.ipv6.conf.all.forwarding\" = 0\n",
        ] {
            assert!(text.contains(part), "{part}\nnot in\n{text}");
        }
        assert_eq!(text.matches("[[rule]]\n").count(), 3);
        assert!(!text.contains("table = 255"), "{text}");
    }

    /// Device and next hop, or what becomes of the packet.
    type Answer = Result<(String, Option<IpAddr>), &'static str>;

    fn ours(env: &Env, to: IpAddr, mark: u32) -> Answer {
        use tidegate_engine::env::RouteType::{Blackhole, Prohibit, Throw, Unreachable};
        let (family, dst) = number(to);
        let Some(route) = env.route(family, dst, 0, mark) else {
            return Err("Network is unreachable");
        };
        match route.kind {
            Blackhole => Err("Invalid argument"),
            Unreachable => Err("No route to host"),
            Prohibit => Err("Permission denied"),
            Throw => Err("Network is unreachable"),
            tidegate_engine::env::RouteType::Local => Ok(("lo".to_owned(), None)),
            _ => {
                let dev = route.dev.and_then(|d| env.interface(d)).unwrap();
                let via = route.via.map(|v| super::super::address(family, v));
                Ok((dev.name.clone(), via))
            }
        }
    }

    /// What `ip route get` says of the kernel's lookup.
    fn kernels(to: IpAddr, more: &[String]) -> Answer {
        let mut command = Command::new("ip");
        let command = command.args(["-j", "route", "get", &to.to_string()]);
        let run = command.args(more).output().unwrap();
        if !run.status.success() {
            let error = String::from_utf8_lossy(&run.stderr).into_owned();
            let known = [
                "Invalid argument",
                "No route to host",
                "Permission denied",
                "Network is unreachable",
            ];
            return Err(known.into_iter().find(|k| error.contains(k)).unwrap());
        }
        let said: Value = serde_json::from_slice(&run.stdout).unwrap();
        let dev = said[0]["dev"].as_str().unwrap().to_owned();
        let via = said[0]["gateway"].as_str().map(|g| g.parse().unwrap());
        Ok((dev, via))
    }
}
