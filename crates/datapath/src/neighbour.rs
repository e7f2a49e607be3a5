//! The kernel's neighbour table, followed over rtnetlink.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::IfIndex;
use tidegate_host::{address, netlink, number};
use tidegate_sys::OutFrame;
use tidegate_wire::Family;

/// Packets that wait for one neighbour; the kernel keeps about as many
/// (`unres_qlen_bytes`).
const WAITING_EACH: usize = 64;
/// Neighbours that are waited for.
const WAITING: usize = 1024;
/// How long.
const PATIENCE: Time = 4 * SECOND;
/// How often the kernel is told that an entry is in use, so that it checks it.
const REFRESH: Time = SECOND;
/// `RTNLGRP_NEIGH`.
const GROUP: u32 = 3;
/// Answers of the kernel are smaller.
const ANSWER: usize = 1 << 16;

/// Who is asked for: device, family, address.
pub(crate) type Key = (IfIndex, Family, u128);

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: [u8; 6],
    /// The kernel vouches for it at present, or for ever.
    sure: bool,
    /// When the kernel was last told that it is in use.
    told: Time,
}

#[derive(Debug)]
struct Waiting {
    since: Time,
    frames: Vec<OutFrame>,
}

/// Neighbours' Ethernet addresses.
#[derive(Debug)]
pub(crate) struct Neighbours {
    socket: Socket,
    known: HashMap<Key, Entry>,
    waiting: HashMap<Key, Waiting>,
    answer: Vec<u8>,
}

/// What is known about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Mac([u8; 6]),
    NotYet,
}

/// Frames that have been waiting, and whether their neighbour was found.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) key: Key,
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) frames: Vec<OutFrame>,
}

