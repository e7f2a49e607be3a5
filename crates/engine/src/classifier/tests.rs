//! The classifier against testing every rule.

use tidegate_ir::{Cond, Field, Ranges, RuleId, StepId, Truth, Verdict};

use super::key::Dim;
use super::leaf::Entry;
use super::tree::{Bucket, Child, FILTERS, Node, Part};
use super::*;
use crate::flow::is_settled;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

const FIELDS: [Field; 13] = [
    Field::Src,
    Field::Dst,
    Field::Proto,
    Field::Sport,
    Field::Dport,
    Field::InName,
    Field::OutName,
    Field::Mark,
    Field::CtState,
    Field::Ttl,
    // Known to guards only.
    Field::L4Len,
    Field::FragOff,
    // Of no use to the classifier.
    Field::CtExpire,
];

fn place(field: Field) -> usize {
    FIELDS.iter().position(|&f| f == field).expect("a field")
}

/// Values near a few points, so that rules and packets meet.
pub(super) fn value(random: &mut Random, field: Field, family: Family) -> u128 {
    let (v4, v6) = (family == Family::V4, family == Family::V6);
    match field {
        Field::Src | Field::Dst if v6 => {
            let near = random.pick(&[0x2001_0db8_u128 << 96, 0xfd00 << 112, 1]);
            let net = u128::from(random.below(3)) << 64 | u128::from(random.below(2)) << 80;
            near | net | u128::from(random.below(4)) << random.pick(&[0, 0, 30])
        }
        Field::Src | Field::Dst if v4 => {
            let near = random.pick(&[0x0a00_0000_u128, 0xc0a8_0100, 0xffff_fffe, 0]);
            (near + u128::from(random.below(3) << random.pick(&[0, 0, 7, 8, 15]))) & 0xffff_ffff
        }
        Field::InName | Field::OutName => {
            let name = random.pick(&["eth0", "eth1", "eth10", "lo", "a-very-long-one", ""]);
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            u128::from_be_bytes(bytes)
        }
        Field::Sport | Field::Dport => {
            let near = random.pick(&[0u128, 20, 79, 1023, 4090, 65_530]);
            near + u128::from(random.below(5))
        }
        Field::Proto => random.pick(&[6, 6, 17, 1]),
        Field::Mark => random.pick(&[0, 1, 0x10, 0x11, 0xffff_ffff, 0x8000_0001]),
        Field::L4Len => random.pick(&[0, 7, 8, 19, 20, 40, 40, 40]),
        Field::FragOff => random.pick(&[0, 0, 0, 0, 1, 2]),
        _ => u128::from(random.below(5)),
    }
}

/// A test on one field.
fn test(random: &mut Random, family: Family) -> Cond {
    let field = random.pick(&FIELDS);
    let wide = Dim::needs_wide(field, family);
    let bits = if wide {
        u32::from(field.row().bits)
    } else {
        32.min(u32::from(field.row().bits))
    };
    let all = u128::MAX >> (128 - bits);
    let v = value(random, field, family);
    match random.below(8) {
        0 => {
            let other = value(random, field, family);
            Cond::range(field, v.min(other), v.max(other))
        }
        1 => {
            let count = random.below(20);
            let more = |_| {
                let lo = value(random, field, family);
                (lo, (lo + u128::from(random.below(3))).min(all))
            };
            Cond::within(field, Ranges::new((0..count).map(more).collect()))
        }
        2 => {
            let mask = random.pick(&[0, 1, 0x11, 0xff, 0xf0, !0, !1, !0xff]) & all;
            Cond::bits(field, mask, v & mask)
        }
        3 => {
            // What no value agrees with.
            let mask = random.pick(&[0, 1, 0xff]);
            Cond::bits(field, mask, v)
        }
        4 | 5 => {
            let open = all.checked_shr(bits - random.below(u64::from(bits) + 1) as u32);
            let open = open.unwrap_or(0);
            Cond::range(field, v & !open, v | open)
        }
        _ => Cond::eq(field, v),
    }
}

