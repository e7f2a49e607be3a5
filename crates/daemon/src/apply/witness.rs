//! What stopped a packet, and where a rule would have let it pass.

use tidegate_engine::{Role, Trace, TraceEvent};
use tidegate_ir::{Hook, TableKind};

/// Watches one packet.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Table and hook it met last.
    pub(super) table: Option<(TableKind, Hook)>,
    /// Rules of that table that were tried at that hook.
    pub(super) examined: u32,
    /// Position of the base chain's rule that was tried last, from 0.
    pub(super) base_at: Option<usize>,
    /// The base chain's policy decided.
    pub(super) at_policy: bool,
    /// Its bytes as rules saw them last.
    pub(super) bytes: Vec<u8>,
    hook: Option<Hook>,
    /// What follows is about an answer of the firewall.
    answering: bool,
}

impl Trace for Witness {
    const ACTIVE: bool = true;

    fn event(&mut self, event: TraceEvent<'_>) {
        if self.answering {
            return;
        }
        match event {
            TraceEvent::Packet {
                role: Role::Emitted,
                ..
            } => self.answering = true,
            TraceEvent::Packet { bytes, .. } | TraceEvent::Translated { after: bytes, .. } => {
                self.bytes = bytes.to_vec();
            }
            TraceEvent::Hook { hook, .. } => self.hook = Some(hook),
            TraceEvent::Table { table, .. } => {
                self.table = self.hook.map(|hook| (table, hook));
                self.examined = 0;
                self.base_at = None;
                self.at_policy = false;
            }
            TraceEvent::Rule { chain, index, .. } => {
                self.examined += 1;
                if chain.base.is_some() {
                    self.base_at = Some(index);
                }
            }
            TraceEvent::Policy { .. } => self.at_policy = true,
            TraceEvent::Leaf(_)
            | TraceEvent::Step(_)
            | TraceEvent::Effect(_)
            | TraceEvent::Conntrack { .. }
            | TraceEvent::Confirmed(_)
            | TraceEvent::Routed { .. }
            | TraceEvent::Reassembled(_)
            | TraceEvent::Dropped(_) => {}
        }
    }
}
