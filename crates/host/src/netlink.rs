//! Asking the kernel over rtnetlink.

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
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
pub(crate) fn dump(request: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
    for _ in 0..TRIES {
        if let Some(found) = dump_once(request.clone())? {
            return Ok(found);
        }
    }
    bail!("interfaces or routes keep changing while they are read");
}

/// One list; `None` when it changed on the way.
fn dump_once(request: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>> {
    let mut socket = Socket::new(NETLINK_ROUTE).context("netlink socket")?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut found = Vec::new();
    let mut whole = true;
    let mut answer = Vec::with_capacity(ANSWER);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if answer.is_empty() {
            bail!("netlink: an empty answer");
        }
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .context("netlink: an answer of a kind unknown here")?;
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
            let len = (message.header.length as usize).max(HEADER);
            rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or(&[]);
        }
    }
}
