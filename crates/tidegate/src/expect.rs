//! `tidegate test`: expectations about packets and connections, against rules.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tidegate_engine::Counter;
use tidegate_ir::RuleId;

use crate::course::{Course, Runner, alone, ends_of};
use crate::given::Given;
use crate::packets::Described;
use crate::replay::explain::Explainer;
use crate::replay::fate::Fate;
use crate::replay::rules::Rules;

const HELP: &str = "\
A file of expectations has one a line; `#` begins a comment:
  allow  tcp 192.0.2.7 > 203.0.113.5:22 in eth0
  drop   tcp 192.0.2.7 > 203.0.113.5:23 in eth0 => by INPUT 0
  reject tcp 192.0.2.7 > 203.0.113.5:113 in eth0
  allow connection tcp 192.0.2.7 > 203.0.113.5:8080 in eth0 => to 172.17.0.4:3000
`refuse` is drop or reject; `connection` follows it to its end. After `=>`: `by CHAIN NUMBER` (0 is the
policy), `state STATE`, `to ADDRESS[:PORT]` (where it goes once translated), separated by commas.
How packets are described: tidegate explain --help. Each expectation begins without connections.

Exit status: 0 all are met; 1 files cannot be read or understood; 2 the command line is wrong;
3 some are not met.";

/// Between two expectations all connections end: ten days.
const APART: u64 = 10 * 86_400 * 1_000_000_000;
/// Expectations of one engine, whose clock would end otherwise.
const OF_ONE_ENGINE: usize = 1_000;

/// Check expectations about rules.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    given: Given,
    /// List rules that no expectation reaches.
    #[arg(long)]
    coverage: bool,
    /// Write a report as JUnit has it.
    #[arg(long, value_name = "FILE.xml")]
    junit: Option<PathBuf>,
    /// Files of expectations.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// What is to become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Drop,
    Reject,
    Refuse,
}

/// One line of a file.
#[derive(Debug)]
struct Expectation {
    /// `FILE:LINE`
    place: String,
    text: String,
    verdict: Verdict,
    connection: bool,
    packet: Described,
    by: Option<(String, u32)>,
    state: Option<String>,
    to: Option<String>,
}

impl Expectation {
    fn read(place: String, text: &str) -> Result<Self> {
        let (said, more) = text.split_once("=>").unwrap_or((text, ""));
        let (word, rest) = said
            .trim()
            .split_once(' ')
            .context("a verdict and a packet are needed")?;
        let verdict = match word {
            "allow" => Verdict::Allow,
            "drop" => Verdict::Drop,
            "reject" => Verdict::Reject,
            "refuse" => Verdict::Refuse,
            other => bail!("`{other}` is none of allow, drop, reject, refuse"),
        };
        let rest = rest.trim();
        let (connection, packet) = match rest.strip_prefix("connection ") {
            Some(packet) => (true, packet),
            None => (false, rest),
        };
        let mut all = Expectation {
            place,
            text: text.trim().to_owned(),
            verdict,
            connection,
            packet: packet.parse()?,
            by: None,
            state: None,
            to: None,
        };
        for part in more.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let words: Vec<&str> = part.split_whitespace().collect();
            match words.as_slice() {
                ["by", chain, number] => {
                    let number = number
                        .parse()
                        .with_context(|| format!("`{number}` is no rule number"))?;
                    all.by = Some(((*chain).to_owned(), number));
                }
                ["state", state] => all.state = Some(state.to_uppercase()),
                ["to", end] => all.to = Some((*end).to_owned()),
                _ => bail!(
                    "`{part}`: after `=>` stand `by CHAIN NUMBER`, `state STATE`, `to ADDRESS`"
                ),
            }
        }
        Ok(all)
    }

    /// Tries it; what is not as expected.
    fn check(&self, runner: &mut Runner, rules: &Rules) -> Option<String> {
        let packet = &self.packet;
        let mut course = Course::new(packet, runner);
        let mut explainer = Explainer::new(runner.env.clone(), packet.family(), runner.now);
        let first = match self.connection {
            true => course.next().map(|n| (n.1, n.2)),
            false => Some((runner.place(packet), alone(packet))),
        };
        let (from, bytes) = first?;
        let passed = runner.pass(from, bytes, packet.mark, &mut explainer);
        let mut fate = passed.fate.clone();
        let arrival = runner.arrival(&passed).and_then(|a| ends_of(a.1));
        if self.connection && passed.arrived() {
            course.arrived(runner, &passed);
            while let Some((_, from, bytes)) = course.next() {
                runner.wait(1_000_000);
                let next = runner.pass(from, bytes, packet.mark, &mut ());
                if !next.arrived() {
                    fate = next.fate;
                    break;
                }
            }
        }
        let met = match (self.verdict, &fate) {
            (Verdict::Allow, Fate::Accept)
            | (Verdict::Drop | Verdict::Refuse, Fate::Drop(_))
            | (Verdict::Reject | Verdict::Refuse, Fate::Reject(_)) => true,
            (Verdict::Allow | Verdict::Drop | Verdict::Reject | Verdict::Refuse, _) => false,
        };
        let rule = match &fate {
            Fate::Accept => explainer.walk.passed.map(|p| p.1),
            other => other.rule(),
        };
        let origin = rule.and_then(|id| rules.origin(packet.family(), id));
        let which = origin.map_or_else(String::new, |o| {
            format!(" by {} {}: {}", o.chain, o.number, o.text)
        });
        if !met {
            return Some(format!("{}{which}", fate.word()));
        }
        if let Some((chain, number)) = &self.by
            && !origin.is_some_and(|o| o.chain == *chain && o.number == *number)
        {
            return Some(format!("{}{which}, not by {chain} {number}", fate.word()));
        }
        let state = explainer.walk.state.name();
        if let Some(wanted) = self.state.as_deref().filter(|s| *s != state) {
            return Some(format!("its state is {state}, not {wanted}"));
        }
        let wanted = self.to.as_ref()?;
        let goes = arrival.map(|e| {
            (
                e.dst.to_string(),
                std::net::SocketAddr::new(e.dst, e.dport).to_string(),
            )
        });
        match goes {
            Some((addr, socket)) if *wanted == addr || *wanted == socket => None,
            Some((_, socket)) => Some(format!("it goes to {socket}, not to {wanted}")),
            None => Some(format!("it goes nowhere, not to {wanted}")),
        }
    }
}

