//! The packets that wait.

use std::collections::BTreeMap;

use tidegate_conntrack::EntryId;

use super::{Answer, QUEUE_LEN_MAX, QueueReader, QueueSettings, Queued, Taken, Ticket};
use crate::origin::Passage;
use crate::outcome::Outcome;
use crate::packet::Packet;
use crate::path::Way;
use crate::run::Place;

/// What a parked packet costs beside its bytes.
const COST: usize = 512;

/// What a reader makes of a packet.
pub(crate) enum Bound {
    /// Nobody reads that queue.
    Nobody,
    /// There is no room; the queue is to let it pass or not.
    NoRoom { pass: bool },
    /// It waits in this place.
    Waits(Held),
    /// It need not wait.
    Answered(Answer),
}

/// A place in a queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) queue: u16,
    /// The packet's number, of which readers see 32 bits.
    number: u64,
}

/// A packet that waits, and what it needs to go on.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) packet: Packet,
    pub(crate) place: Place,
    pub(crate) way: Way,
    /// What the first packet of a new connection has passed, and when that was.
    pub(crate) passed: Option<(EntryId, Vec<Passage>)>,
    pub(crate) epoch: u64,
    /// Rules on stage would have stopped it.
    pub(crate) stopped: bool,
    pub(crate) ticket: Ticket,
}

impl Parked {
    fn cost(&self) -> usize {
        self.packet.bytes.len() + COST
    }
}

#[derive(Debug)]
struct Queue {
    reader: Box<dyn QueueReader>,
    settings: QueueSettings,
    waiting: BTreeMap<u64, Parked>,
    /// Number of the last packet.
    last: u64,
    full: u64,
    no_room: u64,
}

/// Why a reader's order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueError {
    /// The queue has a reader already (`EBUSY`).
    Bound,
    /// Nobody reads that queue (`ENODEV`).
    NoQueue,
    /// No packet with that number waits there (`ENOENT`).
    NoPacket,
}

impl std::fmt::Display for QueueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            QueueError::Bound => "the queue has a reader already",
            QueueError::NoQueue => "nobody reads that queue",
            QueueError::NoPacket => "no packet with that number waits there",
        })
    }
}

impl std::error::Error for QueueError {}

/// What a queue has seen, as `/proc/net/netfilter/nfnetlink_queue` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// The queue.
    pub queue: u16,
    /// Packets that wait.
    pub waiting: usize,
    /// How it is kept.
    pub settings: QueueSettings,
    /// Packets discarded because as many waited as may, or as many bytes in all queues.
    pub full: u64,
    /// Packets discarded because the reader had no room.
    pub no_room: u64,
    /// Number of the last packet.
    pub id: u32,
}

/// What became of a parked packet.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its ticket.
    pub ticket: Ticket,
    /// Tickets of packets that were parked meanwhile: it may wait again itself.
    pub parked: Vec<Ticket>,
    /// What came of it.
    pub outcome: Outcome,
}

/// All queues that have readers.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    queues: BTreeMap<u16, Queue>,
    /// What waits, in bytes.
    bytes: usize,
    tickets: u64,
    /// Packets parked since somebody asked.
    pub(super) parked: Vec<Ticket>,
    /// What became of parked packets since somebody asked.
    pub(super) answered: Vec<Answered>,
}

impl Queues {
    pub(super) fn bind(
        &mut self,
        queue: u16,
        settings: QueueSettings,
        reader: Box<dyn QueueReader>,
    ) -> Result<(), QueueError> {
        use std::collections::btree_map::Entry;
        let Entry::Vacant(place) = self.queues.entry(queue) else {
            return Err(QueueError::Bound);
        };
        place.insert(Queue {
            reader,
            settings,
            waiting: BTreeMap::new(),
            last: 0,
            full: 0,
            no_room: 0,
        });
        Ok(())
    }

    /// Takes the reader away; returns what waited for it, in order.
    pub(super) fn unbind(&mut self, queue: u16) -> Result<Vec<(u16, Parked)>, QueueError> {
        let gone = self.queues.remove(&queue).ok_or(QueueError::NoQueue)?;
        let waiting: Vec<_> = gone.waiting.into_values().map(|p| (queue, p)).collect();
        self.bytes -= waiting.iter().map(|(_, p)| p.cost()).sum::<usize>();
        Ok(waiting)
    }

