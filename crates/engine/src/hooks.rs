//! What runs at each hook, in order of priority.

use tidegate_ir::{Hook, Manip, TableKind};

/// One registered function at a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Reassembly (priority -400).
    Defrag,
    /// A table's base chain.
    Table(TableKind),
    /// Connection tracking (-200).
    Conntrack,
    /// The nat table for a connection's first packet, and translation (-100, 100).
    Nat(Manip),
    /// Helper, sequence adjustment, confirmation (last).
    Confirm,
}

use Stage::{Confirm, Conntrack, Defrag, Nat, Table};
use TableKind::{Filter, Mangle, Raw, Security};

/// The stages of `hook`, lowest priority value first (uapi `netfilter_ipv4.h`).
pub(crate) const fn stages(hook: Hook) -> &'static [Stage] {
    match hook {
        Hook::Prerouting => &[
            Defrag,
            Table(Raw),
            Conntrack,
            Table(Mangle),
            Nat(Manip::Dst),
        ],
        Hook::Input => &[
            Table(Mangle),
            Table(Filter),
            Table(Security),
            Nat(Manip::Src),
            Confirm,
        ],
        Hook::Forward => &[Table(Mangle), Table(Filter), Table(Security)],
        Hook::Output => &[
            Defrag,
            Table(Raw),
            Conntrack,
            Table(Mangle),
            Nat(Manip::Dst),
            Table(Filter),
            Table(Security),
        ],
        Hook::Postrouting => &[Table(Mangle), Nat(Manip::Src), Confirm],
    }
}
