//! What comparisons say against what the engine does with random connections.
//!
//! `TIDEGATE_DIFF_CASES` is the number of pairs of rulesets, `TIDEGATE_DIFF_FIRST` the first of them,
//! `TIDEGATE_DIFF_PACKETS` the number of connections for each.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use tidegate_engine::Output;
use tidegate_wire::proto;

use super::*;
use crate::course::Runner;
use crate::packets::Described;
use crate::query::tests::world::{Random, World, cases, count};
use crate::replay::rules::Rules;

/// The ruleset with a few rules taken out, doubled, moved or changed.
fn changed(world: &World, r: &mut Random, text: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..1 + r.below(8) {
        let rules: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].starts_with("-A"))
            .collect();
        if rules.is_empty() {
            continue;
        }
        let at = r.of(&rules);
        let chain = |line: &String| line.split(' ').nth(1).map(str::to_owned);
        match r.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 if at + 1 < lines.len() && chain(&lines[at]) == chain(&lines[at + 1]) => {
                lines.swap(at, at + 1);
            }
            3 => lines[at] = lines[at].replace("-j ACCEPT", "-j DROP"),
            4 => lines[at] = lines[at].replace("-j DROP", "-j ACCEPT"),
            5 => {
                let (from, to) = (World::port(r).to_string(), World::port(r).to_string());
                let port = |side: &str, port: &str| format!("{side}port {port} ");
                lines[at] = lines[at].replace(&port("--d", &from), &port("--d", &to));
            }
            6 => {
                let (from, to) = (world.network(r), world.network(r));
                lines[at] = lines[at].replace(&from, &to);
            }
            _ => {
                let policy = lines.iter().position(|l| l.starts_with(":FORWARD DROP"));
                if let Some(at) = policy {
                    lines[at] = lines[at].replace("DROP", "ACCEPT");
                }
            }
        }
    }
    lines.join("\n") + "\n"
}

/// What becomes of the packets of a connection.
fn fates(runner: &mut Runner, packet: &Described) -> Vec<(&'static str, Vec<Output>)> {
    runner.forget();
    let mut all = Vec::new();
    let watch = |_: &Runner, _: &Described| ();
    runner.drive([packet], true, watch, |_, _, passed, ()| {
        all.push((passed.fate.word(), passed.outputs));
        ControlFlow::Continue(())
    });
    all
}

/// What is not known, without the rule that it is about.
fn kind(unknown: &str) -> String {
    let words = unknown.split([':', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
    words
        .map(str::trim)
        .find(|w| !w.is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// Rulesets that are said to be the same treat every connection alike; of a connection whose first
/// packet is let in by one of them alone, some such difference was told. Examples that are told as
/// tried have been.
#[test]
fn what_the_engine_treats_differently_was_told() {
    let (mut pairs, mut same, mut told, mut unknown, mut unlike) = (0, 0, 0, 0, 0);
    let mut why: BTreeMap<String, u32> = BTreeMap::new();
    let range = cases("TIDEGATE_DIFF", 40);
    for case in range.clone() {
        let world = World::of(case);
        let mut r = Random(case * 2 + 1);
        r.below(7);
        let before = world.ruleset(&mut r);
        let after = changed(&world, &mut r, &before);
        let Ok(b) = Loaded::parse(&after, "rules", world.family) else {
            // A target in a table that does not take it.
            continue;
        };
        pairs += 1;
        let a = world.load(&before);
        let found = compare(&a, &b, Some(&world.host));
        let equal = found.is_same();
        same += usize::from(equal);
        told += found.differences.len();
        unknown += usize::from(!found.unknown.is_empty());
        let kinds: BTreeSet<String> = found.unknown.iter().map(|u| kind(u)).collect();
        kinds
            .into_iter()
            .for_each(|k| *why.entry(k).or_default() += 1);
        let said = |words: &[&str]| {
            let any = found.differences.iter().any(|d| words.contains(&d.what));
            any || !found.unknown.is_empty()
        };
        let sides = [Rules(vec![a.copy()]), Rules(vec![b.copy()])];
        let new = || sides.each_ref().map(|s| Runner::new(&world.host, s));
        let mut runners = new();
        for _ in 0..count("TIDEGATE_DIFF_PACKETS", 40) {
            let protocol = r.of(&[proto::TCP, proto::UDP]);
            let packet = world.connection(&mut r, protocol);
            let [was, is] = runners.each_mut().map(|s| fates(s, &packet));
            if was == is {
                continue;
            }
            // What is drawn may differ in engines that have seen others before.
            let [was, is] = new().each_mut().map(|s| fates(s, &packet));
            if was == is {
                continue;
            }
            unlike += 1;
            let all = || {
                format!("case {case}: {packet:?}\n{was:?}\n{is:?}\n{found:#?}\n{before}\n{after}")
            };
            assert!(!equal, "{}", all());
            let [old, new] = [&was, &is].map(|l| l.first().is_some_and(|f| f.0 == "ACCEPT"));
            if old && !new {
                let words = ["newly dropped", "newly rejected", "newly without a way"];
                assert!(said(&words), "{}", all());
            } else if new && !old {
                assert!(said(&["newly accepted"]), "{}", all());
            }
        }
    }
    eprintln!(
        "pairs of rulesets {range:?}: {same} the same, {told} differences, {unknown} of {pairs} with something \
         unknown, {unlike} connections unlike\n{why:#?}"
    );
    assert!(
        same * 8 > pairs && told * 2 > pairs && unlike > pairs,
        "{same} {told} {unlike}"
    );
    assert!(
        unknown * 4 < pairs,
        "{unknown} of {pairs} unknown: {why:#?}"
    );
}
