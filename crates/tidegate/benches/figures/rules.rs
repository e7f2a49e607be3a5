//! Reading and lowering a long rules file.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, anyhow};
use tidegate_engine::{Config, Engine};
use tidegate_syntax::{lower, parse_rules};
use tidegate_wire::Family;
use tidegate_xt::NoNames;

use crate::file::file;
use crate::measure::{Group, timed};
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
        unit: ("rule", RULES as usize),
        rounds: 7,
        subjects: vec![
            ("split into words only", Box::new(|| words(&text))),
            ("read and lowered", Box::new(|| read(&text))),
            (
                "made ready in an engine",
                Box::new(|| {
                    let mut engine = Engine::new(Config::default(), router());
                    let load = || {
                        engine.load(rules.clone());
                        Ok(())
                    };
                    Ok(timed(load)?.0)
                }),
            ),
        ],
    }
    .run()?;
    Ok(())
}

fn words(text: &str) -> Result<Duration> {
    let count = || {
        Ok(black_box(
            text.lines().flat_map(str::split_whitespace).count(),
        ))
    };
    Ok(timed(count)?.0)
}

fn read(text: &str) -> Result<Duration> {
    let read = || {
        let rules = parse_rules(text, Family::V4, &NoNames).map_err(|e| anyhow!("{e:?}"))?;
        lower(&rules).map_err(|e| anyhow!("{e:?}"))
    };
    // Dropping what was read is not counted.
    Ok(timed(read)?.0)
}