/// A part of a rule.
fn part(random: &mut Random, family: Family) -> Cond {
    let invert = random.one_in(2);
    match random.below(40) {
        0 => Cond::Call(StepId(random.below(6) as u32)),
        1 => Cond::any(vec![test(random, family), test(random, family)]).inverted_if(invert),
        2 => Cond::Const(!random.one_in(4)),
        3 => Cond::any(vec![test(random, family), Cond::Call(StepId(1))]),
        4 => Cond::drop_when(Cond::Call(StepId(2))),
        5 | 6 => Cond::drop_when(test(random, family).inverted_if(invert)),
        7 => Cond::any(vec![Cond::drop_when(test(random, family))]),
        12 => Cond::all(vec![test(random, family), Cond::Call(StepId(3))]).shared(),
        13 => test(random, family).shared().inverted_if(invert),
        8..12 => test(random, family).inverted_if(true),
        _ => test(random, family),
    }
}

/// What the tcp and udp matches make.
pub(super) fn transport(random: &mut Random) -> Vec<Cond> {
    let len = random.pick(&[4, 8, 20]);
    let enough = Cond::range(Field::L4Len, len, 0xffff);
    let mut parts = vec![
        Cond::eq(Field::Proto, random.pick(&[6, 17])),
        Cond::eq(Field::FragOff, 0),
        Cond::drop_when(enough.inverted_if(true)),
    ];
    if len == 20 {
        parts.insert(1, Cond::drop_when(Cond::eq(Field::FragOff, 1)));
    }
    parts
}

fn rule(random: &mut Random, family: Family, id: u32) -> Rule {
    let mut parts: Vec<Cond> = Vec::new();
    for _ in 0..random.below(3) {
        parts.push(part(random, family));
    }
    if random.one_in(2) {
        let transport = transport(random);
        match random.one_in(2) {
            true => parts.push(Cond::all(transport).shared()),
            false => parts.extend(transport),
        }
    }
    for _ in 0..random.below(4) {
        parts.push(part(random, family));
    }
    accepting(id, parts)
}

pub(super) fn accepting(id: u32, parts: Vec<Cond>) -> Rule {
    Rule {
        id: RuleId(id),
        cond: parts.into_iter().collect(),
        effects: Box::default(),
        verdict: Verdict::Accept,
        bare: false,
    }
}

/// Field values, and the stateful tests that were run.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    values: [Option<u128>; FIELDS.len()],
    calls: Vec<u32>,
    /// Whether fields may be asked for that are not settled.
    unsettled: bool,
}

impl Packet {
    pub(super) fn new(random: &mut Random, family: Family) -> Packet {
        let value = |f| (!random.one_in(10)).then(|| value(random, f, family));
        Packet {
            values: FIELDS.map(value),
            calls: Vec::new(),
            unsettled: true,
        }
    }
}

impl Facts for Packet {
    fn load(&mut self, field: Field) -> Option<u128> {
        assert!(self.unsettled || is_settled(field), "{field:?}");
        self.values[place(field)]
    }
    fn step(&mut self, id: StepId) -> Truth {
        self.calls.push(id.0);
        id.0.is_multiple_of(2).into()
    }
}

/// What happens to a packet from a key on: rules that apply or drop it, until `stop` of
/// them, and the stateful tests that are run on the way.
type Fate = (Vec<(u32, Truth)>, Vec<u32>);

fn fate(chain: &(Rules, Classifier), packet: &Packet, from: u32, every: bool) -> Fate {
    let (rules, classifier) = chain;
    let mut packet = packet.clone();
    let mut candidates = classifier.candidates(rules, from, every);
    // Nothing shall come for another reason than that the trees have found it.
    (candidates.one_by_one, candidates.longest) = (0, 0);
    let mut hits = Vec::new();
    while let Some(found) = candidates.next(&mut packet) {
        let rule = found.rule;
        assert_eq!(rules.at_slot(found.slot).map(|r| r.id), Some(rule.id));
        let truth = rule.cond.eval(&mut packet, &mut ());
        assert!(
            !found.applies || truth == Truth::True,
            "{packet:x?} {rule:x?}"
        );
        match truth {
            Truth::False => {}
            Truth::True => hits.push((rule.id.0, Truth::True)),
            drop @ (Truth::Hotdrop | Truth::HotdropTaken) => {
                hits.push((rule.id.0, drop));
                break;
            }
        }
    }
    (hits, packet.calls)
}

