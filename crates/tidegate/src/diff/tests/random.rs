//! What comparisons say against what the engine does with random connections.
//!
//! `TIDEGATE_DIFF_CASES` is the number of pairs of rulesets, `TIDEGATE_DIFF_PACKETS` that of
//! connections for each.

use std::ops::ControlFlow;

use tidegate_wire::proto;

use super::*;
use crate::course::Runner;
use crate::packets::Described;
use crate::query::tests::random::{HOST, NETWORKS, PORTS, Random, connection, count, ruleset};
use crate::replay::rules::Rules;

/// The ruleset with a few rules taken out, doubled, moved or changed.
fn changed(r: &mut Random, text: &str) -> String {
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
                let (from, to) = (r.of(&PORTS).to_string(), r.of(&PORTS).to_string());
                let port = |side: &str, port: &str| format!("{side}port {port} ");
                lines[at] = lines[at].replace(&port("--d", &from), &port("--d", &to));
            }
            6 => {
                let (from, to) = (r.of(&NETWORKS), r.of(&NETWORKS));
                lines[at] = lines[at].replace(from, to);
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

/// What becomes of the packets of a connection, a line each.
fn fates(rules: &Rules, host: &Host, packet: &Described) -> Vec<String> {
    let mut runner = Runner::new(host, rules);
    let mut all = Vec::new();
    let watch = |_: &Runner, _: &Described| ();
    runner.drive([packet], true, watch, |_, _, passed, ()| {
        all.push(format!("{} {:?}", passed.fate.word(), passed.outputs));
        ControlFlow::Continue(())
    });
    all
}

/// Rulesets that are said to be the same treat every connection alike; of a connection whose first
/// packet is let in by one of them alone, some such difference was told. Examples that are told as
/// tried have been.
#[test]
fn what_the_engine_treats_differently_was_told() {
    let host = Host::parse(HOST).unwrap();
    let (mut same, mut told, mut unknown, mut unlike) = (0, 0, 0, 0);
    for case in 0..count("TIDEGATE_DIFF_CASES", 40) {
        let mut r = Random(case * 2 + 1);
        r.below(7);
        let before = ruleset(&mut r);
        let after = changed(&mut r, &before);
        let (a, b) = (load(&before), load(&after));
        let found = compare(&a, &b, Some(&host));
        let equal = found.differences.is_empty() && found.unknown.is_empty();
        same += usize::from(equal);
        told += found.differences.len();
        unknown += usize::from(!found.unknown.is_empty());
        let said = |words: &[&str]| {
            let any = found.differences.iter().any(|d| words.contains(&d.what));
            any || !found.unknown.is_empty()
        };
        let sides = [Rules(vec![a.copy()]), Rules(vec![b.copy()])];
        for _ in 0..count("TIDEGATE_DIFF_PACKETS", 40) {
            let protocol = r.of(&[proto::TCP, proto::UDP]);
            let packet = connection(&mut r, protocol);
            let [was, is] = sides.each_ref().map(|s| fates(s, &host, &packet));
            if was == is {
                continue;
            }
            unlike += 1;
            let all = || {
                format!("case {case}: {packet:?}\n{was:?}\n{is:?}\n{found:#?}\n{before}\n{after}")
            };
            assert!(!equal, "{}", all());
            let word = |list: &[String]| {
                list.first()
                    .map(|l| l.split(' ').next().unwrap_or("").to_owned())
            };
            let (old, new) = (word(&was), word(&is));
            let accepted = |w: &Option<String>| w.as_deref() == Some("ACCEPT");
            if accepted(&old) && !accepted(&new) {
                let words = ["newly dropped", "newly rejected", "newly without a way"];
                assert!(said(&words), "{}", all());
            } else if accepted(&new) && !accepted(&old) {
                assert!(said(&["newly accepted"]), "{}", all());
            }
        }
    }
    eprintln!(
        "{same} the same, {told} differences, {unknown} with something unknown, {unlike} connections unlike"
    );
    let cases = count("TIDEGATE_DIFF_CASES", 40) as usize;
    assert!(
        same * 8 > cases && told * 2 > cases && unlike > cases,
        "{same} {told} {unlike}"
    );
    assert!(unknown * 4 < cases, "{unknown} of {cases} unknown");
}
