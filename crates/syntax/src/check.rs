//! What the kernel checks before it takes a table (`translate_table`): no loops among
//! chains that packets reach, and every extension in a place that suits it.

use std::collections::HashMap;

use tidegate_ir::{Hook, TableKind};
use tidegate_wire::Family;
use tidegate_xt::{Errno, Place, Refusal};

use crate::ahead::in_order;
use crate::model::PIECE;
use crate::{Chain, Failure, Ruleset, Spec, Table, Target, error::reply, lower, save};

/// Which hooks' packets reach each chain.
#[derive(Debug)]
pub(crate) struct Reach<'a> {
    /// Chains in listing order.
    pub(crate) chains: Vec<&'a Chain>,
    index: HashMap<&'a str, usize>,
    /// Bit `Hook as u8` per chain.
    hooks: Vec<u8>,
    /// Rules of each chain that packets can get to: those up to an unconditional verdict.
    live: Vec<usize>,
}

impl<'a> Reach<'a> {
    /// Follows all jumps from the built-in chains.
    ///
    /// # Errors
    /// A chain calls itself, directly or through others (`mark_source_chains`).
    pub(crate) fn new(table: &'a Table) -> Result<Self, Failure> {
        let chains: Vec<&Chain> = table.chains().collect();
        let index: HashMap<_, _> = chains
            .iter()
            .enumerate()
            .map(|(i, c)| (c.name.as_str(), i))
            .collect();
        let mut reach = Reach {
            hooks: vec![0; chains.len()],
            live: Vec::with_capacity(chains.len()),
            chains,
            index,
        };
        let mut calls = Vec::with_capacity(reach.chains.len());
        for chain in &reach.chains {
            let (called, live) = reach.calls(chain);
            calls.push(called);
            reach.live.push(live);
        }
        for (i, chain) in reach.chains.iter().enumerate() {
            if let Some(base) = &chain.base {
                let done = mark(i, 1 << base.hook as u8, &calls, &mut reach.hooks);
                done.map_err(|circle| {
                    let names: Vec<&str> = circle
                        .iter()
                        .map(|&i| reach.chains[i].name.as_str())
                        .collect();
                    Failure::Circle(names.join(" -> "))
                })?;
            }
        }
        Ok(reach)
    }

    /// Chains that the live rules of `chain` call, and how many rules are live.
    fn calls(&self, chain: &Chain) -> (Vec<usize>, usize) {
        let mut calls = Vec::new();
        let mut live = chain.rules.len();
        for (n, rule) in chain.rules.iter().enumerate() {
            if let Target::Chain { name, .. } = &rule.spec.target {
                calls.extend(self.user_chain(name));
            } else if rule.spec.ends_chain() {
                live = n + 1;
                break;
            }
        }
        calls.sort_unstable();
        calls.dedup();
        (calls, live)
    }

    /// How many rules of chain number `i` packets can get to.
    pub(crate) fn live(&self, i: usize) -> usize {
        self.live.get(i).copied().unwrap_or(0)
    }

    /// Index of the user-defined chain of that name.
    pub(crate) fn user_chain(&self, name: &str) -> Option<usize> {
        let i = self.index.get(name).copied()?;
        self.chains[i].base.is_none().then_some(i)
    }

    /// Hooks whose packets reach chain number `i`.
    pub(crate) fn hooks(&self, i: usize) -> Vec<Hook> {
        let bits = self.hooks.get(i).copied().unwrap_or(0);
        Hook::ALL
            .into_iter()
            .filter(|&h| bits & (1 << h as u8) != 0)
            .collect()
    }

    /// Whether packets of any hook reach chain number `i`.
    pub(crate) fn is_reached(&self, i: usize) -> bool {
        self.hooks.get(i).is_some_and(|&b| b != 0)
    }
}

/// Marks everything that can be reached from `start`, with an explicit stack: chains
/// may be nested as deep as there are chains.
///
/// # Errors
/// A circle: its chains in the order of their jumps, the first once more at the end.
fn mark(start: usize, bit: u8, calls: &[Vec<usize>], hooks: &mut [u8]) -> Result<(), Vec<usize>> {
    let mut open = vec![false; calls.len()];
    let mut stack = vec![(start, 0)];
    hooks[start] |= bit;
    open[start] = true;
    while let Some((chain, next)) = stack.last_mut() {
        let Some(&callee) = calls[*chain].get(*next) else {
            open[*chain] = false;
            stack.pop();
            continue;
        };
        *next += 1;
        if open[callee] {
            let begins = stack.iter().position(|s| s.0 == callee).unwrap_or(0);
            let circle = stack[begins..].iter().map(|s| s.0);
            return Err(circle.chain([callee]).collect());
        }
        if hooks[callee] & bit == 0 {
            hooks[callee] |= bit;
            open[callee] = true;
            stack.push((callee, 0));
        }
    }
    Ok(())
}

/// Whether there can be such a table.
///
/// # Errors
/// There cannot.
pub(crate) fn exists(rules: &Ruleset, kind: TableKind) -> Result<(), Failure> {
    let tool = match rules.family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    match rules.offers(kind) {
        true => Ok(()),
        false => Err(Failure::no_table(tool, kind.name())),
    }
}

