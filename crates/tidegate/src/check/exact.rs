//! What is proved over the whole space of packets: rules that never match.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_analysis::{Followed, Piece, Pieces, Reach, Set, Taken, TooBig, Why};
use tidegate_ir::{ChainId, Cond, Field, RuleId, Rules, Table, TableKind, Verdict, ctstate};

use super::Subject;
use super::finding::{Finding, name};
use super::source::Place;

/// Dead rules that are looked into; of the others it is only said that they are dead.
const LOOKED_INTO: usize = 300;
/// Steps of work for rules that are looked at one by one.
const STEPS: u64 = 30_000_000;
/// Rules that are named as taking another one's packets.
const NAMED: usize = 6;
/// Spans of rules that are named as unknown.
const SPANS: usize = 40;

/// States and their names.
pub(super) const STATES: [(u128, &str); 5] = [
    (ctstate::INVALID, "INVALID"),
    (ctstate::ESTABLISHED, "ESTABLISHED"),
    (ctstate::RELATED, "RELATED"),
    (ctstate::NEW, "NEW"),
    (ctstate::UNTRACKED, "UNTRACKED"),
];

/// Finds dead rules, rules without purpose and chains without use.
pub(super) fn find(subject: &mut Subject<'_>, findings: &mut Vec<Finding>) {
    for kind in TableKind::ALL {
        if subject.loaded.lowered.table(kind).is_none() {
            continue;
        }
        if subject.whole.knows(kind) {
            // What a table gave before the limit was reached is still true.
            let _ = table(subject, kind, findings);
        } else {
            one_by_one(subject, kind, findings);
        }
    }
}

/// Looks at a table's rules one by one, where all packets at once are too many.
fn one_by_one(subject: &mut Subject<'_>, kind: TableKind, findings: &mut Vec<Finding>) {
    let lowered = subject.loaded.lowered.clone();
    let Some(table) = lowered.table(kind) else {
        return;
    };
    let used = used(table);
    let mut asked = Pieces::new(&subject.space, lowered.clone(), kind, STEPS);
    let (mut looked_into, mut unknown) = (0, Unknown::new());
    for (id, chain) in (0u32..).zip(&table.chains) {
        let source = subject.loaded.source.table(kind);
        let count = source.and_then(|t| t.chain(&chain.name));
        let count = count.map_or(0, |c| c.rules.len());
        let place = Place {
            table: kind,
            chain: chain.name.clone(),
            number: 0,
        };
        if !used.contains(&id) {
            findings.extend((count > 0).then(|| unused(subject, place)));
            continue;
        }
        for (index, rule) in chain.rules.iter().enumerate() {
            let mut part = Chain {
                rules: &chain.rules,
                reach: &BTreeMap::new(),
                place: place.clone(),
                first: Set::EMPTY,
            };
            let followed = match asked.ask(&mut subject.space, ChainId(id), index) {
                Piece::Alive => continue,
                Piece::Taken(taken) => {
                    findings.push(taken_by(subject, &part, index, &taken));
                    continue;
                }
                Piece::Odd(_, _) if kind == TableKind::Raw => continue,
                Piece::Odd(taken, left) => {
                    let found = odd(subject, &part, index, (&taken, &left));
                    findings.extend(found.ok().flatten());
                    continue;
                }
                Piece::Unknown(why) => {
                    unknown
                        .entry((chain.name.clone(), why))
                        .or_default()
                        .push(index + 1);
                    continue;
                }
                Piece::All(followed) => followed,
            };
            part.reach = &followed.reach;
            part.first = entered(&followed, id);
            let matches = followed
                .reach
                .get(&rule.id)
                .map_or(Set::EMPTY, |r| r.matches);
            let found = if matches.is_empty() {
                looked_into += 1;
                dead(subject, &part, index, looked_into <= LOOKED_INTO)
            } else if kind == TableKind::Raw {
                Ok(None)
            } else {
                states_left(subject, &part, index, matches)
            };
            match found {
                Ok(found) => findings.extend(found),
                Err(TooBig) => {
                    let key = (chain.name.clone(), Why::Combinations);
                    unknown.entry(key).or_default().push(index + 1);
                }
            }
        }
        let whole = Chain {
            rules: &chain.rules,
            reach: &BTreeMap::new(),
            place,
            first: Set::EMPTY,
        };
        behind_a_verdict(subject, &whole, count, findings);
    }
    findings.extend(left_out(kind, &unknown));
}

/// Numbers of rules of which too little is known, by chain and reason.
type Unknown = BTreeMap<(String, Why), Vec<usize>>;

