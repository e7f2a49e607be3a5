//! TCP segments made by hand.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_wire::{Family, checksum, proto, put};

use super::words::resolve;

pub(super) const SYN: u8 = 2;
pub(super) const ACK: u8 = 16;

/// A segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) sport: u16,
    pub(super) dport: u16,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    /// With a wrong checksum.
    pub(super) damaged: bool,
}

/// A raw socket for TCP over IPv4.
pub(super) struct Raw {
    pub(super) socket: Socket,
    pub(super) from: Ipv4Addr,
    pub(super) to: Ipv4Addr,
}

impl Raw {
    /// Opens one to talk to `host`.
    pub(super) fn to(host: &str) -> Result<Self> {
        let SocketAddr::V4(to) = resolve(host, 9)? else {
            bail!("IPv4 only");
        };
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP));
        let socket = socket.context("raw socket")?;
        // The address that the kernel would use; nothing is sent.
        let probe = UdpSocket::bind("0.0.0.0:0")?;
        probe.connect(to)?;
        let SocketAddr::V4(own) = probe.local_addr()? else {
            bail!("IPv4 only");
        };
        Ok(Raw {
            socket,
            from: *own.ip(),
            to: *to.ip(),
        })
    }

    /// Sends a segment.
    pub(super) fn send(&self, segment: Segment) -> Result<()> {
        let to = SocketAddr::V4(SocketAddrV4::new(self.to, 0));
        self.socket.send_to(&self.bytes(segment), &to.into())?;
        Ok(())
    }

    fn bytes(&self, segment: Segment) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(20);
        bytes.extend(segment.sport.to_be_bytes());
        bytes.extend(segment.dport.to_be_bytes());
        bytes.extend(segment.seq.to_be_bytes());
        bytes.extend(segment.ack.to_be_bytes());
        // Five words of header, the flags, a window, no checksum yet, nothing urgent.
        bytes.extend([0x50, segment.flags, 4, 0, 0, 0, 0, 0]);
        let (from, to) = (u32::from(self.from), u32::from(self.to));
        let pseudo = checksum::pseudo(Family::V4, from.into(), to.into(), proto::TCP, 20);
        let mut sum = checksum::finish(pseudo, &bytes);
        if segment.damaged {
            sum ^= 0x5555;
        }
        put(&mut bytes, 16, &sum.to_be_bytes());
        bytes
    }
}
