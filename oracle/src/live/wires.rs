//! The sockets at the ends of a router's wires, and those on it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sendto, socket_with, sockopt,
};
use tidegate_engine::env::IfIndex;
use tidegate_sys::{FramePort, OutFrame, PacketOptions, PacketSocket};

use super::net::Net;

const ETHERNET: usize = 14;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// Bytes of the longest packet on a wire.
pub(crate) const LONGEST: usize = 1500;
/// Frames read at a time.
const BUDGET: usize = 64;

/// Packets that came out, by interface, in order.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    pub(crate) out: Vec<(IfIndex, Vec<u8>)>,
    pub(crate) local: Vec<(IfIndex, Vec<u8>)>,
}

impl Arrived {
    pub(crate) fn replace_out(&mut self, dev: IfIndex, bytes: &mut Vec<u8>) -> bool {
        replace(&mut self.out, dev, bytes)
    }

    pub(crate) fn replace_local(&mut self, dev: IfIndex, bytes: &mut Vec<u8>) -> bool {
        replace(&mut self.local, dev, bytes)
    }
}

/// Writes the first packet of `dev` in place of `bytes`.
fn replace(from: &mut Vec<(IfIndex, Vec<u8>)>, dev: IfIndex, bytes: &mut Vec<u8>) -> bool {
    let Some(at) = from.iter().position(|(d, _)| *d == dev) else {
        return false;
    };
    *bytes = from.remove(at).1;
    true
}

/// A wire: its end outside, and its end at the router, where what is let in is seen.
struct Wire {
    dev: IfIndex,
    head: [u8; ETHERNET],
    far: Option<PacketSocket>,
    near: [PacketSocket; 2],
}

pub(crate) struct Wires {
    wires: Vec<Wire>,
    raw4: OwnedFd,
    raw6: OwnedFd,
}

impl Wires {
    pub(crate) fn open(net: &Net) -> Result<Self> {
        let options = PacketOptions {
            buffer: 4 << 20,
            receive_ring: 256,
            ..PacketOptions::default()
        };
        // Behind the datapath's programs and filters, as the kernel's own stack is.
        let open = |index: u32, protocol: u16| {
            let behind = PacketOptions {
                protocol: Some(protocol),
                ..options.clone()
            };
            PacketSocket::open(index, &behind)
        };
        let near = |name: &str| {
            net.run(|| {
                let index = if_nametoindex(name)?;
                let sockets = [open(index, ETH_P_IP)?, open(index, ETH_P_IPV6)?];
                Ok((IfIndex(index), sockets))
            })
        };
        let mut wires = Vec::new();
        for link in &net.links {
            let (dev, near) = near(&link.name)?;
            let far = net
                .outside
                .run(|| PacketSocket::open(if_nametoindex(link.name.as_str())?, &options))?;
            let mut head = [0; ETHERNET];
            head[..6].copy_from_slice(&link.router);
            head[6..12].copy_from_slice(&link.other);
            let far = Some(far);
            wires.push(Wire {
                dev,
                head,
                far,
                near,
            });
        }
        let (dev, lo) = near("lo")?;
        wires.push(Wire {
            dev,
            head: [0xff; ETHERNET],
            far: None,
            near: lo,
        });
        let (raw4, raw6) =
            net.run(|| Ok((raw(AddressFamily::INET)?, raw(AddressFamily::INET6)?)))?;
        Ok(Wires { wires, raw4, raw6 })
    }

    /// Puts a packet on a wire.
    pub(crate) fn put(
        &mut self,
        dev: IfIndex,
        ethertype: Option<u64>,
        body: Vec<u8>,
    ) -> Result<()> {
        let wire = self
            .wires
            .iter_mut()
            .find(|w| w.dev == dev)
            .context("wire")?;
        let protocol = match (ethertype, body.first().map(|b| b >> 4)) {
            (Some(number), _) => number as u16,
            (None, Some(6)) => ETH_P_IPV6,
            (None, _) => ETH_P_IP,
        };
        let mut head = wire.head;
        head[12..].copy_from_slice(&protocol.to_be_bytes());
        let frame = OutFrame {
            protocol,
            head,
            head_len: ETHERNET as u8,
            body,
            ..OutFrame::default()
        };
        let far = wire.far.as_mut().context("nobody is at the other end")?;
        let sent = far.send(&[frame]);
        sent.refused.map_or(Ok(()), |e| Err(e).context("the wire"))
    }

    /// Sends a packet from a socket of the router.
    ///
    /// # Errors
    /// What the socket answers.
    pub(crate) fn send_local(&self, bytes: &[u8]) -> io::Result<()> {
        let six = bytes.first().is_some_and(|b| b >> 4 == 6);
        let to: IpAddr = if six {
            let to = bytes.get(24..).and_then(<[u8]>::first_chunk::<16>);
            Ipv6Addr::from(to.copied().unwrap_or_default()).into()
        } else {
            let to = bytes.get(16..).and_then(<[u8]>::first_chunk::<4>);
            to.map_or(Ipv4Addr::LOCALHOST, |to| Ipv4Addr::from(*to))
                .into()
        };
        let socket = if six { &self.raw6 } else { &self.raw4 };
        sendto(socket, bytes, SendFlags::DONTWAIT, &SocketAddr::new(to, 0))?;
        Ok(())
    }

    /// Takes what has come.
    pub(crate) fn read(&mut self, arrived: &mut Arrived) -> Result<()> {
        for wire in &mut self.wires {
            let Wire { dev, far, near, .. } = wire;
            if let Some(far) = far {
                far.receive(BUDGET, &mut |frame| {
                    if let (ETH_P_IP | ETH_P_IPV6, Some(packet)) =
                        (frame.protocol, frame.bytes.get(ETHERNET..))
                    {
                        arrived.out.push((*dev, packet.to_vec()));
                    }
                })?;
            }
            for near in near {
                near.receive(BUDGET, &mut |frame| {
                    if let Some(packet) = frame.bytes.get(ETHERNET..) {
                        arrived.local.push((*dev, packet.to_vec()));
                    }
                })?;
            }
        }
        Ok(())
    }
}

fn raw(family: AddressFamily) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::RAW, flags, Some(ipproto::RAW))?;
    sockopt::set_socket_broadcast(&socket, true)?;
    Ok(socket)
}
