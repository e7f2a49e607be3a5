//! `tidegate explain`: what the rules do to a packet that somebody describes, and why.

mod capture;
mod connection;
mod remedy;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use tidegate_wire::Family;

use crate::course::{Passed, Place, Runner, Sent};
use crate::given::Given;
use crate::packets::{Described, GRAMMAR};
use crate::replay::advice::{self, Advice, Met};
use crate::replay::brief::Brief;
use crate::replay::explain::{Explainer, Show};
use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::Rules;
use remedy::Remedy;

const HELP: &str = "\
Several packets, each in quotes, are sent one after the other:
  tidegate explain --rules web.rules 'tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn' \\
      'tcp 203.0.113.5:22 > 192.0.2.7:40000 out eth0 syn,ack'
A connection that the kernel should forward (--connection NUMBER, --zone N work as well):
  tidegate explain --offload 'udp 192.0.2.7:40000 > 203.0.113.5:53'
A packet of a capture: tidegate explain --rules web.rules --capture eth0.pcap --packet 30
A connection of the running firewall, which rules let it in, and what its next packets meet:
  tidegate explain --connection 'tcp 192.0.2.7:40000 > 203.0.113.5:22'

Exit status: 0 the answer is printed, whatever it is; 1 rules, host or capture cannot be
read; 2 the command line is wrong.";