/// The slots of the rules below a part, checking on the way what is said of them.
fn slots_of(tree: &Tree, child: Child, rules: &Rules) -> Vec<u32> {
    if child == Child::NONE {
        return Vec::new();
    }
    let slots = match child.part() {
        Part::Rule(slot) => vec![slot],
        Part::Entry(at) => vec![tree.leaves.alone(at)[0].slot()],
        Part::Leaf(at) => tree.leaves.get(at).iter().map(Entry::slot).collect(),
        Part::Pile(number) => {
            let pile = tree.leaves.pile(number).expect("a pile");
            let blocks = pile.hulls().iter().zip(pile.leaves());
            let slots = blocks.flat_map(|(hull, &at)| {
                let entries = tree.leaves.get(at);
                assert_eq!(hull.slot(), entries[0].slot());
                entries.iter().map(Entry::slot)
            });
            let slots: Vec<u32> = slots.collect();
            assert_eq!(slots.len(), pile.len());
            slots
        }
        Part::Node(number) => {
            let node = &tree.nodes[number as usize];
            let rest = [(node.rest_first, node.rest)];
            let cells = node.buckets.iter().flat_map(|b| b.used());
            let cells: Vec<_> = cells.map(|(_, _, c)| (c.first, c.child)).collect();
            assert_eq!(cells.len(), node.used as usize);
            let mut all = Vec::new();
            for (first, child) in cells.into_iter().chain(rest) {
                let slots = slots_of(tree, child, rules);
                assert_eq!(
                    slots.first().copied().unwrap_or(0),
                    first,
                    "first of {child:?}"
                );
                all.extend(slots);
            }
            all.sort_unstable_by_key(|&s| rules.key(s));
            all.dedup();
            return all;
        }
    };
    assert!(
        slots
            .iter()
            .map(|&s| rules.key(s))
            .is_sorted_by(|a, b| a < b)
    );
    slots
}

/// The trees have exactly the rules that they should have.
fn sound((rules, classifier): (&Rules, &Classifier)) {
    let Some(trees) = &classifier.trees else {
        return;
    };
    let whole = active(rules, |_| true);
    assert_eq!(slots_of(&trees.whole, trees.whole.root, rules), whole);
    let prelude = active(rules, is_guarded);
    assert_eq!(slots_of(&trees.prelude, trees.prelude.root, rules), prelude);
}

/// Looks packets up from the start and from somewhere.
pub(super) fn check(random: &mut Random, chain: &(Rules, Classifier), packets: usize) {
    for _ in 0..packets {
        let packet = Packet::new(random, chain.1.family);
        let last = chain.0.slots().last().map_or(0, |slot| chain.0.key(slot));
        for from in [0, random.below(u64::from(last) + 2) as u32] {
            let (fast, full) = (
                fate(chain, &packet, from, false),
                fate(chain, &packet, from, true),
            );
            if fast != full {
                let odd = full.0.iter().find(|hit| !fast.0.contains(hit));
                let id = odd.map(|hit| hit.0);
                let rule = chain.0.iter().find(|r| Some(r.id.0) == id);
                panic!("{packet:x?} from {from}: {fast:?}, not {full:?}; {rule:x?}");
            }
        }
    }
}

fn chain(random: &mut Random, len: u32) -> (Rules, Classifier) {
    let family = random.pick(&[Family::V4, Family::V6]);
    let rules: Rules = (0..len).map(|id| rule(random, family, id)).collect();
    let classifier = Classifier::new(&rules, family, random.next());
    (rules, classifier)
}

fn lengths(random: &mut Random) -> u32 {
    let most = random.pick(&[12, 30, 100, 400]);
    random.below(most) as u32
}

