//! What the ingress program takes for a packet of a known flow, without the kernel's part
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

use fast::TCX;
use make::{ACK, SYN, Tcp, Way};
use tidegate_conntrack::{Dir, Family};
use tidegate_ebpf::layout::{self, Fate, Goes, Hook};
use twin::{Ends, PLACE, Twin, frame, set_path};

const ROUNDS: u32 = 1_000_000;
/// `TCX_PASS`
const PASS: i32 = 0;

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

/// Repeated runs get the packet as the run before left it, so it must stay as it is: it
/// goes its own way, is neither translated nor one hop further. Nobody has verified its
/// checksum, as behind a card without offloads.
fn measure(what: &str, opening: &[Vec<u8>], packet: &[u8], ends: &Ends) {
    let mut twin = Twin::new(TCX, opening, ends);
    let mut gate = twin.fast.gate(PLACE);
    for (dir, way) in Dir::BOTH.into_iter().zip(twin.ways()) {
        let way = layout::Way {
            goes: Goes::On,
            hop: None,
            early: None,
            ..way.unwrap()
        };
        set_path(&mut gate, (Hook::Ingress, dir), &way);
    }
    twin.fast.set_gate(PLACE, gate);
    let frame = frame(packet);
    assert_eq!(twin.fast.run(&frame).0, PASS);
    let times = (0..5).map(|_| twin.fast.time(&frame, ROUNDS));
    println!("| {what} | {} ns |", times.min().unwrap());
    assert!(twin.fast.fate(Fate::Passed) > u64::from(ROUNDS));
}

fn main() {
    if !fast::allowed() {
        return;
    }
    println!("| packet | program, best of five |\n|---|---|");
    let [there, back] = ways(&PLAIN);
    let udp = [there.udp(b"q"), back.udp(b"a"), there.udp(b"q")];
    for payload in [18, 1400] {
        let packet = there.udp(&vec![0; payload]);
        measure(&format!("UDP, {payload} bytes"), &udp, &packet, &PLAIN);
    }
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
        measure(&format!("TCP, {payload} bytes"), &tcp, &packet, &PLAIN);
    }
}
