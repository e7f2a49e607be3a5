//! `tidegate test`: expectations about rules, from files, put to the engine.

mod file;
mod junit;
mod run;
mod watch;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::packets::GRAMMAR;
use crate::replay::explain::origin_json;
use crate::replay::paint::{Paint, Tone};
use file::{File, shortened};
use run::{Held, Ran};
use watch::Watched;

/// How often `--watch` looks for changes.
const LOOK: Duration = Duration::from_millis(300);
/// Exit status: an expectation does not hold.
const FAILED: u8 = 5;

const HELP: &str = r#"
A file of expectations (TOML):
  rules = "web.rules"                  # as iptables-save writes them; IPv6: rules6 = ...
  host = "server.toml"                 # as `tidegate host` writes it; or described right here:
  [[interface]]
  name = "eth0"
  addresses = ["203.0.113.5/24"]

  [[test]]
  name = "ssh from the office, from nowhere else"
  allow = "tcp 192.0.2.7 > 203.0.113.5:22 in eth0"
  deny = ["tcp 198.51.100.9 > 203.0.113.5:22 in eth0", "udp 192.0.2.7 > 203.0.113.5:22 in eth0"]

  [[test]]
  name = "ident is refused at once"
  reject = "tcp 198.51.100.9 > 203.0.113.5:113 in eth0"
  with = "tcp-reset"

  [[test]]
  name = "the web server behind this host answers"
  course = true                        # the whole connection, both directions
  allow = "tcp 198.51.100.9 > 203.0.113.5:80 in eth0"
  to = "10.0.0.2:8080"

Packets: allow, deny (dropped or rejected), drop, reject; one or a list. Each starts without
connections but those that the packets in `given` leave. What else may be expected of all
packets of a test: with (as --reject-with names it), state, from and to (sender and receiver
after translation, with or without port), out (the interface it leaves by, or "local"), log
(text in a LOG line), rule ("INPUT 3", "INPUT policy", "nat PREROUTING 1").
A capture: capture = "eth0.pcap", of which stopped = [13, 14] and no others are stopped.
A packet that goes nowhere for want of a route, say, is neither allowed nor denied.

Exit status: 0 everything holds; 1 a file cannot be read or understood; 2 the command line
is wrong; 5 something does not hold, or --min-coverage is not reached."#;

/// Arguments of `tidegate test`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("{}\n\n{GRAMMAR}", HELP.trim_start()))]
pub(crate) struct Args {
    /// Name each expectation that holds, too.
    #[arg(short, long)]
    verbose: bool,
    /// List the rules that no packet matched.
    #[arg(long)]
    coverage: bool,
    /// Fail where fewer of a file's rules are matched, in per cent.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: Option<u8>,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// One JSON object a file.
    #[arg(long, conflicts_with_all = ["verbose", "watch"])]
    json: bool,
    /// Run again whenever one of the files changes, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Files of expectations.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// A file and what came of it.
struct Done {
    path: PathBuf,
    ran: Ran,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read or understood.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !args.watch {
        return once(args, &mut Watched::default());
    }
    loop {
        let mut watched = Watched::default();
        // Those behind one that cannot be read are watched too.
        args.files.iter().for_each(|path| watched.note(path));
        if let Err(e) = once(args, &mut watched) {
            eprintln!("tidegate: {e:#}");
        }
        eprintln!("watching {} files", watched.len());
        while !watched.changed() {
            std::thread::sleep(LOOK);
        }
        if io::stdout().is_terminal() {
            print!("\x1b[2J\x1b[H");
        }
    }
}

fn once(args: &Args, watched: &mut Watched) -> Result<ExitCode> {
    let mut all = Vec::new();
    for path in &args.files {
        let begun = Instant::now();
        let file = File::read(path, watched)?;
        let ran = run::run(&file).with_context(|| path.display().to_string())?;
        let seconds = begun.elapsed().as_secs_f64();
        let done = Done {
            path: file.path,
            ran,
            seconds,
        };
        done.print(args)?;
        all.push(done);
    }
    if let Some(path) = &args.junit {
        fs::write(path, junit::text(&all)).with_context(|| path.display().to_string())?;
    }
    let good = all.iter().all(|d| d.is_good(args));
    Ok(ExitCode::from(if good { 0 } else { FAILED }))
}

impl Done {
    fn failures(&self) -> impl Iterator<Item = &Held> {
        self.ran.held.iter().filter(|h| h.failure.is_some())
    }

    /// Rules that are matched, in per cent, rounded down.
    fn covered(&self) -> usize {
        let matched = self.ran.rules - self.ran.unreached.len();
        (matched * 100).checked_div(self.ran.rules).unwrap_or(100)
    }

    fn is_good(&self, args: &Args) -> bool {
        let wanted = args.min_coverage.map_or(0, usize::from);
        self.failures().next().is_none() && self.covered() >= wanted
    }

    fn print(&self, args: &Args) -> Result<()> {
        let mut out = io::stdout().lock();
        if args.json {
            writeln!(out, "{}", self.json())?;
            return Ok(());
        }
        let paint = Paint::for_stdout();
        for held in &self.ran.held {
            self.print_one(&mut out, held, args.verbose, paint)?;
        }
        let failed = self.failures().count();
        let (ran, rules) = (self.ran.held.len(), self.ran.rules);
        let matched = rules - self.ran.unreached.len();
        let tone = if failed == 0 { Tone::Good } else { Tone::Bad };
        let sum = format!("{} of {ran} hold", ran - failed);
        writeln!(
            out,
            "{}: {}; {matched} of {rules} rules matched ({} %); {:.2} s",
            self.path.display(),
            paint.text(tone, sum),
            self.covered(),
            self.seconds
        )?;
        let too_few = args.min_coverage.is_some_and(|c| self.covered() < c.into());
        if args.coverage || too_few {
            for origin in &self.ran.unreached {
                writeln!(out, "  not matched: {}", run::listed(origin))?;
            }
        }
        Ok(())
    }

    fn print_one(
        &self,
        out: &mut impl Write,
        held: &Held,
        verbose: bool,
        paint: Paint,
    ) -> io::Result<()> {
        let Some(failure) = &held.failure else {
            if verbose {
                let yes = paint.text(Tone::Good, "✓");
                writeln!(out, "{yes} {}: {}", held.case, shortened(&held.what))?;
            }
            return Ok(());
        };
        let place = format!("{}:{}", self.path.display(), held.line);
        writeln!(out, "{} {place}: {}", paint.text(Tone::Bad, "✗"), held.case)?;
        writeln!(out, "  expected: {}", shortened(&held.what))?;
        writeln!(out, "  {}", paint.text(Tone::Bad, &failure.why))?;
        for line in failure.trace.lines() {
            writeln!(out, "    {line}")?;
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let failures = self.failures().filter_map(|h| {
            let failure = h.failure.as_ref()?;
            Some(json!({
                "name": h.case, "line": h.line, "expected": h.what, "why": failure.why,
            }))
        });
        let unreached = self.ran.unreached.iter().map(origin_json);
        json!({
            "file": self.path,
            "expectations": self.ran.held.len(),
            "failures": failures.collect::<Vec<_>>(),
            "rules": self.ran.rules,
            "not_matched": unreached.collect::<Vec<_>>(),
            "seconds": self.seconds,
        })
    }
}

/// The name of a file without directories, for reports.
fn name(path: &Path) -> String {
    path.display().to_string()
}
