//! Queues of packets that programs decide (`nfnetlink_queue`), as a hook of this library.

use tidegate_ir::{Hook, QueueSpec};
use tidegate_wire::jhash::jhash;

use crate::packet::Packet;
use crate::rewrite::address;

/// A packet in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    /// The queue.
    pub queue: u16,
    /// Where the rule was met.
    pub hook: Hook,
    /// Packet mark.
    pub mark: u32,
    /// The packet from its network header on.
    pub bytes: &'a [u8],
}

/// What a program says about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Discard.
    Drop,
    /// Leave the table as accepted.
    Accept {
        /// A new mark.
        mark: Option<u32>,
        /// The packet as it is to be from now on. Bytes that are no packet of its family
        /// drop it.
        bytes: Option<Vec<u8>>,
    },
}

/// Programs that read queues. The packet waits for their answer, and everything else with
/// it.
pub trait Queues: std::fmt::Debug + Send {
    /// The verdict about a packet; `None` when nobody reads that queue.
    fn decide(&mut self, packet: &Queued<'_>) -> Option<Verdict>;
}

/// The queue that the packet's flow keeps to, in both directions (`nfqueue_hash`).
pub(crate) fn number(packet: &Packet, spec: QueueSpec) -> u16 {
    let [src, dst] = [packet.src(), packet.dst()].map(|a| address(a, u128::MAX));
    let proto = u32::from(packet.layout.proto);
    let hash = jhash(&[src.min(dst), src.max(dst), proto], 0);
    let count = u64::from(spec.last.saturating_sub(spec.first)) + 1;
    spec.first
        .saturating_add(((u64::from(hash) * count) >> 32) as u16)
}
