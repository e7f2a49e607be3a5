//! `tidegate explain`: what the rules do to a packet that somebody describes, and why.

mod remedy;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use tidegate_wire::Family;

use crate::course::{Course, Passed, Place, Runner, alone};
use crate::given::Given;
use crate::packets::{Described, GRAMMAR};
use crate::replay::brief::Brief;
use crate::replay::explain::{Explainer, Show};
use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::Rules;
use remedy::Remedy;

const HELP: &str = "\
Several packets, each in quotes, are sent one after the other:
  tidegate explain --rules web.rules 'tcp 192.0.2.7:40000 > 203.0.113.5:22 in eth0 syn' \\
      'tcp 203.0.113.5:22 > 192.0.2.7:40000 out eth0 syn,ack'
A packet of a capture: tidegate explain --rules web.rules --capture eth0.pcap --packet 30

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
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Explain a packet of this capture, in which those before it are decided first.
    #[arg(long, value_name = "FILE", requires = "packet", conflicts_with_all = ["words", "course", "json"])]
    capture: Option<PathBuf>,
    /// Its number, from 1.
    #[arg(long, value_name = "N", requires = "capture")]
    packet: Option<u64>,
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
        let rules = args.given.rules()?;
        return crate::replay::explain_packet(rules, args.given.host.as_deref(), capture, packet);
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
    let paint = Paint::for_stdout();
    let question = Question {
        packets: &packets,
        course: args.course,
        host: &host,
    };
    let told = question.ask(&rules, paint)?;
    let remedy = told
        .refused
        .as_ref()
        .map(|_| remedy::find(&question, &rules));
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
            "notes": told.notes,
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
}

/// The answer.
#[derive(Default)]
struct Answer {
    packets: Vec<Told>,
    /// Number of the first packet that rules refused.
    refused: Option<usize>,
    /// A packet did not arrive, by rules or otherwise.
    stopped: bool,
    notes: Vec<String>,
}

impl Question<'_> {
    fn ask(&self, rules: &Rules, paint: Paint) -> Result<Answer> {
        let mut answer = Answer::default();
        let mut runner = Runner::new(self.host, rules);
        let teller = Teller { rules, paint };
        if self.course {
            let packet = &self.packets[0];
            let mut course = Course::new(packet, &runner);
            let mut seen = [false; 2];
            while let Some((step, from, bytes)) = course.next() {
                let first = !std::mem::replace(&mut seen[usize::from(step.reply)], true);
                let (passed, mut told) =
                    teller.pass(&mut runner, from, (bytes, packet.mark), packet.family())?;
                told.heading = match step.reply {
                    false => format!("client {}", step.what),
                    true => format!("server {}", step.what),
                };
                told.shown = first || !passed.arrived();
                answer.take(told, &passed);
                if !passed.arrived() {
                    break;
                }
                if !step.reply {
                    course.arrived(&runner, &passed);
                }
                if let Some(hairpin) = course.hairpin(&runner).filter(|_| first && !step.reply) {
                    answer.notes.push(hairpin_note(packet, &hairpin));
                }
                runner.wait(1_000_000);
            }
            return Ok(answer);
        }
        for (at, packet) in self.packets.iter().enumerate() {
            if at > 0 {
                runner.wait(packet.after);
            }
            let from = runner.place(packet);
            let (passed, told) = teller.pass(
                &mut runner,
                from,
                (alone(packet), packet.mark),
                packet.family(),
            )?;
            answer.take(told, &passed);
        }
        Ok(answer)
    }

    /// The first packet that rules refuse: by which one, and what it was there.
    pub(crate) fn refusal(&self, rules: &Rules) -> Option<(Passed, Explainer)> {
        let mut runner = Runner::new(self.host, rules);
        let try_one = |runner: &mut Runner, from, bytes, packet: &Described| {
            let mut explainer = Explainer::new(runner.env.clone(), packet.family(), runner.now);
            let passed = runner.pass(from, bytes, packet.mark, &mut explainer);
            (passed, explainer)
        };
        if self.course {
            let packet = &self.packets[0];
            let mut course = Course::new(packet, &runner);
            while let Some((step, from, bytes)) = course.next() {
                let (passed, explainer) = try_one(&mut runner, from, bytes, packet);
                if !passed.arrived() {
                    return Some((passed, explainer));
                }
                if !step.reply {
                    course.arrived(&runner, &passed);
                }
                runner.wait(1_000_000);
            }
            return None;
        }
        for (at, packet) in self.packets.iter().enumerate() {
            if at > 0 {
                runner.wait(packet.after);
            }
            let from = runner.place(packet);
            let tried = try_one(&mut runner, from, alone(packet), packet);
            if !tried.0.arrived() {
                return Some(tried);
            }
        }
        None
    }
}

fn hairpin_note(packet: &Described, hairpin: &crate::course::Hairpin) -> String {
    let proto = crate::replay::brief::ProtoName(packet.proto);
    let tool = match packet.family() {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!(
        "TG070: {server} is on the same link as {client} and will answer it directly, not through this host; \
         {client} expects an answer from {dst}.\n  \
         Add: {tool} -t nat -A POSTROUTING -s {net} -d {server} -p {proto} --dport {port} -j MASQUERADE",
        server = hairpin.server,
        client = packet.src,
        dst = packet.dst,
        net = hairpin.network,
        port = hairpin.port,
    )
}

/// Sends packets and tells about them.
struct Teller<'a> {
    rules: &'a Rules,
    paint: Paint,
}

impl Teller<'_> {
    fn pass(
        &self,
        runner: &mut Runner,
        from: Place,
        (bytes, mark): (Vec<u8>, u32),
        family: Family,
    ) -> Result<(Passed, Told)> {
        let mut explainer = Explainer::new(runner.env.clone(), family, runner.now);
        let passed = runner.pass(from, bytes, mark, &mut explainer);
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
        let json = json!({
            "packet": heading,
            "from": self.place(runner, from),
            "verdict": passed.fate.word(),
            "why": passed.fate.why(),
            "ctstate": state,
            "rule": origin.map(crate::replay::explain::origin_json),
            "steps": explainer.json(&show),
        });
        let told = Told {
            heading: String::new(),
            line: format!("{heading}\n  {line}"),
            tone: passed.fate.tone(),
            details: explainer.show(&show)?,
            shown: true,
            json,
        };
        Ok((passed, told))
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
    fn take(&mut self, told: Told, passed: &Passed) {
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
        for note in &self.notes {
            writeln!(out, "{}", paint.text(Tone::Doubtful, note))?;
        }
        if let Some(remedy) = remedy {
            out.push_str(&remedy.text(paint));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
