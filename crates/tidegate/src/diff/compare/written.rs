//! What is written the same in two rulesets.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use tidegate_ir::{Cond, Effect, Rule, RuleId, StepId, TableKind};

use super::Side;
use crate::replay::rules::Loaded;
use crate::replay::settled::looked_into;

/// Sets that rules of either side look into or change and that do not find the same packets.
pub(super) fn other_sets(sides: [&Loaded; 2]) -> BTreeSet<String> {
    let named = |l: &Loaded| -> BTreeSet<String> {
        let steps = l.lowered.steps.iter();
        steps.flat_map(|s| looked_into(&**s, &l.sets)).collect()
    };
    let [a, b] = sides;
    let mut names = named(a);
    names.extend(named(b));
    names.retain(|name| !a.sets.finds_the_same(&b.sets, name));
    names
}

/// What rules say, by [`RuleId`]; where they look into one of `sets`, with the side behind it.
pub(super) fn texts<'a>(
    loaded: &'a Loaded,
    sets: &BTreeSet<String>,
    side: usize,
) -> Vec<Cow<'a, str>> {
    let origins = loaded.origin.iter();
    let mut texts: Vec<_> = origins.map(|o| Cow::Borrowed(o.text.as_str())).collect();
    for (_, _, rule) in loaded.lowered.rules().filter(|_| !sets.is_empty()) {
        let steps = steps(rule).into_iter();
        let steps = steps.filter_map(|step| loaded.lowered.steps.get(step));
        let named: BTreeSet<String> = steps
            .flat_map(|step| looked_into(&**step, &loaded.sets))
            .collect();
        if !named.is_disjoint(sets)
            && let Some(text) = texts.get_mut(rule.id.0 as usize)
        {
            text.to_mut().push_str(["\nbefore", "\nafter"][side]);
        }
    }
    texts
}

/// What a rule says, whatever chain it is in.
pub(super) fn said<'s>(side: &'s Side<'_>, id: RuleId) -> Option<(TableKind, &'s str)> {
    let origin = side.loaded.origin.get(id.0 as usize)?;
    let text = &**side.texts.get(id.0 as usize)?;
    let start = format!("-A {} ", origin.chain);
    Some((origin.table, text.strip_prefix(&start).unwrap_or(text)))
}

/// An effect that runs a step, under the step's name.
pub(super) fn named(names: &[u32], effect: &Effect) -> Effect {
    match effect {
        Effect::Call { step, writes } => Effect::Call {
            step: StepId(names.get(step.0 as usize).copied().unwrap_or(step.0)),
            writes: *writes,
        },
        other => other.clone(),
    }
}

pub(super) fn steps(rule: &Rule) -> Vec<usize> {
    let mut all = Vec::new();
    rule.cond.visit(&mut |c| {
        if let Cond::Call(id) = c {
            all.push(id.0 as usize);
        }
    });
    for effect in &rule.effects {
        if let Effect::Call { step, .. } = effect {
            all.push(step.0 as usize);
        }
    }
    all
}

/// Names for stateful tests: the same for what is written the same, first for first.
pub(super) fn step_names(sides: &[Side<'_>; 2]) -> [Vec<u32>; 2] {
    let mut names: BTreeMap<(TableKind, String, usize, usize), u32> = BTreeMap::new();
    sides.each_ref().map(|side| {
        let mut list = vec![0; side.settled.steps.len()];
        let mut count: BTreeMap<(TableKind, String), usize> = BTreeMap::new();
        for (_, _, rule) in side.settled.rules() {
            let all = steps(rule);
            let Some((table, text)) = said(side, rule.id).filter(|_| !all.is_empty()) else {
                continue;
            };
            let nth = count.entry((table, text.to_owned())).or_default();
            for (at, step) in all.into_iter().enumerate() {
                let next = names.len() as u32;
                let key = (table, text.to_owned(), *nth, at);
                if let Some(place) = list.get_mut(step) {
                    *place = *names.entry(key).or_insert(next);
                }
            }
            *nth += 1;
        }
        list
    })
}

/// Positions in two lists that are no part of what both have in the same order.
pub(super) fn changed(a: &[&str], b: &[&str]) -> [Vec<usize>; 2] {
    let start = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let (ra, rb) = (&a[start..], &b[start..]);
    let end = ra
        .iter()
        .rev()
        .zip(rb.iter().rev())
        .take_while(|(x, y)| x == y)
        .count();
    let (ra, rb) = (&ra[..ra.len() - end], &rb[..rb.len() - end]);
    // Beyond this everything between is taken as changed.
    if ra.len() * rb.len() > 4_000_000 {
        return [ra.len(), rb.len()].map(|n| (start..start + n).collect());
    }
    let width = rb.len() + 1;
    let mut longest = vec![0u32; (ra.len() + 1) * width];
    for (i, x) in ra.iter().enumerate().rev() {
        for (j, y) in rb.iter().enumerate().rev() {
            longest[i * width + j] = match x == y {
                true => longest[(i + 1) * width + j + 1] + 1,
                false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = [Vec::new(), Vec::new()];
    while i < ra.len() || j < rb.len() {
        if i < ra.len() && j < rb.len() && ra[i] == rb[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == rb.len()
            || i < ra.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]
        {
            out[0].push(start + i);
            i += 1;
        } else {
            out[1].push(start + j);
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_lists_have_in_common_is_not_changed() {
        let list =
            |text: &'static str| text.split("").filter(|s| !s.is_empty()).collect::<Vec<_>>();
        let of = |a, b| changed(&list(a), &list(b));
        assert!(of("abc", "abc").iter().all(Vec::is_empty));
        assert_eq!(of("abc", "axc"), [[1], [1]]);
        assert_eq!(of("abcd", "bcda").map(|v| v.len()), [1, 1]);
        assert_eq!(of("", "ab")[1], [0, 1]);
    }
}
