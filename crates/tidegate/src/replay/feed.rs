//! How a captured packet enters the engine: where, which way, with which bytes.

use std::path::Path;

use tidegate_capture::{Direction, Frame, LinkType, NetworkPacket, PacketType, Payload};
use tidegate_engine::env::{Env, IfIndex, Interface};
use tidegate_engine::{Incoming, LinkHeader};
use tidegate_wire::{Family, Layout, be16, checksum, parse, proto};

/// Why a captured packet is not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// Carries no IP: Ethernet type, 0 for 802.3 frames.
    NotIp(u16),
    /// Less than its link-layer header was captured.
    Short,
    /// The link type cannot be read.
    UnknownLink,
    /// Captured on an interface that the host does not have.
    UnknownInterface(String),
    /// The second copy of a packet on loopback.
    LoopbackCopy(u64),
    /// Leaving copy of a packet that this replay has decided already.
    Leaving {
        /// Number of the packet it is a copy of.
        of: u64,
        /// In which fields it differs from what the engine sent.
        differs: Vec<&'static str>,
    },
    /// Leaves the host, but its arrival is not in the capture, or it was stopped.
    ArrivalUnseen,
}

/// How a packet enters.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    /// Received at an interface.
    Receive(Incoming),
    /// Sent by a local socket; the interface it was captured at.
    Send(IfIndex),
    /// Leaves by an interface, and this host is not its sender.
    Leaving(IfIndex),
}

/// A packet ready for the engine.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Network-layer bytes.
    pub(crate) bytes: Vec<u8>,
    /// Its layout, when it has one.
    pub(crate) layout: Option<Layout>,
    /// Where it enters.
    pub(crate) entry: Entry,
    /// Bytes that the snap length cut off; they were filled with zeros.
    pub(crate) missing: usize,
}

/// Where packets of one captured interface are.
#[derive(Clone, Debug)]
enum Place {
    /// At this interface.
    At(IfIndex),
    /// To be found packet by packet.
    ByAddress,
    /// At an interface that the host does not have.
    Nowhere(String),
}

/// Decides how packets enter.
#[derive(Debug)]
pub(crate) struct Feed {
    /// What each interface of each capture is; filled as they appear.
    places: Vec<Vec<Option<Place>>>,
    /// Names that captures have because of their file names.
    stems: Vec<String>,
    loopback: IfIndex,
}

/// Names of pseudo-interfaces that stand for all.
const ANY: [&str; 2] = ["any", "-"];

impl Feed {
    /// For captures with these file names.
    pub(crate) fn new(env: &Env, paths: &[impl AsRef<Path>]) -> Self {
        let stem = |p: &Path| {
            let stem = p.file_stem().unwrap_or_default();
            stem.to_string_lossy().into_owned()
        };
        Feed {
            places: vec![Vec::new(); paths.len()],
            stems: paths.iter().map(|p| stem(p.as_ref())).collect(),
            loopback: env.loopback(),
        }
    }

    /// How `frame` of capture `source` enters, or why it does not. `bytes` is a buffer
    /// to be filled.
    pub(crate) fn ready(
        &mut self,
        env: &Env,
        source: usize,
        frame: &Frame<'_>,
        mut bytes: Vec<u8>,
    ) -> Result<Ready, Skip> {
        let packet = frame.network_packet();
        let ip = match packet.payload {
            Payload::Ip(ip) => ip,
            Payload::NotIp(kind) => return Err(Skip::NotIp(kind)),
            Payload::Short => return Err(Skip::Short),
            Payload::UnknownLink => return Err(Skip::UnknownLink),
        };
        bytes.clear();
        bytes.extend_from_slice(ip);
        let missing = complete(&mut bytes, frame.is_truncated());
        let mut layout = parse(&bytes).ok();
        let entry = self.entry(env, source, frame, &packet, &bytes, layout.as_ref())?;
        if layout.is_none() && !matches!(entry, Entry::Receive(_)) {
            // Sent with the header checksum left to the hardware.
            checksum::fix_ipv4(&mut bytes);
            layout = parse(&bytes).ok();
        }
        if let Some(layout) = &layout {
            settle_checksum(&mut bytes, layout, missing > 0);
        }
        Ok(Ready {
            bytes,
            layout,
            entry,
            missing,
        })
    }

    fn entry(
        &mut self,
        env: &Env,
        source: usize,
        frame: &Frame<'_>,
        packet: &NetworkPacket<'_>,
        bytes: &[u8],
        layout: Option<&Layout>,
    ) -> Result<Entry, Skip> {
        let ends = Ends::new(bytes, layout);
        let place = self.place(env, source, frame, packet);
        let direction = match direction(env, &place, packet) {
            Direction::Unknown if ends.is_sender(env) => Direction::Out,
            Direction::Unknown => Direction::In,
            known => known,
        };
        let dev = match place {
            Place::At(dev) => dev,
            Place::ByAddress => ends.device(env, direction).unwrap_or(self.loopback),
            Place::Nowhere(name) => return Err(Skip::UnknownInterface(name)),
        };
        if dev == self.loopback {
            return Ok(match direction {
                Direction::In => Entry::Receive(Incoming::on(dev)),
                Direction::Out | Direction::Unknown => Entry::Send(dev),
            });
        }
        Ok(match direction {
            Direction::Out if ends.is_sender(env) => Entry::Send(dev),
            Direction::Out => Entry::Leaving(dev),
            Direction::In | Direction::Unknown => Entry::Receive(incoming(env, dev, frame, packet)),
        })
    }

