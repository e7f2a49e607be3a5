//! Asking the kernel over rtnetlink, and telling it.

use std::io;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// More than the kernel puts in one answer (`NLMSG_GOODSIZE`, `netlink_dump`).
const ANSWER: usize = 1 << 16;
/// How often to ask when things change while the kernel lists them.
const TRIES: usize = 8;
/// Size of a netlink message's header, and what lengths are rounded up to.
const HEADER: usize = 16;
const ALIGN: usize = 4;

/// Everything that the kernel lists for `request`.
///
/// # Errors
/// The kernel refuses, cannot be understood, or changes all the time.
pub fn dump(request: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
    for _ in 0..TRIES {
        if let Some(found) = dump_once(request.clone())? {
            return Ok(found);
        }
    }
    bail!("interfaces or routes keep changing while they are read");
}

/// Has the kernel do something, with `flags` beyond the usual ones (`NLM_F_CREATE` and
/// so on).
///
/// # Errors
/// What the kernel says: the error number is in it.
pub fn request(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let socket = connected()?;
    send(&socket, message, NLM_F_ACK | flags)?;
    let mut answer = Vec::with_capacity(ANSWER);
    socket.recv(&mut answer, 0)?;
    for message in messages(&answer) {
        if let NetlinkPayload::Error(error) = message.map_err(io::Error::other)?.payload {
            return match error.code {
                None => Ok(()),
                Some(_) => Err(error.to_io()),
            };
        }
    }
    Err(io::Error::other("netlink: no answer to a request"))
}

/// The messages in one datagram of the kernel.
pub fn messages(
    mut bytes: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .context("netlink: an answer of a kind unknown here");
        let claimed = bytes.first_chunk().map_or(0, |n| u32::from_ne_bytes(*n));
        let len = (claimed as usize).max(HEADER).next_multiple_of(ALIGN);
        bytes = bytes.get(len..).unwrap_or(&[]);
        Some(message)
    })
}

/// Sends `message` without waiting for an answer; `flags` beyond `NLM_F_REQUEST`.
///
/// # Errors
/// The socket's.
pub fn send(socket: &Socket, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(())
}

/// A socket to the kernel.
fn connected() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// One list; `None` when it changed on the way.
fn dump_once(request: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>> {
    let socket = connected().context("netlink socket")?;
    send(&socket, request, NLM_F_DUMP)?;
    let mut found = Vec::new();
    let mut whole = true;
    let mut answer = Vec::with_capacity(ANSWER);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if answer.is_empty() {
            bail!("netlink: an empty answer");
        }
        for message in messages(&answer) {
            let message = message?;
            whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::Done(done) if done.code == 0 => {
                    return Ok(whole.then_some(found));
                }
                NetlinkPayload::Done(done) => bail!("netlink: error {}", done.code),
                NetlinkPayload::Error(error) => return Err(error.to_io()).context("netlink"),
                NetlinkPayload::InnerMessage(inner) => found.push(inner),
                _ => {}
            }
        }
    }
}
