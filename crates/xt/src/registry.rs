//! All extensions, and lookups by name.

use tidegate_wire::{Family, proto};

use crate::{Extension, Lower, matches, targets};

/// Every extension.
pub static ALL: &[&Extension] = &[
    &matches::addrtype::ADDRTYPE,
    &matches::comment::COMMENT,
    &matches::connmark::CONNMARK,
    &matches::conntrack::CONNTRACK,
    &matches::dscp::DSCP,
    &matches::hl::HL,
    &matches::icmp::ICMP,
    &matches::icmp6::ICMP6,
    &matches::iprange::IPRANGE,
    &matches::length::LENGTH,
    &matches::limit::LIMIT,
    &matches::mark::MARK,
    &matches::multiport::MULTIPORT,
    &matches::state::STATE,
    &matches::statistic::STATISTIC,
    &matches::tcp::TCP,
    &matches::tos::TOS,
    &matches::ttl::TTL,
    &matches::udp::UDP,
    &targets::ct::CT,
    &targets::connmark::CONNMARK,
    &targets::dnat::DNAT,
    &targets::dscp::DSCP,
    &targets::hl::HL,
    &targets::log::LOG,
    &targets::mark::MARK,
    &targets::masquerade::MASQUERADE,
    &targets::nflog::NFLOG,
    &targets::notrack::NOTRACK,
    &targets::redirect::REDIRECT,
    &targets::reject::REJECT,
    &targets::reject::REJECT6,
    &targets::snat::SNAT,
    &targets::standard::ACCEPT,
    &targets::standard::DROP,
    &targets::standard::RETURN,
    &targets::tcpmss::TCPMSS,
    &targets::tos::TOS,
    &targets::ttl::TTL,
];

fn find(name: &str, family: Family, target: bool) -> Option<&'static Extension> {
    ALL.iter().copied().find(|e| {
        e.name == name
            && e.families.contains(family)
            && matches!(e.lower, Lower::Target(_)) == target
    })
}

/// The match of that name.
#[must_use]
pub fn find_match(name: &str, family: Family) -> Option<&'static Extension> {
    find(name, family, false)
}

/// The target of that name.
#[must_use]
pub fn find_target(name: &str, family: Family) -> Option<&'static Extension> {
    find(name, family, true)
}

/// The match whose options `-p PROTO` makes available without `-m`.
#[must_use]
pub fn protocol_match(number: u8, family: Family) -> Option<&'static Extension> {
    let name = match (number, family) {
        (proto::TCP, _) => "tcp",
        (proto::UDP, _) => "udp",
        (proto::ICMP, Family::V4) => "icmp",
        (proto::ICMPV6, Family::V6) => "icmp6",
        _ => return None,
    };
    find_match(name, family)
}
