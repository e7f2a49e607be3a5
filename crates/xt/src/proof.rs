//! Cases and vectors: what proves an extension.

use tidegate_ir::{Field, Hook, TableKind};
use tidegate_wire::Family;

/// A rule and how it is saved, like a line of the iptables test suite.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Family.
    pub family: Family,
    /// Where the rule stands.
    pub place: (TableKind, Hook),
    /// The rule without chain.
    pub rule: &'static str,
    /// What becomes of it.
    pub expect: Expect,
}

/// Expected outcome of a [`Case`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Saved as given.
    Same,
    /// Saved like this.
    Saved(&'static str),
    /// Refused by the tool or the kernel.
    Fail,
}

impl Case {
    const fn new(rule: &'static str, expect: Expect) -> Self {
        Case {
            family: Family::V4,
            place: (TableKind::Filter, Hook::Input),
            rule,
            expect,
        }
    }

    /// The same with IPv6.
    #[must_use]
    pub const fn v6(mut self) -> Self {
        self.family = Family::V6;
        self
    }

    /// The same elsewhere.
    #[must_use]
    pub const fn at(mut self, table: TableKind, hook: Hook) -> Self {
        self.place = (table, hook);
        self
    }
}

/// A rule that is saved as given.
#[must_use]
pub const fn ok(rule: &'static str) -> Case {
    Case::new(rule, Expect::Same)
}

/// A rule that is saved in another form.
#[must_use]
pub const fn saved(rule: &'static str, form: &'static str) -> Case {
    Case::new(rule, Expect::Saved(form))
}

/// A rule that is refused.
#[must_use]
pub const fn bad(rule: &'static str) -> Case {
    Case::new(rule, Expect::Fail)
}

/// A packet and what a rule says about it.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    /// The rule without chain and target.
    pub rule: &'static str,
    /// The network packet in hexadecimal; blanks are ignored.
    pub packet: &'static str,
    /// Values of fields that are not in the packet.
    pub facts: &'static [(Field, u128)],
    /// What happens.
    pub hit: Hit,
}

/// Expected outcome of a [`Vector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The rule matches.
    Yes,
    /// It does not.
    No,
    /// The packet is dropped on the spot.
    Drop,
}

impl Vector {
    const fn new(rule: &'static str, packet: &'static str, hit: Hit) -> Self {
        Vector {
            rule,
            packet,
            facts: &[],
            hit,
        }
    }

    /// The same with these values of fields outside the packet.
    #[must_use]
    pub const fn with(mut self, facts: &'static [(Field, u128)]) -> Self {
        self.facts = facts;
        self
    }
}

/// A rule that matches the packet.
#[must_use]
pub const fn yes(rule: &'static str, packet: &'static str) -> Vector {
    Vector::new(rule, packet, Hit::Yes)
}

/// A rule that does not match the packet.
#[must_use]
pub const fn no(rule: &'static str, packet: &'static str) -> Vector {
    Vector::new(rule, packet, Hit::No)
}

/// A rule that drops the packet on the spot.
#[must_use]
pub const fn dropped(rule: &'static str, packet: &'static str) -> Vector {
    Vector::new(rule, packet, Hit::Drop)
}
