//! A guarded interface as the loop sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use tidegate_engine::conntrack::{SECOND, Time};
use tidegate_engine::env::IfIndex;
use tidegate_sys::{Frame, FramePort, Gso, OutFrame, PacketSocket, Sent, VnetHeader};

use crate::divert::{Device, Framing, Sockets};
use crate::offload::split_tcp;
use crate::report::Traffic;
use crate::xdp::Queues;

/// Which of an interface's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The interface itself: frames of the network.
    Wire,
    /// The door: frames of this host's sockets.
    Door,
}

/// One direction's socket and what waits to be sent by it.
pub(crate) struct Channel {
    /// Taken out while its frames are being decided.
    pub(crate) socket: Option<Box<dyn FramePort>>,
    pub(crate) queue: Vec<OutFrame>,
    /// Until then the interface is not tried with packets that it has to cut.
    cut_until: Time,
}

/// An interface that does not cut packets is tried again after this: it may be told to.
const TRY_AGAIN: Time = SECOND;

impl Channel {
    fn new(socket: impl FramePort + 'static) -> Self {
        Channel {
            socket: Some(Box::new(socket)),
            queue: Vec::new(),
            cut_until: 0,
        }
    }

    /// Sends what is queued, and leaves the queue as it is. Returns how many packets
    /// went and how many did not.
    pub(crate) fn send(&mut self, now: Time) -> (u64, u64) {
        let (mut sent, mut failed) = (0, 0);
        let Some(socket) = self.socket.as_mut() else {
            return (sent, failed);
        };
        let mut rest = self.queue.as_slice();
        while !rest.is_empty() {
            // A packet socket that goes past the queues sends no packet that the kernel
            // has to cut for a card that does not (`__dev_direct_xmit`).
            let whole = if now < self.cut_until {
                rest.iter().take_while(|f| f.vnet.gso == Gso::None).count()
            } else {
                rest.len()
            };
            let done = socket.send(&rest[..whole]);
            sent += done.sent as u64;
            rest = &rest[done.sent..];
            let Some((frame, others)) = rest.split_first() else {
                break;
            };
            rest = others;
            let segments = segments(frame);
            let count = socket.send(&segments).sent;
            if count > 0 {
                sent += 1;
                self.cut_until = now + TRY_AGAIN;
            } else {
                failed += 1;
            }
        }
        (sent, failed)
    }
}

/// An interface whose frames come by another device than they are sent by.
struct Split {
    up: PacketSocket,
    wire: PacketSocket,
}

impl AsFd for Split {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.up.as_fd()
    }
}

impl FramePort for Split {
    fn receive(&mut self, budget: usize, take: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize> {
        self.up.receive(budget, take)
    }

    fn send(&mut self, frames: &[OutFrame]) -> Sent {
        self.wire.send(frames)
    }

    fn lost(&mut self) -> u64 {
        self.up.lost()
    }
}

/// A guarded interface.
pub(crate) struct Port {
    pub(crate) dev: IfIndex,
    pub(crate) name: String,
    pub(crate) framing: Framing,
    pub(crate) mtu: u32,
    /// No address resolution: everybody has our own address.
    pub(crate) no_arp: bool,
    pub(crate) wire: Option<Channel>,
    pub(crate) door: Channel,
    pub(crate) near_mac: [u8; 6],
    pub(crate) secret: [u8; 6],
    pub(crate) traffic: Traffic,
    /// Programs in the kernel forward what the engine has decided.
    pub(crate) fast: bool,
    /// One of them looks at received frames before the kernel does.
    pub(crate) early: bool,
    /// Frames can be sent before the kernel has made packets of them.
    takes: bool,
}

/// An interface as the fast path needs to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Longest packet.
    pub(crate) mtu: u32,
    /// Ethernet address.
    pub(crate) mac: [u8; 6],
    /// See [`Port::early`].
    pub(crate) early: bool,
    /// Frames can be sent before the kernel has made packets of them.
    pub(crate) takes: bool,
    /// Neighbours are asked for their addresses.
    pub(crate) resolves: bool,
}

impl Port {
    /// What the fast path must know, where it is.
    pub(crate) fn end(&self) -> Option<End> {
        let mac = self.own_mac()?;
        self.fast.then_some(End {
            mtu: self.mtu,
            mac,
            early: self.early,
            takes: self.takes,
            resolves: !self.no_arp,
        })
    }

    /// Its Ethernet address; loopback's is zero.
    pub(crate) fn own_mac(&self) -> Option<[u8; 6]> {
        match self.framing {
            Framing::Ethernet(mac) => Some(mac),
            Framing::Loopback => Some([0; 6]),
            Framing::Bare => None,
        }
    }

    /// # Errors
    /// Too many open files.
    pub(crate) fn new(device: &Device, framing: Framing, sockets: Sockets) -> Result<Self> {
        let (fast, queues) = (sockets.fast, sockets.queues);
        let early = sockets.early;
        let wire = match (sockets.wire, sockets.up) {
            (Some(wire), Some(up)) => Some(Channel::new(Split { up, wire })),
            (Some(wire), None) if !queues.is_empty() => {
                Some(Channel::new(Queues::new(queues, wire)?))
            }
            (wire, _) => wire.map(Channel::new),
        };
        Ok(Port {
            dev: IfIndex(device.index),
            name: device.name.clone(),
            framing,
            mtu: device.mtu,
            no_arp: device.no_arp,
            fast,
            early,
            takes: device.takes,
            wire,
            door: Channel::new(sockets.door),
            near_mac: sockets.near_mac,
            secret: sockets.secret,
            traffic: Traffic::default(),
        })
    }

    /// Follows changes of the interface.
    pub(crate) fn change(&mut self, device: &Device) {
        self.name.clone_from(&device.name);
        self.mtu = device.mtu;
        self.no_arp = device.no_arp;
        self.takes = device.takes;
        if let Some(framing) = device.framing {
            self.framing = framing;
            if let Framing::Ethernet(mac) = framing {
                self.near_mac = mac;
            }
        }
    }

    pub(crate) fn channel(&mut self, side: Side) -> Option<&mut Channel> {
        match side {
            Side::Wire => self.wire.as_mut(),
            Side::Door => Some(&mut self.door),
        }
    }

    /// Bytes of link-layer header in frames of the network and of this host's sockets.
    pub(crate) fn head_len(&self) -> usize {
        match self.framing {
            Framing::Ethernet(_) | Framing::Loopback => 14,
            Framing::Bare => 0,
        }
    }
}

/// The segments of a packet that the interface was to cut.
fn segments(frame: &OutFrame) -> Vec<OutFrame> {
    let VnetHeader { gso_size, ecn, .. } = frame.vnet;
    let cut = match frame.vnet.gso {
        Gso::Tcp4 | Gso::Tcp6 => split_tcp(&frame.body, gso_size, ecn),
        Gso::None | Gso::Udp | Gso::Other(_) => None,
    };
    let segment = |body| OutFrame {
        vnet: VnetHeader::default(),
        body,
        ..*frame
    };
    cut.into_iter().flatten().map(segment).collect()
}
