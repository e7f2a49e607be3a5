//! What the analysis says against what the evaluator does: random rulesets, random packets.
//!
//! `TIDEGATE_ANALYSIS_CASES` is the number of rulesets, `TIDEGATE_ANALYSIS_PACKETS` that of
//! packets for each.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_analysis::{Ending, Facts, Piece, Pieces, Set, Space, Walk, Window, possible};
use tidegate_ir::{
    Base, Chain, ChainId, Cond, Effect, Expr, Field, Hook, Policy, Ranges, RejectKind, Rule,
    RuleId, Ruleset, StepId, Table, TableKind, Truth, Verdict, ctstate,
};
use tidegate_wire::Family;

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

fn name(text: &str) -> u128 {
    let mut bytes = [0; 16];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    u128::from_be_bytes(bytes)
}

const PORTS: [u128; 7] = [0, 22, 23, 80, 443, 1024, 65535];
const ADDRESSES: [u128; 6] = [
    0,
    0x0a00_0000,
    0x0a00_0001,
    0x0aff_ffff,
    0xc000_0207,
    0xffff_ffff,
];

/// The option that announces a maximum segment size.
const OPTION: Field = Field::TcpOption(2);

fn effect(r: &mut Random) -> Effect {
    let mix = |r: &mut Random, from| Expr::Mix {
        from,
        mask: r.of(&[0xffff_ffff, 0xf]),
        shift: r.of(&[0i8, 0, 0, 1]),
        keep: r.of(&[0, 0, 0xffff_fff0]),
    };
    match r.below(7) {
        0 => Effect::Assign(Field::CtMark, mix(r, Field::Mark)),
        1 => Effect::Assign(Field::Mark, mix(r, Field::CtMark)),
        2 => Effect::Assign(Field::Ttl, Expr::AddClamped(r.of(&[-1, 5]))),
        3 => Effect::StripTcpOptions([2].into_iter().collect()),
        n => Effect::Assign(
            r.of(&[Field::Mark, Field::CtMark]),
            Expr::Masked {
                keep: if n == 4 { !0xf } else { 0 },
                xor: r.of(&[1, 2, 3]),
            },
        ),
    }
}

/// What an effect does to a packet.
fn change(packet: &mut Facts, effect: &Effect) {
    let values = &mut packet.values;
    match effect {
        Effect::Assign(field, expr) => {
            let other = match expr {
                Expr::Mix { from, .. } => values.get(from).copied(),
                _ => Some(0),
            };
            if let (Some(old), Some(other)) = (values.get(field).copied(), other) {
                let wide = (1u128 << field.row().bits) - 1;
                values.insert(*field, expr.apply(old, other) & wide);
            }
        }
        Effect::StripTcpOptions(_) => {
            values.entry(OPTION).and_modify(|v| *v = 0);
            values.remove(&Field::TcpMss);
        }
        other => panic!("{other:?}"),
    }
}

