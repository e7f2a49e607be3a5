//! Connection states as the conntrack and state matches name them.

use tidegate_ir::{Cond, Field, Ranges, ctstate, ctstatus};

/// Bits of a state list: one per value of [`Field::CtState`], then the two
/// translation states.
pub(super) const INVALID: u32 = 1 << ctstate::INVALID;
pub(super) const ESTABLISHED: u32 = 1 << ctstate::ESTABLISHED;
pub(super) const RELATED: u32 = 1 << ctstate::RELATED;
pub(super) const NEW: u32 = 1 << ctstate::NEW;
pub(super) const UNTRACKED: u32 = 1 << ctstate::UNTRACKED;
pub(super) const SNAT: u32 = 1 << 8;
pub(super) const DNAT: u32 = 1 << 9;

/// Whether the packet's state is in the list.
pub(super) fn test(states: u32) -> Cond {
    let values = (0..8).filter(|v| states & (1 << v) != 0);
    let listed = Ranges::new(values.map(|v| (v, v)).collect());
    let mut any = vec![Cond::within(Field::CtState, listed)];
    for (state, status) in [(SNAT, ctstatus::SRC_NAT), (DNAT, ctstatus::DST_NAT)] {
        if states & state != 0 {
            any.push(has_status(status));
        }
    }
    if any.len() == 1 {
        return any.remove(0);
    }
    Cond::any(any)
}

/// Whether the connection has this status bit.
pub(super) fn has_status(bit: u32) -> Cond {
    Cond::bits(Field::CtStatus, u128::from(bit), u128::from(bit))
}

/// Whether the packet belongs to a tracked connection.
pub(super) fn tracked() -> Cond {
    Cond::eq(Field::HasCt, 1)
}
