//! Devices: listing them, and making and removing our own.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
    LinkMessage,
};
use tidegate_host::{OWN_DEVICE, netlink};
use tidegate_sys::Namespace;

/// Largest packet a veth carries (`ETH_MAX_MTU`).
pub(super) const MTU: u32 = 65535;
/// Longest device name (`IFNAMSIZ` without its NUL).
const NAME: usize = 15;

/// How packets are framed on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Loopback.
    Loopback,
    /// Ethernet, with this address of our own.
    Ethernet([u8; 6]),
    /// Bare packets: tunnels and point-to-point links.
    Bare,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mtu: u32,
    /// `None`: framed in a way that is not known here.
    pub(crate) framing: Option<Framing>,
    /// Part of a bridge, bond or team, whose packets the kernel sees at the master.
    pub(crate) port: bool,
    /// No address resolution on it.
    pub(crate) no_arp: bool,
    /// Other interfaces here share it: VLANs, macvlan.
    pub(crate) carries: bool,
    /// It takes frames before the kernel has made packets of them.
    pub(crate) takes: bool,
    /// The interface that it shares.
    lower: Option<u32>,
}

impl Device {
    /// Whether it is one of ours.
    pub(crate) fn ours(&self) -> bool {
        self.name.starts_with(OWN_DEVICE)
    }

    fn new(message: &LinkMessage) -> Self {
        let mut device = Device {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            framing: None,
            port: false,
            no_arp: message.header.flags.contains(LinkFlags::Noarp),
            carries: false,
            takes: false,
            lower: None,
        };
        let (mut mac, mut lower, mut elsewhere) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::IfName(name) => device.name.clone_from(name),
                LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::LinkNetNsId(_) => elsewhere = true,
                LinkAttribute::LinkInfo(infos) => {
                    // The other end of a pair is no lower one.
                    elsewhere |= infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                    device.port = infos.iter().any(|info| {
                        let LinkInfo::PortKind(kind) = info else {
                            return false;
                        };
                        !matches!(kind, InfoPortKind::Vrf)
                    });
                }
                _ => {}
            }
        }
        device.lower = lower.filter(|_| !elsewhere);
        device.framing = match (message.header.link_layer_type, mac) {
            (LinkLayerType::Loopback, _) => Some(Framing::Loopback),
            (LinkLayerType::Ether, Some(mac)) => Some(Framing::Ethernet(mac)),
            (
                LinkLayerType::None
                | LinkLayerType::Ppp
                | LinkLayerType::Rawip
                | LinkLayerType::Tunnel
                | LinkLayerType::Tunnel6
                | LinkLayerType::Sit,
                _,
            ) => Some(Framing::Bare),
            _ => None,
        };
        device
    }
}

/// All devices of the calling thread's namespace.
pub(crate) fn list() -> Result<Vec<Device>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let found = netlink::dump(&request)?;
    let device = |m: &RouteNetlinkMessage| match m {
        RouteNetlinkMessage::NewLink(link) => Some(Device::new(link)),
        _ => None,
    };
    let mut devices: Vec<Device> = found.iter().filter_map(device).collect();
    let lower: Vec<u32> = devices.iter().filter_map(|d| d.lower).collect();
    for device in &mut devices {
        device.carries = lower.contains(&device.index);
    }
    Ok(devices)
}

/// The name of our device for another, unique as names and indexes are.
pub(super) fn own_name(device: &Device) -> String {
    let name = format!("{OWN_DEVICE}{}", device.name);
    if name.len() <= NAME {
        name
    } else {
        format!("{OWN_DEVICE}~{}", device.index)
    }
}

/// The name of our device by which the programs of device `index` send up.
pub(super) fn own_name_up(index: u32) -> String {
    format!("{OWN_DEVICE}^{index}")
}

/// Makes a pair of devices named `name`: one here, the far end in `helper`. Both come
/// up, without IPv6 of their own. Returns their indexes.
pub(super) fn pair(name: &str, mac: Option<[u8; 6]>, helper: &Namespace) -> Result<(u32, u32)> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::NetNsFd(helper.as_fd().as_raw_fd()),
        LinkAttribute::Mtu(MTU),
    ];
    let mut near = veth(name, peer);
    near.attributes.push(LinkAttribute::Mtu(MTU));
    if let Some(mac) = mac {
        near.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    create(near).with_context(|| format!("making the device pair {name}"))?;
    quiet(name);
    let near = find(name)?;
    up(near)?;
    let far = helper.run(|| {
        quiet(name);
        let far = find(name).map_err(io::Error::other)?;
        up(far)?;
        Ok(far)
    })?;
    Ok((near, far))
}

/// Makes a pair of devices in this namespace that stays down; returns one's index.
pub(super) fn sink(name: &str) -> Result<u32> {
    create(veth(name, LinkMessage::default())).context("making a device")?;
    find(name)
}

fn veth(name: &str, peer: LinkMessage) -> LinkMessage {
    let mut near = LinkMessage::default();
    near.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    near
}

fn create(link: LinkMessage) -> io::Result<()> {
    netlink::request(
        RouteNetlinkMessage::NewLink(link),
        NLM_F_CREATE | NLM_F_EXCL,
    )
}

fn find(name: &str) -> Result<u32> {
    let all = list()?;
    let found = all.iter().find(|d| d.name == name);
    found
        .map(|d| d.index)
        .with_context(|| format!("the device {name} is gone"))
}

fn up(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    netlink::request(RouteNetlinkMessage::SetLink(link), 0)
}

/// Gives a device another Ethernet address.
pub(super) fn set_mac(index: u32, mac: [u8; 6]) -> io::Result<()> {
    set(index, LinkAttribute::Address(mac.to_vec()))
}

/// Gives a device another MTU.
pub(super) fn set_mtu(index: u32, mtu: u32) -> io::Result<()> {
    set(index, LinkAttribute::Mtu(mtu))
}

fn set(index: u32, attribute: LinkAttribute) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(attribute);
    netlink::request(RouteNetlinkMessage::SetLink(link), 0)
}

/// Removes a device, and with it the other end of a pair; one that is gone is fine.
pub(super) fn remove(index: u32) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    match netlink::request(RouteNetlinkMessage::DelLink(link), 0) {
        Err(e) if e.raw_os_error() != Some(ENODEV) => Err(e),
        _ => Ok(()),
    }
}

/// "No such device".
const ENODEV: i32 = 19;

/// Keeps IPv6 from settling on one of our devices. Where `/proc/sys` is read-only it
/// gets a link-local address, which hurts nobody.
fn quiet(name: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    let _ = std::fs::write(path, "1");
}
