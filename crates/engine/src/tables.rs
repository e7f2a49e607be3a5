//! One table at one hook: chain traversal and counters (`ipt_do_table`).

use tidegate_ir::{
    Chain, ChainId, Cond, Conds, Hook, Policy, QueueSpec, RejectKind, Rule, RuleId, Step,
    SynProxySpec, Table, TableKind, Truth, Verdict,
};

use crate::classifier::{Candidates, Classifier};
use crate::facts::View;
use crate::outcome::DropReason;
use crate::trace::{Trace, TraceEvent, Watch};

/// Packets and bytes of a rule or a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Network-layer bytes.
    pub bytes: u64,
}

impl Counter {
    #[inline]
    pub(crate) fn count(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

/// The counter of a rule or policy; room for it is made where there is none.
#[inline]
pub(crate) fn counter_of(counters: &mut Vec<Counter>, id: RuleId) -> &mut Counter {
    let at = id.0 as usize;
    if at >= counters.len() {
        counters.resize(at + 1, Counter::default());
    }
    &mut counters[at]
}

/// What a table says about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Accept,
    Drop(DropReason),
    Reject(RejectKind, RuleId),
    /// Drop, and tell the sender that the header field at this offset makes no sense.
    Problem(u32, RuleId),
    /// It goes to a queue.
    Queue(QueueSpec, RuleId),
    /// The SYN proxy of a rule takes it.
    SynProxy(SynProxySpec, RuleId),
}

/// Where traversal goes on after a rule's effects ran.
pub(crate) enum Continue {
    /// As the rule's verdict says.
    Verdict,
    /// The effect itself decided.
    Decided(Decision),
}

/// Deepest nesting of jumps; the loader allows as many as there are chains, the
/// kernel sizes its stack alike.
const MAX_DEPTH: usize = 4096;

/// What traversal needs from the engine while rules are evaluated and their effects
/// carried out.
pub(crate) trait Host {
    type Trace: Trace;
    fn view(&mut self) -> (View<'_>, Watch<'_, Self::Trace>);
    fn run_effects(&mut self, rule: &Rule) -> Continue;
    fn counter(&mut self, id: RuleId) -> &mut Counter;
    fn packet_len(&self) -> u32;
    /// Whether the packet's rules are logged (TRACE).
    fn is_traced(&self) -> bool;
    /// Logs the rule that the packet met in a chain, counted from 1.
    fn log_rule(&mut self, table: TableKind, chain: &Chain, kind: &str, number: usize);
}

struct Frame {
    chain: ChainId,
    /// The least key ([`tidegate_ir::Rules`]) of a rule that is still to be tested.
    next: u32,
}

/// Walks `table`, whose chains have `classifiers`, from its base chain at `hook`. Absent
/// base chains accept.
pub(crate) fn walk<H: Host>(
    host: &mut H,
    table: &Table,
    classifiers: &[Classifier],
    hook: Hook,
    stack: &mut Stack,
) -> Decision {
    let Some(base_id) = table.base_chain(hook) else {
        return Decision::Accept;
    };
    stack.0.clear();
    if H::Trace::ACTIVE
        && let Some(chain) = table.chain(base_id)
    {
        host.view().1.trace.event(TraceEvent::Table {
            table: table.kind,
            chain,
        });
    }
    let mut at = Frame {
        chain: base_id,
        next: 0,
    };
    'chain: loop {
        let place = at.chain.0 as usize;
        let (Some(chain), Some(own)) = (table.chains.get(place), classifiers.get(place)) else {
            return Decision::Drop(DropReason::JumpDepth);
        };
        let mut returned = false;
        let mut candidates = own.candidates(&chain.rules, at.next, H::Trace::TESTS);
        while let Some(found) = next_match(host, table.kind, chain, &mut candidates) {
            let rule = match found {
                Ok(rule) => rule,
                Err((drop, taken)) => {
                    if let Some(rule) = taken {
                        let len = host.packet_len();
                        host.counter(rule.id).count(len);
                        log_rule(host, table.kind, chain, rule);
                        host.run_effects(rule);
                        if let Verdict::Reject(kind) = rule.verdict {
                            return Decision::Reject(kind, rule.id);
                        }
                    }
                    return Decision::Drop(drop);
                }
            };
            let len = host.packet_len();
            host.counter(rule.id).count(len);
            log_rule(host, table.kind, chain, rule);
            if !rule.effects.is_empty()
                && let Continue::Decided(decision) = host.run_effects(rule)
            {
                return decision;
            }
            at.next = candidates.next_key();
            match rule.verdict {
                Verdict::Continue => {}
                Verdict::Accept => return Decision::Accept,
                Verdict::Drop => return Decision::Drop(DropReason::Rule(rule.id)),
                Verdict::Reject(kind) => return Decision::Reject(kind, rule.id),
                Verdict::Jump(chain) => {
                    if stack.0.len() >= MAX_DEPTH {
                        return Decision::Drop(DropReason::JumpDepth);
                    }
                    stack.0.push(at);
                    at = Frame { chain, next: 0 };
                    continue 'chain;
                }
                Verdict::Goto(chain) => {
                    at = Frame { chain, next: 0 };
                    continue 'chain;
                }
                Verdict::Return => {
                    returned = true;
                    break;
                }
            }
        }
        match stack.0.pop() {
            Some(frame) => {
                if !returned && host.is_traced() {
                    host.log_rule(table.kind, chain, "return", chain.rules.len() + 1);
                }
                at = frame;
            }
            None => return policy(host, table, base_id),
        }
    }
}

