//! Work beside a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread that goes on until it is told to end.
pub(crate) struct Busy<R>(JoinHandle<R>, Arc<AtomicBool>);

impl<R: Send + 'static> Busy<R> {
    pub(crate) fn start(work: impl FnOnce(&AtomicBool) -> R + Send + 'static) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let asked = ends.clone();
        Busy(thread::spawn(move || work(&asked)), ends)
    }

    pub(crate) fn end(self) -> R {
        self.1.store(true, Ordering::Relaxed);
        self.0.join().unwrap()
    }
}
