//! What runs at each hook, in order of priority.

use tidegate_ir::{Hook, Manip, TableKind};

use crate::engine::Family4Or6;

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

/// By hook: a bit for each of its stages, the first one lowest.
pub(crate) type Active = [u8; 5];

/// The stages that have something to do with packets of a family, whose rules may have others
/// beside them that are only watched.
pub(crate) fn active(family: &Family4Or6, staged: Option<&Family4Or6>) -> Active {
    let has = |rules: &Family4Or6, kind| rules.rules.table(kind).is_some();
    let works = |stage: &Stage| match *stage {
        Table(kind) => has(family, kind) || staged.is_some_and(|s| has(s, kind)),
        Defrag => family.tracked || family.rules.reassembles,
        Conntrack | Confirm => family.tracked,
        Nat(_) => family.nat,
    };
    Hook::ALL.map(|hook| {
        let all = stages(hook).iter().enumerate();
        all.fold(0, |bits, (at, stage)| bits | u8::from(works(stage)) << at)
    })
}
