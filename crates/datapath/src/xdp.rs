//! Received frames by `AF_XDP`: a program at the interface hands them over before the
//! kernel looks at them.
//!
//! It is a short cut and no more. The filters of the diversion and its packet socket stay
//! as they are: what the program lets pass comes that way, and without the program
//! everything does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use aya::maps::XskMap;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use rustix::event::epoll;
use tidegate_ebpf::up::{QUEUES, UP, up};
use tidegate_sys::{Frame, FramePort, OutFrame, PacketSocket, Sent, XdpSocket, receive_queues};

use crate::divert::{Device, Framing};

/// Ethernet header, and a tag.
const HEAD: u32 = 18;
/// Least frames that may wait at a queue, and that are sent together.
const LEAST: u32 = 256;

/// The program at an interface, which it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Attached(#[allow(dead_code, reason = "ends with its holder")] Ebpf);

/// Why no program can look at the frames of `device` before the kernel does.
pub(crate) fn unfit(device: &Device) -> Option<String> {
    if !matches!(device.framing, Some(Framing::Ethernet(_))) {
        return Some("it is no Ethernet interface".to_owned());
    }
    if device.carries {
        // A tag that the driver has taken out of the frame is not seen by the program.
        return Some("other interfaces (VLAN, macvlan) are based on it".to_owned());
    }
    None
}

/// Whether the frames of `device` are too long for these sockets.
pub(crate) fn too_long(device: &Device) -> Option<String> {
    let longest = XdpSocket::LONGEST as u32 - HEAD;
    (device.mtu > longest).then(|| format!("its MTU is above {longest}"))
}

/// Takes the frames of `device`: of all its queues together `slots` may wait.
pub(crate) fn take(device: &Device, slots: u32) -> Result<(Attached, Vec<XdpSocket>)> {
    if let Some(why) = unfit(device).or_else(|| too_long(device)) {
        bail!("{why}");
    }
    let object = up(XdpSocket::LONGEST as u16).context("the object file")?;
    let mut loaded = EbpfLoader::new()
        .load(&object)
        .context("the kernel does not take the table of sockets")?;
    let program = loaded.program_mut(UP).context("no program")?;
    let program: &mut Xdp = program.try_into()?;
    program
        .load()
        .context("the kernel does not take the program")?;
    let queues = receive_queues(&device.name).min(QUEUES);
    let each = 1 << (slots / queues).max(LEAST).ilog2();
    let open = |queue| XdpSocket::open(device.index, queue, each, LEAST);
    let sockets: io::Result<Vec<XdpSocket>> = (0..queues).map(open).collect();
    let sockets = sockets.context("an AF_XDP socket")?;
    let map = loaded.map_mut("sockets").context("no table")?;
    let mut map = XskMap::try_from(map)?;
    for (queue, socket) in (0..).zip(&sockets) {
        map.set(queue, socket.as_fd().as_raw_fd(), 0)?;
    }
    let program: &mut Xdp = loaded.program_mut(UP).context("no program")?.try_into()?;
    // Only where drivers do it themselves: what the datapath injects passes generic
    // programs once more.
    program
        .attach_to_if_index(device.index, XdpMode::Driver)
        .map_err(|e| refused(&e))?;
    Ok((Attached(loaded), sockets))
}

/// What is said when a driver takes no program.
pub(crate) fn refused(e: &dyn std::error::Error) -> anyhow::Error {
    anyhow!("its driver does not take the program: {}", causes(e))
}

fn causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(e) = next {
        text = format!("{text}: {e}");
        next = e.source();
    }
    text
}

/// An interface's frames: of its queues, and of the packet socket behind them.
pub(crate) struct Queues {
    poll: OwnedFd,
    queues: Vec<XdpSocket>,
    rest: PacketSocket,
    /// Whose turn it is, for one that is never empty lets the others wait.
    turn: usize,
}

impl Queues {
    /// # Errors
    /// Too many open files.
    pub(crate) fn new(queues: Vec<XdpSocket>, rest: PacketSocket) -> Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let fds = queues.iter().map(AsFd::as_fd).chain([rest.as_fd()]);
        for fd in fds {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&poll, fd, data, epoll::EventFlags::IN).context("epoll")?;
        }
        Ok(Queues {
            poll,
            queues,
            rest,
            turn: 0,
        })
    }
}

impl AsFd for Queues {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

impl FramePort for Queues {
    fn receive(&mut self, budget: usize, take: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        let (mut count, mut trouble) = (0, None);
        let all = self.queues.len() + 1;
        self.turn = (self.turn + 1) % all;
        for i in (0..all).map(|i| (self.turn + i) % all) {
            let got = match self.queues.get_mut(i) {
                Some(queue) => queue.receive(budget - count, take),
                None => self.rest.receive(budget - count, take),
            };
            match got {
                Ok(got) => count += got,
                Err(e) => trouble = Some(e),
            }
            if count == budget {
                break;
            }
        }
        match trouble {
            Some(e) if count == 0 => Err(e),
            _ => Ok(count),
        }
    }

    fn send(&mut self, frames: &[OutFrame]) -> Sent {
        let mut result = Sent::default();
        while let Some(rest) = frames.get(result.sent..).filter(|rest| !rest.is_empty()) {
            let plain = rest.iter().take_while(|f| XdpSocket::is_plain(f)).count();
            // Also with no frames: what is left from before goes first.
            let mut done = match self.queues.first_mut() {
                Some(queue) => queue.send(&rest[..plain]),
                None => Sent::default(),
            };
            if plain == 0 && done.refused.is_none() {
                let others = rest.iter().take_while(|f| !XdpSocket::is_plain(f));
                done = self.rest.send(&rest[..others.count()]);
            }
            result.sent += done.sent;
            if done.sent == 0 || done.refused.is_some() {
                result.refused = done.refused;
                break;
            }
        }
        result
    }

    fn lost(&mut self) -> u64 {
        let queues = self.queues.iter_mut().map(FramePort::lost);
        queues.sum::<u64>() + self.rest.lost()
    }
}