/// Whether the kernel would take a table.
///
/// # Errors
/// The kernel's answer.
pub fn table(rules: &Ruleset, kind: TableKind) -> Result<(), Failure> {
    let Some(table) = rules.table(kind) else {
        return Ok(());
    };
    exists(rules, kind)?;
    let reach = Reach::new(table)?;
    if !rules.has_conntrack && lower::is_of_conntrack(table, rules.family)? {
        return Err(reply::NO_CHAIN);
    }
    let mut chains = reach.chains.iter().enumerate();
    let checked = chains.try_for_each(|(i, chain)| {
        let first = |piece| {
            let mut all = refusals(&reach, i, (table, rules), piece);
            all.next().map(|(_, refusal)| refusal)
        };
        in_order(chain.pieces(), first, |_, first| first.map_or(Ok(()), Err))
    });
    checked.map_err(|refusal| answer(&refusal))
}

/// Rules that have been added to a chain.
pub(crate) struct Added {
    /// Position of the first; `None` where they are the last.
    pub(crate) from: Option<usize>,
    /// How many.
    pub(crate) count: usize,
}

/// As [`table`], where all was well before rules were added that call no chain.
///
/// # Errors
/// As [`table`].
pub(crate) fn added(
    rules: &Ruleset,
    kind: TableKind,
    chain: &str,
    place: Added,
) -> Result<(), Failure> {
    let Some(table) = rules.table(kind) else {
        return Ok(());
    };
    let reach = Reach::new(table)?;
    let Some(i) = reach.chains.iter().position(|c| c.name == chain) else {
        return Ok(());
    };
    let (own, hooks) = (&reach.chains[i].rules, reach.hooks(i));
    let live = reach.live(i);
    let from = place.from.unwrap_or(own.len().saturating_sub(place.count));
    let new = own.iter().enumerate().skip(from).take(place.count);
    for (n, added) in new {
        let hooks = if n < live { hooks.as_slice() } else { &[] };
        rule(&added.spec, table, rules, hooks).map_err(|refusal| answer(&refusal))?;
    }
    Ok(())
}

/// Whether the kernel would take a rule that calls no chain in a chain that packets of
/// these hooks reach, if it takes the others of its table.
#[must_use]
pub fn fits(spec: &Spec, table: &Table, rules: &Ruleset, hooks: &[Hook]) -> bool {
    rules.has_conntrack && rule(spec, table, rules, hooks).is_ok()
}

/// The rules in a piece of chain number `i` that the kernel would not take: position, answer.
fn refusals<'r>(
    reach: &'r Reach<'_>,
    i: usize,
    (table, rules): (&'r Table, &'r Ruleset),
    piece: usize,
) -> impl Iterator<Item = (usize, Refusal)> {
    let (hooks, live) = (reach.hooks(i), reach.live(i));
    let own = (piece * PIECE..).zip(reach.chains[i].piece(piece));
    own.filter_map(move |(n, own)| {
        let hooks = if n < live { hooks.as_slice() } else { &[] };
        Some((n, rule(&own.spec, table, rules, hooks).err()?))
    })
}

/// Takes out of a table what the kernel would not take, and says what it was; a table
/// whose chains loop is left empty.
pub(crate) fn sift(rules: &mut Ruleset, kind: TableKind) -> Vec<Failure> {
    let family = rules.family;
    let Some(table) = rules.table(kind) else {
        return Vec::new();
    };
    let reach = match Reach::new(table) {
        Ok(reach) => reach,
        Err(failure) => {
            let circle = match failure {
                Failure::Circle(chains) => format!(": {chains}"),
                _ => String::new(),
            };
            rules.table_mut(kind).clear();
            let why = format!("table {}: its chains jump in a circle{circle}", kind.name());
            return vec![Failure::Other(why)];
        }
    };
    let mut bad: Vec<(String, usize, Failure)> = Vec::new();
    for (i, chain) in reach.chains.iter().enumerate() {
        let pieces = 0..chain.pieces();
        let all = pieces.flat_map(|piece| refusals(&reach, i, (table, rules), piece));
        bad.extend(all.map(|(n, refusal)| {
            let text = save::rule(&chain.name, &chain.rules[n].spec, family, None);
            let why = Failure::Other(format!("{text}: {}", refusal.why));
            (chain.name.clone(), n, why)
        }));
    }
    let table = rules.table_mut(kind);
    for (chain, n, _) in bad.iter().rev() {
        if let Some(chain) = table.chain_mut(chain) {
            chain.rules.remove(*n);
        }
    }
    bad.into_iter().map(|(_, _, failure)| failure).collect()
}

fn rule(spec: &Spec, table: &Table, rules: &Ruleset, hooks: &[Hook]) -> Result<(), Refusal> {
    let place = Place {
        family: rules.family,
        timeouts: &rules.timeouts,
        table: table.kind,
        hooks,
        proto: spec.proto.map_or((0, false), |p| (p.number, p.invert)),
        matches: &spec.matches,
    };
    spec.matches.iter().try_for_each(|m| m.check(&place))?;
    match &spec.target {
        Target::Extension(x) => x.check(&place),
        Target::Chain { name, .. } => match table.user_chain(name) {
            Some(_) => Ok(()),
            None => Err(Refusal::invalid(format!("{name} is a built-in chain"))),
        },
        Target::None => Ok(()),
    }
}

fn answer(refusal: &Refusal) -> Failure {
    match refusal.errno {
        Errno::NotFound => reply::NO_CHAIN,
        errno @ (Errno::Invalid | Errno::Range) => Failure::Kernel(errno.message()),
    }
}
