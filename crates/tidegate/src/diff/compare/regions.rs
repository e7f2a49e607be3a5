//! Where two rulesets may differ.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_analysis::{Space, Window, regions};
use tidegate_ir::{Cond, Effect, Field, Rule, RuleId, Ruleset, TableKind, Verdict};

use super::written::changed;
use super::{Compared, Side};

/// Pairs of rules in one chain that are looked at one by one when rules have changed places.
const PAIRS: usize = 4_000;
/// Pairs up to which there is a look at which of them have changed places: a fraction of a second.
const MOST_PAIRS: usize = 100_000_000;

/// A rule of a chain as it is written and as it is run.
#[derive(Clone, Copy)]
struct Line<'a> {
    text: &'a str,
    what: What<'a>,
}

#[derive(Clone, Copy)]
enum What<'a> {
    Policy,
    Rule(&'a Rule),
    /// A rule that no packet gets to.
    Dead,
}

impl<'a> Line<'a> {
    const fn rule(&self) -> Option<&'a Rule> {
        match self.what {
            What::Rule(rule) => Some(rule),
            What::Policy | What::Dead => None,
        }
    }
}

impl Compared<'_> {
    /// Where packets are that the rulesets may treat differently: those that some rule is about
    /// which only one of them has, and those that two rules are about which have changed places.
    pub(super) fn regions(&self) -> Vec<Window> {
        let mut all = BTreeSet::new();
        let rulesets = self.sides.each_ref().map(|s| &*s.settled);
        let trusted = |field: Field| trusted(rulesets, self.host.is_some(), field);
        let places = Places {
            space: &self.space,
            trusted: &trusted,
        };
        for kind in TableKind::ALL {
            let [a, b] = self.sides.each_ref().map(|s| chains(s, kind));
            let names: BTreeSet<&str> = a.keys().chain(b.keys()).copied().collect();
            for name in names {
                let lists = [&a, &b].map(|c| c.get(name).map_or(&[][..], Vec::as_slice));
                places.chain(lists, &mut all);
            }
        }
        match all.contains(&Window::ALL) {
            true => vec![Window::ALL],
            false => all.into_iter().collect(),
        }
    }
}

/// The chains of a table with their rules.
fn chains<'a>(side: &'a Side<'_>, kind: TableKind) -> BTreeMap<&'a str, Vec<Line<'a>>> {
    let lowered = side.settled.table(kind).into_iter();
    let rules = lowered.flat_map(|t| t.chains.iter().flat_map(|c| c.rules.iter()));
    let by_id: BTreeMap<RuleId, &Rule> = rules.map(|r| (r.id, r)).collect();
    let mut chains: BTreeMap<&str, Vec<Line<'_>>> = BTreeMap::new();
    for ((id, origin), text) in (0u32..).zip(&side.loaded.origin).zip(&side.texts) {
        if origin.table == kind {
            let rule = by_id.get(&RuleId(id)).copied();
            let what = match origin.number {
                0 => What::Policy,
                _ => rule.map_or(What::Dead, What::Rule),
            };
            let chain = chains.entry(&origin.chain).or_default();
            chain.push(Line { text, what });
        }
    }
    chains
}

/// What windows are made with.
struct Places<'a> {
    space: &'a Space,
    trusted: &'a dyn Fn(Field) -> bool,
}

