//! Watching the wires: every frame that goes between the guarded host and the others,
//! seen from the others' ends, where no firewall of the guarded host can hide anything.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use tidegate_capture::{Direction, LinkType, Payload, Writer, network_packet};
use tidegate_wire::{Layout, be16, checksum, parse, proto, put};

use crate::topology::{Hosts, Topology};

/// Most packets kept; a lab sends a few thousand.
const MAX_PACKETS: usize = 1 << 20;
/// Most bytes kept.
const MAX_BYTES: usize = 1 << 28;
/// Room for packets that come while this program is not running.
const BUFFER: usize = 1 << 23;
/// A frame with segmentation left to the interface.
const LONGEST: usize = 1 << 17;
/// uapi `PACKET_OUTGOING`.
const OUTGOING: u8 = 4;

/// One frame.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Nanoseconds since 1970.
    time: u64,
    /// The host that saw it.
    pub(crate) host: Arc<str>,
    /// It goes to the guarded host.
    pub(crate) inward: bool,
    frame: Vec<u8>,
}

impl Seen {
    /// The IP packet inside.
    pub(crate) fn packet(&self) -> Option<(Layout, &[u8])> {
        let Payload::Ip(ip) = network_packet(LinkType::Ethernet, &self.frame).payload else {
            return None;
        };
        let layout = parse(ip).ok()?;
        Some((layout, ip))
    }
}

#[derive(Default)]
struct Kept {
    packets: Vec<Seen>,
    bytes: usize,
    /// Something was left out.
    full: bool,
    last: Option<Instant>,
}

/// All watchers of a lab.
#[derive(Clone, Default)]
pub(crate) struct Tap {
    kept: Arc<Mutex<Kept>>,
}

impl Tap {
    /// Watches the hosts that are not guarded.
    ///
    /// # Errors
    /// No packet sockets are to be had.
    pub(crate) fn start(hosts: &Hosts, topology: &Topology) -> Result<Self> {
        let tap = Tap::default();
        for host in hosts.hosts().filter(|h| h.name != topology.firewall) {
            let (wire, lo) = host.inside(|| {
                let wire = socket(
                    AddressFamily::Packet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::EthAll,
                )
                .context("cannot watch packets")?;
                let _ = setsockopt(&wire, sockopt::RcvBufForce, &BUFFER);
                Ok((wire, if_nametoindex("lo")?))
            })?;
            let (kept, name) = (Arc::clone(&tap.kept), Arc::from(host.name.as_str()));
            std::thread::spawn(move || watch(&wire, lo, &name, &kept));
        }
        Ok(tap)
    }

    fn with<R>(&self, work: impl FnOnce(&Kept) -> R) -> R {
        work(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many packets there are.
    pub(crate) fn mark(&self) -> usize {
        self.with(|kept| kept.packets.len())
    }

    /// Whether nothing was left out.
    pub(crate) fn whole(&self) -> bool {
        self.with(|kept| !kept.full)
    }

    /// The packets since `mark`.
    pub(crate) fn since(&self, mark: usize) -> Vec<Seen> {
        self.with(|kept| kept.packets.get(mark..).unwrap_or_default().to_vec())
    }

    /// Waits until the wires have been silent for `quiet`, but no longer than `longest`.
    pub(crate) fn settle(&self, quiet: Duration, longest: Duration) {
        let end = Instant::now() + longest;
        let begin = Instant::now();
        while Instant::now() < end {
            let last = self.with(|kept| kept.last).unwrap_or(begin).max(begin);
            let silent = last.elapsed();
            if silent >= quiet {
                return;
            }
            std::thread::sleep(quiet - silent);
        }
    }

    /// Writes a pcapng file as the guarded host would have taken it: with its interfaces
    /// and its directions.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path, topology: &Topology) -> Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut file = BufWriter::new(file);
        let mut writer = Writer::new(&mut file, "tidegate lab")?;
        let mut ids = BTreeMap::new();
        for host in topology.hosts() {
            if let Some(dev) = topology.facing(host) {
                ids.insert(host, writer.add_interface(Some(dev), LinkType::Ethernet)?);
            }
        }
        for mut seen in self.since(0) {
            let id = ids.get(&*seen.host).context("a host of no topology")?;
            let way = if seen.inward {
                Direction::In
            } else {
                Direction::Out
            };
            complete(&mut seen.frame);
            let len = u32::try_from(seen.frame.len())?;
            writer.packet(*id, seen.time, way, &seen.frame, len, "")?;
        }
        file.flush()?;
        Ok(())
    }
}

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Computes the checksum of a segment or datagram where the sender left that to its
/// interface, which is where the field holds the sum of the pseudo-header alone
/// (`CHECKSUM_PARTIAL`).
fn complete(frame: &mut [u8]) {
    let Some(ip) = frame.get_mut(ETHERNET..) else {
        return;
    };
    let Ok(layout) = parse(ip) else { return };
    let at = match layout.proto {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => return,
    };
    if layout.is_fragment() {
        return;
    }
    let (src, dst) = (layout.src(ip), layout.dst(ip));
    let begin = usize::from(layout.l4);
    let Some(l4) = usize::try_from(layout.len)
        .ok()
        .and_then(|end| ip.get_mut(begin..end))
    else {
        return;
    };
    let Ok(len) = u32::try_from(l4.len()) else {
        return;
    };
    let pseudo = checksum::pseudo(layout.family, src, dst, layout.proto, len);
    if be16(l4, at) == Some(checksum::fold(pseudo)) {
        put(l4, at, &[0, 0]);
        let sum = checksum::finish(pseudo, l4);
        put(l4, at, &sum.to_be_bytes());
    }
}

fn watch(wire: &std::os::fd::OwnedFd, lo: u32, name: &Arc<str>, kept: &Mutex<Kept>) {
    use std::os::fd::AsRawFd;
    let mut frame = vec![0; LONGEST];
    loop {
        let Ok((len, Some(from))) = recvfrom::<LinkAddr>(wire.as_raw_fd(), &mut frame) else {
            // The interface went down; others may go on.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if u32::try_from(from.ifindex()) == Ok(lo) {
            continue;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seen = Seen {
            time: now.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(0)),
            host: Arc::clone(name),
            inward: from.pkttype() == OUTGOING,
            frame: frame.get(..len).unwrap_or_default().to_vec(),
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.packet().is_none() {
            // ARP and the like come when they like.
        } else {
            kept.last = Some(Instant::now());
        }
        if kept.packets.len() >= MAX_PACKETS || kept.bytes + len > MAX_BYTES {
            kept.full = true;
            continue;
        }
        kept.bytes += len;
        kept.packets.push(seen);
    }
}
