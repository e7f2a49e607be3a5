//! Timeout policies: timeouts of their own for the connections that a rule picks
//! (`nf_conntrack_timeout`, `nfnetlink_cttimeout`).

use crate::Family;
use crate::config::{Config, TCP_MAX_RETRANS, TCP_UNACKNOWLEDGED, Timeouts};
use crate::entry::{Entry, SctpConn, TcpConn};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use tidegate_wire::proto;

/// Stands for all protocols without a tracker (`nf_conntrack_l4proto_generic`).
pub const GENERIC: u8 = 255;
/// Bytes that a policy's name may have (`CTNL_TIMEOUT_NAME_MAX`, less the final NUL).
pub const NAME_MAX: usize = 31;
/// Most policies there may be.
pub const POLICIES_MAX: usize = 1024;

/// Names one policy; after its end it names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyId(u32);

/// Timeouts for connections of one protocol and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What rules call it.
    pub name: String,
    /// Family of its connections.
    pub family: Family,
    /// Their protocol, or [`GENERIC`].
    pub proto: u8,
    /// Only those of its protocol count.
    pub timeouts: Timeouts,
}

/// A protocol whose timeouts can be set.
#[derive(Debug)]
pub struct Protocol {
    /// Its number, or [`GENERIC`].
    pub number: u8,
    /// Its name as the tool knows it.
    pub name: &'static str,
    /// Its states in the order of listings.
    pub states: &'static [State],
}

/// A state and the place of its timeout.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Name, in capitals.
    pub name: &'static str,
    place: fn(&mut Timeouts) -> &mut u32,
}

impl State {
    /// The state's timeout, seconds.
    pub fn of<'t>(&self, timeouts: &'t mut Timeouts) -> &'t mut u32 {
        (self.place)(timeouts)
    }
}

const fn state(name: &'static str, place: fn(&mut Timeouts) -> &mut u32) -> State {
    State { name, place }
}

macro_rules! numbered {
    ($list:ident: $($name:literal $index:expr),+ $(,)?) => {
        &[$(state($name, |t| &mut t.$list[$index as usize])),+]
    };
}

const TCP: &[State] = numbered!(tcp:
    "SYN_SENT" TcpConn::SynSent,
    "SYN_RECV" TcpConn::SynRecv,
    "ESTABLISHED" TcpConn::Established,
    "FIN_WAIT" TcpConn::FinWait,
    "CLOSE_WAIT" TcpConn::CloseWait,
    "LAST_ACK" TcpConn::LastAck,
    "TIME_WAIT" TcpConn::TimeWait,
    "CLOSE" TcpConn::Close,
    "SYN_SENT2" TcpConn::SynSent2,
    "RETRANS" TCP_MAX_RETRANS,
    "UNACKNOWLEDGED" TCP_UNACKNOWLEDGED,
);
const SCTP: &[State] = numbered!(sctp:
    "CLOSED" SctpConn::Closed,
    "COOKIE_WAIT" SctpConn::CookieWait,
    "COOKIE_ECHOED" SctpConn::CookieEchoed,
    "ESTABLISHED" SctpConn::Established,
    "SHUTDOWN_SENT" SctpConn::ShutdownSent,
    "SHUTDOWN_RECD" SctpConn::ShutdownRecd,
    "SHUTDOWN_ACK_SENT" SctpConn::ShutdownAckSent,
    "HEARTBEAT_SENT" SctpConn::HeartbeatSent,
);
const UDP: &[State] = numbered!(udp: "UNREPLIED" 0, "REPLIED" 1);
const GRE: &[State] = numbered!(gre: "UNREPLIED" 0, "REPLIED" 1);

/// The protocols, by name.
pub const PROTOCOLS: &[Protocol] = &[
    protocol(GENERIC, "generic", &[state("TIMEOUT", |t| &mut t.generic)]),
    protocol(proto::GRE, "gre", GRE),
    protocol(proto::ICMP, "icmp", &[state("TIMEOUT", |t| &mut t.icmp)]),
    protocol(
        proto::ICMPV6,
        "icmpv6",
        &[state("TIMEOUT", |t| &mut t.icmpv6)],
    ),
    protocol(proto::SCTP, "sctp", SCTP),
    protocol(proto::TCP, "tcp", TCP),
    protocol(proto::UDP, "udp", UDP),
    protocol(proto::UDPLITE, "udplite", UDP),
];

const fn protocol(number: u8, name: &'static str, states: &'static [State]) -> Protocol {
    Protocol {
        number,
        name,
        states,
    }
}

