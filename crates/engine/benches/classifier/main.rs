//! Measures the classifier alone: nanoseconds to find the first rule that applies, beside
//! a walk over all rules, bit vectors and tuple space search on the same packets.
//!
//! `cargo bench -p tidegate-engine --bench classifier -- [--sizes=100,10000]
//! [--sets=acl,fw] [--rounds=15] [--alone]`; the last leaves out all rivals. Times are the sum over groups of 1,000 packets of the
//! best round of each group, which leaves out most of what other programs disturb.

mod bits;
mod random;
mod rivals;
mod sets;
mod traffic;
mod tuples;

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use bits::Bits;
use random::Random;
use rivals::{Linear, Rival};
use tidegate_engine::classifier::Classifier;
use tidegate_ir::{Chain, Rule, TableKind, Truth};
use tidegate_wire::Family;
use tidegate_xt::NoNames;
use traffic::{Header, like, mixture, stranger};
use tuples::Tuples;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Packets of each kind.
const PACKETS: usize = 20_000;
/// Packets that are timed together.
const GROUP: usize = 1_000;
/// Tests that a rival may take for one kind of traffic; it sees fewer packets if need be.
const PATIENCE: usize = 2_000_000;
/// Rules that are put in one by one to measure an edit.
const EDITS: usize = 1_000;

/// What to measure.
struct Wanted {
    sizes: Vec<usize>,
    sets: Option<String>,
    rounds: usize,
    /// No rivals.
    alone: bool,
}

fn wanted() -> Result<Wanted> {
    let arg = |name: &str| std::env::args().find_map(|a| a.strip_prefix(name).map(str::to_owned));
    let sizes = arg("--sizes=").unwrap_or_else(|| "10,100,1000,10000,100000".to_owned());
    Ok(Wanted {
        sizes: sizes
            .split(',')
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?,
        sets: arg("--sets="),
        rounds: arg("--rounds=").map_or(Ok(15), |r| r.parse())?,
        alone: arg("--alone").is_some(),
    })
}

fn chain(lines: &[String]) -> Result<Chain> {
    let mut text = String::from("*filter\n:FORWARD ACCEPT [0:0]\n");
    for line in lines {
        text += &format!("-A FORWARD{line} -j ACCEPT\n");
    }
    text += "COMMIT\n";
    let parsed =
        tidegate_syntax::parse_rules(&text, Family::V4, &NoNames).map_err(|e| format!("{e}"))?;
    let lowered = tidegate_syntax::lower(&parsed).map_err(|e| format!("{e:?}"))?;
    let mut tables = lowered.ruleset.tables.into_iter().flatten();
    tables
        .find(|t| t.kind == TableKind::Filter)
        .and_then(|t| t.chains.into_iter().find(|c| c.name == "FORWARD"))
        .ok_or_else(|| "no chain".into())
}

/// The classifier as a rival of the others.
struct Tree<'c>(&'c Classifier, &'c Chain);

