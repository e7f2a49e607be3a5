//! `tidegate replay`: a capture through a ruleset, without privileges.
//!
//! Packets are decided on the capture's own clock. Received ones enter at the
//! interface they were captured on; those with an address of this host as source are
//! sent by a local socket; one that leaves a router and was sent by the engine just
//! before is recognised and not decided again.

pub(crate) mod advice;
pub(crate) mod brief;
pub(crate) mod explain;
mod export;
pub(crate) mod fate;
pub(crate) mod feed;
mod infer;
pub(crate) mod paint;
mod predict;
mod record;
pub(crate) mod rules;
pub(crate) mod session;
pub(crate) mod settled;
mod source;
mod survey;
pub(crate) mod told;
mod totals;
pub(crate) mod values;
pub(crate) mod verdicts;
pub(crate) mod walk;
pub(crate) mod whatif;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{ArgGroup, Parser};
use indicatif::{ProgressBar, ProgressStyle};
use tidegate_capture::{Direction, Frame};

use export::Export;
use paint::Paint;
use record::Record;
use rules::Rules;
use session::Session;
use source::Sources;
use tidegate_host::Host;

/// Captures at least this large get a progress bar.
const LONG: u64 = 16 << 20;

/// What `tidegate replay --help` ends with.
const HELP: &str = "\
Examples:
  What would these rules have done to this traffic?
    iptables-save | tidegate replay --rules /dev/stdin eth0.pcap
  Why did packet 30 not get through? (numbers as the listing has them)
    tidegate replay --rules web.rules --host server.toml --explain 30 eth0.pcap
  Both sides of a router, figures only:
    tidegate replay --rules router.rules --summary lan0.pcap wan0.pcap

Exit status: 0 all packets were decided, whatever the verdicts; 1 the rules, the host
or a capture cannot be read or are damaged; 2 the command line is wrong.
Colours are used on a terminal only, and never with NO_COLOR set.";

/// Decide every packet of captures by rules.
#[derive(Debug, Parser)]
#[command(
    after_help = HELP,
    group = ArgGroup::new("ruleset").args(["rules", "rules6"]).multiple(true).required(true)
)]
pub(crate) struct Args {
    /// IPv4 rules as iptables-save writes them.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// IPv6 rules as ip6tables-save writes them.
    #[arg(long, value_name = "FILE")]
    rules6: Option<PathBuf>,
    /// The host that the rules are for: interfaces, addresses, routes, sysctls (TOML).
    /// `live` is the running host. Without it, the captures and the rules must tell.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// Show packet N rule by rule.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with_all = ["json", "summary", "out"])]
    explain: Option<u64>,
    /// One JSON object a packet, then counters and connections.
    #[arg(long)]
    json: bool,
    /// No packets, only what they add up to.
    #[arg(long)]
    summary: bool,
    /// Write the packets with their verdicts as packet comments.
    #[arg(long, value_name = "FILE.pcapng")]
    out: Option<PathBuf>,
    /// Captures in pcap or pcapng; several are merged by time. A capture that does not
    /// name its interface is of the one that its file is named after (eth0.pcap).
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Rules, host or captures cannot be read or are damaged, or output fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    let rules = Rules::read(args.rules.as_deref(), args.rules6.as_deref())?;
    let host = match &args.host {
        Some(path) => Host::read(path)?,
        None => {
            let inferred = infer::infer(&args.captures, &rules)?;
            for reason in inferred.reasons {
                eprintln!("tidegate: {reason}");
            }
            inferred.host
        }
    };
    rules.meet(&host, false)?;
    let session = Session::new(host, rules, &args.captures);
    let done = match args.explain {
        Some(number) => explain_one(session, &args.captures, number),
        None => replay(args, session, Sources::open(&args.captures)?),
    };
    match done {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        other => other,
    }
}

/// Whether the reader of our output has gone, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<io::Error>()
            .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// The host that captures are of, when it is described or can be told from them.
