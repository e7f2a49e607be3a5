//! What the ingress program takes for a packet that it sends on, without the kernel's part
//! before and after it: `cargo bench -p tidegate-ebpf --bench program`. Needs root.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/kernel/fast.rs"]
mod fast;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/kernel/make.rs"]
mod make;
#[allow(dead_code, reason = "shared with the tests")]
#[path = "../../tests/kernel/twin.rs"]
mod twin;

use make::{ACK, SYN, Tcp, Way};
use tidegate_conntrack::Family;
use twin::{Ends, SENT_ON, Twin, frame};

const ROUNDS: u32 = 1_000_000;

const PLAIN: Ends = Ends {
    client: (0x0a00_0002, 40_000),
    server: (0x0a00_0102, 5000),
    outside: None,
};

fn ways(ends: &Ends) -> [Way; 2] {
    let way = |src, dst| Way {
        family: Family::V4,
        src,
        dst,
    };
    let outside = ends.outside.unwrap_or(ends.client);
    [way(ends.client, ends.server), way(ends.server, outside)]
}

/// The answers are measured: that a program's repeated runs get the same packet again
/// matters to neither translation nor windows then.
fn measure(what: &str, opening: &[Vec<u8>], packet: &[u8], ends: &Ends) {
    let mut twin = Twin::new(opening, ends);
    let frame = frame(packet);
    assert_eq!(twin.fast.run(&frame).0, SENT_ON);
    let mut best = u64::MAX;
    for _ in 0..5 {
        best = best.min(twin.fast.time(&frame, ROUNDS));
    }
    println!("| {what} | {best} ns |");
}

fn main() {
    let root = std::fs::read("/proc/1/environ").is_ok();
    if !root {
        eprintln!("SKIPPED: programs can be loaded by root only");
        return;
    }
    println!("| packet | program, best of five |\n|---|---|");
    let translated = Ends {
        outside: Some((0xcb00_7164, 61_234)),
        ..PLAIN
    };
    for (name, ends) in [("", &PLAIN), (", translated", &translated)] {
        let [there, back] = ways(ends);
        let udp = [there.udp(b"q"), back.udp(b"a"), there.udp(b"q")];
        measure(
            &format!("UDP, 18 bytes{name}"),
            &udp,
            &there.udp(&[0; 18]),
            ends,
        );
        let segment = |flags, seq, ack, payload| Tcp {
            flags,
            seq,
            ack,
            window: 64_000,
            options: &[],
            payload,
        };
        let tcp = [
            there.tcp(&segment(SYN, 0, 0, 0)),
            back.tcp(&segment(SYN | ACK, 0, 1, 0)),
            there.tcp(&segment(ACK, 1, 1, 0)),
        ];
        for payload in [0, 1400] {
            let packet = there.tcp(&segment(ACK, 1, 1, payload));
            measure(&format!("TCP, {payload} bytes{name}"), &tcp, &packet, ends);
        }
    }
}
