//! The settings called `net.netfilter.nf_conntrack_*`: one table of their names, what
//! values they take and where they are kept (`nf_conntrack_standalone`; Linux 6.18).

use crate::Conntrack;
use crate::config::{Config, TCP_MAX_RETRANS, TCP_UNACKNOWLEDGED};
use crate::entry::{SctpConn, TcpConn};
use core::fmt;

/// What all names here begin with.
pub const PREFIX: &str = "net.netfilter.nf_conntrack_";

/// Longest timeout in seconds: `INT_MAX` ticks of a kernel with 250 a second.
pub const LONGEST: u32 = 8_589_934;

/// Where a setting is kept.
#[derive(Clone, Copy)]
enum Place {
    /// On or off.
    Flag(fn(&mut Config) -> &mut bool),
    /// A small number up to this.
    Small(u8, fn(&mut Config) -> &mut u8),
    /// A number from this on, as large as a C `int`.
    Number(u32, fn(&mut Config) -> &mut u32),
    /// Seconds.
    Timeout(fn(&mut Config) -> &mut u32),
    /// Buckets of the table, which is spread anew.
    Buckets,
    /// Entries there are.
    Count,
}

/// One setting.
#[derive(Clone, Copy)]
pub struct Sysctl {
    /// Its name after [`PREFIX`].
    pub name: &'static str,
    place: Place,
}

/// Why a value was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The setting only tells.
    ReadOnly,
    /// It is no number, or outside the range.
    Invalid,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::ReadOnly => "Permission denied",
            Refused::Invalid => "Invalid argument",
        })
    }
}

impl core::error::Error for Refused {}

const fn at(name: &'static str, place: Place) -> Sysctl {
    Sysctl { name, place }
}

macro_rules! tcp {
    ($name:literal, $index:expr) => {
        at(
            $name,
            Place::Timeout(|c| &mut c.timeouts.tcp[$index as usize]),
        )
    };
}

macro_rules! sctp {
    ($name:literal, $state:ident) => {
        at(
            $name,
            Place::Timeout(|c| &mut c.timeouts.sctp[SctpConn::$state as usize]),
        )
    };
}

/// All settings, by name.
pub const SYSCTLS: [Sysctl; 38] = [
    at("acct", Place::Flag(|c| &mut c.acct)),
    at("buckets", Place::Buckets),
    at("checksum", Place::Flag(|c| &mut c.checksum)),
    at("count", Place::Count),
    at("events", Place::Small(2, |c| &mut c.events_mode)),
    at("expect_max", Place::Number(1, |c| &mut c.expect_max)),
    at(
        "generic_timeout",
        Place::Timeout(|c| &mut c.timeouts.generic),
    ),
    at("gre_timeout", Place::Timeout(|c| &mut c.timeouts.gre[0])),
    at(
        "gre_timeout_stream",
        Place::Timeout(|c| &mut c.timeouts.gre[1]),
    ),
    at("icmp_timeout", Place::Timeout(|c| &mut c.timeouts.icmp)),
    at("icmpv6_timeout", Place::Timeout(|c| &mut c.timeouts.icmpv6)),
    at("log_invalid", Place::Small(255, |c| &mut c.log_invalid)),
    at("max", Place::Number(0, |c| &mut c.max)),
    sctp!("sctp_timeout_closed", Closed),
    sctp!("sctp_timeout_cookie_echoed", CookieEchoed),
    sctp!("sctp_timeout_cookie_wait", CookieWait),
    sctp!("sctp_timeout_established", Established),
    sctp!("sctp_timeout_heartbeat_sent", HeartbeatSent),
    sctp!("sctp_timeout_shutdown_ack_sent", ShutdownAckSent),
    sctp!("sctp_timeout_shutdown_recd", ShutdownRecd),
    sctp!("sctp_timeout_shutdown_sent", ShutdownSent),
    at("tcp_be_liberal", Place::Flag(|c| &mut c.tcp_be_liberal)),
    at(
        "tcp_ignore_invalid_rst",
        Place::Flag(|c| &mut c.tcp_ignore_invalid_rst),
    ),
    at("tcp_loose", Place::Flag(|c| &mut c.tcp_loose)),
    at(
        "tcp_max_retrans",
        Place::Small(255, |c| &mut c.tcp_max_retrans),
    ),
    tcp!("tcp_timeout_close", TcpConn::Close),
    tcp!("tcp_timeout_close_wait", TcpConn::CloseWait),
    tcp!("tcp_timeout_established", TcpConn::Established),
    tcp!("tcp_timeout_fin_wait", TcpConn::FinWait),
    tcp!("tcp_timeout_last_ack", TcpConn::LastAck),
    tcp!("tcp_timeout_max_retrans", TCP_MAX_RETRANS),
    tcp!("tcp_timeout_syn_recv", TcpConn::SynRecv),
    tcp!("tcp_timeout_syn_sent", TcpConn::SynSent),
    tcp!("tcp_timeout_time_wait", TcpConn::TimeWait),
    tcp!("tcp_timeout_unacknowledged", TCP_UNACKNOWLEDGED),
    at("timestamp", Place::Flag(|c| &mut c.timestamp)),
    at("udp_timeout", Place::Timeout(|c| &mut c.timeouts.udp[0])),
    at(
        "udp_timeout_stream",
        Place::Timeout(|c| &mut c.timeouts.udp[1]),
    ),
];

