//! Watching the wires: every frame that goes between the guarded host and the others,
//! seen from the others' ends, where no firewall of the guarded host can hide anything.

use std::io::Write;
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
use tidegate_wire::{Layout, parse};

use crate::topology::Hosts;

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
    pub(crate) fn start(hosts: &Hosts, guarded: &str) -> Result<Self> {
        let tap = Tap::default();
        for host in hosts.hosts().filter(|h| h.name != guarded) {
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

    /// Writes a pcapng file with one interface for each watched host.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
        let mut file = std::io::BufWriter::new(file);
        let mut writer = Writer::new(&mut file, "tidegate lab")?;
        let mut names: Vec<Arc<str>> = Vec::new();
        for seen in self.since(0) {
            let known = names.iter().position(|n| *n == seen.host);
            let id = match known {
                Some(id) => u32::try_from(id)?,
                None => {
                    let id = writer.add_interface(Some(&seen.host), LinkType::Ethernet)?;
                    names.push(Arc::clone(&seen.host));
                    id
                }
            };
            let way = if seen.inward {
                Direction::Out
            } else {
                Direction::In
            };
            let len = u32::try_from(seen.frame.len())?;
            writer.packet(id, seen.time, way, &seen.frame, len, "")?;
        }
        file.flush()?;
        Ok(())
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
