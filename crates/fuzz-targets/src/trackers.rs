//! Packets of every protocol with a tracker of its own between few hosts.

use tidegate_conntrack::{Config, HelperKind, NatRange};
use tidegate_wire::{Family, proto};

use crate::gate::Gate;
use crate::input::Input;
use crate::packets::{Ends, ICMP_CHECK, TCP_CHECK, UDP_CHECK, packet};

const MAX_ENTRIES: u32 = 10;
/// Ports and ids there are, so that packets meet.
const IDS: [u16; 4] = [1, 2, 80, 0xffff];
/// Hosts there are, in both families' low bits.
const HOSTS: [u128; 3] = [2, 3, 4];

/// A protocol, and where the checksum is that its tracker verifies.
const PROTOCOLS: [(u8, Option<usize>); 10] = [
    (proto::TCP, Some(TCP_CHECK)),
    (proto::UDP, Some(UDP_CHECK)),
    (proto::UDPLITE, None),
    (proto::SCTP, None),
    (proto::DCCP, None),
    (proto::GRE, None),
    (proto::ICMP, Some(ICMP_CHECK)),
    (proto::ICMPV6, Some(ICMP_CHECK)),
    (proto::ESP, None),
    (200, None),
];

/// Whatever a tracker reads, it keeps its books: entries stay within the limit, every one
/// of them ends, packets that pass stay well-formed, and errors quote what is tracked or
/// are nobody's.
pub fn trackers(data: &[u8]) {
    let mut input = Input::new(data);
    let options = input.byte();
    let family = if options & 1 == 0 {
        Family::V4
    } else {
        Family::V6
    };
    let mut gate = Gate::new(Config {
        max: MAX_ENTRIES,
        buckets: 16,
        expect_max: 4,
        events: true,
        acct: options & 2 != 0,
        timestamp: options & 4 != 0,
        checksum: options & 8 != 0,
        ..Config::default()
    });
    gate.snat = (options & 16 != 0).then(|| NatRange::address(host(family, 9)));
    gate.dnat = (options & 32 != 0).then(|| NatRange::address(host(family, HOSTS[1])));
    gate.helper = (options & 64 != 0).then_some(HelperKind::Pptp);
    let mut last = Vec::new();
    while !input.is_empty() {
        step(&mut gate, family, &mut input, &mut last);
        gate.bounded();
    }
    gate.end();
}

fn host(family: Family, number: u128) -> u128 {
    match family {
        Family::V4 => 0x0a00_0000 + number,
        Family::V6 => 0xfd00_0000_0000_0000_0000_0000_0000_0000 + number,
    }
}

fn step(gate: &mut Gate, family: Family, input: &mut Input<'_>, last: &mut Vec<u8>) {
    let op = input.byte();
    if op & 0xe0 == 0xe0 {
        return gate.wait(input.half());
    }
    let (mut src, mut dst) = (input.pick(&HOSTS), input.pick(&HOSTS));
    if op & 0x10 != 0 {
        std::mem::swap(&mut src, &mut dst);
    }
    let (protocol, check) = PROTOCOLS[usize::from(op & 0x0f) % PROTOCOLS.len()];
    let l4 = match protocol {
        proto::ICMP | proto::ICMPV6 if op & 0x20 != 0 => error(input, last),
        _ => {
            let mut l4 = header(protocol, input);
            let len = usize::from(input.byte());
            l4.extend(input.take(len));
            l4
        }
    };
    let ends = Ends {
        family,
        src: host(family, src),
        dst: host(family, dst),
    };
    // Some arrive damaged.
    let check = check.filter(|_| op & 0x40 == 0);
    *last = packet(ends, protocol, l4, check);
    if let Ok(passed) = gate.pass(last.clone()) {
        *last = passed;
    }
}

/// The first bytes of a transport header: ports or ids that others use too.
fn header(protocol: u8, input: &mut Input<'_>) -> Vec<u8> {
    let ids = [input.pick(&IDS), input.pick(&IDS)].map(u16::to_be_bytes);
    match protocol {
        proto::ICMP | proto::ICMPV6 => {
            let echo = if protocol == proto::ICMP {
                [8, 0]
            } else {
                [128, 129]
            };
            let mut l4 = vec![input.pick(&[echo[0], echo[1], 13, 14, 135]), 0, 0, 0];
            l4.extend(ids[0]);
            l4
        }
        proto::GRE => {
            let mut l4 = vec![input.byte(), input.byte(), 0x88, 0x0b, 0, 0];
            l4.extend(ids[0]);
            l4
        }
        _ => ids.concat(),
    }
}

/// An ICMP error about the packet that passed last.
fn error(input: &mut Input<'_>, last: &[u8]) -> Vec<u8> {
    let mut l4 = vec![
        input.pick(&[3, 4, 5, 11, 12, 1, 2]),
        input.byte() & 15,
        0,
        0,
    ];
    l4.extend(input.word().to_be_bytes());
    let cut = usize::from(input.byte()).max(20);
    l4.extend(&last[..last.len().min(cut)]);
    l4
}
