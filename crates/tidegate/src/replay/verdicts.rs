//! Which packets of a capture rules stop.

use std::path::Path;

use anyhow::Result;
use tidegate_host::Host;
use tidegate_ir::RuleId;

use super::fail_on_damage;
use super::fate::Fate;
use super::rules::Rules;
use super::session::Session;
use super::source::Sources;

/// What came of a capture.
pub(crate) struct Played {
    /// Numbers of the packets that were stopped, and by which rule or why.
    pub(crate) stopped: Vec<(u64, String)>,
    /// For each family of the rules, which counters have counted.
    pub(crate) counted: Vec<Vec<bool>>,
}

/// Decides a whole capture.
///
/// # Errors
/// The capture cannot be read or is damaged.
pub(crate) fn stopped(host: Host, rules: Rules, capture: &Path) -> Result<Played> {
    let paths = [capture.to_owned()];
    let mut session = Session::new(host, rules, &paths);
    let mut sources = Sources::open(&paths)?;
    let mut stopped = Vec::new();
    let mut number = 0;
    while let Some((source, frame)) = sources.next_frame() {
        number += 1;
        let treated = session.treated(source, &frame);
        if !matches!(treated.fate, Fate::Drop(_) | Fate::Reject(_)) {
            continue;
        }
        let origin = treated
            .rule
            .and_then(|id| session.rules.origin(treated.family, id));
        let by = match origin {
            Some(o) => format!("{} {} {}: {}", o.table.name(), o.chain, o.number, o.text),
            None => treated.fate.why().unwrap_or_default(),
        };
        stopped.push((number, by));
    }
    fail_on_damage(&mut sources)?;
    let families = session.rules.0.iter();
    let counted = families.map(|l| {
        let counter = |at: usize| {
            let id = RuleId(at as u32);
            session.engine.counter(l.source.family, id).packets > 0
        };
        (0..l.origin.len()).map(counter).collect()
    });
    let counted = counted.collect();
    Ok(Played { stopped, counted })
}