/// What has been left out, and why.
fn left_out(kind: TableKind, unknown: &Unknown) -> Vec<Finding> {
    let finding = |((chain, why), numbers): (&(String, Why), &Vec<usize>)| {
        let text = format!(
            "whether {} rules of {} {chain} can match is unknown: {}",
            numbers.len(),
            kind.name(),
            why.text()
        );
        Finding::new("TG000", None, text).note(format!("rules {}", spans(numbers)))
    };
    unknown.iter().map(finding).collect()
}

/// Ascending numbers, those that follow each other as one span.
fn spans(numbers: &[usize]) -> String {
    let mut all: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match all.last_mut() {
            Some(last) if last.1 + 1 == number => last.1 = number,
            _ => all.push((number, number)),
        }
    }
    let more = all.len().saturating_sub(SPANS);
    let text = |&(lo, hi): &(usize, usize)| match lo == hi {
        true => lo.to_string(),
        false => format!("{lo}-{hi}"),
    };
    let mut list: Vec<String> = all.iter().take(SPANS).map(text).collect();
    if more > 0 {
        list.push(format!("and {more} spans more"));
    }
    list.join(", ")
}

/// Chains that packets can get to by jumps, whatever rules ask for.
fn used(table: &Table) -> BTreeSet<u32> {
    let bases = (0u32..).zip(&table.chains).filter(|c| c.1.base.is_some());
    let mut todo: Vec<u32> = bases.map(|c| c.0).collect();
    let mut used = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !used.insert(id) {
            continue;
        }
        let rules = table.chain(ChainId(id)).map(|c| c.rules.iter());
        for rule in rules.into_iter().flatten() {
            if let Verdict::Jump(to) | Verdict::Goto(to) = rule.verdict {
                todo.push(to.0);
            }
        }
    }
    used
}

/// A chain that nothing gets to.
fn unused(subject: &Subject<'_>, place: Place) -> Finding {
    let (kind, chain) = (place.table, place.chain.clone());
    let text = format!("chain {chain} of table {} is never used", kind.name());
    Finding::new("TG013", Some(place), text)
        .help(subject.command(kind, &format!("-F {chain}")))
        .help(subject.command(kind, &format!("-X {chain}")))
}

/// A chain's rules that run, and what gets to them.
struct Chain<'a> {
    rules: &'a Rules,
    reach: &'a BTreeMap<RuleId, Reach>,
    place: Place,
    /// Packets that enter it.
    first: Set,
}

impl Chain<'_> {
    fn at(&self, index: usize) -> Place {
        Place {
            number: index as u32 + 1,
            ..self.place.clone()
        }
    }
}

fn entered(followed: &Followed, chain: u32) -> Set {
    let set = followed.entered.get(&ChainId(chain));
    set.copied().unwrap_or(Set::EMPTY)
}

fn table(
    subject: &mut Subject<'_>,
    kind: TableKind,
    findings: &mut Vec<Finding>,
) -> Result<(), TooBig> {
    let followed = subject.whole.followed(&mut subject.space, kind)?;
    let reach = &followed.reach;
    let lowered = subject.loaded.lowered.clone();
    let Some(table) = lowered.table(kind) else {
        return Ok(());
    };
    let mut looked_into = 0;
    for (id, lowered) in (0u32..).zip(&table.chains) {
        let source = subject.loaded.source.table(kind);
        let source = source.and_then(|t| t.chain(&lowered.name));
        let count = source.map_or(0, |c| c.rules.len());
        let chain = Chain {
            rules: &lowered.rules,
            reach,
            place: Place {
                table: kind,
                chain: lowered.name.clone(),
                number: 0,
            },
            first: entered(&followed, id),
        };
        if lowered.base.is_none() && chain.first.is_empty() {
            findings.extend((count > 0).then(|| unused(subject, chain.place.clone())));
            continue;
        }
        for (index, rule) in lowered.rules.iter().enumerate() {
            let matches = reach.get(&rule.id).map_or(Set::EMPTY, |r| r.matches);
            if matches.is_empty() {
                looked_into += 1;
                findings.extend(dead(subject, &chain, index, looked_into <= LOOKED_INTO)?);
            } else if kind != TableKind::Raw {
                findings.extend(states_left(subject, &chain, index, matches)?);
            }
        }
        behind_a_verdict(subject, &chain, count, findings);
    }
    Ok(())
}

