//! The walk of the rules that locally sent packets meet.

use tidegate_ir::{
    Base, Chain, ChainId, Cond, Effect, Hook, Policy, Rule, Table, TableKind, Verdict,
};

use crate::asm::{Asm, Label};
use crate::rules::{Bound, Facts, LEAST, Seen, all, branch, reduce};

/// Tables that can drop. In the table nat nothing may.
const TABLES: [TableKind; 4] = [
    TableKind::Raw,
    TableKind::Mangle,
    TableKind::Filter,
    TableKind::Security,
];

/// One table. Wherever the code is, what it stands for is a set of ways that a packet may
/// have taken; they must all end at a drop.
struct Walk<'w, 'a> {
    a: &'w mut Asm,
    facts: &'w Facts<'a>,
    table: &'w Table,
    /// Where it is not certain what the table does.
    open: Label,
    /// Instructions and rules beyond which nothing is certain.
    most: usize,
    rules: &'w mut usize,
}

/// Goes to `certain` when the packet is dropped for certain; goes on when not, or when
/// there are more than `most` instructions.
pub(super) fn output(a: &mut Asm, facts: &Facts<'_>, most: usize, certain: Label) {
    let mut rules = most;
    for table in TABLES.iter().filter_map(|kind| facts.rules.table(*kind)) {
        let base = table.base_chain(Hook::Output);
        let Some((id, base)) = base.and_then(|id| Some((id, table.chain(id)?.base?))) else {
            continue;
        };
        let (end, open) = (a.label(), a.label());
        let mut walk = Walk {
            a: &mut *a,
            facts,
            table,
            open,
            most,
            rules: &mut rules,
        };
        walk.chain(id, certain, end);
        a.bind(end);
        policy(a, base, certain);
        a.bind(open);
    }
}

fn policy(a: &mut Asm, base: Base, certain: Label) {
    if base.policy == Policy::Drop {
        a.jump(certain);
    }
}

impl Walk<'_, '_> {
    /// A chain's rules; at a drop the code goes to `dropped`, at the end to `back`.
    fn chain(&mut self, id: ChainId, dropped: Label, back: Label) {
        let table = self.table;
        let rules = table.chain(id).map(|c: &Chain| &c.rules);
        for rule in rules.into_iter().flat_map(|rules| rules.iter()) {
            let left = self.rules.checked_sub(1);
            let Some(left) = left.filter(|_| self.a.len() < self.most) else {
                return self.a.jump(self.open);
            };
            *self.rules = left;
            self.rule(rule, dropped, back);
        }
        self.a.jump(back);
    }

    fn bound(&self, rule: &Rule, bound: Bound) -> Cond {
        let seen = Seen {
            table: self.table.kind,
            least: LEAST as u128,
        };
        let conds = rule.cond.iter();
        all(conds.map(|c| reduce(self.facts, seen, c, bound)))
    }

    fn rule(&mut self, rule: &Rule, dropped: Label, back: Label) {
        let may = self.bound(rule, Bound::May);
        let must = self.bound(rule, Bound::Must);
        let sure = may == must;
        let next = self.a.label();
        match rule.verdict {
            _ if rule.effects.iter().any(may_pass) => self.branch(&may, self.open, next),
            Verdict::Continue => {}
            Verdict::Drop | Verdict::Reject(_) => self.branch(&must, dropped, next),
            Verdict::Accept => self.branch(&may, self.open, next),
            Verdict::Return if sure => self.branch(&may, back, next),
            Verdict::Goto(to) if sure => {
                self.enter(&may, next, to, dropped, back);
            }
            Verdict::Return | Verdict::Goto(_) => self.branch(&may, self.open, next),
            Verdict::Jump(to) if sure => self.enter(&may, next, to, dropped, next),
            // It may not be there: what is dropped there is still on its way here.
            Verdict::Jump(to) => self.enter(&may, next, to, next, next),
        }
        self.a.bind(next);
    }

    fn enter(&mut self, may: &Cond, next: Label, to: ChainId, dropped: Label, back: Label) {
        if *may == Cond::Const(false) {
            return;
        }
        let taken = self.a.label();
        self.branch(may, taken, next);
        self.a.bind(taken);
        self.chain(to, dropped, back);
    }

    fn branch(&mut self, cond: &Cond, yes: Label, no: Label) {
        if *cond != Cond::Const(false) {
            branch(self.a, self.facts, cond, yes, no);
        }
    }
}

/// Whether an effect may decide that the packet passes.
fn may_pass(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Queue(_) | Effect::Nat(_) | Effect::Tproxy(_)
    )
}
