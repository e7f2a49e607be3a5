//! Reading, lowering and printing a rules file of 100,000 rules.
#![allow(missing_docs, reason = "criterion's macro makes a public function")]

#[path = "common/file.rs"]
mod file;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_syntax::{lower, parse_rules, save};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

use file::file;

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
