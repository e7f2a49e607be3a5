//! Watching a packet on its way.

use tidegate_conntrack::{Attached, Note};
use tidegate_ir::{Chain, Effect, Hook, Leaf, Policy, Rule, RuleId, Step, TableKind, Truth};

use crate::env::IfIndex;
use crate::flow::Recorder;
use crate::outcome::{DropReason, Role};
use crate::packet::Tracking;

/// One thing that happened to a packet.
#[derive(Clone, Copy, Debug)]
pub enum TraceEvent<'a> {
    /// A packet starts its way: the one given, or one that the engine made.
    Packet {
        /// Bytes at this point.
        bytes: &'a [u8],
        /// Whose packet it is.
        role: Role,
    },
    /// Reached a hook.
    Hook {
        /// Which.
        hook: Hook,
        /// Input interface.
        input: Option<IfIndex>,
        /// Output interface.
        output: Option<IfIndex>,
    },
    /// Entered a table's base chain.
    Table {
        /// Which table.
        table: TableKind,
        /// The base chain.
        chain: &'a Chain,
    },
    /// A test of the current rule was evaluated.
    Leaf(Leaf<'a>),
    /// The current rule's stateful tests, after it was evaluated.
    Step(&'a dyn Step),
    /// A rule was evaluated.
    Rule {
        /// Its table.
        table: TableKind,
        /// Its chain.
        chain: &'a Chain,
        /// Its position in the chain, counted from 0.
        index: usize,
        /// The rule.
        rule: &'a Rule,
        /// Whether it applies.
        truth: Truth,
    },
    /// An effect of the current rule was carried out.
    Effect(&'a Effect),
    /// A base chain's policy decided.
    Policy {
        /// Its table.
        table: TableKind,
        /// The base chain.
        chain: &'a Chain,
        /// The policy.
        policy: Policy,
        /// Counter index of the policy.
        id: RuleId,
    },
    /// Connection tracking classified the packet.
    Conntrack {
        /// What it attached.
        tracking: &'a Tracking,
        /// Why the connection ignored the packet, if it did.
        note: Option<Note>,
    },
    /// A translation rewrote the packet.
    Translated {
        /// Bytes before.
        before: &'a [u8],
        /// Bytes after.
        after: &'a [u8],
    },
    /// The connection entered the table.
    Confirmed(Attached),
    /// Routing decided.
    Routed {
        /// Output interface; `None` for local delivery.
        output: Option<IfIndex>,
    },
    /// A fragment completed a packet of this many bytes.
    Reassembled(usize),
    /// The packet went no further.
    Dropped(DropReason),
}

/// Receives [`TraceEvent`]s. `()` ignores them at no cost.
pub trait Trace {
    /// Whether events are wanted at all.
    const ACTIVE: bool;
    /// Whether every test of every rule is wanted, and packets as they were before
    /// they were rewritten. Without it, [`TraceEvent::Leaf`], [`TraceEvent::Step`] and
    /// [`TraceEvent::Translated`] are left out, and so are rules that do not apply.
    const TESTS: bool = Self::ACTIVE;
    /// One event.
    fn event(&mut self, event: TraceEvent<'_>);
}

impl Trace for () {
    const ACTIVE: bool = false;
    #[inline]
    fn event(&mut self, _: TraceEvent<'_>) {}
}

/// Those who watch the evaluator.
pub(crate) struct Watch<'t, T> {
    pub(crate) trace: &'t mut T,
    pub(crate) recorder: &'t mut Recorder,
}

impl<T: Trace> tidegate_ir::Observer for Watch<'_, T> {
    #[inline]
    fn listens(&self) -> bool {
        T::TESTS || !T::ACTIVE && self.recorder.is_recording()
    }

    #[inline]
    fn leaf(&mut self, leaf: Leaf<'_>) {
        if T::TESTS {
            self.trace.event(TraceEvent::Leaf(leaf));
        }
        if !T::ACTIVE {
            self.recorder.tested(&leaf);
        }
    }
}
