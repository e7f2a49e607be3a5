//! The surroundings of the firewall as an immutable snapshot: interfaces, addresses,
//! routes, policy-routing rules, settings.

mod fib;
mod lpm;

use tidegate_wire::Family;

use crate::packet::interface_number;
pub use fib::{RouteType, Routed};

/// Kernel interface index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IfIndex(pub u32);

/// An address with its network's prefix length; IPv4 in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Family.
    pub family: Family,
    /// Address.
    pub addr: u128,
    /// Prefix length in bits: at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The network mask, aligned like the address.
    #[must_use]
    pub fn mask(&self) -> u128 {
        mask(self.family, self.len)
    }

    /// Whether `addr` lies in the network.
    #[must_use]
    pub fn contains(&self, addr: u128) -> bool {
        (self.addr ^ addr) & self.mask() == 0
    }
}

pub(crate) fn mask(family: Family, len: u8) -> u128 {
    let width = match family {
        Family::V4 => 32u32,
        Family::V6 => 128,
    };
    let all = if width == 128 {
        u128::MAX
    } else {
        (1 << width) - 1
    };
    let host = width.saturating_sub(u32::from(len));
    if host >= 128 {
        0
    } else {
        (all >> host) << host
    }
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index.
    pub index: IfIndex,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Addresses in the order they were given; the first of a network is primary.
    pub addresses: Vec<Prefix>,
    /// Group (`ip link set … group`).
    pub group: u32,
    /// Largest network packet in bytes.
    pub mtu: u32,
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// Whether this is a loopback interface.
    pub loopback: bool,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination network.
    pub to: Prefix,
    /// Table (254 main, 255 local).
    pub table: u32,
    /// What becomes of packets that take it.
    pub kind: RouteType,
    /// Output interface, where the kind needs one.
    pub dev: Option<IfIndex>,
    /// Next hop.
    pub via: Option<u128>,
    /// Preferred source address.
    pub src: Option<u128>,
    /// IPv4: its realms (`ip route … realms SOURCE/DESTINATION`), the source's in the upper
    /// half; 0 where it has none.
    pub realm: u32,
    /// Smaller wins among equal prefixes.
    pub metric: u32,
}

/// A policy-routing rule: packets whose mark equals `fwmark` under `mask` use `table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Family.
    pub family: Family,
    /// Smaller is asked first.
    pub priority: u32,
    /// Wanted mark and the bits that count; `None` matches every packet.
    pub fwmark: Option<(u32, u32)>,
    /// Source network that the rule is for.
    pub from: Option<Prefix>,
    /// Table to ask.
    pub table: u32,
}

/// How the way back to a packet's source is looked at before the packet is taken in
/// (RFC 3704; `net.ipv4.conf.*.rp_filter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RpFilter {
    /// Not at all.
    #[default]
    Off,
    /// It must lead out of the interface the packet came in by.
    Strict,
    /// There must be one.
    Loose,
}

impl RpFilter {
    /// The setting with the sysctl's number.
    #[must_use]
    pub fn from_number(n: u32) -> Option<Self> {
        match n {
            0 => Some(RpFilter::Off),
            1 => Some(RpFilter::Strict),
            2 => Some(RpFilter::Loose),
            _ => None,
        }
    }
}

/// Settings that the kernel keeps in sysctls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.ip_forward`.
    pub forward4: bool,
    /// `net.ipv6.conf.all.forwarding`.
    pub forward6: bool,
    /// `net.ipv4.conf.*.route_localnet`.
    pub route_localnet: bool,
    /// `net.ipv4.conf.*.rp_filter`, the same for all interfaces.
    pub rp_filter: RpFilter,
    /// `net.ipv4.ip_default_ttl` and `net.ipv6.conf.*.hop_limit`.
    pub default_ttl: u8,
    /// `net.ipv4.icmp_errors_use_inbound_ifaddr`.
    pub icmp_errors_use_inbound_ifaddr: bool,
    /// `net.ipv4.fwmark_reflect` and its IPv6 twin.
    pub fwmark_reflect: bool,
    /// The kernel behind this host's sockets knows which multicast groups they have
    /// joined: every group counts as joined here.
    pub any_group: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            forward4: false,
            forward6: false,
            route_localnet: false,
            rp_filter: RpFilter::Off,
            default_ttl: 64,
            icmp_errors_use_inbound_ifaddr: false,
            fwmark_reflect: false,
            any_group: false,
        }
    }
}

/// The loopback interface's usual index.
const LOOPBACK: IfIndex = IfIndex(1);

/// Main routing table.
pub const TABLE_MAIN: u32 = 254;
/// Table of this host's own addresses.
pub const TABLE_LOCAL: u32 = 255;
const TABLE_DEFAULT: u32 = 253;

