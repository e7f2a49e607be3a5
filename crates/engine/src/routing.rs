//! The routing decision for received packets (`ip_route_input_slow`, `ip6_route_input`).

use tidegate_wire::Family;

use crate::emit::IcmpError;
use crate::env::{Env, IfIndex, RouteType, RpFilter, is_link_local6, is_multicast};
use crate::outcome::DropReason;
use crate::packet::Packet;

/// Where a received packet goes.
// Told apart by a byte: it would be what tells whether there is a `via`, as long as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Path {
    /// To a local socket.
    Local,
    /// Out of an interface.
    Forward { dev: IfIndex, via: Option<u128> },
    /// Nowhere, perhaps with an ICMP error.
    Stop(DropReason, Option<IcmpError>),
}

impl Path {
    /// Most bytes that a packet may have to go this way with nothing else to be thought of: a
    /// link that it is too long for, or one that leads back in. 0 where there always is.
    pub(crate) fn longest(&self, env: &Env) -> u32 {
        match self {
            Path::Local => u32::MAX,
            Path::Forward { dev, .. } if *dev == env.loopback() => 0,
            Path::Forward { dev, .. } => env.interface(*dev).map_or(0, |i| i.mtu),
            Path::Stop(..) => 0,
        }
    }
}

const NET_UNREACHABLE: IcmpError = IcmpError::Unreachable(0);
const HOST_UNREACHABLE: IcmpError = IcmpError::Unreachable(1);
const PROHIBITED4: IcmpError = IcmpError::Unreachable(13);
const PROHIBITED6: IcmpError = IcmpError::Unreachable(1);
const BEYOND_SCOPE6: IcmpError = IcmpError::Unreachable(2);

/// Decides the way of `packet`, which came in by an interface.
pub(crate) fn route_in(packet: &Packet, env: &Env) -> Path {
    match packet.family() {
        Family::V4 => route_in4(packet, env),
        Family::V6 => route_in6(packet, env),
    }
}

/// ff02::1:ff00:0, the prefix of solicited-node groups.
const SOLICITED_NODE: u128 = 0xff02 << 112 | 0x1_ff00_0000;

const MARTIAN: Path = Path::Stop(DropReason::Martian, None);

fn route_in4(packet: &Packet, env: &Env) -> Path {
    let family = Family::V4;
    let (src, dst) = (packet.src(), packet.dst());
    let limited_broadcast = 0xffff_ffff;
    let loopback = |a: u128| a >> 24 == 127 && !env.settings.route_localnet;
    if is_multicast(family, src) || src == limited_broadcast {
        return MARTIAN;
    }
    let fits_group = || src == 0 || way_back_fits(packet, env, 0);
    if is_multicast(family, dst) {
        // 224.0.0.1 is the group every interface has joined.
        let joined = (dst == 0xe000_0001 || env.settings.any_group) && !loopback(src);
        return only_if(joined && fits_group(), Path::Local);
    }
    if dst == limited_broadcast || (src == 0 && dst == 0) {
        return only_if(fits_group(), Path::Local);
    }
    if src == 0 || dst == 0 || loopback(dst) || loopback(src) {
        return MARTIAN;
    }
    let Some(route) = env.route(family, dst, src, packet.mark) else {
        return unroutable(env, family, NET_UNREACHABLE);
    };
    let path = match route.kind {
        RouteType::Local | RouteType::Broadcast => Path::Local,
        RouteType::Unicast if !env.forwards(family) => {
            return Path::Stop(DropReason::NotForwarding, None);
        }
        RouteType::Unicast => forward(route.dev, route.via),
        RouteType::Unreachable => return unroutable(env, family, HOST_UNREACHABLE),
        RouteType::Prohibit => return unroutable(env, family, PROHIBITED4),
        RouteType::Blackhole => return Path::Stop(DropReason::NoRoute, None),
        RouteType::Unspec | RouteType::Anycast | RouteType::Multicast | RouteType::Throw => {
            return MARTIAN;
        }
    };
    let asked_about = match route.kind {
        RouteType::Broadcast => 0,
        _ => dst,
    };
    only_if(way_back_fits(packet, env, asked_about), path)
}

