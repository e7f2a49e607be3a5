//! Small questions about tables that are too large to be followed whole.

use tidegate_ir::{Field, Hook, Rule, Ruleset, TableKind};

use crate::bdd::TooBig;
use crate::lens::LensId;
use crate::possible::possible;
use crate::space::Space;
use crate::walk::Walk;
use crate::window::{TableAsks, Window};

/// A table that is asked about some packets at a time.
#[derive(Clone, Debug)]
pub struct Narrow {
    table: TableKind,
    asks: TableAsks,
}

impl Narrow {
    /// A table of some rules.
    #[must_use]
    pub fn new(rules: &Ruleset, table: TableKind) -> Self {
        Narrow {
            table,
            asks: rules
                .table(table)
                .map_or_else(TableAsks::default, TableAsks::of),
        }
    }

    /// Where packets are that have a value in each of these intervals; of other fields than those
    /// that windows are about nothing is said.
    #[must_use]
    pub fn window(space: &Space, fields: &[(Field, u128, u128)]) -> Window {
        let mut window = Window::ALL;
        for &(field, lo, hi) in fields {
            window.narrow(space, field, lo, hi);
        }
        window
    }

    /// Where packets are that match one of the table's rules.
    #[must_use]
    pub fn about(&self, space: &Space, rule: &Rule) -> Window {
        let asks = self.asks.get(rule.id);
        asks.map_or(Window::ALL, |a| a.window(space))
    }

    /// Sends the packets of a window through the table at a hook, with at most `steps` steps of
    /// work; `None` where it has no rules there.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn walk(
        &self,
        space: &mut Space,
        rules: &Ruleset,
        hook: Hook,
        (window, steps): (&Window, u64),
    ) -> Result<Option<Walk>, TooBig> {
        let Some(table) = rules.table(self.table) else {
            return Ok(None);
        };
        let Some(entry) = table.base_chain(hook) else {
            return Ok(None);
        };
        space.bdd.allow(steps);
        let walk = possible(space, rules.family, Some(hook))
            .and_then(|all| window.packets(space, all))
            .and_then(|set| {
                let flow = vec![(LensId::CLEAR, set)];
                Walk::in_window(space, table, entry, flow, (window, &self.asks))
            });
        space.bdd.allow(u64::MAX);
        walk.map(Some)
    }
}