/// An immutable snapshot of the surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Env {
    interfaces: Vec<Interface>,
    /// Their names as conditions compare them.
    numbers: Vec<u128>,
    fib4: fib::Fib,
    fib6: fib::Fib,
    loopback: IfIndex,
    /// Settings.
    pub settings: Settings,
}

impl Env {
    /// What there is no more in `new`: interfaces (`None`), and addresses of those that stay.
    pub(crate) fn lost(&self, new: &Env) -> Vec<(IfIndex, Option<u128>)> {
        let mut lost = Vec::new();
        for old in &self.interfaces {
            let Some(now) = new.interface(old.index) else {
                lost.push((old.index, None));
                continue;
            };
            let has = |p: &Prefix| {
                let mut all = now.addresses.iter();
                all.any(|q| (q.family, q.addr) == (p.family, p.addr))
            };
            let gone = old.addresses.iter().filter(|p| !has(p));
            lost.extend(gone.map(|p| (old.index, Some(p.addr))));
        }
        lost
    }

    /// A snapshot of `interfaces` (a loopback is added when there is none) with the
    /// routes that their addresses imply, plus `routes` and `rules`.
    #[must_use]
    pub fn new(
        mut interfaces: Vec<Interface>,
        routes: &[Route],
        rules: &[PolicyRule],
        settings: Settings,
    ) -> Self {
        if !interfaces.iter().any(|i| i.loopback) {
            interfaces.push(loopback(&interfaces));
        }
        let fib4 = fib::Fib::build(Family::V4, &interfaces, routes, rules);
        let fib6 = fib::Fib::build(Family::V6, &interfaces, routes, rules);
        let loopback = interfaces
            .iter()
            .find(|i| i.loopback)
            .map_or(LOOPBACK, |i| i.index);
        Env {
            numbers: interfaces
                .iter()
                .map(|i| interface_number(&i.name))
                .collect(),
            interfaces,
            fib4,
            fib6,
            loopback,
            settings,
        }
    }

