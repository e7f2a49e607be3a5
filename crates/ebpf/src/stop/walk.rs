//! The walk of the rules that a received packet meets, which is either certain in every
//! step or ends. Rules that follow each other and end the walk, as most do, are searched.

use tidegate_ir::{
    Base, ChainId, Cond, Effect, Field, Policy, Rule, RuleId, Table, TableKind, Verdict,
};

use super::{End, Ends, LONGEST_TRAIL, Slot, SlotNumber, Slots, TRAIL_AT, trail};
use crate::asm::{Asm, Cond as If, Label, Op, Reg, Size, Src};
use crate::rules::{
    Bound, Entry, Facts, LEAST, NOTHING, Search, Seen, all, branch, first, is_long, reduce,
};

/// What a program has room for.
#[derive(Debug)]
pub(super) struct Room {
    /// Instructions of the whole program, beyond which nothing is certain.
    pub(super) most: usize,
    /// Instructions of one packet's way through a hook, beyond which nothing is.
    pub(super) longest: usize,
    /// Where the hook's code begins.
    pub(super) begun: usize,
    /// Of the hook's instructions those that are not on the longest way.
    pub(super) aside: usize,
}

impl Room {
    fn is_used_up(&self, a: &Asm) -> bool {
        a.len() >= self.most || a.len() - self.begun - self.aside >= self.longest
    }
}

struct Walk<'w, 'a> {
    a: &'w mut Asm,
    facts: &'w Facts<'a>,
    table: &'w Table,
    slots: &'w mut Slots,
    room: &'w mut Room,
    ends: Ends,
    /// Where a packet goes on that the table lets pass.
    passed: Label,
}

const TCP: u128 = tidegate_wire::proto::TCP as u128;
/// Bytes of a TCP header, which what opens a connection has.
const TCP_HEADER: u128 = 20;

/// Rules of this number in a row, each of which ends the walk if it is met, are looked at
/// one by one; more are searched.
const FEW: usize = 12;

/// How a rule ends the walk of its chain at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The table lets the packet pass.
    Passed,
    /// The rule drops it.
    Dropped,
    /// The chain is over.
    Back,
    /// Nobody knows.
    Open,
}

/// Low bits of the number of a rule that is searched: its [`Outcome`]; its slot is above them.
const OUTCOME_BITS: i32 = 2;

/// A rule that packets may meet.
struct Part<'r> {
    rule: &'r Rule,
    /// Whenever the rule's conditions hold, or their test leaves traces, this holds; the
    /// other way round too, unless the outcome is that nobody knows.
    cond: Cond,
    /// What comes of it, if the walk of the chain ends there.
    outcome: Option<Outcome>,
}

/// Goes to one of `ends`, or on, when the tables let the packet pass.
pub(super) fn tables(
    a: &mut Asm,
    facts: &Facts<'_>,
    kinds: &[TableKind],
    (slots, room): (&mut Slots, &mut Room),
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
            room: &mut *room,
            ends,
            passed,
        };
        walk.chain(id, end);
        walk.a.bind(end);
        walk.policy(base);
        a.bind(passed);
    }
}

impl Walk<'_, '_> {
    fn policy(&mut self, base: Base) {
        let end = (base.policy == Policy::Drop).then_some(End::Policy);
        let slot = self.slots.of(self.slot(base.policy_id, end));
        self.met(slot);
        match base.policy {
            Policy::Drop => self.a.jump(self.ends.certain),
            Policy::Accept => {}
        }
    }

    fn slot(&self, rule: RuleId, end: Option<End>) -> Slot {
        let family = self.facts.family();
        Slot { family, rule, end }
    }

