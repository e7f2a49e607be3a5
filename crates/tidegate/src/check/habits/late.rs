//! The rule for established connections, far behind.

use std::cmp::Ordering;

use tidegate_analysis::TooBig;
use tidegate_ir::{Field, Hook, TableKind, Verdict};
use tidegate_syntax::Counters;

use super::super::Subject;
use super::super::finding::{Finding, name};
use super::super::source::Place;
use super::{base, policy_place};

/// Looks for it in INPUT.
pub(super) fn late(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) -> Result<(), TooBig> {
    let Some(chain) = base(subject, TableKind::Filter, Hook::Input) else {
        return Ok(());
    };
    let established = subject.space.within(Field::CtState, 1, 1)?;
    let new = subject.space.within(Field::CtState, 3, 3)?;
    for (index, rule) in chain.rules.iter().enumerate() {
        let holds = subject.space.rule(&rule.cond)?.holds;
        let all = subject.space.bdd.minus(established, holds)?.is_empty();
        let only = subject.space.bdd.and(holds, new)?.is_empty();
        if !all || !only || rule.verdict != Verdict::Accept {
            continue;
        }
        if index < 5 {
            return Ok(());
        }
        let place = Place {
            number: index as u32 + 1,
            ..policy_place(TableKind::Filter, Hook::Input)
        };
        let mut conflicts = Vec::new();
        for (before, other) in chain.rules.iter().take(index).enumerate() {
            let overlap = subject.space.rule(&other.cond)?.holds;
            let overlap = subject.space.bdd.and(overlap, holds)?;
            if !overlap.is_empty()
                && (other.verdict != Verdict::Accept || !other.effects.is_empty())
            {
                conflicts.push((before + 1).to_string());
            }
        }
        let text = format!(
            "{} accepts ESTABLISHED only after {index} other rules",
            name(&place)
        );
        let finding = Finding::new("TG022", Some(place.clone()), text);
        let finding = match cost(subject, index) {
            Some(cost) => finding.note(cost),
            None => finding,
        };
        findings.push(if conflicts.is_empty() {
            finding
                .note("moving it to the front is safe: no rule before it treats one of its packets otherwise (proved)")
                .help(subject.moved(&place, 1))
        } else {
            finding.note(format!(
                "moving it to the front would change what rules {} do with established packets",
                conflicts.join(", ")
            ))
        });
        return Ok(());
    }
    Ok(())
}

/// What the counters of INPUT say about the rule's place; `None` without counters.
fn cost(subject: &Subject<'_>, late: usize) -> Option<String> {
    let table = subject.loaded.source.table(TableKind::Filter)?;
    let chain = table.chain("INPUT")?;
    let ends =
        |r: &tidegate_syntax::Rule| matches!(r.spec.target.name(), "ACCEPT" | "DROP" | "REJECT");
    let policy = chain
        .base
        .as_ref()
        .map_or(Counters::default(), |b| b.counters);
    // Where packets leave the chain; behind its last rule by the policy.
    let count = chain.rules.len();
    let mut left: Vec<(usize, u64)> = chain
        .rules
        .iter()
        .enumerate()
        .filter(|(_, r)| ends(r))
        .map(|(i, r)| (i, r.counters.packets))
        .collect();
    left.push((count, policy.packets));
    let all: u64 = left.iter().map(|l| l.1).sum();
    let own = chain.rules.get(late)?.counters.packets;
    if all == 0 || own == 0 {
        return None;
    }
    let per_packet = |tried: &dyn Fn(usize) -> usize| {
        let sum: f64 = left.iter().map(|&(i, n)| tried(i) as f64 * n as f64).sum();
        sum / all as f64
    };
    let tried = |i: usize| (i + 1).min(count);
    let now = per_packet(&tried);
    let moved = per_packet(&|i| match i.cmp(&late) {
        Ordering::Less => i + 2,
        Ordering::Equal => 1,
        Ordering::Greater => tried(i),
    });
    Some(format!(
        "by the counters {:.1} % of the packets that INPUT decides match it; in front it cuts {now:.1} rules \
         tried per packet to {moved:.1}",
        own as f64 * 100.0 / all as f64
    ))
}
