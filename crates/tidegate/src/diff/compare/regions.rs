//! Where two rulesets may differ.

use std::collections::BTreeSet;

use tidegate_analysis::{Window, regions};
use tidegate_ir::{Effect, Field, Ruleset, TableKind};

use super::Compared;
use super::written::changed;

impl Compared<'_> {
    /// Where packets are that the rulesets may treat differently: those that some rule is about
    /// which only one of them has.
    pub(super) fn regions(&self) -> Vec<Window> {
        let mut all = BTreeSet::new();
        let rulesets = self.sides.each_ref().map(|s| &*s.loaded.lowered);
        let trusted = |field: Field| trusted(rulesets, self.host.is_some(), field);
        for kind in TableKind::ALL {
            let sources = self.sides.each_ref().map(|s| s.loaded.source.table(kind));
            let mut chains: BTreeSet<&str> = BTreeSet::new();
            for table in sources.iter().flatten() {
                chains.extend(table.chains().map(|c| c.name.as_str()));
            }
            for chain in chains {
                let texts = self.sides.each_ref().map(|s| {
                    let of = |o: &&tidegate_syntax::RuleOrigin| o.table == kind && o.chain == chain;
                    let origins = s.loaded.origin.iter().enumerate();
                    origins.filter(|(_, o)| of(o)).collect::<Vec<_>>()
                });
                let lists = texts
                    .each_ref()
                    .map(|t| t.iter().map(|(_, o)| o.text.as_str()).collect::<Vec<_>>());
                let differ = changed(&lists[0], &lists[1]);
                for ((side, differ), texts) in self.sides.iter().zip(&differ).zip(&texts) {
                    for at in differ {
                        let (id, origin) = texts[*at];
                        if origin.text.starts_with("-P") {
                            // A policy is for everybody.
                            all.insert(Window::ALL);
                            continue;
                        }
                        let lowered = side.loaded.lowered.table(kind);
                        let rules = lowered.iter().flat_map(|t| &t.chains);
                        let rule = rules
                            .filter(|c| c.name == chain)
                            .flat_map(|c| c.rules.iter())
                            .find(|r| r.id.0 as usize == id);
                        if let Some(rule) = rule {
                            all.extend(regions(&rule.cond, &self.space, trusted));
                        }
                    }
                }
            }
        }
        match all.contains(&Window::ALL) {
            true => vec![Window::ALL],
            false => all.into_iter().collect(),
        }
    }
}

/// Whether rules see the same value of a field at all hooks.
fn trusted(rulesets: [&Ruleset; 2], host: bool, field: Field) -> bool {
    let any = |of: fn(&Effect) -> bool| {
        let mut rules = rulesets.iter().flat_map(|r| r.rules());
        rules.any(|(_, _, r)| r.effects.iter().any(of))
    };
    match field {
        Field::Src | Field::Sport => !any(|e| matches!(e, Effect::Nat(_) | Effect::Npt(_))),
        Field::Dst | Field::Dport => !any(|e| matches!(e, Effect::Nat(_) | Effect::Npt(_))),
        Field::L4Len => !any(|e| matches!(e, Effect::TcpMss(_) | Effect::StripTcpOptions(_))),
        Field::CtState => !any(|e| matches!(e, Effect::Ct(_))),
        Field::OutName => !host,
        _ => true,
    }
}
