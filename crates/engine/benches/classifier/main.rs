//! prototype bench
#![allow(dead_code)]

mod random;
mod sets;
mod traffic;

use std::hint::black_box;
use std::time::Instant;

use random::Random;
use tidegate_engine::classifier::Classifier;
use tidegate_ir::{Chain, Facts, TableKind, Truth};
use tidegate_wire::Family;
use tidegate_xt::NoNames;
use traffic::{Header, like, linear, mixture, stranger};

fn chain(lines: &[String]) -> Chain {
    let mut text =
        String::from("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for l in lines {
        text += "-A FORWARD";
        text += l;
        text += " -j ACCEPT\n";
    }
    text += "COMMIT\n";
    let parsed =
        tidegate_syntax::parse_rules(&text, Family::V4, &NoNames).unwrap_or_else(|e| panic!("{e}"));
    let mut lowered = tidegate_syntax::lower(&parsed).unwrap();
    let table = lowered.ruleset.tables[TableKind::Filter as usize]
        .take()
        .unwrap();
    table
        .chains
        .into_iter()
        .find(|c| c.name == "FORWARD")
        .unwrap()
}

#[inline]
fn classify(
    classifier: &Classifier,
    chain: &Chain,
    h: &mut Header,
    tried: &mut u32,
) -> Option<u32> {
    let mut candidates = classifier.candidates(&chain.rules, 0, false);
    while let Some((slot, rule)) = candidates.next(h) {
        *tried += 1;
        if rule.cond.eval(h, &mut ()) != Truth::False {
            return Some(slot);
        }
    }
    None
}

/// Seconds of processor time.
fn cpu() -> f64 {
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-9
}

fn best_of<T>(rounds: usize, mut f: impl FnMut() -> T) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..rounds {
        let t = cpu();
        black_box(f());
        best = best.min(cpu() - t);
    }
    best
}

fn main() {
    let arg = |name: &str| std::env::args().find_map(|a| a.strip_prefix(name).map(str::to_owned));
    let sizes: Vec<usize> = arg("--sizes=")
        .unwrap_or("1000,10000,100000".into())
        .split(',')
        .map(|s| s.parse().unwrap())
        .collect();
    let wanted = arg("--sets=");
    let packets = 20_000;
    let rounds: usize = arg("--rounds=").map_or(15, |r| r.parse().unwrap());
    let mut chase: Vec<u32> = (0..1 << 20)
        .map(|i: u32| i.wrapping_mul(0x9e3779b1) >> 12)
        .collect::<Vec<_>>();
    for i in 0..chase.len() {
        chase[i] = (chase[i].wrapping_mul(5).wrapping_add(i as u32 * 7919 + 1)) & 0xfffff;
    }
    let chase: Vec<[u32; 5]> = chase.iter().map(|&x| [x; 5]).collect();
    let steps = 200_000;
    let mem = best_of(9, || {
        let mut at = 0u32;
        for i in 0..steps {
            at = chase[at as usize][0] ^ (i & 0xfffff);
        }
        at
    });
    println!(
        "random step in 20 MB: {:.1} ns",
        mem * 1e9 / f64::from(steps)
    );
    println!(
        "{:<11} {:>7} | {:>7} {:>6} | {:>7} {:>7} {:>7} | tried, nodes probes hits leaves entries",
        "set", "rules", "build", "B/rule", "match", "near", "strange"
    );
    for (name, make) in sets::SETS {
        if wanted
            .as_ref()
            .is_some_and(|w| !w.split(',').any(|x| x == *name))
        {
            continue;
        }
        for &n in &sizes {
            let chain = chain(&make(n, 7));
            let mut tree = None;
            let built = best_of(3, || {
                tree = Some(Classifier::new(&chain.rules, Family::V4, 7))
            });
            let tree = tree.unwrap();
            let random = &mut Random(99);
            let matching: Vec<Header> = (0..packets)
                .map(|_| {
                    let at = random.below(n as u64) as usize;
                    like(random, &chain.rules[at], false)
                })
                .collect();
            let near: Vec<Header> = (0..packets)
                .map(|_| mixture(random, &chain.rules, false))
                .collect();
            let strange: Vec<Header> = (0..packets)
                .map(|_| stranger(random, &chain.rules, false))
                .collect();
            print!(
                "{name:<11} {n:>7} | {:>5.1}ms {:>6.1} |",
                built * 1e3,
                tree.bytes() as f64 / n as f64
            );
            let mut notes = String::new();
            for packets in [&matching, &near, &strange] {
                let (mut tried, mut hits) = (0, 0);
                for (i, p) in packets.iter().enumerate() {
                    let mut h = *p;
                    let at = classify(&tree, &chain, &mut h, &mut tried);
                    hits += usize::from(at.is_some());
                    if at.is_none() && i % 100 == 0 || i % (n / 10).max(1) == 0 {
                        assert_eq!(
                            at.map(|a| a as usize),
                            linear(&chain.rules, &mut h),
                            "{p:x?}"
                        );
                    }
                }
                let c = packets.len() as f64;
                let mut best = vec![f64::MAX; packets.len() / 1000];
                for _ in 0..rounds {
                    for (chunk, best) in packets.chunks(1000).zip(&mut best) {
                        let t = Instant::now();
                        let mut tried = 0;
                        let mut sum = 0;
                        for p in chunk {
                            let mut h = *p;
                            sum += classify(&tree, &chain, &mut h, &mut tried).unwrap_or(1);
                        }
                        black_box(sum);
                        *best = best.min(t.elapsed().as_secs_f64());
                    }
                }
                let time: f64 = best.iter().sum();
                print!(" {:>7.1}", time * 1e9 / c);
                notes += &format!(
                    " | {:.0}% {:.2}",
                    100. * hits as f64 / c,
                    f64::from(tried) / c
                );
            }
            println!("{notes}");
        }
    }
}
