//! The walk of the rules that a received packet meets, which is either certain in every
//! step or ends.

use tidegate_ir::{Base, ChainId, Cond, Effect, Policy, Rule, RuleId, Table, TableKind, Verdict};

use super::{End, Ends, LONGEST_TRAIL, Slot, Slots, TRAIL_AT, trail};
use crate::asm::{Asm, Cond as If, Label, Op, Reg, Size};
use crate::rules::{Bound, Facts, all, branch, reduce};

struct Walk<'w, 'a> {
    a: &'w mut Asm,
    facts: &'w Facts<'a>,
    table: &'w Table,
    slots: &'w mut Slots,
    /// Instructions beyond which nothing is certain.
    most: usize,
    ends: Ends,
    /// Where a packet goes on that the table lets pass.
    passed: Label,
}

/// Goes to one of `ends`, or on, when the tables let the packet pass.
pub(super) fn tables(
    a: &mut Asm,
    facts: &Facts<'_>,
    kinds: &[TableKind],
    (slots, most): (&mut Slots, usize),
    ends: Ends,
) {
    for table in kinds.iter().filter_map(|kind| facts.rules.table(*kind)) {
        let base = table.base_chain(facts.hook);
        let Some((id, base)) = base.and_then(|id| Some((id, table.chain(id)?.base?))) else {
            continue;
        };
        let (end, passed) = (a.label(), a.label());
        let mut walk = Walk {
            a: &mut *a,
            facts,
            table,
            slots: &mut *slots,
            most,
            ends,
            passed,
        };
        walk.chain(id, end);
        walk.a.bind(end);
        walk.policy(base);
        a.bind(passed);
    }
}

/// What a rule's conditions come to.
struct Bounds {
    /// Whenever this holds, they hold.
    must: Cond,
    /// Whenever they hold, or their test leaves traces, this holds.
    may: Cond,
}

impl Walk<'_, '_> {
    fn policy(&mut self, base: Base) {
        let end = (base.policy == Policy::Drop).then_some(End::Policy);
        self.met(base.policy_id, end);
        match base.policy {
            Policy::Drop => self.a.jump(self.ends.certain),
            Policy::Accept => {}
        }
    }

    /// A chain's rules; at its end the code goes to `back`.
    fn chain(&mut self, id: ChainId, back: Label) {
        let table = self.table;
        let rules = table.chain(id).map(|c| &c.rules);
        for rule in rules.into_iter().flat_map(|rules| rules.iter()) {
            if self.a.len() >= self.most {
                return self.a.jump(self.ends.open);
            }
            self.rule(rule, back);
        }
        self.a.jump(back);
    }

    fn bounds(&self, rule: &Rule) -> Bounds {
        let kind = self.table.kind;
        let bound =
            |conds: &[&Cond], bound| all(conds.iter().map(|c| reduce(self.facts, kind, c, bound)));
        let conds: Vec<&Cond> = rule.cond.iter().collect();
        match conds.iter().position(|c| leaves_traces(c)) {
            // It is tested once those before it hold.
            Some(at) => Bounds {
                must: Cond::Const(false),
                may: bound(&conds[..at], Bound::May),
            },
            None => Bounds {
                must: bound(&conds, Bound::Must),
                may: bound(&conds, Bound::May),
            },
        }
    }

    fn rule(&mut self, rule: &Rule, back: Label) {
        let Bounds { must, may } = self.bounds(rule);
        if may == Cond::Const(false) {
            return;
        }
        let (taken, next) = (self.a.label(), self.a.label());
        if must == may {
            branch(self.a, self.facts, &may, taken, next);
        } else {
            let unsure = self.a.label();
            branch(self.a, self.facts, &must, taken, unsure);
            self.a.bind(unsure);
            branch(self.a, self.facts, &may, self.ends.open, next);
        }
        self.a.bind(taken);
        self.take(rule, next, back);
        self.a.bind(next);
    }

    /// A rule whose conditions hold.
    fn take(&mut self, rule: &Rule, next: Label, back: Label) {
        let harmless = rule.effects.iter().all(|e| matches!(e, Effect::Assign(..)));
        if !harmless || matches!(rule.verdict, Verdict::Reject(_)) {
            return self.a.jump(self.ends.open);
        }
        let end = matches!(rule.verdict, Verdict::Drop).then_some(End::Rule);
        self.met(rule.id, end);
        match rule.verdict {
            Verdict::Continue => self.a.jump(next),
            Verdict::Drop => self.a.jump(self.ends.certain),
            Verdict::Accept => self.a.jump(self.passed),
            Verdict::Return => self.a.jump(back),
            Verdict::Jump(to) => self.chain(to, next),
            Verdict::Goto(to) => self.chain(to, back),
            Verdict::Reject(_) => {}
        }
    }

    /// Notes that the packet has met a rule.
    fn met(&mut self, rule: RuleId, end: Option<End>) {
        use Reg as R;
        let family = self.facts.family();
        let Some(slot) = self.slots.of(Slot { family, rule, end }) else {
            return self.a.jump(self.ends.open);
        };
        let a = &mut *self.a;
        a.load(Size::D, R::R1, TRAIL_AT, trail::COUNT);
        a.jump_if(If::Ge, R::R1, LONGEST_TRAIL, self.ends.open);
        a.mov(R::R2, R::R1);
        a.alu(Op::Lsh, R::R2, 2);
        a.alu(Op::Add, R::R2, TRAIL_AT);
        a.store(Size::W, R::R2, trail::SLOTS, slot as i32);
        a.alu(Op::Add, R::R1, 1);
        a.store(Size::D, TRAIL_AT, trail::COUNT, R::R1);
    }
}

/// Whether a test of `cond` does something itself.
fn leaves_traces(cond: &Cond) -> bool {
    match cond {
        Cond::Call(_) | Cond::DropWhen(_) => true,
        Cond::All(list) | Cond::Any(list) => list.iter().any(leaves_traces),
        Cond::Not(inner) => leaves_traces(inner),
        Cond::Shared(inner) => leaves_traces(inner),
        Cond::Const(_) | Cond::Test(_) => false,
    }
}
