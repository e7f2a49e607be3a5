//! Where packets go, for the few helpers that ask.

use crate::Family;

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Number of the interface.
    pub dev: u32,
    /// The next router's address, or the address itself.
    pub hop: u128,
}

/// What is known about ways when a helper reads a packet; by default nothing.
#[derive(Clone, Copy, Default)]
pub struct Ways<'a> {
    /// Number of the interface by which the packet leaves.
    pub out: Option<u32>,
    /// The way to an address; `None` when there is none.
    pub to: Option<&'a dyn Fn(Family, u128) -> Option<Way>>,
}

impl Ways<'_> {
    fn to(&self, family: Family, addr: u128) -> Option<Way> {
        self.to.and_then(|to| to(family, addr))
    }

    /// Whether both addresses are reached in the same way.
    pub(super) fn same(&self, family: Family, a: u128, b: u128) -> bool {
        let way = self.to(family, a);
        way.is_some() && way == self.to(family, b)
    }

    /// Whether the address is reached by the interface by which the packet leaves.
    pub(super) fn outside(&self, family: Family, addr: u128) -> bool {
        self.out.is_some() && self.to(family, addr).map(|w| w.dev) == self.out
    }
}