    /// The interface of a frame; a VLAN's own one if the host has it.
    fn place(
        &mut self,
        env: &Env,
        source: usize,
        frame: &Frame<'_>,
        packet: &NetworkPacket<'_>,
    ) -> Place {
        if let Some(dev) = packet.ifindex.and_then(|n| env.interface(IfIndex(n))) {
            return Place::At(dev.index);
        }
        if packet.mac_source == Some([0; 6]) && packet.mac_destination == Some([0; 6]) {
            return Place::At(self.loopback);
        }
        let id = frame.interface.id as usize;
        let known = self.places.get(source).and_then(|p| p.get(id));
        let place = match known {
            Some(Some(place)) => place.clone(),
            _ => self.learn(env, source, frame),
        };
        match (packet.vlan, &place) {
            (Some(vlan), Place::At(parent)) => {
                let tagged = env.interface(*parent).map(|i| format!("{}.{vlan}", i.name));
                let own = tagged.and_then(|name| env.interface_named(&name));
                own.map_or(place, |i| Place::At(i.index))
            }
            _ => place,
        }
    }

    fn learn(&mut self, env: &Env, source: usize, frame: &Frame<'_>) -> Place {
        let place = find_place(env, frame, self.stems.get(source));
        let id = frame.interface.id as usize;
        if let Some(list) = self.places.get_mut(source) {
            if list.len() <= id {
                list.resize(id + 1, None);
            }
            list[id] = Some(place.clone());
        }
        place
    }
}

fn find_place(env: &Env, frame: &Frame<'_>, stem: Option<&String>) -> Place {
    let cooked = matches!(
        frame.interface.link,
        LinkType::LinuxSll | LinkType::LinuxSll2
    );
    let name = frame.interface.name.as_deref();
    if let Some(name) = name.filter(|n| !ANY.contains(n)) {
        return match env.interface_named(name) {
            Some(dev) => Place::At(dev.index),
            None => Place::Nowhere(name.to_owned()),
        };
    }
    if let Some(dev) = stem.and_then(|s| env.interface_named(s)) {
        return Place::At(dev.index);
    }
    let mut real = env.interfaces().iter().filter(|i| !i.loopback);
    match (real.next(), real.next()) {
        (Some(only), None) if !cooked && name.is_none() => Place::At(only.index),
        _ => Place::ByAddress,
    }
}

/// Which way a frame went, by what the capture and the hardware addresses say.
fn direction(env: &Env, place: &Place, packet: &NetworkPacket<'_>) -> Direction {
    if packet.direction != Direction::Unknown {
        return packet.direction;
    }
    let mac = match place {
        Place::At(dev) => env.interface(*dev).and_then(|i| i.mac),
        Place::ByAddress | Place::Nowhere(_) => None,
    };
    match mac {
        Some(own) if packet.mac_source == Some(own) => Direction::Out,
        Some(_) if packet.mac_source.is_some() => Direction::In,
        _ => Direction::Unknown,
    }
}

fn incoming(env: &Env, dev: IfIndex, frame: &Frame<'_>, packet: &NetworkPacket<'_>) -> Incoming {
    let own = env.interface(dev).and_then(|i: &Interface| i.mac);
    let mut incoming = Incoming::on(dev);
    if frame.interface.link == LinkType::Ethernet
        && let (Some(to), Some(from)) = (packet.mac_destination, packet.mac_source)
    {
        let kind = match packet.payload {
            Payload::Ip(ip) if ip.first().is_some_and(|b| b >> 4 == 6) => [0x86, 0xdd],
            Payload::Ip(_) | Payload::NotIp(_) | Payload::Short | Payload::UnknownLink => [8, 0],
        };
        let mut header = [0; 14];
        header[..6].copy_from_slice(&to);
        header[6..12].copy_from_slice(&from);
        header[12..].copy_from_slice(&kind);
        incoming.link = LinkHeader::new(&header);
        let unicast = to[0] & 1 == 0;
        incoming.to_host = !unicast || own.is_none_or(|own| own == to);
    }
    if packet.packet_type == Some(PacketType::OtherHost) {
        incoming.to_host = false;
    }
    incoming
}

/// A packet's addresses; none where its header cannot be read.
struct Ends(Option<(Family, u128, u128)>);

impl Ends {
    fn new(bytes: &[u8], layout: Option<&Layout>) -> Self {
        Ends(layout.map(|l| (l.family, l.src(bytes), l.dst(bytes))))
    }

    /// Whether this host is the sender.
    fn is_sender(&self, env: &Env) -> bool {
        self.0
            .is_some_and(|(family, src, _)| env.is_local(family, src))
    }

