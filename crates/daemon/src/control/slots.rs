//! How many clients are served at the same time.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::locked;

/// Clients served at the same time; others wait to be accepted.
const MAX_CLIENTS: usize = 64;

/// Counts clients.
#[derive(Default)]
pub(super) struct Slots {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    taken: usize,
    /// Somebody waits for a slot.
    wanted: bool,
}

/// A client's; free again when dropped.
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    /// Waits until there is room.
    pub(super) fn take(slots: &Arc<Slots>) -> Slot {
        let mut state = locked(&slots.state);
        state.wanted = true;
        let full = |s: &mut State| s.taken >= MAX_CLIENTS;
        let waited = slots.freed.wait_while(state, full);
        let mut state = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        state.taken += 1;
        state.wanted = false;
        Slot(slots.clone())
    }

    /// Whether somebody waits for a slot.
    pub(super) fn are_wanted(&self) -> bool {
        locked(&self.state).wanted
    }

    /// Lets clients take the answers that are on their way, but not longer than so.
    pub(super) fn wait_for_all(&self, longest: Duration) {
        let busy = |s: &mut State| s.taken > 0;
        let state = locked(&self.state);
        let _ = self.freed.wait_timeout_while(state, longest, busy);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        locked(&self.0.state).taken -= 1;
        self.0.freed.notify_one();
    }
}