impl Sysctl {
    /// The setting called `name`, with [`PREFIX`] or without.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Sysctl> {
        let name = name.strip_prefix(PREFIX).unwrap_or(name);
        const ALL: &[Sysctl] = &SYSCTLS;
        let found = ALL.binary_search_by(|s| s.name.cmp(name)).ok()?;
        ALL.get(found)
    }

    /// Whether it cannot be set.
    #[must_use]
    pub fn read_only(&self) -> bool {
        matches!(self.place, Place::Count)
    }

    /// Smallest and largest value that can be set.
    #[must_use]
    pub fn range(&self) -> (u32, u32) {
        const INT_MAX: u32 = i32::MAX as u32;
        match self.place {
            Place::Flag(_) => (0, 1),
            Place::Small(most, _) => (0, u32::from(most)),
            Place::Number(least, _) => (least, INT_MAX),
            Place::Timeout(_) => (0, LONGEST),
            // More heads than this would be gigabytes.
            Place::Buckets => (1, 1 << 28),
            Place::Count => (0, INT_MAX),
        }
    }

    /// What it is.
    #[must_use]
    pub fn read(&self, ct: &mut Conntrack) -> u32 {
        let config = &mut ct.config;
        match self.place {
            Place::Flag(place) => u32::from(*place(config)),
            Place::Small(_, place) => u32::from(*place(config)),
            Place::Number(_, place) | Place::Timeout(place) => *place(config),
            Place::Buckets => config.buckets,
            Place::Count => ct.count,
        }
    }

    /// Sets it; as in the kernel, a timeout counts from the next packet on that refreshes
    /// an entry, and what new entries get does not change those there are.
    ///
    /// # Errors
    /// [`Refused`] says why nothing changed.
    pub fn write(&self, ct: &mut Conntrack, value: u32) -> Result<(), Refused> {
        self.check(value)?;
        match self.place {
            Place::Buckets => ct.resize(value),
            _ => self.store(&mut ct.config, value),
        }
        Ok(())
    }

    /// Sets it in settings for a table that is still to be made.
    ///
    /// # Errors
    /// [`Refused`] says why nothing changed.
    pub fn write_config(&self, config: &mut Config, value: u32) -> Result<(), Refused> {
        self.check(value)?;
        self.store(config, value);
        Ok(())
    }

    fn check(&self, value: u32) -> Result<(), Refused> {
        let (least, most) = self.range();
        if self.read_only() {
            return Err(Refused::ReadOnly);
        }
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(Refused::Invalid)
    }

    fn store(&self, config: &mut Config, value: u32) {
        match self.place {
            Place::Flag(place) => *place(config) = value != 0,
            Place::Small(_, place) => *place(config) = u8::try_from(value).unwrap_or(u8::MAX),
            Place::Number(_, place) | Place::Timeout(place) => *place(config) = value,
            Place::Buckets => config.buckets = value,
            Place::Count => {}
        }
    }
}

