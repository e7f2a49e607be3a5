//! The description of a host as TOML has it, read and written.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tidegate_engine::conntrack::{HelperKind, HelperPort};
use tidegate_engine::env::{Prefix, RouteType};
use tidegate_wire::{Family, proto};

/// The file as written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    #[serde(default)]
    pub(crate) host: General,
    #[serde(default, rename = "interface", skip_serializing_if = "Vec::is_empty")]
    pub(crate) interfaces: Vec<Link>,
    #[serde(default, rename = "route", skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<Way>,
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<Selector>,
    #[serde(default, rename = "socket", skip_serializing_if = "Vec::is_empty")]
    pub(crate) sockets: Vec<Open>,
    #[serde(default)]
    pub(crate) sysctl: BTreeMap<String, u32>,
}

/// `[host]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct General {
    #[serde(default)]
    pub(crate) forward: bool,
    #[serde(default)]
    pub(crate) conntrack: Tracking,
    #[serde(default)]
    pub(crate) helpers: Vec<Helper>,
}

/// When connection tracking is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tracking {
    #[default]
    Auto,
    On,
}

/// `[[interface]]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    pub(crate) name: IfName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<u32>,
    #[serde(default)]
    pub(crate) addresses: Vec<Cidr>,
    #[serde(default = "ethernet_mtu")]
    pub(crate) mtu: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<Mac>,
}

/// `[[route]]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Way {
    pub(crate) to: To,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) via: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dev: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) src: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) metric: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) realm: Option<Realms>,
    #[serde(default, rename = "type", skip_serializing_if = "Kind::is_unicast")]
    pub(crate) kind: Kind,
}

/// What becomes of packets that take a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    #[default]
    Unicast,
    Local,
    Broadcast,
    Anycast,
    Multicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
}

impl Kind {
    /// As the engine has it.
    pub(crate) const fn route_type(self) -> RouteType {
        match self {
            Kind::Unicast => RouteType::Unicast,
            Kind::Local => RouteType::Local,
            Kind::Broadcast => RouteType::Broadcast,
            Kind::Anycast => RouteType::Anycast,
            Kind::Multicast => RouteType::Multicast,
            Kind::Blackhole => RouteType::Blackhole,
            Kind::Unreachable => RouteType::Unreachable,
            Kind::Prohibit => RouteType::Prohibit,
            Kind::Throw => RouteType::Throw,
        }
    }

    /// Whether such a route leads to an interface.
    pub(crate) const fn needs_device(self) -> bool {
        !matches!(
            self,
            Kind::Blackhole | Kind::Unreachable | Kind::Prohibit | Kind::Throw
        )
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_unicast(&self) -> bool {
        *self == Kind::Unicast
    }
}

/// `[[rule]]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<IpVersion>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fwmark: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Cidr>,
    pub(crate) table: u32,
    #[serde(default = "first_priority")]
    pub(crate) priority: u32,
}

/// `[[socket]]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Open {
    pub(crate) proto: Transport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<SocketAddr>,
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) groups: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cgroup: Option<String>,
    #[serde(default)]
    pub(crate) class: u32,
    #[serde(default)]
    pub(crate) mark: u32,
    #[serde(default)]
    pub(crate) transparent: bool,
}

/// A transport protocol by name.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Tcp,
    Udp,
    Icmp,
    Icmp6,
}

/// A family by name.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IpVersion {
    Ipv4,
    Ipv6,
}

impl From<IpVersion> for Family {
    fn from(version: IpVersion) -> Family {
        match version {
            IpVersion::Ipv4 => Family::V4,
            IpVersion::Ipv6 => Family::V6,
        }
    }
}

/// Declares a string with a meaning of its own, checked while the file is read so
/// that errors name line and key, and how it is written.
macro_rules! word {
    ($(#[$doc:meta])* $name:ident($inner:ty), $parse:expr, $show:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub(crate) struct $name(pub(crate) $inner);
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(&text).map($name)
            }
        }
        impl From<$name> for String {
            fn from(word: $name) -> String {
                let show: fn(&$inner) -> String = $show;
                show(&word.0)
            }
        }
    };
}

