//! From source rules to the lowered language.

use std::collections::HashMap;
use std::convert::Infallible;

use tidegate_ir::{
    Base, Chain, ChainId, Cond, Field, Hook, Rule, RuleId, Rules, Step, Table, TableKey, Verdict,
};
use tidegate_wire::Family;
use tidegate_xt::{LowerCtx, Outcome, Sockets, text};

use crate::ahead::in_order;
use crate::check::Reach;
use crate::model::{self as source, PIECE};
use crate::{Failure, Iface, Net, Ruleset, Spec, Target, save};

/// A lowered ruleset and where its rules come from.
#[derive(Debug)]
pub struct Lowered {
    /// What the engine runs.
    pub ruleset: tidegate_ir::Ruleset,
    /// Where each counter belongs; index: `RuleId`.
    pub origin: Vec<RuleOrigin>,
    /// The stateful tests of each table (index: `TableKind as usize`).
    pub steps: [std::ops::Range<u32>; 5],
    /// The chains of each table (index as above) all of whose rules packets can reach.
    pub whole: [WholeChains; 5],
}

/// By name: where a chain was put, and the hooks whose packets reach it.
pub type WholeChains = HashMap<String, (ChainId, Vec<Hook>)>;

/// The source of a rule or policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrigin {
    /// Table.
    pub table: tidegate_ir::TableKind,
    /// Chain.
    pub chain: String,
    /// Rule number from 1; 0 for the policy.
    pub number: u32,
    /// The rule as `-S` prints it (`-A INPUT …`, `-P INPUT DROP`).
    pub text: String,
}

/// Lowers a ruleset.
///
/// Counter ids have the order of [`Ruleset::slots_mut`]. Rules that no packet can reach (behind an
/// unconditional verdict or in a chain nothing calls) have an id and an origin but no
/// lowered form: such chains may even call each other in circles.
///
/// # Errors
/// Chains that packets reach form a loop (never in rulesets that have been checked), or a
/// rule asks for what only a kernel knows.
pub fn lower(rules: &Ruleset) -> Result<Lowered, Failure> {
    lower_knowing(rules, Sockets::Unknown)
}

/// As [`lower`], for rules that may ask for what is known of sockets.
///
/// # Errors
/// As [`lower`].
pub fn lower_knowing(rules: &Ruleset, sockets: Sockets) -> Result<Lowered, Failure> {
    lower_all(rules, true, true, sockets)
}

/// The same without origins, which take a third of the time. Where no packet meets the
/// rules (`met`), those that ask for what only a kernel knows are kept as well.
///
/// # Errors
/// As [`lower`].
pub fn lower_unnamed(rules: &Ruleset, met: bool, sockets: Sockets) -> Result<Lowered, Failure> {
    lower_all(rules, false, met, sockets)
}

/// A rule as [`lower`] makes it but for its id; `None` where that takes more than the rule:
/// it calls a chain, keeps state, or asks for sockets or for what only a kernel knows.
#[must_use]
pub fn lower_one(spec: &Spec, family: Family) -> Option<Rule> {
    let mut run = Run::new(family, false, Sockets::Unknown);
    let rule = run.rule(RuleId(0), spec, None);
    let calls = matches!(spec.target, Target::Chain { .. });
    (!calls && run.steps.is_empty() && run.refused.is_none()).then_some(rule)
}

/// The shared tables that a rule looks into.
#[must_use]
pub fn tables_of(spec: &Spec, family: Family) -> Vec<TableKey> {
    let mut run = Run::new(family, false, Sockets::Unknown);
    run.rule(RuleId(0), spec, None);
    run.steps.iter().flat_map(|s| s.tables()).collect()
}

fn lower_all(
    rules: &Ruleset,
    named: bool,
    met: bool,
    sockets: Sockets,
) -> Result<Lowered, Failure> {
    let mut run = Run::new(rules.family, named, sockets);
    let mut ruleset = tidegate_ir::Ruleset::empty(rules.family);
    let mut steps = [0; 5].map(|_| 0..0);
    for kind in tidegate_ir::TableKind::ALL {
        if let Some(table) = rules.table(kind) {
            let first = run.steps.len() as u32;
            ruleset.tables[kind as usize] = Some(run.table(table)?);
            steps[kind as usize] = first..run.steps.len() as u32;
        }
    }
    if let (Some(why), true) = (run.refused, met) {
        return Err(Failure::Plain(why));
    }
    ruleset.steps = run.steps;
    ruleset.tracks_connections = run.needs.tracking;
    ruleset.asks_sockets = run.needs.sockets;
    ruleset.reassembles = run.needs.whole_packets;
    ruleset.rule_ids = run.ids;
    Ok(Lowered {
        ruleset,
        origin: run.origin,
        steps,
        whole: run.whole,
    })
}

