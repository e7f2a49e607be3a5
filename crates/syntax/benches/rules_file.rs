//! Reading, lowering and printing a rules file of 100,000 rules.
#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::fmt::Write;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_syntax::{lower, parse_rules, save};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

fn file(rules: u32) -> String {
    let mut text = "*filter\n".to_owned();
    for chain in 0..100 {
        let _ = writeln!(text, ":c{chain:02} - [0:0]");
    }
    for chain in 0..100 {
        let _ = writeln!(text, "-A INPUT -s 10.{chain}.0.0/16 -j c{chain:02}");
    }
    for i in 0..rules - 100 {
        let (chain, a, b) = (i % 100, i / 256 % 256, i % 256);
        let _ = match i % 3 {
            0 => writeln!(
                text,
                "[1:60] -A c{chain:02} -s 10.0.{a}.{b}/32 -p tcp -m tcp --dport {} -j ACCEPT",
                i % 65535
            ),
            1 => writeln!(
                text,
                "-A c{chain:02} -i eth0 -p udp -m udp --sport 1000:2000 -m comment --comment \"rule {i}\" -j DROP"
            ),
            _ => writeln!(
                text,
                "-A c{chain:02} -d 10.{a}.{b}.0/24 -m conntrack --ctstate NEW -m limit --limit 5/sec -j ACCEPT"
            ),
        };
    }
    text + "COMMIT\n"
}

fn bench(c: &mut Criterion) {
    let text = file(100_000);
    let read = || parse_rules(&text, Family::V4, &NoNames);
    let Ok(rules) = read() else { return };
    let mut group = c.benchmark_group("100k rules");
    group.sample_size(10);
    group.bench_function("read", |b| b.iter(|| black_box(read())));
    group.bench_function("lower", |b| b.iter(|| black_box(lower(&rules))));
    group.bench_function("print", |b| b.iter(|| black_box(save::plain(&rules))));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
