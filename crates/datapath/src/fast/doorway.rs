//! What is on its way into this host's sockets.
//!
//! A frame that is let in waits in a queue of the kernel's before it comes in at its interface,
//! where the fast path counts it. A connection whose packets go there is handed over when
//! none is between: else the first one that a program lets pass could overtake.

use tidegate_engine::conntrack::{SECOND, Time};

/// A frame that has not come in after that has been lost.
const PATIENCE: Time = SECOND / 100;

/// The frames between.
#[derive(Debug, Default)]
pub(super) struct Doorway {
    /// Frames that have been sent.
    sent: u64,
    /// How many of them are missing, and since when.
    missing: Option<(u64, Time)>,
}

impl Doorway {
    pub(super) fn let_in(&mut self, frames: u64) {
        self.sent = self.sent.wrapping_add(frames);
    }

    /// Whether all frames are where they were to go, of which `come_in` have been counted
    /// there.
    pub(super) fn is_empty(&mut self, come_in: u64, now: Time) -> bool {
        let missing = self.sent.wrapping_sub(come_in);
        if missing == 0 {
            self.missing = None;
            return true;
        }
        match self.missing {
            Some((same, since)) if same == missing => {
                let lost = now.saturating_sub(since) > PATIENCE;
                if lost {
                    self.sent = come_in;
                }
                lost
            }
            _ => {
                self.missing = Some((missing, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_comes_in_or_is_lost() {
        let mut doorway = Doorway::default();
        assert!(doorway.is_empty(0, 0));
        doorway.let_in(3);
        assert!(!doorway.is_empty(2, 0));
        assert!(doorway.is_empty(3, 1));
        doorway.let_in(2);
        assert!(!doorway.is_empty(4, 2));
        assert!(!doorway.is_empty(4, 2 + PATIENCE));
        // As many are missing, but not the same.
        doorway.let_in(1);
        assert!(!doorway.is_empty(4, 3 + PATIENCE));
        assert!(doorway.is_empty(4, 4 + 2 * PATIENCE));
        doorway.let_in(1);
        assert!(!doorway.is_empty(4, 5 + 2 * PATIENCE));
        assert!(doorway.is_empty(5, 6 + 2 * PATIENCE));
    }
}