/// `chains` chains of random rules with `packets` packets each.
fn agrees(seed: u64, chains: usize, packets: usize) {
    let random = &mut Random(seed);
    for _ in 0..chains {
        let len = lengths(random);
        let chain = chain(random, len);
        sound((&chain.0, &chain.1));
        check(random, &chain, packets);
    }
}

/// Chains that change by one rule between packets.
fn agrees_while_edited(seed: u64, chains: usize, edits: usize) {
    let random = &mut Random(seed);
    for _ in 0..chains {
        let len = lengths(random);
        let (mut rules, mut classifier) = chain(random, len);
        let family = classifier.family;
        let grow = random.below(10);
        for id in 0..edits {
            let at = match random.below(4) {
                0 => 0,
                1 => rules.len(),
                _ => random.below(rules.len() as u64 + 1) as usize,
            };
            let new = rule(random, family, len + id as u32);
            let before: Vec<RuleId> = rules.iter().map(|r| r.id).collect();
            let mut after = before.clone();
            match random.below(10) {
                n if n < grow => {
                    after.insert(at, new.id);
                    classifier.insert(&mut rules, at, new);
                }
                n if n.is_multiple_of(4) && at < after.len() => {
                    let (own, old) = (new.id, std::mem::replace(&mut after[at], new.id));
                    let gone = classifier.replace(&mut rules, at, new);
                    assert_eq!(gone.map(|r| r.id), Some(old), "{own:?}");
                }
                _ => {
                    let gone = (at < after.len()).then(|| after.remove(at));
                    assert_eq!(classifier.remove(&mut rules, at).map(|r| r.id), gone);
                }
            }
            assert!(rules.iter().map(|r| r.id).eq(after));
            sound((&rules, &classifier));
            if random.one_in(3) {
                let chain = (rules, classifier);
                check(random, &chain, 2);
                (rules, classifier) = chain;
            }
        }
        check(random, &(rules, classifier), 10);
    }
}

/// Pairs of a chain and a packet that one test compares; `TIDEGATE_CLASSIFIER_CASES` for
/// other than the few of every day.
pub(super) fn cases() -> usize {
    let asked = std::env::var("TIDEGATE_CLASSIFIER_CASES").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(12_000)
}

#[test]
fn skips_only_rules_that_do_nothing() {
    agrees(1, cases() / 60, 60);
}

#[test]
fn skips_only_rules_that_do_nothing_after_edits() {
    // Two packets after every third of 200 edits, and ten at the end.
    agrees_while_edited(2, cases() / 140, 200);
}

/// What differs between two packets of a flow that follow one plan of the flow cache must
/// not decide what is skipped, as that leaves no trace.
#[test]
fn looks_at_settled_fields_only() {
    let random = &mut Random(6);
    for _ in 0..100 {
        let len = lengths(random);
        let (rules, classifier) = chain(random, len);
        for _ in 0..20 {
            let mut packet = Packet::new(random, classifier.family);
            packet.unsettled = false;
            let mut candidates = classifier.candidates(&rules, 0, false);
            (candidates.one_by_one, candidates.longest) = (0, 0);
            while candidates.next(&mut packet).is_some() {}
        }
    }
}

fn ports(n: u32) -> Rules {
    let rule = |id| Rule {
        id: RuleId(id),
        cond: Cond::all(vec![
            Cond::eq(Field::Src, 1),
            Cond::eq(Field::Dport, u128::from(id)),
        ])
        .into(),
        effects: Box::default(),
        verdict: Verdict::Accept,
        bare: false,
    };
    (0..n).map(rule).collect()
}

fn packet(values: &[(Field, u128)]) -> Packet {
    let mut packet = Packet {
        values: [None; FIELDS.len()],
        calls: Vec::new(),
        unsettled: true,
    };
    for &(field, value) in values {
        packet.values[place(field)] = Some(value);
    }
    packet
}

fn tried(rules: &Rules, classifier: &Classifier, mut packet: Packet) -> Vec<u32> {
    let mut candidates = classifier.candidates(rules, 0, false);
    let all = std::iter::from_fn(|| candidates.next(&mut packet));
    all.map(|found| found.rule.id.0).collect()
}

