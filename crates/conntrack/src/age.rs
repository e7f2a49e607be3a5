//! Letting time pass for connections alone.

use alloc::vec::Vec;

use crate::entry::EntryId;
use crate::{Conntrack, SECOND, Time};

impl Conntrack {
    /// Shortens what every entry and expectation has left by `seconds`; what has
    /// nothing left goes. The clock itself, and with it UDP's two-second rule, stays.
    /// (What lowering all timeouts over ctnetlink does.)
    pub fn age(&mut self, now: Time, seconds: u64) {
        self.recall_all();
        let by = seconds.saturating_mul(SECOND);
        self.expectations.age(by);
        self.expire_expectations(now);
        let ids: Vec<EntryId> = self.iter().map(|(id, _)| id).collect();
        for id in ids {
            let Some(entry) = self.entry_mut(id) else {
                continue;
            };
            entry.timeout = entry.timeout.saturating_sub(by);
            if entry.timeout <= now {
                self.delete(id);
            } else {
                self.check_timer(now, id.index);
            }
        }
    }
}
