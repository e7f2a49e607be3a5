//! A ruleset's tables over the whole space of packets.

use std::collections::BTreeMap;

use tidegate_analysis::{Ending, Followed, Narrow, Set, Space, TooBig, Walk, possible};
use tidegate_ir::{Field, Hook, Rule, Ruleset, TableKind};

/// Most nodes of the diagrams of one question: about 200 MB.
pub(crate) const MOST_NODES: usize = 3_000_000;

/// Steps of work for one table at one hook as a whole, and for a part of its packets.
const STEPS: u64 = 4_000_000;
const PART_STEPS: u64 = 2_000_000;

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
    /// Those that could not, for small questions.
    narrow: BTreeMap<TableKind, Narrow>,
}

impl Whole {
    /// Sends all possible packets through every table of `rules`.
    pub(crate) fn new(space: &mut Space, rules: &Ruleset) -> Self {
        let mut whole = Whole {
            passes: Vec::new(),
            unknown: Vec::new(),
            narrow: BTreeMap::new(),
        };
        for table in rules.tables.iter().flatten() {
            for &hook in table.kind.hooks() {
                let Some(entry) = table.base_chain(hook) else {
                    continue;
                };
                let mark = space.bdd.mark();
                space.bdd.allow(STEPS);
                let walk = possible(space, rules.family, Some(hook))
                    .and_then(|all| Walk::new(space, table, entry, all));
                space.bdd.allow(u64::MAX);
                match walk {
                    Ok(walk) => whole.passes.push(Pass {
                        table: table.kind,
                        hook,
                        walk,
                    }),
                    Err(TooBig) => {
                        space.bdd.back(mark);
                        whole.unknown.push((table.kind, hook));
                        let narrow = || Narrow::new(rules, table.kind);
                        whole.narrow.entry(table.kind).or_insert_with(narrow);
                    }
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

    /// Whether a rule's table could be followed at all hooks.
    pub(crate) fn knows(&self, table: TableKind) -> bool {
        !self.unknown.iter().any(|u| u.0 == table)
    }

    /// What becomes of packets with a value in each of these intervals: more packets may be in the
    /// answer. `None` where the table has no rules at the hook.
    pub(crate) fn part(
        &self,
        space: &mut Space,
        rules: &Ruleset,
        (table, hook): (TableKind, Hook),
        fields: &[(Field, u128, u128)],
    ) -> Result<Option<Part<'_>>, TooBig> {
        if let Some(pass) = self.pass(table, hook) {
            return Ok(Some(Part::Whole(&pass.walk)));
        }
        let Some(narrow) = self.narrow.get(&table) else {
            return Ok(None);
        };
        let window = Narrow::window(space, fields);
        let walk = narrow.walk(space, rules, hook, (&window, PART_STEPS))?;
        Ok(walk.map(Part::Own))
    }

    /// What becomes of packets that match a rule, as [`part`](Self::part).
    pub(crate) fn around(
        &self,
        space: &mut Space,
        rules: &Ruleset,
        (table, hook): (TableKind, Hook),
        rule: &Rule,
    ) -> Result<Option<Part<'_>>, TooBig> {
        if let Some(pass) = self.pass(table, hook) {
            return Ok(Some(Part::Whole(&pass.walk)));
        }
        let Some(narrow) = self.narrow.get(&table) else {
            return Ok(None);
        };
        let window = narrow.about(space, rule);
        let walk = narrow.walk(space, rules, hook, (&window, PART_STEPS))?;
        Ok(walk.map(Part::Own))
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

/// What is known about some packets at one table and hook.
pub(crate) enum Part<'a> {
    /// All packets were followed.
    Whole(&'a Walk),
    /// Those were.
    Own(Walk),
}

impl Part<'_> {
    const fn walk(&self) -> &Walk {
        match self {
            Part::Whole(walk) => walk,
            Part::Own(walk) => walk,
        }
    }

    /// Packets that match a rule.
    pub(crate) fn matches(&self, rule: &Rule) -> Set {
        let reach = self.walk().reach.get(&rule.id);
        reach.map_or(Set::EMPTY, |r| r.matches)
    }

    /// Packets that can go on.
    pub(crate) fn accepted(&self, space: &mut Space) -> Result<Set, TooBig> {
        let passes = |e| matches!(e, Ending::Accept | Ending::Nat(_));
        self.walk().ending(space, passes)
    }

    /// Packets that can be stopped.
    pub(crate) fn stopped(&self, space: &mut Space) -> Result<Set, TooBig> {
        let stops = |e| matches!(e, Ending::Drop | Ending::Reject(_));
        self.walk().ending(space, stops)
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
