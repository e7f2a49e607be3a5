//! Staged rules: what they would do is told, and nothing is done.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use tidegate_engine::env::{Env, IfIndex, Settings};
use tidegate_engine::{
    Config, Differing, Disposition, Engine, Incoming, Judged, Otherwise, Ready, TrackWhen,
};
use tidegate_ir::{Hook, Ruleset, TableKind};
use tidegate_wire::{Family, checksum, proto};

use common::{interface, lowered};

const LIVE: &str = "*filter\n:INPUT DROP [0:0]\n\
    -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n\
    -A INPUT -p udp -m udp --dport 53 -j ACCEPT\nCOMMIT\n";

fn stage(engine: &mut Engine, text: &str) {
    let ready = |text, family| Ready::new(lowered(text, family), TrackWhen::Needed, 7);
    engine.stage([ready(text, Family::V4), ready("", Family::V6)]);
}

fn engine() -> Engine {
    let eth0 = interface(2, "eth0", 0x0a00_0001, 24);
    let env = Env::new(vec![eth0], &[], &[], Settings::default());
    let mut engine = Engine::new(Config::default(), Arc::new(env));
    engine.load(lowered(LIVE, Family::V4));
    engine
}

/// From 10.0.0.2:4000 to this host, or back.
fn udp(port: u16, back: bool) -> Vec<u8> {
    let mut p = vec![0; 32];
    p[0] = 0x45;
    p[3] = 32;
    p[8] = 64;
    p[9] = proto::UDP;
    let (mut ends, mut ports) = ([[10, 0, 0, 2], [10, 0, 0, 1]], [4000, port]);
    if back {
        ends.reverse();
        ports.reverse();
    }
    p[12..16].copy_from_slice(&ends[0]);
    p[16..20].copy_from_slice(&ends[1]);
    p[20..22].copy_from_slice(&u16::to_be_bytes(ports[0]));
    p[22..24].copy_from_slice(&u16::to_be_bytes(ports[1]));
    p[25] = 12;
    checksum::fix_ipv4(&mut p);
    p
}

fn came_in(engine: &mut Engine, port: u16) -> bool {
    let outcome = engine.receive(1_000, Incoming::on(IfIndex(2)), udp(port, false), &mut ());
    outcome.disposition == Disposition::Delivered
}

fn told(engine: &Engine) -> Vec<(Otherwise, Differing)> {
    let staged = engine.staged().unwrap().differing();
    staged.map(|(w, d)| (*w, d.clone())).collect()
}

#[test]
fn what_staged_rules_would_drop_passes_and_is_counted() {
    let mut engine = engine();
    assert!(came_in(&mut engine, 53));
    engine.send(1_000, udp(53, true), 0, &mut ());
    assert!(came_in(&mut engine, 53) && came_in(&mut engine, 53));
    assert!(engine.followed() > 0, "the flow follows a plan");
    // Now rules without the two that let it in, the second of which decides nothing.
    stage(
        &mut engine,
        "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p icmp -j ACCEPT\n-A INPUT -p udp -m udp --dport 53 -j DROP\nCOMMIT\n",
    );
    let followed = engine.followed();
    for _ in 0..5 {
        assert!(came_in(&mut engine, 53));
    }
    assert_eq!(engine.followed(), followed, "every packet walks both");
    let told = told(&engine);
    assert_eq!(told.len(), 1, "{told:?}");
    let (what, how) = &told[0];
    assert_eq!((what.table, what.hook), (TableKind::Filter, Hook::Input));
    assert_eq!((what.live.0, what.staged.0), (Judged::Accept, Judged::Drop));
    // Rule 1 of INPUT in force, rule 2 of INPUT on stage.
    let rule = |engine: &Arc<Ruleset>, at: usize| {
        let table = engine.table(TableKind::Filter).unwrap();
        let chain = table.chain(table.base_chain(Hook::Input).unwrap()).unwrap();
        chain.rules.get(at).map(|r| r.id)
    };
    assert_eq!(what.live.1, rule(engine.rules(Family::V4), 0));
    let id = what.staged.1.unwrap();
    assert_eq!(engine.staged().unwrap().counter(Family::V4, id).packets, 5);
    assert_eq!((how.count.packets, how.count.bytes), (5, 160));
    assert_eq!(how.example, udp(53, false));
    assert_eq!(how.input, Some(IfIndex(2)));
    engine.unstage();
    assert!(came_in(&mut engine, 53) && came_in(&mut engine, 53));
    assert!(engine.followed() > followed);
}

/// What only staged rules would let in stays out; tables that only one side has count too.
#[test]
fn what_staged_rules_would_let_in_stays_out() {
    let mut engine = engine();
    stage(
        &mut engine,
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 99 -j DROP\nCOMMIT\n",
    );
    assert!(!came_in(&mut engine, 77));
    assert!(!came_in(&mut engine, 99));
    let mut told: Vec<_> = told(&engine)
        .into_iter()
        .map(|(w, d)| (w.table, w.live.0, w.staged.0, d.count.packets))
        .collect();
    told.sort();
    assert_eq!(
        told,
        [
            (TableKind::Raw, Judged::Accept, Judged::Drop, 1),
            (TableKind::Filter, Judged::Drop, Judged::Accept, 1),
        ]
    );
}

/// Stateful tests of staged rules have a state of their own.
#[test]
fn buckets_are_not_shared_with_the_rules_in_force() {
    let limited = "*filter\n:INPUT DROP [0:0]\n\
        -A INPUT -m limit --limit 1/hour --limit-burst 2 -j ACCEPT\nCOMMIT\n";
    let mut engine = engine();
    engine.load(lowered(limited, Family::V4));
    stage(&mut engine, limited);
    let came: Vec<bool> = (0..4).map(|_| came_in(&mut engine, 53)).collect();
    assert_eq!(came, [true, true, false, false]);
    assert!(told(&engine).is_empty(), "{:?}", told(&engine));
}
