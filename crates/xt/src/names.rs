//! Names that stand for numbers, looked up by whoever runs the tool.

use tidegate_wire::{Family, proto};

/// Lookups in the host's name databases (`/etc/services`, `/etc/protocols`, DNS).
///
/// The default methods know nothing but the protocols the tools always know.
pub trait Names: Sync {
    /// Port of the service `name`; `proto` is a protocol name such as `tcp`.
    fn service(&self, _name: &str, _proto: Option<&str>) -> Option<u16> {
        None
    }
    /// Name of the service at `port`.
    fn service_name(&self, _port: u16, _proto: Option<&str>) -> Option<String> {
        None
    }
    /// Number of the protocol `name` (case as given).
    fn protocol(&self, name: &str) -> Option<u8> {
        known_protocol(name)
    }
    /// Name of a protocol.
    fn protocol_name(&self, number: u8) -> Option<String> {
        known_protocol_name(number).map(str::to_owned)
    }
    /// Addresses of a host name; IPv4 in the low 32 bits.
    fn host(&self, _name: &str, _family: Family) -> Vec<u128> {
        Vec::new()
    }
    /// Name of the host with this address.
    fn host_name(&self, _addr: u128, _family: Family) -> Option<String> {
        None
    }
    /// The number of a name in one of the host's lists.
    fn id(&self, _list: List, _name: &str) -> Option<u32> {
        None
    }
    /// The name of a number in one of the host's lists.
    fn id_name(&self, _list: List, _number: u32) -> Option<String> {
        None
    }
    /// The timeout policies there are.
    fn timeouts(&self) -> Vec<TimeoutPolicy> {
        Vec::new()
    }
}

/// A timeout policy that rules can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutPolicy {
    /// Its name.
    pub name: String,
    /// Family of its connections.
    pub family: Family,
    /// Their protocols.
    pub protocols: Protocols,
}

/// For which protocols a timeout policy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// This one.
    One(u8),
    /// All that connection tracking knows nothing about.
    Untracked,
}

impl Protocols {
    /// Whether the protocol is among them.
    #[must_use]
    pub fn contains(self, number: u8) -> bool {
        const TRACKED: [u8; 7] = [
            proto::ICMP,
            proto::TCP,
            proto::UDP,
            proto::GRE,
            proto::ICMPV6,
            proto::SCTP,
            proto::UDPLITE,
        ];
        match self {
            Protocols::One(one) => one == number,
            Protocols::Untracked => !TRACKED.contains(&number),
        }
    }
}

/// The host's lists of names for numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `/etc/passwd`.
    Users,
    /// `/etc/group`.
    Groups,
    /// `/etc/iproute2/rt_realms`.
    Realms,
    /// `/etc/iproute2/group`.
    DeviceGroups,
    /// `/etc/xtables/connlabel.conf`.
    Labels,
}

/// No databases: numbers, and the built-in protocol names.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {}

/// Protocols the tools know without a database, in lookup order.
const PROTOCOLS: &[(&str, u8)] = &[
    ("tcp", proto::TCP),
    ("sctp", proto::SCTP),
    ("udp", proto::UDP),
    ("udplite", proto::UDPLITE),
    ("icmp", proto::ICMP),
    ("ipv6-icmp", proto::ICMPV6),
    ("icmpv6", proto::ICMPV6),
    ("esp", proto::ESP),
    ("ah", proto::AH),
    ("ipv6-mh", proto::MH),
    ("mh", proto::MH),
    ("dccp", proto::DCCP),
    ("ipcomp", proto::IPCOMP),
    ("all", 0),
];

/// Number of a protocol that needs no database; `all` is 0.
#[must_use]
pub fn known_protocol(name: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|p| p.0 == name).map(|p| p.1)
}

/// Name of a protocol that needs no database.
#[must_use]
pub fn known_protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|p| p.1 == number).map(|p| p.0)
}
