//! One rule changed in its place, between two packets.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use tidegate_engine::{Config, Edit, Engine};
use tidegate_ir::{ChainId, Hook, Rule, TableKind};
use tidegate_wire::Family;

use crate::measure::{Group, Meter, Subject, Took};
use crate::surroundings::{Established, load, many, router};

/// Changes in one go.
const CHANGES: usize = 200;
const SIZES: [(u32, &str); 2] = [(9_998, "10,000 rules"), (99_998, "100,000 rules")];

/// Makes many changes of one kind, and says what they took.
type Change<'c> = dyn Fn(&mut Edited) -> Result<Took> + 'c;

/// An engine with many rules.
struct Edited {
    engine: Engine,
    place: (TableKind, ChainId),
    /// How many rules; the first and the last one ask for the state of connections.
    rules: usize,
    /// Bytes that it holds with its rules.
    bytes: usize,
}

impl Edited {
    fn new(rules: u32) -> Result<Self> {
        let meter = Meter::new()?;
        let ruleset = load(&many(rules, Established::First))?;
        let filter = ruleset.table(TableKind::Filter).context("no table")?;
        let chain = filter.base_chain(Hook::Forward).context("no chain")?;
        let mut engine = Engine::new(Config::default(), router());
        engine.load(ruleset);
        Ok(Edited {
            engine,
            place: (TableKind::Filter, chain),
            rules: rules as usize + 2,
            bytes: meter.held()?,
        })
    }

    /// Time of many changes, by the clock: they are too short for that of the processor's use.
    fn change(&mut self, edit: impl Fn(usize) -> Edit) -> Result<Took> {
        let edits: Vec<Edit> = (0..CHANGES).map(edit).collect();
        let start = Instant::now();
        for edit in edits {
            let made = self.engine.edit(Family::V4, self.place, edit);
            made.map_err(|why| anyhow!("{why:?}"))?;
        }
        Ok(Took {
            bytes: Some(self.bytes),
            ..Took::new(start.elapsed(), CHANGES)
        })
    }

    /// Somewhere among the rules between the first and the last one, each time elsewhere.
    const fn at(&self, n: usize) -> usize {
        1 + n * 7919 % (self.rules - 2)
    }
}

/// Rules of different hosts.
fn new_rules() -> Result<Vec<Rule>> {
    let line = |n| format!("-A FORWARD -s 192.0.2.{n}/32 -p tcp -m tcp --dport 25 -j DROP\n");
    let lines: String = (0..CHANGES).map(line).collect();
    let ruleset = load(&format!("*filter\n{lines}COMMIT\n"))?;
    let rules = ruleset.rules().map(|(_, _, rule)| rule.clone());
    Ok(rules.collect())
}

/// Measures rules that come, go and are replaced. What came is taken out again before the next
/// kind of change.
///
/// # Errors
/// The engine cannot make a change in its place.
pub(crate) fn run() -> Result<()> {
    let engines = SIZES.map(|(rules, _)| Edited::new(rules).map(RefCell::new));
    let engines = engines.into_iter().collect::<Result<Vec<_>>>()?;
    let new = new_rules()?;
    let rule = |n: usize| new[n % new.len()].clone();
    let append = |own: &mut Edited| {
        let time = own.change(|n| Edit::Insert(usize::MAX, rule(n)))?;
        let rules = own.rules;
        own.change(|_| Edit::Remove(rules))?;
        Ok(time)
    };
    let insert = |own: &mut Edited| {
        let places: Vec<usize> = (0..CHANGES).map(|n| own.at(n)).collect();
        let time = own.change(|n| Edit::Insert(places[n], rule(n)))?;
        own.change(|n| Edit::Remove(places[CHANGES - 1 - n]))?;
        Ok(time)
    };
    let replace = |own: &mut Edited| {
        let places: Vec<usize> = (0..CHANGES).map(|n| own.at(n)).collect();
        own.change(|n| Edit::Replace(places[n], rule(n)))
    };
    let delete = |own: &mut Edited| {
        let places: Vec<usize> = (0..CHANGES).map(|n| own.at(n)).collect();
        own.change(|n| Edit::Insert(places[n], rule(n)))?;
        own.change(|n| Edit::Remove(places[CHANGES - 1 - n]))
    };
    let kinds: [(&str, &Change); 4] = [
        ("One rule appended", &append),
        ("One rule inserted somewhere", &insert),
        ("One rule replaced", &replace),
        ("One rule deleted", &delete),
    ];
    for (title, change) in kinds {
        let named = SIZES.iter().map(|s| s.1).zip(&engines);
        Group {
            title: title.to_owned(),
            unit: "change",
            rounds: 3,
            subjects: named
                .map(|(name, engine)| Subject::new(name, move || change(&mut engine.borrow_mut())))
                .collect(),
        }
        .run()?;
    }
    Ok(())
}
