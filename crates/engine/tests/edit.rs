//! Rules changed one by one against the same rules loaded as a whole.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use proptest::prelude::*;
use tidegate_engine::env::IfIndex;
use tidegate_engine::{
    Config, Counter, Disposition, Edit, Engine, Incoming, NotInPlace, TrackWhen,
};
use tidegate_ir::{Chain, ChainId, Rule, RuleId, Ruleset, TableKind};
use tidegate_wire::{Family, checksum, proto};

use common::{interface, lowered, router};

const SECOND: u64 = 1_000_000_000;
/// The place of the chain FORWARD in a filter table.
const FORWARD: (TableKind, ChainId) = (TableKind::Filter, ChainId(1));

fn ruleset(lines: &[String]) -> Arc<Ruleset> {
    let rules: String = lines.iter().map(|l| format!("-A FORWARD {l}\n")).collect();
    let text = format!("*filter\n:FORWARD DROP [0:0]\n:called - [0:0]\n{rules}COMMIT\n");
    lowered(&text, Family::V4)
}

fn forward(ruleset: &Ruleset) -> &Chain {
    let chain = ruleset.table(FORWARD.0).unwrap().chain(FORWARD.1).unwrap();
    assert_eq!(chain.name, "FORWARD");
    chain
}

fn rule(line: &str) -> Rule {
    forward(&ruleset(&[line.to_owned()])).rules[0].clone()
}

fn engine(lines: &[String], track: TrackWhen) -> Engine {
    let interfaces = vec![
        interface(2, "in0", 0x0a00_0001, 16),
        interface(3, "out0", 0x0a09_0001, 16),
    ];
    let config = Config {
        track,
        ..Config::default()
    };
    let mut engine = router(config, interfaces);
    engine.load(ruleset(lines));
    engine
}

/// A UDP datagram to the other side, or an answer from there.
fn datagram(client: u32, port: u16, answer: bool) -> (Incoming, Vec<u8>) {
    let near = (0x0a00_0100 + client, 4000u16);
    let far = (0x0a09_0007, port);
    let (from, to, dev) = if answer {
        (far, near, 3)
    } else {
        (near, far, 2)
    };
    let mut bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, proto::UDP, 0, 0];
    bytes.extend(from.0.to_be_bytes());
    bytes.extend(to.0.to_be_bytes());
    bytes.extend(from.1.to_be_bytes());
    bytes.extend(to.1.to_be_bytes());
    bytes.extend([0, 8, 0, 0]);
    checksum::fix_ipv4(&mut bytes);
    (Incoming::on(IfIndex(dev)), bytes)
}

fn pass(engine: &mut Engine, (incoming, bytes): (Incoming, Vec<u8>)) -> Disposition {
    engine
        .receive(1_000 * SECOND, incoming, bytes, &mut ())
        .disposition
}

fn line() -> impl Strategy<Value = String> {
    let source = prop_oneof![
        Just(String::new()),
        (0u32..40).prop_map(|c| format!("-s 10.0.1.{c} ")),
        (0u32..4).prop_map(|n| format!("-s 10.0.1.{}/29 ", n * 8)),
        (0u32..4).prop_map(|n| format!("! -s 10.0.1.{}/29 ", n * 8)),
    ];
    let port = prop_oneof![
        Just(String::new()),
        (0u16..40).prop_map(|p| format!("-p udp --dport {} ", 1000 + p)),
        (0u16..30).prop_map(|p| format!("-p udp --dport {}:{} ", 1000 + p, 1006 + p)),
        Just("-p tcp --dport 1005 ".to_owned()),
        Just("-m mark --mark 7 ".to_owned()),
    ];
    let target = prop::sample::select(vec!["", "", "-j ACCEPT", "-j DROP", "-j LOG"]);
    (source, port, target)
        .prop_filter("decides about everything", |(s, p, t)| {
            !(s.is_empty() && p.is_empty() && (*t == "-j ACCEPT" || *t == "-j DROP"))
        })
        .prop_map(|(s, p, t)| format!("{s}{p}{t}"))
}

