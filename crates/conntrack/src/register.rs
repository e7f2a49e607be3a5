//! Who keeps a register of the tuples in the table: somebody who must tell packets of no
//! connection without asking.

use core::fmt;

use alloc::boxed::Box;

use crate::Conntrack;
use crate::entry::EntryId;
use crate::tuple::Tuple;

/// Told before anything comes of it that another packet could see.
pub trait Register: fmt::Debug + Send {
    /// A connection with these tuples enters the table.
    fn enters(&mut self, tuples: &[Tuple; 2]);
    /// It leaves.
    fn leaves(&mut self, tuples: &[Tuple; 2]);
}

impl Conntrack {
    /// From now on `register` has all of the table's tuples.
    pub fn set_register(&mut self, mut register: Box<dyn Register>) {
        for (_, entry) in self.slab.iter().filter(|(_, e)| is_in_table(e)) {
            register.enters(&entry.tuples);
        }
        self.register = Some(register);
    }

    #[inline]
    pub(crate) fn registers(&mut self, id: EntryId, enters: bool) {
        if let Some(register) = &mut self.register
            && let Some(entry) = self.slab.get(id)
        {
            match enters {
                true => register.enters(&entry.tuples),
                false => register.leaves(&entry.tuples),
            }
        }
    }

    /// Whether connections are expected.
    #[must_use]
    pub fn is_expecting(&self) -> bool {
        self.expectations.len() > 0
    }
}

fn is_in_table(entry: &crate::entry::Entry) -> bool {
    entry.confirmed() && !entry.status.has(crate::entry::Status::DYING)
}