    pub(super) fn set(&mut self, queue: u16, settings: QueueSettings) -> Result<(), QueueError> {
        let queue = self.queues.get_mut(&queue).ok_or(QueueError::NoQueue)?;
        queue.settings = settings;
        Ok(())
    }

    /// Shows a packet to the reader of its queue, at most `max_bytes` waiting in all
    /// (`nfqnl_enqueue_packet`).
    pub(crate) fn offer(&mut self, mut packet: Queued<'_>, max_bytes: usize) -> Bound {
        let Some(queue) = self.queues.get_mut(&packet.queue) else {
            return Bound::Nobody;
        };
        let most = queue.settings.max_len.min(QUEUE_LEN_MAX) as usize;
        let bytes = self.bytes.saturating_add(packet.bytes.len() + COST);
        let pass = queue.settings.fail_open;
        if queue.waiting.len() >= most || bytes > max_bytes {
            queue.full += u64::from(!pass);
            return Bound::NoRoom { pass };
        }
        queue.last += 1;
        packet.id = queue.last as u32;
        match queue.reader.take(&packet) {
            Taken::Waits => Bound::Waits(Held {
                queue: packet.queue,
                number: queue.last,
            }),
            Taken::Answered(answer) => Bound::Answered(answer),
            Taken::NoRoom => {
                queue.no_room += u64::from(!pass);
                Bound::NoRoom { pass }
            }
        }
    }

    /// A ticket for the next packet that is parked.
    pub(crate) fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Puts a packet into the place that was held for it.
    pub(crate) fn park(&mut self, at: Held, parked: Parked) {
        if let Some(queue) = self.queues.get_mut(&at.queue) {
            self.parked.push(parked.ticket);
            self.bytes += parked.cost();
            queue.waiting.insert(at.number, parked);
        }
    }

    /// The packet that readers know by `id`.
    pub(super) fn take(&mut self, queue: u16, id: u32) -> Result<Parked, QueueError> {
        let queue = self.queues.get_mut(&queue).ok_or(QueueError::NoQueue)?;
        let number = queue.number(id).ok_or(QueueError::NoPacket)?;
        let parked = queue.waiting.remove(&number).ok_or(QueueError::NoPacket)?;
        self.bytes -= parked.cost();
        Ok(parked)
    }

    /// Those that wait there up to `id`, which need not wait itself, in order.
    pub(super) fn up_to(&self, queue: u16, id: u32) -> Result<Vec<u32>, QueueError> {
        let queue = self.queues.get(&queue).ok_or(QueueError::NoQueue)?;
        let number = queue.number(id).ok_or(QueueError::NoPacket)?;
        let waiting = queue.waiting.range(..=number);
        Ok(waiting.map(|(&number, _)| number as u32).collect())
    }

    /// Takes out the packets that `gone` says.
    pub(super) fn sift(&mut self, gone: impl Fn(&Packet) -> bool) -> Vec<(u16, Parked)> {
        let mut out = Vec::new();
        for (&number, queue) in &mut self.queues {
            let taken = queue.waiting.extract_if(.., |_, p| gone(&p.packet));
            out.extend(taken.map(|(_, p)| (number, p)));
        }
        self.bytes -= out.iter().map(|(_, p)| p.cost()).sum::<usize>();
        out
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = QueueCounts> {
        self.queues.iter().map(|(&number, queue)| QueueCounts {
            queue: number,
            waiting: queue.waiting.len(),
            settings: queue.settings,
            full: queue.full,
            no_room: queue.no_room,
            id: queue.last as u32,
        })
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Queue {
    /// The latest packet's number with these lower bits.
    fn number(&self, id: u32) -> Option<u64> {
        let above = self.last & !u64::from(u32::MAX);
        let number = above | u64::from(id);
        if number <= self.last {
            return Some(number);
        }
        number.checked_sub(1 << 32)
    }
}