fn leaf(r: &mut Random) -> Cond {
    let (a, b) = (r.of(&PORTS), r.of(&PORTS));
    match r.below(20) {
        0 | 1 => Cond::range(Field::Dport, a.min(b), a.max(b)),
        2 => Cond::range(Field::Sport, a.min(b), a.max(b)),
        3 => Cond::eq(Field::Proto, r.of(&[6, 17, 1])),
        4 => {
            let (lo, hi) = (r.of(&ADDRESSES), r.of(&ADDRESSES));
            Cond::range(Field::Src, lo.min(hi), lo.max(hi))
        }
        5 => Cond::bits(
            Field::Dst,
            0xff00_00ff,
            r.of(&[0x0a00_0001, 0xc000_0007, 1]),
        ),
        6 => Cond::bits(Field::TcpFlags, 0x17, r.of(&[2, 0x10, 0])),
        7 | 8 => {
            let states = (0..5).filter(|_| r.one_in(2)).map(|s| (s, s)).collect();
            Cond::within(Field::CtState, Ranges::new(states))
        }
        9 => Cond::bits(Field::CtStatus, 0x20, 0x20),
        10 => match r.one_in(2) {
            true => Cond::eq(Field::InName, name("eth0")),
            false => Cond::bits(Field::InName, u128::MAX << 104, name("eth")),
        },
        11 => Cond::bits(Field::Mark, 0xf, r.of(&[1, 2])),
        12 => Cond::bits(Field::CtMark, r.of(&[0xf, 0x3]), r.of(&[1, 2])),
        13 => Cond::range(Field::Mark, r.of(&[0, 2]), r.of(&[2, 7])),
        // `tcp --tcp-option` and `tcpmss`: a list that cannot be read drops the packet.
        14 => Cond::all(vec![
            Cond::drop_when(Cond::range(OPTION, 0, 1).inverted_if(true)),
            Cond::eq(OPTION, 1),
        ]),
        15 => Cond::range(Field::TcpMss, r.of(&[0, 537]), r.of(&[536, 1460])),
        16 => Cond::range(Field::CtOrigPackets, r.of(&[0, 10]), r.of(&[9, 1000])),
        17 => Cond::eq(Field::CtMasterHelper, name(r.of(&["ftp", "tftp"]))),
        18 => Cond::range(Field::Ttl, r.of(&[0, 1]), r.of(&[1, 64])),
        _ => Cond::DropWhen(Box::new(Cond::Not(Box::new(Cond::range(
            Field::L4Len,
            r.of(&[4, 8, 20]),
            65535,
        ))))),
    }
}

fn cond(r: &mut Random, depth: u64, steps: bool) -> Cond {
    match r.below(8) {
        0 if depth > 0 => Cond::any(vec![cond(r, depth - 1, steps), cond(r, depth - 1, steps)]),
        1 if depth > 0 => Cond::Not(Box::new(cond(r, depth - 1, steps))),
        2 | 3 if depth > 0 => Cond::all(vec![cond(r, depth - 1, steps), cond(r, depth - 1, steps)]),
        4 if steps && r.one_in(2) => Cond::Call(StepId(0)),
        5 if r.one_in(4) => Cond::Const(r.one_in(2)),
        _ => leaf(r),
    }
}

fn ruleset(r: &mut Random, plain: bool) -> Ruleset {
    let mut ids = 0;
    let mut id = || {
        ids += 1;
        RuleId(ids - 1)
    };
    let mut chains = Vec::new();
    for at in 0..3u32 {
        let rules = (0..2 + r.below(7)).map(|_| {
            let further = (at < 2).then(|| ChainId(at + 1 + r.below(u64::from(2 - at)) as u32));
            let verdict = match (r.below(8), further) {
                (0, Some(to)) => Verdict::Jump(to),
                (1, Some(to)) => Verdict::Goto(to),
                (2, _) => Verdict::Return,
                (3, _) => Verdict::Reject(RejectKind::TcpReset),
                (4, _) => Verdict::Continue,
                (5, _) => Verdict::Drop,
                _ => Verdict::Accept,
            };
            let effects: Vec<Effect> = match r.below(6) {
                0 if !plain => vec![effect(r)],
                1 if !plain => vec![effect(r), effect(r)],
                _ => Vec::new(),
            };
            Rule {
                id: id(),
                cond: cond(r, 3, !plain).into(),
                effects: effects.into(),
                verdict,
                bare: false,
            }
        });
        let rules = rules.collect();
        chains.push(Chain {
            name: format!("c{at}"),
            base: (at == 0).then(|| Base {
                hook: Hook::Input,
                policy: if r.one_in(2) {
                    Policy::Drop
                } else {
                    Policy::Accept
                },
                policy_id: id(),
            }),
            rules,
        });
    }
    let mut set = Ruleset::empty(Family::V4);
    let mut entry = [None; 5];
    entry[Hook::Input as usize] = Some(ChainId(0));
    set.tables[TableKind::Filter as usize] = Some(Table {
        kind: TableKind::Filter,
        chains,
        entry,
    });
    set.rule_ids = ids;
    set
}

