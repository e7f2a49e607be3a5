//! A syslog on another host over UDP (RFC 5426).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::Target;
use crate::config::{Format, Remote};
use crate::line::{Author, Line};
use crate::status::Meter;

#[derive(Debug)]
pub(crate) struct Udp {
    to: SocketAddr,
    format: Format,
    socket: Option<UdpSocket>,
}

impl Udp {
    pub(crate) fn new(remote: &Remote) -> Self {
        Udp {
            to: remote.address,
            format: remote.format,
            socket: None,
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open(self.to)?,
        };
        // An error that ICMP brought belongs to an earlier datagram: this one may pass.
        let sent = socket.send(bytes).or_else(|_| socket.send(bytes));
        self.socket = Some(socket);
        sent.map(|_| ())
    }
}

fn open(to: SocketAddr) -> io::Result<UdpSocket> {
    let from: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

impl Target for Udp {
    fn write(&mut self, author: &mut Author, line: &Line, meter: &Meter) {
        let message = match self.format {
            Format::Rfc3164 => author.rfc3164(line),
            Format::Rfc5424 => author.rfc5424(line),
        };
        match self.send(message.as_bytes()) {
            Ok(()) => meter.success(1),
            Err(e) => meter.failure(1, &e),
        }
    }
}