/// Say what the rules do to a packet described in words, and why.
#[derive(Debug, Parser)]
#[command(after_help = format!("{GRAMMAR}\n\n{HELP}"))]
pub(crate) struct Args {
    #[command(flatten)]
    given: Given,
    /// The whole connection that the packet opens, both directions.
    #[arg(long)]
    course: bool,
    /// Say of a connection of the running firewall whether the kernel forwards its packets by
    /// itself, and why not.
    #[arg(long, conflicts_with_all = ["course", "capture", "rules", "rules6", "host"])]
    pub(crate) offload: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Explain a packet of this capture, in which those before it are decided first.
    #[arg(long, value_name = "FILE", requires = "packet", conflicts_with_all = ["words", "course"])]
    capture: Option<PathBuf>,
    /// Its number, from 1.
    #[arg(long, value_name = "N", requires = "capture")]
    packet: Option<u64>,
    /// Explain a tracked connection: its number (`conntrack -L -o id`) or a packet of it in words.
    #[arg(long, value_name = "CONNECTION", conflicts_with_all = ["words", "course", "capture"])]
    connection: Option<String>,
    /// Its zone.
    #[arg(long, value_name = "N", requires = "connection", default_value_t = 0)]
    zone: u16,
    /// Look for it in this state file of the daemon instead of the running firewall.
    #[arg(long, value_name = "FILE", requires = "connection")]
    saved: Option<PathBuf>,
    /// The packet, as in `tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn`.
    #[arg(value_name = "PACKET")]
    words: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A description cannot be understood; rules or host cannot be read.
pub(crate) fn run(args: &Args) -> Result<()> {
    if let (Some(capture), Some(packet)) = (&args.capture, args.packet) {
        return capture::run(args, capture, packet);
    }
    if let Some(words) = &args.connection {
        return connection::run(args, words);
    }
    let packets = described(&args.words)?;
    if args.course && packets.len() > 1 {
        bail!("--course follows one packet: the one that opens the connection");
    }
    let rules = args.given.rules()?;
    if let Some(p) = packets.iter().find(|p| !has_family(&rules, p.family())) {
        bail!(
            "{} is of a family without rules here: name them with {}",
            p.src,
            option(p.family())
        );
    }
    let (host, reasons) = args.given.host(&rules, &packets)?;
    rules.meet(&host, packets.iter().any(|p| p.sender().is_some()))?;
    let paint = Paint::for_stdout();
    let question = Question {
        packets: &packets,
        course: args.course,
        host: &host,
    };
    let told = question.ask(&rules, paint)?;
    let remedy = question.remedy(&rules, &told)?;
    let mut out = io::stdout().lock();
    if args.json {
        let all = json!({
            "host": reasons,
            "packets": told.packets.iter().map(|p| &p.json).collect::<Vec<_>>(),
            "verdict": match (told.refused, told.stopped) {
                (Some(_), _) => "REFUSED",
                (None, true) => "STOPPED",
                (None, false) => "ACCEPT",
            },
            "findings": told.findings,
            "remedy": remedy.as_ref().map(Remedy::json),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    for reason in reasons {
        eprintln!("tidegate: {reason}");
    }
    write!(out, "{}", told.text(remedy.as_ref(), paint)?)?;
    Ok(())
}

/// Asks the running firewall about a connection's packets (`--offload`).
///
/// # Errors
/// The description cannot be understood.
pub(crate) fn offload(args: &Args) -> Result<ExitCode> {
    let words = match &args.connection {
        Some(words) => words.clone(),
        None if described(&args.words)?.len() == 1 => args.words.join(" "),
        None => bail!("--offload takes one packet: one of the connection's"),
    };
    let which = connection::which(&words, args.zone)?;
    let json = args.json.then(|| "--json".to_owned());
    let input = serde_json::to_string(&which)?;
    Ok(crate::orders::send_with(
        "offload",
        json.into_iter().collect(),
        input,
    ))
}

const fn option(family: Family) -> &'static str {
    match family {
        Family::V4 => "--rules",
        Family::V6 => "--rules6",
    }
}

fn has_family(rules: &Rules, family: Family) -> bool {
    rules.0.iter().any(|l| l.source.family == family)
}

/// One packet of all words, or one a word where words have blanks in them.
fn described(words: &[String]) -> Result<Vec<Described>> {
    if words.is_empty() {
        bail!("which packet?\n{GRAMMAR}");
    }
    match words[0].trim().contains(' ') {
        true => words.iter().map(|w| w.parse()).collect(),
        false => Ok(vec![words.join(" ").parse()?]),
    }
}

/// Packets for a host.
pub(crate) struct Question<'a> {
    /// The packets, or the one that opens a connection.
    pub(crate) packets: &'a [Described],
    /// Follow the connection.
    pub(crate) course: bool,
    /// The host.
    pub(crate) host: &'a tidegate_host::Host,
}

/// What is told about one packet.
struct Told {
    heading: String,
    line: String,
    tone: Tone,
    details: String,
    /// Whether the details are worth reading.
    shown: bool,
    json: Value,
    advice: Option<Advice>,
}

/// The answer.
#[derive(Default)]
struct Answer {
    packets: Vec<Told>,
    /// Number of the first packet that rules refused.
    refused: Option<usize>,
    /// A packet did not arrive, by rules or otherwise.
    stopped: bool,
    findings: Vec<Advice>,
}

impl Question<'_> {
    fn ask(&self, rules: &Rules, paint: Paint) -> Result<Answer> {
        let mut answer = Answer::default();
        let teller = Teller { rules, paint };
        let mut runner = Runner::new(self.host, rules);
        let mut sides = [false; 2];
        let mut done = Ok(());
        runner.drive(
            self.packets,
            self.course,
            explainer,
            |runner, sent, passed, e| {
                let mut told = match teller.tell(runner, &sent, &passed, &e) {
                    Ok(told) => told,
                    Err(error) => {
                        done = Err(error);
                        return ControlFlow::Break(());
                    }
                };
                if let Some(step) = sent.step {
                    let seen = std::mem::replace(&mut sides[usize::from(step.reply)], true);
                    told.shown = !seen || !passed.arrived();
                }
                answer.take(told, &passed);
                let past = sent.hairpin.map(|h| past_the_host(sent.packet, &h));
                answer.findings.extend(past);
                ControlFlow::Continue(())
            },
        );
        done.map(|()| answer)
    }

    /// What would help, where rules refuse a packet.
    fn remedy(&self, rules: &Rules, told: &Answer) -> Result<Option<Remedy>> {
        let first = told.refused.and_then(|_| self.refusal(rules));
        let again = |changed: &Rules| Ok(self.refusal(changed));
        first
            .map(|first| remedy::find(rules, first, again))
            .transpose()
    }

    /// The first packet that is stopped: by what, and what it was there.
    pub(crate) fn refusal(&self, rules: &Rules) -> Option<(Passed, Explainer)> {
        let mut found = None;
        let mut runner = Runner::new(self.host, rules);
        runner.drive(self.packets, self.course, explainer, |_, _, passed, e| {
            if passed.arrived() {
                return ControlFlow::Continue(());
            }
            found = Some((passed, e));
            ControlFlow::Break(())
        });
        found
    }
}

/// What watches a packet.
fn explainer(runner: &Runner, packet: &Described) -> Explainer {
    Explainer::new(runner.env.clone(), packet.family(), runner.now)
}

fn past_the_host(packet: &Described, hairpin: &crate::course::Hairpin) -> Advice {
    let proto = crate::replay::brief::ProtoName(packet.proto);
    let tool = match packet.family() {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    let (server, client) = (hairpin.server, packet.src);
    Advice {
        code: "TG070",
        text: format!(
            "{server} is on the same link as {client} and will answer it directly, not through this host; \
             {client} expects an answer from {}",
            packet.dst
        ),
        remedy: format!(
            "{tool} -t nat -A POSTROUTING -s {} -d {server} -p {proto} --dport {} -j MASQUERADE",
            hairpin.network, hairpin.port
        ),
    }
}

/// Sends packets and tells about them.
struct Teller<'a> {
    rules: &'a Rules,
    paint: Paint,
}

impl Teller<'_> {
    fn tell(
        &self,
        runner: &Runner,
        sent: &Sent<'_>,
        passed: &Passed,
        explainer: &Explainer,
    ) -> Result<Told> {
        let family = sent.packet.family();
        let show = Show {
            rules: self.rules,
            engine: &runner.engine,
            paint: self.paint,
        };
        let rule = match passed.arrived() {
            true => explainer.walk.passed.map(|p| p.1),
            false => passed.fate.rule(),
        };
        let origin = rule.and_then(|id| self.rules.origin(family, id));
        let brief = tidegate_wire::parse(&passed.bytes).map(|l| Brief::new(&passed.bytes, &l));
        let heading = brief.map_or_else(|_| "unreadable".to_owned(), |b| b.to_string());
        let state = explainer.walk.state.name();
        let mut line = format!("{} [{state}]", passed.fate.word());
        if let Some(o) = origin {
            let _ = write!(
                line,
                " by {} {} {}: {}",
                o.table.name(),
                o.chain,
                o.number,
                o.text
            );
        }
        if let Some(why) = passed.fate.why() {
            let _ = write!(line, ": {why}");
        }
        let met = Met {
            bytes: &passed.bytes,
            walk: &explainer.walk,
            fate: &passed.fate,
            origin,
            engine: &runner.engine,
        };
        let tried = |id| self.rules.origin(family, id);
        let advice = Advice::of(&met).or_else(|| advice::tested(&met, explainer, tried));
        let json = json!({
            "packet": heading,
            "from": self.place(runner, passed.from),
            "verdict": passed.fate.word(),
            "why": passed.fate.why(),
            "ctstate": state,
            "rule": origin.map(crate::replay::explain::origin_json),
            "steps": explainer.json(&show),
        });
        let told = Told {
            heading: sent.step.map_or_else(String::new, |step| match step.reply {
                false => format!("client {}", step.what),
                true => format!("server {}", step.what),
            }),
            line: format!("{heading}\n  {line}"),
            tone: passed.fate.tone(),
            details: explainer.show(&show)?,
            shown: true,
            json,
            advice,
        };
        Ok(told)
    }