    /// All interfaces.
    #[must_use]
    pub fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    /// The interface with that index.
    #[must_use]
    pub fn interface(&self, index: IfIndex) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.index == index)
    }

    /// The name of an interface as the number that conditions compare; 0 when there is
    /// no such interface.
    pub(crate) fn name_number(&self, index: IfIndex) -> u128 {
        let at = self.interfaces.iter().position(|i| i.index == index);
        at.and_then(|at| self.numbers.get(at)).copied().unwrap_or(0)
    }

    /// The interface with that name.
    #[must_use]
    pub fn interface_named(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// The loopback interface's index.
    #[must_use]
    pub fn loopback(&self) -> IfIndex {
        self.loopback
    }

    /// Whether packets of this family are routed onwards.
    #[must_use]
    pub fn forwards(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.settings.forward4,
            Family::V6 => self.settings.forward6,
        }
    }

    /// Whether `addr` is one of this host's addresses.
    #[must_use]
    pub fn is_local(&self, family: Family, addr: u128) -> bool {
        self.fib(family).local_type(addr, None) == Some(RouteType::Local)
    }

    /// Whether there are policy-routing rules beside those of every host
    /// (`fib4_has_custom_rules`), which may look at more than the destination.
    #[must_use]
    pub fn has_policy_rules(&self, family: Family) -> bool {
        self.fib(family).has_policy_rules()
    }

    fn fib(&self, family: Family) -> &fib::Fib {
        match family {
            Family::V4 => &self.fib4,
            Family::V6 => &self.fib6,
        }
    }

    /// The route to `dst` for a packet from `src` with `mark`.
    #[inline]
    #[must_use]
    pub fn route(&self, family: Family, dst: u128, src: u128, mark: u32) -> Option<Routed> {
        let route = self.fib(family).lookup(dst, src, mark, None);
        route.map(Routed::from)
    }

    /// The same for whoever sends out of `dev`, if it is given.
    pub(crate) fn route_out_of(
        &self,
        family: Family,
        dst: u128,
        dev: Option<IfIndex>,
    ) -> Option<Routed> {
        let route = self.fib(family).lookup(dst, 0, 0, dev);
        route.map(Routed::from)
    }

    /// Realms of the route of a packet that came in by an interface (`fib_combine_itag`,
    /// `set_class_tag`), or was sent by this host. 0 where no route has any.
    #[must_use]
    pub(crate) fn realms(&self, received: bool, local: bool, ends: (u128, u128), mark: u32) -> u32 {
        let fib = &self.fib4;
        if !fib.has_realms() {
            return 0;
        }
        let (src, dst) = ends;
        let of = |dst, src, mark| fib.lookup(dst, src, mark, None).map_or(0, |r| r.realm);
        let back = if received { of(src, dst, 0) << 16 } else { 0 };
        if local && received {
            return back;
        }
        let way = of(dst, src, mark);
        let upper = if way >> 16 == 0 {
            back
        } else {
            way & 0xffff_0000
        };
        way & 0xffff | upper
    }

    /// Addresses at which what routing says may change, ascending, 0 among them.
    #[must_use]
    pub fn boundaries(&self, family: Family) -> Vec<u128> {
        self.fib(family).boundaries()
    }

    /// The route to `dst` for a packet received on `dev`. IPv6 loopback and link-local
    /// destinations are looked for on that interface alone (`rt6_need_strict`).
    #[must_use]
    pub(crate) fn route_received(
        &self,
        family: Family,
        dst: u128,
        src: u128,
        mark: u32,
        dev: Option<IfIndex>,
    ) -> Option<Routed> {
        let strict = family == Family::V6 && (dst == 1 || is_link_local6(dst));
        let fib = self.fib(family);
        let route = fib.lookup(dst, src, mark, dev.filter(|_| strict));
        route.map(Routed::from)
    }

    /// The type of `addr` as `-m addrtype` sees it (`inet_dev_addr_type`,
    /// `match_lookup_rt6`), restricted to one interface when `dev` is given.
    #[must_use]
    pub fn address_type(&self, family: Family, addr: u128, dev: Option<IfIndex>) -> RouteType {
        self.fib(family).address_type(addr, dev)
    }

    /// The address `dev` would use to reach `dst` (`inet_select_addr`): an address of
    /// `dev` in `dst`'s network, else its first, else the first global address of any
    /// other interface.
    #[must_use]
    pub fn select_address(&self, family: Family, dev: IfIndex, dst: u128) -> Option<u128> {
        let own = self.interface(dev)?;
        match family {
            Family::V4 => select4(own, dst).or_else(|| {
                self.interfaces
                    .iter()
                    .filter(|i| i.index != dev && !i.loopback)
                    .find_map(|i| first_address(i, family))
            }),
            Family::V6 => self.select6(own, dst),
        }
    }

    /// RFC 6724 section 5 as far as it matters here: the destination itself, then the
    /// right scope, then the outgoing interface, then the longest match. Link-local
    /// destinations are for the interface's own addresses only.
    fn select6(&self, own: &Interface, dst: u128) -> Option<u128> {
        let local = is_link_local6(dst) || is_multicast(Family::V6, dst);
        self.interfaces
            .iter()
            .filter(|i| !local || i.index == own.index)
            .flat_map(|i| i.addresses.iter().map(move |a| (i, a)))
            .filter(|(_, a)| a.family == Family::V6)
            .max_by_key(|(i, a)| {
                let scope = (is_link_local6(a.addr) == is_link_local6(dst)) && a.addr != 1;
                let outgoing = i.index == own.index;
                let common = (a.addr ^ dst).leading_zeros();
                (
                    a.addr == dst,
                    scope,
                    outgoing,
                    common,
                    std::cmp::Reverse(a.addr),
                )
            })
            .map(|(_, a)| a.addr)
    }

    /// The first address of `dev`, as REDIRECT uses it.
    #[must_use]
    pub fn first_address(&self, family: Family, dev: IfIndex) -> Option<u128> {
        first_address(self.interface(dev)?, family)
    }
}

fn loopback(others: &[Interface]) -> Interface {
    let taken = |n: u32| others.iter().any(|i| i.index == IfIndex(n));
    let index = (1..).find(|&n| !taken(n)).unwrap_or(1);
    Interface {
        index: IfIndex(index),
        name: "lo".to_owned(),
        addresses: vec![
            Prefix {
                family: Family::V4,
                addr: 0x7f00_0001,
                len: 8,
            },
            Prefix {
                family: Family::V6,
                addr: 1,
                len: 128,
            },
        ],
        group: 0,
        mtu: 65536,
        mac: None,
        loopback: true,
    }
}

fn first_address(interface: &Interface, family: Family) -> Option<u128> {
    interface
        .addresses
        .iter()
        .find(|a| a.family == family)
        .map(|a| a.addr)
}

/// Addresses of 127/8 have host scope: they are not for talking to others.
fn select4(interface: &Interface, dst: u128) -> Option<u128> {
    let own = |a: &&Prefix| a.family == Family::V4 && a.addr >> 24 != 127;
    let mut v4 = interface.addresses.iter().filter(own);
    v4.clone()
        .find(|a| a.contains(dst))
        .or_else(|| v4.next())
        .map(|a| a.addr)
}

/// fe80::/10
pub(crate) fn is_link_local6(addr: u128) -> bool {
    addr >> 118 == 0x3fa
}

/// ff00::/8
pub(crate) fn is_multicast(family: Family, addr: u128) -> bool {
    match family {
        Family::V4 => addr >> 28 == 0xe,
        Family::V6 => addr >> 120 == 0xff,
    }
}