fn packet(r: &mut Random) -> Facts {
    let mut values = BTreeMap::new();
    let near = |r: &mut Random, list: &[u128], max: u128| match r.below(4) {
        0 => r.of(list).saturating_sub(1),
        1 => (r.of(list) + 1).min(max),
        2 => u128::from(r.next()) & max,
        _ => r.of(list),
    };
    values.insert(Field::Src, near(r, &ADDRESSES, 0xffff_ffff));
    values.insert(Field::Dst, near(r, &ADDRESSES, 0xffff_ffff));
    let proto = r.of(&[6u128, 6, 17, 1, 50]);
    values.insert(Field::Proto, proto);
    values.insert(Field::Mark, u128::from(r.below(20)));
    values.insert(Field::InName, name(r.of(&["eth0", "eth1", "et", "lo"])));
    values.insert(Field::OutName, 0);
    let fragment = u128::from(r.one_in(8)) * u128::from(1 + r.below(8191));
    values.insert(Field::FragOff, fragment);
    if fragment == 0 {
        let len = u128::from(r.of(&[0u64, 1, 2, 3, 4, 7, 8, 13, 14, 19, 20, 40, 1480]));
        values.insert(Field::L4Len, len);
        for (field, bytes) in [(Field::Sport, 2), (Field::Dport, 4)] {
            if len >= bytes {
                values.insert(field, near(r, &PORTS, 65535));
            }
        }
        if len >= 14 {
            values.insert(Field::TcpFlags, u128::from(r.below(256)));
        }
        if len >= 20 && !r.one_in(4) {
            let there = u128::from(r.one_in(2));
            values.insert(OPTION, there);
            if there == 1 {
                values.insert(Field::TcpMss, near(r, &[536, 1460], 65535));
            }
        }
        if proto == 1 && len >= 2 {
            values.insert(
                Field::IcmpTypeCode,
                u128::from(r.of(&[0x0800u64, 0x0300, 0x0304])),
            );
        }
    }
    let state = u128::from(r.below(5));
    let tracked = (ctstate::ESTABLISHED..=ctstate::NEW).contains(&state);
    values.insert(Field::CtState, state);
    values.insert(Field::HasCt, u128::from(tracked));
    if tracked {
        values.insert(Field::CtStatus, u128::from(r.below(64)));
        values.insert(Field::CtMark, u128::from(r.below(20)));
        if r.one_in(2) {
            values.insert(Field::CtOrigPackets, u128::from(r.below(20)));
        }
        if r.one_in(4) {
            values.insert(Field::CtMasterHelper, name(r.of(&["ftp", "tftp", "sane"])));
        }
    }
    values.insert(Field::Ttl, near(r, &[1, 64], 255));
    Facts {
        values,
        steps: r.one_in(2),
    }
}

/// What the evaluator does: rules that the packet met, whether they matched, and its end.
struct Way {
    met: Vec<(RuleId, bool)>,
    end: (Ending, RuleId),
}

