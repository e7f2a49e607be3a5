//! Readers come, answer and go.

use tidegate_conntrack::Time;

use super::{
    Answer, Answered, Parked, QueueCounts, QueueError, QueueReader, QueueSettings, QueueVerdict,
    Ticket,
};
use crate::engine::Engine;
use crate::outcome::{Disposition, DropReason, Outcome};
use crate::packet::Packet;
use crate::run::Run;
use crate::trace::Trace;

impl Engine {
    /// Gives a queue its reader.
    ///
    /// # Errors
    /// It has one.
    pub fn bind_queue(
        &mut self,
        queue: u16,
        settings: QueueSettings,
        reader: Box<dyn QueueReader>,
    ) -> Result<(), QueueError> {
        self.queues.bind(queue, settings, reader)
    }

    /// Keeps a queue otherwise.
    ///
    /// # Errors
    /// Nobody reads it.
    pub fn set_queue(&mut self, queue: u16, settings: QueueSettings) -> Result<(), QueueError> {
        self.queues.set(queue, settings)
    }

    /// Takes a queue's reader away. Packets that waited for it are discarded
    /// (`nfqnl_flush`).
    ///
    /// # Errors
    /// Nobody reads it.
    pub fn unbind_queue(&mut self, queue: u16) -> Result<(), QueueError> {
        for (queue, parked) in self.queues.unbind(queue)? {
            self.forsake(queue, parked);
        }
        Ok(())
    }

    /// A reader's answer about a packet: it goes on, and what comes of it is among
    /// [`Engine::take_answered`].
    ///
    /// # Errors
    /// Nobody reads that queue, or no such packet waits there (any more).
    pub fn answer<T: Trace>(
        &mut self,
        now: Time,
        queue: u16,
        id: u32,
        answer: Answer,
        trace: &mut T,
    ) -> Result<(), QueueError> {
        let parked = self.queues.take(queue, id)?;
        let (ticket, connection) = (parked.ticket, parked.packet.tracking.connection().copied());
        let before = self.queues.parked.len();
        let outcome = Run::new(self, now, trace).resume(queue, parked, answer);
        let parked = self.queues.parked.split_off(before);
        if let Some(a) = connection {
            self.conntrack.unpin(a.id);
        }
        self.count_passed();
        self.queues.answered.push(Answered {
            ticket,
            parked,
            outcome,
        });
        Ok(())
    }

    /// One answer about all packets that wait in a queue up to and with a number
    /// (`NFQNL_MSG_VERDICT_BATCH`); how many there were. It may change their marks, not
    /// their bytes.
    ///
    /// # Errors
    /// Nobody reads that queue, or none waits up to that number.
    pub fn answer_up_to<T: Trace>(
        &mut self,
        now: Time,
        (queue, last): (u16, u32),
        verdict: QueueVerdict,
        mark: Option<u32>,
        trace: &mut T,
    ) -> Result<usize, QueueError> {
        let ids = self.queues.up_to(queue, last)?;
        if ids.is_empty() {
            return Err(QueueError::NoPacket);
        }
        for &id in &ids {
            let answer = Answer {
                mark,
                ..verdict.into()
            };
            self.answer(now, queue, id, answer, trace)?;
        }
        Ok(ids.len())
    }

    /// Packets that have been parked since the last call, in their order; but for those of
    /// [`Answered::parked`].
    pub fn take_parked(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.queues.parked)
    }

    /// What became of parked packets since the last call: they were answered, or their
    /// reader or interface has gone.
    pub fn take_answered(&mut self) -> Vec<Answered> {
        std::mem::take(&mut self.queues.answered)
    }

    /// The queues that have readers, by number.
    pub fn queue_counts(&self) -> impl Iterator<Item = QueueCounts> {
        self.queues.counts()
    }

    /// What waits in all queues, in bytes; at most [`crate::Config::queue_bytes`].
    #[must_use]
    pub fn queue_bytes(&self) -> usize {
        self.queues.bytes()
    }

    /// Discards packets whose interface is gone (`nfqnl_dev_drop`).
    pub(crate) fn forsake_interfaces(&mut self) {
        let env = &self.env;
        let is_gone = |dev| env.interface(dev).is_none();
        let gone = |p: &Packet| p.in_dev.is_some_and(is_gone) || p.out_dev.is_some_and(is_gone);
        for (queue, parked) in self.queues.sift(gone) {
            self.forsake(queue, parked);
        }
    }

    fn forsake(&mut self, queue: u16, parked: Parked) {
        if let Some(a) = parked.packet.tracking.connection() {
            if !parked.packet.borrows_connection {
                self.conntrack.release(a.id);
            }
            self.conntrack.unpin(a.id);
        }
        let reason = DropReason::QueueReader(queue);
        self.drops.count_drop(&reason);
        let outcome = Outcome {
            disposition: Disposition::Dropped(reason),
            outputs: Vec::new(),
            looped: false,
        };
        self.queues.answered.push(Answered {
            ticket: parked.ticket,
            parked: Vec::new(),
            outcome,
        });
    }
}
