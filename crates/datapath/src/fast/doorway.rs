//! What is on its way between here and this host's sockets.
//!
//! A frame that is let in waits in a queue of the kernel's before it comes in at its interface,
//! where the fast path counts it; and so does one that a socket sends, which has been counted,
//! before it is here. A connection of a socket is handed over when none is between: else the
//! first one that a program lets pass could overtake.

use tidegate_engine::conntrack::{SECOND, Time};

/// A frame that has not come in after that has been lost.
const PATIENCE: Time = SECOND / 100;

/// The frames between, one way.
#[derive(Debug, Default)]
pub(super) struct Doorway {
    /// Frames that have been sent here, or have come.
    here: u64,
    /// How many of them are missing, and since when.
    missing: Option<(u64, Time)>,
}

impl Doorway {
    pub(super) fn count(&mut self, frames: u64) {
        self.here = self.here.wrapping_add(frames);
    }

    /// Whether all frames are where they were to go; `there` have been counted at the other end.
    pub(super) fn is_empty(&mut self, there: u64, now: Time) -> bool {
        let missing = self.here.wrapping_sub(there);
        if missing == 0 {
            self.missing = None;
            return true;
        }
        match self.missing {
            Some((same, since)) if same == missing => {
                let lost = now.saturating_sub(since) > PATIENCE;
                if lost {
                    self.here = there;
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
        doorway.count(3);
        assert!(!doorway.is_empty(2, 0));
        assert!(doorway.is_empty(3, 1));
        doorway.count(2);
        assert!(!doorway.is_empty(4, 2));
        assert!(!doorway.is_empty(4, 2 + PATIENCE));
        // As many are missing, but not the same.
        doorway.count(1);
        assert!(!doorway.is_empty(4, 3 + PATIENCE));
        assert!(doorway.is_empty(4, 4 + 2 * PATIENCE));
        doorway.count(1);
        assert!(!doorway.is_empty(4, 5 + 2 * PATIENCE));
        assert!(doorway.is_empty(5, 6 + 2 * PATIENCE));
        // The other way.
        assert!(!doorway.is_empty(7, 0));
        doorway.count(1);
        assert!(!doorway.is_empty(7, 1));
        doorway.count(1);
        assert!(doorway.is_empty(7, 2));
    }
}
