//! What is known of a field before the packet is there.

use tidegate_ir::{Effect, Field, Hook, Ruleset, TableKind, ctstate};
use tidegate_wire::Family;

use super::{Making, Side};

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grasp {
    /// One of these values, whatever the packet.
    OneOf(&'static [u128]),
    /// The program can read it.
    Readable,
    /// Nothing.
    Unknown,
}

/// States of a packet that belongs to no known connection, and to no expected one.
const FRESH: &[u128] = &[ctstate::INVALID, ctstate::NEW, ctstate::UNTRACKED];
const NONE: &[u128] = &[0];

pub(super) struct Facts<'a> {
    pub(super) rules: &'a Ruleset,
    pub(super) interfaces: &'a [(u32, u128)],
    tracked: bool,
    translated: bool,
    /// The packet may be of a known connection.
    pub(super) known: bool,
    effects: Vec<&'a Effect>,
}

impl<'a> Facts<'a> {
    pub(super) fn new(making: &Making<'a>, side: &Side<'a>) -> Self {
        let rules = side.rules;
        Facts {
            rules,
            interfaces: making.interfaces,
            tracked: side.tracked,
            translated: side.translated,
            known: false,
            effects: rules.rules().flat_map(|(_, _, r)| &r.effects).collect(),
        }
    }

    pub(super) fn family(&self) -> Family {
        self.rules.family
    }

    /// What is known of `field` where a table sees the packet.
    pub(super) fn grasp(&self, kind: TableKind, field: Field) -> Grasp {
        // Whatever the raw table does about it.
        if field == Field::CtState && !self.known {
            return Grasp::OneOf(FRESH);
        }
        // Who reads a queue may change everything.
        let changes = |e: &&Effect| matches!(e, Effect::Queue(_)) || e.changes(field);
        if self.effects.iter().any(changes) {
            return Grasp::Unknown;
        }
        match field {
            Field::InName | Field::FragOff | Field::Mark => Grasp::OneOf(NONE),
            Field::HasCt if !self.tracked => Grasp::OneOf(NONE),
            Field::Dst | Field::Dport | Field::IcmpTypeCode
                if after_nat(kind) && self.may_be_translated() =>
            {
                Grasp::Unknown
            }
            Field::Src
            | Field::Dst
            | Field::Proto
            | Field::Tos
            | Field::Ttl
            | Field::Length
            | Field::L4Len
            | Field::Sport
            | Field::Dport
            | Field::TcpFlags
            | Field::IcmpTypeCode
            | Field::OutName => Grasp::Readable,
            _ => Grasp::Unknown,
        }
    }

    /// Whether the packet's destination may be another one behind the nat table. A packet
    /// that opens a connection meets its rules; others share their connection's fate.
    fn may_be_translated(&self) -> bool {
        let table = self.rules.table(TableKind::Nat);
        let has_rules = |hook| {
            let chain = table.and_then(|t| t.chain(t.base_chain(hook)?));
            chain.is_some_and(|c| !c.rules.is_empty())
        };
        self.translated && (self.known || has_rules(Hook::Output))
    }
}

fn after_nat(kind: TableKind) -> bool {
    matches!(kind, TableKind::Filter | TableKind::Security)
}