/// Logs the rule that a traced packet met.
#[inline]
fn log_rule<H: Host>(host: &mut H, table: TableKind, chain: &Chain, rule: &Rule) {
    if host.is_traced() {
        let number = chain.rules.iter().position(|r| r.id == rule.id);
        host.log_rule(table, chain, kind_of(chain, rule), number.unwrap_or(0) + 1);
    }
}

/// What the kernel's trace calls a rule (`get_chainname_rulenum`): one without a condition
/// that ends a chain passes for its policy, or for a return.
fn kind_of(chain: &Chain, rule: &Rule) -> &'static str {
    let ends = matches!(
        rule.verdict,
        Verdict::Accept | Verdict::Drop | Verdict::Return
    );
    match (
        ends && rule.bare && rule.effects.is_empty() && rule.cond.is_empty(),
        &chain.base,
    ) {
        (true, Some(_)) => "policy",
        (true, None) => "return",
        (false, _) => "rule",
    }
}

/// The jump stack, kept between packets so that a walk allocates nothing.
#[derive(Default)]
pub(crate) struct Stack(Vec<Frame>);

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stack").field(&self.0.len()).finish()
    }
}

/// The next rule whose condition holds, or that dropped the packet while being tested;
/// then the rule too if it held all the same.
fn next_match<'t, H: Host>(
    host: &mut H,
    kind: TableKind,
    chain: &'t Chain,
    candidates: &mut Candidates<'t>,
) -> Option<Result<&'t Rule, (DropReason, Option<&'t Rule>)>> {
    let (mut view, mut watch) = host.view();
    while let Some(found) = candidates.next(&mut view) {
        let rule = found.rule;
        let truth = if found.applies {
            debug_assert_eq!(rule.cond.eval(&mut view, &mut ()), Truth::True);
            Truth::True
        } else {
            rule.cond.eval(&mut view, &mut watch)
        };
        if H::Trace::TESTS {
            report_steps(&rule.cond, view.steps, watch.trace);
        }
        if H::Trace::TESTS || H::Trace::ACTIVE && truth != Truth::False {
            watch.trace.event(TraceEvent::Rule {
                table: kind,
                chain,
                index: chain.rules.position(found.slot)?,
                rule,
                truth,
            });
        }
        match truth {
            Truth::False => {}
            Truth::True => return Some(Ok(rule)),
            Truth::Hotdrop => return Some(Err((DropReason::Hotdrop(rule.id), None))),
            Truth::HotdropTaken => {
                return Some(Err((DropReason::Hotdrop(rule.id), Some(rule))));
            }
        }
    }
    None
}

fn report_steps<T: Trace>(cond: &Conds, steps: &[Box<dyn Step>], trace: &mut T) {
    cond.visit(&mut |c| {
        if let Cond::Call(id) = c
            && let Some(step) = steps.get(id.0 as usize)
        {
            trace.event(TraceEvent::Step(step.as_ref()));
        }
    });
}

fn policy<H: Host>(host: &mut H, table: &Table, base_id: ChainId) -> Decision {
    let Some((chain, base)) = table.chain(base_id).and_then(|c| Some((c, c.base?))) else {
        return Decision::Accept;
    };
    let len = host.packet_len();
    host.counter(base.policy_id).count(len);
    if host.is_traced() {
        host.log_rule(table.kind, chain, "policy", chain.rules.len() + 1);
    }
    if H::Trace::ACTIVE {
        let id = base.policy_id;
        host.view().1.trace.event(TraceEvent::Policy {
            table: table.kind,
            chain,
            policy: base.policy,
            id,
        });
    }
    match base.policy {
        Policy::Accept => Decision::Accept,
        Policy::Drop => Decision::Drop(DropReason::Policy(base.policy_id)),
    }
}
