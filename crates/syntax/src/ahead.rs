//! Work on the pieces of something long, done by several threads and taken in order.

use std::any::Any;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, available_parallelism};

/// Most threads beside the one that asks.
const HELPERS: usize = 3;
/// Most pieces that are worked on before they are wanted.
const AHEAD: usize = 16;

/// What a piece came to; the panic, if work on it failed inside.
type Outcome<R> = Result<R, Box<dyn Any + Send>>;

struct Progress<R> {
    /// The first piece that nobody works on.
    next: usize,
    /// The piece that is wanted next.
    wanted: usize,
    /// What is done and has not been taken, by piece.
    done: Vec<Option<Outcome<R>>>,
}

impl<R> Progress<R> {
    /// The next piece to be worked on, unless there is none or too much lies about.
    fn next(&mut self) -> Option<usize> {
        let piece = self.next;
        let may = piece < self.done.len() && !self.is_far_ahead();
        self.next += usize::from(may);
        may.then_some(piece)
    }

    const fn is_far_ahead(&self) -> bool {
        self.next >= self.wanted + AHEAD
    }
}

struct Pieces<R, W> {
    work: W,
    progress: Mutex<Progress<R>>,
    changed: Condvar,
}

impl<R, W: Fn(usize) -> R> Pieces<R, W> {
    fn progress(&self) -> MutexGuard<'_, Progress<R>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'p>(
        &'p self,
        progress: MutexGuard<'p, Progress<R>>,
        on: impl Fn(&Progress<R>) -> bool,
    ) -> MutexGuard<'p, Progress<R>> {
        let waited = self.changed.wait_while(progress, |p| on(p));
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn work_on(&self, piece: usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.work)(piece)));
        if let Some(done) = self.progress().done.get_mut(piece) {
            *done = Some(outcome);
        }
        self.changed.notify_all();
    }

    /// Works on pieces while there are any.
    fn help(&self) {
        loop {
            let far = |p: &Progress<R>| p.is_far_ahead() && p.next < p.done.len();
            let next = self.wait(self.progress(), far).next();
            let Some(piece) = next else { return };
            self.work_on(piece);
        }
    }

    /// What the piece came to, once somebody has worked on it.
    fn take(&self, piece: usize) -> R {
        let mut progress = self.progress();
        progress.wanted = piece;
        self.changed.notify_all();
        loop {
            if let Some(outcome) = progress.done[piece].take() {
                return outcome.unwrap_or_else(|panic| resume_unwind(panic));
            }
            progress = match progress.next() {
                Some(other) => {
                    drop(progress);
                    self.work_on(other);
                    self.progress()
                }
                None => self.wait(progress, |p| p.done[piece].is_none()),
            };
        }
    }

    /// No further piece is worked on.
    fn stop(&self) {
        self.progress().done.clear();
        self.changed.notify_all();
    }
}

/// Stops the helpers, also when what has been done cannot be taken.
struct Stop<'p, R, W: Fn(usize) -> R>(&'p Pieces<R, W>);

impl<R, W: Fn(usize) -> R> Drop for Stop<'_, R, W> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Does `work` on the pieces from 0 to `count`, as many at a time as there are processors,
/// and hands what comes of them to `take` in order, on this thread.
///
/// # Errors
/// The first one of `take`; what follows is not worked on any more.
pub(crate) fn in_order<R: Send, E>(
    count: usize,
    work: impl Fn(usize) -> R + Sync,
    mut take: impl FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    let processors = match count {
        0 | 1 => 1,
        _ => available_parallelism().map_or(1, NonZero::get),
    };
    let pieces = Pieces {
        work,
        progress: Mutex::new(Progress {
            next: 0,
            wanted: 0,
            done: (0..count).map(|_| None).collect(),
        }),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 1..processors.min(count).min(HELPERS + 1) {
            // Without a thread it takes longer.
            let _ = thread::Builder::new().spawn_scoped(scope, || pieces.help());
        }
        let _stop = Stop(&pieces);
        (0..count).try_for_each(|piece| take(piece, pieces.take(piece)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn pieces_are_worked_on_once_and_taken_in_order() {
        for count in [0, 1, 2, 100] {
            let worked = AtomicUsize::new(0);
            let mut taken = Vec::new();
            let work = |piece| {
                worked.fetch_add(1, Ordering::Relaxed);
                piece * 2
            };
            let done: Result<(), ()> = in_order(count, work, |piece, made| {
                taken.push((piece, made));
                Ok(())
            });
            assert_eq!(done, Ok(()));
            assert_eq!(worked.into_inner(), count);
            assert!(taken.iter().enumerate().all(|(i, t)| *t == (i, 2 * i)));
            assert_eq!(taken.len(), count);
        }
    }

    #[test]
    fn the_first_error_ends_it() {
        let mut taken = 0;
        let done = in_order(
            1000,
            |piece| piece,
            |piece, _| {
                taken += 1;
                if piece == 3 { Err(piece) } else { Ok(()) }
            },
        );
        assert_eq!((done, taken), (Err(3), 4));
    }

    #[test]
    fn a_panic_comes_out() {
        let work = |piece| assert!(piece != 7, "seven");
        let all = || in_order(50, work, |_, ()| Ok::<(), ()>(()));
        assert!(catch_unwind(AssertUnwindSafe(all)).is_err());
    }
}
