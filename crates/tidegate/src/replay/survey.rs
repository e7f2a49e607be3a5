//! A first look at captures whose host is not described: who talks to whom, where.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::Result;
use tidegate_capture::{Direction, Frame, NetworkPacket, PacketType, Payload};
use tidegate_wire::{Family, parse, proto, tcp};

use super::predict::identity;
use super::source::Sources;

/// Packets looked at; captures that need more to be understood need a description.
const PACKETS: u64 = 200_000;
/// Addresses kept.
const ADDRESSES: usize = 65_536;

/// An address of one family.
pub(super) type Addr = (Family, u128);

/// How the capture names an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Port {
    /// By name.
    Named(String),
    /// By its number in the capturing host.
    Index(u32),
    /// Not at all.
    Unnamed,
    /// Loopback.
    Loopback,
}

/// How often an address was seen in which role.
#[derive(Clone, Debug, Default)]
pub(super) struct Talk {
    /// Source of a packet that came in.
    pub(super) from_in: u64,
    /// Source of a packet that went out.
    pub(super) from_out: u64,
    /// Destination of a packet that came in.
    pub(super) to_in: u64,
    /// Destination of a packet that went out.
    pub(super) to_out: u64,
    /// Source or destination of packets of unknown direction.
    pub(super) undirected: u64,
    /// Destination of connection attempts.
    pub(super) opened: u64,
    /// Hardware address it sent from; `None` after a second one.
    pub(super) mac: Option<[u8; 6]>,
    /// Packets as source.
    pub(super) sent: u64,
    /// Packets per interface.
    pub(super) ports: BTreeMap<Port, u64>,
    /// Number of the packet it was first seen in.
    pub(super) first: u64,
}

/// What a first look found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Addresses of single hosts.
    pub(super) talks: HashMap<Addr, Talk>,
    /// Interfaces with the largest packet seen there.
    pub(super) ports: BTreeMap<Port, u32>,
    /// Addresses that the capture itself attributes to an interface.
    pub(super) stated: Vec<(Port, Addr, u8)>,
    /// Hardware addresses that it attributes to an interface.
    pub(super) macs: BTreeMap<Port, [u8; 6]>,
    /// Packets with a direction.
    pub(super) directed: u64,
    /// Packets looked at.
    pub(super) packets: u64,
    /// The last packets, to find the copies of forwarded ones.
    recent: VecDeque<Recent>,
    /// How often a hardware address was this host's by such a pair.
    votes: BTreeMap<(Port, [u8; 6]), u64>,
}

/// A packet that may have been seen coming in.
#[derive(Debug)]
struct Recent {
    identity: u64,
    ttl: u8,
    port: Port,
    mac_destination: Option<[u8; 6]>,
}

/// Packets between a forwarded one and its copy.
const BETWEEN: usize = 64;

impl Survey {
    /// Looks through captures, at most at their first 200,000 packets.
    ///
    /// # Errors
    /// A capture cannot be opened. Damage ends the look and is reported by the replay.
    pub(super) fn look(paths: &[PathBuf]) -> Result<Self> {
        let first = Survey::pass(paths, BTreeMap::new())?;
        let macs = first.voted();
        if macs.is_empty() {
            return Ok(first);
        }
        // With this host's hardware addresses, packets have directions.
        Survey::pass(paths, macs)
    }

    fn pass(paths: &[PathBuf], macs: BTreeMap<Port, [u8; 6]>) -> Result<Self> {
        let mut survey = Survey {
            macs,
            ..Survey::default()
        };
        let mut sources = Sources::open(paths)?;
        while survey.packets < PACKETS
            && let Some((_, frame)) = sources.next_frame()
        {
            survey.packets += 1;
            survey.frame(&frame);
        }
        Ok(survey)
    }

    fn frame(&mut self, frame: &Frame<'_>) {
        let mut packet = frame.network_packet();
        let port = port(frame, &packet);
        if let Some(own) = self
            .macs
            .get(&port)
            .filter(|_| packet.direction == Direction::Unknown)
        {
            packet.direction = match packet.mac_source {
                Some(source) if source == *own => Direction::Out,
                Some(_) => Direction::In,
                None => Direction::Unknown,
            };
        }
        for &(addr, len) in &frame.interface.addresses {
            let stated = (port.clone(), tidegate_host::number(addr), len);
            if !self.stated.contains(&stated) {
                self.stated.push(stated);
            }
        }
        if let Some(mac) = frame.interface.mac {
            self.macs.insert(port.clone(), mac);
        }
        let Payload::Ip(ip) = packet.payload else {
            return;
        };
        let mut bytes = ip.to_vec();
        tidegate_wire::checksum::fix_ipv4(&mut bytes);
        let whole = (frame.original_len as usize).saturating_sub(frame.data.len());
        bytes.resize(bytes.len() + whole.min(65_535), 0);
        if let Ok(layout) = parse(&bytes) {
            let largest = self.ports.entry(port.clone()).or_default();
            *largest = (*largest).max(layout.len);
            let syn = layout.proto == proto::TCP
                && layout.has_l4()
                && tcp::Tcp::new(layout.l4(&bytes)).is_some_and(|t| {
                    t.flags() & (tcp::flags::SYN | tcp::flags::ACK) == tcp::flags::SYN
                });
            let src = (layout.family, layout.src(&bytes));
            let dst = (layout.family, layout.dst(&bytes));
            self.pair(src, dst, &port, &packet, syn);
            self.vote(&bytes, layout.ttl(&bytes), port, &packet);
        }
    }

