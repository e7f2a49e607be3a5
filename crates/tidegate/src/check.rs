//! `tidegate check`: what is wrong with a ruleset, where, and what to do about it.

mod exact;
mod finding;
mod habits;
pub(crate) mod lints;
mod refused;
pub(crate) mod source;

use std::fs;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate_snippets::Renderer;
use anyhow::{Context, Result};
use clap::Parser;
use serde_json::Value;
use tidegate_analysis::{Set, Space, TooBig};
use tidegate_daemon::sockets::{Listener, listeners};
use tidegate_ir::{Field, Hook, Rule, TableKind};
use tidegate_syntax::{parse_rules, save};
use tidegate_tools::HostNames;
use tidegate_wire::Family;

use crate::given::Given;
use crate::replay::rules::Loaded;
use crate::whole::{MOST_NODES, Whole, class};
use finding::Finding;
use lints::{ELSEWHERE, LINTS, Level};
use source::{Place, Source};

const HELP: &str = "\
A finding is silenced by a comment line before its rule, or anywhere for the whole file:
  # tidegate: allow(TG124)
  # tidegate: allow-file(TG020)

Exit status: 0 nothing but notes; 1 rules cannot be read or are refused; 2 the command line
is wrong; 3 there are warnings or errors.";

/// Look for mistakes in rules.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    given: Given,
    /// One JSON array.
    #[arg(long)]
    json: bool,
    /// Print all lints with an example each, as Markdown.
    #[arg(long)]
    list: bool,
    /// IPv4 rules, as --rules.
    #[arg(value_name = "FILE", conflicts_with = "rules")]
    file: Option<PathBuf>,
}

/// Rules under examination.
pub(crate) struct Subject<'a> {
    loaded: &'a Loaded,
    space: Space,
    whole: Whole,
}

impl<'a> Subject<'a> {
    /// Follows all packets through the rules.
    fn new(loaded: &'a Loaded) -> Self {
        let mut space = Space::new([&*loaded.lowered], &habits::questions(), MOST_NODES);
        let whole = Whole::new(&mut space, &loaded.lowered);
        Subject {
            loaded,
            space,
            whole,
        }
    }

    /// Packets that match a rule at a hook.
    fn matches(&mut self, at: (TableKind, Hook), rule: &Rule) -> Result<Set, TooBig> {
        let rules = self.loaded.lowered.clone();
        let part = self.whole.around(&mut self.space, &rules, at, rule)?;
        Ok(part.map_or(Set::EMPTY, |p| p.matches(rule)))
    }

    /// Packets that INPUT accepts and that have a value in each of these intervals.
    fn accepted(&mut self, fields: &[(Field, u128, u128)]) -> Result<Set, TooBig> {
        let rules = self.loaded.lowered.clone();
        let at = (TableKind::Filter, Hook::Input);
        let part = self.whole.part(&mut self.space, &rules, at, fields)?;
        let Some(part) = part else {
            return Ok(Set::EMPTY);
        };
        let all = part.accepted(&mut self.space)?;
        let wanted = class(&mut self.space, fields)?;
        self.space.bdd.and(all, wanted)
    }

    /// A command of the family's tool.
    fn command(&self, table: TableKind, words: &str) -> String {
        let tool = match self.loaded.source.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        match table {
            TableKind::Filter => format!("{tool} {words}"),
            other => format!("{tool} -t {} {words}", other.name()),
        }
    }

    /// What a rule says after its chain, without some of its matches.
    fn spec(&self, place: &Place, without: &[&str]) -> String {
        let rule = self.rule(place).map(|r| {
            let mut spec = tidegate_syntax::Spec::clone(&r.spec);
            spec.matches.retain(|m| !without.contains(&m.ext.name));
            save::rule(&place.chain, &spec, self.loaded.source.family, None)
        });
        let text = rule.unwrap_or_default();
        let start = format!("-A {} ", place.chain);
        text.strip_prefix(&start).unwrap_or(&text).to_owned()
    }

    fn rule(&self, place: &Place) -> Option<&tidegate_syntax::Rule> {
        let table = self.loaded.source.table(place.table)?;
        table
            .chain(&place.chain)?
            .rules
            .get(place.number.checked_sub(1)? as usize)
    }