fn read(path: &Path) -> Result<Vec<Expectation>> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| name.clone())?;
    let mut all = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let said = line.split('#').next().unwrap_or("").trim();
        if !said.is_empty() {
            let place = format!("{name}:{}", at + 1);
            all.push(Expectation::read(place.clone(), said).context(place)?);
        }
    }
    Ok(all)
}

/// Adds what an engine has counted.
fn count(total: &mut [Vec<u64>], rules: &Rules, runner: &Runner) {
    for (total, loaded) in total.iter_mut().zip(&rules.0) {
        let counters: &[Counter] = runner.engine.counters(loaded.source.family);
        total.resize(counters.len(), 0);
        for (sum, counter) in total.iter_mut().zip(counters) {
            *sum += counter.packets;
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Files cannot be read or understood; file and line are named.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let rules = args.given.rules()?;
    let mut all = Vec::new();
    for file in &args.files {
        all.extend(read(file)?);
    }
    let packets: Vec<Described> = all.iter().map(|e| e.packet.clone()).collect();
    let (host, reasons) = args.given.host(&rules, &packets)?;
    for reason in reasons {
        eprintln!("tidegate: {reason}");
    }
    let mut counted = vec![Vec::new(); rules.0.len()];
    let mut results = Vec::new();
    for some in all.chunks(OF_ONE_ENGINE) {
        let mut runner = Runner::new(&host, &rules);
        for expectation in some {
            results.push((expectation, expectation.check(&mut runner, &rules)));
            runner.wait(APART);
        }
        count(&mut counted, &rules, &runner);
    }
    let mut out = io::stdout().lock();
    let failed: Vec<_> = results
        .iter()
        .filter_map(|(e, r)| Some((e, r.as_ref()?)))
        .collect();
    for (expectation, why) in &failed {
        writeln!(
            out,
            "{}: {}\n  but: {why}",
            expectation.place, expectation.text
        )?;
    }
    if args.coverage {
        write!(out, "{}", uncovered(&rules, &counted))?;
    }
    writeln!(
        out,
        "{} expectations, {} not met",
        results.len(),
        failed.len()
    )?;
    if let Some(path) = &args.junit {
        fs::write(path, junit(&results)).with_context(|| path.display().to_string())?;
    }
    Ok(match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(3),
    })
}

fn uncovered(rules: &Rules, counted: &[Vec<u64>]) -> String {
    let mut out = String::new();
    let (mut reached, mut of) = (0, 0);
    for (loaded, counted) in rules.0.iter().zip(counted) {
        for (id, origin) in loaded.origin.iter().enumerate().filter(|o| o.1.number > 0) {
            let id = RuleId(id as u32);
            of += 1;
            match counted.get(id.0 as usize) {
                Some(n) if *n > 0 => reached += 1,
                _ => {
                    let _ = writeln!(out, "not reached: {} {}", origin.table.name(), origin.text);
                }
            }
        }
    }
    let _ = writeln!(out, "{reached} of {of} rules reached");
    out
}

fn junit(results: &[(&Expectation, Option<String>)]) -> String {
    let escape = |text: &str| {
        text.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
    };
    let failures = results.iter().filter(|r| r.1.is_some()).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"tidegate\" tests=\"{}\" failures=\"{failures}\">\n",
        results.len()
    );
    for (expectation, why) in results {
        let (name, class) = (escape(&expectation.text), escape(&expectation.place));
        let _ = match why {
            None => writeln!(out, "  <testcase name=\"{name}\" classname=\"{class}\"/>"),
            Some(why) => writeln!(
                out,
                "  <testcase name=\"{name}\" classname=\"{class}\"><failure message=\"{}\"/></testcase>",
                escape(why)
            ),
        };
    }
    out + "</testsuite>\n"
}

#[cfg(test)]
mod tests;
