//! What awaits a packet behind its hooks.

use crate::env::IfIndex;
use crate::outcome::Role;

/// Why a packet is on its way, and what awaits it behind its hooks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) role: Role,
    pub(crate) then: Then,
}

/// What awaits a packet behind its hooks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// Nothing special.
    Onwards,
    /// Behind OUTPUT it goes on as if it had come in by the device that the packet was at
    /// of which it is a copy.
    Copied(Option<IfIndex>),
    /// Behind POSTROUTING it comes back in by this interface.
    Heard(IfIndex),
}

impl From<Role> for Way {
    fn from(role: Role) -> Self {
        let then = Then::Onwards;
        Way { role, then }
    }
}
