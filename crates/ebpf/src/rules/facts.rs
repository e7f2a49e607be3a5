//! What is known of a field before the packet is there.

use tidegate_ir::{Effect, Field, Hook, Ruleset, TableKind, ctstate};
use tidegate_wire::Family;

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grasp {
    /// One of these values, whatever the packet.
    OneOf(&'static [u128]),
    /// The program can read it.
    Readable,
    /// Nothing.
    Unknown,
}

/// States of a packet that belongs to no known connection, and to no expected one.
const FRESH: &[u128] = &[ctstate::INVALID, ctstate::NEW, ctstate::UNTRACKED];
/// The state of one that opens a connection.
const OPENS: &[u128] = &[ctstate::NEW];
const NONE: &[u128] = &[0];

/// What is known of all packets that a program is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    /// Connections are tracked.
    pub(crate) tracked: bool,
    /// Connections may be translated.
    pub(crate) translated: bool,
    /// The packet was received, opens a connection if connections are tracked, and is not
    /// translated; else this host sends it.
    pub(crate) received: bool,
}

pub(crate) struct Facts<'a> {
    pub(crate) rules: &'a Ruleset,
    pub(crate) interfaces: &'a [(u32, u128)],
    given: Given,
    /// The packet may be of a known connection.
    pub(crate) known: bool,
    /// Where the packet is.
    pub(crate) hook: Hook,
    effects: Vec<&'a Effect>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(rules: &'a Ruleset, interfaces: &'a [(u32, u128)], given: Given) -> Self {
        Facts {
            rules,
            interfaces,
            given,
            known: false,
            hook: Hook::Output,
            effects: rules.rules().flat_map(|(_, _, r)| &r.effects).collect(),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.rules.family
    }

    /// What is known of `field` where a table sees the packet.
    pub(crate) fn grasp(&self, kind: TableKind, field: Field) -> Grasp {
        if field == Field::CtState && !self.known {
            return self.state(kind);
        }
        // Who reads a queue may change everything.
        let changes = |e: &&Effect| matches!(e, Effect::Queue(_)) || e.changes(field);
        if self.effects.iter().any(changes) {
            return Grasp::Unknown;
        }
        match field {
            Field::FragOff | Field::Mark => Grasp::OneOf(NONE),
            Field::InName if !self.given.received => Grasp::OneOf(NONE),
            Field::OutName if matches!(self.hook, Hook::Prerouting | Hook::Input) => {
                Grasp::OneOf(NONE)
            }
            // What is forwarded has lost one by then.
            Field::Ttl if self.hook == Hook::Forward => Grasp::Unknown,
            Field::HasCt if !self.given.tracked => Grasp::OneOf(NONE),
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
            | Field::InName
            | Field::OutName => Grasp::Readable,
            _ => Grasp::Unknown,
        }
    }

    /// What is known of the state of a packet of no known connection.
    fn state(&self, kind: TableKind) -> Grasp {
        match self.given.received {
            // Whatever the raw table does about it.
            false => Grasp::OneOf(FRESH),
            true if self.given.tracked && kind != TableKind::Raw => Grasp::OneOf(OPENS),
            true => Grasp::Unknown,
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
        let fresh = self.known || has_rules(Hook::Output);
        self.given.translated && !self.given.received && fresh
    }
}

fn after_nat(kind: TableKind) -> bool {
    matches!(kind, TableKind::Filter | TableKind::Security)
}
