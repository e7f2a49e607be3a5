//! Everything that sysctls and module parameters set.

use crate::event::event_mode;
use crate::helper::{HelperKind, HelperSettings};
use crate::nat::blocks::{BindingLog, BlockSettings};
use crate::policy::Policies;
use alloc::vec::Vec;

/// Index of the retransmission limit's timeout in [`Timeouts::tcp`].
pub const TCP_MAX_RETRANS: usize = 10;
/// Index of the unacknowledged-data timeout in [`Timeouts::tcp`].
pub const TCP_UNACKNOWLEDGED: usize = 11;

/// Timeouts in seconds (`nf_conntrack_*_timeout*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// By [`crate::entry::TcpConn`] number, then [`TCP_MAX_RETRANS`] and [`TCP_UNACKNOWLEDGED`].
    pub tcp: [u32; 12],
    /// UDP before and after the two-second rule, UDPlite before and after a reply.
    pub udp: [u32; 2],
    /// SCTP by [`crate::entry::SctpConn`] number.
    pub sctp: [u32; 9],
    /// ICMP.
    pub icmp: u32,
    /// ICMPv6.
    pub icmpv6: u32,
    /// GRE before and after a reply.
    pub gre: [u32; 2],
    /// Protocols without a tracker.
    pub generic: u32,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp: [0, 120, 60, 432_000, 120, 60, 30, 120, 10, 120, 300, 300],
            udp: [30, 120],
            sctp: [0, 10, 3, 3, 210, 3, 3, 3, 30],
            icmp: 30,
            icmpv6: 30,
            gre: [30, 180],
            generic: 600,
        }
    }
}

/// Automatic helper assignment: connections to `port` get `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelperPort {
    /// The helper.
    pub kind: HelperKind,
    /// Transport protocol number.
    pub proto: u8,
    /// Server port.
    pub port: u16,
}

/// Settings of a [`crate::Conntrack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most entries, unconfirmed ones included (`nf_conntrack_max`); 0 is unlimited.
    pub max: u32,
    /// Hash buckets (`nf_conntrack_buckets`); at least 1.
    pub buckets: u32,
    /// Most expectations (`nf_conntrack_expect_max`).
    pub expect_max: u32,
    /// Key of the table hash; take it from a good random source.
    pub hash_key: [u8; 16],
    /// Seed for port choice and chain limits.
    pub seed: u64,
    /// Count packets and bytes of new entries (`nf_conntrack_acct`).
    pub acct: bool,
    /// Stamp new entries (`nf_conntrack_timestamp`).
    pub timestamp: bool,
    /// Verify transport checksums in PREROUTING (`nf_conntrack_checksum`).
    pub checksum: bool,
    /// Record events: somebody listens.
    pub events: bool,
    /// About which entries (`nf_conntrack_events`, [`crate::event::event_mode`]).
    pub events_mode: u8,
    /// Which invalid packets are to be logged: 0 none, 255 all, else those of this
    /// protocol (`nf_conntrack_log_invalid`). The caller logs.
    pub log_invalid: u8,
    /// Pick up TCP connections in mid-stream (`nf_conntrack_tcp_loose`).
    pub tcp_loose: bool,
    /// Never call a segment out of window (`nf_conntrack_tcp_be_liberal`).
    pub tcp_be_liberal: bool,
    /// Let resets below the acknowledged number pass (`nf_conntrack_tcp_ignore_invalid_rst`).
    pub tcp_ignore_invalid_rst: bool,
    /// Identical ACKs after which the short timeout applies (`nf_conntrack_tcp_max_retrans`).
    pub tcp_max_retrans: u8,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Timeouts for some connections only.
    pub policies: Policies,
    /// Automatic helper assignment (as `nf_conntrack_helper=1` did); empty by default.
    pub helpers: Vec<HelperPort>,
    /// Source ports that translation gives away by the block; read when connections are
    /// made, and not to be changed while there are translated ones.
    pub blocks: BlockSettings,
    /// Which bindings are told.
    pub binding_log: BindingLog,
    /// What parameters of helpers' modules set.
    pub helper: HelperSettings,
    /// Most timers, entries and chains of buckets that one [`crate::Conntrack::handle_timeout`], and
    /// so one packet, looks at; 0 is unlimited. What is left then waits for the next one:
    /// entries may stay in the table, and count, a little longer than they live, though no
    /// packet meets them any more and no listing shows them.
    pub at_once: u32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max: 262_144,
            buckets: 262_144,
            expect_max: 4096,
            hash_key: [0; 16],
            seed: 0,
            acct: false,
            timestamp: false,
            checksum: true,
            events: false,
            events_mode: event_mode::LISTENED,
            log_invalid: 0,
            tcp_loose: true,
            tcp_be_liberal: false,
            tcp_ignore_invalid_rst: false,
            tcp_max_retrans: 3,
            timeouts: Timeouts::default(),
            policies: Policies::default(),
            helpers: Vec::new(),
            blocks: BlockSettings::default(),
            binding_log: BindingLog::default(),
            helper: HelperSettings::default(),
            at_once: 0,
        }
    }
}