    /// A packet seen on one interface and then, with a smaller TTL, on another one was
    /// forwarded: it came to this host's hardware address and left from it.
    fn vote(&mut self, bytes: &[u8], ttl: u8, port: Port, packet: &NetworkPacket<'_>) {
        let Some(identity) = identity(bytes) else {
            return;
        };
        let origin = self.recent.iter().position(|r| {
            r.identity == identity && r.port != port && r.ttl.checked_sub(1) == Some(ttl)
        });
        if let Some(origin) = origin.and_then(|at| self.recent.remove(at)) {
            let ends = [
                (origin.port, origin.mac_destination),
                (port, packet.mac_source),
            ];
            for (port, mac) in ends {
                if let Some(mac) = mac {
                    *self.votes.entry((port, mac)).or_default() += 1;
                }
            }
            return;
        }
        if self.recent.len() >= BETWEEN {
            self.recent.pop_front();
        }
        self.recent.push_back(Recent {
            identity,
            ttl,
            port,
            mac_destination: packet.mac_destination,
        });
    }

    /// The hardware address with most votes for each interface.
    fn voted(&self) -> BTreeMap<Port, [u8; 6]> {
        let mut best: BTreeMap<Port, ([u8; 6], u64)> = BTreeMap::new();
        for ((port, mac), votes) in &self.votes {
            let leader = best.entry(port.clone()).or_insert((*mac, 0));
            if *votes > leader.1 {
                *leader = (*mac, *votes);
            }
        }
        best.into_iter().map(|(port, b)| (port, b.0)).collect()
    }

    fn pair(
        &mut self,
        src: Addr,
        dst: Addr,
        port: &Port,
        packet: &NetworkPacket<'_>,
        opening: bool,
    ) {
        if *port == Port::Loopback {
            return;
        }
        let to_one = !matches!(
            packet.packet_type,
            Some(PacketType::Broadcast | PacketType::Multicast | PacketType::OtherHost)
        );
        self.directed += u64::from(packet.direction != Direction::Unknown);
        if let Some(talk) = self.talk(src, port) {
            match packet.direction {
                Direction::In => talk.from_in += 1,
                Direction::Out => talk.from_out += 1,
                Direction::Unknown => talk.undirected += 1,
            }
            talk.mac = match talk.mac {
                _ if talk.sent == 0 => packet.mac_source,
                known if known == packet.mac_source => known,
                _ => None,
            };
            talk.sent += 1;
        }
        if to_one && let Some(talk) = self.talk(dst, port) {
            match packet.direction {
                Direction::In => talk.to_in += 1,
                Direction::Out => talk.to_out += 1,
                Direction::Unknown => talk.undirected += 1,
            }
            talk.opened += u64::from(opening);
        }
    }

    fn talk(&mut self, addr: Addr, port: &Port) -> Option<&mut Talk> {
        if !is_single(addr) || (self.talks.len() >= ADDRESSES && !self.talks.contains_key(&addr)) {
            return None;
        }
        let first = self.packets;
        let talk = self.talks.entry(addr).or_insert_with(|| Talk {
            first,
            ..Talk::default()
        });
        *talk.ports.entry(port.clone()).or_default() += 1;
        Some(talk)
    }
}

fn port(frame: &Frame<'_>, packet: &NetworkPacket<'_>) -> Port {
    let zero = Some([0; 6]);
    if packet.mac_source == zero && packet.mac_destination == zero {
        return Port::Loopback;
    }
    let name = frame.interface.name.as_deref();
    match (packet.ifindex, name) {
        (Some(1), _) | (_, Some("lo")) => Port::Loopback,
        (Some(n), _) => Port::Index(n),
        (None, Some("any" | "-") | None) => Port::Unnamed,
        (None, Some(name)) => Port::Named(name.to_owned()),
    }
}

/// Whether an address belongs to one host on the network: not loopback, not a group,
/// not everybody, not nobody.
fn is_single((family, addr): Addr) -> bool {
    match family {
        Family::V4 => addr >> 24 != 0 && addr >> 24 != 127 && addr >> 28 < 0xe,
        Family::V6 => addr > 1 && addr >> 120 != 0xff,
    }
}

/// Whether a capture can be read twice.
pub(super) fn can_look_twice(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file())
}
