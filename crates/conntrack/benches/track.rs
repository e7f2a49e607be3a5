//! Cost of tracking: an established TCP segment, and the whole life of a flow.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate_conntrack::config::Config;
use tidegate_conntrack::snapshot::{Snapshot, Writer};
use tidegate_conntrack::{Attached, Conntrack, InHook, SECOND, Tracked};
use tidegate_wire::{checksum, parse, proto};

fn ip(protocol: u8, src: u32, l4: &[u8]) -> Vec<u8> {
    let len = (20 + l4.len()) as u16;
    let mut pkt = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
    pkt.extend(src.to_be_bytes());
    pkt.extend([192, 0, 2, 1]);
    pkt[2..4].copy_from_slice(&len.to_be_bytes());
    checksum::fix_ipv4(&mut pkt);
    pkt.extend(l4);
    pkt
}

fn tcp(src: u32, flags: u8, seq: u32, ack: u32) -> Vec<u8> {
    let mut l4 = [1000u16, 80].map(u16::to_be_bytes).concat();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags, 0x20, 0, 0, 0, 0, 0]);
    ip(proto::TCP, src, &l4)
}

fn track(ct: &mut Conntrack, pkt: &[u8]) -> Option<Attached> {
    let layout = parse(pkt).ok()?;
    match ct.handle_packet(SECOND, pkt, &layout, InHook::Output, None) {
        Tracked::Ct(mut at) => {
            ct.confirm(SECOND, &mut at).ok()?;
            Some(at)
        }
        Tracked::Untracked | Tracked::Invalid(_) | Tracked::Drop(_) => None,
    }
}

fn empty(count: u32) -> Conntrack {
    Conntrack::new(Config {
        max: 0,
        buckets: count.max(1024),
        ..Config::default()
    })
}

fn with_flows(count: u32) -> (Conntrack, Vec<Vec<u8>>) {
    let mut ct = empty(count);
    let mut packets = Vec::new();
    for src in 0..count {
        // An ACK first: picked up in mid-stream.
        let pkt = tcp(src, 0x10, 1, 1);
        track(&mut ct, &pkt);
        packets.push(pkt);
    }
    (ct, packets)
}

fn established(c: &mut Criterion) {
    for count in [1, 100_000] {
        let (mut ct, packets) = with_flows(count);
        let parsed: Vec<_> = packets
            .iter()
            .filter_map(|p| Some((p, parse(p).ok()?)))
            .collect();
        let mut at = 0;
        c.bench_function(&format!("established TCP segment, {count} flows"), |b| {
            b.iter(|| {
                at = (at + 7919) % parsed.len();
                let (pkt, layout) = &parsed[at];
                black_box(ct.handle_packet(SECOND, pkt, layout, InHook::Output, None))
            });
        });
    }
}

fn life(c: &mut Criterion) {
    let packets: Vec<_> = (0..10_000).map(|src| tcp(src, 0x02, 1, 0)).collect();
    c.bench_function("10,000 flows opened and expired", |b| {
        b.iter_batched(
            || with_flows(0).0,
            |mut ct| {
                for pkt in &packets {
                    black_box(track(&mut ct, pkt));
                }
                ct.handle_timeout(200 * SECOND);
                ct
            },
            BatchSize::LargeInput,
        );
    });
}

/// A million connections written, in pieces of 4096 places, and put back.
fn snapshot(c: &mut Criterion) {
    const COUNT: u32 = 1_000_000;
    let (ct, _) = with_flows(COUNT);
    let write = || {
        let mut out = Vec::with_capacity(COUNT as usize * 160);
        let mut writer = Writer::new(SECOND, SECOND, &mut out);
        while !writer.step(&ct, 4096, &mut out) {}
        out
    };
    let mut group = c.benchmark_group("a million connections");
    group.sample_size(10);
    group.bench_function("written", |b| b.iter(|| black_box(write())));
    let bytes = write();
    println!("{} bytes", bytes.len());
    group.bench_function("read", |b| {
        b.iter(|| black_box(Snapshot::open(&bytes).map(|s| s.connections())));
    });
    group.bench_function("read and restored", |b| {
        b.iter_batched(
            || empty(COUNT),
            |mut empty| {
                if let Ok(snapshot) = Snapshot::open(&bytes) {
                    black_box(empty.restore(SECOND, SECOND, &snapshot));
                }
                empty
            },
            BatchSize::PerIteration,
        );
    });
    let mut out = Vec::new();
    let mut writer = Writer::new(SECOND, SECOND, &mut out);
    group.bench_function("a piece of 4096", |b| {
        b.iter(|| {
            out.clear();
            if writer.step(&ct, 4096, &mut out) {
                writer = Writer::new(SECOND, SECOND, &mut out);
            }
        });
    });
}

criterion_group!(benches, established, life, snapshot);
criterion_main!(benches);