    fn place(&self, runner: &Runner, place: Place) -> String {
        match place {
            Place::Here => "this host".to_owned(),
            Place::At(dev) => runner
                .env
                .interface(dev)
                .map_or_else(String::new, |i| i.name.clone()),
        }
    }
}

impl Answer {
    fn take(&mut self, mut told: Told, passed: &Passed) {
        let advice = told.advice.take();
        self.findings
            .extend(advice.filter(|a| !self.findings.contains(a)));
        if passed.fate.rule().is_some() && self.refused.is_none() {
            self.refused = Some(self.packets.len());
        }
        self.stopped |= !passed.arrived();
        self.packets.push(told);
    }

    fn text(&self, remedy: Option<&Remedy>, paint: Paint) -> Result<String> {
        let mut out = String::new();
        for (at, told) in self.packets.iter().enumerate() {
            let number = at + 1;
            let (first, rest) = told.line.split_once('\n').unwrap_or((&told.line, ""));
            let heading = match told.heading.as_str() {
                "" => String::new(),
                heading => format!("{heading}: "),
            };
            writeln!(
                out,
                "{} {heading}{first}",
                paint.text(Tone::Strong, format!("{number}."))
            )?;
            writeln!(out, "{}", paint.text(told.tone, rest))?;
            if told.shown {
                for line in told.details.lines() {
                    writeln!(out, "    {line}")?;
                }
            }
        }
        for finding in &self.findings {
            writeln!(out, "{}", paint.text(Tone::Doubtful, finding))?;
        }
        if let Some(remedy) = remedy {
            out.push_str(&remedy.text(paint));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