word!(
    /// Name of an interface.
    IfName(String),
    |text| {
        let fits = (1..=15).contains(&text.len());
        let clean = !text.contains(|c: char| c == '/' || c.is_whitespace());
        (fits && clean)
            .then(|| text.to_owned())
            .ok_or_else(|| format!("`{text}` is no interface name (1 to 15 bytes)"))
    },
    String::clone
);
word!(
    /// An address with a prefix length.
    Cidr(Prefix),
    parse_prefix,
    show_prefix
);
word!(
    /// A destination; `None` is `default`.
    To(Option<Prefix>),
    |text| match text {
        "default" => Ok(None),
        _ => parse_prefix(text).map(Some),
    },
    |to| to.as_ref().map_or_else(|| "default".to_owned(), show_prefix)
);
word!(
    /// An Ethernet address.
    Mac([u8; 6]),
    |text| parse_mac(text).ok_or_else(|| format!("`{text}` is no hardware address")),
    |mac| mac.map(|byte| format!("{byte:02x}")).join(":")
);
word!(
    /// Realms of a route, as `realm` or `source/destination`.
    Realms(u32),
    |text| {
        let (src, dst) = text.split_once('/').unwrap_or(("0", text));
        let both = src.parse::<u16>().ok().zip(dst.parse::<u16>().ok());
        let one = |(src, dst)| u32::from(src) << 16 | u32::from(dst);
        both.map(one).ok_or_else(|| format!("`{text}` is no realm, nor two with a / between"))
    },
    |realms| match (realms >> 16, realms & 0xffff) {
        (0, dst) => dst.to_string(),
        (src, dst) => format!("{src}/{dst}"),
    }
);
word!(
    /// A helper and its port.
    Helper(HelperPort),
    parse_helper,
    |helper| format!("{}:{}", helper.kind.name(), helper.port)
);

/// A packet mark and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "MarkText", into = "String")]
pub(crate) struct Mark {
    pub(crate) value: u32,
    pub(crate) mask: u32,
}

/// A mark as it may be written.
#[derive(Deserialize)]
#[serde(untagged)]
enum MarkText {
    Number(u32),
    Text(String),
}

impl TryFrom<MarkText> for Mark {
    type Error = String;

    fn try_from(text: MarkText) -> Result<Self, String> {
        let (value, mask) = match &text {
            MarkText::Number(value) => (*value, u32::MAX),
            MarkText::Text(text) => match text.split_once('/') {
                Some((value, mask)) => (parse_u32(value)?, parse_u32(mask)?),
                None => (parse_u32(text)?, u32::MAX),
            },
        };
        Ok(Mark { value, mask })
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> String {
        match mark.mask {
            u32::MAX => format!("{:#x}", mark.value),
            mask => format!("{:#x}/{mask:#x}", mark.value),
        }
    }
}

const fn ethernet_mtu() -> u32 {
    1500
}

const fn first_priority() -> u32 {
    32765
}

/// An address as the engine holds it.
pub fn number(addr: IpAddr) -> (Family, u128) {
    match addr {
        IpAddr::V4(a) => (Family::V4, u128::from(a.to_bits())),
        IpAddr::V6(a) => (Family::V6, a.to_bits()),
    }
}

/// An address as people write it.
pub fn address(family: Family, value: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4((value as u32).into()),
        Family::V6 => IpAddr::V6(value.into()),
    }
}

/// Bits of an address.
pub(crate) const fn width(family: Family) -> u8 {
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

fn show_prefix(prefix: &Prefix) -> String {
    format!("{}/{}", address(prefix.family, prefix.addr), prefix.len)
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
    let port = match port {
        None => kind.port(),
        Some(port) => port
            .parse()
            .map_err(|_| format!("`{port}` is no port number"))?,
    };
    let proto = kind.protocols().first().copied().unwrap_or(proto::TCP);
    Ok(HelperPort { kind, proto, port })
}

fn parse_u32(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no 32-bit number"))
}

/// What stands before the first section of a kind.
const COMMENTS: [(&str, &str); 5] = [
    (
        "[host]",
        "conntrack: \"auto\" is when a rule needs it, \"on\" is always; helpers: those loaded\n\
         # the classic way, as in [\"ftp\"], which the kernel does not tell.",
    ),
    (
        "[[interface]]",
        "Interfaces that are up, in the kernel's order.",
    ),
    (
        "[[route]]",
        "Routes of all tables (254 is main), without those that addresses imply.",
    ),
    (
        "[[rule]]",
        "Policy-routing rules, without those that every host has (local, main, default).",
    ),
    ("[sysctl]", "What counts of the kernel's settings."),
];

impl File {
    /// The file's text, with comments.
    ///
    /// # Errors
    /// Never for data of these types; passed on all the same.
    pub(crate) fn text(&self) -> Result<String> {
        let mut out = String::new();
        let mut comments = COMMENTS.to_vec();
        for line in toml::to_string(self)?.lines() {
            if let Some(at) = comments.iter().position(|c| c.0 == line) {
                writeln!(out, "# {}", comments.remove(at).1)?;
            }
            writeln!(out, "{line}")?;
        }
        Ok(out)
    }
}
