//! Rulesets as users write them, in normal form.
//!
//! This is what `-S`, `-C`, `-D`, save and list work on; nothing is ever
//! reconstructed from lowered rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_ir::{Hook, Policy, TableKind};
use tidegate_wire::Family;
use tidegate_xt::{Instance, TimeoutPolicy};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes of the network packets.
    pub bytes: u64,
}

/// `[!] -s` or `-d`. All addresses, not inverted, is no condition and never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// Address with host bits cleared; IPv4 in the low 32 bits.
    pub addr: u128,
    /// Mask, possibly with holes.
    pub mask: u128,
    /// `!`.
    pub invert: bool,
}

/// `[!] -i` or `-o`. A lone `+`, not inverted, is no condition and never stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Iface {
    /// Name, at most 15 bytes; a final `+` stands for any ending.
    pub name: String,
    /// `!`.
    pub invert: bool,
}

/// `[!] -p`; number 0 is never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proto {
    /// IP protocol number.
    pub number: u8,
    /// `!`.
    pub invert: bool,
}

/// Whether `name` is a verdict every chain knows.
#[must_use]
pub fn is_verdict(name: &str) -> bool {
    matches!(name, "ACCEPT" | "DROP" | "QUEUE" | "RETURN")
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Only counts.
    None,
    /// `-j` or `-g` to a user-defined chain.
    Chain {
        /// Name of the chain.
        name: String,
        /// `-g`.
        goto: bool,
    },
    /// `-j` with an extension; the verdicts are extensions too.
    Extension(Instance),
}

impl Target {
    /// Name after `-j` or `-g`; empty for no target.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Target::None => "",
            Target::Chain { name, .. } => name,
            Target::Extension(x) => x.ext.name,
        }
    }
}

/// A rule without its counters. Equal specs are the same rule to `-C` and `-D`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Source.
    pub src: Option<Net>,
    /// Destination.
    pub dst: Option<Net>,
    /// Input interface.
    pub input: Option<Iface>,
    /// Output interface.
    pub output: Option<Iface>,
    /// Protocol.
    pub proto: Option<Proto>,
    /// `-f`: `Some(false)`; `! -f`: `Some(true)`.
    pub fragment: Option<bool>,
    /// `-m`, in order.
    pub matches: Vec<Instance>,
    /// `-j` or `-g`.
    pub target: Target,
}

impl Spec {
    /// A rule that matches everything and only counts.
    #[must_use]
    pub const fn any() -> Self {
        Spec {
            src: None,
            dst: None,
            input: None,
            output: None,
            proto: None,
            fragment: None,
            matches: Vec::new(),
            target: Target::None,
        }
    }

    /// Whether the rule ends every packet's way through its chain (kernel
    /// `unconditional` and a standard verdict).
    #[must_use]
    pub fn ends_chain(&self) -> bool {
        matches!(&self.target, Target::Extension(x) if is_verdict(x.ext.name))
            && self.matches.is_empty()
            && self.src.is_none()
            && self.dst.is_none()
            && self.input.is_none()
            && self.output.is_none()
            && self.proto.is_none()
            && self.fragment.is_none()
    }
}

/// A rule with its counters.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it says; shared by the copies that are made of rulesets.
    pub spec: Arc<Spec>,
    /// What it has counted.
    pub counters: Counters,
    /// Number of its counter when it was last loaded (see [`Ruleset::slots_mut`]); `None`
    /// if it has been written since.
    pub was: Option<u32>,
}

/// A base chain's default.
#[derive(Clone, Copy, Debug)]
pub struct BasePolicy {
    /// Where packets enter the chain.
    pub hook: Hook,
    /// What happens at its end.
    pub policy: Policy,
    /// Packets that got there.
    pub counters: Counters,
    /// As [`Rule::was`].
    pub was: Option<u32>,
}

/// The counter of a rule or a policy.
#[derive(Debug)]
pub struct Slot<'r> {
    /// Table.
    pub table: TableKind,
    /// What it has counted.
    pub counters: &'r mut Counters,
    /// As [`Rule::was`].
    pub was: &'r mut Option<u32>,
}

/// A chain.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Name.
    pub name: String,
    /// Present in built-in chains.
    pub base: Option<BasePolicy>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// An empty user-defined chain.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Chain {
            name: name.to_owned(),
            base: None,
            rules: Vec::new(),
        }
    }
}

/// Rules of a chain that are looked at by one thread at a time.
pub(crate) const PIECE: usize = 1024;

impl Chain {
    /// How many pieces a chain has.
    pub(crate) const fn pieces(&self) -> usize {
        self.rules.len().div_ceil(PIECE)
    }

    /// The rules of a piece.
    pub(crate) fn piece(&self, piece: usize) -> &[Rule] {
        let from = piece * PIECE;
        &self.rules[from..self.rules.len().min(from + PIECE)]
    }
}

/// A table: its built-in chains in hook order, then the others by name.
#[derive(Clone, Debug)]
pub struct Table {
    /// Which table.
    pub kind: TableKind,
    base: Vec<Chain>,
    user: BTreeMap<String, Chain>,
}

