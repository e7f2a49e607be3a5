//! What comparisons say against what the engine does with random connections.
//!
//! `TIDEGATE_DIFF_CASES` is the number of pairs of rulesets, `TIDEGATE_DIFF_FIRST` the first of them,
//! `TIDEGATE_DIFF_PACKETS` the number of connections for each, `TIDEGATE_DIFF_CHANGES` that of changed
//! rulesets made of each file in the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use tidegate_engine::Output;
use tidegate_host::Host;
use tidegate_wire::proto;

use super::*;
use crate::course::Runner;
use crate::packets::Described;
use crate::query::tests::tree::{Named, files, read};
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

/// What becomes of a packet.
type Fate = (&'static str, Vec<Output>);

/// What becomes of the packets of a connection.
fn fates(runner: &mut Runner, packet: &Described) -> Vec<Fate> {
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

/// What comparisons came to.
#[derive(Debug, Default)]
struct Tally {
    pairs: usize,
    same: usize,
    told: usize,
    unknown: usize,
    /// Connections that the two rulesets treat differently.
    unlike: usize,
    /// What is unknown, and in how many pairs.
    why: BTreeMap<String, u32>,
}

impl Tally {
    /// Rulesets that are said to be the same treat every connection alike; of a connection whose
    /// first packet is let in by one of them alone, some such difference was told.
    fn compare(
        &mut self,
        name: &str,
        [a, b]: [&Loaded; 2],
        host: &Host,
        mut packet: impl FnMut() -> Described,
    ) {
        let found = compare(a, b, Some(host));
        let equal = found.is_same();
        self.pairs += 1;
        self.same += usize::from(equal);
        self.told += found.differences.len();
        self.unknown += usize::from(!found.unknown.is_empty());
        let kinds: BTreeSet<String> = found.unknown.iter().map(|u| kind(u)).collect();
        for kind in kinds {
            *self.why.entry(kind).or_default() += 1;
        }
        let said = |words: &[&str]| {
            let any = found.differences.iter().any(|d| words.contains(&d.what));
            any || !found.unknown.is_empty()
        };
        // Whether all that ought to have been told of a connection was.
        let was_told = |was: &[Fate], is: &[Fate]| {
            let [old, new] = [was, is].map(|l| l.first().is_some_and(|f| f.0 == "ACCEPT"));
            !equal
                && match (old, new) {
                    (true, false) => {
                        said(&["newly dropped", "newly rejected", "newly without a way"])
                    }
                    (false, true) => said(&["newly accepted"]),
                    _ => true,
                }
        };
        let sides = [Rules(vec![a.copy()]), Rules(vec![b.copy()])];
        let new = || sides.each_ref().map(|s| Runner::new(host, s));
        let mut runners = new();
        for _ in 0..count("TIDEGATE_DIFF_PACKETS", 40) {
            let packet = packet();
            let [was, is] = runners.each_mut().map(|s| fates(s, &packet));
            if was == is {
                continue;
            }
            self.unlike += 1;
            if was_told(&was, &is) {
                continue;
            }
            // What is drawn may differ in engines that have seen others before.
            let [was, is] = new().each_mut().map(|s| fates(s, &packet));
            assert!(
                was == is || was_told(&was, &is),
                "{name}: {packet:?}\n{was:?}\n{is:?}\n{found:#?}"
            );
        }
    }
}

/// Random rulesets, changed a little.
#[test]
fn what_the_engine_treats_differently_was_told() {
    let mut tally = Tally::default();
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
        let a = world.load(&before);
        let name = format!("case {case}\n{before}\n{after}");
        tally.compare(&name, [&a, &b], &world.host, || {
            let protocol = r.of(&[proto::TCP, proto::UDP]);
            world.connection(&mut r, protocol)
        });
    }
    eprintln!("pairs of rulesets {range:?}: {tally:#?}");
    let Tally { pairs, same, .. } = tally;
    assert!(
        same * 8 > pairs && tally.told * 2 > pairs && tally.unlike > pairs,
        "{tally:#?}"
    );
    assert!(tally.unknown * 4 < pairs, "{tally:#?}");
}

/// The files of rules in the tree, changed a little.
#[test]
fn changes_of_the_files_in_the_tree_are_told() {
    let mut tally = Tally::default();
    let world = World::of(0);
    for (seed, path) in (1u64..).zip(&files()) {
        let mut r = Random(seed * 2 + 1);
        let Some((text, rules, host)) = read(path, &mut r) else {
            continue;
        };
        let named = Named::by(&text);
        for _ in 0..count("TIDEGATE_DIFF_CHANGES", 1) {
            let after = changed(&world, &mut r, &text);
            let Ok(mut b) = Loaded::parse(&after, "rules", Family::V4) else {
                continue;
            };
            b.sets = rules.0[0].sets.clone();
            let name = format!("{}\n{after}", path.display());
            tally.compare(&name, [&rules.0[0], &b], &host, || named.packet(&mut r));
        }
    }
    eprintln!("changed files: {tally:#?}");
    let Tally { pairs, same, .. } = tally;
    assert!(
        pairs > 30 && same * 3 < pairs * 2 && tally.unlike * 2 > pairs,
        "{tally:#?}"
    );
    assert!(tally.unknown * 4 < pairs, "{tally:#?}");
}
