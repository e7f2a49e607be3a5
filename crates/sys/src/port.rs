//! A way to take frames from an interface and to put frames on it.

use std::io;
use std::os::fd::AsFd;

use crate::vnet::VnetHeader;

/// To whom the link layer addressed a frame (`PACKET_HOST` and so on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// This host.
    Host,
    /// Everybody.
    Broadcast,
    /// A group.
    Multicast,
    /// Somebody else, or not received at all.
    Other,
    /// Nobody has looked yet: the frame was taken before the kernel did.
    Unknown,
}

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What the link layer said it is for.
    pub kind: PacketKind,
    /// Ethernet type as the kernel found it.
    pub protocol: u16,
    /// What has been left undone.
    pub vnet: VnetHeader,
    /// The frame from its link-layer header on.
    pub bytes: &'a [u8],
}

/// A frame to send: a link-layer header and a packet.
#[derive(Clone, Debug, Default)]
pub struct OutFrame {
    /// What is left to do.
    pub vnet: VnetHeader,
    /// Ethernet type.
    pub protocol: u16,
    /// Link-layer header.
    pub head: [u8; 14],
    /// How much of `head` there is: 14 or nothing.
    pub head_len: u8,
    /// Packet.
    pub body: Vec<u8>,
}

/// How sending went.
#[derive(Debug, Default)]
pub struct Sent {
    /// Frames that the interface took.
    pub sent: usize,
    /// Why it did not take the next one: queues full, too long, interface down or gone,
    /// more segments in it than the interface cuts.
    pub refused: Option<io::Error>,
}

/// One interface's frames.
pub trait FramePort: AsFd + Send {
    /// Hands up to `budget` waiting frames to `take`; returns how many there were.
    ///
    /// # Errors
    /// The interface is down or gone.
    fn receive(&mut self, budget: usize, take: &mut dyn FnMut(Frame<'_>)) -> io::Result<usize>;

    /// Sends `frames` in order until one is refused.
    fn send(&mut self, frames: &[OutFrame]) -> Sent;

    /// Frames that came and found no room, since the last call.
    fn lost(&mut self) -> u64;
}
