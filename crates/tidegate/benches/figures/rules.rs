//! Reading and lowering a long rules file.

use std::hint::black_box;

use anyhow::{Result, anyhow};
use tidegate_engine::{Config, Engine};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

use crate::file::file;
use crate::measure::{Group, Meter, Subject, Took};
use crate::surroundings::{load, router};

const RULES: u32 = 100_000;

/// Measures a file of 100,000 rules.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn run() -> Result<()> {
    let text = file(RULES);
    let rules = load(&text)?;
    Group {
        title: format!(
            "A rules file of {RULES} rules ({:.1} MB)",
            text.len() as f64 / 1e6
        ),
        unit: "rule",
        rounds: 7,
        subjects: vec![
            Subject::new("split into words only", || words(&text)),
            Subject::new("read and lowered", || read(&text)),
            Subject::new("made ready in an engine", || {
                let meter = Meter::new()?;
                let mut engine = Engine::new(Config::default(), router());
                meter.time(RULES as usize, || {
                    engine.load(rules.clone());
                    Ok(())
                })
            }),
        ],
    }
    .run()?;
    Ok(())
}

fn words(text: &str) -> Result<Took> {
    Meter::new()?.time(RULES as usize, || {
        black_box(text.lines().flat_map(str::split_whitespace).count());
        Ok(())
    })
}

fn read(text: &str) -> Result<Took> {
    let mut made = None;
    // Dropping what was read is not counted.
    Meter::new()?.time(RULES as usize, || {
        let rules = parse_rules(text, Family::V4, &NoNames).map_err(|e| anyhow!("{e:?}"))?;
        made = Some(lower(&rules).map_err(|e| anyhow!("{e:?}"))?);
        Ok(())
    })
}
