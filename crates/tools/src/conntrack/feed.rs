//! Events on their way from the table to those who watch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_conntrack::{Conntrack, Event, ExpectEvent};

/// Batches that wait for a slow listener; those after them are lost to it.
const QUEUE: usize = 4096;

/// Events that happened together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// About connections.
    pub flows: Vec<Event>,
    /// About expectations.
    pub expectations: Vec<ExpectEvent>,
    /// Events that nobody could keep.
    pub lost: u64,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.flows.is_empty() && self.expectations.is_empty() && self.lost == 0
    }

    fn len(&self) -> u64 {
        (self.flows.len() + self.expectations.len()) as u64 + self.lost
    }
}

struct Listener {
    queue: SyncSender<Arc<Batch>>,
    lost: Arc<AtomicU64>,
}

/// Hands the events of one table to everybody who listens. Whoever owns the table calls
/// [`Hub::publish`] often; with nobody listening that costs next to nothing.
#[derive(Default)]
pub struct Hub {
    listeners: Mutex<Vec<Listener>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl Hub {
    /// A listener. The table records events from the next [`Hub::publish`] on.
    #[must_use]
    pub fn subscribe(&self) -> Feed {
        let (queue, batches) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        self.lock().push(Listener {
            queue,
            lost: Arc::clone(&lost),
        });
        Feed { batches, lost }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the events that the table recorded and hands them on; tells the table
    /// whether anybody listens. Never waits for a listener.
    pub fn publish(&self, ct: &mut Conntrack) {
        let mut listeners = self.lock();
        if listeners.is_empty() && !ct.config().events {
            return;
        }
        let batch = Arc::new(Batch {
            flows: ct.events(),
            expectations: ct.expect_events(),
            lost: ct.events_lost(),
        });
        listeners.retain(|listener| {
            if batch.is_empty() {
                return !listener.is_gone();
            }
            match listener.queue.try_send(Arc::clone(&batch)) {
                Ok(()) => true,
                Err(TrySendError::Full(batch)) => {
                    listener.lost.fetch_add(batch.len(), Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            }
        });
        ct.config_mut().events = !listeners.is_empty();
    }
}

impl Listener {
    /// The [`Feed`] holds the other reference.
    fn is_gone(&self) -> bool {
        Arc::strong_count(&self.lost) == 1
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Feed {
    batches: Receiver<Arc<Batch>>,
    lost: Arc<AtomicU64>,
}

impl Feed {
    /// The next events; `None` when none came for so long. `Err` when none will come.
    ///
    /// # Errors
    /// The table is gone.
    pub fn next(&self, wait: Duration) -> Result<Option<Arc<Batch>>, RecvTimeoutError> {
        match self.batches.recv_timeout(wait) {
            Ok(batch) => Ok(Some(batch)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(gone @ RecvTimeoutError::Disconnected) => Err(gone),
        }
    }

    /// How many events were lost since the last call because this listener is slow.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}
