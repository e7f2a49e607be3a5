//! The helpers there are, and what is known about each.

use crate::Family;
use crate::expect::ExpectPolicy;
use tidegate_wire::proto;

/// The helpers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelperKind {
    /// FTP control connections (RFC 959, RFC 2428).
    Ftp,
    /// TFTP requests (RFC 1350).
    Tftp,
    /// IRC clients that offer DCC connections.
    Irc,
    /// NetBIOS name queries by broadcast (RFC 1002).
    NetbiosNs,
    /// SNMP queries by broadcast; addresses in translated messages.
    Snmp,
    /// Addresses in translated SNMP traps.
    SnmpTrap,
    /// Amanda backup servers.
    Amanda,
    /// Scanners over the network (SANE).
    Sane,
    /// PPTP tunnels (RFC 2637).
    Pptp,
    /// Telephony (SIP, RFC 3261).
    Sip,
    /// Gatekeepers of H.323 (ITU-T H.225.0, RAS).
    Ras,
    /// Calls of H.323 (ITU-T Q.931, H.225.0).
    Q931,
    /// Control of an H.323 call on a connection of its own (ITU-T H.245).
    H245,
}

/// What is known about a helper.
struct Facts {
    kind: HelperKind,
    name: &'static str,
    /// Transport protocols it reads.
    protocols: &'static [u8],
    /// It reads IPv6 as well.
    v6: bool,
    /// Where its servers usually listen.
    port: u16,
    /// Limits of its classes of expectations.
    policies: &'static [ExpectPolicy],
}

const fn policy(max: u8, timeout: u32) -> ExpectPolicy {
    ExpectPolicy { max, timeout }
}

/// Records of connections know helpers by their place here: new ones come last.
#[rustfmt::skip]
const FACTS: &[Facts] = {
    use HelperKind::{Amanda, Ftp, H245, Irc, NetbiosNs, Pptp, Q931, Ras, Sane, Sip, Snmp, SnmpTrap, Tftp};
    const TCP: &[u8] = &[proto::TCP];
    const UDP: &[u8] = &[proto::UDP];
    const BOTH: &[u8] = &[proto::UDP, proto::TCP];
    const ONE: &[ExpectPolicy] = &[policy(1, 300)];
    // Signalling, audio, video, images.
    const CALLS: &[ExpectPolicy] = &[policy(1, 180), policy(4, 180), policy(4, 180), policy(2, 180)];
    &[
        Facts { kind: Ftp, name: "ftp", protocols: TCP, v6: true, port: 21, policies: ONE },
        Facts { kind: Tftp, name: "tftp", protocols: UDP, v6: true, port: 69, policies: ONE },
        Facts { kind: Irc, name: "irc", protocols: TCP, v6: false, port: 6667, policies: &[policy(8, 300)] },
        Facts { kind: NetbiosNs, name: "netbios-ns", protocols: UDP, v6: false, port: 137, policies: &[policy(1, 3)] },
        Facts { kind: Snmp, name: "snmp", protocols: UDP, v6: false, port: 161, policies: &[policy(1, 30)] },
        Facts { kind: SnmpTrap, name: "snmp_trap", protocols: UDP, v6: false, port: 162, policies: &[policy(0, 30)] },
        Facts { kind: Amanda, name: "amanda", protocols: UDP, v6: true, port: 10080, policies: &[policy(4, 180)] },
        Facts { kind: Sane, name: "sane", protocols: TCP, v6: true, port: 6566, policies: ONE },
        Facts { kind: Pptp, name: "pptp", protocols: TCP, v6: false, port: 1723, policies: &[policy(2, 300)] },
        Facts { kind: Sip, name: "sip", protocols: BOTH, v6: true, port: 5060, policies: CALLS },
        Facts { kind: Ras, name: "RAS", protocols: UDP, v6: true, port: 1719, policies: &[policy(32, 240)] },
        Facts { kind: Q931, name: "Q.931", protocols: TCP, v6: true, port: 1720, policies: &[policy(20, 240)] },
        // Its connections are announced; it has no port of its own.
        Facts { kind: H245, name: "H.245", protocols: TCP, v6: true, port: 0, policies: &[policy(18, 240)] },
    ]
};

impl HelperKind {
    /// All of them.
    pub fn all() -> impl Iterator<Item = HelperKind> {
        FACTS.iter().map(|f| f.kind)
    }

    fn facts(self) -> &'static Facts {
        const { assert!(!FACTS.is_empty()) };
        FACTS.iter().find(|f| f.kind == self).unwrap_or(&FACTS[0])
    }

    /// Name used by `-j CT --helper` and in listings.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The helper called `name`.
    #[must_use]
    pub fn by_name(name: &str) -> Option<HelperKind> {
        HelperKind::all().find(|h| h.name() == name)
    }

    /// Whether it reads connections of this protocol and family.
    #[must_use]
    pub fn serves(self, family: Family, protocol: u8) -> bool {
        let facts = self.facts();
        facts.protocols.contains(&protocol) && (facts.v6 || family == Family::V4)
    }

    /// Transport protocols it reads.
    #[must_use]
    pub fn protocols(self) -> &'static [u8] {
        self.facts().protocols
    }

    /// Port that its servers usually listen on.
    #[must_use]
    pub fn port(self) -> u16 {
        self.facts().port
    }

    /// What a class of its expectations is called, if it has several.
    #[must_use]
    pub fn class_name(self, class: u8) -> Option<&'static str> {
        const SIP: [&str; 4] = ["signalling", "audio", "video", "image"];
        let name = SIP.get(usize::from(class)).copied();
        name.filter(|_| self == HelperKind::Sip)
    }

    /// Limits of a class of its expectations.
    #[must_use]
    pub fn policy(self, class: u8) -> ExpectPolicy {
        let policies = self.facts().policies;
        let found = policies.get(usize::from(class)).or(policies.first());
        found.copied().unwrap_or(policy(1, 300))
    }
}
