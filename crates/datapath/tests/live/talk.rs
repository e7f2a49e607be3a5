//! Programs that talk over TCP and UDP and check what they hear.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::net::Host;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Wait for something that must not come.
pub(crate) const SHORT: Duration = Duration::from_millis(400);

pub(crate) const MEGABYTE: usize = 1 << 20;

/// Bytes of which no two neighbouring kilobytes are alike; `seed` tells directions apart.
fn content(seed: u32, len: usize) -> Vec<u8> {
    let byte = |i: usize| {
        let mixed = (i as u32).wrapping_add(seed).wrapping_mul(0x9e37_79b1);
        (mixed >> 24) as u8
    };
    (0..len).map(byte).collect()
}

fn set(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn hear(stream: &mut TcpStream, seed: u32) -> io::Result<()> {
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    if heard == content(seed, MEGABYTE) {
        return Ok(());
    }
    let len = heard.len();
    Err(io::Error::other(format!("{len} bytes that were not sent")))
}

fn tell(stream: &mut TcpStream, seed: u32) -> io::Result<()> {
    stream.write_all(&content(seed, MEGABYTE))?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// Listens on `server` at `at` for one connection that brings a megabyte and takes
/// another; returns the caller's address.
pub(crate) fn serve(server: &Host, at: SocketAddr) -> io::Result<JoinHandle<io::Result<IpAddr>>> {
    let listener = server.run(|| TcpListener::bind(at))?;
    listener.set_nonblocking(true)?;
    Ok(thread::spawn(move || {
        let mut accepted = None;
        crate::net::eventually(|| {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (mut stream, peer) = accepted.ok_or(io::ErrorKind::TimedOut)?;
        stream.set_nonblocking(false)?;
        set(&stream)?;
        hear(&mut stream, 1)?;
        tell(&mut stream, 2)?;
        Ok(peer.ip())
    }))
}

/// Calls `to` from `client`: a megabyte there, another back.
pub(crate) fn call(client: &Host, to: SocketAddr) -> io::Result<()> {
    let mut stream = client.run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    set(&stream)?;
    tell(&mut stream, 1)?;
    hear(&mut stream, 2)
}

/// A megabyte each way between a client and a server that listens at `at`.
pub(crate) fn megabytes(client: &Host, server: &Host, at: SocketAddr) {
    let serving = serve(server, at).unwrap_or_else(|e| panic!("{at}: {e}"));
    let called = call(client, at);
    let served = serving.join().unwrap();
    assert!(
        called.is_ok() && served.is_ok(),
        "{at}: {called:?}, {served:?}"
    );
}

/// A UDP socket on `host`.
pub(crate) fn udp(host: &Host, at: SocketAddr) -> UdpSocket {
    let socket = host.run(|| UdpSocket::bind(at)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends datagrams of some sizes from one socket to the other and back.
pub(crate) fn datagrams(from: &UdpSocket, to: &UdpSocket, at: SocketAddr) {
    let mut buffer = vec![0; 1 << 16];
    for size in [0, 1, 1472, 1473, 4000, 9000] {
        let sent = content(size as u32, size);
        from.send_to(&sent, at).unwrap();
        let (len, peer) = to
            .recv_from(&mut buffer)
            .unwrap_or_else(|e| panic!("{at}, {size}: {e}"));
        assert!(buffer[..len] == sent, "{at}, {size}: other content");
        to.send_to(&sent, peer).unwrap();
        let len = from
            .recv(&mut buffer)
            .unwrap_or_else(|e| panic!("{at}, {size} back: {e}"));
        assert!(buffer[..len] == sent, "{at}, {size} back: other content");
    }
}

/// Whether a datagram from one socket reaches the other.
pub(crate) fn reaches(from: &UdpSocket, to: &UdpSocket, at: SocketAddr) -> bool {
    to.set_read_timeout(Some(SHORT)).unwrap();
    let _ = from.send_to(b"hello", at);
    let heard = to.recv(&mut [0; 16]);
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    heard.is_ok_and(|len| len == 5)
}