impl Protocol {
    /// The protocol called `name`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<&'static Protocol> {
        PROTOCOLS.iter().find(|p| p.name == name)
    }

    /// The one whose policies connections of a protocol can have
    /// (`nf_ct_l4proto_find`).
    #[must_use]
    pub fn of(number: u8) -> &'static Protocol {
        const { assert!(PROTOCOLS[0].number == GENERIC) };
        let found = PROTOCOLS.iter().find(|p| p.number == number);
        found.unwrap_or(&PROTOCOLS[0])
    }

    /// The state of that name, however it is written.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<&'static State> {
        self.states
            .iter()
            .find(|s| s.name.eq_ignore_ascii_case(name))
    }
}

/// Why there is no such policy now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyError {
    /// There is one of that name already (EBUSY).
    Exists,
    /// The name is empty or too long (EINVAL).
    Name,
    /// There are [`POLICIES_MAX`] (ENOSPC).
    Full,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PolicyError::Exists => "Device or resource busy",
            PolicyError::Name => "Invalid argument",
            PolicyError::Full => "No space left on device",
        })
    }
}

impl core::error::Error for PolicyError {}

/// All policies, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// By growing id.
    list: Vec<(PolicyId, Policy)>,
    made: u32,
}

impl Policies {
    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Policy> {
        self.list.iter().map(|(_, policy)| policy)
    }

    /// The policy of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<(PolicyId, &Policy)> {
        let found = self.list.iter().find(|(_, policy)| policy.name == name);
        found.map(|(id, policy)| (*id, policy))
    }

    /// The policy that `id` names, unless it is gone.
    #[must_use]
    pub fn get(&self, id: PolicyId) -> Option<&Policy> {
        let at = self.list.binary_search_by_key(&id.0, |(id, _)| id.0).ok()?;
        self.list.get(at).map(|(_, policy)| policy)
    }

    /// Adds a policy.
    ///
    /// # Errors
    /// [`PolicyError`] says what stands against it.
    pub fn add(&mut self, policy: Policy) -> Result<(), PolicyError> {
        let sound = policy.name.bytes().all(|b| b > b' ' && b != 0x7f);
        if policy.name.is_empty() || policy.name.len() > NAME_MAX || !sound {
            return Err(PolicyError::Name);
        }
        if self.by_name(&policy.name).is_some() {
            return Err(PolicyError::Exists);
        }
        if self.list.len() >= POLICIES_MAX || self.made == u32::MAX {
            return Err(PolicyError::Full);
        }
        self.made += 1;
        self.list.push((PolicyId(self.made), policy));
        Ok(())
    }

    /// Takes a policy away; its connections get the usual timeouts with their next packets
    /// (`nf_ct_untimeout`). `false` when there is none of that name.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.list.len();
        self.list.retain(|(_, policy)| policy.name != name);
        self.list.len() != before
    }
}

impl Config {
    /// The timeouts that count for an entry (`nf_ct_timeout_lookup`).
    #[inline]
    pub(crate) fn timeouts_of<'c>(&'c self, entry: &Entry) -> &'c Timeouts {
        match &entry.extra {
            None => &self.timeouts,
            Some(extra) => {
                let policy = extra.policy.and_then(|id| self.policies.get(id));
                policy.map_or(&self.timeouts, |p| &p.timeouts)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Policy {
        Policy {
            name: name.into(),
            family: Family::V4,
            proto: proto::TCP,
            timeouts: Timeouts::default(),
        }
    }

    #[test]
    fn a_policy_that_is_gone_is_never_another_one() {
        let mut all = Policies::default();
        all.add(named("a")).unwrap();
        all.add(named("b")).unwrap();
        assert_eq!(all.add(named("a")), Err(PolicyError::Exists));
        let (a, _) = all.by_name("a").unwrap();
        let (b, _) = all.by_name("b").unwrap();
        assert!(all.remove("a"));
        assert!(!all.remove("a"));
        all.add(named("a")).unwrap();
        assert_eq!(all.get(a), None);
        assert_eq!(all.get(b).unwrap().name, "b");
    }

    #[test]
    fn names_have_limits() {
        let mut all = Policies::default();
        for name in ["", "two words", &"x".repeat(32), "new\nline"] {
            assert_eq!(all.add(named(name)), Err(PolicyError::Name), "{name:?}");
        }
        all.add(named(&"x".repeat(31))).unwrap();
    }

    /// `l4proto` of policies as `nfct timeout list` shows them.
    #[test]
    fn protocols_without_a_tracker_share_one() {
        assert_eq!(Protocol::of(89).number, GENERIC);
        assert_eq!(Protocol::of(proto::UDPLITE).name, "udplite");
        assert!(PROTOCOLS.iter().map(|p| p.name).is_sorted());
    }
}
