//! A packet of a capture: what it meets after those before it.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use tidegate_host::Host;

use super::Args;
use super::remedy::{self, Refusal, Remedy};
use crate::course::{Passed, Place};
use crate::replay::explain::origin_json;
use crate::replay::fate::Fate;
use crate::replay::host_of;
use crate::replay::paint::Paint;
use crate::replay::rules::{Loaded, Rules};
use crate::replay::session::Session;
use crate::replay::told::Told;

/// Runs the command for packet `number`.
///
/// # Errors
/// Rules, host or capture cannot be read; there is no such packet.
pub(super) fn run(args: &Args, capture: &Path, number: u64) -> Result<()> {
    let captures = [capture.to_owned()];
    let rules = args.given.rules()?;
    let host = host_of(args.given.host.as_deref(), &captures, &rules)?;
    rules.meet(&host, false)?;
    let paint = Paint::for_stdout();
    let begin = |rules: &Rules, host: Host| {
        let copy = Rules(rules.0.iter().map(Loaded::copy).collect());
        Session::new(host, copy, &captures)
    };
    let mut session = begin(&rules, host.clone());
    let told = session.told(&captures, number, paint)?;
    let again = |changed: &Rules| {
        let told = begin(changed, host.clone()).told(&captures, number, paint);
        told.map(refusal)
    };
    let refused = told.fate.rule().is_some();
    let text = session.text(&told, paint)?;
    let shown = packet(&session, &told, number, paint);
    let findings: Vec<_> = told.advice.iter().cloned().collect();
    let accepted = matches!(told.fate, Fate::Accept);
    let first = refusal(told);
    let remedy = first.map(|first| remedy::find(&rules, first, again));
    let remedy = remedy.transpose()?;
    let mut out = io::stdout().lock();
    if args.json {
        let all = json!({
            "packets": [shown],
            "verdict": match (refused, accepted) {
                (true, _) => "REFUSED",
                (false, true) => "ACCEPT",
                (false, false) => "STOPPED",
            },
            "findings": findings,
            "remedy": remedy.as_ref().map(Remedy::json),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    write!(out, "{text}")?;
    if let Some(remedy) = remedy {
        write!(out, "{}", remedy.text(paint))?;
    }
    Ok(())
}

/// The packet as one that rules refused.
fn refusal(told: Told) -> Option<Refusal> {
    told.fate.rule()?;
    let passed = Passed {
        fate: told.fate,
        outputs: Vec::new(),
        bytes: told.bytes,
        from: told.input.map_or(Place::Here, Place::At),
    };
    Some((passed, told.explainer?))
}

fn packet(session: &Session, told: &Told, number: u64, paint: Paint) -> serde_json::Value {
    let watched = told.explainer.as_ref();
    json!({
        "number": number,
        "packet": told.brief.as_ref().map(ToString::to_string),
        "verdict": told.fate.word(),
        "why": told.fate.why(),
        "ctstate": watched.map(|e| e.walk.state.name()),
        "rule": told.origin.as_ref().map(origin_json),
        "steps": watched.map(|e| e.json(&session.show(paint))),
    })
}