#[derive(Clone, Debug)]
enum Step {
    Insert(prop::sample::Index, String),
    Remove(prop::sample::Index),
    Replace(prop::sample::Index, String),
    Packet(u32, u16, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = any::<prop::sample::Index>;
    prop::collection::vec(
        prop_oneof![
            3 => (at(), line()).prop_map(|(i, l)| Step::Insert(i, l)),
            2 => at().prop_map(Step::Remove),
            2 => (at(), line()).prop_map(|(i, l)| Step::Replace(i, l)),
            6 => (0u32..40, 1000u16..1040, any::<bool>())
                .prop_map(|(c, p, a)| Step::Packet(c, p, a)),
        ],
        1..80,
    )
}

/// Does the steps one by one, and to rules loaded anew after each edit.
fn agree(mut lines: Vec<String>, steps: Vec<Step>) {
    let mut edited = engine(&lines, TrackWhen::Never);
    let mut plain = engine(&lines, TrackWhen::Never);
    let mut ids: Vec<RuleId> = forward(edited.rules(Family::V4))
        .rules
        .iter()
        .map(|r| r.id)
        .collect();
    let mut counted = vec![Counter::default(); ids.len()];
    for step in steps {
        let edit = match step {
            Step::Packet(client, port, answer) => {
                let packet = datagram(client, port, answer);
                let fates = [pass(&mut edited, packet.clone()), pass(&mut plain, packet)];
                let [sent, expected] = fates.map(|f| f == Disposition::Sent);
                assert_eq!(sent, expected, "{fates:?}");
                let whole = forward(plain.rules(Family::V4)).rules.iter();
                for ((rule, id), before) in whole.zip(&ids).zip(&counted) {
                    let mut expected = plain.counter(Family::V4, rule.id);
                    expected.packets += before.packets;
                    expected.bytes += before.bytes;
                    assert_eq!(edited.counter(Family::V4, *id), expected);
                }
                continue;
            }
            Step::Remove(_) | Step::Replace(..) if lines.is_empty() => continue,
            Step::Insert(at, line) => {
                let at = at.index(lines.len() + 1);
                lines.insert(at, line.clone());
                ids.insert(at, RuleId(u32::MAX));
                Edit::Insert(at, rule(&line))
            }
            Step::Remove(at) => {
                let at = at.index(lines.len());
                lines.remove(at);
                ids.remove(at);
                Edit::Remove(at)
            }
            Step::Replace(at, line) => {
                let at = at.index(lines.len());
                lines[at].clone_from(&line);
                ids[at] = RuleId(u32::MAX);
                Edit::Replace(at, rule(&line))
            }
        };
        let id = edited.edit(Family::V4, FORWARD, edit).unwrap();
        let new = ids.iter_mut().find(|id| **id == RuleId(u32::MAX));
        assert_eq!(new.is_some(), id.is_some());
        if let (Some(new), Some(id)) = (new, id) {
            *new = id;
            assert_eq!(edited.counter(Family::V4, id), Counter::default());
        }
        let mut different = ids.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), ids.len(), "no id is used twice");
        plain.load(ruleset(&lines));
        let counters = ids.iter().map(|&id| edited.counter(Family::V4, id));
        counted = counters.collect();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("TIDEGATE_EDIT_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
    ))]
    #[test]
    fn edits_do_what_loading_does(
        lines in prop::collection::vec(line(), 0..60),
        steps in steps(),
    ) {
        agree(lines, steps);
    }
}

/// The flow cache forgets what the rules were.
#[test]
fn the_next_packet_meets_the_new_rule() {
    let lines = vec!["-p udp -j ACCEPT".to_owned(); 20];
    let mut engine = engine(&lines, TrackWhen::Always);
    for answer in [false, true, false, true, false, true] {
        let fate = pass(&mut engine, datagram(1, 1000, answer));
        assert_eq!(fate, Disposition::Sent);
    }
    assert!(engine.followed() > 0, "the cache is at work");
    let drop = rule("-s 10.0.1.1 -j DROP");
    engine
        .edit(Family::V4, FORWARD, Edit::Insert(0, drop))
        .unwrap();
    let fate = pass(&mut engine, datagram(1, 1000, false));
    assert!(matches!(fate, Disposition::Dropped(_)), "{fate:?}");
    assert_eq!(
        pass(&mut engine, datagram(1, 1000, true)),
        Disposition::Sent
    );
    engine.edit(Family::V4, FORWARD, Edit::Remove(0)).unwrap();
    assert_eq!(
        pass(&mut engine, datagram(1, 1000, false)),
        Disposition::Sent
    );
}

#[test]
fn what_cannot_be_done_in_place_is_refused_and_changes_nothing() {
    let lines = vec!["-m conntrack --ctstate ESTABLISHED -j ACCEPT".to_owned()];
    let mut own = engine(&lines, TrackWhen::Needed);
    let mut refused = |at, edit| own.edit(Family::V4, at, edit).unwrap_err();
    let udp = || rule("-p udp -j ACCEPT");
    let nowhere = (TableKind::Filter, ChainId(9));
    assert_eq!(
        refused(nowhere, Edit::Insert(0, udp())),
        NotInPlace::Missing
    );
    let absent = (TableKind::Nat, ChainId(0));
    assert_eq!(refused(absent, Edit::Remove(0)), NotInPlace::Missing);
    assert_eq!(refused(FORWARD, Edit::Remove(1)), NotInPlace::Missing);
    assert_eq!(
        refused(FORWARD, Edit::Replace(1, udp())),
        NotInPlace::Missing
    );
    // The last rule that needs connection tracking.
    assert_eq!(refused(FORWARD, Edit::Remove(0)), NotInPlace::Entangled);
    for line in ["-m limit --limit 1/sec -j ACCEPT", "-j called"] {
        let edit = Edit::Insert(0, rule(line));
        assert_eq!(refused(FORWARD, edit), NotInPlace::Entangled, "{line}");
    }
    let held = own.rules(Family::V4).clone();
    let edit = Edit::Insert(0, udp());
    assert_eq!(own.edit(Family::V4, FORWARD, edit), Err(NotInPlace::Held));
    assert_eq!(forward(&held).rules.len(), 1);
    // Without tracking, the first rule that needs it.
    let mut own = engine(&["-p udp -j ACCEPT".to_owned()], TrackWhen::Needed);
    let edit = Edit::Insert(0, rule(&lines[0]));
    assert_eq!(
        own.edit(Family::V4, FORWARD, edit),
        Err(NotInPlace::Entangled)
    );
}

/// A chain is not edited for ever without being sorted anew.
#[test]
fn a_worn_chain_says_so() {
    let mut engine = engine(&["-p udp -j ACCEPT".to_owned()], TrackWhen::Never);
    let udp = rule("-p udp -j DROP");
    let edits = (0..10_000).take_while(|_| {
        let edit = Edit::Replace(0, udp.clone());
        engine.edit(Family::V4, FORWARD, edit) != Err(NotInPlace::Worn)
    });
    assert!(edits.count() < 10_000);
}
