//! Rules that apply wherever their entry lets a packet pass: all they want lies in the
//! entry's intervals, so that neither memory nor time is spent on testing it again.
//!
//! That goes for packets that no guard drops and that are no later fragments: both are
//! asked once for a packet instead of once for each rule.

use tidegate_ir::{Cond, Field, Rule, Test};

use super::build::{Builder, Row};
use super::key::{ALL, Bounds, ends};
use super::leaf::{Entry, VIEWS};
use super::reading::{Scope, agreed, is_harmless, parts};
use super::tree::Tree;

impl Builder<'_> {
    /// A rule's entry in a leaf.
    pub(super) fn entry(&self, row: &Row<'_>) -> Entry {
        let bounds = self.tree.bounds_of_entry(&row.tests);
        let rule = self
            .rules
            .at_slot(row.slot)
            .filter(|_| self.scope == Scope::Whole);
        let certain = rule.is_some_and(|rule| self.tree.is_certain(rule, &bounds));
        Entry::new(row.slot, bounds, certain)
    }
}

impl Tree {
    /// Whether a rule applies to all whole packets that lie in its entry's intervals and
    /// that no guard drops.
    fn is_certain(&self, rule: &Rule, bounds: &[Bounds; VIEWS]) -> bool {
        is_harmless(rule)
            && parts(rule).all(|part| match part {
                Cond::Const(held) => *held,
                Cond::DropWhen(_) => true,
                Cond::Test(test) => wants_no_later_fragment(test) || self.implied(test, bounds),
                Cond::All(_) | Cond::Any(_) | Cond::Not(_) => false,
                Cond::Shared(_) | Cond::Call(_) => false,
            })
    }

    /// Whether a test holds for all values that the intervals let pass.
    fn implied(&self, test: &Test, bounds: &[Bounds; VIEWS]) -> bool {
        let mut dims = self.dims.iter();
        let Some(dim) = dims.find(|d| d.field == test.field() && d.wide.is_none()) else {
            return false;
        };
        let seen = |lens| self.views.iter().position(|&view| view == lens);
        let half = |lens| seen(lens).map_or(ALL, |at| bounds[at]);
        let (low, high) = (half(dim.lens), half(dim.lens + 1));
        // Packets that have no such value pass where there are no bounds.
        if low == ALL && high == ALL {
            return false;
        }
        let ((low, high), all) = ((ends(low), ends(high)), dim.bits());
        let whole = |high: u16, low: u16| (u128::from(high) << 16 | u128::from(low)).min(all);
        let above = if all > 0xffff { high } else { (0, 0) };
        let (lo, hi) = (whole(above.0, low.0), whole(above.1, low.1));
        if let Some((mask, wanted)) = test.mask() {
            return agreed(lo, hi) & mask == mask && lo & mask == wanted;
        }
        let mut intervals = test.intervals().into_iter().flatten();
        intervals.any(|(least, most)| least <= lo && hi <= most)
    }
}

/// The usual test of who looks at a transport header.
fn wants_no_later_fragment(test: &Test) -> bool {
    test.field() == Field::FragOff && test.interval() == Some((0, 0))
}

#[cfg(test)]
mod tests {
    use tidegate_ir::{Cond, Rules, Truth};
    use tidegate_wire::Family;

    use super::*;
    use crate::classifier::Classifier;
    use crate::classifier::tests::{Packet, Random, accepting, cases, check, transport, value};

    /// A prefix or some values next to each other, now and then as bits.
    fn part(random: &mut Random, field: Field) -> Cond {
        let v = value(random, field, Family::V4);
        let open = (1u128 << random.pick(&[0, 1, 3, 8, 11, 16])) - 1;
        let all = if field == Field::Src || field == Field::Dst {
            0xffff_ffff
        } else {
            0xffff
        };
        match random.below(8) {
            0 => Cond::bits(field, all & !open, v & all & !open),
            1 => Cond::range(field, v & all, (v & all).max(v / 2 + 0x1_0100) & all),
            _ => Cond::range(field, v & all & !open, (v | open) & all),
        }
    }

    /// What people write: addresses, a protocol, ports.
    fn usual(random: &mut Random, id: u32) -> Rule {
        let mut parts = Vec::new();
        for field in [Field::Src, Field::Dst] {
            if random.below(3) > 0 {
                parts.push(part(random, field));
            }
        }
        if random.below(4) > 0 {
            parts.extend(transport(random));
            for field in [Field::Sport, Field::Dport] {
                if random.below(2) > 0 {
                    parts.push(part(random, field));
                }
            }
        }
        match random.below(20) {
            0 => parts.push(part(random, Field::Dport).inverted_if(true)),
            1 => parts.push(Cond::eq(Field::Ttl, 64)),
            2 => parts.push(Cond::Call(tidegate_ir::StepId(0))),
            _ => {}
        }
        accepting(id, parts)
    }

    /// How many of the rules that apply to packets the trees have found to apply.
    fn known(random: &mut Random, chain: &(Rules, Classifier), packets: usize) -> (usize, usize) {
        let (mut known, mut all) = (0, 0);
        for _ in 0..packets {
            let packet = &mut Packet::new(random, Family::V4);
            let mut candidates = chain.1.candidates(&chain.0, 0, false);
            (candidates.one_by_one, candidates.longest) = (0, 0);
            while let Some(found) = candidates.next(packet) {
                known += usize::from(found.applies);
                all += usize::from(found.rule.cond.eval(packet, &mut ()) == Truth::True);
            }
        }
        (known, all)
    }

    #[test]
    fn is_certain_of_rules_that_apply_only() {
        let random = &mut Random(8);
        let (mut certain, mut applying) = (0, 0);
        for _ in 0..cases() / 60 {
            let len = 10 + random.below(200) as u32;
            let rules: Rules = (0..len).map(|id| usual(random, id)).collect();
            let classifier = Classifier::new(&rules, Family::V4, random.below(9));
            let mut chain = (rules, classifier);
            check(random, &chain, 30);
            let (known, all) = known(random, &chain, 30);
            (certain, applying) = (certain + known, applying + all);
            for id in 0..20 {
                let at = random.below(u64::from(len)) as usize;
                chain.1.remove(&mut chain.0, at);
                let new = usual(random, len + id);
                chain.1.insert(&mut chain.0, at, new);
            }
            check(random, &chain, 30);
        }
        // Not of all that stand alone in a cell, nor of odd parts, nor for odd packets.
        assert!(certain * 4 > applying, "{certain} of {applying}");
    }
}
