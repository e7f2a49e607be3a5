//! Rules that are said to be dead against what the engine does: random rulesets, and all files of
//! rules in the tree.
//!
//! `TIDEGATE_CHECK_CASES` is the number of rulesets, `TIDEGATE_CHECK_FIRST` the first of them,
//! `TIDEGATE_CHECK_PACKETS` the number of connections for each.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::ControlFlow;

use tidegate_host::Host;
use tidegate_wire::proto;

use super::*;
use crate::course::Runner;
use crate::packets::Described;
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

/// Files of IPv4 rules below a directory.
fn files(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, all);
        } else if name.ends_with(".rules") && !name.contains("v6") || name.ends_with(".v4") {
            all.push(path);
        }
    }
}

/// A packet of values that a file names, and of their neighbours.
fn out_of(r: &mut Random, text: &str) -> Described {
    let words: Vec<&str> = text.split([' ', '\n', ',', ':', '-', '/']).collect();
    let names = |option: &str| -> Vec<String> {
        let lines = text.lines().flat_map(|l| {
            let words: Vec<&str> = l.split(' ').collect();
            let pairs: Vec<(String, String)> = words
                .windows(2)
                .map(|w| (w[0].to_owned(), w[1].replace('+', "0")))
                .collect();
            pairs
        });
        lines.filter(|p| p.0 == option).map(|p| p.1).collect()
    };
    let mut hosts: Vec<IpAddr> = words.iter().filter_map(|w| w.parse().ok()).collect();
    hosts.retain(|a| a.is_ipv4() && !a.is_unspecified());
    hosts.push(IpAddr::from([198, 51, 100, 7]));
    let mut ports: Vec<u16> = words.iter().filter_map(|w| w.parse().ok()).collect();
    ports.extend([22, 80, 443, 40_000]);
    let mut links = names("-i");
    links.extend(["eth0".to_owned(), "eth1".to_owned()]);
    let near = |r: &mut Random, host: IpAddr| match host {
        IpAddr::V4(a) => IpAddr::from((u32::from(a).wrapping_add(r.below(3) as u32)).to_be_bytes()),
        other => other,
    };
    let protocol = r.of(&[proto::TCP, proto::TCP, proto::UDP, proto::ICMP]);
    let (src, dst) = (r.of(&hosts), r.of(&hosts));
    let mut packet = Described::new(protocol, near(r, src), near(r, dst));
    packet.sport = ports[r.below(ports.len() as u64) as usize];
    packet.dport = ports[r.below(ports.len() as u64) as usize];
    packet.input = Some(links[r.below(links.len() as u64) as usize].clone());
    packet
}

#[test]
fn dead_rules_of_the_files_in_the_tree_are_never_hit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    files(&root.join("../../scenarios"), &mut all);
    files(&root.join("tests/data"), &mut all);
    all.sort();
    let (mut tried, mut dead, mut hit) = (0, 0, 0);
    for (seed, path) in (1u64..).zip(&all) {
        let text = fs::read_to_string(path).unwrap();
        let given = Given {
            rules: Some(path.clone()),
            ..Given::default()
        };
        let Ok(rules) = given.rules() else {
            // They look into sets that are defined elsewhere.
            continue;
        };
        let mut r = Random(seed * 2 + 1);
        let first: Vec<Described> = (0..6).map(|_| out_of(&mut r, &text)).collect();
        let (host, _) = given.host(&rules, &first).unwrap();
        let name = path.display().to_string();
        let counts = never_hit(&name, &text, (&host, Family::V4), |_| out_of(&mut r, &text));
        tried += 1;
        dead += counts.0;
        hit += counts.1;
    }
    assert!(tried > 25 && dead > 5 && hit > 100, "{tried} {dead} {hit}");
}