fn evaluate(table: &Table, mut packet: Facts) -> Way {
    let mut met = Vec::new();
    let mut stack: Vec<(usize, usize)> = Vec::new();
    let (mut chain, mut at) = (0, 0);
    loop {
        let Some(rule) = table.chains[chain].rules.get(at) else {
            match stack.pop() {
                Some(back) => (chain, at) = back,
                None => break,
            }
            continue;
        };
        at += 1;
        let truth = packet.eval(&rule.cond);
        met.push((rule.id, truth == Truth::True));
        let end = |ending| (ending, rule.id);
        match truth {
            Truth::False => continue,
            Truth::Hotdrop | Truth::HotdropTaken => {
                return Way {
                    met,
                    end: end(Ending::Drop),
                };
            }
            Truth::True => {}
        }
        for effect in &rule.effects {
            change(&mut packet, effect);
        }
        match rule.verdict {
            Verdict::Continue => {}
            Verdict::Accept => {
                return Way {
                    met,
                    end: end(Ending::Accept),
                };
            }
            Verdict::Drop => {
                return Way {
                    met,
                    end: end(Ending::Drop),
                };
            }
            Verdict::Reject(kind) => {
                return Way {
                    met,
                    end: end(Ending::Reject(kind)),
                };
            }
            Verdict::Jump(to) => {
                stack.push((chain, at));
                (chain, at) = (to.0 as usize, 0);
            }
            Verdict::Goto(to) => (chain, at) = (to.0 as usize, 0),
            Verdict::Return => match stack.pop() {
                Some(back) => (chain, at) = back,
                None => break,
            },
        }
    }
    let base = table.chains[0].base.unwrap();
    let ending = match base.policy {
        Policy::Accept => Ending::Accept,
        Policy::Drop => Ending::Drop,
    };
    Way {
        met,
        end: (ending, base.policy_id),
    }
}