/// Whether a rule of the table needs a kernel that can track connections.
///
/// # Errors
/// As [`lower`].
pub(crate) fn is_of_conntrack(table: &crate::Table, family: Family) -> Result<bool, Failure> {
    let mut run = Run::new(family, false, Sockets::Unknown);
    run.table(table)?;
    Ok(run.needs.conntrack)
}

/// What some rule needs.
#[derive(Clone, Copy, Default)]
struct Needs {
    /// Tracked connections.
    tracking: bool,
    /// A kernel that can track connections.
    conntrack: bool,
    /// The sockets of packets.
    sockets: bool,
    /// Fragments put together.
    whole_packets: bool,
}

impl Needs {
    const fn add(&mut self, other: Needs) {
        self.tracking |= other.tracking;
        self.conntrack |= other.conntrack;
        self.sockets |= other.sockets;
        self.whole_packets |= other.whole_packets;
    }
}

/// Some rules of a chain that have been lowered before their turn: those that need nothing
/// but themselves for that.
struct Ahead {
    rules: Vec<Option<Rule>>,
    needs: Needs,
}

struct Run {
    family: Family,
    /// Origins are wanted.
    named: bool,
    origin: Vec<RuleOrigin>,
    /// Ids given so far.
    ids: u32,
    steps: Vec<Box<dyn Step>>,
    whole: [WholeChains; 5],
    /// What is known of the host's sockets.
    sockets: Sockets,
    needs: Needs,
    /// Why a rule cannot be decided, and which; the first one.
    refused: Option<String>,
}

impl Run {
    fn new(family: Family, named: bool, sockets: Sockets) -> Self {
        Run {
            family,
            named,
            origin: Vec::new(),
            ids: 0,
            steps: Vec::new(),
            whole: Default::default(),
            sockets,
            needs: Needs::default(),
            refused: None,
        }
    }

    fn table(&mut self, table: &crate::Table) -> Result<Table, Failure> {
        let reach = Reach::new(table)?;
        let mut entry = [None; 5];
        let mut chains = Vec::with_capacity(reach.chains.len());
        for (i, chain) in reach.chains.iter().enumerate() {
            let live = match reach.is_reached(i) {
                true => reach.live(i),
                false => 0,
            };
            if live == chain.rules.len() && reach.is_reached(i) {
                let place = (ChainId(i as u32), reach.hooks(i));
                self.whole[table.kind as usize].insert(chain.name.clone(), place);
            }
            let lowered = self.chain(table, chain, live, &reach);
            if let Some(base) = &lowered.base {
                entry[base.hook as usize] = Some(ChainId(i as u32));
            }
            chains.push(lowered);
        }
        Ok(Table {
            kind: table.kind,
            chains,
            entry,
        })
    }

    fn chain(
        &mut self,
        table: &crate::Table,
        chain: &crate::Chain,
        live: usize,
        reach: &Reach<'_>,
    ) -> Chain {
        let mut rules = Rules::default();
        let (family, sockets) = (self.family, self.sockets);
        let ahead = |piece| Run::new(family, false, sockets).ahead(chain.piece(piece), reach);
        let done: Result<(), Infallible> = in_order(chain.pieces(), ahead, |piece, ahead| {
            self.needs.add(ahead.needs);
            let numbers = piece * PIECE + 1..;
            for ((number, rule), ahead) in numbers.zip(chain.piece(piece)).zip(ahead.rules) {
                let lowered = self.numbered(table, chain, (number, rule), ahead, reach);
                if number <= live {
                    rules.extend([lowered]);
                }
            }
            Ok(())
        });
        let Ok(()) = done;
        let base = chain.base.as_ref().map(|b| Base {
            hook: b.hook,
            policy: b.policy,
            policy_id: self.id(|_| RuleOrigin {
                table: table.kind,
                chain: chain.name.clone(),
                number: 0,
                text: save::chain_line(chain, false),
            }),
        });
        Chain {
            name: chain.name.clone(),
            base,
            rules,
        }
    }

    /// Lowers rules that need nothing but themselves for that.
    fn ahead(mut self, rules: &[source::Rule], reach: &Reach<'_>) -> Ahead {
        let alone = |rule: &source::Rule| {
            let lowered = self.rule(RuleId(0), &rule.spec, Some(reach));
            let alone = self.steps.is_empty() && self.refused.is_none();
            (self.steps, self.refused) = Default::default();
            alone.then_some(lowered)
        };
        Ahead {
            rules: rules.iter().map(alone).collect(),
            needs: self.needs,
        }
    }