    /// Whether a rule uses a match.
    fn uses(&self, place: &Place, name: &str) -> bool {
        self.rule(place)
            .is_some_and(|r| r.spec.matches.iter().any(|m| m.ext.name == name))
    }

    /// The commands that move a rule to an earlier number.
    fn moved(&self, place: &Place, to: u32) -> String {
        let delete = self.deleted(place);
        let insert = format!("-I {} {to} {}", place.chain, self.spec(place, &[]));
        format!("{delete} && {}", self.command(place.table, &insert))
    }

    fn deleted(&self, place: &Place) -> String {
        self.command(place.table, &format!("-D {} {}", place.chain, place.number))
    }
}

/// Everything that is found in one family's rules, by place.
pub(crate) fn examine(loaded: &Loaded, source: &Source) -> Vec<Finding> {
    let mut subject = Subject::new(loaded);
    let mut findings = Vec::new();
    habits::find(&mut subject, &mut findings);
    exact::find(&mut subject, &mut findings);
    findings.retain(|f| !source.allows(f.code, f.place.as_ref()));
    findings.sort_by_key(|f| {
        let line = f
            .place
            .as_ref()
            .and_then(|p| source.line(p))
            .map(|l| l.number);
        (line, f.code)
    });
    findings
}

/// A family whose rules are open beside one whose rules are not; `listeners` are those of
/// the host that the rules are for, if it is this one.
fn parity(all: &[Loaded], listeners: &[Listener]) -> Option<Finding> {
    let of = |family| all.iter().find(|l| l.source.family == family);
    let (v4, v6) = (of(Family::V4)?, of(Family::V6)?);
    let input = |l: &Loaded| {
        let table = l.lowered.table(TableKind::Filter)?;
        table.chain(table.base_chain(Hook::Input)?).cloned()
    };
    let closed = input(v4).is_some_and(|c| habits::refuses_by_default(&c));
    let open = input(v6).is_none_or(|c| c.rules.is_empty() && !habits::refuses_by_default(&c));
    (closed && open).then(|| {
        let text = "IPv4 INPUT refuses by default, IPv6 INPUT accepts everything: what listens on :: is open";
        let open: Vec<String> = listeners
            .iter()
            .filter(|l| l.at.ip() == std::net::Ipv6Addr::UNSPECIFIED)
            .map(Listener::to_string)
            .collect();
        let note = match open.as_slice() {
            [] => "which services listen on ::: ss -ltunp '( src [::] )'".to_owned(),
            open => format!("reachable over IPv6 only because of that: {}", open.join(", ")),
        };
        Finding::new("TG080", None, text)
            .help(in_ipv6(v4))
            .note(note)
    })
}

/// The commands that close IPv6 as IPv4 is: what every host needs, then those of IPv4's
/// INPUT rules that mean the same there.
fn in_ipv6(v4: &Loaded) -> String {
    let mut rules = vec![
        "-i lo -j ACCEPT".to_owned(),
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
        "-p ipv6-icmp -j ACCEPT".to_owned(),
    ];
    let filter = v4.source.table(TableKind::Filter);
    let input = filter.and_then(|t| t.chain("INPUT"));
    for rule in input.iter().flat_map(|c| &c.rules) {
        let text = save::rule("INPUT", &rule.spec, Family::V4, None);
        let spec = text.strip_prefix("-A INPUT ").unwrap_or_default();
        let same = rule.spec.src.is_none()
            && rule.spec.dst.is_none()
            && spec.ends_with("-j ACCEPT")
            && (spec.starts_with("-p tcp ") || spec.starts_with("-p udp "));
        if same && !rules.iter().any(|r| r == spec) {
            rules.push(spec.to_owned());
        }
    }
    let mut commands: Vec<String> = rules
        .iter()
        .map(|rule| format!("ip6tables -A INPUT {rule}"))
        .collect();
    commands.push("ip6tables -P INPUT DROP".to_owned());
    commands.join(" && ")
}

/// Who listens on the host that the rules are for; nobody where that is another one.
fn here(args: &Args) -> Vec<Listener> {
    let host = args.given.host.as_deref();
    let live = args.file.is_none() && args.given.is_live() || host == Some(Path::new("live"));
    if live { listeners() } else { Vec::new() }
}

