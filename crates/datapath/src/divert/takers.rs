//! Which interfaces take frames before the kernel has made packets of them (XDP): over
//! generic netlink, family `netdev` (Linux 6.3 or later).

use std::collections::HashSet;
use std::io;

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

/// The family that tells about families (`GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`), and what
/// is said about one (`CTRL_ATTR_*`).
const CTRL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;

/// `NETDEV_CMD_DEV_GET` and `NETDEV_A_DEV_*`.
const DEV_GET: u8 = 1;
const DEV_INDEX: u16 = 1;
const DEV_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`
const TAKES: u64 = 4;

/// Headers of netlink and of generic netlink, and kinds of messages.
const HEADER: usize = 16;
const GENERIC: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const ANSWER: usize = 1 << 16;

/// Knows which interfaces take such frames, and hears of changes.
#[derive(Debug)]
pub(crate) struct Takers {
    family: u16,
    /// Where changes are told.
    pub(crate) changes: Socket,
}

impl Takers {
    /// # Errors
    /// The kernel does not tell.
    pub(crate) fn new() -> Result<Self> {
        let request = attribute(FAMILY_NAME, b"netdev\0");
        let answers = ask(CTRL, 0, GET_FAMILY, &request).context("the kernel's family netdev")?;
        let answer = answers.first().context("netlink: no answer")?;
        let id = find(answer, FAMILY_ID).context("netlink: a family without a number")?;
        let groups = find(answer, GROUPS).unwrap_or_default();
        let changes = connected()?;
        for (_, group) in attributes(&groups) {
            let is_ours = find(&group, GROUP_NAME).is_some_and(|name| name == b"mgmt\0");
            if let (true, Some(id)) = (is_ours, find(&group, GROUP_ID)) {
                changes.add_membership(number(&id) as u32)?;
            }
        }
        changes.set_non_blocking(true)?;
        Ok(Takers {
            family: number(&id) as u16,
            changes,
        })
    }

    /// The indexes of interfaces in the calling thread's namespace that take them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn list(&self) -> Result<HashSet<u32>> {
        let answers = ask(self.family, NLM_F_DUMP, DEV_GET, &[]).context("interfaces' features")?;
        let takes = |answer: &Vec<u8>| {
            let features = number(&find(answer, DEV_FEATURES)?);
            let index = number(&find(answer, DEV_INDEX)?) as u32;
            (features & TAKES != 0).then_some(index)
        };
        Ok(answers.iter().filter_map(takes).collect())
    }
}

fn connected() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Asks `family` to do `command`; the attributes of each answer.
fn ask(family: u16, flags: u16, command: u8, request: &[u8]) -> Result<Vec<Vec<u8>>> {
    let socket = connected()?;
    let len = (HEADER + GENERIC + request.len()) as u32;
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(family.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(request);
    socket.send(&message, 0)?;
    let mut found = Vec::new();
    let mut answer = Vec::with_capacity(ANSWER);
    loop {
        answer.clear();
        socket.recv(&mut answer, 0)?;
        if !take(&answer, &mut found)? || flags & NLM_F_DUMP == 0 {
            return Ok(found);
        }
    }
}

/// Takes the messages of one datagram; `false` after the last of a list.
fn take(mut bytes: &[u8], found: &mut Vec<Vec<u8>>) -> Result<bool> {
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let len = number(&header[..4]) as usize;
        let kind = number(&header[4..6]) as u16;
        let body = bytes.get(HEADER..len);
        let body = body.ok_or_else(|| anyhow!("netlink: a message cut off"))?;
        match kind {
            DONE => return Ok(false),
            ERROR => {
                let code = number(body.get(..4).unwrap_or_default()) as i32;
                bail!(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            _ => found.push(body.get(GENERIC..).unwrap_or_default().to_vec()),
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// An attribute, filled up to whole words.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, Vec<u8>)> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|a: NlaBuffer<&[u8]>| (a.kind(), a.value().to_vec()))
}

fn find(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    attributes(bytes).find(|a| a.0 == kind).map(|a| a.1)
}

/// A number of up to eight bytes in this machine's byte order.
fn number(bytes: &[u8]) -> u64 {
    match bytes {
        [a, b] => u64::from(u16::from_ne_bytes([*a, *b])),
        [a, b, c, d] => u64::from(u32::from_ne_bytes([*a, *b, *c, *d])),
        _ => bytes.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback takes no frames; every kernel with this family says so.
    #[test]
    fn loopback_takes_none() {
        match Takers::new() {
            Ok(takers) => assert!(!takers.list().unwrap().contains(&1)),
            Err(e) => eprintln!("SKIPPED: {e:#}"),
        }
    }

    #[test]
    fn damaged_answers_are_refused_or_empty() {
        let mut found = Vec::new();
        let mut message = 20u32.to_ne_bytes().to_vec();
        message.extend([0; 15]);
        assert!(take(&message, &mut found).is_err());
        message.push(0);
        assert!(take(&message, &mut found).unwrap());
        assert_eq!(found, [Vec::<u8>::new()]);
        // A length of less than a header would never end.
        message[0] = 3;
        assert!(take(&message, &mut found).is_err());
    }
}
