//! `tidegate query`: what rules let through, asked of all packets there are.

pub(crate) mod ask;
pub(crate) mod confirm;
mod reach;
mod rows;
mod words;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use tidegate_analysis::Origin;
use tidegate_engine::interface_number;
use tidegate_host::Host;
use tidegate_ir::Field;
use tidegate_tools::HostNames;
use tidegate_wire::{Family, proto};
use tidegate_xt::names::Names as _;

use crate::given::Given;
use crate::replay::paint::{Paint, Tone};
use crate::replay::rules::{Loaded, Rules};
use ask::Asked;
use rows::{Question, Row};

const HELP: &str = "\
Answers are about all packets, not samples: what is not listed as open is closed. Every
example has gone through the engine, answers included. `unknown` says what it depends on.

Without --host the rules alone must tell: packets may be for this host whatever their
destination, and what a rule translates to a fixed address is another host.

Exit status: 0 the answer is printed (open: nobody can connect, which is proved); 1 rules or
host cannot be read; 2 the command line is wrong; 3 open: somebody can connect, or it is
unknown.";

/// Ask which packets reach a rule, who can connect where, and what is open to whom.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

/// What is asked about.
#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    given: Given,
    /// Only the rules of one address family: 4 or 6.
    #[arg(long, value_name = "N", value_parser = ["4", "6"])]
    family: Option<String>,
    /// One JSON document.
    #[arg(long)]
    json: bool,
}

/// Questions.
#[derive(Debug, Subcommand)]
enum What {
    /// Which packets reach a rule: CHAIN:NUMBER, a table before it if needed, or FILE:LINE.
    Reach {
        #[command(flatten)]
        common: Common,
        /// `INPUT:4`, `nat PREROUTING:2` or `web.rules:17`.
        #[arg(value_name = "RULE", required = true, num_args = 1..=2)]
        rule: Vec<String>,
    },
    /// Whether, and from where, a connection to a port can be opened.
    Open {
        #[command(flatten)]
        common: Common,
        /// A port by number or name, or `tcp/22`, `udp/53`, `ping`.
        #[arg(value_name = "PORT")]
        port: String,
        /// The server: `self` for this host, an address or network; before or after translation.
        #[arg(long, value_name = "WHOM")]
        to: Option<String>,
        /// Who connects: an interface, an address or network, `outside` or `self`.
        #[arg(long, value_name = "WHO")]
        from: Vec<String>,
    },
    /// The services that are open, and to whom.
    Services {
        #[command(flatten)]
        common: Common,
        /// Who connects: an interface, an address or network, `outside` or `self`.
        #[arg(long, value_name = "WHO")]
        from: Vec<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// Rules, host or question cannot be understood.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Reach { common, rule } => {
            let (rules, host) = common.read()?;
            reach::run(common, &rules, host.as_ref(), rule)
        }
        What::Open {
            common,
            port,
            to,
            from,
        } => {
            let (rules, host) = common.read()?;
            open(common, &rules, host.as_ref(), port, to.as_deref(), from)
        }
        What::Services { common, from } => {
            let (rules, host) = common.read()?;
            services(common, &rules, host.as_ref(), from)
        }
    }
}

impl Common {
    fn read(&self) -> Result<(Rules, Option<Host>)> {
        let rules = self.given.written()?;
        let host = match &self.given.host {
            Some(path) => Some(Host::read(path)?),
            None if self.given.is_live() => Some(Host::read(Path::new("live"))?),
            None => None,
        };
        if let Some(known) = &host {
            let marked = [Family::V4, Family::V6]
                .iter()
                .any(|f| known.env.has_policy_rules(*f));
            if marked {
                eprintln!(
                    "tidegate: routing by mark or sender is not followed: as for packets without a mark"
                );
            }
        }
        Ok((rules, host))
    }

    fn asks(&self, family: Family) -> bool {
        self.family.as_deref().is_none_or(|f| f == number(family))
    }

    fn families<'r>(&self, rules: &'r Rules) -> Result<Vec<&'r Loaded>> {
        let asked: Vec<&Loaded> = rules
            .0
            .iter()
            .filter(|l| self.asks(l.source.family))
            .collect();
        match asked.is_empty() {
            true => bail!("there are no rules of that family here"),
            false => Ok(asked),
        }
    }
}

const fn number(family: Family) -> &'static str {
    match family {
        Family::V4 => "4",
        Family::V6 => "6",
    }
}