/// Rules behind one that takes everything have no lowered form.
fn behind_a_verdict(
    subject: &Subject<'_>,
    chain: &Chain<'_>,
    count: usize,
    findings: &mut Vec<Finding>,
) {
    let Some(last) = chain.rules.len().checked_sub(1) else {
        return;
    };
    let source = subject.loaded.source.table(chain.place.table);
    let source = source.and_then(|t| t.chain(&chain.place.chain));
    let target = |index: usize| source.and_then(|c| Some(&c.rules.get(index)?.spec.target));
    let plain = same(chain.rules[last].verdict, chain.rules[last].verdict)
        && chain.rules[last].effects.is_empty();
    for index in chain.rules.len()..count {
        let place = chain.at(index);
        let (place_name, taker) = (name(&place), last + 1);
        let (code, text, help) = if plain && target(index) == target(last) {
            let text = format!(
                "rule {place_name} is redundant: rule {taker} takes everything and treats it alike"
            );
            ("TG014", text, subject.deleted(&place))
        } else {
            let text = format!("rule {place_name} can never match: rule {taker} takes everything");
            ("TG010", text, subject.moved(&place, last as u32 + 1))
        };
        findings.push(
            Finding::new(code, Some(place), text)
                .other(chain.at(last), "takes everything")
                .help(help),
        );
    }
}

/// A rule that nothing matches: why.
fn dead(
    subject: &mut Subject<'_>,
    chain: &Chain<'_>,
    index: usize,
    look: bool,
) -> Result<Option<Finding>, TooBig> {
    let rule = &chain.rules[index];
    let place = chain.at(index);
    let title = format!("rule {} can never match", name(&place));
    if !look {
        return Ok(Some(Finding::new("TG010", Some(place), title)));
    }
    let holds = subject.space.rule(&rule.cond)?.holds;
    let own = subject.space.bdd.and(holds, chain.first)?;
    if own.is_empty() {
        let why = match chain.place.number {
            _ if rule.cond.iter().any(|c| *c == Cond::Const(false)) => {
                "its conditions contradict each other"
            }
            _ => "no packet that gets to this chain fulfils its conditions",
        };
        let finding = Finding::new("TG012", Some(place.clone()), format!("{title}: {why}"));
        return Ok(Some(finding.help(subject.deleted(&place))));
    }
    let (by, complete) = takers(subject, chain, index, own)?;
    let taken = Taken {
        by,
        complete,
        drops: false,
    };
    Ok(Some(taken_by(subject, chain, index, &taken)))
}

/// A rule whose packets earlier ones take.
fn taken_by(subject: &Subject<'_>, chain: &Chain<'_>, index: usize, taken: &Taken) -> Finding {
    let rule = &chain.rules[index];
    let place = chain.at(index);
    let title = format!("rule {} can never match", name(&place));
    let (by, complete) = (&taken.by, taken.complete);
    let alike = complete
        && !taken.drops
        && rule.effects.is_empty()
        && by.iter().all(|&t| {
            let taker = &chain.rules[t];
            same(taker.verdict, rule.verdict) && taker.effects.is_empty()
        });
    let numbers: Vec<String> = by.iter().map(|t| (t + 1).to_string()).collect();
    let which = match (numbers.as_slice(), complete) {
        ([], _) => "earlier rules take all of its packets".to_owned(),
        ([one], true) => format!("rule {one} takes all of its packets"),
        (all, true) => format!("rules {} together take all of its packets", all.join(", ")),
        (some, false) => format!(
            "earlier rules, among them {}, take all of its packets",
            some.join(", ")
        ),
    };
    let (code, text) = match alike {
        true => (
            "TG014",
            format!(
                "rule {} is redundant: {which} and treat them alike",
                name(&place)
            ),
        ),
        false => ("TG010", format!("{title}: {which}")),
    };
    let mut finding = Finding::new(code, Some(place.clone()), text);
    for &t in by {
        finding = finding.other(chain.at(t), "takes its packets");
    }
    let help = match (alike, by.iter().min()) {
        (false, Some(&before)) => subject.moved(&place, before as u32 + 1),
        _ => subject.deleted(&place),
    };
    finding.help(help)
}

/// Whether two verdicts treat a packet alike.
fn same(a: Verdict, b: Verdict) -> bool {
    a == b && matches!(a, Verdict::Accept | Verdict::Drop | Verdict::Reject(_))
}

/// Which rules before `index` take the packets in `own`, and whether they are all that do.
fn takers(
    subject: &mut Subject<'_>,
    chain: &Chain<'_>,
    index: usize,
    own: Set,
) -> Result<(Vec<usize>, bool), TooBig> {
    let mut taken = Vec::new();
    let mut left = own;
    // The last first: a rule that takes everything is more to the point than those before it.
    for at in (0..index).rev() {
        let taker = &chain.rules[at];
        if left.is_empty() || taken.len() == NAMED {
            break;
        }
        let Some(reach) = chain.reach.get(&taker.id) else {
            continue;
        };
        let stays = taker.verdict == Verdict::Continue && taker.effects.is_empty();
        let some = subject.space.bdd.and(left, reach.matches)?;
        if !stays && !some.is_empty() {
            let holds = subject.space.rule(&taker.cond)?.holds;
            taken.push(at);
            left = subject.space.bdd.minus(left, holds)?;
        }
    }
    taken.sort_unstable();
    Ok((taken, left.is_empty()))
}

