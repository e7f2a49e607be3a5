//! Events on their way from the table to those who watch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_conntrack::{Conntrack, Event, ExpectEvent};

/// Events that wait for a slow listener; those after them are lost to it.
pub const QUEUE: u64 = 1 << 17;

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
        self.events() == 0 && self.lost == 0
    }

    /// Events in it.
    fn events(&self) -> u64 {
        (self.flows.len() + self.expectations.len()) as u64
    }
}

/// What a [`Listener`] and its [`Feed`] have in common.
#[derive(Debug, Default)]
struct Counts {
    /// Events in the queue.
    waiting: AtomicU64,
    /// Events that found no place there.
    lost: AtomicU64,
}

struct Listener {
    queue: Sender<Arc<Batch>>,
    counts: Arc<Counts>,
}

impl Listener {
    /// Hands a batch on, or counts it as lost; `false` when nobody listens any more.
    fn tell(&self, batch: &Arc<Batch>) -> bool {
        let events = batch.events();
        let waiting = self.counts.waiting.load(Ordering::Relaxed);
        if waiting > 0 && waiting + events > QUEUE {
            let lost = events + batch.lost;
            self.counts.lost.fetch_add(lost, Ordering::Relaxed);
            return !self.is_gone();
        }
        self.counts.waiting.fetch_add(events, Ordering::Relaxed);
        self.queue.send(Arc::clone(batch)).is_ok()
    }

    /// The [`Feed`] holds the other reference.
    fn is_gone(&self) -> bool {
        Arc::strong_count(&self.counts) == 1
    }
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
        let (queue, batches) = channel();
        let counts = Arc::new(Counts::default());
        self.lock().push(Listener {
            queue,
            counts: Arc::clone(&counts),
        });
        Feed { batches, counts }
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
            listener.tell(&batch)
        });
        ct.config_mut().events = !listeners.is_empty();
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Feed {
    batches: Receiver<Arc<Batch>>,
    counts: Arc<Counts>,
}

impl Feed {
    /// The next events; `None` when none came for so long. `Err` when none will come.
    ///
    /// # Errors
    /// The table is gone.
    pub fn next(&self, wait: Duration) -> Result<Option<Arc<Batch>>, RecvTimeoutError> {
        match self.batches.recv_timeout(wait) {
            Ok(batch) => {
                let taken = batch.events();
                self.counts.waiting.fetch_sub(taken, Ordering::Relaxed);
                Ok(Some(batch))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(gone @ RecvTimeoutError::Disconnected) => Err(gone),
        }
    }

    /// How many events were lost since the last call because this listener is slow.
    pub fn lost(&self) -> u64 {
        self.counts.lost.swap(0, Ordering::Relaxed)
    }
}
