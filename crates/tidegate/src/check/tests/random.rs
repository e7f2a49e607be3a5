//! Rules that are said to be dead against what the engine does: random rulesets, and all files of
//! rules in the tree.
//!
//! `TIDEGATE_CHECK_CASES` is the number of rulesets, `TIDEGATE_CHECK_FIRST` the first of them,
//! `TIDEGATE_CHECK_PACKETS` the number of connections for each.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tidegate_host::Host;
use tidegate_wire::proto;

use super::*;
use crate::course::Runner;
use crate::packets::Described;
use crate::query::tests::tree::{Named, files, read};
use crate::query::tests::world::{Random, World, cases, count};
use crate::replay::rules::Rules;

/// Counters of rules that are said never to match.
fn dead(loaded: &Loaded, text: &str) -> BTreeSet<usize> {
    let found = examine(loaded, &Source::new("rules", text));
    let never = found
        .iter()
        .filter(|f| ["TG010", "TG012", "TG013", "TG014"].contains(&f.code));
    let places: Vec<&Place> = never.filter_map(|f| f.place.as_ref()).collect();
    let origins = loaded.origin.iter().enumerate();
    let said = |o: &tidegate_syntax::RuleOrigin| {
        places.iter().any(|p| {
            let number = p.number == 0 || p.number == o.number;
            (p.table, &p.chain) == (o.table, &o.chain) && number
        })
    };
    origins.filter(|(_, o)| said(o)).map(|(id, _)| id).collect()
}

/// Sends connections, and single packets out of the middle of some, and looks at the counters.
fn never_hit(
    name: &str,
    text: &str,
    (host, family): (&Host, Family),
    mut packet: impl FnMut(u64) -> Described,
) -> (usize, usize) {
    let loaded = Loaded::parse(text, "rules", family).unwrap();
    let dead = dead(&loaded, text);
    let rules = Rules(vec![loaded]);
    let mut runner = Runner::new(host, &rules);
    for at in 0..count("TIDEGATE_CHECK_PACKETS", 100) {
        let packet = packet(at);
        let watch = |_: &Runner, _: &Described| ();
        let seen = |_: &mut Runner, _: crate::course::Sent<'_>, _, ()| ControlFlow::Continue(());
        runner.drive([&packet], at % 4 != 0, watch, seen);
        if at % 16 == 0 {
            runner.forget();
        }
    }
    let counters = runner.engine.counters(family);
    let origin = &rules.0[0].origin;
    for id in &dead {
        assert_eq!(
            counters[*id].packets, 0,
            "{name}: {:?}\n{text}",
            origin[*id]
        );
    }
    (
        dead.len(),
        counters.iter().filter(|c| c.packets > 0).count(),
    )
}

#[test]
fn rules_that_are_said_to_be_dead_are_never_hit() {
    let (mut dead, mut hit) = (0, 0);
    let range = cases("TIDEGATE_CHECK", 60);
    for case in range.clone() {
        let world = World::of(case);
        let mut r = Random(case * 2 + 900_001);
        r.below(7);
        let text = world.ruleset(&mut r);
        let packet = |_| {
            let protocol = r.of(&[proto::TCP, proto::UDP]);
            world.connection(&mut r, protocol)
        };
        let place = (&world.host, world.family);
        let counts = never_hit(&format!("case {case}"), &text, place, packet);
        dead += counts.0;
        hit += counts.1;
    }
    eprintln!("rulesets {range:?}: {dead} rules said to be dead, {hit} hit");
    assert!(dead > 60 && hit > 200, "{dead} dead, {hit} hit");
}

#[test]
fn dead_rules_of_the_files_in_the_tree_are_never_hit() {
    let (mut tried, mut dead, mut hit) = (0, 0, 0);
    for (seed, path) in (1u64..).zip(&files()) {
        let mut r = Random(seed * 2 + 1);
        let Some((text, _, host)) = read(path, &mut r) else {
            continue;
        };
        let (name, named) = (path.display().to_string(), Named::by(&text));
        let counts = never_hit(&name, &text, (&host, Family::V4), |_| named.packet(&mut r));
        tried += 1;
        dead += counts.0;
        hit += counts.1;
    }
    assert!(tried > 25 && dead > 5 && hit > 100, "{tried} {dead} {hit}");
}
