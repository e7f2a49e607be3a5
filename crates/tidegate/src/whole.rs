//! A ruleset's tables over the whole space of packets.

use tidegate_analysis::{Ending, Followed, Set, Space, TooBig, Walk, possible};
use tidegate_ir::{Field, Hook, Ruleset, TableKind};

/// Most nodes of the diagrams of one question: about 200 MB.
pub(crate) const MOST_NODES: usize = 3_000_000;

/// What is known about one table at one hook.
pub(crate) struct Pass {
    /// Table.
    pub(crate) table: TableKind,
    /// Hook.
    pub(crate) hook: Hook,
    /// Reachability.
    pub(crate) walk: Walk,
}

/// Every table at every hook.
pub(crate) struct Whole {
    /// Those that could be followed.
    pub(crate) passes: Vec<Pass>,
    /// Those that could not.
    pub(crate) unknown: Vec<(TableKind, Hook)>,
}

impl Whole {
    /// Sends all possible packets through every table of `rules`.
    pub(crate) fn new(space: &mut Space, rules: &Ruleset) -> Self {
        let mut whole = Whole {
            passes: Vec::new(),
            unknown: Vec::new(),
        };
        for table in rules.tables.iter().flatten() {
            for &hook in table.kind.hooks() {
                let Some(entry) = table.base_chain(hook) else {
                    continue;
                };
                let walk = possible(space, rules.family, Some(hook))
                    .and_then(|all| Walk::new(space, table, entry, all));
                match walk {
                    Ok(walk) => whole.passes.push(Pass {
                        table: table.kind,
                        hook,
                        walk,
                    }),
                    Err(TooBig) => whole.unknown.push((table.kind, hook)),
                }
            }
        }
        whole
    }

    /// The table at the hook, if it is there and could be followed.
    pub(crate) fn pass(&self, table: TableKind, hook: Hook) -> Option<&Pass> {
        self.passes
            .iter()
            .find(|p| p.table == table && p.hook == hook)
    }

    /// Whether the table at the hook could not be followed.
    pub(crate) fn is_unknown(&self, table: TableKind, hook: Hook) -> bool {
        self.unknown.contains(&(table, hook))
    }

    /// Whether a rule's table could be followed at all hooks.
    pub(crate) fn knows(&self, table: TableKind) -> bool {
        !self.unknown.iter().any(|u| u.0 == table)
    }

    /// What gets to each rule of a table and what matches it, over all its hooks.
    pub(crate) fn followed(&self, space: &mut Space, table: TableKind) -> Result<Followed, TooBig> {
        let mut all = Followed::default();
        for pass in self.passes.iter().filter(|p| p.table == table) {
            all.add(space, &pass.walk)?;
        }
        Ok(all)
    }
}

impl Pass {
    /// Packets that can go on.
    pub(crate) fn accepted(&self, space: &mut Space) -> Result<Set, TooBig> {
        let passes = |e| matches!(e, Ending::Accept | Ending::Nat(_));
        self.walk.ending(space, passes)
    }

    /// Packets that can be stopped.
    pub(crate) fn stopped(&self, space: &mut Space) -> Result<Set, TooBig> {
        let stops = |e| matches!(e, Ending::Drop | Ending::Reject(_));
        self.walk.ending(space, stops)
    }
}

/// Packets with a value in each of these intervals.
pub(crate) fn class(space: &mut Space, fields: &[(Field, u128, u128)]) -> Result<Set, TooBig> {
    let mut set = Set::ALL;
    for &(field, lo, hi) in fields {
        let one = space.within(field, lo, hi)?;
        set = space.bdd.and(set, one)?;
    }
    Ok(set)
}