    /// A rule of a chain, which may have been lowered before.
    fn numbered(
        &mut self,
        table: &crate::Table,
        chain: &crate::Chain,
        (number, rule): (usize, &source::Rule),
        ahead: Option<Rule>,
        reach: &Reach<'_>,
    ) -> Rule {
        let text = |family| save::rule(&chain.name, &rule.spec, family, None);
        let id = self.id(|family| RuleOrigin {
            table: table.kind,
            chain: chain.name.clone(),
            number: number as u32,
            text: text(family),
        });
        if let Some(lowered) = ahead {
            return Rule { id, ..lowered };
        }
        let accepted = self.refused.is_none();
        let lowered = self.rule(id, &rule.spec, Some(reach));
        if let Some(why) = self.refused.as_mut().filter(|_| accepted) {
            *why = format!("{why}: {}", text(self.family));
        }
        lowered
    }

    fn id(&mut self, origin: impl FnOnce(Family) -> RuleOrigin) -> RuleId {
        if self.named {
            self.origin.push(origin(self.family));
        }
        self.ids += 1;
        RuleId(self.ids - 1)
    }

    fn rule(&mut self, id: RuleId, spec: &Spec, reach: Option<&Reach<'_>>) -> Rule {
        let mut conds = header(spec, self.family);
        let mut ctx = LowerCtx::new(self.family, &mut self.steps, self.sockets);
        conds.extend(spec.matches.iter().map(|m| m.condition(&mut ctx)));
        let outcome = match &spec.target {
            Target::None => Outcome::verdict(Verdict::Continue),
            Target::Chain { name, goto } => {
                let chain = reach
                    .and_then(|r| r.user_chain(name))
                    .map(|i| ChainId(i as u32));
                Outcome::verdict(match (chain, goto) {
                    (Some(chain), false) => Verdict::Jump(chain),
                    (Some(chain), true) => Verdict::Goto(chain),
                    (None, _) => Verdict::Continue,
                })
            }
            Target::Extension(x) => x
                .outcome(&mut ctx)
                .unwrap_or_else(|| Outcome::verdict(Verdict::Continue)),
        };
        let mut effects = ctx.effects;
        effects.extend(outcome.effects);
        self.needs.sockets |= ctx.asks_sockets;
        self.needs.whole_packets |= ctx.reassembles;
        if let Some(why) = ctx.refused {
            self.refused.get_or_insert_with(|| why.to_owned());
        }
        let rule = Rule {
            id,
            cond: conds.into_iter().collect(),
            effects: effects.into(),
            verdict: outcome.verdict,
            bare: spec.matches.is_empty(),
        };
        self.needs.tracking |= rule.needs_conntrack();
        self.needs.conntrack |= rule.is_of_conntrack();
        rule
    }
}

/// Conditions of the header options, in the kernel's order (`ip_packet_match`).
fn header(spec: &Spec, family: Family) -> Vec<Cond> {
    let mut conds = Vec::new();
    conds.extend(spec.src.map(|n| net(Field::Src, n, family)));
    conds.extend(spec.dst.map(|n| net(Field::Dst, n, family)));
    conds.extend(spec.input.as_ref().map(|i| iface(Field::InName, i)));
    conds.extend(spec.output.as_ref().map(|i| iface(Field::OutName, i)));
    if let Some(p) = spec.proto {
        // An IPv6 packet whose header chain is cut short never matches, inverted or not.
        if p.invert && family == Family::V6 {
            conds.push(Cond::range(Field::Proto, 0, 255));
        }
        conds.push(Cond::eq(Field::Proto, u128::from(p.number)).inverted_if(p.invert));
    }
    if let Some(invert) = spec.fragment {
        conds.push(Cond::range(Field::FragOff, 1, 0x1fff).inverted_if(invert));
    }
    conds
}

fn net(field: Field, net: Net, family: Family) -> Cond {
    let cond = match text::prefix_len(net.mask, family) {
        Some(_) => {
            let last = net.addr | (text::full_mask(family) & !net.mask);
            Cond::range(field, net.addr, last)
        }
        None => Cond::bits(field, net.mask, net.addr),
    };
    cond.inverted_if(net.invert)
}

/// Names are 16 bytes, NUL padded, as one big-endian number; a `+` leaves the rest open.
fn iface(field: Field, iface: &Iface) -> Cond {
    let name = iface.name.strip_suffix('+').unwrap_or(&iface.name);
    let mut bytes = [0; 16];
    bytes
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, from)| *to = from);
    let value = u128::from_be_bytes(bytes);
    let cond = if name.len() == iface.name.len() {
        Cond::eq(field, value)
    } else {
        let open = 128 - 8 * name.len().min(16) as u32;
        let mask = u128::MAX.checked_shl(open).unwrap_or(0);
        Cond::bits(field, mask, value)
    };
    cond.inverted_if(iface.invert)
}