impl Neighbours {
    pub(crate) fn new() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("netlink socket")?;
        socket.bind_auto()?;
        socket.add_membership(GROUP)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        let mut made = Neighbours {
            socket,
            known: HashMap::new(),
            waiting: HashMap::new(),
            answer: Vec::with_capacity(ANSWER),
        };
        made.reload()?;
        Ok(made)
    }

    fn reload(&mut self) -> Result<()> {
        self.known.clear();
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Unspec;
        for message in netlink::dump(&RouteNetlinkMessage::GetNeighbour(request))? {
            if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
                self.learn(&neighbour);
            }
        }
        Ok(())
    }

    /// Takes in what the kernel tells; returns frames that need not wait any more.
    pub(crate) fn hear(&mut self) -> Result<Vec<Settled>> {
        let mut settled = Vec::new();
        loop {
            let mut answer = std::mem::take(&mut self.answer);
            answer.clear();
            let got = self.socket.recv(&mut answer, 0);
            match got {
                Ok(_) => {
                    for message in netlink::messages(&answer).flatten() {
                        settled.extend(self.take(message.payload));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.answer = answer;
                    return Ok(settled);
                }
                // Too much at once (`ENOBUFS`).
                Err(_) => {
                    self.reload()?;
                    settled.extend(self.found());
                }
            }
            self.answer = answer;
        }
    }

    /// Frames whose neighbours have become known without a word.
    fn found(&mut self) -> Vec<Settled> {
        let known = &self.known;
        let found = self.waiting.extract_if(|key, _| known.contains_key(key));
        found
            .map(|(key, waiting)| Settled {
                key,
                mac: known.get(&key).map(|entry| entry.mac),
                frames: waiting.frames,
            })
            .collect()
    }

    fn take(&mut self, payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Settled> {
        match payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(m)) => {
                let (key, state) = self.learn(&m)?;
                if let Some(entry) = self.known.get(&key) {
                    let mac = Some(entry.mac);
                    let frames = self.waiting.remove(&key)?.frames;
                    return Some(Settled { key, mac, frames });
                }
                if state == NeighbourState::Failed {
                    let frames = self.waiting.remove(&key)?.frames;
                    return Some(Settled {
                        key,
                        mac: None,
                        frames,
                    });
                }
                None
            }
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(m)) => {
                self.known.remove(&key_of(&m)?);
                None
            }
            _ => None,
        }
    }

    fn learn(&mut self, message: &NeighbourMessage) -> Option<(Key, NeighbourState)> {
        let key = key_of(message)?;
        let state = message.header.state;
        let mac = message.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(&mac[..]).ok(),
            _ => None,
        });
        let sure = match state {
            NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => {
                Some(true)
            }
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => Some(false),
            _ => None,
        };
        match (mac, sure) {
            (Some(mac), Some(sure)) => {
                let told = self.known.get(&key).map_or(0, |e| e.told);
                self.known.insert(key, Entry { mac, sure, told });
            }
            _ => {
                self.known.remove(&key);
            }
        }
        Some((key, state))
    }

    /// The address of a neighbour. The kernel is told about its use, and asked to find
    /// it where it is not known.
    pub(crate) fn ask(&mut self, key: Key, now: Time) -> Known {
        let Some(entry) = self.known.get_mut(&key) else {
            return Known::NotYet;
        };
        let mac = entry.mac;
        if !entry.sure && now.saturating_sub(entry.told) >= REFRESH {
            entry.told = now;
            self.tell(key);
        }
        Known::Mac(mac)
    }

    /// The address of a neighbour, if it is known.
    pub(crate) fn mac(&self, key: &Key) -> Option<[u8; 6]> {
        self.known.get(key).map(|entry| entry.mac)
    }

    /// Keeps a frame until its neighbour is known; `false` when there is no room.
    pub(crate) fn wait(&mut self, key: Key, frame: OutFrame, now: Time) -> bool {
        if let Some(waiting) = self.waiting.get_mut(&key) {
            if waiting.frames.len() >= WAITING_EACH {
                return false;
            }
            waiting.frames.push(frame);
            return true;
        }
        if self.waiting.len() >= WAITING {
            return false;
        }
        let frames = vec![frame];
        self.waiting.insert(key, Waiting { since: now, frames });
        self.tell(key);
        true
    }

    /// Gives up on neighbours that have been waited for too long.
    pub(crate) fn give_up(&mut self, now: Time) -> Vec<Settled> {
        let late = |w: &Waiting| now.saturating_sub(w.since) >= PATIENCE;
        let keys = self.waiting.iter().filter(|(_, w)| late(w));
        let keys: Vec<Key> = keys.map(|(k, _)| *k).collect();
        let settle = |key| {
            let frames = self.waiting.remove(&key)?.frames;
            Some(Settled {
                key,
                mac: None,
                frames,
            })
        };
        keys.into_iter().filter_map(settle).collect()
    }

    /// When [`Neighbours::give_up`] next has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.waiting.values().map(|w| w.since + PATIENCE).min()
    }

    /// Forgets what is on a device; returns how many packets were waiting there.
    pub(crate) fn forget(&mut self, dev: IfIndex) -> u64 {
        self.known.retain(|key, _| key.0 != dev);
        let gone = self.waiting.extract_if(|key, _| key.0 == dev);
        gone.map(|(_, waiting)| waiting.frames.len() as u64).sum()
    }

    /// Tells the kernel that an entry is in use (`NTF_USE`): it resolves or checks it. A
    /// refusal (device gone) shows in that no answer comes.
    fn tell(&self, (dev, family, addr): Key) {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = dev.0;
        message.header.flags = NeighbourFlags::Use;
        let destination = match address(family, addr) {
            IpAddr::V4(a) => {
                message.header.family = AddressFamily::Inet;
                NeighbourAddress::Inet(a)
            }
            IpAddr::V6(a) => {
                message.header.family = AddressFamily::Inet6;
                NeighbourAddress::Inet6(a)
            }
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        let _ = netlink::send(
            &self.socket,
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE,
        );
    }
}

impl std::os::fd::AsFd for Neighbours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn key_of(message: &NeighbourMessage) -> Option<Key> {
    let dev = IfIndex(message.header.ifindex);
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => {
            let (family, addr) = number(IpAddr::V4(*a));
            Some((dev, family, addr))
        }
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => {
            let (family, addr) = number(IpAddr::V6(*a));
            Some((dev, family, addr))
        }
        _ => None,
    })
}

/// The Ethernet address of everybody on the link, or of a group (RFC 1112 6.4, RFC 2464
/// section 7).
pub(crate) fn group_mac(family: Family, addr: u128) -> Option<[u8; 6]> {
    let [.., a, b, c, d] = addr.to_be_bytes();
    match family {
        Family::V4 if addr == 0xffff_ffff => Some([0xff; 6]),
        Family::V4 if addr >> 28 == 0xe => Some([0x01, 0x00, 0x5e, b & 0x7f, c, d]),
        Family::V6 if addr >> 120 == 0xff => Some([0x33, 0x33, a, b, c, d]),
        Family::V4 | Family::V6 => None,
    }
}
