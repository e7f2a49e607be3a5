//! Interfaces, addresses and routes of the calling thread's network namespace, over
//! rtnetlink.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// An address and the length of its network's prefix, or a network.
pub(crate) type Network = (IpAddr, u8);

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// Makes a pair of interfaces: `own` here, `peer` in the namespace `there`.
///
/// # Errors
/// The kernel refuses, as everywhere here.
pub(crate) fn veth(own: (&str, Mac), peer: (&str, Mac), there: BorrowedFd<'_>) -> Result<()> {
    let mut far = LinkMessage::default();
    far.attributes = vec![
        LinkAttribute::IfName(peer.0.to_owned()),
        LinkAttribute::Address(peer.1.to_vec()),
        LinkAttribute::NetNsFd(there.as_raw_fd()),
    ];
    let mut near = LinkMessage::default();
    near.attributes = vec![
        LinkAttribute::IfName(own.0.to_owned()),
        LinkAttribute::Address(own.1.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]),
    ];
    let new = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewLink(near), new).with_context(|| format!("making {}", own.0))
}

/// Brings `dev` up.
pub(crate) fn up(dev: &str) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index(dev)?;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    request(RouteNetlinkMessage::SetLink(link), 0).with_context(|| format!("{dev} up"))
}

/// Gives `dev` an address. IPv6 addresses are used at once, without asking around.
pub(crate) fn address(dev: &str, (address, len): Network) -> Result<()> {
    let mut message = AddressMessage::default();
    message.header.index = index(dev)?;
    message.header.prefix_len = len;
    message.header.family = family(address);
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    if address.is_ipv6() {
        let flags = AddressFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    let new = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewAddress(message), new)
        .with_context(|| format!("address {address}/{len} on {dev}"))
}

/// Adds a route to a network by the neighbour `via`.
pub(crate) fn route((to, len): Network, via: IpAddr) -> Result<()> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(via);
    message.header.destination_prefix_length = len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Gateway(route_address(via))];
    if len > 0 {
        let to = RouteAttribute::Destination(route_address(to));
        message.attributes.push(to);
    }
    let new = NLM_F_CREATE | NLM_F_EXCL;
    request(RouteNetlinkMessage::NewRoute(message), new)
        .with_context(|| format!("route to {to}/{len} via {via}"))
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(a) => RouteAddress::Inet(a),
        IpAddr::V6(a) => RouteAddress::Inet6(a),
    }
}

fn index(dev: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(dev).with_context(|| format!("there is no interface {dev}"))
}

/// Sends one request and waits for the kernel's answer.
fn request(message: RouteNetlinkMessage, flags: u16) -> Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("netlink socket")?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answer = Vec::with_capacity(1 << 16);
    socket.recv(&mut answer, 0)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .context("netlink: an answer of a kind unknown here")?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        _ => bail!("netlink: an answer of a kind not asked for"),
    }
}