/// A family's rules and their file.
fn read(args: &Args) -> Result<Vec<(Source, Family)>> {
    let v4 = args.file.as_ref().or(args.given.rules.as_ref());
    let files = [(v4, Family::V4), (args.given.rules6.as_ref(), Family::V6)];
    let mut sources = Vec::new();
    if args.file.is_none() && args.given.is_live() {
        for loaded in args.given.rules()?.0 {
            let text = save::plain(&loaded.source);
            sources.push((Source::new("rules in force", &text), loaded.source.family));
        }
    }
    for (file, family) in files {
        if let Some(file) = file {
            let name = file.display().to_string();
            let text = fs::read_to_string(file).with_context(|| name.clone())?;
            sources.push((Source::new(&name, &text), family));
        }
    }
    Ok(sources)
}

fn renderer() -> Renderer {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    match !plain && io::stdout().is_terminal() {
        true => Renderer::styled(),
        false => Renderer::plain(),
    }
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut out = io::stdout().lock();
    if args.list {
        out.write_all(list().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (renderer, here) = (renderer(), here(args));
    let (mut json, mut loaded, mut worst, mut count) = (Vec::new(), Vec::new(), None, 0);
    for (source, family) in read(args)? {
        let rules = match parse_rules(&source.text, family, &HostNames::default()) {
            Ok(rules) => rules,
            Err(refused) => {
                if args.json {
                    json.push(refused::json(&source, &refused, family));
                    writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
                } else {
                    write!(
                        out,
                        "{}",
                        refused::text(&source, &refused, family, &renderer)
                    )?;
                }
                return Ok(ExitCode::FAILURE);
            }
        };
        let rules = Loaded::new(rules).map_err(|f| anyhow::anyhow!(f.render("tidegate", None)))?;
        for mut finding in examine(&rules, &source) {
            finding.listeners(&here);
            worst = worst.max(Some(finding.level()));
            count += 1;
            match args.json {
                true => json.push(finding.json(&source)),
                false => writeln!(out, "{}\n", finding.render(&source, &renderer))?,
            }
        }
        loaded.push(rules);
    }
    if let Some(finding) = parity(&loaded, &here) {
        worst = worst.max(Some(finding.level()));
        count += 1;
        let source = Source::default();
        match args.json {
            true => json.push(finding.json(&source)),
            false => writeln!(out, "{}\n", finding.render(&source, &renderer))?,
        }
    }
    if args.json {
        writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&Value::Array(json))?
        )?;
    } else if count == 0 {
        writeln!(out, "nothing found")?;
    } else {
        writeln!(
            out,
            "{count} findings; what they mean: tidegate check --list"
        )?;
    }
    Ok(match worst {
        Some(Level::Warning | Level::Error) => ExitCode::from(3),
        Some(Level::Note) | None => ExitCode::SUCCESS,
    })
}

/// All lints as Markdown.
pub(crate) fn list() -> String {
    let mut out = String::from(
        "# Lints of `tidegate check`, and codes of other commands\n\n\
         Printed by `tidegate check --list`. A finding is silenced by `# tidegate: allow(CODE)` on the line\n\
         before its rule, or by `# tidegate: allow-file(CODE)` for a whole file.\n",
    );
    for lint in LINTS {
        out += &format!(
            "\n## {} ({})\n\n{}\n\n",
            lint.code,
            lint.level.name(),
            lint.what
        );
        out += &format!("When it is silent: {}\n", lint.silent);
        if !lint.example.rules.is_empty() {
            let family = if lint.example.v6 {
                "IPv6 rules"
            } else {
                "IPv4 rules"
            };
            out += &format!(
                "\n{family} that show it:\n\n```text\n{}```\n",
                lint.example.rules
            );
        }
    }
    out += "\n## Said elsewhere\n\n| Code | By `tidegate` | Meaning |\n|---|---|---|\n";
    for said in ELSEWHERE {
        out += &format!("| {} | {} | {} |\n", said.code, said.by, said.what);
    }
    out
}

#[cfg(test)]
mod tests;