const fn named(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Somebody named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Who {
    /// This host.
    Here,
    /// Everybody behind an interface of that kind.
    Outside,
    /// Behind an interface.
    Link(String),
    /// A network of a family.
    Net(Family, u128, u128),
}

fn who(text: &str) -> Result<Who> {
    if text == "self" {
        return Ok(Who::Here);
    }
    if text == "outside" {
        return Ok(Who::Outside);
    }
    let (addr, len) = match text.split_once('/') {
        Some((addr, len)) => (addr, Some(len)),
        None => (text, None),
    };
    let Ok(addr) = addr.parse() else {
        if len.is_some() || text.is_empty() || text.len() > 15 {
            bail!("`{text}` is no interface, address, network, `outside` or `self`");
        }
        return Ok(Who::Link(text.to_owned()));
    };
    let (family, addr) = tidegate_host::number(addr);
    let width = match family {
        Family::V4 => 32u32,
        Family::V6 => 128,
    };
    let len = match len {
        None => width,
        Some(len) => len
            .parse()
            .ok()
            .filter(|l| *l <= width)
            .ok_or_else(|| anyhow!("`{text}`: a prefix length is 0 to {width}"))?,
    };
    let host = 1u128.checked_shl(width - len).unwrap_or(0).wrapping_sub(1);
    Ok(Who::Net(family, addr & !host, addr & !host | host))
}

/// A protocol and its ports, where it has ports.
type Service = (u8, Option<(u16, u16)>);
/// Fields with an interval of values each.
type Intervals = Vec<(Field, u128, u128)>;

/// Ports asked about: protocols and a range.
fn services_named(text: &str, family: Family) -> Result<Vec<Service>> {
    if matches!(text, "ping" | "icmp" | "icmp6") {
        return Ok(vec![(ask::icmp(family), None)]);
    }
    let names = HostNames::default();
    let (protocols, port) = match text.split_once('/') {
        Some((name, port)) => {
            let known = names.protocol(&name.to_ascii_lowercase());
            let known = known.or_else(|| name.parse().ok());
            let known = known.ok_or_else(|| anyhow!("`{name}` is no protocol"))?;
            (vec![(known, Some(name))], port)
        }
        None => (vec![(proto::TCP, None), (proto::UDP, None)], text),
    };
    let one = |port: &str, name: Option<&str>| {
        let number = port.parse().ok();
        number.or_else(|| names.service(port, name))
    };
    let mut all = Vec::new();
    for (protocol, name) in protocols {
        let range = match port.split_once(['-', ':']) {
            Some((lo, hi)) => one(lo, name).zip(one(hi, name)),
            None => one(port, name).map(|p| (p, p)),
        };
        let range = range.with_context(|| format!("`{port}` is no port (by number or name)"))?;
        all.push((protocol, Some(range)));
    }
    Ok(all)
}

/// Senders of one family as intervals, and whether they are somebody else or this host;
/// `None` where none is of the family.
fn senders(asked: &Asked<'_>, from: &[Who]) -> Vec<(Origin, Intervals)> {
    let mut others = Vec::new();
    let mut all = Vec::new();
    let link = |name: &str| match name.strip_suffix('+') {
        Some(start) => {
            let lo = interface_number(start);
            (
                Field::InName,
                lo,
                lo | (u128::MAX >> (8 * start.len()).min(127)),
            )
        }
        None => {
            let name = interface_number(name);
            (Field::InName, name, name)
        }
    };
    for who in from {
        match who {
            Who::Here => all.push((Origin::Sent, Vec::new())),
            Who::Outside => {
                let links = asked.outside();
                match links.is_empty() {
                    true => others.push((Field::InName, 0, u128::MAX)),
                    false => others.extend(links.iter().map(|l| link(l))),
                }
            }
            Who::Link(name) => others.push(link(name)),
            Who::Net(family, lo, hi) if *family == asked.family() => {
                others.push((Field::Src, *lo, *hi));
            }
            Who::Net(..) => {}
        }
    }
    if from.is_empty() || !others.is_empty() {
        all.push((Origin::Received, others));
    }
    all
}

/// Intervals that a question tells apart.
fn intervals(from: &[Who], to: Option<&Who>, loaded: &Loaded) -> Intervals {
    let mut all = Vec::new();
    for (field, who) in from
        .iter()
        .map(|w| (Field::Src, w))
        .chain(to.map(|w| (Field::Dst, w)))
    {
        match who {
            Who::Net(family, lo, hi) if *family == loaded.source.family => {
                all.push((field, *lo, *hi));
            }
            Who::Link(name) => {
                let name = interface_number(name);
                all.push((Field::InName, name, name));
            }
            Who::Net(..) | Who::Here | Who::Outside => {}
        }
    }
    all
}

fn services(
    common: &Common,
    rules: &Rules,
    host: Option<&Host>,
    from: &[String],
) -> Result<ExitCode> {
    let from: Vec<Who> = from.iter().map(|w| who(w)).collect::<Result<_>>()?;
    let mut told = Vec::new();
    for loaded in common.families(rules)? {
        let questions = intervals(&from, None, loaded);
        let mut asked = Asked::new(rules, loaded, host, questions);
        let mut rows = Vec::new();
        for (origin, from) in senders(&asked, &from) {
            for protocol in asked.protocols() {
                rows.extend(asked.rows(&Question {
                    protocol,
                    origin,
                    only: Vec::new(),
                    from: from.clone(),
                    after: None,
                }));
            }
        }
        told.push((loaded.source.family, rows));
    }
    print(common, &told, "nothing is open: proved over all packets")?;
    Ok(ExitCode::SUCCESS)
}

fn open(
    common: &Common,
    rules: &Rules,
    host: Option<&Host>,
    port: &str,
    to: Option<&str>,
    from: &[String],
) -> Result<ExitCode> {
    let from: Vec<Who> = from.iter().map(|w| who(w)).collect::<Result<_>>()?;
    let to = to.map(who).transpose()?;
    if matches!(to, Some(Who::Link(_) | Who::Outside)) {
        bail!("--to takes an address, a network or `self`");
    }
    let mut told = Vec::new();
    for loaded in common.families(rules)? {
        let family = loaded.source.family;
        if matches!(to, Some(Who::Net(of, ..)) if of != family) {
            continue;
        }
        let mut rows = Vec::new();
        for (protocol, ports) in services_named(port, family)? {
            let mut questions = intervals(&from, to.as_ref(), loaded);
            questions.extend(ports.map(|(lo, hi)| (Field::Dport, lo.into(), hi.into())));
            let mut asked = Asked::new(rules, loaded, host, questions);
            for (origin, from) in senders(&asked, &from) {
                let target = rows::Wanted {
                    ports: ports.map(|(lo, hi)| (lo.into(), hi.into())),
                    here: to == Some(Who::Here),
                    net: match to {
                        Some(Who::Net(_, lo, hi)) => Some((lo, hi)),
                        _ => None,
                    },
                };
                rows.extend(asked.rows_to(protocol, origin, &from, &target));
            }
        }
        told.push((family, rows));
    }
    if told.is_empty() {
        bail!("there are no rules of that family here");
    }
    let nobody = format!("nobody can connect to {port}: proved over all packets");
    print(common, &told, &nobody)?;
    let closed = told.iter().all(|t| t.1.is_empty());
    Ok(ExitCode::from(if closed { 0 } else { 3 }))
}

fn print(common: &Common, told: &[(Family, Vec<Row>)], nothing: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    if common.json {
        let rows: Vec<Value> = told
            .iter()
            .flat_map(|(family, rows)| rows.iter().map(|r| r.json(named(*family))))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&json!(rows))?)?;
        return Ok(());
    }
    let paint = Paint::for_stdout();
    for (family, rows) in told {
        if told.len() > 1 {
            writeln!(out, "{}", paint.text(Tone::Strong, named(*family)))?;
        }
        if rows.is_empty() {
            writeln!(out, "{}", paint.text(Tone::Good, nothing))?;
        }
        for row in rows {
            let tone = match row.example {
                Some(_) => Tone::Strong,
                None => Tone::Doubtful,
            };
            let text = format!("{} to {} from {}", row.service(), row.to(), row.from());
            writeln!(out, "{}", paint.text(tone, text))?;
            if let Some(why) = &row.unknown {
                writeln!(out, "    unknown: {why}")?;
            }
            if let Some(tried) = &row.example {
                writeln!(out, "    {}", paint.text(Tone::Faint, &tried.words))?;
            }
            if let Some(by) = &row.by {
                writeln!(out, "    by {by}")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