impl Rival for Tree<'_> {
    fn first(&self, _: &[&Rule], header: &mut Header) -> Option<usize> {
        let Tree(classifier, chain) = self;
        let mut candidates = classifier.candidates(&chain.rules, 0, false);
        while let Some(found) = candidates.next(header) {
            if found.applies || found.rule.cond.eval(header, &mut ()) != Truth::False {
                // In a chain that has not been edited, slots are positions.
                return Some(found.slot as usize);
            }
        }
        None
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

/// Nanoseconds a packet; of fewer packets where one takes long.
fn measure(rival: &dyn Rival, rules: &[&Rule], packets: &[Header], rounds: usize) -> f64 {
    let (start, few) = (Instant::now(), packets.len().min(10));
    for packet in &packets[..few] {
        black_box(rival.first(rules, &mut { *packet }));
    }
    let affordable = (few as f64 / start.elapsed().as_secs_f64()) as usize;
    let packets = &packets[..affordable.clamp(few, packets.len())];
    let mut best = vec![f64::MAX; packets.len().div_ceil(GROUP)];
    for _ in 0..rounds {
        for (group, best) in packets.chunks(GROUP).zip(&mut best) {
            let start = Instant::now();
            for packet in group {
                black_box(rival.first(rules, &mut { *packet }));
            }
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum::<f64>() * 1e9 / packets.len() as f64
}

/// The three kinds of traffic: like a rule, fields from different rules, random.
fn traffic(chain: &Chain) -> [Vec<Header>; 3] {
    let random = &mut Random(99);
    let len = chain.rules.len() as u64;
    let mut all = |make: &mut dyn FnMut(&mut Random) -> Header| -> Vec<Header> {
        (0..PACKETS).map(|_| make(random)).collect()
    };
    [
        all(&mut |r| {
            let at = r.below(len) as usize;
            like(r, &chain.rules[at], false)
        }),
        all(&mut |r| mixture(r, &chain.rules, false)),
        all(&mut |r| stranger(r, &chain.rules, false)),
    ]
}

/// Microseconds to put a rule in, and to take one out, at random places.
fn edits(classifier: Classifier, chain: Chain) -> (f64, f64) {
    let (mut classifier, mut rules) = (classifier, chain.rules);
    let random = &mut Random(5);
    let at: Vec<usize> = (0..EDITS)
        .map(|_| random.below(rules.len() as u64) as usize)
        .collect();
    let copies: Vec<Rule> = at.iter().rev().map(|&i| rules[i].clone()).collect();
    let start = Instant::now();
    for (&at, rule) in at.iter().zip(copies) {
        classifier.insert(&mut rules, at, rule);
    }
    let inserted = start.elapsed();
    let start = Instant::now();
    for &at in &at {
        black_box(classifier.remove(&mut rules, at));
    }
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e6 / EDITS as f64;
    (each(inserted), each(start.elapsed()))
}

fn set(name: &str, lines: &[String], wanted: &Wanted) -> Result<()> {
    let rounds = wanted.rounds;
    let chain = chain(lines)?;
    let rules: Vec<&Rule> = chain.rules.iter().collect();
    let start = Instant::now();
    let classifier = Classifier::new(&chain.rules, Family::V4, 7);
    let built = start.elapsed();
    let traffic = traffic(&chain);
    let tree = Tree(&classifier, &chain);
    let fewer = (PATIENCE / rules.len()).clamp(20, 2_000);
    let rivals: Vec<Box<dyn Rival>> = match wanted.alone {
        true => Vec::new(),
        false => vec![
            Box::new(Linear),
            Box::new(Bits::new(&rules)),
            Box::new(Tuples::new(&rules)),
        ],
    };
    for packet in traffic.iter().flat_map(|t| &t[..fewer.min(200)]) {
        let expected = Linear.first(&rules, &mut { *packet });
        for rival in rivals.iter().map(Box::as_ref).chain([&tree as &dyn Rival]) {
            let found = rival.first(&rules, &mut { *packet });
            if found != expected {
                return Err(format!("{name}: {found:?}, not {expected:?}: {packet:x?}").into());
            }
        }
    }
    let per_rule = |rival: &dyn Rival| rival.bytes() as f64 / rules.len() as f64;
    print!("{name:<11} {:>6} |", rules.len());
    print!(
        " {:>6.1} {:>4.0} |",
        built.as_secs_f64() * 1e3,
        per_rule(&tree)
    );
    for packets in &traffic {
        print!(" {:>6.0}", measure(&tree, &rules, packets, rounds));
    }
    for rival in &rivals {
        let one = |packets: &Vec<Header>| measure(&**rival, &rules, &packets[..fewer], 3);
        print!(
            " | {:>8.0} {:>8.0} {:>5.0}",
            one(&traffic[0]),
            one(&traffic[2]),
            per_rule(&**rival)
        );
    }
    drop(rivals);
    drop(rules);
    let (inserted, removed) = edits(classifier, chain);
    println!(" | {inserted:>6.1} {removed:>6.1}");
    Ok(())
}

fn main() -> Result<()> {
    let wanted = wanted()?;
    println!(
        "ns a packet: (a) like a rule, (b) fields from different rules, (c) random; B: bytes a rule"
    );
    println!(
        "{:<11} {:>6} | build ms B | {:^20} | {:^23} | {:^23} | {:^23} | {:^13}",
        "set",
        "rules",
        "classifier a b c",
        "linear a c",
        "bit vectors a c B",
        "tuple space a c B",
        "edit us + -"
    );
    for (name, make) in sets::SETS {
        let chosen = |list: &String| list.split(',').any(|own| own == *name);
        if wanted.sets.as_ref().is_none_or(chosen) {
            for &size in &wanted.sizes {
                set(name, &make(size, 7), &wanted)?;
            }
        }
    }
    Ok(())
}
