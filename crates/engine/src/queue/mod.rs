//! Queues of packets that programs decide about (`nf_queue`, `nfnetlink_queue`).
//!
//! A packet whose rule says NFQUEUE is shown to the queue's reader. One that answers at once
//! lets it go on at once. Otherwise the packet is parked, with all that it needs to go on,
//! until somebody answers in the reader's name ([`crate::Engine::answer`]): nothing else
//! waits for it. What came of it is among [`crate::Engine::take_answered`].

mod answers;
mod store;

use tidegate_conntrack::{CtInfo, EntryId};
use tidegate_ir::{Hook, QueueSpec};
use tidegate_wire::Family;
use tidegate_wire::jhash::jhash;

use crate::env::Interface;
use crate::packet::{LinkHeader, Packet};
use crate::rewrite::address;

pub use store::{Answered, QueueCounts, QueueError};
pub(crate) use store::{Bound, Held, Parked, Queues};

/// Packets that wait in a queue unless its reader asks for another limit
/// (`NFQNL_QMAX_DEFAULT`).
pub const QUEUE_LEN: u32 = 1024;

/// Most packets that a reader can have waiting in its queue.
pub const QUEUE_LEN_MAX: u32 = 1 << 16;

/// Most bytes that wait in all queues, unless configured otherwise.
pub const QUEUE_BYTES: usize = 64 << 20;

/// A packet at a queue.
#[derive(Clone, Debug)]
pub struct Queued<'a> {
    /// The queue.
    pub queue: u16,
    /// Its number there: counted from 1, around after 2³² packets.
    pub id: u32,
    /// Where the rule was met.
    pub hook: Hook,
    /// Family.
    pub family: Family,
    /// Packet mark.
    pub mark: u32,
    /// Input interface.
    pub input: Option<&'a Interface>,
    /// Output interface.
    pub output: Option<&'a Interface>,
    /// Link-layer header that it was received with.
    pub link: LinkHeader,
    /// User and group of the socket that sent it, where rules ask for sockets and it has one.
    pub sender: Option<(u32, u32)>,
    /// Its connection, what it is to that, and that one's mark.
    pub connection: Option<(EntryId, CtInfo, u32)>,
    /// Payload bytes of each of the segments that it stands for
    /// ([`crate::Incoming::segment`]).
    pub segment: Option<u16>,
    /// The packet from its network header on.
    pub bytes: &'a [u8],
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueVerdict {
    /// It is discarded (`NF_DROP`).
    Drop,
    /// It leaves the table as accepted and goes on behind it (`NF_ACCEPT`).
    Accept,
    /// It meets the same table again, from its first rule (`NF_REPEAT`).
    Repeat,
    /// It goes to another queue (`NF_QUEUE`); without a reader there it is discarded.
    Queue(u16),
}

/// What a reader says about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What becomes of it.
    pub verdict: QueueVerdict,
    /// Its mark from now on, where that changes.
    pub mark: Option<u32>,
    /// The packet as it is to be from now on, checksums included. Bytes that are no packet
    /// of its family discard it.
    pub bytes: Option<Vec<u8>>,
}

impl From<QueueVerdict> for Answer {
    fn from(verdict: QueueVerdict) -> Self {
        Answer {
            verdict,
            mark: None,
            bytes: None,
        }
    }
}

/// What a reader does with a packet that it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has read it and will answer.
    Waits,
    /// It answers at once.
    Answered(Answer),
    /// It has no room for it. The packet is discarded, or lets pass where the queue fails
    /// open.
    NoRoom,
}

/// A program that reads a queue.
pub trait QueueReader: std::fmt::Debug + Send {
    /// A packet has come. Called on the packets' way: must not wait.
    fn take(&mut self, packet: &Queued<'_>) -> Taken;
}

/// How a queue is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Most packets that wait (`NFQA_CFG_QUEUE_MAXLEN`), at most [`QUEUE_LEN_MAX`].
    pub max_len: u32,
    /// Packets for which there is no room leave the table as accepted
    /// (`NFQA_CFG_F_FAIL_OPEN`); else they are discarded.
    pub fail_open: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings {
            max_len: QUEUE_LEN,
            fail_open: false,
        }
    }
}

/// A packet that has been parked, by a number that no other ever gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub(crate) u64);

/// The queue that a rule means: among several the one that the packet's flow keeps to, in
/// both directions (`nfqueue_hash`), or the processor's (`--queue-cpu-fanout`).
pub(crate) fn number(packet: &Packet, spec: QueueSpec, cpu: u32, seed: u32) -> u16 {
    let count = u32::from(spec.last.saturating_sub(spec.first)) + 1;
    let place = match spec.by_cpu {
        _ if count == 1 => 0,
        true => cpu % count,
        false => {
            let [src, dst] = [packet.src(), packet.dst()].map(|a| address(a, u128::MAX));
            let proto = u32::from(packet.layout.proto);
            let hash = jhash(&[src.min(dst), src.max(dst), proto], seed);
            ((u64::from(hash) * u64::from(count)) >> 32) as u32
        }
    };
    spec.first.saturating_add(place as u16)
}
