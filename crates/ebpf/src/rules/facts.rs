//! What is known of a field before the packet is there.

use tidegate_ir::{Effect, Field, Hook, Ruleset, StepId, TableKind, ctstate};
use tidegate_wire::Family;

use super::{Headers, Members};
use crate::maps::Map;

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grasp {
    /// One of these values, whatever the packet.
    OneOf(&'static [u128]),
    /// A number of at least so much, but of no more than 16 bits; the program can read it.
    AtLeast(u128),
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

/// Where a condition sees a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// The table.
    pub(crate) table: TableKind,
    /// Bytes from the transport header on that are there for certain.
    pub(crate) least: u128,
}

/// Steps of which a map says until when they match no packet: times to compare with
/// [`super::NOW`], of the first step in the value `first`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quiet<'a> {
    pub(crate) steps: &'a [StepId],
    pub(crate) map: &'static Map,
    pub(crate) first: i32,
}

pub(crate) struct Facts<'a> {
    pub(crate) rules: &'a Ruleset,
    pub(crate) interfaces: &'a [(u32, u128)],
    pub(crate) headers: Headers,
    pub(crate) quiet: Option<Quiet<'a>>,
    /// Where long lists of values are searched, if not in the program.
    pub(crate) members: Option<Members<'a>>,
    given: Given,
    /// The packet may be of a known connection.
    pub(crate) known: bool,
    /// Where the packet is.
    pub(crate) hook: Hook,
    /// Fields of [`KNOWN`] that rules change.
    changed: Vec<Field>,
}

/// Fields of which something is known unless rules change them.
const KNOWN: [Field; 16] = [
    Field::FragOff,
    Field::Mark,
    Field::InName,
    Field::OutName,
    Field::HasCt,
    Field::Src,
    Field::Dst,
    Field::Proto,
    Field::Tos,
    Field::Ttl,
    Field::Length,
    Field::L4Len,
    Field::Sport,
    Field::Dport,
    Field::TcpFlags,
    Field::IcmpTypeCode,
];

impl<'a> Facts<'a> {
    pub(crate) fn new(rules: &'a Ruleset, interfaces: &'a [(u32, u128)], given: Given) -> Self {
        Facts {
            rules,
            interfaces,
            headers: Headers::STACK,
            quiet: None,
            members: None,
            given,
            known: false,
            hook: Hook::Output,
            changed: changed(rules),
        }
    }

    pub(crate) fn family(&self) -> Family {
        self.rules.family
    }

    /// Where a map says until when a step matches no packet.
    pub(crate) fn quiet(&self, step: StepId) -> Option<(&'static Map, i32)> {
        let quiet = self.quiet?;
        let at = quiet.steps.iter().position(|s| *s == step)?;
        Some((quiet.map, quiet.first + at as i32))
    }

    /// What is known of `field` where a rule sees the packet.
    pub(crate) fn grasp(&self, seen: Seen, field: Field) -> Grasp {
        if field == Field::CtState && !self.known {
            return self.state(seen.table);
        }
        if !KNOWN.contains(&field) || self.changed.contains(&field) {
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
            Field::HasCt if self.given.tracked => Grasp::Unknown,
            Field::HasCt => Grasp::OneOf(NONE),
            Field::Dst | Field::Dport | Field::IcmpTypeCode
                if after_nat(seen.table) && self.may_be_translated() =>
            {
                Grasp::Unknown
            }
            Field::L4Len => Grasp::AtLeast(seen.least),
            _ => Grasp::Readable,
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

/// Which of [`KNOWN`] some rule changes.
fn changed(rules: &Ruleset) -> Vec<Field> {
    let mut left = KNOWN.to_vec();
    for effect in rules.rules().flat_map(|(_, _, r)| &r.effects) {
        // Who reads a queue may change everything.
        left.retain(|f| !matches!(effect, Effect::Queue(_)) && !effect.changes(*f));
    }
    let mut changed = KNOWN.to_vec();
    changed.retain(|f| !left.contains(f));
    changed
}

fn after_nat(kind: TableKind) -> bool {
    matches!(kind, TableKind::Filter | TableKind::Security)
}
