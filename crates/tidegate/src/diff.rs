//! `tidegate diff`: which packets two rulesets treat differently.

mod compare;
mod example;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use serde_json::json;
use tidegate_host::Host;
use tidegate_wire::Family;

use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::Loaded;
use compare::{Comparison, compare};

const HELP: &str = "\
All packets that there can be go through all tables of both rulesets, whatever the state of
their connection; each difference comes with an example and the rules that decide it.
Examples that open a connection have gone through the engine. Log lines are not compared.

Exit status: 0 the same is proved; 1 rules cannot be read; 2 the command line is wrong; 3
they differ, or it is unknown whether they do.";

/// Say which packets two rulesets treat differently.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The rules are IPv6 rules.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// The host that the rules are for, as `tidegate host` describes it, or `live`.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Rules now.
    #[arg(value_name = "A")]
    before: PathBuf,
    /// Rules then.
    #[arg(value_name = "B")]
    after: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read or is refused.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let family = if args.ipv6 { Family::V6 } else { Family::V4 };
    let before = Loaded::read(&args.before, family)?;
    let after = Loaded::read(&args.after, family)?;
    let host = args.host.as_deref().map(Host::read).transpose()?;
    let found = compare(&before, &after, host.as_ref());
    let same = found.is_same();
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&json(&found))?)?,
        false => write!(out, "{}", text(&found, Paint::for_stdout()))?,
    }
    Ok(match same {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(3),
    })
}

fn json(found: &Comparison) -> serde_json::Value {
    let differences: Vec<serde_json::Value> = found
        .differences
        .iter()
        .map(|d| {
            json!({
                "path": d.path,
                "what": d.what,
                "certain": d.certain,
                "example": d.example,
                "tried": d.tried,
                "before": d.rules[0],
                "after": d.rules[1],
            })
        })
        .collect();
    let more = found.more.iter();
    let more = more.map(|(path, what)| json!({ "path": path, "what": what }));
    let more: Vec<serde_json::Value> = more.collect();
    json!({ "differences": differences, "more": more, "unknown": found.unknown })
}

fn text(found: &Comparison, paint: Paint) -> String {
    let mut out = String::new();
    for d in &found.differences {
        let may = if d.certain { "" } else { "perhaps " };
        let heading = format!("{}: {may}{}", d.path, d.what);
        out += &format!("{}\n", paint.text(Tone::Strong, heading));
        let untried = match d.tried {
            true => "",
            false => " (not tried: it opens no connection, or more than a packet decides)",
        };
        out += &format!("  for example: {}{untried}\n", d.example);
        out += &format!("  before: {}\n  after: {}\n", d.rules[0], d.rules[1]);
    }
    for (path, what) in &found.more {
        out += &format!("{path}: {what}: there are more than these\n");
    }
    for text in &found.unknown {
        out += &format!("unknown: {text}\n");
    }
    if out.is_empty() {
        out += "the same: every packet is treated alike\n";
    }
    out
}

#[cfg(test)]
mod tests;
