//! UDP: a server that sends back what comes, and a client that wants it back.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use super::PATIENCE;
use super::words::{Words, any, resolve, waited};

/// A socket with address and port of its own, both families if no address is given.
pub(super) fn bound(port: u16, bind: Option<IpAddr>) -> Result<UdpSocket> {
    let address = bind.unwrap_or(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED));
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket
        .bind(&address.into())
        .with_context(|| format!("port {port}"))?;
    Ok(socket.into())
}

/// A socket that talks to `to` alone.
pub(super) fn connected(to: SocketAddr, from: Option<IpAddr>, sport: u16) -> Result<UdpSocket> {
    let from = from.unwrap_or_else(|| any(to.ip()));
    let socket = UdpSocket::bind((from, sport)).with_context(|| format!("port {sport}"))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// `udp-server`
pub(super) fn serve(words: &Words) -> Result<()> {
    let socket = bound(words.port(0)?, words.get("bind")?)?;
    let mut buffer = [0; 1 << 16];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        let answer = buffer.get(..len).unwrap_or_default();
        // The asker may be gone.
        let _ = socket.send_to(answer, from);
    }
}

/// `udp-ask`: sends `--count` datagrams, each after the answer to the one before.
pub(super) fn ask(words: &Words) -> Result<()> {
    let to = resolve(words.word(0, "HOST")?, words.port(1)?)?;
    let socket = connected(to, words.get("from")?, words.get("sport")?.unwrap_or(0))?;
    let mut buffer = [0; 64];
    for round in 0..words.get("count")?.unwrap_or(1_u32) {
        let question = format!("question {round}");
        socket.send(question.as_bytes())?;
        let len = socket.recv(&mut buffer).map_err(waited)?;
        if buffer.get(..len) != Some(question.as_bytes()) {
            bail!("something else came back");
        }
    }
    println!("answers from {to}");
    Ok(())
}
