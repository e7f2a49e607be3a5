//! What a classifier is measured against: rules one by one, with nothing tracked.

use std::hint::black_box;

use anyhow::{Result, ensure};
use tidegate_ir::{Chain, Conds, Facts, Field, Ruleset, StepId, TableKind, Truth, ctstate};
use tidegate_wire::{Layout, be16, parse};

use crate::buffers::Buffers;
use crate::measure::Took;

/// Tests of rules that a measurement may take.
const PATIENCE: usize = 20_000_000;

/// A packet without connection tracking, as little as rules need to be evaluated.
struct Bare<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl Facts for Bare<'_> {
    #[inline]
    fn load(&mut self, field: Field) -> Option<u128> {
        let l4 = self.layout.l4(self.bytes);
        match field {
            Field::Src => Some(self.layout.src(self.bytes)),
            Field::Dst => Some(self.layout.dst(self.bytes)),
            Field::Proto => Some(u128::from(self.layout.proto)),
            Field::FragOff => Some(u128::from(self.layout.frag_off)),
            Field::L4Len => Some(l4.len() as u128),
            Field::Sport => be16(l4, 0).map(u128::from),
            Field::Dport => be16(l4, 2).map(u128::from),
            Field::Ttl => self.bytes.get(8).map(|&ttl| u128::from(ttl)),
            Field::InName => Some(u128::from_be_bytes(*b"eth0\0\0\0\0\0\0\0\0\0\0\0\0")),
            Field::CtState => Some(ctstate::ESTABLISHED),
            _ => None,
        }
    }

    fn step(&mut self, _: StepId) -> Truth {
        Truth::False
    }
}

/// The chain that all packets here go through.
pub(crate) fn forward(rules: &Ruleset) -> Option<&Chain> {
    let filter = rules.table(TableKind::Filter)?;
    filter.chains.iter().find(|c| c.name == "FORWARD")
}

/// Conditions of the rules in FORWARD.
pub(crate) fn conditions(rules: &Ruleset) -> Vec<&Conds> {
    let rules = forward(rules).into_iter().flat_map(|c| c.rules.iter());
    rules.map(|r| &r.cond).collect()
}

/// The rule that applies to a packet, if any does.
fn first(conds: &[&Conds], bytes: &[u8]) -> Option<usize> {
    let layout = parse(bytes).ok()?;
    let mut bare = Bare { bytes, layout };
    conds
        .iter()
        .position(|c| c.eval(&mut bare, &mut ()) == Truth::True)
}

/// The rule that applies to each.
pub(crate) fn hits<'p>(
    rules: &Ruleset,
    packets: impl Iterator<Item = &'p [u8]>,
) -> Vec<Option<usize>> {
    let conds = conditions(rules);
    packets.map(|packet| first(&conds, packet)).collect()
}

/// Walks for each packet, or for as many as there is patience for; `right` says whether the
/// `n`th may be decided by this rule.
pub(crate) fn walk<'p>(
    rules: &Ruleset,
    packets: impl Iterator<Item = &'p [u8]>,
    right: impl Fn(usize, Option<usize>) -> bool,
) -> Result<Took> {
    let conds = conditions(rules);
    let affordable = (PATIENCE / conds.len().max(1)).max(50);
    let mut count = 0;
    let packets = packets.take(affordable).map(|packet| (packet, true));
    let time = Buffers::default().each(packets, |lot| {
        for (packet, _) in lot {
            let hit = black_box(first(&conds, packet));
            ensure!(right(count, hit), "packet {count} decided by rule {hit:?}");
            count += 1;
        }
        Ok(())
    })?;
    // It holds nothing but the rules, which were there before.
    Ok(Took::new(time, count))
}
