//! Everything that sysctls and module parameters set.

use crate::entry::{HelperKind, SctpConn, TcpConn};
use alloc::vec::Vec;

/// Index of the retransmission limit's timeout in [`Timeouts::tcp`].
pub const TCP_MAX_RETRANS: usize = 10;
/// Index of the unacknowledged-data timeout in [`Timeouts::tcp`].
pub const TCP_UNACKNOWLEDGED: usize = 11;

/// Timeouts in seconds (`nf_conntrack_*_timeout*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// By [`TcpConn`] number, then [`TCP_MAX_RETRANS`] and [`TCP_UNACKNOWLEDGED`].
    pub tcp: [u32; 12],
    /// UDP before and after the two-second rule, UDPlite before and after a reply.
    pub udp: [u32; 2],
    /// SCTP by [`SctpConn`] number.
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

impl Timeouts {
    /// The timeout called `name`, without the `nf_conntrack_` prefix
    /// (`tcp_timeout_established`, `udp_timeout_stream`, ...), for reading or setting.
    pub fn by_name(&mut self, name: &str) -> Option<&mut u32> {
        let tcp = |state: TcpConn| state as usize;
        let sctp = |state: SctpConn| state as usize;
        Some(match name {
            "tcp_timeout_syn_sent" => &mut self.tcp[tcp(TcpConn::SynSent)],
            "tcp_timeout_syn_recv" => &mut self.tcp[tcp(TcpConn::SynRecv)],
            "tcp_timeout_established" => &mut self.tcp[tcp(TcpConn::Established)],
            "tcp_timeout_fin_wait" => &mut self.tcp[tcp(TcpConn::FinWait)],
            "tcp_timeout_close_wait" => &mut self.tcp[tcp(TcpConn::CloseWait)],
            "tcp_timeout_last_ack" => &mut self.tcp[tcp(TcpConn::LastAck)],
            "tcp_timeout_time_wait" => &mut self.tcp[tcp(TcpConn::TimeWait)],
            "tcp_timeout_close" => &mut self.tcp[tcp(TcpConn::Close)],
            "tcp_timeout_max_retrans" => &mut self.tcp[TCP_MAX_RETRANS],
            "tcp_timeout_unacknowledged" => &mut self.tcp[TCP_UNACKNOWLEDGED],
            "sctp_timeout_closed" => &mut self.sctp[sctp(SctpConn::Closed)],
            "sctp_timeout_cookie_wait" => &mut self.sctp[sctp(SctpConn::CookieWait)],
            "sctp_timeout_cookie_echoed" => &mut self.sctp[sctp(SctpConn::CookieEchoed)],
            "sctp_timeout_established" => &mut self.sctp[sctp(SctpConn::Established)],
            "sctp_timeout_shutdown_sent" => &mut self.sctp[sctp(SctpConn::ShutdownSent)],
            "sctp_timeout_shutdown_recd" => &mut self.sctp[sctp(SctpConn::ShutdownRecd)],
            "sctp_timeout_shutdown_ack_sent" => &mut self.sctp[sctp(SctpConn::ShutdownAckSent)],
            "sctp_timeout_heartbeat_sent" => &mut self.sctp[sctp(SctpConn::HeartbeatSent)],
            "udp_timeout" => &mut self.udp[0],
            "udp_timeout_stream" => &mut self.udp[1],
            "icmp_timeout" => &mut self.icmp,
            "icmpv6_timeout" => &mut self.icmpv6,
            "gre_timeout" => &mut self.gre[0],
            "gre_timeout_stream" => &mut self.gre[1],
            "generic_timeout" => &mut self.generic,
            _ => return None,
        })
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
    /// Whose invalid packets are logged: 0 nobody's, 255 everybody's, else those of the
    /// protocol of this number (`nf_conntrack_log_invalid`). The engine writes the lines.
    pub log_invalid: u8,
    /// Record events.
    pub events: bool,
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
    /// Automatic helper assignment (as `nf_conntrack_helper=1` did); empty by default.
    pub helpers: Vec<HelperPort>,
    /// FTP helper: take announced third-party addresses literally (`loose`).
    pub ftp_loose: bool,
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
            log_invalid: 0,
            events: false,
            tcp_loose: true,
            tcp_be_liberal: false,
            tcp_ignore_invalid_rst: false,
            tcp_max_retrans: 3,
            timeouts: Timeouts::default(),
            helpers: Vec::new(),
            ftp_loose: false,
        }
    }
}

impl Config {
    /// Sets the sysctl `net.netfilter.nf_conntrack_NAME`; `false` when there is none of
    /// that name here.
    pub fn set_sysctl(&mut self, name: &str, value: u32) -> bool {
        let flag = match name {
            "acct" => &mut self.acct,
            "timestamp" => &mut self.timestamp,
            "checksum" => &mut self.checksum,
            "tcp_loose" => &mut self.tcp_loose,
            "tcp_be_liberal" => &mut self.tcp_be_liberal,
            "tcp_ignore_invalid_rst" => &mut self.tcp_ignore_invalid_rst,
            _ => return self.set_number(name, value),
        };
        *flag = value != 0;
        true
    }

    fn set_number(&mut self, name: &str, value: u32) -> bool {
        let number = match name {
            "max" => &mut self.max,
            "buckets" => &mut self.buckets,
            "expect_max" => &mut self.expect_max,
            "tcp_max_retrans" => {
                self.tcp_max_retrans = u8::try_from(value).unwrap_or(u8::MAX);
                return true;
            }
            "log_invalid" => {
                self.log_invalid = u8::try_from(value).unwrap_or(u8::MAX);
                return true;
            }
            _ => match self.timeouts.by_name(name) {
                Some(timeout) => timeout,
                None => return false,
            },
        };
        *number = value;
        true
    }
}