fn count(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// Whatever a packet meets, the analysis has thought possible.
#[test]
fn nothing_happens_that_was_not_thought_possible() {
    let mut unreached = 0;
    for case in 0..count("TIDEGATE_ANALYSIS_CASES", 150) {
        let mut r = Random(case * 2 + 1);
        let rules = ruleset(&mut r, false);
        let table = rules.table(TableKind::Filter).unwrap();
        let mut space = Space::new([&rules], &[], 1 << 20);
        let all = possible(&mut space, Family::V4, Some(Hook::Input)).unwrap();
        let walk = Walk::new(&mut space, table, ChainId(0), all).unwrap();
        unreached += walk.reach.values().filter(|x| x.matches.is_empty()).count();
        for _ in 0..count("TIDEGATE_ANALYSIS_PACKETS", 400) {
            let packet = packet(&mut r);
            assert!(
                space.contains(all, &space.point(&packet)),
                "case {case}: impossible {packet:?}"
            );
            let way = evaluate(table, packet.clone());
            for (id, matched) in &way.met {
                let reach = walk
                    .reach
                    .get(id)
                    .unwrap_or_else(|| panic!("case {case}: {id:?}"));
                assert!(
                    space.contains(reach.comes, &space.point(&packet)),
                    "case {case}: {id:?} {packet:?}"
                );
                let inside = !matched || space.contains(reach.matches, &space.point(&packet));
                assert!(inside, "case {case}: {id:?} matched {packet:?}");
            }
            let ended = walk.endings.iter().filter(|e| (e.ending, e.by) == way.end);
            let ended = ended
                .map(|e| e.set)
                .any(|s| space.contains(s, &space.point(&packet)));
            assert!(ended, "case {case}: {:?}: {packet:?}", way.end);
        }
    }
    assert!(
        unreached > 20,
        "the rulesets shadow too little to test anything: {unreached}"
    );
}

/// No packet of a window is missing from its parts, those without the field it is cut by
/// least of all, and none is in two.
#[test]
fn the_parts_of_a_window_are_the_window() {
    for case in 0..count("TIDEGATE_ANALYSIS_CASES", 150) {
        let mut r = Random(case * 2 + 1);
        let rules = ruleset(&mut r, false);
        let mut space = Space::new([&rules], &[], 1 << 20);
        let all = possible(&mut space, Family::V6, None).unwrap();
        let mut windows = vec![Window::ALL];
        for _ in 0..12 {
            let Some(window) = windows.pop() else { break };
            let Some(parts) = window.parts(&space) else {
                continue;
            };
            let whole = window.packets(&mut space, all).unwrap();
            let mut together = Set::EMPTY;
            for part in &parts {
                let packets = part.packets(&mut space, all).unwrap();
                let twice = space.bdd.and(together, packets).unwrap();
                assert!(twice.is_empty(), "case {case}: {part:?} of {window:?}");
                together = space.bdd.or(together, packets).unwrap();
            }
            assert_eq!(together, whole, "case {case}: {parts:?} of {window:?}");
            windows.extend(parts);
        }
    }
}

/// Without state and writes the sets are exact: every example does what is said of it.
#[test]
fn examples_do_what_is_said_of_them() {
    let mut tried = 0;
    for case in 0..count("TIDEGATE_ANALYSIS_CASES", 150) {
        let mut r = Random(case * 2 + 7_000_001);
        let rules = ruleset(&mut r, true);
        let table = rules.table(TableKind::Filter).unwrap();
        let mut space = Space::new([&rules], &[], 1 << 20);
        let all = possible(&mut space, Family::V4, Some(Hook::Input)).unwrap();
        let walk = Walk::new(&mut space, table, ChainId(0), all).unwrap();
        for (id, reach) in &walk.reach {
            let Some(example) = space.example(reach.matches) else {
                continue;
            };
            let way = evaluate(table, example.clone());
            let hit = way.met.iter().any(|m| m.0 == *id && m.1) || way.end.1 == *id;
            assert!(hit, "case {case}: {example:?} does not hit {id:?}");
            tried += 1;
        }
        for exit in &walk.endings {
            let example = space.example(exit.set).unwrap();
            let way = evaluate(table, example);
            assert_eq!(way.end, (exit.ending, exit.by), "case {case}");
        }
    }
    assert!(tried > 500, "{tried} examples");
}

/// Rules looked at one by one: those said to be taken are never hit, those said to be for odd
/// packets alone are hit by no others.
#[test]
fn rules_said_to_be_taken_are_never_hit() {
    let (mut taken, mut odd) = (0, 0);
    for case in 0..count("TIDEGATE_ANALYSIS_CASES", 150) {
        let mut r = Random(case * 2 + 11_000_001);
        let rules = Arc::new(ruleset(&mut r, case % 3 == 0));
        let table = rules.table(TableKind::Filter).unwrap();
        let mut space = Space::new([&*rules], &[], 1 << 20);
        let mut pieces = Pieces::new(&space, rules.clone(), TableKind::Filter, 30_000_000);
        let (mut dead, mut states) = (BTreeSet::new(), BTreeMap::new());
        for (id, chain) in (0u32..).zip(&table.chains) {
            for (index, rule) in chain.rules.iter().enumerate() {
                match pieces.ask(&mut space, ChainId(id), index) {
                    Piece::Taken(found) => {
                        assert!(found.by.iter().all(|by| *by < index), "case {case}");
                        dead.insert(rule.id);
                        taken += 1;
                    }
                    Piece::Odd(_, left) => {
                        states.insert(rule.id, left);
                        odd += 1;
                    }
                    Piece::All(followed) => {
                        let reach = followed.reach.get(&rule.id);
                        if reach.is_none_or(|r| r.matches.is_empty()) {
                            dead.insert(rule.id);
                        }
                    }
                    Piece::Alive => {}
                    Piece::Unknown(why) => panic!("case {case}: {why:?}"),
                }
            }
        }
        for _ in 0..count("TIDEGATE_ANALYSIS_PACKETS", 400) {
            let packet = packet(&mut r);
            let state = packet.values[&Field::CtState];
            let way = evaluate(table, packet.clone());
            for (id, matched) in way.met {
                assert!(
                    !matched || !dead.contains(&id),
                    "case {case}: {id:?} {packet:?}"
                );
                let other = matched && states.get(&id).is_some_and(|s| !s.contains(&state));
                assert!(!other, "case {case}: {id:?} {packet:?}");
            }
        }
    }
    assert!(taken > 100 && odd > 3, "{taken} taken, {odd} odd");
}