    /// A chain's rules; at its end the code goes to `back`.
    fn chain(&mut self, id: ChainId, back: Label) {
        let table = self.table;
        let Some(chain) = table.chain(id) else {
            return self.a.jump(back);
        };
        // The slots of a chain are in the order of its rules.
        for rule in chain.rules.iter() {
            self.slots.of(self.slot(rule.id, end_of(rule)));
        }
        let mut run = Vec::new();
        for rule in chain.rules.iter() {
            let Some(part) = self.part(rule) else {
                continue;
            };
            if part.outcome.is_some() && !is_long(&part.cond) {
                run.push(part);
                continue;
            }
            self.run(&run, back);
            run.clear();
            self.one(&part, back);
        }
        self.run(&run, back);
        self.a.jump(back);
    }

    /// What is known of a rule; `None` when no packet meets it.
    fn part<'r>(&self, rule: &'r Rule) -> Option<Part<'r>> {
        let (cond, sure) = self.condition(rule);
        let outcome = match rule.verdict {
            _ if !sure || !is_harmless(rule) => Some(Outcome::Open),
            Verdict::Accept => Some(Outcome::Passed),
            Verdict::Drop => Some(Outcome::Dropped),
            Verdict::Return => Some(Outcome::Back),
            Verdict::Reject(_) => Some(Outcome::Open),
            Verdict::Continue | Verdict::Jump(_) | Verdict::Goto(_) => None,
        };
        (cond != Cond::Const(false)).then_some(Part {
            rule,
            cond,
            outcome,
        })
    }

    /// Rules in a row, each of which ends the walk; goes on when none is met.
    fn run(&mut self, run: &[Part<'_>], back: Label) {
        if run.len() > FEW {
            return self.search(run, back);
        }
        for part in run {
            self.one(part, back);
        }
    }

    fn search(&mut self, run: &[Part<'_>], back: Label) {
        use Reg as R;
        if self.room.is_used_up(self.a) {
            return self.a.jump(self.ends.open);
        }
        let entries: Vec<Entry<'_>> = run.iter().map(|part| self.entry(part)).collect();
        let begun = self.a.len();
        let search = Search {
            facts: self.facts,
            found: (TRAIL_AT, trail::FOUND),
            // What comes behind needs room too.
            most: begun + (self.room.most - begun) / 4 * 3,
            longest: self.room.longest,
            open: self.ends.open,
        };
        let longest = first(self.a, search, &entries);
        self.room.aside += self.a.len() - begun - longest;
        let a = &mut *self.a;
        let next = a.label();
        a.load(Size::W, R::R1, TRAIL_AT, trail::FOUND);
        a.jump_if32(If::Eq, R::R1, NOTHING, next);
        a.mov(R::R3, R::R1);
        a.alu(Op::And, R::R3, (1 << OUTCOME_BITS) - 1);
        a.jump_if(If::Eq, R::R3, Outcome::Open as i32, self.ends.open);
        a.alu(Op::Rsh, R::R1, OUTCOME_BITS);
        note(a, R::R1.into(), self.ends.open);
        a.jump_if(If::Eq, R::R3, Outcome::Dropped as i32, self.ends.certain);
        a.jump_if(If::Eq, R::R3, Outcome::Passed as i32, self.passed);
        a.jump(back);
        a.bind(next);
    }

    fn entry<'p>(&mut self, part: &'p Part<'_>) -> Entry<'p> {
        let SlotNumber(slot, counts) = self.slots.of(self.slot(part.rule.id, end_of(part.rule)));
        let outcome = part.outcome.filter(|_| counts).unwrap_or(Outcome::Open);
        Entry {
            cond: &part.cond,
            number: slot << OUTCOME_BITS | outcome as i32,
        }
    }

    /// When a rule may be met, and whether it is for certain then.
    fn condition(&self, rule: &Rule) -> (Cond, bool) {
        let conds: Vec<&Cond> = rule.cond.iter().collect();
        let seen = Seen {
            table: self.table.kind,
            least: least(&conds),
        };
        let bound =
            |conds: &[&Cond], bound| all(conds.iter().map(|c| reduce(self.facts, seen, c, bound)));
        match conds.iter().position(|c| self.leaves_traces(seen, c)) {
            // It is tested once those before it hold, and does nothing while it is quiet.
            Some(at) => {
                let quiet = matches!(conds[at], Cond::Call(s) if self.facts.quiet(*s).is_some());
                let tested = &conds[..at + usize::from(quiet)];
                (bound(tested, Bound::May), false)
            }
            None => {
                let may = bound(&conds, Bound::May);
                let sure = may == bound(&conds, Bound::Must);
                (may, sure)
            }
        }
    }

    /// Whether a test of `cond` does something itself.
    fn leaves_traces(&self, seen: Seen, cond: &Cond) -> bool {
        match cond {
            Cond::Call(_) => true,
            Cond::DropWhen(inner) => {
                let drops = reduce(self.facts, seen, inner, Bound::May);
                drops != Cond::Const(false) || self.leaves_traces(seen, inner)
            }
            Cond::All(list) | Cond::Any(list) => list.iter().any(|c| self.leaves_traces(seen, c)),
            Cond::Not(inner) => self.leaves_traces(seen, inner),
            Cond::Shared(inner) => self.leaves_traces(seen, inner),
            Cond::Const(_) | Cond::Test(_) => false,
        }
    }

    /// A rule that is looked at by itself.
    fn one(&mut self, part: &Part<'_>, back: Label) {
        if self.room.is_used_up(self.a) {
            return self.a.jump(self.ends.open);
        }
        let (taken, next) = (self.a.label(), self.a.label());
        self.room.aside += branch(self.a, self.facts, &part.cond, taken, next);
        self.a.bind(taken);
        match part.outcome {
            Some(Outcome::Open) => self.a.jump(self.ends.open),
            _ => self.take(part.rule, next, back),
        }
        self.a.bind(next);
    }

    /// A rule whose conditions hold.
    fn take(&mut self, rule: &Rule, next: Label, back: Label) {
        let slot = self.slots.of(self.slot(rule.id, end_of(rule)));
        self.met(slot);
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
    fn met(&mut self, slot: SlotNumber) {
        match slot.counts() {
            true => note(self.a, slot.0.into(), self.ends.open),
            false => self.a.jump(self.ends.open),
        }
    }
}

/// Adds a slot to the trail, or goes to `full`.
fn note(a: &mut Asm, slot: Src, full: Label) {
    use Reg as R;
    a.load(Size::D, R::R4, TRAIL_AT, trail::COUNT);
    a.jump_if(If::Ge, R::R4, LONGEST_TRAIL, full);
    a.mov(R::R2, R::R4);
    a.alu(Op::Lsh, R::R2, 2);
    a.alu(Op::Add, R::R2, TRAIL_AT);
    a.store(Size::W, R::R2, trail::SLOTS, slot);
    a.alu(Op::Add, R::R4, 1);
    a.store(Size::D, TRAIL_AT, trail::COUNT, R::R4);
}

/// Whether a rule does no more than to count and to mark.
fn is_harmless(rule: &Rule) -> bool {
    let marks = |e: &Effect| matches!(e, Effect::Assign(..));
    rule.effects.iter().all(marks)
}

fn end_of(rule: &Rule) -> Option<End> {
    matches!(rule.verdict, Verdict::Drop).then_some(End::Rule)
}

/// Bytes from the transport header on that a packet has for certain for which `conds` are
/// tested: if one of those before all that leave traces wants TCP, its whole header.
fn least(conds: &[&Cond]) -> u128 {
    let mut first = conds.iter().take_while(|c| !may_leave_traces(c));
    let wants_tcp = |c: &&Cond| match c {
        Cond::Test(test) => test.field() == Field::Proto && test.interval() == Some((TCP, TCP)),
        _ => false,
    };
    match first.any(wants_tcp) {
        true => TCP_HEADER,
        false => LEAST as u128,
    }
}

fn may_leave_traces(cond: &Cond) -> bool {
    let mut found = false;
    cond.visit(&mut |c| found |= matches!(c, Cond::Call(_) | Cond::DropWhen(_)));
    found
}