impl Config {
    /// Sets the sysctl `net.netfilter.nf_conntrack_NAME`; `false` when there is none of
    /// that name here, or the value is none for it.
    pub fn set_sysctl(&mut self, name: &str, value: u32) -> bool {
        Sysctl::by_name(name).is_some_and(|s| s.write_config(self, value).is_ok())
    }
}

/// Reads a value as the kernel does (`proc_get_long`): a number in C's notation, then
/// nothing, or a blank and anything.
///
/// # Errors
/// It is none, or negative.
pub fn parse(text: &str) -> Result<u32, Refused> {
    let text = text.trim_start();
    let word = text.split([' ', '\t', '\n']).next().unwrap_or("");
    let (digits, radix) = match word.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&word[2..], 16),
        [b'0', _, ..] => (&word[1..], 8),
        _ => (word, 10),
    };
    if digits.starts_with('+') {
        return Err(Refused::Invalid);
    }
    u32::from_str_radix(digits, radix).map_err(|_| Refused::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn names_are_in_order() {
        let names: Vec<&str> = SYSCTLS.iter().map(|s| s.name).collect();
        assert!(names.is_sorted());
        assert!(Sysctl::by_name("net.netfilter.nf_conntrack_max").is_some());
        assert!(Sysctl::by_name("helper").is_none());
    }

    /// As `sysctl -w` on Linux 6.18 took and refused them.
    #[test]
    fn values_are_taken_as_the_kernel_takes_them() {
        let mut ct = Conntrack::new(Config::default());
        for (name, text, wanted) in [
            ("tcp_loose", "0", Ok(0)),
            ("tcp_loose", "1 2", Ok(1)),
            ("tcp_loose", "0x1", Ok(1)),
            ("tcp_loose", "2", Err(Refused::Invalid)),
            ("tcp_loose", "010", Err(Refused::Invalid)),
            ("tcp_loose", "-1", Err(Refused::Invalid)),
            ("tcp_loose", "", Err(Refused::Invalid)),
            ("tcp_loose", "1x", Err(Refused::Invalid)),
            ("events", "3", Err(Refused::Invalid)),
            ("log_invalid", "255", Ok(255)),
            ("log_invalid", "256", Err(Refused::Invalid)),
            ("tcp_max_retrans", "255", Ok(255)),
            ("checksum", "255", Err(Refused::Invalid)),
            ("udp_timeout", "0", Ok(0)),
            ("udp_timeout", "8589934", Ok(8_589_934)),
            ("udp_timeout", "8589935", Err(Refused::Invalid)),
            ("udp_timeout", "4294967296", Err(Refused::Invalid)),
            ("udp_timeout", "0x10", Ok(16)),
            ("gre_timeout", " 5 ", Ok(5)),
            ("count", "5", Err(Refused::ReadOnly)),
        ] {
            let sysctl = Sysctl::by_name(name).unwrap();
            let done = parse(text).and_then(|v| sysctl.write(&mut ct, v));
            assert_eq!(done.map(|()| sysctl.read(&mut ct)), wanted, "{name}={text}");
        }
    }

    #[test]
    fn buckets_are_whole_pages_and_entries_stay_found() {
        let mut ct = Conntrack::new(Config::default());
        let buckets = Sysctl::by_name("buckets").unwrap();
        for (wish, wanted) in [(1, 512), (513, 1024), (5000, 5120)] {
            buckets.write(&mut ct, wish).unwrap();
            assert_eq!(buckets.read(&mut ct), wanted);
        }
    }
}