#[test]
fn looks_at_few_rules() {
    let mut rules = ports(1000);
    let mut classifier = Classifier::new(&rules, Family::V4, 7);
    let wanted = packet(&[(Field::Src, 1), (Field::Dport, 777)]);
    assert_eq!(tried(&rules, &classifier, wanted.clone()), [0, 1, 2, 777]);
    let other = packet(&[(Field::Src, 2), (Field::Dport, 777)]);
    assert_eq!(tried(&rules, &classifier, other), [0, 1, 2]);
    for _ in 0..700 {
        classifier.remove(&mut rules, 50);
    }
    assert_eq!(tried(&rules, &classifier, wanted), [0, 1, 2, 777]);
}

/// A chain that starts empty and grows rule by rule gets a tree, too, and one that has
/// lost its rules gives everything back.
#[test]
fn grows_from_nothing_and_shrinks_to_nothing() {
    let mut rules = Rules::default();
    let mut classifier = Classifier::new(&rules, Family::V4, 7);
    for rule in ports(3000).iter() {
        let end = rules.len();
        classifier.insert(&mut rules, end, rule.clone());
    }
    let wanted = packet(&[(Field::Src, 1), (Field::Dport, 2222)]);
    assert_eq!(tried(&rules, &classifier, wanted.clone()), [0, 1, 2, 2222]);
    assert_eq!(classifier.edits(), 3000 - WORTHWHILE);
    while classifier.remove(&mut rules, 0).is_some() {}
    assert_eq!(tried(&rules, &classifier, wanted), [0; 0]);
    let trees = classifier.trees.as_ref().expect("still there");
    assert_eq!(trees.whole.root, Child::NONE);
}

/// The rule that an odd packet must not pass stands behind many of which each would let
/// it go on.
#[test]
fn finds_the_guard_that_drops_an_odd_packet() {
    let random = &mut Random(5);
    let rules: Rules = (0..2000)
        .map(|id| {
            let mut parts = vec![Cond::eq(Field::Src, u128::from(id))];
            parts.extend(transport(random));
            parts.push(Cond::eq(Field::Dport, 80));
            Rule {
                id: RuleId(id),
                cond: parts.into_iter().collect(),
                effects: Box::default(),
                verdict: Verdict::Accept,
                bare: false,
            }
        })
        .collect();
    let classifier = Classifier::new(&rules, Family::V4, 1);
    let chain = (rules, classifier);
    let cut_off = |src: u128| {
        packet(&[
            (Field::Src, src),
            (Field::Proto, 6),
            (Field::FragOff, 0),
            (Field::L4Len, 3),
        ])
    };
    for src in 0..2000 {
        let mut udp = cut_off(src);
        udp.values[place(Field::Proto)] = Some(17);
        for packet in [cut_off(src), udp] {
            let fast = fate(&chain, &packet, 0, false);
            assert_eq!(fast, fate(&chain, &packet, 0, true));
            assert!(tried(&chain.0, &chain.1, packet).len() <= 5);
        }
    }
}

/// Cells that have come and gone may leave every bucket pointing to the next: a look-up of
/// what is not there still ends.
#[test]
fn looking_up_ends_though_every_bucket_ran_over() {
    let cell = Bucket::EMPTY.cells[0];
    let (low, high) = (1, 1 << 31);
    let mut node = Node::new(&[], 2);
    for hash in 0..4 {
        node.place(low + hash, [0; FILTERS], cell);
    }
    for hash in 0..3 {
        let (at, i) = node.find(low + hash).unwrap();
        node.buckets[at].tags[i] = 0;
        node.used -= 1;
    }
    for hash in 0..3 {
        node.place(high + hash, [0; FILTERS], cell);
    }
    assert!(node.buckets.iter().all(Bucket::runs_over));
    assert_eq!(node.find(low + 9), None);
    assert!(node.find(low + 3).is_some() && node.find(high + 2).is_some());
}
