//! Rules, chains, tables, hooks.

use alloc::{boxed::Box, string::String, vec::Vec};

use tidegate_wire::Family;

use crate::{Cond, Conds, Effect, Field, RejectKind, Rules, Step};

/// The five points where rules see a packet (uapi `enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Every incoming packet, before routing.
    Prerouting,
    /// Packets for this host.
    Input,
    /// Packets routed through this host.
    Forward,
    /// Packets from this host.
    Output,
    /// Every outgoing packet, after routing.
    Postrouting,
}

impl Hook {
    /// All hooks in numeric order.
    pub const ALL: [Hook; 5] = [
        Hook::Prerouting,
        Hook::Input,
        Hook::Forward,
        Hook::Output,
        Hook::Postrouting,
    ];

    /// The base chain's name at this hook.
    #[must_use]
    pub const fn chain_name(self) -> &'static str {
        match self {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        }
    }
}

/// The five tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TableKind {
    /// Before connection tracking.
    Raw,
    /// Packet alteration.
    Mangle,
    /// First packets of connections.
    Nat,
    /// Accept or drop.
    Filter,
    /// Mandatory access control marks.
    Security,
}

impl TableKind {
    /// All tables in the order packets meet them.
    pub const ALL: [TableKind; 5] = [
        TableKind::Raw,
        TableKind::Mangle,
        TableKind::Nat,
        TableKind::Filter,
        TableKind::Security,
    ];

    /// Name as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            TableKind::Raw => "raw",
            TableKind::Mangle => "mangle",
            TableKind::Nat => "nat",
            TableKind::Filter => "filter",
            TableKind::Security => "security",
        }
    }

    /// The table of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        TableKind::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Hooks at which the table has a base chain, in listing order.
    #[must_use]
    pub const fn hooks(self) -> &'static [Hook] {
        match self {
            TableKind::Raw => &[Hook::Prerouting, Hook::Output],
            TableKind::Mangle => &Hook::ALL,
            TableKind::Nat => &[
                Hook::Prerouting,
                Hook::Input,
                Hook::Output,
                Hook::Postrouting,
            ],
            TableKind::Filter | TableKind::Security => &[Hook::Input, Hook::Forward, Hook::Output],
        }
    }
}

/// Index of a chain in [`Table::chains`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId(pub u32);

/// Index of a rule's or a policy's counter in a [`Ruleset`]: dense over all tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// What a rule says about the packet when its condition held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Leave this table.
    Accept,
    /// Discard.
    Drop,
    /// Discard and answer.
    Reject(RejectKind),
    /// Go on in another chain; come back after it.
    Jump(ChainId),
    /// Go on in another chain; do not come back to this one.
    Goto(ChainId),
    /// Back to the calling chain; in a base chain, the policy.
    Return,
    /// Next rule.
    Continue,
}

/// One rule: two cache lines.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub struct Rule {
    /// When it applies.
    pub cond: Conds,
    /// What it does then, in order.
    pub effects: Box<[Effect]>,
    /// What becomes of the packet after that.
    pub verdict: Verdict,
    /// Counter index.
    pub id: RuleId,
    /// Written without any match, comments included: what the kernel's trace takes for a
    /// policy or a return.
    pub bare: bool,
}

impl Rule {
    /// Whether the kernel tracks connections once this rule is loaded
    /// (`nf_ct_netns_get` in the extensions' `checkentry`).
    #[must_use]
    pub fn needs_conntrack(&self) -> bool {
        let mut found = self.effects.iter().any(Effect::needs_conntrack);
        self.cond.visit(&mut |c| {
            if let Cond::Test(test) = c {
                found |= test.field().is_connection();
            }
        });
        found
    }

    /// Whether the rule looks at what connections have carried.
    #[must_use]
    pub fn needs_accounting(&self) -> bool {
        let mut found = false;
        self.cond.visit(&mut |c| {
            found |= matches!(c, Cond::Test(test) if test.field() == Field::CtOrigPackets);
        });
        found
    }

    /// Whether the kernel has this rule's extensions only where it can track connections:
    /// beside those that need tracking, what exempts from it.
    #[must_use]
    pub fn is_of_conntrack(&self) -> bool {
        let exempts = |e: &Effect| matches!(e, Effect::Ct(_));
        self.needs_conntrack() || self.effects.iter().any(exempts)
    }
}

/// A base chain's default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Let pass.
    Accept,
    /// Discard.
    Drop,
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug)]
pub struct Base {
    /// Where packets enter it.
    pub hook: Hook,
    /// What happens at its end.
    pub policy: Policy,
    /// Counter index of the policy.
    pub policy_id: RuleId,
}

/// A chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Present in base chains.
    pub base: Option<Base>,
    /// Rules in order.
    pub rules: Rules,
}

/// A table: chains by index, and the base chain of each hook.
#[derive(Clone, Debug)]
pub struct Table {
    /// Which table.
    pub kind: TableKind,
    /// All chains.
    pub chains: Vec<Chain>,
    /// Base chain per hook (index: `Hook as usize`).
    pub entry: [Option<ChainId>; 5],
}

impl Table {
    /// The chain `id`, if it exists.
    #[must_use]
    pub fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.get(id.0 as usize)
    }

    /// Base chain at `hook`.
    #[must_use]
    pub fn base_chain(&self, hook: Hook) -> Option<ChainId> {
        self.entry[hook as usize]
    }
}

/// Everything one address family's rules say. Jumps never form a loop: the loader
/// refuses such rules.
#[derive(Debug)]
pub struct Ruleset {
    /// Address family.
    pub family: Family,
    /// Tables (index: `TableKind as usize`); absent ones are skipped.
    pub tables: [Option<Table>; 5],
    /// Stateful tests by [`StepId`](crate::StepId), in their initial state.
    pub steps: Vec<Box<dyn Step>>,
    /// Number of [`RuleId`]s in use.
    pub rule_ids: u32,
    /// Some rule needs connection tracking, be it in a chain that no packet reaches.
    pub tracks_connections: bool,
    /// Whether some rule has fragments put together though it needs no connections.
    pub reassembles: bool,
    /// Whether some rule asks for the sockets of packets.
    pub asks_sockets: bool,
}

impl Ruleset {
    /// A ruleset without tables: everything passes.
    #[must_use]
    pub fn empty(family: Family) -> Self {
        Ruleset {
            family,
            tables: [None, None, None, None, None],
            steps: Vec::new(),
            rule_ids: 0,
            tracks_connections: false,
            reassembles: false,
            asks_sockets: false,
        }
    }

    /// The table `kind`, if loaded.
    #[must_use]
    pub fn table(&self, kind: TableKind) -> Option<&Table> {
        self.tables[kind as usize].as_ref()
    }

    /// All rules with their table and chain.
    pub fn rules(&self) -> impl Iterator<Item = (&Table, &Chain, &Rule)> {
        self.tables.iter().flatten().flat_map(|t| {
            t.chains
                .iter()
                .flat_map(move |c| c.rules.iter().map(move |r| (t, c, r)))
        })
    }
}
