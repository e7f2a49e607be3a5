//! What 128-bit values cost: one hundred rules of the usual shape (`-p tcp -s NET
//! --dport PORT`), none of which matches, evaluated as they are and by a prototype that
//! holds values in 64 bits.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_ir::{Cond, Facts, Field, StepId, Truth, eval};

const RULES: u64 = 100;

struct Packet {
    src: u32,
    proto: u8,
    dport: u16,
}

impl Facts for Packet {
    #[inline]
    fn load(&mut self, field: Field) -> Option<u128> {
        match field {
            Field::Src => Some(u128::from(self.src)),
            Field::Proto => Some(u128::from(self.proto)),
            Field::Dport => Some(u128::from(self.dport)),
            _ => None,
        }
    }
    fn step(&mut self, _: StepId) -> Truth {
        Truth::False
    }
}

enum Narrow {
    All(Vec<Narrow>),
    Range(Field, u64, u64),
    Bits(Field, u64, u64),
}

impl Narrow {
    fn holds(&self, p: &Packet) -> bool {
        let load = |field| match field {
            Field::Src => Some(u64::from(p.src)),
            Field::Proto => Some(u64::from(p.proto)),
            Field::Dport => Some(u64::from(p.dport)),
            _ => None,
        };
        match self {
            Narrow::All(list) => list.iter().all(|n| n.holds(p)),
            Narrow::Range(f, lo, hi) => load(*f).is_some_and(|v| *lo <= v && v <= *hi),
            Narrow::Bits(f, mask, want) => load(*f).is_some_and(|v| v & mask == *want),
        }
    }
}

fn wide(n: u64) -> Cond {
    Cond::all(vec![
        Cond::bits(Field::Src, 0xff00_0000, 0x0a00_0000),
        Cond::eq(Field::Proto, 6),
        Cond::eq(Field::Dport, u128::from(n + 1)),
    ])
}

fn narrow(n: u64) -> Narrow {
    Narrow::All(vec![
        Narrow::Bits(Field::Src, 0xff00_0000, 0x0a00_0000),
        Narrow::Range(Field::Proto, 6, 6),
        Narrow::Range(Field::Dport, n + 1, n + 1),
    ])
}

fn bench(c: &mut Criterion) {
    let mut packet = Packet {
        src: 0x0a01_0203,
        proto: 6,
        dport: 50_000,
    };
    let rules: Vec<Cond> = (0..RULES).map(wide).collect();
    c.bench_function("100 rules, 128-bit values", |b| {
        b.iter(|| {
            rules
                .iter()
                .filter(|r| eval(r, black_box(&mut packet), &mut ()) == Truth::True)
                .count()
        });
    });
    let rules: Vec<Narrow> = (0..RULES).map(narrow).collect();
    c.bench_function("100 rules, 64-bit values", |b| {
        b.iter(|| rules.iter().filter(|r| r.holds(black_box(&packet))).count());
    });
}

criterion_group!(benches, bench);
criterion_main!(benches);
