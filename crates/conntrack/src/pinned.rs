//! Entries of packets that wait: a packet keeps its entry whatever becomes of that
//! meanwhile, as one in the kernel holds a reference.

use crate::Conntrack;
use crate::entry::{EntryId, Status};

impl Conntrack {
    /// A packet of this entry waits: the entry stays readable until [`Conntrack::unpin`] has
    /// been called as often, even when it is removed (status DYING). Nothing finds it then.
    pub fn pin(&mut self, id: EntryId) {
        if self.slab.get(id).is_some() {
            *self.pinned.entry(id).or_default() += 1;
        }
    }

    /// The packet waits no more.
    pub fn unpin(&mut self, id: EntryId) {
        let Some(pins) = self.pinned.get_mut(&id) else {
            return;
        };
        *pins -= 1;
        if *pins == 0 {
            self.pinned.remove(&id);
            if self
                .slab
                .get(id)
                .is_some_and(|e| e.status.has(Status::DYING))
            {
                self.clean_up(id);
                self.slab.remove(id);
            }
        }
    }

    /// Frees a removed entry's place, unless a packet waits with it.
    pub(crate) fn vacate(&mut self, id: EntryId) {
        if !self.pinned.contains_key(&id) {
            self.slab.remove(id);
        }
    }
}
