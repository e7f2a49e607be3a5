//! A family's rules as they were written, changed as the tools change them.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use tidegate_engine::{Counter, Engine};
use tidegate_ir::RuleId;
use tidegate_syntax::{
    CounterMode, Counters, Failure, Printer, Reader, RestoreOptions, RuleOrigin, Ruleset, Sockets,
    lower_knowing, restore, run,
};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

/// The source rules of a family and where the engine's counters belong in them.
pub(crate) struct Rules {
    source: Ruleset,
    pub(crate) origin: Vec<RuleOrigin>,
}

impl Rules {
    pub(crate) fn empty(family: Family) -> Self {
        Rules {
            source: Ruleset::empty(family),
            origin: Vec::new(),
        }
    }

    /// Puts them in force.
    pub(crate) fn load(&mut self, engine: &mut Engine) -> Result<u8> {
        self.change(engine, |_| Ok(()))
    }

    /// What `iptables-restore` does, as the kernel has seen it: one table after the other
    /// until one is refused; tables that the text does not name stay. The exit status.
    pub(crate) fn restore(&mut self, engine: &mut Engine, text: &str, noflush: bool) -> Result<u8> {
        for table in text.split_inclusive("\nCOMMIT\n") {
            let status = self.restore_table(engine, table, noflush)?;
            if status != 0 {
                return Ok(status);
            }
        }
        Ok(0)
    }

    fn restore_table(&mut self, engine: &mut Engine, text: &str, noflush: bool) -> Result<u8> {
        let options = RestoreOptions {
            counters: CounterMode::TakeIfAny,
            noflush,
            ..RestoreOptions::default()
        };
        self.change(engine, |rules| {
            restore(rules, text, &options, "restore", &NoNames)
                .map(|_| ())
                .map_err(|refused| refused.failure)
        })
    }

    /// What `iptables` does with these words. Every change it makes sets the policies'
    /// counters of the table to zero.
    pub(crate) fn command(&mut self, engine: &mut Engine, words: &[&str]) -> Result<u8> {
        let family = self.source.family;
        let reader = Reader {
            family,
            tool: "iptables",
            names: &NoNames,
            restoring: None,
        };
        let printer = Printer {
            family,
            names: &NoNames,
        };
        self.change(engine, |rules| {
            let call = reader.read(words)?;
            let (table, changes) = (call.table, call.command.changes());
            run(rules, call, &printer)?;
            let chains = rules.table_mut(table).chains_mut().filter(|_| changes);
            for base in chains.filter_map(|chain| chain.base.as_mut()) {
                base.counters = Counters::default();
            }
            Ok(())
        })
    }

    fn change(
        &mut self,
        engine: &mut Engine,
        edit: impl FnOnce(&mut Ruleset) -> Result<(), Failure>,
    ) -> Result<u8> {
        let mut rules = self.source.clone();
        self.read_counters(engine, &mut rules);
        if let Err(failure) = edit(&mut rules) {
            return Ok(failure.status());
        }
        let lowered = lower_knowing(&rules, Sockets::All)
            .map_err(|failure| anyhow!(failure.render("rules", None)))?;
        engine.load(Arc::new(lowered.ruleset));
        self.source = rules;
        self.origin = lowered.origin;
        self.write_counters(engine);
        Ok(0)
    }

    /// From the engine to the rules.
    fn read_counters(&self, engine: &Engine, rules: &mut Ruleset) {
        for (i, place) in self.origin.iter().enumerate() {
            let count = engine.counter(rules.family, RuleId(i as u32));
            if let Some(slot) = slot(rules, place) {
                *slot = Counters {
                    packets: count.packets,
                    bytes: count.bytes,
                };
            }
        }
    }

    /// From the rules to the engine.
    fn write_counters(&mut self, engine: &mut Engine) {
        for (i, place) in self.origin.iter().enumerate() {
            if let Some(&mut Counters { packets, bytes }) = slot(&mut self.source, place) {
                let counter = Counter { packets, bytes };
                engine.set_counter(self.source.family, RuleId(i as u32), counter);
            }
        }
    }
}

/// The counters of a rule, or of a policy.
fn slot<'r>(rules: &'r mut Ruleset, place: &RuleOrigin) -> Option<&'r mut Counters> {
    let chain = rules.table_mut(place.table).chain_mut(&place.chain)?;
    match place.number.checked_sub(1) {
        None => chain.base.as_mut().map(|base| &mut base.counters),
        Some(i) => chain.rules.get_mut(i as usize).map(|r| &mut r.counters),
    }
}