impl Table {
    /// A table with empty built-in chains and policy ACCEPT.
    #[must_use]
    pub fn new(kind: TableKind) -> Self {
        let base = kind.hooks().iter().map(|&hook| Chain {
            base: Some(BasePolicy {
                hook,
                policy: Policy::Accept,
                counters: Counters::default(),
                was: None,
            }),
            ..Chain::new(hook.chain_name())
        });
        Table {
            kind,
            base: base.collect(),
            user: BTreeMap::new(),
        }
    }

    /// All chains in listing order.
    pub fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.base.iter().chain(self.user.values())
    }

    /// All chains in listing order.
    pub fn chains_mut(&mut self) -> impl Iterator<Item = &mut Chain> {
        self.base.iter_mut().chain(self.user.values_mut())
    }

    /// The chain of that name.
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        let base = self.base.iter().find(|c| c.name == name);
        base.or_else(|| self.user.get(name))
    }

    /// The chain of that name.
    pub fn chain_mut(&mut self, name: &str) -> Option<&mut Chain> {
        let base = self.base.iter_mut().find(|c| c.name == name);
        base.or_else(|| self.user.get_mut(name))
    }

    /// Whether a chain of that name exists.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.chain(name).is_some()
    }

    /// The user-defined chain of that name.
    #[must_use]
    pub fn user_chain(&self, name: &str) -> Option<&Chain> {
        self.user.get(name)
    }

    /// Adds a user-defined chain, replacing one of the same name.
    pub fn insert(&mut self, chain: Chain) {
        self.user.insert(chain.name.clone(), chain);
    }

    /// Takes a user-defined chain out.
    pub fn remove(&mut self, name: &str) -> Option<Chain> {
        self.user.remove(name)
    }

    /// Drops all user-defined chains and all rules.
    pub fn clear(&mut self) {
        self.user.clear();
        self.base.iter_mut().for_each(|c| c.rules.clear());
    }

    /// A copy after [`Table::clear`].
    #[must_use]
    pub fn emptied(&self) -> Self {
        let base = self.base.iter().map(|chain| Chain {
            name: chain.name.clone(),
            base: chain.base,
            rules: Vec::new(),
        });
        Table {
            kind: self.kind,
            base: base.collect(),
            user: BTreeMap::new(),
        }
    }

    /// How many rules jump or go to each chain.
    #[must_use]
    pub fn references(&self) -> BTreeMap<&str, u32> {
        let mut count = BTreeMap::new();
        for rule in self.chains().flat_map(|c| &c.rules) {
            if let Target::Chain { name, .. } = &rule.spec.target {
                *count.entry(name.as_str()).or_default() += 1;
            }
        }
        count
    }
}

/// All tables of one address family.
#[derive(Clone, Debug)]
pub struct Ruleset {
    /// The family.
    pub family: Family,
    /// Tables in the order save prints them. A table exists once something used it.
    pub tables: Vec<Table>,
    /// Whether connections can be tracked here. Where they cannot, there is no nat table,
    /// and rules that need them are refused, as by a kernel built without `nf_conntrack`.
    pub has_conntrack: bool,
    /// Timeout policies that rules can name.
    pub timeouts: Vec<TimeoutPolicy>,
}

impl Ruleset {
    /// No tables: everything passes.
    #[must_use]
    pub const fn empty(family: Family) -> Self {
        Ruleset {
            family,
            tables: Vec::new(),
            has_conntrack: true,
            timeouts: Vec::new(),
        }
    }

    /// Whether there can be such a table.
    #[must_use]
    pub fn offers(&self, kind: TableKind) -> bool {
        self.has_conntrack || kind != TableKind::Nat
    }

    /// The table, if something has used it.
    #[must_use]
    pub fn table(&self, kind: TableKind) -> Option<&Table> {
        self.tables.iter().find(|t| t.kind == kind)
    }

    /// The table, made on first use. A new one is printed before the others, as the
    /// kernel does (`xt_register_table`).
    pub fn table_mut(&mut self, kind: TableKind) -> &mut Table {
        let at = self.position(kind).unwrap_or_else(|| {
            self.tables.insert(0, Table::new(kind));
            0
        });
        &mut self.tables[at]
    }

    /// All counters in the order of their numbers: over tables in packet order, chains
    /// in listing order, rules in order, then the chain's policy.
    pub fn slots_mut(&mut self) -> Vec<Slot<'_>> {
        let mut tables: Vec<&mut Table> = self.tables.iter_mut().collect();
        tables.sort_by_key(|t| t.kind);
        let mut slots = Vec::new();
        for table in tables {
            let kind = table.kind;
            for chain in table.chains_mut() {
                slots.extend(chain.rules.iter_mut().map(|r| Slot {
                    table: kind,
                    counters: &mut r.counters,
                    was: &mut r.was,
                }));
                slots.extend(chain.base.as_mut().map(|b| Slot {
                    table: kind,
                    counters: &mut b.counters,
                    was: &mut b.was,
                }));
            }
        }
        slots
    }

    /// Index of the table in [`Ruleset::tables`].
    #[must_use]
    pub fn position(&self, kind: TableKind) -> Option<usize> {
        self.tables.iter().position(|t| t.kind == kind)
    }
}