impl Places<'_> {
    fn of(&self, line: Line<'_>) -> Vec<Window> {
        match line.what {
            What::Policy => vec![Window::ALL],
            What::Rule(rule) => regions(&rule.cond, self.space, self.trusted),
            What::Dead => Vec::new(),
        }
    }

    /// Where packets are that two versions of a chain may treat differently.
    fn chain(&self, lists: [&[Line<'_>]; 2], all: &mut BTreeSet<Window>) {
        let lists = lists.map(without_repeats);
        let texts = lists
            .each_ref()
            .map(|l| l.iter().map(|r| r.text).collect::<Vec<_>>());
        let differ = changed(&texts[0], &texts[1]);
        if differ.iter().all(Vec::is_empty) {
            return;
        }
        let places = positions(&texts);
        let live = |at: &[usize; 2]| (0..2).all(|side| lists[side][at[side]].rule().is_some());
        let mut moved = Vec::new();
        for side in [0, 1] {
            for at in &differ[side] {
                let line = lists[side][*at];
                match places.get(line.text) {
                    Some(both) if live(both) => moved.push((line, *both)),
                    _ => all.extend(self.of(line)),
                }
            }
        }
        moved.sort_by_key(|m| m.1);
        moved.dedup_by_key(|m| m.1);
        match self.exchanged(&lists[0], &places, &moved) {
            Some(windows) => all.extend(windows),
            None => all.extend(moved.iter().flat_map(|m| self.of(m.0))),
        }
    }

    /// Where packets meet two rules in another order than before, and it matters; `None` where
    /// there are too many pairs.
    fn exchanged(
        &self,
        list: &[Line<'_>],
        places: &BTreeMap<&str, [usize; 2]>,
        moved: &[(Line<'_>, [usize; 2])],
    ) -> Option<BTreeSet<Window>> {
        if moved.len().saturating_mul(list.len()) > MOST_PAIRS {
            return None;
        }
        let windows: Vec<_> = list.iter().map(|l| self.of(*l)).collect();
        let in_both: Vec<_> = list.iter().map(|l| places.get(l.text)).collect();
        let decided: Vec<_> = list.iter().map(|l| l.rule().and_then(decides)).collect();
        let mut found = BTreeSet::new();
        let mut pairs = 0;
        for (_, [a, b]) in moved {
            for at in 0..list.len() {
                // Of what stands there more than once nobody knows which is which.
                let same = in_both[at].is_some_and(|[x, y]| a.cmp(x) == b.cmp(y));
                // It is all the same which of two rules comes first that decide alike.
                let commute = decided[*a].is_some() && decided[*a] == decided[at];
                if same || commute {
                    continue;
                }
                for one in &windows[*a] {
                    let met = windows[at].iter().filter_map(|w| one.meet(w));
                    found.extend(met.inspect(|_| pairs += 1));
                }
                if pairs > PAIRS {
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// Positions of the lines that are in both lists, each once.
fn positions<'a>(texts: &[Vec<&'a str>; 2]) -> BTreeMap<&'a str, [usize; 2]> {
    let once = |list: &[&'a str]| {
        let mut at: BTreeMap<&'a str, Option<usize>> = BTreeMap::new();
        for (place, text) in list.iter().enumerate() {
            let first = !at.contains_key(text);
            at.insert(text, first.then_some(place));
        }
        at
    };
    let [a, b] = texts.each_ref().map(|t| once(t));
    let both = a.into_iter().filter_map(|(text, at)| {
        let other = b.get(text).copied().flatten()?;
        Some((text, [at?, other]))
    });
    both.collect()
}

/// A chain without lines that stand in it before, where the first takes all there is.
fn without_repeats<'a>(list: &[Line<'a>]) -> Vec<Line<'a>> {
    let mut seen = BTreeSet::new();
    let mut kept = list.to_vec();
    kept.retain(|line| match line.rule().and_then(decides) {
        Some(_) => seen.insert(line.text),
        None => {
            // From here on packets may be others.
            seen.clear();
            true
        }
    });
    kept
}

/// What a rule that does nothing but decide decides, by what the packet says alone.
fn decides(rule: &Rule) -> Option<Verdict> {
    let mut plain = rule.effects.is_empty();
    rule.cond.visit(&mut |c| {
        plain &= match c {
            Cond::Call(_) | Cond::DropWhen(_) => false,
            // Tests may set them.
            Cond::Test(test) => test.field() != Field::CtLabels,
            _ => true,
        }
    });
    let ends = matches!(
        rule.verdict,
        Verdict::Accept | Verdict::Drop | Verdict::Reject(_) | Verdict::Return
    );
    (plain && ends).then_some(rule.verdict)
}

/// Whether rules see the same value of a field at all hooks.
fn trusted(rulesets: [&Ruleset; 2], host: bool, field: Field) -> bool {
    let any = |of: fn(&Effect) -> bool| {
        let mut rules = rulesets.iter().flat_map(|r| r.rules());
        rules.any(|(_, _, r)| r.effects.iter().any(of))
    };
    match field {
        Field::Src | Field::Sport => !any(|e| matches!(e, Effect::Nat(_) | Effect::Npt(_))),
        Field::Dst | Field::Dport => !any(|e| matches!(e, Effect::Nat(_) | Effect::Npt(_))),
        Field::L4Len => !any(|e| matches!(e, Effect::TcpMss(_) | Effect::StripTcpOptions(_))),
        Field::CtState => !any(|e| matches!(e, Effect::Ct(_))),
        Field::OutName => !host,
        _ => true,
    }
}
