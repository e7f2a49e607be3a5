//! A guarded interface as the loop sees it.

use tidegate_engine::env::IfIndex;
use tidegate_sys::{FramePort, OutFrame};

use crate::divert::{Device, Framing, Sockets};
use crate::report::Traffic;

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
}

impl Channel {
    fn new(socket: impl FramePort + 'static) -> Self {
        Channel {
            socket: Some(Box::new(socket)),
            queue: Vec::new(),
        }
    }
}

/// A guarded interface.
pub(crate) struct Port {
    pub(crate) dev: IfIndex,
    pub(crate) name: String,
    pub(crate) framing: Framing,
    /// No address resolution: everybody has our own address.
    pub(crate) no_arp: bool,
    pub(crate) wire: Option<Channel>,
    pub(crate) door: Channel,
    pub(crate) near_mac: [u8; 6],
    pub(crate) secret: [u8; 6],
    pub(crate) traffic: Traffic,
}

impl Port {
    pub(crate) fn new(device: &Device, framing: Framing, sockets: Sockets) -> Self {
        Port {
            dev: IfIndex(device.index),
            name: device.name.clone(),
            framing,
            no_arp: device.no_arp,
            wire: sockets.wire.map(Channel::new),
            door: Channel::new(sockets.door),
            near_mac: sockets.near_mac,
            secret: sockets.secret,
            traffic: Traffic::default(),
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