fn only_if(fits: bool, path: Path) -> Path {
    if fits { path } else { MARTIAN }
}

/// Whether the source may have come in where the packet did (`fib_validate_source`): it
/// is not this host, and, if reverse paths are filtered, leads back. `own` is the
/// packet's destination, which selects policy routes.
fn way_back_fits(packet: &Packet, env: &Env, own: u128) -> bool {
    let family = Family::V4;
    let src = packet.src();
    let filter = env.settings.rp_filter;
    if env.is_local(family, src) {
        return false;
    }
    if filter == RpFilter::Off {
        // With policy rules the source is looked up all the same.
        let kind = || Some(env.route(family, src, own, 0)?.kind);
        let nobody = |kind| {
            matches!(
                kind,
                RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
            )
        };
        return !(env.has_policy_rules(family) && kind().is_some_and(nobody));
    }
    match env.route(family, src, own, 0) {
        Some(back) if back.kind == RouteType::Unicast => {
            filter == RpFilter::Loose || back.dev == packet.in_dev
        }
        _ => false,
    }
}

fn route_in6(packet: &Packet, env: &Env) -> Path {
    let family = Family::V6;
    let (src, dst) = (packet.src(), packet.dst());
    if is_multicast(family, src) || src == 1 {
        return MARTIAN;
    }
    if is_multicast(family, dst) {
        return if joined6(packet, env) {
            Path::Local
        } else {
            MARTIAN
        };
    }
    let Some(route) = env.route_received(family, dst, src, packet.mark, packet.in_dev) else {
        return unroutable(env, family, NET_UNREACHABLE);
    };
    match route.kind {
        RouteType::Local | RouteType::Anycast => Path::Local,
        RouteType::Unicast if !env.forwards(family) => Path::Stop(DropReason::NotForwarding, None),
        RouteType::Unicast if packet.ttl() > 1 && (src == 0 || is_link_local6(src)) => {
            let error = (src != 0).then_some(BEYOND_SCOPE6);
            Path::Stop(DropReason::Martian, error)
        }
        RouteType::Unicast => forward(route.dev, route.via),
        RouteType::Unreachable => unroutable(env, family, NET_UNREACHABLE),
        RouteType::Prohibit => unroutable(env, family, PROHIBITED6),
        RouteType::Blackhole => Path::Stop(DropReason::NoRoute, None),
        RouteType::Unspec | RouteType::Broadcast | RouteType::Multicast | RouteType::Throw => {
            MARTIAN
        }
    }
}

fn forward(dev: Option<IfIndex>, via: Option<u128>) -> Path {
    match dev {
        Some(dev) => Path::Forward { dev, via },
        None => Path::Stop(DropReason::NoRoute, None),
    }
}

/// Only routers answer.
fn unroutable(env: &Env, family: Family, error: IcmpError) -> Path {
    Path::Stop(DropReason::NoRoute, env.forwards(family).then_some(error))
}

/// Whether this host listens to the multicast group: all nodes, all routers when it
/// forwards, and the solicited-node groups of its addresses (RFC 4291 2.8).
fn joined6(packet: &Packet, env: &Env) -> bool {
    let dst = packet.dst();
    let group = dst & ((1 << 112) - 1);
    let scope = dst >> 112 & 0xf;
    let all_nodes = group == 1 && matches!(scope, 1 | 2);
    let all_routers = group == 2 && matches!(scope, 1 | 2 | 5) && env.forwards(Family::V6);
    let solicited = dst >> 24 == SOLICITED_NODE >> 24 && {
        env.interfaces()
            .iter()
            .filter(|i| Some(i.index) == packet.in_dev)
            .flat_map(|i| &i.addresses)
            .any(|a| a.family == Family::V6 && a.addr & 0xff_ffff == dst & 0xff_ffff)
    };
    all_nodes || all_routers || solicited || env.settings.any_group
}