    /// The interface towards the far end; none when both ends are here.
    fn device(&self, env: &Env, direction: Direction) -> Option<IfIndex> {
        let (family, src, dst) = self.0?;
        if env.is_local(family, src) && env.is_local(family, dst) {
            return None;
        }
        let (far, near) = match direction {
            Direction::Out => (dst, src),
            Direction::In | Direction::Unknown => (src, dst),
        };
        env.route(family, far, near, 0).and_then(|r| r.dev)
    }
}

/// Fills up what the snap length cut off, so that lengths are right again; returns how
/// many bytes that were. Aggregated packets too long for their length field get the
/// length that they have.
pub(super) fn complete(bytes: &mut Vec<u8>, truncated: bool) -> usize {
    let claimed = match bytes.first().map(|b| b >> 4) {
        Some(4) => be16(bytes, 2).map(usize::from),
        Some(6) => be16(bytes, 4).map(|n| usize::from(n) + 40),
        _ => None,
    };
    let Some(claimed) = claimed else { return 0 };
    let captured = bytes.len();
    if claimed == 0 {
        if let Ok(len) = u16::try_from(captured) {
            checksum::replace_ipv4_word(bytes, 2, len);
        }
        return 0;
    }
    if truncated && captured < claimed {
        bytes.resize(claimed, 0);
        return claimed - captured;
    }
    0
}

/// Offset of the checksum in the transport header.
const fn checksum_at(number: u8) -> Option<usize> {
    match number {
        proto::TCP => Some(16),
        proto::UDP => Some(6),
        _ => None,
    }
}

/// Completes a checksum that was left to the network card: the field then holds the
/// sum of the pseudo-header alone (`CHECKSUM_PARTIAL`), and the kernel never doubts
/// it. So it does with one that cannot be verified because bytes are `missing`.
fn settle_checksum(bytes: &mut [u8], layout: &Layout, missing: bool) {
    let Some(at) = checksum_at(layout.proto) else {
        return;
    };
    let len = layout.len as usize;
    let start = usize::from(layout.l4);
    if layout.is_fragment() || !layout.has_l4() || start + at + 2 > len || len > bytes.len() {
        return;
    }
    let l4_len = (len - start) as u32;
    let (src, dst) = (layout.src(bytes), layout.dst(bytes));
    let pseudo = checksum::pseudo(layout.family, src, dst, layout.proto, l4_len);
    let field = be16(bytes, start + at).unwrap_or(0);
    if !missing && (field != checksum::fold(pseudo) || field == 0) {
        return;
    }
    tidegate_wire::put(bytes, start + at, &[0, 0]);
    let sum = checksum::finish(pseudo, bytes.get(start..len).unwrap_or(&[]));
    let sum = if sum == 0 { 0xffff } else { sum };
    tidegate_wire::put(bytes, start + at, &sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// UDP 10.0.0.2:4000 > 10.0.1.2:53 with payload `q`; both checksums by RFC 1071.
    const UDP: [u8; 29] = [
        0x45, 0, 0, 0x1d, 0, 1, 0, 0, 0x40, 0x11, 0x65, 0xcc, 10, 0, 0, 2, 10, 0, 1, 2, 0x0f, 0xa0,
        0, 0x35, 0, 9, 0x6a, 0x03, 0x71,
    ];

    fn settled(packet: &[u8], missing: bool) -> [u8; 2] {
        let mut bytes = packet.to_vec();
        let layout = parse(&bytes).unwrap();
        settle_checksum(&mut bytes, &layout, missing);
        [bytes[26], bytes[27]]
    }

    #[test]
    fn checksums_left_to_the_hardware_are_completed_and_wrong_ones_kept() {
        let right = settled(&UDP, true);
        assert_eq!(settled(&UDP, false), [UDP[26], UDP[27]]);
        let mut partial = UDP;
        // RFC 768 pseudo-header: addresses, protocol 17, length 9.
        let sum: u32 = 0x0a00 + 0x0002 + 0x0a00 + 0x0102 + 17 + 9;
        partial[26..28].copy_from_slice(&(sum as u16).to_be_bytes());
        assert_eq!(settled(&partial, false), right);
        let mut wrong = UDP;
        wrong[27] ^= 1;
        assert_eq!(settled(&wrong, false), [wrong[26], wrong[27]]);
        let layout = parse(&UDP).unwrap();
        let pseudo = checksum::pseudo(layout.family, 0x0a00_0002, 0x0a00_0102, 17, 9);
        let mut fixed = UDP;
        fixed[26..28].copy_from_slice(&right);
        assert_eq!(checksum::finish(pseudo, &fixed[20..]), 0);
    }

    #[test]
    fn what_the_snap_length_cut_off_is_filled_up() {
        let mut cut = UDP[..28].to_vec();
        assert_eq!(complete(&mut cut, true), 1);
        assert_eq!((cut.len(), cut[28]), (29, 0));
        let mut damaged = UDP[..28].to_vec();
        assert_eq!(complete(&mut damaged, false), 0);
        assert_eq!(damaged.len(), 28);
        let mut aggregate = UDP.to_vec();
        aggregate[2..4].fill(0);
        complete(&mut aggregate, false);
        assert_eq!(aggregate[2..4], [0, 29]);
    }
}
