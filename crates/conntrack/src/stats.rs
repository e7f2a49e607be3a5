//! Counters of `conntrack -S`.

/// Table statistics, named as in `struct ip_conntrack_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// NAT and clash searches that hit.
    pub found: u64,
    /// Packets without transport header, tuple or tracker approval.
    pub invalid: u64,
    /// Entries that packets brought into the table; no part of the kernel's statistics.
    pub created: u64,
    /// Searches for a free port, ICMP id or GRE key that NAT gave up; no part of the
    /// kernel's statistics.
    pub nat_exhausted: u64,
    /// Entries inserted by hand.
    pub insert: u64,
    /// Entries that could not be confirmed.
    pub insert_failed: u64,
    /// Packets dropped.
    pub drop: u64,
    /// Entries evicted from a full table.
    pub early_drop: u64,
    /// ICMP errors and malformed ICMP packets found invalid.
    pub error: u64,
    /// Clashes resolved.
    pub clash_resolve: u64,
    /// Confirmations refused because of a long hash chain.
    pub chaintoolong: u64,
    /// Children created by expectations.
    pub expect_new: u64,
    /// Expectations added.
    pub expect_create: u64,
    /// Expectations removed.
    pub expect_delete: u64,
}
