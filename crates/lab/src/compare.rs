//! The same scenario with the kernel's firewall and with Tidegate: do they agree?
//!
//! Each run alone already shows that counters are what the wires show. Here the two runs
//! are held against each other after every step: the same rules, the same rules hit, the
//! same connections. How many packets a rule counted is compared where the scenario says
//! a number; elsewhere TCP puts the same bytes into more packets or fewer as it likes.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::{Counted, Event};

/// Ports from here on are drawn, unless the scenario names them.
const FIRST_DRAWN: u16 = 1024;

/// What a run looked like after a step.
struct State<'a> {
    rules: &'a [Counted],
    connections: &'a [String],
}

/// Where the two runs of a scenario differ, a line each. `named` are the ports that the
/// scenario names.
pub(crate) fn differences(
    kernel: &[Event],
    tidegate: &[Event],
    named: &BTreeSet<u16>,
) -> Vec<String> {
    let (kernel, tidegate) = (states(kernel), states(tidegate));
    let mut found = Vec::new();
    for (step, k) in &kernel {
        if let Some(t) = tidegate.get(step) {
            let mut differs = |what: String| found.push(format!("after step {}: {what}", step + 1));
            rules(k.rules, t.rules, &mut differs);
            connections(
                &normal(k.connections, named),
                &normal(t.connections, named),
                &mut differs,
            );
        }
    }
    found
}

/// By the number of the step; steps that one firewall alone has played are not in both.
fn states(events: &[Event]) -> BTreeMap<usize, State<'_>> {
    let states = events.iter().filter_map(|event| match event {
        Event::State {
            step,
            incomparable: false,
            rules,
            connections,
        } => Some((*step, State { rules, connections })),
        _ => None,
    });
    states.collect()
}

fn rules(kernel: &[Counted], tidegate: &[Counted], differs: &mut dyn FnMut(String)) {
    let (kernel, tidegate) = (comparable(kernel), comparable(tidegate));
    for (place, k) in &kernel {
        match tidegate.get(place) {
            None => differs(format!("Tidegate has no {place}: {}", k.text)),
            Some(t) if t.text != k.text => {
                differs(format!("{place}: {} and {}", k.text, t.text));
            }
            // iptables loses what policies counted when another rule changes.
            Some(_) if place.ends_with(" policy") => {}
            // Neighbour discovery comes when it likes.
            Some(_) if k.text.contains("-p ipv6-icmp") => {}
            Some(t) if (t.packets == 0) != (k.packets == 0) => differs(format!(
                "{place}: {} packets with the kernel, {} with Tidegate ({})",
                k.packets, t.packets, k.text
            )),
            Some(_) => {}
        }
    }
    for (place, t) in &tidegate {
        if !kernel.contains_key(place) {
            differs(format!("the kernel has no {place}: {}", t.text));
        }
    }
}

/// Rules by place. Not there are rules that only the kernel needs to be given a helper, and
/// policies that are what every chain begins with: a table is there once it is used.
fn comparable(rules: &[Counted]) -> BTreeMap<&str, &Counted> {
    let rules = rules.iter().filter(|rule| {
        let usual = rule.text.starts_with("-P ") && rule.text.ends_with(" ACCEPT");
        !usual && !rule.text.contains("-j CT --helper")
    });
    rules.map(|rule| (rule.place.as_str(), rule)).collect()
}

fn connections(kernel: &[String], tidegate: &[String], differs: &mut dyn FnMut(String)) {
    let mut left: Vec<&String> = kernel.iter().collect();
    for line in tidegate {
        match left.iter().position(|l| *l == line) {
            Some(found) => drop(left.swap_remove(found)),
            None => differs(format!("a connection with Tidegate alone: {line}")),
        }
    }
    for line in left {
        differs(format!("a connection with the kernel alone: {line}"));
    }
}

/// Connections without what differs from run to run: seconds left, ports and ids that
/// were drawn, references.
fn normal(lines: &[String], named: &BTreeSet<u16>) -> Vec<String> {
    let words = |line: &String| {
        let words = line.split_whitespace().enumerate();
        let words = words.filter_map(|(at, word)| match word.split_once('=') {
            Some(("use" | "id" | "packets" | "bytes", _)) => None,
            Some((port @ ("sport" | "dport"), number)) => {
                let drawn = |n: u16| n >= FIRST_DRAWN && !named.contains(&n);
                let drawn = number.parse().is_ok_and(drawn);
                Some(if drawn {
                    format!("{port}=*")
                } else {
                    word.to_owned()
                })
            }
            Some(_) => Some(word.to_owned()),
            // Protocol, its number, seconds.
            None if at == 2 => None,
            None => Some(word.to_owned()),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    lines.iter().map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(rules: &[(&str, u64)], connections: &[&str]) -> Vec<Event> {
        let rules = rules.iter().map(|(place, packets)| Counted {
            place: (*place).to_owned(),
            text: if place.ends_with("policy") {
                "-P OUTPUT ACCEPT"
            } else {
                "-A"
            }
            .to_owned(),
            packets: *packets,
            bytes: 0,
        });
        vec![Event::State {
            step: 0,
            incomparable: false,
            rules: rules.collect(),
            connections: connections.iter().map(|c| (*c).to_owned()).collect(),
        }]
    }

    #[test]
    fn what_differs_from_run_to_run_does_not_matter() {
        let kernel = state(
            &[("INPUT 1", 9), ("raw OUTPUT policy", 3)],
            &[
                "tcp 6 100 CLOSE src=1.2.3.4 sport=40000 dport=22 use=1",
                "udp 17 3 dport=53",
            ],
        );
        let tidegate = state(
            &[("INPUT 1", 8)],
            &[
                "udp 17 29 dport=53",
                "tcp 6 99 CLOSE src=1.2.3.4 sport=50000 dport=22 use=2",
            ],
        );
        let named = BTreeSet::from([2121]);
        assert_eq!(
            differences(&kernel, &tidegate, &named),
            Vec::<String>::new()
        );
    }

    #[test]
    fn everything_else_does() {
        let kernel = state(&[("INPUT 1", 9)], &["udp 17 3 dport=53"]);
        for other in [
            state(&[("INPUT 1", 0)], &["udp 17 3 dport=53"]),
            state(&[("INPUT 2", 9)], &["udp 17 3 dport=53"]),
            state(&[("INPUT 1", 9)], &[]),
            state(
                &[("INPUT 1", 9)],
                &["udp 17 3 dport=53", "udp 17 3 dport=53"],
            ),
            state(&[("INPUT 1", 9)], &["udp 17 3 dport=54"]),
        ] {
            assert!(!differences(&kernel, &other, &BTreeSet::new()).is_empty());
        }
    }
}