fn states(subject: &mut Subject<'_>, set: Set) -> Result<Vec<&'static str>, TooBig> {
    let mut found = Vec::new();
    for (state, name) in STATES {
        let of = subject.space.within(Field::CtState, state, state)?;
        if !subject.space.bdd.and(set, of)?.is_empty() {
            found.push(name);
        }
    }
    Ok(found)
}

/// As [`states_left`], of a rule that was looked at alone.
fn odd(
    subject: &mut Subject<'_>,
    chain: &Chain<'_>,
    index: usize,
    (taken, left): (&Taken, &[u128]),
) -> Result<Option<Finding>, TooBig> {
    let rule = &chain.rules[index];
    let own = subject.space.rule(&rule.cond)?.holds;
    let wanted = states(subject, own)?;
    if rule.cond.is_empty() || !wanted.contains(&"NEW") {
        return Ok(None);
    }
    let place = chain.at(index);
    let names = STATES.iter().filter(|s| left.contains(&s.0)).map(|s| s.1);
    let names: Vec<&str> = names.collect();
    let text = format!(
        "rule {} is reached only by {} packets",
        name(&place),
        names.join(" and ")
    );
    let mut finding = Finding::new("TG011", Some(place.clone()), text);
    for &by in &taken.by {
        let takes = subject.space.rule(&chain.rules[by].cond)?.holds;
        let both = subject.space.bdd.and(own, takes)?;
        let of = states(subject, both)?;
        let of: Vec<&str> = of.into_iter().filter(|s| !names.contains(s)).collect();
        finding = finding.other(chain.at(by), format!("takes {} packets", of.join(", ")));
    }
    let first = taken.by.first().copied().unwrap_or(index);
    let help = subject.moved(&place, first as u32 + 1);
    Ok(Some(finding.help(help)))
}

/// A rule for new connections that only odd packets get to.
fn states_left(
    subject: &mut Subject<'_>,
    chain: &Chain<'_>,
    index: usize,
    matches: Set,
) -> Result<Option<Finding>, TooBig> {
    let rule = &chain.rules[index];
    if rule.cond.is_empty() {
        return Ok(None);
    }
    let left = states(subject, matches)?;
    let odd = |s: &&str| matches!(*s, "INVALID" | "UNTRACKED");
    if !left.iter().all(odd) {
        return Ok(None);
    }
    let holds = subject.space.rule(&rule.cond)?.holds;
    let own = subject.space.bdd.and(holds, chain.first)?;
    let wanted = states(subject, own)?;
    if !wanted.contains(&"NEW") {
        return Ok(None);
    }
    let place = chain.at(index);
    let text = format!(
        "rule {} is reached only by {} packets",
        name(&place),
        left.join(" and ")
    );
    let mut finding = Finding::new("TG011", Some(place.clone()), text);
    let mut first = index;
    for (state, label) in STATES
        .iter()
        .filter(|s| wanted.contains(&s.1) && !left.contains(&s.1))
    {
        let of = subject.space.within(Field::CtState, *state, *state)?;
        let some = subject.space.bdd.and(own, of)?;
        for taker in takers(subject, chain, index, some)?.0 {
            first = first.min(taker);
            finding = finding.other(chain.at(taker), format!("takes {label} packets"));
        }
    }
    let help = subject.moved(&place, first as u32 + 1);
    Ok(Some(finding.help(help)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_which_nothing_is_known_are_named_with_the_reason() {
        let numbers = |list: &[usize]| list.to_vec();
        let unknown = Unknown::from([
            (
                ("INPUT".to_owned(), Why::Combinations),
                numbers(&[3, 4, 5, 9]),
            ),
            (("mine".to_owned(), Why::Work), numbers(&[1])),
        ]);
        let found = left_out(TableKind::Filter, &unknown);
        let said: Vec<_> = found.iter().map(|f| (f.text.as_str(), &f.notes)).collect();
        assert!(
            said[0]
                .0
                .starts_with("whether 4 rules of filter INPUT can match is unknown: ")
        );
        assert_eq!(*said[0].1, ["rules 3-5, 9"]);
        assert!(said[1].0.ends_with(Why::Work.text()));
        assert_eq!(*said[1].1, ["rules 1"]);
        let many: Vec<usize> = (0..100).map(|n| 2 * n).collect();
        assert!(spans(&many).ends_with("78, and 60 spans more"));
    }
}