///
/// # Errors
/// The description or the captures cannot be read.
pub(crate) fn host_of(path: Option<&Path>, captures: &[PathBuf], rules: &Rules) -> Result<Host> {
    match path {
        Some(path) => Host::read(path),
        None => Ok(infer::infer(captures, rules)?.host),
    }
}

fn explain_one(mut session: Session, captures: &[PathBuf], number: u64) -> Result<()> {
    let paint = Paint::for_stdout();
    let told = session.told(captures, number, paint)?;
    let text = session.text(&told, paint)?;
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

fn replay(args: &Args, mut session: Session, mut sources: Sources) -> Result<()> {
    let paint = Paint::for_stdout();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut export = args.out.as_deref().map(Export::create).transpose()?;
    let lines_there = !args.summary && io::stdout().is_terminal();
    let bar = progress(&args.captures, lines_there);
    let lines = !args.summary;
    let mut text = String::new();
    let mut damage = Ok(());
    while let Some((source, frame)) = sources.next_frame() {
        if !lines && export.is_none() {
            session.quietly(source, &frame);
        } else {
            session.reported(source, &frame, |record| -> Result<()> {
                if let Some(export) = &mut export {
                    write_out(export, &frame, record)?;
                }
                if lines {
                    text.clear();
                    write_line(&mut text, record, args.json, paint)?;
                    out.write_all(text.as_bytes())?;
                }
                Ok(())
            })?;
        }
        if session.totals.packets.is_multiple_of(4096) {
            if let Some(bar) = &bar {
                bar.set_position(sources.offset());
            }
            damage = damage.and(fail_on_damage(&mut sources));
        }
    }
    damage = damage.and(fail_on_damage(&mut sources));
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if let Some(export) = export {
        export.finish()?;
    }
    conclude(args, &session, &mut out, paint)?;
    damage
}

fn write_line(out: &mut String, record: &Record<'_>, json: bool, paint: Paint) -> Result<()> {
    if json {
        out.push_str(&record.json()?);
        out.push('\n');
        return Ok(());
    }
    Ok(record.line(out, paint)?)
}

fn write_out(export: &mut Export, frame: &Frame<'_>, record: &Record<'_>) -> Result<()> {
    let direction = match record.direction {
        "in" => Direction::In,
        "out" => Direction::Out,
        _ => Direction::Unknown,
    };
    export.packet(frame, record.interface, direction, &record.verdict())
}

fn conclude(args: &Args, session: &Session, out: &mut impl Write, paint: Paint) -> Result<()> {
    let (rules, engine, now) = (&session.rules, &session.engine, session.now);
    if args.json {
        if args.summary {
            writeln!(out, "{}", session.totals.json())?;
        }
        totals::print_json(out, rules, engine, now)?;
        if let Some(findings) = session.totals.advice_json() {
            writeln!(out, "{findings}")?;
        }
    } else {
        if args.summary {
            let span = now.saturating_sub(session.start.unwrap_or(now));
            session.totals.print(out, span)?;
        }
        totals::print(out, rules, engine, now, paint)?;
        session.totals.print_advice(out, paint)?;
    }
    out.flush().context("standard output")
}

/// Reports damaged captures; what was before the damage has been dealt with.
fn fail_on_damage(sources: &mut Sources) -> Result<()> {
    let mut errors = sources.take_errors();
    let last = errors.pop();
    for error in errors {
        eprintln!("tidegate: {error}");
    }
    last.map_or(Ok(()), |e| Err(e.into()))
}

/// A bar for long captures, when somebody looks and no lines are printed there.
fn progress(captures: &[PathBuf], lines_there: bool) -> Option<ProgressBar> {
    let sizes = captures.iter().filter_map(|p| p.metadata().ok());
    let total: u64 = sizes.map(|m| m.len()).sum();
    if total < LONG || lines_there || !io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template(
        "{bar:30} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left",
    );
    bar.set_style(style.ok()?);
    Some(bar)
}
