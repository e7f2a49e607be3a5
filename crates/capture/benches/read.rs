//! Cost of reading one packet.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_capture::{Direction, LinkType, Payload, Reader, Writer};

const PACKETS: u32 = 100_000;

fn frame() -> Vec<u8> {
    let mut f = vec![0u8; 100];
    f[12] = 8;
    f[14] = 0x45;
    f
}

fn pcap() -> Vec<u8> {
    let mut out = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
    for word in [0u32, 0, 65535, 1] {
        out.extend(word.to_le_bytes());
    }
    for n in 0..PACKETS {
        for word in [n, n, 100, 100] {
            out.extend(word.to_le_bytes());
        }
        out.extend(frame());
    }
    out
}

fn pcapng() -> Vec<u8> {
    let mut out = Vec::new();
    if let Ok(mut writer) = Writer::new(&mut out, "bench")
        && let Ok(id) = writer.add_interface(Some("eth0"), LinkType::Ethernet)
    {
        for n in 0..PACKETS {
            let time = u64::from(n);
            let _ = writer.packet(id, time, Direction::In, &frame(), 100, "");
        }
    }
    out
}

fn read(bytes: &[u8]) -> u64 {
    let mut reader = Reader::new("bench", bytes);
    let mut ip = 0;
    while let Ok(Some(frame)) = reader.next_frame() {
        if let Payload::Ip(bytes) = frame.network_packet().payload {
            ip += bytes.len() as u64;
        }
    }
    assert_eq!(ip, u64::from(PACKETS) * 86);
    ip
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(u64::from(PACKETS)));
    for (name, file) in [("pcap", pcap()), ("pcapng with flags", pcapng())] {
        group.bench_function(name, |b| b.iter(|| read(&file)));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
