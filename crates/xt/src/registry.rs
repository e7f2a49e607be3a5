//! All extensions, and lookups by name.

use tidegate_wire::{Family, proto};

use crate::{Extension, Lower, matches, targets};

/// Every extension.
pub static ALL: &[&Extension] = &[
    &matches::comment::COMMENT,
    &matches::tcp::TCP,
    &targets::log::LOG,
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
